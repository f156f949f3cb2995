//! Values seen through their schema: which parts are owned one by one, and which as a whole
//! (KEP-555, KEP-2155). Where the schema ends, objects are owned field by field, lists as a whole.

use super::field_set::{Element, FieldSet, Node};
use crate::PatchError;
use coracle_schema::{Arena, ListType, Pack, Slot, Type, defaults};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub struct Typed<'a> {
    arena: &'a Arena,
    slot: Option<&'a Slot>,
    /// Where `metadata` of whole objects is defined.
    pack: &'a Pack,
    whole: bool,
}

/// How a value is owned.
enum Shape {
    /// As a whole.
    Leaf,
    /// Item by item.
    List,
    /// Field by field.
    Map,
}

/// What differs between two values.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Only in the new one.
    pub added: FieldSet,
    /// In both, and different.
    pub modified: FieldSet,
    /// Only in the old one.
    pub removed: FieldSet,
}

impl<'a> Typed<'a> {
    /// The type of whole objects with a structure.
    pub fn object(arena: &'a Arena, root: &'a Slot, pack: &'a Pack) -> Self {
        Self { arena, slot: Some(root), pack, whole: true }
    }

    fn shape(self, v: &Value) -> Shape {
        let map = || if v.is_array() || is_scalar(v) { Shape::Leaf } else { Shape::Map };
        let Some(slot) = self.slot else {
            return if v.is_object() { Shape::Map } else { Shape::Leaf };
        };
        match &slot.ty {
            Type::Any => Typed { slot: None, ..self }.shape(v),
            Type::Object(id) if slot.atomic || self.arena.def(*id).atomic => Shape::Leaf,
            Type::Object(_) => map(),
            Type::Map(_) if slot.atomic => Shape::Leaf,
            Type::Map(_) => map(),
            Type::List(_) if slot.list == ListType::Atomic => Shape::Leaf,
            Type::List(_) if v.is_array() || v.is_null() => Shape::List,
            _ => Shape::Leaf,
        }
    }

    fn with(self, slot: Option<&'a Slot>) -> Self {
        Self { slot, whole: false, ..self }
    }

    /// The type of a field.
    fn field(self, name: &str) -> Self {
        let embedded = match self.slot.map(|s| &s.ty) {
            Some(Type::Object(id)) => self.arena.def(*id).embedded,
            _ => false,
        };
        if name == "metadata" && (self.whole || embedded) {
            let slot = Some(&self.pack.object_meta);
            return Self { arena: &self.pack.arena, slot, whole: false, ..self };
        }
        self.with(self.slot.and_then(|s| self.arena.field(&s.ty, name)))
    }

    fn items(self) -> Self {
        self.with(match self.slot.map(|s| &s.ty) {
            Some(Type::List(item)) => Some(item),
            _ => None,
        })
    }

    fn child(self, e: &Element) -> Self {
        match e {
            Element::Field(name) => self.field(name),
            _ => self.items(),
        }
    }

    /// Whether a field is one of a struct, and not a key of a map.
    fn is_named(self, name: &str) -> bool {
        let meta = ["apiVersion", "kind", "metadata"].contains(&name);
        match self.slot.map(|s| &s.ty) {
            Some(Type::Object(id)) => {
                let def = self.arena.def(*id);
                def.fields.contains_key(name) || ((self.whole || def.embedded) && meta)
            }
            _ => false,
        }
    }

    /// What identifies an item of a list.
    fn element(self, item: &Value) -> Result<Element, PatchError> {
        let keys = match self.slot.map(|s| &s.list) {
            Some(ListType::Map(keys)) => keys,
            _ => return Ok(Element::Value(item.to_string().into())),
        };
        let def = match self.items().slot.map(|s| &s.ty) {
            Some(Type::Object(id)) => Some(self.arena.def(*id)),
            _ => None,
        };
        let value = |k: &str| {
            let given = item.get(k).filter(|v| !v.is_null());
            given.or_else(|| defaults::constant(def?, k)).cloned()
        };
        let found: Map<String, Value> =
            keys.iter().filter_map(|k| Some((k.to_string(), value(k)?))).collect();
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
            return Err(PatchError::Malformed(format!(
                "associative list with keys has an element that omits key field {}",
                keys.join(", ")
            )));
        }
        Ok(Element::Key(Value::Object(found).to_string().into()))
    }

    /// All fields of a value.
    ///
    /// # Errors
    /// When an item of a list lacks the keys that identify it.
    pub fn fields(self, v: &Value) -> Result<FieldSet, PatchError> {
        Ok(self.collect(v)?.children)
    }

    fn collect(self, v: &Value) -> Result<Node, PatchError> {
        let mut children = FieldSet::default();
        match self.shape(v) {
            Shape::Leaf => return Ok(Node::leaf()),
            Shape::List => {
                let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
                let items = v.as_array().map(Vec::as_slice).unwrap_or_default();
                let elements: Vec<Element> =
                    items.iter().map(|i| self.element(i)).collect::<Result<_, _>>()?;
                for e in &elements {
                    if !seen.insert(e) {
                        twice.insert(e);
                    }
                }
                for (e, item) in elements.iter().zip(items) {
                    // Items that cannot be told apart are owned together.
                    let node = if twice.contains(e) {
                        Node::leaf()
                    } else {
                        Node { member: true, ..self.items().collect(item)? }
                    };
                    children.put(e.clone(), node);
                }
            }
            Shape::Map => {
                for (k, inner) in v.as_object().into_iter().flatten() {
                    let mut node = self.field(k).collect(inner)?;
                    node.member |= !self.is_named(k) || is_blank(inner);
                    children.put(Element::Field(k.as_str().into()), node);
                }
            }
        }
        Ok(Node { member: false, children })
    }

    /// Items of lists that have the same keys, which no configuration may have, each as a line.
    ///
    /// # Errors
    /// As [`Typed::fields`].
    pub fn repeated(self, v: &Value) -> Result<Vec<String>, PatchError> {
        let mut found = Vec::new();
        self.find_repeated(v, &mut String::new(), &mut found)?;
        Ok(found)
    }

    fn find_repeated(
        self,
        v: &Value,
        path: &mut String,
        found: &mut Vec<String>,
    ) -> Result<(), PatchError> {
        let mut seen = HashSet::new();
        let below =
            |element: &Element, child: Self, v: &Value, path: &mut String, found: &mut _| {
                let length = path.len();
                *path += &element.to_string();
                let result = child.find_repeated(v, path, found);
                path.truncate(length);
                result
            };
        match self.shape(v) {
            Shape::Leaf => {}
            Shape::List => {
                for item in v.as_array().into_iter().flatten() {
                    let element = self.element(item)?;
                    below(&element, self.items(), item, path, found)?;
                    let line = format!("{path}: duplicate entries for key {element}");
                    if !seen.insert(element) && !found.contains(&line) {
                        found.push(line);
                    }
                }
            }
            Shape::Map => {
                for (k, inner) in v.as_object().into_iter().flatten() {
                    below(&Element::Field(k.as_str().into()), self.field(k), inner, path, found)?;
                }
            }
        }
        Ok(())
    }

    /// What differs between two objects.
    ///
    /// # Errors
    /// As [`Typed::fields`].
    pub fn compare(self, old: &Value, new: &Value) -> Result<Comparison, PatchError> {
        let [added, modified, removed] = self.differ(Some(old), Some(new))?;
        Ok(Comparison {
            added: added.children,
            modified: modified.children,
            removed: removed.children,
        })
    }

    fn differ(self, old: Option<&Value>, new: Option<&Value>) -> Result<[Node; 3], PatchError> {
        let Some(any) = new.filter(|v| !v.is_null()).or(old).or(new) else {
            return Ok(Default::default());
        };
        let whole = |out: &mut [Node; 3]| match (old, new) {
            (None, _) => out[0].member = true,
            (_, None) => out[2].member = true,
            (Some(a), Some(b)) => out[1].member = a != b,
        };
        let mut out: [Node; 3] = Default::default();
        let blank = |v: Option<&Value>| v.is_none_or(is_nothing);
        let same_shape = |a: &Value, b: &Value| {
            a.is_null()
                || b.is_null()
                || (a.is_array(), a.is_object()) == (b.is_array(), b.is_object())
        };
        let leaf = matches!(self.shape(any), Shape::Leaf)
            || (blank(old) && blank(new))
            || old.zip(new).is_some_and(|(a, b)| !same_shape(a, b));
        if leaf {
            whole(&mut out);
            return Ok(out);
        }
        match self.shape(any) {
            Shape::List => self.differ_items(old, new, &mut out)?,
            _ => {
                let (a, b) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                let empty = Map::new();
                let (a, b) = (a.unwrap_or(&empty), b.unwrap_or(&empty));
                for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                    let inner = self.field(k).differ(a.get(k), b.get(k))?;
                    put(&mut out, &Element::Field(k.as_str().into()), inner);
                }
            }
        }
        if old.is_none() || new.is_none() {
            whole(&mut out);
        }
        Ok(out)
    }

    fn differ_items(
        self,
        old: Option<&Value>,
        new: Option<&Value>,
        out: &mut [Node; 3],
    ) -> Result<(), PatchError> {
        let mut items: BTreeMap<Element, [Vec<&Value>; 2]> = BTreeMap::new();
        for (side, list) in [old, new].into_iter().enumerate() {
            for item in list.and_then(Value::as_array).into_iter().flatten() {
                items.entry(self.element(item)?).or_default()[side].push(item);
            }
        }
        for (e, [a, b]) in items {
            let inner = match (a.len(), b.len()) {
                (0 | 1, 0 | 1) => self.items().differ(a.first().copied(), b.first().copied())?,
                // Items that cannot be told apart are compared together.
                (2.., 2..) => {
                    let changed = Node { member: a != b, ..Node::default() };
                    [Node::default(), changed, Node::default()]
                }
                (2.., _) => {
                    let mut inner = self.items().differ(None, b.first().copied())?;
                    inner[2].member = true;
                    inner
                }
                _ => {
                    let mut inner = self.items().differ(a.first().copied(), None)?;
                    inner[0].member = true;
                    inner
                }
            };
            put(out, &e, inner);
        }
        Ok(())
    }

    /// What was applied, over what there is.
    ///
    /// # Errors
    /// As [`Typed::fields`].
    pub fn merge(self, live: &Value, applied: &Value) -> Result<Value, PatchError> {
        match (self.shape(applied), live) {
            (Shape::Map, Value::Object(live)) => {
                let mut out = live.clone();
                for (k, v) in applied.as_object().into_iter().flatten() {
                    let merged = match live.get(k) {
                        Some(old) => self.field(k).merge(old, v)?,
                        None => v.clone(),
                    };
                    out.insert(k.clone(), merged);
                }
                Ok(Value::Object(out))
            }
            (Shape::List, Value::Array(live)) if applied.is_array() => {
                self.merge_items(live, applied.as_array().map(Vec::as_slice).unwrap_or_default())
            }
            _ => Ok(applied.clone()),
        }
    }

    /// Applied items come in their order; items of others stay before the common item that they
    /// stood before.
    fn merge_items(self, live: &[Value], applied: &[Value]) -> Result<Value, PatchError> {
        let elements =
            |items: &[Value]| items.iter().map(|i| self.element(i)).collect::<Result<Vec<_>, _>>();
        let (olds, news) = (elements(live)?, elements(applied)?);
        let wanted: HashSet<&Element> = news.iter().collect();
        let known: BTreeMap<&Element, &Value> = olds.iter().zip(live).collect();
        let mut out = Vec::new();
        let mut rest = olds.iter().zip(live).peekable();
        for (i, (e, new)) in news.iter().zip(applied).enumerate() {
            let next_common = news[i..].iter().find(|e| known.contains_key(e));
            while let Some((other, item)) = rest.next_if(|(o, _)| Some(*o) != next_common) {
                // A common item out of order is merged where the configuration has it.
                if !wanted.contains(other) {
                    out.push(item.clone());
                }
            }
            rest.next_if(|(other, _)| *other == e);
            out.push(match known.get(e) {
                Some(old) => self.items().merge(old, new)?,
                None => new.clone(),
            });
        }
        out.extend(rest.filter(|(e, _)| !wanted.contains(e)).map(|(_, item)| item.clone()));
        Ok(Value::Array(out))
    }

    /// A value without some fields; `None` when nothing is left.
    ///
    /// # Errors
    /// As [`Typed::fields`].
    pub fn without(self, v: &Value, fields: &FieldSet) -> Result<Option<Value>, PatchError> {
        match (self.shape(v), v) {
            (Shape::Map, Value::Object(map)) if !map.is_empty() => {
                let mut out = Map::new();
                for (k, inner) in map {
                    if let Some(kept) =
                        self.kept(&Element::Field(k.as_str().into()), inner, fields)?
                    {
                        out.insert(k.clone(), kept);
                    }
                }
                Ok((!out.is_empty()).then_some(Value::Object(out)))
            }
            (Shape::List, Value::Array(items)) if !items.is_empty() => {
                let mut out = Vec::new();
                for item in items {
                    out.extend(self.kept(&self.element(item)?, item, fields)?);
                }
                Ok((!out.is_empty()).then_some(Value::Array(out)))
            }
            _ => Ok(Some(v.clone())),
        }
    }

    fn kept(self, e: &Element, v: &Value, fields: &FieldSet) -> Result<Option<Value>, PatchError> {
        match fields.node(e) {
            None => Ok(Some(v.clone())),
            Some(node) if node.member => Ok(None),
            Some(node) => self.child(e).without(v, &node.children),
        }
    }

    /// A set with every struct field on the way to one of its paths.
    pub fn with_named(self, set: &FieldSet) -> FieldSet {
        set.map(|e, node| {
            let named = matches!(e, Element::Field(name) if self.is_named(name));
            Node {
                member: node.member || (named && !node.children.is_empty()),
                children: self.child(e).with_named(&node.children),
            }
        })
    }

    /// A set as it is since the schema has become what it is: fields of what is now owned as a whole
    /// become the whole.
    pub fn reconcile(self, v: &Value, set: &FieldSet) -> FieldSet {
        let mut items: HashMap<Element, &Value> = HashMap::new();
        for item in v.as_array().into_iter().flatten() {
            if let Ok(element) = self.element(item) {
                items.entry(element).or_insert(item);
            }
        }
        set.map(|e, node| {
            if node.children.is_empty() {
                return node.clone();
            }
            let child = self.child(e);
            let value = match e {
                Element::Field(name) => v.get(&**name),
                e => items.get(e).copied(),
            };
            match value {
                Some(value)
                    if child.slot.is_some() && matches!(child.shape(value), Shape::Leaf) =>
                {
                    Node::leaf()
                }
                Some(value) => {
                    Node { member: node.member, children: child.reconcile(value, &node.children) }
                }
                None => node.clone(),
            }
        })
    }
}

fn put(out: &mut [Node; 3], e: &Element, inner: [Node; 3]) {
    for (set, node) in out.iter_mut().zip(inner) {
        set.children.put(e.clone(), node);
    }
}

fn is_scalar(v: &Value) -> bool {
    matches!(v, Value::Bool(_) | Value::Number(_) | Value::String(_))
}

/// Null or an object without fields: there is nothing below that could be owned instead.
fn is_blank(v: &Value) -> bool {
    v.is_null() || v.as_object().is_some_and(Map::is_empty)
}

/// Null, or a container with nothing in it.
fn is_nothing(v: &Value) -> bool {
    is_blank(v) || v.as_array().is_some_and(Vec::is_empty)
}
