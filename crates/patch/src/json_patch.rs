//! JSON patch, RFC 6902, as upstream's library has it (`evanphx/json-patch`, version 4): indexes may be
//! negative, a replacement may set a field that is not there, and a test for null that it is not. Clients
//! count on it: kube-rs adds a finalizer so.

use crate::PatchError;
use coracle_schema::decode::mismatch;
use serde_json::{Map, Value};

/// Most operations of one patch, as upstream.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that the copies of one patch may make, as upstream.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// Applies all operations or none.
///
/// # Errors
/// For what is no list of operations, and for an operation that does not apply.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = read(patch)?;
    if operations.len() > MAX_OPERATIONS {
        let n = operations.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {n}"
        )));
    }
    let mut result = target.clone();
    let mut copied = 0;
    for (i, operation) in operations.iter().enumerate() {
        one(&mut result, operation, &mut copied).map_err(|e| match e {
            PatchError::DoesNotApply(why) => {
                PatchError::DoesNotApply(format!("operation {i}: {why}"))
            }
            e => e,
        })?;
    }
    *target = result;
    Ok(())
}

/// The operations of a patch, of which only the shape is sure; null is none.
fn read(patch: &Value) -> Result<&[Value], PatchError> {
    let wrong = |v: &Value, what: &str| PatchError::Malformed(mismatch(v, what));
    let operations = match patch {
        Value::Null => return Ok(&[]),
        Value::Array(operations) => operations,
        other => return Err(wrong(other, "value of type []handlers.jsonPatchOp")),
    };
    for operation in operations {
        if !operation.is_object() {
            return Err(wrong(operation, "value of type handlers.jsonPatchOp"));
        }
        for field in ["op", "path", "from"] {
            let v = &operation[field];
            if !v.is_string() && !v.is_null() {
                return Err(wrong(v, &format!("struct field jsonPatchOp.{field} of type string")));
            }
        }
    }
    Ok(operations)
}

fn one(target: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let field = |name: &str| {
        let absent = || PatchError::DoesNotApply(format!("{name} is missing"));
        operation[name].as_str().ok_or_else(absent)
    };
    // Absent and null are the same.
    let value = &operation["value"];
    let (op, path) = (field("op")?, field("path")?);
    match op {
        "add" => add(target, path, value.clone()),
        "remove" => remove(target, path).map(drop),
        "replace" if path.is_empty() && (value.is_object() || value.is_array()) => {
            *target = value.clone();
            Ok(())
        }
        "replace" => match place(target, path, op)? {
            Place::Field(map, key) => {
                map.insert(key, value.clone());
                Ok(())
            }
            Place::Item(items, i) if i < items.len() => {
                items[i] = value.clone();
                Ok(())
            }
            Place::Item(..) | Place::End(_) => Err(missing(op, path)),
        },
        "move" => {
            let v = remove(target, field("from")?)?;
            add(target, path, v)
        }
        "copy" => {
            let from = field("from")?;
            let v = get(target, from, op)?.cloned().unwrap_or_default();
            // Copies of copies grow without bound; so would their depth.
            *copied += v.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy operation: the accumulated size of copies is over {MAX_COPIED_BYTES} bytes"
                )));
            }
            add(target, path, v)
        }
        "test" => {
            let have = if path.is_empty() { Some(&*target) } else { get(target, path, op)? };
            // What is not there is null: so one tests that it is not there.
            if have.unwrap_or(&Value::Null) == value {
                return Ok(());
            }
            Err(PatchError::DoesNotApply(format!("testing value {path} failed: test failed")))
        }
        other => Err(PatchError::DoesNotApply(format!("unexpected operation {other:?}"))),
    }
}

fn missing(op: &str, path: &str) -> PatchError {
    PatchError::DoesNotApply(format!(
        "{op} operation does not apply: doc is missing path: {path}: missing value"
    ))
}

/// Where a path leads: there need be nothing yet.
enum Place<'v> {
    Field(&'v mut Map<String, Value>, String),
    Item(&'v mut Vec<Value>, usize),
    /// After the last item (`-`).
    End(&'v mut Vec<Value>),
}

/// An index as Go's `Atoi` reads it; negative ones count from the end.
fn index(step: &str, length: usize) -> Option<usize> {
    let i: i64 = step.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    usize::try_from(if i < 0 { i + length } else { i }).ok()
}

/// What is before the first slash counts for nothing.
fn steps(path: &str) -> Option<Vec<String>> {
    let (_, rest) = path.split_once('/')?;
    Some(rest.split('/').map(|s| s.replace("~1", "/").replace("~0", "~")).collect())
}

fn place<'v>(target: &'v mut Value, path: &str, op: &str) -> Result<Place<'v>, PatchError> {
    let absent = || missing(op, path);
    let mut steps = steps(path).ok_or_else(absent)?;
    let last = steps.pop().ok_or_else(absent)?;
    let mut at = target;
    for step in steps {
        let next = match at {
            Value::Object(map) => map.get_mut(&step),
            Value::Array(items) => index(&step, items.len()).and_then(|i| items.get_mut(i)),
            _ => None,
        };
        at = next.ok_or_else(absent)?;
    }
    match at {
        Value::Object(map) => Ok(Place::Field(map, last)),
        Value::Array(items) => {
            if last == "-" {
                return Ok(Place::End(items));
            }
            // An addition may come after the last item, and counts that place.
            let length = items.len() + usize::from(op == "add");
            let i = index(&last, length).ok_or_else(absent)?;
            Ok(Place::Item(items, i))
        }
        _ => Err(absent()),
    }
}

/// What is at a path; `None` for a field that is not there.
fn get<'v>(target: &'v mut Value, path: &str, op: &str) -> Result<Option<&'v Value>, PatchError> {
    match place(target, path, op)? {
        Place::Field(map, key) => Ok(map.get(&key)),
        Place::Item(items, i) => items.get(i).map(Some).ok_or_else(|| missing(op, path)),
        Place::End(_) => Err(missing(op, path)),
    }
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    match place(target, path, "add")? {
        Place::Field(map, key) => drop(map.insert(key, value)),
        Place::End(items) => items.push(value),
        Place::Item(items, i) if i <= items.len() => items.insert(i, value),
        Place::Item(..) => return Err(missing("add", path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, PatchError> {
    match place(target, path, "remove")? {
        Place::Field(map, key) => map.remove(&key).ok_or_else(|| missing("remove", path)),
        Place::Item(items, i) if i < items.len() => Ok(items.remove(i)),
        Place::Item(..) | Place::End(_) => Err(missing("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn copies_of_copies_end() {
        let grow = |path: &dyn Fn(usize) -> String| {
            let operations: Vec<Value> =
                (0..200).map(|i| json!({"op": "copy", "from": "/data", "path": path(i)})).collect();
            let mut v = json!({"data": {"a": "x".repeat(1000)}});
            apply(&mut v, &Value::Array(operations)).unwrap_err()
        };
        assert!(matches!(grow(&|i| format!("/data/x{i}")), PatchError::TooLarge(_)));
        assert!(matches!(grow(&|_| "/data/x".into()), PatchError::TooLarge(_)));
    }

    #[test]
    fn operations() {
        let mut v = json!({"a": [1, 2], "b/c": {"~": 1}});
        let patch = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/1", "value": 9},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "replace", "path": "/b~1c/~0", "value": 2},
            {"op": "copy", "from": "/b~1c", "path": "/d"},
            {"op": "move", "from": "/a/0", "path": "/e"},
            {"op": "remove", "path": "/b~1c"},
        ]);
        apply(&mut v, &patch).unwrap();
        assert_eq!(v, json!({"a": [9, 2, 3], "d": {"~": 2}, "e": 1}));
    }

    #[test]
    fn upstreams_dialect() {
        let mut v = json!({"a": [1, 2, 3], "b": {}});
        let patch = json!([
            {"op": "test", "path": "/b/x", "value": null},
            {"op": "test", "path": "/b/x"},
            {"op": "replace", "path": "/b/x", "value": 1},
            {"op": "replace", "path": "/a/-1", "value": 4},
            {"op": "add", "path": "/a/-1", "value": 5},
            {"op": "remove", "path": "/a/+0"},
            {"op": "replace", "path": "/a/00", "value": 9},
            {"op": "copy", "from": "/b/none", "path": "/b/y"},
        ]);
        apply(&mut v, &patch).unwrap();
        assert_eq!(v, json!({"a": [9, 4, 5], "b": {"x": 1, "y": null}}));
        apply(&mut v, &json!([{"op": "replace", "path": "", "value": {"c": 1}}])).unwrap();
        apply(&mut v, &Value::Null).unwrap();
        assert_eq!(v, json!({"c": 1}));
    }

    #[test]
    fn a_failing_operation_changes_nothing() {
        let before = json!({"a": 1, "l": [1]});
        for bad in [
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/x"}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "replace", "path": "/a/b", "value": 2}]),
            json!([{"op": "add", "path": "a", "value": 2}]),
            json!([{"op": "replace", "path": "/l/-", "value": 2}]),
            json!([{"op": "add", "path": "/l/2", "value": 2}]),
            json!([{"op": "remove", "path": "/l/-2"}]),
            json!([{"op": "test", "path": "/x/y", "value": null}]),
            json!([{"op": "add", "path": "", "value": {}}]),
            json!([{"op": "add", "path": 5, "value": {}}]),
            json!(["x"]),
            json!([{"op": "move", "from": "/a", "path": "/a/b"}]),
            json!([{"op": "x", "path": "/a"}]),
            json!([{"path": "/a"}]),
            json!({}),
        ] {
            let mut v = before.clone();
            assert!(apply(&mut v, &bad).is_err(), "{bad}");
            assert_eq!(v, before);
        }
    }
}
