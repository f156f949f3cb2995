//! Value validation: required fields, enumerations, and the limits of custom resources, with
//! upstream's paths and words.

use crate::{
    decode::{TypeError, json_type},
    types::{Arena, Limits, ListType, Slot, Type},
};
use coracle_meta::{
    json,
    status::{FieldError, FieldErrorKind},
};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Checks a decoded and defaulted value. `path` is where it stands, empty for a whole object.
pub fn validate(arena: &Arena, slot: &Slot, value: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(arena, slot, value, path, &mut errors);
    errors
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn check(arena: &Arena, slot: &Slot, v: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if v.is_null() && slot.nullable {
        return;
    }
    if !slot.allowed.is_empty() && !slot.allowed.contains(v) && *v != "" {
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let supported: Vec<String> = slot.allowed.iter().map(text).collect();
        let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, v.clone(), &supported));
    }
    if let Some(limits) = &slot.limits {
        check_limits(arena, limits, v, path, errors);
    }
    match (&slot.ty, v) {
        (Type::List(item), Value::Array(items)) => {
            unique(&slot.list, items, path, errors);
            for (i, v) in items.iter().enumerate() {
                check(arena, item, v, &format!("{path}[{i}]"), errors);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (k, v) in map {
                check(arena, item, v, &join(path, k), errors);
            }
        }
        (Type::Object(id), Value::Object(map)) => {
            let def = arena.def(*id);
            for (name, slot) in &def.fields {
                match map.get(&**name) {
                    Some(v) => check(arena, slot, v, &join(path, name), errors),
                    None if slot.required => {
                        errors.push(FieldError::required(join(path, name), ""))
                    }
                    None => {}
                }
            }
            if let Some(slot) = &def.additional {
                for (k, v) in map.iter().filter(|(k, _)| !def.fields.contains_key(k.as_str())) {
                    check(arena, slot, v, &join(path, k), errors);
                }
            }
        }
        _ => {}
    }
}

fn unique(list: &ListType, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
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
        if !seen.insert(key.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), key));
        }
    }
}

/// Checks the limits of OpenAPI v3 that hold at a value.
fn check_limits(arena: &Arena, l: &Limits, v: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let invalid =
        |detail: String| FieldError::invalid(path, v.clone(), format!("{path} in body {detail}"));
    if let Some(n) = v.as_f64() {
        let number = |b: f64| if b.fract() == 0.0 { format!("{b:.0}") } else { b.to_string() };
        if let Some(min) = l.minimum {
            if n < min || (l.exclusive_minimum && n == min) {
                let or = if l.exclusive_minimum { "" } else { " or equal to" };
                errors.push(invalid(format!("should be greater than{or} {}", number(min))));
            }
        }
        if let Some(max) = l.maximum {
            if n > max || (l.exclusive_maximum && n == max) {
                let or = if l.exclusive_maximum { "" } else { " or equal to" };
                errors.push(invalid(format!("should be less than{or} {}", number(max))));
            }
        }
        if let Some(m) = l.multiple_of.filter(|m| *m != 0.0) {
            if (n / m).fract() != 0.0 {
                errors.push(invalid(format!("should be a multiple of {}", number(m))));
            }
        }
    }
    if let Some(s) = v.as_str() {
        let length = s.chars().count() as u64;
        if l.min_length.is_some_and(|m| length < m) {
            errors.push(invalid(format!(
                "should be at least {} chars long",
                l.min_length.unwrap_or(0)
            )));
        }
        if let Some(max) = l.max_length.filter(|m| length > *m) {
            errors.push(
                FieldError { kind: FieldErrorKind::TooLong, ..invalid(String::new()) }
                    .with_detail(format!("may not be more than {max} bytes")),
            );
        }
        if let Some(p) = l.pattern.as_ref().filter(|p| !p.is_match(s)) {
            errors.push(invalid(format!("should match '{p}'")));
        }
        if let Some(f) = l.format.as_deref().filter(|f| !format_holds(f, s)) {
            errors.push(invalid(format!("must be of type {f}: {s:?}")));
        }
    }
    if let Some(items) = v.as_array() {
        let count = items.len() as u64;
        if l.min_items.is_some_and(|m| count < m) {
            errors
                .push(invalid(format!("should have at least {} items", l.min_items.unwrap_or(0))));
        }
        if let Some(max) = l.max_items.filter(|m| count > *m) {
            errors.push(
                FieldError {
                    kind: FieldErrorKind::TooMany,
                    value: Some(count.into()),
                    ..invalid(String::new())
                }
                .with_detail(format!("must have at most {max} items")),
            );
        }
        if l.unique_items {
            unique(&ListType::Set, items, path, errors);
        }
    }
    if let Some(map) = v.as_object() {
        let count = map.len() as u64;
        if l.min_properties.is_some_and(|m| count < m) {
            errors.push(invalid(format!(
                "should have at least {} properties",
                l.min_properties.unwrap_or(0)
            )));
        }
        if l.max_properties.is_some_and(|m| count > m) {
            errors.push(invalid(format!(
                "should have at most {} properties",
                l.max_properties.unwrap_or(0)
            )));
        }
        for name in l.required_fields.iter().filter(|n| !map.contains_key(&***n)) {
            errors.push(FieldError::required(join(path, name), ""));
        }
        for (name, slot) in &l.properties {
            if let Some(v) = map.get(&**name) {
                check(arena, slot, v, &join(path, name), errors);
            }
        }
    }
    check_junctors(arena, l, v, path, errors);
}

fn check_junctors(arena: &Arena, l: &Limits, v: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let holds = |s: &Slot| {
        let mut e = Vec::new();
        check(arena, s, v, path, &mut e);
        e.is_empty()
    };
    let invalid =
        |detail: &str| FieldError::invalid(path, v.clone(), format!("{path} in body {detail}"));
    for s in &l.all_of {
        check(arena, s, v, path, errors);
    }
    if !l.any_of.is_empty() && !l.any_of.iter().any(holds) {
        errors.push(invalid("must validate at least one schema (anyOf)"));
    }
    if !l.one_of.is_empty() && l.one_of.iter().filter(|s| holds(s)).count() != 1 {
        errors.push(invalid("must validate one and only one schema (oneOf)"));
    }
    if l.not.as_ref().is_some_and(holds) {
        errors.push(invalid("must not validate the schema (not)"));
    }
}

fn format_holds(format: &str, s: &str) -> bool {
    match format {
        "date-time" | "datetime" => coracle_meta::time::parse_rfc3339(s).is_some(),
        "duration" => coracle_meta::time::parse_go_duration(s).is_some(),
        "ipv4" => s.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => s.parse::<std::net::Ipv6Addr>().is_ok(),
        "date" => s.parse::<jiff::civil::Date>().is_ok(),
        "uuid" => s.len() == 36 && s.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'),
        "byte" => s.len().is_multiple_of(4),
        // Unknown formats are ignored, as upstream does.
        _ => true,
    }
}

trait WithDetail {
    fn with_detail(self, detail: String) -> Self;
}
impl WithDetail for FieldError {
    fn with_detail(mut self, detail: String) -> Self {
        self.detail = detail;
        self
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
