//! Printer columns: `pack/columns.txt` for built-in kinds, `additionalPrinterColumns` for custom
//! resources, evaluated to the cells of a `meta.k8s.io/v1 Table`.

use crate::{cells, jsonpath};
use coracle_meta::{LabelSelector, json, time};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const COLUMNS: &str = include_str!("../pack/columns.txt");

/// One column of `kubectl get`.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type of the cells.
    pub kind: String,
    /// OpenAPI format; `name` marks the object's name.
    pub format: String,
    /// What the column means.
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i64,
    /// How a cell is made.
    pub cell: Cell,
}

/// How a cell is made.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Text with placeholders.
    Template(Vec<Part>),
    /// A function of its own.
    Function(cells::Function),
    /// The first match of a JSONPath.
    JsonPath(jsonpath::Path),
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// A value, passed through a function, with a default.
    Value {
        /// How the value becomes text.
        function: String,
        /// Dotted path; `[]` flattens lists.
        path: String,
        /// What an absent value prints.
        default: String,
    },
}

impl Column {
    /// The column of names.
    pub fn name() -> Self {
        Self::template("Name", "string", 0, "{metadata.name}")
    }

    /// The column of ages.
    pub fn age() -> Self {
        let mut c = Self::template("Age", "date", 0, "{age metadata.creationTimestamp}");
        c.description = "CreationTimestamp is a timestamp representing the server time when this object was created.".into();
        c
    }

    fn template(name: &str, kind: &str, priority: i64, template: &str) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            format: if name == "Name" { "name".into() } else { String::new() },
            description: String::new(),
            priority,
            cell: Cell::Template(parse_template(template)),
        }
    }

    /// The cell of an object.
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        match &self.cell {
            Cell::Function(f) => f(object, now),
            Cell::Template(parts) => template_cell(parts, &self.kind, object, now),
            Cell::JsonPath(path) => {
                let found = path.find(object);
                match (found.first(), self.kind.as_str()) {
                    (None, _) => Value::Null,
                    (Some(Value::String(s)), "date") => age(s, now).into(),
                    (Some(v @ (Value::Array(_) | Value::Object(_))), _) => v.to_string().into(),
                    (Some(v), "integer" | "number" | "boolean") => (*v).clone(),
                    (Some(Value::String(s)), _) => s.as_str().into(),
                    (Some(v), _) => v.to_string().into(),
                }
            }
        }
    }

    /// The entry of `columnDefinitions`.
    pub fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority})
    }
}

/// The columns of a built-in kind; `group` is `core` for the core group.
pub fn built_in(group: &str, kind: &str) -> Vec<Column> {
    let head = format!("[{group}/{kind}]");
    let mut lines = COLUMNS.lines().skip_while(|l| **l != head);
    if lines.next().is_none() {
        let created = Column::template("Created At", "date", 0, "{metadata.creationTimestamp}");
        return vec![Column::name(), created];
    }
    lines
        .take_while(|l| !l.starts_with('['))
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|line| {
            let [name, kind, priority, expression] = line.splitn(4, " | ").collect::<Vec<_>>()[..]
            else {
                panic!("columns.txt: bad line {line:?}")
            };
            let mut c = Column::template(name, kind, priority.parse().unwrap_or(0), expression);
            if let Some(f) = expression.strip_prefix("fn:") {
                c.cell = Cell::Function(
                    cells::by_name(f).unwrap_or_else(|| panic!("columns.txt: no function {f}")),
                );
            }
            c
        })
        .collect()
}

fn parse_template(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        if start > 0 {
            parts.push(Part::Text(rest[..start].into()));
        }
        let end = rest.find('}').unwrap_or(rest.len());
        let inner = &rest[start + 1..end];
        let (expression, default) = inner.split_once('|').unwrap_or((inner, ""));
        let (function, path) = expression.split_once(' ').unwrap_or(("", expression));
        parts.push(Part::Value {
            function: function.into(),
            path: path.into(),
            default: default.into(),
        });
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    parts
}

fn template_cell(parts: &[Part], kind: &str, object: &Value, now: Timestamp) -> Value {
    // A lone number stays a number.
    if let [Part::Value { function, path, default }] = parts {
        match json::get(object, path) {
            Some(v @ (Value::Number(_) | Value::Bool(_))) if function.is_empty() => {
                return v.clone();
            }
            None if function.is_empty() && default == "0" => return 0.into(),
            None if function.is_empty() && kind == "integer" => return 0.into(),
            v if function == "len" => {
                return v
                    .map_or(0, |v| {
                        v.as_array()
                            .map_or_else(|| v.as_object().map_or(0, serde_json::Map::len), Vec::len)
                    })
                    .into();
            }
            _ => {}
        }
    }
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(t) => text += t,
            Part::Value { function, path, default } => {
                let value = apply(function, path, object, now);
                text += if value.is_empty() { default } else { &value };
            }
        }
    }
    text.into()
}

fn apply(function: &str, path: &str, object: &Value, now: Timestamp) -> String {
    match function {
        "age" => match json::get(object, path).and_then(Value::as_str) {
            Some(t) => age(t, now),
            None => "<unknown>".into(),
        },
        "labels" => {
            let map = json::get(object, path).and_then(Value::as_object);
            let pairs = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", plain(v)));
            pairs.collect::<Vec<_>>().join(",")
        }
        "keys" => {
            let map = json::get(object, path).and_then(Value::as_object);
            map.into_iter().flatten().map(|(k, _)| k.clone()).collect::<Vec<_>>().join(",")
        }
        "selector" => match json::get(object, path).map(LabelSelector::from_object) {
            Some(Ok(s)) => s.to_string(),
            Some(Err(_)) => "<error>".into(),
            None => String::new(),
        },
        "bool" => json::get(object, path).and_then(Value::as_bool).unwrap_or(false).to_string(),
        _ => collect(object, path).iter().map(|v| plain(v)).collect::<Vec<_>>().join(","),
    }
}

/// Values at a dotted path whose `[]` steps flatten lists.
fn collect<'v>(object: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut found = vec![object];
    for step in path.split('.') {
        let (name, list) = match step.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (step, false),
        };
        found = found.into_iter().filter_map(|v| v.get(name)).collect();
        if list {
            found = found.into_iter().filter_map(Value::as_array).flatten().collect();
        }
    }
    found
        .into_iter()
        .flat_map(|v| v.as_array().map_or_else(|| vec![v], |a| a.iter().collect()))
        .collect()
}

pub(crate) fn plain(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// The age of an RFC 3339 time.
pub fn age(t: &str, now: Timestamp) -> String {
    match time::parse_rfc3339(t) {
        Some(t) => time::human_duration(SignedDuration::from_secs(now.as_second() - t.as_second())),
        None => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{minor::Minor, pack};

    #[test]
    fn cells() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let k = pack::of(Minor::LATEST).kinds.iter().find(|k| k.plural == "deployments").unwrap();
        let d = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
                "template": {"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}}},
            "status": {"readyReplicas": 1}});
        let cells: Vec<Value> = k.columns.iter().map(|c| c.cell(&d, now)).collect();
        assert_eq!(
            cells,
            [
                json!("web"),
                json!("1/3"),
                json!(0),
                json!(0),
                json!("10m"),
                json!("c,d"),
                json!("i,j"),
                json!("a=b")
            ]
        );
    }

    #[test]
    fn every_section_belongs_to_a_kind() {
        let kinds = &pack::of(Minor::LATEST).kinds;
        for head in COLUMNS.lines().filter_map(|l| l.strip_prefix('[')?.strip_suffix(']')) {
            let (group, kind) = head.split_once('/').unwrap();
            let group = if group == "core" { "" } else { group };
            assert!(kinds.iter().any(|k| k.group == group && k.kind == kind), "{head}");
            assert!(!built_in(if group.is_empty() { "core" } else { group }, kind).is_empty());
        }
    }
}
