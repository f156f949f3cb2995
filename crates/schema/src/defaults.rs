//! Defaulting: what absent fields become.
//!
//! One mechanism serves both the table of built-in kinds (`pack/defaults.txt`) and the `default`
//! of custom resources: a list of [`Rule`]s on the definition that owns the field.

use crate::types::{Arena, Def, Slot, Type};
use coracle_meta::json;
use serde_json::{Map, Value};

/// A default of one field of a definition.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The field.
    pub field: Box<str>,
    /// What it becomes.
    pub value: Source,
    /// An explicit `0`, `""`, `[]` or `{}` counts as absent (no pointer in upstream's type).
    pub zero_is_absent: bool,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// Where a default comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A constant.
    Json(Value),
    /// A sibling field's value.
    Sibling(Box<str>),
}

/// When a default applies. Paths are dotted, within the same object.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The field equals the value.
    Equals(Box<str>, Value),
    /// The field differs from the value or is absent.
    Differs(Box<str>, Value),
    /// The field is absent.
    Absent(Box<str>),
    /// The field is present.
    Present(Box<str>),
}

/// The constant that an absent field becomes whatever else there is, if any: what identifies an item
/// of a list whose key was left out.
pub fn constant<'d>(def: &'d Def, field: &str) -> Option<&'d Value> {
    def.defaults.iter().find_map(|r| match &r.value {
        Source::Json(v) if *r.field == *field && r.conditions.is_empty() => Some(v),
        _ => None,
    })
}

/// Fills absent fields, parents before children.
pub fn apply(arena: &Arena, slot: &Slot, value: &mut Value) {
    match (&slot.ty, value) {
        (Type::List(item), Value::Array(items))
            if has_objects(&item.ty) || item.default.is_some() =>
        {
            instead_of_null(item, items.iter_mut());
            items.iter_mut().for_each(|v| apply(arena, item, v));
        }
        (Type::Map(item), Value::Object(map))
            if has_objects(&item.ty) || item.default.is_some() =>
        {
            instead_of_null(item, map.values_mut());
            map.values_mut().for_each(|v| apply(arena, item, v));
        }
        (Type::Object(id), Value::Object(map)) => {
            let def = arena.def(*id);
            for rule in &def.defaults {
                rule.apply(map);
            }
            for (key, v) in map.iter_mut() {
                if let Some(slot) = def.fields.get(key.as_str()).or(def.additional.as_deref()) {
                    if has_objects(&slot.ty) {
                        apply(arena, slot, v);
                    }
                }
            }
        }
        _ => {}
    }
}

/// A null where there may be none becomes the default of its place.
fn instead_of_null<'v>(slot: &Slot, values: impl Iterator<Item = &'v mut Value>) {
    if let Some(default) = slot.default.as_deref().filter(|_| !slot.nullable) {
        values.filter(|v| v.is_null()).for_each(|v| *v = default.clone());
    }
}

fn has_objects(ty: &Type) -> bool {
    match ty {
        Type::Object(_) => true,
        Type::List(s) | Type::Map(s) => has_objects(&s.ty),
        _ => false,
    }
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(b) => !b,
    }
}

impl Rule {
    fn apply(&self, map: &mut Map<String, Value>) {
        let present = map.get(&*self.field).is_some_and(|v| !(self.zero_is_absent && is_zero(v)));
        if present || !self.conditions.iter().all(|c| c.holds(map)) {
            return;
        }
        let value = match &self.value {
            Source::Json(v) => v.clone(),
            Source::Sibling(name) => match map.get(&**name) {
                Some(v) => v.clone(),
                None => return,
            },
        };
        map.insert(self.field.to_string(), value);
    }
}

impl Condition {
    fn holds(&self, map: &Map<String, Value>) -> bool {
        let get = |path: &str| match path.split_once('.') {
            Some((head, rest)) => map.get(head).and_then(|v| json::get(v, rest)),
            None => map.get(path),
        };
        match self {
            Self::Equals(path, v) => get(path) == Some(v),
            Self::Differs(path, v) => get(path) != Some(v),
            Self::Absent(path) => get(path).is_none(),
            Self::Present(path) => get(path).is_some(),
        }
    }
}

/// Attaches the lines of the table to their definitions. Panics on a malformed line: the table
/// is part of this crate.
pub(crate) fn attach(arena: &mut Arena, table: &str) {
    for line in table.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let bad = || panic!("defaults.txt: bad line {line:?}");
        let mut words = line.splitn(3, ' ');
        let (Some(def), Some(field), Some(rest)) = (words.next(), words.next(), words.next())
        else {
            bad()
        };
        // A definition that only other minors have.
        let Some(id) = arena.find(def) else { continue };
        let (zero_is_absent, rest) = match rest.strip_prefix("~= ") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("= ").unwrap_or_else(|| bad())),
        };
        let (value, conditions) = match rest.split_once(" if ") {
            Some((v, c)) => (v, c.split(", ").map(condition).collect()),
            None => (rest, vec![]),
        };
        let value = match value.strip_prefix('$') {
            Some(sibling) => Source::Sibling(sibling.into()),
            None => Source::Json(serde_json::from_str(value).unwrap_or_else(|_| bad())),
        };
        let def = &mut arena.defs[id.0 as usize];
        if def.fields.contains_key(field) {
            let field = field.into();
            def.defaults.push(Rule { field, value, zero_is_absent, conditions });
        }
    }
}

fn condition(text: &str) -> Condition {
    let value =
        |v: &str| serde_json::from_str(v).unwrap_or_else(|_| panic!("defaults.txt: {text:?}"));
    if let Some(path) = text.strip_prefix("absent ") {
        Condition::Absent(path.into())
    } else if let Some(path) = text.strip_prefix("present ") {
        Condition::Present(path.into())
    } else if let Some((path, v)) = text.split_once(" != ") {
        Condition::Differs(path.into(), value(v))
    } else if let Some((path, v)) = text.split_once(" = ") {
        Condition::Equals(path.into(), value(v))
    } else {
        panic!("defaults.txt: bad condition {text:?}")
    }
}

#[cfg(test)]
mod tests {
    use crate::{minor::Minor, pack};
    use serde_json::json;

    #[test]
    fn a_deployment_gets_upstreams_defaults() {
        let k = pack::of(Minor::LATEST).kinds.iter().find(|k| k.plural == "deployments").unwrap();
        let mut v = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 1}], "livenessProbe": {"httpGet": {"port": 1}}}],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {}}]}}}});
        super::apply(k.arena(), k.root(), &mut v);
        let spec = &v["spec"];
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Always");
        assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(pod["containers"][0]["livenessProbe"]["failureThreshold"], 3);
        assert_eq!(pod["containers"][0]["livenessProbe"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(
            pod["volumes"],
            json!([{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"defaultMode": 420}}])
        );
        let once = v.clone();
        super::apply(k.arena(), k.root(), &mut v);
        assert_eq!(once, v, "defaulting is idempotent");
    }

    #[test]
    fn every_default_names_a_definition_and_a_field_of_some_minor() {
        let table = include_str!("../pack/defaults.txt");
        for line in table.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            let mut words = line.split(' ');
            let (def, field) = (words.next().unwrap(), words.next().unwrap());
            assert!(
                Minor::ALL.iter().any(|m| {
                    let a = &pack::of(*m).arena;
                    a.find(def).is_some_and(|id| a.def(id).fields.contains_key(field))
                }),
                "{line}"
            );
        }
    }
}
