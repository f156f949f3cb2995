//! Sets of fields: what a manager owns, as `fieldsV1` of `managedFields` writes it.

use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt};

/// One step of a path. Keys and values are JSON text with sorted keys, so equal ones are equal text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// A field of a struct or a key of a map.
    Field(Box<str>),
    /// The item of a list of objects with these keys.
    Key(Box<str>),
    /// The item of a set that is this value.
    Value(Box<str>),
    /// The item at an index.
    Index(u64),
}

impl Element {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let json = || Some(serde_json::from_str::<Value>(rest).ok()?.to_string().into());
        Some(match kind {
            "f" => Self::Field(rest.into()),
            "k" => Self::Key(json()?),
            "v" => Self::Value(json()?),
            "i" => Self::Index(rest.parse().ok()?),
            _ => return None,
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => format!("k:{keys}"),
            Self::Value(v) => format!("v:{v}"),
            Self::Index(i) => format!("i:{i}"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            Self::Value(v) => write!(f, "[={v}]"),
            Self::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// A place in a set: whether it is in the set itself, and what is in it below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

impl Node {
    pub(super) fn leaf() -> Self {
        Self { member: true, children: FieldSet::default() }
    }

    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<Element, Node>);

impl FieldSet {
    /// The set of some paths of plain fields, dotted.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut at = &mut set;
            let mut steps = path.split('.').peekable();
            while let Some(step) = steps.next() {
                let node = at.0.entry(Element::Field(step.into())).or_default();
                node.member |= steps.peek().is_none();
                at = &mut node.children;
            }
        }
        set
    }

    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put(&mut self, e: Element, node: Node) {
        if !node.is_empty() {
            self.0.insert(e, node);
        }
    }

    pub(super) fn node(&self, e: &Element) -> Option<&Node> {
        self.0.get(e)
    }

    pub(super) fn map(&self, f: impl Fn(&Element, &Node) -> Node) -> Self {
        let mut out = Self::default();
        for (e, node) in &self.0 {
            out.put(e.clone(), f(e, node));
        }
        out
    }

    /// Paths of either set.
    pub fn union(mut self, other: &Self) -> Self {
        for (e, theirs) in &other.0 {
            let mine = self.0.entry(e.clone()).or_default();
            mine.member |= theirs.member;
            mine.children = std::mem::take(&mut mine.children).union(&theirs.children);
        }
        self
    }

    /// Paths of this set that are not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.map(|e, node| match other.0.get(e) {
            None => node.clone(),
            Some(theirs) => Node {
                member: node.member && !theirs.member,
                children: node.children.difference(&theirs.children),
            },
        })
    }

    /// Paths of this set that are not in the other, nor below any path of it.
    pub fn outside(&self, other: &Self) -> Self {
        self.map(|e, node| match other.0.get(e) {
            None => node.clone(),
            Some(theirs) if theirs.member => Node::default(),
            Some(theirs) => {
                Node { member: node.member, children: node.children.outside(&theirs.children) }
            }
        })
    }

    /// Paths of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        self.map(|e, node| match other.0.get(e) {
            None => Node::default(),
            Some(theirs) => Node {
                member: node.member && theirs.member,
                children: node.children.intersection(&theirs.children),
            },
        })
    }

    /// All paths, as people read them.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.add_paths(&mut String::new(), &mut out);
        out
    }

    fn add_paths(&self, prefix: &mut String, out: &mut Vec<String>) {
        for (e, node) in &self.0 {
            let length = prefix.len();
            *prefix += &e.to_string();
            if node.member {
                out.push(prefix.clone());
            }
            node.children.add_paths(prefix, out);
            prefix.truncate(length);
        }
    }

    /// `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let entry = |(e, node): (&Element, &Node)| {
            let mut inner = match node.children.to_json() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if node.member && !inner.is_empty() {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            (e.text(), Value::Object(inner))
        };
        Value::Object(self.0.iter().map(entry).collect())
    }

    /// From `fieldsV1`; `None` when it is malformed or deeper than any object can be.
    pub fn from_json(v: &Value) -> Option<Self> {
        Self::read(v, 0)
    }

    fn read(v: &Value, depth: usize) -> Option<Self> {
        /// As deep as the JSON that the server reads.
        const DEPTH: usize = 128;
        let mut set = Self::default();
        for (key, inner) in v.as_object().filter(|_| depth < DEPTH)? {
            if key == "." {
                continue;
            }
            let children = Self::read(inner, depth + 1)?;
            let member = children.is_empty() || inner.get(".").is_some();
            set.put(Element::parse(key)?, Node { member, children });
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::FieldSet;
    use serde_json::json;

    #[test]
    fn text_forms() {
        let v = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}});
        let set = FieldSet::from_json(&v).unwrap();
        assert_eq!(set.to_json(), v);
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers[=\"x\"]",
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port"
            ]
        );
        for bad in [json!({"x": {}}), json!([]), json!({"k:{": {}}), json!({"f:a": 1})] {
            assert!(FieldSet::from_json(&bad).is_none(), "{bad}");
        }
    }
}
