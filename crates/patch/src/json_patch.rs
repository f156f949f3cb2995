//! JSON patch, RFC 6902, with upstream's limits.

use crate::PatchError;
use serde_json::Value;

/// Most operations of one patch, as upstream.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that the copies of one patch may make, as upstream.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// Applies all operations or none.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().ok_or_else(|| {
        PatchError::Malformed("a JSON patch must be an array of operations".into())
    })?;
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
            PatchError::Malformed(why) => PatchError::Malformed(format!("operation {i}: {why}")),
            e => e,
        })?;
    }
    *target = result;
    Ok(())
}

fn one(target: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let field = |name: &str| {
        operation[name]
            .as_str()
            .ok_or_else(|| PatchError::Malformed(format!("{name} must be a string")))
    };
    let value = || {
        operation
            .get("value")
            .cloned()
            .ok_or_else(|| PatchError::Malformed("value is missing".into()))
    };
    let (op, path) = (field("op")?, field("path")?);
    match op {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(drop),
        "replace" => match find(target, path)? {
            Some(slot) => {
                *slot = value()?;
                Ok(())
            }
            None => Err(missing("replace", path)),
        },
        "move" => {
            let from = field("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(PatchError::DoesNotApply(format!("cannot move {from} into itself")));
            }
            let v = remove(target, from)?;
            add(target, path, v)
        }
        "copy" => {
            let from = field("from")?;
            let found = find(target, from)?.ok_or_else(|| missing("copy", from))?;
            // Copies of copies grow without bound; so would their depth.
            *copied += found.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy operation: the accumulated size of copies is over {MAX_COPIED_BYTES} bytes"
                )));
            }
            let v = found.clone();
            add(target, path, v)
        }
        "test" => {
            let want = value()?;
            let have = find(target, path)?;
            if have.is_some_and(|v| *v == want) {
                return Ok(());
            }
            Err(PatchError::DoesNotApply(format!("testing value {path} failed: test failed")))
        }
        other => Err(PatchError::Malformed(format!("unexpected operation {other:?}"))),
    }
}

fn missing(op: &str, path: &str) -> PatchError {
    PatchError::DoesNotApply(format!(
        "{op} operation does not apply: doc is missing path: {path}: missing value"
    ))
}

fn steps(path: &str) -> Result<Vec<String>, PatchError> {
    if path.is_empty() {
        return Ok(vec![]);
    }
    let rest = path
        .strip_prefix('/')
        .ok_or_else(|| PatchError::Malformed(format!("path {path:?} must begin with /")))?;
    Ok(rest.split('/').map(|s| s.replace("~1", "/").replace("~0", "~")).collect())
}

fn index(step: &str, length: usize) -> Option<usize> {
    let canonical = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|i| canonical && *i < length)
}

fn find<'v>(target: &'v mut Value, path: &str) -> Result<Option<&'v mut Value>, PatchError> {
    let mut at = target;
    for step in steps(path)? {
        let next = match at {
            Value::Object(map) => map.get_mut(&step),
            Value::Array(items) => index(&step, items.len()).and_then(|i| items.get_mut(i)),
            _ => None,
        };
        match next {
            Some(v) => at = v,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn split(path: &str) -> Result<(&str, String), PatchError> {
    let (parent, _) = path
        .rsplit_once('/')
        .ok_or_else(|| PatchError::Malformed(format!("path {path:?} must begin with /")))?;
    Ok((parent, steps(path)?.pop().unwrap_or_default()))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match find(target, parent)? {
        Some(Value::Object(map)) => drop(map.insert(last, value)),
        Some(Value::Array(items)) => match index(&last, items.len() + 1) {
            Some(i) => items.insert(i, value),
            None if last == "-" => items.push(value),
            None => return Err(missing("add", path)),
        },
        _ => return Err(missing("add", path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, PatchError> {
    if path.is_empty() {
        return Ok(target.take());
    }
    let (parent, last) = split(path)?;
    let removed = match find(target, parent)? {
        Some(Value::Object(map)) => map.remove(&last),
        Some(Value::Array(items)) => index(&last, items.len()).map(|i| items.remove(i)),
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
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
    fn a_failing_operation_changes_nothing() {
        let before = json!({"a": 1});
        for bad in [
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/x"}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "replace", "path": "/a/b", "value": 2}]),
            json!([{"op": "add", "path": "a", "value": 2}]),
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
