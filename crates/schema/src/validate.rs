//! Value validation: required fields, enumerations, and the limits of custom resources, with
//! upstream's paths and words.

use crate::{
    decode::{TypeError, json_type},
    format,
    types::{Arena, Limits, ListType, Slot, Type},
};
use coracle_meta::{
    json, name,
    status::{FieldError, FieldErrorKind},
};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Checks a decoded and defaulted value. `path` is where it stands, empty for a whole object.
pub fn validate(arena: &Arena, slot: &Slot, value: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(arena, slot, value, None, path, &mut errors);
    errors
}

/// Checks a value that replaces another: what was stored already and did not change may stay as it is
/// (ratcheting).
pub fn validate_update(arena: &Arena, slot: &Slot, value: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(arena, slot, value, Some(old), "", &mut errors);
    errors
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// JSON's name of a value's type, as OpenAPI says it.
fn open_api_type(v: &Value) -> &'static str {
    match v {
        Value::Number(n) if n.is_i64() || n.as_f64().is_some_and(|f| f.fract() == 0.0) => "integer",
        other => match json_type(other) {
            "bool" => "boolean",
            t => t,
        },
    }
}

/// The name that a type has in messages, if the value is not of it.
fn mismatch(ty: &Type, v: &Value) -> Option<&'static str> {
    let found = open_api_type(v);
    let (wanted, fits) = match ty {
        Type::String | Type::Bytes | Type::Time | Type::MicroTime => ("string", found == "string"),
        Type::Int32 | Type::Int64 => ("integer", found == "integer"),
        Type::Number => ("number", ["number", "integer"].contains(&found)),
        Type::Bool => ("boolean", found == "boolean"),
        Type::IntOrString => ("integer,string", ["integer", "string"].contains(&found)),
        Type::List(_) => ("array", found == "array"),
        Type::Map(_) | Type::Object(_) => ("object", found == "object"),
        Type::Quantity | Type::Any => return None,
    };
    (!fits).then_some(wanted)
}

fn check(
    arena: &Arena,
    slot: &Slot,
    v: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if (v.is_null() && slot.nullable) || old == Some(v) {
        return;
    }
    if let Some(wanted) = mismatch(&slot.ty, v) {
        let found = open_api_type(v);
        let why = format!("{path} in body must be of type {wanted}: {found:?}");
        errors.push(FieldError::type_invalid(path, found, why));
    }
    if let Some(limits) = &slot.limits {
        check_junctors(arena, limits, v, path, errors);
        check_limits(limits, v, path, errors);
    }
    if !slot.allowed.is_empty() && !slot.allowed.contains(v) && *v != "" {
        errors.push(outside(&slot.allowed, v, path));
    }
    match (&slot.ty, v) {
        (Type::List(item), Value::Array(items)) => {
            unique(&slot.list, items, path, errors);
            for (i, v) in items.iter().enumerate() {
                let old = match &slot.list {
                    ListType::Map(keys) => counterpart(old, v, keys),
                    _ => None,
                };
                check(arena, item, v, old, &format!("{path}[{i}]"), errors);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (k, v) in map {
                check(arena, item, v, old.and_then(|o| o.get(k)), &join(path, k), errors);
            }
        }
        (Type::Object(id), Value::Object(map)) => {
            let def = arena.def(*id);
            if def.embedded {
                embedded(map, path, errors);
            }
            for (name, slot) in &def.fields {
                let old = old.and_then(|o| o.get(&**name));
                match map.get(&**name) {
                    Some(v) => check(arena, slot, v, old, &join(path, name), errors),
                    None if slot.required => {
                        errors.push(FieldError::required(join(path, name), ""))
                    }
                    None => {}
                }
            }
            if let Some(slot) = &def.additional {
                for (k, v) in map.iter().filter(|(k, _)| !def.fields.contains_key(k.as_str())) {
                    check(arena, slot, v, old.and_then(|o| o.get(k)), &join(path, k), errors);
                }
            }
        }
        _ => {}
    }
}

/// A whole object within another says what it is, and its labels are labels.
fn embedded(map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let text = |f: &str| map.get(f).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let at = join(path, "apiVersion");
    if version.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.push(FieldError::invalid(at, version, why));
    }
    let (at, faults) = (join(path, "kind"), name::check_label_1035(&kind.to_lowercase()));
    if kind.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !faults.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
        errors.push(FieldError::invalid(at, kind, why));
    }
    let labels = map.get("metadata").and_then(|m| m["labels"].as_object());
    for (k, v) in labels.into_iter().flatten() {
        let at = join(path, "metadata.labels");
        for why in name::check_qualified_name(k) {
            errors.push(FieldError::invalid(&*at, k.as_str(), why));
        }
        let v = v.as_str().unwrap_or_default();
        for why in name::check_label_value(v) {
            errors.push(FieldError::invalid(&*at, v, why));
        }
    }
}

fn outside(allowed: &[Value], v: &Value, path: &str) -> FieldError {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let supported: Vec<String> = allowed.iter().map(text).collect();
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    FieldError::not_supported(path, v.clone(), &supported)
}

/// The item of an old list with the same keys.
fn counterpart<'v>(old: Option<&'v Value>, v: &Value, keys: &[Box<str>]) -> Option<&'v Value> {
    let same = |o: &&Value| keys.iter().all(|k| o.get(&**k) == v.get(&**k));
    old?.as_array()?.iter().find(same)
}

fn unique(list: &ListType, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let (mut seen, mut told) = (HashSet::new(), HashSet::new());
    for (i, v) in items.iter().enumerate() {
        let key = match list {
            ListType::Atomic => return,
            ListType::Set => v.clone(),
            ListType::Map(keys) => {
                let pairs = keys
                    .iter()
                    .map(|k| (k.to_string(), v.get(&**k).cloned().unwrap_or(Value::Null)));
                Value::Object(pairs.filter(|(_, v)| !v.is_null()).collect::<Map<_, _>>())
            }
        };
        // The first repetition of each is told.
        if !seen.insert(key.to_string()) && told.insert(key.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), key));
        }
    }
}

/// Checks the limits of OpenAPI v3 that hold at a value.
fn check_limits(l: &Limits, v: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let invalid = |value: Value, detail: String| {
        FieldError::invalid(path, value, format!("{path} in body {detail}"))
    };
    match v {
        Value::String(s) => check_text(l, s, path, errors),
        Value::Number(n) => {
            let n = n.as_f64().unwrap_or(0.0);
            let shown = |b: f64| if b.fract() == 0.0 { format!("{b:.0}") } else { b.to_string() };
            if let Some(m) = l.multiple_of.filter(|m| *m > 0.0 && (n / m).fract() != 0.0) {
                errors.push(invalid(v.clone(), format!("should be a multiple of {}", shown(m))));
            }
            let or = |exclusive: bool| if exclusive { "" } else { " or equal to" };
            if let Some(max) = l.maximum.filter(|m| n > *m || (l.exclusive_maximum && n == *m)) {
                let why = format!("should be less than{} {}", or(l.exclusive_maximum), shown(max));
                errors.push(invalid(v.clone(), why));
            }
            if let Some(min) = l.minimum.filter(|m| n < *m || (l.exclusive_minimum && n == *m)) {
                let why =
                    format!("should be greater than{} {}", or(l.exclusive_minimum), shown(min));
                errors.push(invalid(v.clone(), why));
            }
        }
        Value::Array(items) => {
            let count = items.len();
            if let Some(min) = l.min_items.filter(|m| (count as u64) < *m) {
                errors.push(invalid(count.into(), format!("should have at least {min} items")));
            }
            if let Some(max) = l.max_items.filter(|m| count as u64 > *m) {
                errors.push(FieldError::too_many(path, count, usize_of(max)));
            }
        }
        Value::Object(map) => {
            let count = map.len();
            if let Some(min) = l.min_properties.filter(|m| (count as u64) < *m) {
                let why = format!("should have at least {min} properties");
                errors.push(invalid(count.into(), why));
            }
            if let Some(max) = l.max_properties.filter(|m| count as u64 > *m) {
                errors.push(FieldError::too_many(path, count, usize_of(max)));
            }
            for name in l.required_fields.iter().filter(|n| !map.contains_key(&***n)) {
                errors.push(FieldError::required(join(path, name), ""));
            }
        }
        _ => {}
    }
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn check_text(l: &Limits, s: &str, path: &str, errors: &mut Vec<FieldError>) {
    let invalid = |detail: String| FieldError::invalid(path, s, format!("{path} in body {detail}"));
    let length = s.chars().count() as u64;
    if let Some(max) = l.max_length.filter(|m| length > *m) {
        errors.push(FieldError::too_long(path, max));
    } else if let Some(min) = l.min_length.filter(|m| length < *m) {
        errors.push(invalid(format!("should be at least {min} chars long")));
    } else if let Some(p) = l.pattern.as_ref().filter(|p| !p.is_match(s)) {
        errors.push(invalid(format!("should match '{p}'")));
    }
    if let Some(f) = l.format.as_deref().filter(|f| !format::holds(f, s)) {
        let why = format!("{path} in body must be of type {f}: {s:?}");
        errors.push(FieldError::type_invalid(path, s, why));
    }
}

fn check_junctors(arena: &Arena, l: &Limits, v: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let faults = |s: &Slot| {
        let mut e = Vec::new();
        check_nested(arena, s, v, path, &mut e);
        e
    };
    let whole = |detail: String| FieldError::invalid("<nil>", "", format!("{path:?} {detail}"));
    if !l.any_of.is_empty() {
        let all: Vec<Vec<FieldError>> = l.any_of.iter().map(faults).collect();
        if all.iter().all(|e| !e.is_empty()) {
            errors.push(whole("must validate at least one schema (anyOf)".into()));
            errors.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
        }
    }
    if !l.one_of.is_empty() {
        let all: Vec<Vec<FieldError>> = l.one_of.iter().map(faults).collect();
        match all.iter().filter(|e| e.is_empty()).count() {
            1 => {}
            0 => {
                errors.push(whole(
                    "must validate one and only one schema (oneOf). Found none valid".into(),
                ));
                errors.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
            n => errors.push(whole(format!(
                "must validate one and only one schema (oneOf). Found {n} valid alternatives"
            ))),
        }
    }
    if !l.all_of.is_empty() {
        let all: Vec<Vec<FieldError>> = l.all_of.iter().map(faults).collect();
        let good = all.iter().filter(|e| e.is_empty()).count();
        if good < all.len() {
            errors.extend(all.into_iter().flatten());
            let none = if good == 0 { ". None validated" } else { "" };
            errors.push(whole(format!("must validate all the schemas (allOf){none}")));
        }
    }
    if l.not.as_ref().is_some_and(|s| faults(s).is_empty()) {
        errors.push(whole("must not validate the schema (not)".into()));
    }
}

/// A validation inside a junctor, where there is no structure.
fn check_nested(arena: &Arena, s: &Slot, v: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(wanted) = s.json_type.as_deref() {
        let found = open_api_type(v);
        if wanted != found && !(wanted == "number" && found == "integer") {
            let why = format!("{path} in body must be of type {wanted}: {found:?}");
            errors.push(FieldError::type_invalid(path, found, why));
        }
    }
    check(arena, s, v, None, path, errors);
    if let (Some(l), Value::Object(map)) = (&s.limits, v) {
        for (name, slot) in &l.properties {
            if let Some(v) = map.get(&**name) {
                check_nested(arena, slot, v, &join(path, name), errors);
            }
        }
    }
}

/// The error of a custom resource for a value of the wrong type.
pub fn type_error(e: &TypeError) -> FieldError {
    let wanted = match e.expected {
        "int32" | "int64" => "integer",
        "float64" => "number",
        "bool" => "boolean",
        "map" => "object",
        "time" => "string",
        other => other,
    };
    let found = match json_type(&e.value) {
        "bool" => "boolean",
        "number" if e.value.is_i64() => "integer",
        t => t,
    };
    FieldError {
        kind: FieldErrorKind::TypeInvalid,
        path: e.path.clone(),
        value: Some(found.into()),
        detail: format!("{} in body must be of type {wanted}: {found:?}", e.path),
    }
}

/// Whether two values differ at a dotted path.
pub fn changed(old: &Value, new: &Value, path: &str) -> bool {
    json::get(old, path) != json::get(new, path)
}
