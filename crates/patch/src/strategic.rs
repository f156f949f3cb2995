//! Strategic merge patch: merge patch that knows which lists merge, and by which key.
//!
//! Directives: `$patch: merge|replace|delete`, `$retainKeys`, `$setElementOrder/FIELD`,
//! `$deleteFromPrimitiveList/FIELD`.

use crate::PatchError;
use coracle_schema::{Arena, Slot, Type};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Merges a patch into an object of the given type.
pub fn apply(
    arena: &Arena,
    root: &Slot,
    target: &mut Value,
    patch: Value,
) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".into()));
    };
    let mut result = target.as_object().cloned().unwrap_or_default();
    object(arena, Some(&root.ty), &mut result, patch)?;
    *target = Value::Object(result);
    Ok(())
}

fn bad(what: &str) -> PatchError {
    PatchError::Malformed(format!("invalid patch: {what}"))
}

/// Merges `patch` into `target`; the type is `None` where the schema ends.
fn object(
    arena: &Arena,
    ty: Option<&Type>,
    target: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.remove(DIRECTIVE).as_ref().map(|d| d.as_str().unwrap_or("")) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = patch;
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(bad(&format!("unknown $patch directive {other:?}"))),
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        let keys = keys.as_array().cloned().ok_or_else(|| bad("$retainKeys must be a list"))?;
        if let Some(k) = patch.iter().find(|(k, v)| {
            !k.starts_with('$') && !v.is_null() && !keys.iter().any(|x| x == k.as_str())
        }) {
            return Err(bad(&format!("field {:?} is set but not in $retainKeys", k.0)));
        }
        target.retain(|k, _| keys.iter().any(|x| x == k.as_str()));
    }
    let slot = |name: &str| ty.and_then(|t| arena.field(t, name));
    let mut orders = Vec::new();
    for key in patch.keys().filter(|k| k.starts_with('$')).cloned().collect::<Vec<_>>() {
        let v = patch.remove(&key).unwrap_or_default();
        let Value::Array(items) = v else { return Err(bad(&format!("{key} must be a list"))) };
        if let Some(field) = key.strip_prefix(ORDER) {
            orders.push((field.to_owned(), items));
        } else if let Some(field) = key.strip_prefix(DELETE_FROM) {
            if let Some(Value::Array(list)) = target.get_mut(field) {
                list.retain(|v| !items.contains(v));
            }
        } else {
            return Err(bad(&format!("unknown directive {key:?}")));
        }
    }
    let before: Vec<(String, Vec<Value>)> = orders
        .iter()
        .map(|(f, _)| {
            (f.clone(), target.get(f).and_then(Value::as_array).cloned().unwrap_or_default())
        })
        .collect();
    for (key, v) in patch {
        if v.is_null() {
            target.remove(&key);
            continue;
        }
        let field = slot(&key);
        let merged = merge(arena, field, target.remove(&key), v)?;
        if let Some(merged) = merged {
            target.insert(key, merged);
        }
    }
    for ((field, order), (_, before)) in orders.into_iter().zip(before) {
        let key = slot(&field).and_then(|s| s.patch.merge_key.clone());
        if let Some(Value::Array(items)) = target.get_mut(&field) {
            reorder(items, &order, &before, key.as_deref());
        }
    }
    Ok(())
}

/// The value of a field after merging; `None` when it is deleted.
fn merge(
    arena: &Arena,
    slot: Option<&Slot>,
    old: Option<Value>,
    patch: Value,
) -> Result<Option<Value>, PatchError> {
    match (old, patch) {
        (old, Value::Object(patch)) => {
            if patch.get(DIRECTIVE).is_some_and(|d| d == "delete") {
                return Ok(None);
            }
            let mut map = match old {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            object(arena, slot.map(|s| &s.ty), &mut map, patch)?;
            Ok(Some(Value::Object(map)))
        }
        (old, Value::Array(patch)) => {
            let merges = slot.is_some_and(|s| s.patch.merge);
            let old = match old {
                Some(Value::Array(items)) if merges => items,
                _ => vec![],
            };
            list(arena, slot, old, patch, merges).map(|l| Some(Value::Array(l)))
        }
        (_, patch) => Ok(Some(patch)),
    }
}

fn list(
    arena: &Arena,
    slot: Option<&Slot>,
    mut old: Vec<Value>,
    patch: Vec<Value>,
    merges: bool,
) -> Result<Vec<Value>, PatchError> {
    let item = slot.and_then(|s| match &s.ty {
        Type::List(item) => Some(&**item),
        _ => None,
    });
    // An item that says only `$patch: replace` replaces the whole list.
    let is_replace =
        |v: &Value| v[DIRECTIVE] == "replace" && v.as_object().is_some_and(|m| m.len() == 1);
    if patch.iter().any(is_replace) {
        return Ok(patch.into_iter().filter(|v| !is_replace(v)).collect());
    }
    let key = slot.and_then(|s| s.patch.merge_key.as_deref());
    for v in patch {
        let Value::Object(_) = v else {
            if !merges || !old.contains(&v) {
                old.push(v);
            }
            continue;
        };
        let Some(key) = key.filter(|_| merges) else {
            old.extend(merge(arena, item, None, v)?);
            continue;
        };
        let Some(id) = v.get(key).cloned() else {
            return Err(bad(&format!("map: {v} does not contain declared merge key: {key}")));
        };
        let position = old.iter().position(|o| o.get(key) == Some(&id));
        match v[DIRECTIVE].as_str() {
            Some("delete") => old.retain(|o| o.get(key) != Some(&id)),
            _ => match position {
                Some(i) => {
                    let current = old[i].take();
                    old[i] = merge(arena, item, Some(current), v)?.unwrap_or_default();
                }
                None => old.extend(merge(arena, item, None, v)?),
            },
        }
    }
    Ok(old)
}

/// Brings a merged list into the order that the patch asks for. Items that the patch does not know
/// keep their place relative to the live list, as far as that is possible.
fn reorder(items: &mut Vec<Value>, order: &[Value], live: &[Value], key: Option<&str>) {
    let id = |v: &Value| match key {
        Some(k) => v.get(k).cloned().unwrap_or_default(),
        None => v.clone(),
    };
    let order: Vec<Value> = order.iter().map(id).collect();
    let live: Vec<Value> = live.iter().map(id).collect();
    let place = |list: &[Value], v: &Value| list.iter().position(|x| *x == id(v));
    let (mut known, mut others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|v| place(&order, v).is_some());
    known.sort_by_key(|v| place(&order, v));
    others.sort_by_key(|v| place(&live, v).unwrap_or(usize::MAX));
    let mut others = others.into_iter().peekable();
    for k in known {
        let here = place(&live, &k);
        while let Some(o) = others.peek() {
            match (place(&live, o), here) {
                (Some(a), Some(b)) if a < b => items.extend(others.next()),
                _ => break,
            }
        }
        items.push(k);
    }
    items.extend(others);
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_schema::{Minor, pack};
    use serde_json::json;

    fn run(plural: &str, target: Value, patch: Value) -> Result<Value, PatchError> {
        let k = pack::of(Minor::LATEST).kinds.iter().find(|k| k.plural == plural).unwrap();
        let mut v = target;
        apply(k.arena(), k.root(), &mut v, patch).map(|()| v)
    }

    fn containers(v: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": v}}}})
    }

    #[test]
    fn lists_merge_by_key() {
        let got = run(
            "deployments",
            containers(
                json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]),
            ),
            containers(
                json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "3"}]),
            ),
        );
        let want = json!([{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "1"}, {"name": "c", "image": "3"}]);
        assert_eq!(got.unwrap(), containers(want));
    }

    #[test]
    fn directives() {
        let live = containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]));
        let deleted = run(
            "deployments",
            live.clone(),
            containers(json!([{"name": "b", "$patch": "delete"}])),
        );
        assert_eq!(deleted.unwrap(), containers(json!([{"name": "a"}, {"name": "c"}])));
        let replaced = run(
            "deployments",
            live.clone(),
            containers(json!([{"name": "z"}, {"$patch": "replace"}])),
        );
        assert_eq!(replaced.unwrap(), containers(json!([{"name": "z"}])));
        let ordered = run(
            "deployments",
            live,
            json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "n"}], "containers": [{"name": "n"}]}}}}),
        );
        let names: Vec<Value> = ordered.unwrap()["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].clone())
            .collect();
        assert_eq!(json!(names), json!(["b", "c", "a", "n"]));
    }

    #[test]
    fn retain_keys_drops_the_others() {
        let got = run(
            "deployments",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        );
        assert_eq!(got.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }

    #[test]
    fn primitives_merge_as_sets() {
        let got = run(
            "pods",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
        );
        assert_eq!(got.unwrap(), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }

    #[test]
    fn maps_and_atomic_lists() {
        let got = run(
            "pods",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "a", "args": ["x"]}]}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"containers": [{"name": "a", "args": ["y"]}]}}),
        );
        assert_eq!(
            got.unwrap(),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"containers": [{"name": "a", "args": ["y"]}]}})
        );
    }

    #[test]
    fn malformed_patches_say_so() {
        for bad in [
            containers(json!([{"image": "x"}])),
            json!({"spec": {"$patch": "explode"}}),
            json!({"spec": {"$retainKeys": "x"}}),
            json!({"$nonsense": []}),
            json!([]),
        ] {
            assert!(matches!(
                run("deployments", containers(json!([{"name": "a"}])), bad),
                Err(PatchError::Malformed(_))
            ));
        }
    }
}
