//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

/// Merges a patch into a value: objects merge, null removes, all else replaces.
pub fn apply(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, v) in patch {
        match v {
            Value::Null => drop(map.remove(&key)),
            v => apply(map.entry(key).or_insert(Value::Null), v),
        }
    }
}

/// The smallest merge patch that turns one value into another. Values must hold no nulls.
pub fn diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for (key, v) in to {
        match from.get(key) {
            Some(old) if old == v => {}
            Some(old @ Value::Object(_)) if v.is_object() => {
                drop(patch.insert(key.clone(), diff(old, v)))
            }
            _ => drop(patch.insert(key.clone(), v.clone())),
        }
    }
    for key in from.keys().filter(|k| !to.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_cases_of_the_rfc() {
        for (target, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": [1]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!([1]), json!({"a": {"bb": {"c": null}}}), json!({"a": {"bb": {}}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        ] {
            let mut v = target;
            apply(&mut v, patch);
            assert_eq!(v, want);
        }
    }

    pub(crate) fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
            any::<bool>().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[a-d]", value(), 0..4)
            .prop_map(|m| Value::Object(m.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_diff_applied_gives_the_target(a in object(), b in object()) {
            let mut v = a.clone();
            apply(&mut v, diff(&a, &b));
            prop_assert_eq!(v, b);
        }

        #[test]
        fn applying_twice_is_applying_once(a in object(), p in object()) {
            let mut once = a;
            apply(&mut once, p.clone());
            let mut twice = once.clone();
            apply(&mut twice, p);
            prop_assert_eq!(once, twice);
        }
    }
}
