//! Structural decoding: types are checked, unknown fields found and dropped, quantities and times
//! brought to the form that upstream stores.

use crate::types::{Arena, Def, DefId, Slot, Type};
use coracle_meta::{Quantity, time};
use serde_json::{Map, Value};

/// A value of the wrong JSON type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeError {
    /// Path such as `spec.containers[0].ports`.
    pub path: String,
    /// The same as Go says it, without indexes and keys: `spec.containers.ports`.
    pub fields: String,
    /// Type that the schema wants.
    pub expected: &'static str,
    /// The same as Go says it: `[]v1.Container`.
    pub go_type: String,
    /// Name of the innermost struct that has the field.
    pub owner: String,
    /// JSON type of what was given.
    pub found: &'static str,
    /// What was given.
    pub value: Value,
    /// More words, where the type was right but the text was not.
    pub detail: Option<String>,
}

/// What decoding found.
#[derive(Debug, Default)]
pub struct Report {
    /// Paths of unknown fields; they have been dropped.
    pub unknown: Vec<String>,
    /// Values of wrong types; they are still there.
    pub errors: Vec<TypeError>,
}

/// What is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A built-in type: an empty list or map of an optional field is the same as none, and is not
    /// kept (Go's `omitempty`, and protobuf, which cannot tell the two apart).
    BuiltIn,
    /// A custom resource: what is empty is kept.
    Custom,
}

/// Decodes in place. Nulls that mean "absent" go away. `root_fields` when the value is a whole
/// object, which has `apiVersion`, `kind` and `metadata` whatever its schema says.
pub fn decode(
    arena: &Arena,
    root: &Slot,
    value: &mut Value,
    form: Form,
    root_fields: bool,
) -> Report {
    let mut walk = Walk {
        arena,
        form,
        report: Report::default(),
        path: String::new(),
        fields: String::new(),
        owner: None,
    };
    walk.slot(root, value, root_fields);
    walk.report
}

struct Walk<'a> {
    arena: &'a Arena,
    form: Form,
    report: Report,
    path: String,
    fields: String,
    owner: Option<DefId>,
}

#[derive(Clone, Copy)]
enum Step<'s> {
    Index(usize),
    Key(&'s str),
    Field(&'s str),
}

fn push(path: &mut String, step: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(step);
}

/// JSON's name of a value's type, as Go's decoder says it.
pub fn json_type(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Walk<'_> {
    fn wrong(&mut self, ty: &Type, v: &Value) {
        self.wrong_because(ty, v, None);
    }

    fn wrong_because(&mut self, ty: &Type, v: &Value, detail: Option<String>) {
        let owner = self.owner.and_then(|id| self.arena.name(id)).unwrap_or_default();
        self.report.errors.push(TypeError {
            path: self.path.clone(),
            fields: self.fields.clone(),
            expected: plain_name(ty),
            go_type: go_type(self.arena, ty),
            owner: owner.rsplit('.').next().unwrap_or_default().to_owned(),
            found: json_type(v),
            value: v.clone(),
            detail,
        });
    }

    fn within(&mut self, step: Step<'_>, f: impl FnOnce(&mut Self)) {
        let lengths = (self.path.len(), self.fields.len());
        match step {
            Step::Index(i) => self.path.push_str(&format!("[{i}]")),
            Step::Key(k) | Step::Field(k) => push(&mut self.path, k),
        }
        if let Step::Field(f) = step {
            push(&mut self.fields, f);
        }
        f(self);
        self.path.truncate(lengths.0);
        self.fields.truncate(lengths.1);
    }

    fn slot(&mut self, slot: &Slot, v: &mut Value, type_meta: bool) {
        match (&slot.ty, &mut *v) {
            (Type::Any, _) | (Type::Bool, Value::Bool(_)) => {}
            (Type::String, Value::String(_)) => {}
            (Type::Number, Value::Number(_)) => {}
            (Type::Int32, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Type::Int64, Value::Number(n)) if n.is_i64() => {}
            (Type::Int32 | Type::Int64, Value::Number(n)) => {
                // 5.0 is an integer in JSON's eyes, and in those of upstream's custom kinds.
                let whole = |f: &f64| f.fract() == 0.0 && f.abs() < 9e15;
                match n.as_f64().filter(|f| self.form == Form::Custom && whole(f)) {
                    Some(f) if matches!(slot.ty, Type::Int64) || f.abs() <= f64::from(i32::MAX) => {
                        *v = Value::from(f as i64);
                    }
                    _ => self.wrong(&slot.ty, v),
                }
            }
            (Type::IntOrString, Value::String(_)) => {}
            (Type::IntOrString, Value::Number(n)) if n.is_i64() => {}
            (Type::Quantity, _) => self.quantity(v),
            (Type::Time | Type::MicroTime, Value::String(s)) => {
                let parsed = time::parse_rfc3339(s);
                match parsed {
                    Some(t) if matches!(slot.ty, Type::Time) => *v = time::rfc3339(t).into(),
                    Some(t) => *v = time::rfc3339_micro(t).into(),
                    None => {
                        let text = format!(
                            "parsing time {s:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {s:?} as \"2006\""
                        );
                        self.wrong_because(&slot.ty, v, Some(text));
                    }
                }
            }
            (Type::Bytes, Value::String(s)) => {
                if s.contains(['\n', '\r']) {
                    s.retain(|c| c != '\n' && c != '\r');
                }
                if !is_base64(s) {
                    self.wrong_because(&slot.ty, v, Some("illegal base64 data".into()));
                }
            }
            (Type::List(item), Value::Array(items)) => {
                for (i, v) in items.iter_mut().enumerate() {
                    if v.is_null() && !item.nullable && self.form == Form::BuiltIn {
                        // Go decodes a null item as the zero value of its type.
                        *v = zero(&item.ty);
                    }
                    self.within(Step::Index(i), |w| w.slot(item, v, false));
                }
            }
            (Type::Map(value), Value::Object(map)) => {
                let kept = value.nullable || matches!(value.ty, Type::Any);
                map.retain(|_, v| kept || !v.is_null() || self.form == Form::BuiltIn);
                for (k, v) in map {
                    if v.is_null() && !kept {
                        // As an item of a list.
                        *v = zero(&value.ty);
                    }
                    self.within(Step::Key(k), |w| w.slot(value, v, false));
                }
            }
            (Type::Object(id), Value::Object(map)) => {
                let outer = self.owner.replace(*id);
                self.object(self.arena.def(*id), map, type_meta);
                self.owner = outer;
            }
            (_, Value::Null) if slot.nullable => {}
            (ty, _) => self.wrong(ty, v),
        }
    }

    fn quantity(&mut self, v: &mut Value) {
        let text = match &*v {
            Value::String(s) => s.trim().to_owned(),
            other => other.to_string(),
        };
        match text.parse::<Quantity>() {
            Ok(q) => *v = Value::String(q.to_string()),
            Err(e) => self.wrong_because(&Type::Quantity, v, Some(e.to_string())),
        }
    }

    fn object(&mut self, def: &Def, map: &mut Map<String, Value>, type_meta: bool) {
        let mut dropped = Vec::new();
        for (key, v) in map.iter_mut() {
            let known = def.fields.get(key.as_str()).or(def.additional.as_deref());
            let meta = (type_meta || def.embedded)
                && matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
            match known {
                Some(slot) if v.is_null() && !slot.nullable && !matches!(slot.ty, Type::Any) => {
                    dropped.push(key.clone());
                }
                Some(slot) => {
                    self.within(Step::Field(key), |w| w.slot(slot, v, false));
                    if self.form == Form::BuiltIn && !slot.required && is_nothing(&slot.ty, v) {
                        dropped.push(key.clone());
                    }
                }
                None if def.preserve_unknown || meta => {}
                None => {
                    self.within(Step::Field(key), |w| w.report.unknown.push(w.path.clone()));
                    dropped.push(key.clone());
                }
            }
        }
        for key in dropped {
            map.remove(&key);
        }
    }
}

fn is_nothing(ty: &Type, v: &Value) -> bool {
    match (ty, v) {
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

fn zero(ty: &Type) -> Value {
    match ty {
        Type::Object(_) | Type::Map(_) => Value::Object(Map::new()),
        Type::List(_) => Value::Array(vec![]),
        Type::Int32 | Type::Int64 | Type::Number => 0.into(),
        Type::Bool => false.into(),
        Type::Any => Value::Null,
        Type::Quantity => "0".into(),
        _ => "".into(),
    }
}

fn plain_name(ty: &Type) -> &'static str {
    match ty {
        Type::String | Type::Bytes => "string",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Number => "float64",
        Type::Bool => "bool",
        Type::Time | Type::MicroTime => "time",
        Type::Quantity => "quantity",
        Type::IntOrString => "int-or-string",
        Type::List(_) => "array",
        Type::Map(_) => "map",
        Type::Object(_) | Type::Any => "object",
    }
}

fn go_type(arena: &Arena, ty: &Type) -> String {
    match ty {
        Type::List(item) => format!("[]{}", go_type(arena, &item.ty)),
        Type::Map(value) => format!("map[string]{}", go_type(arena, &value.ty)),
        Type::Object(id) => match arena.name(*id) {
            // core.v1.PodSpec is PodSpec of a package v1.
            Some(name) => name.split_once('.').map_or(name, |(_, n)| n).to_owned(),
            None => "object".into(),
        },
        Type::Bytes => "[]uint8".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::IntOrString => "int32".into(),
        other => plain_name(other).into(),
    }
}

fn is_base64(s: &str) -> bool {
    let body = s.trim_end_matches('=');
    s.len().is_multiple_of(4)
        && s.len() - body.len() <= 2
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

/// What Go's decoder says of a value that does not fit what it is read into.
pub fn mismatch(v: &Value, into: &str) -> String {
    format!("json: cannot unmarshal {} into Go {into}", json_type(v))
}

/// The error of a built-in kind, in the words of upstream's decoder: the innermost struct, then the
/// path of fields without indexes.
pub fn go_message(e: &TypeError) -> String {
    if let Some(d) = &e.detail {
        return format!("{}: {d}", e.path);
    }
    let found = match &e.value {
        Value::Number(n) if ["int32", "int64"].contains(&e.go_type.as_str()) => {
            format!("number {n}")
        }
        _ => e.found.to_owned(),
    };
    if e.fields.is_empty() {
        return format!("json: cannot unmarshal {found} into Go value of type {}", e.go_type);
    }
    format!(
        "json: cannot unmarshal {found} into Go struct field {}.{} of type {}",
        e.owner, e.fields, e.go_type
    )
}

#[cfg(test)]
mod tests {
    use crate::{minor::Minor, pack};
    use serde_json::json;

    fn run(plural: &str, mut v: serde_json::Value) -> (serde_json::Value, super::Report) {
        let p = pack::of(Minor::LATEST);
        let k = p.kinds.iter().find(|k| k.plural == plural).unwrap();
        let r = super::decode(k.arena(), k.root(), &mut v, super::Form::BuiltIn, true);
        (v, r)
    }

    #[test]
    fn unknown_fields_are_named_and_dropped() {
        let (v, r) =
            run("pods", json!({"spec": {"containers": [{"name": "a", "imagee": "b"}], "x": null}}));
        assert_eq!(r.unknown, ["spec.containers[0].imagee", "spec.x"]);
        assert_eq!(v, json!({"spec": {"containers": [{"name": "a"}]}}));
    }

    #[test]
    fn wrong_types_name_the_field() {
        let (_, r) = run(
            "deployments",
            json!({"spec": {"replicas": "two", "template": {"spec": {"containers": {}}}}}),
        );
        let texts: Vec<_> = r.errors.iter().map(super::go_message).collect();
        assert_eq!(
            texts[0],
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            texts[1],
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        );
        let (_, r) = run("pods", json!({"spec": {"containers": [{"env": [{"value": 1}]}]}}));
        assert_eq!(
            super::go_message(&r.errors[0]),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"
        );
    }

    /// `{}` of a struct says something (`emptyDir: {}`), and so does an empty list that is required.
    #[test]
    fn empty_lists_and_maps_are_none() {
        let (v, _) = run(
            "pods",
            json!({"spec": {"containers": [], "tolerations": [], "nodeSelector": {}, "volumes": [{"name": "v", "emptyDir": {}}]}}),
        );
        assert_eq!(
            v,
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }

    #[test]
    fn quantities_become_canonical() {
        let (v, r) = run(
            "pods",
            json!({"spec": {"containers": [{"resources": {"requests": {"cpu": 0.5, "memory": "1.5Gi"}}}]}}),
        );
        assert!(r.errors.is_empty());
        let requests = &v["spec"]["containers"][0]["resources"]["requests"];
        assert_eq!(requests, &json!({"cpu": "500m", "memory": "1536Mi"}));
    }
}
