//! Patches and the ownership of fields.

use coracle_patch::{
    apply::{self, FieldSet, Managed, Typed, Versions, Writer, take_managed},
    json_patch, merge, strategic,
};
use coracle_schema::{Kind, Minor, pack};
use serde_json::{Value, json};
use std::sync::Arc;

fn kind(name: &str) -> &'static Arc<Kind> {
    let kinds = &pack::of(Minor::LATEST).kinds;
    kinds.iter().find(|k| k.kind == name).unwrap_or_else(|| panic!("{name} is a kind"))
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}, "finalizers": ["x"]},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "1"}]}],
                "tolerations": [{"key": "k", "operator": "Exists"}]}}}})
}

/// A patch fails as a whole, and leaves what it was given alone.
pub(crate) fn json_patch(data: &[u8]) {
    let Ok(patch) = serde_json::from_slice::<Value>(data) else { return };
    let mut v = deployment();
    if json_patch::apply(&mut v, &patch).is_err() {
        assert_eq!(v, deployment(), "half a patch was applied: {patch}");
    }
}

/// A merge patch is idempotent, and the difference of two values is one (RFC 7386).
pub(crate) fn merge_patch(data: &[u8]) {
    let Ok(patch) = serde_json::from_slice::<Value>(data) else { return };
    let mut v = deployment();
    merge::apply(&mut v, patch.clone());
    let once = v.clone();
    merge::apply(&mut v, patch);
    assert_eq!(v, once);
    let mut from = deployment();
    let difference = merge::diff(&from, &once);
    merge::apply(&mut from, difference);
    // Null is what a merge patch removes by: it can put none anywhere.
    if !once.to_string().contains("null") {
        assert_eq!(from, once);
    }
}

pub(crate) fn strategic_patch(data: &[u8]) {
    let Ok(patch) = serde_json::from_slice::<Value>(data) else { return };
    let kind = kind("Deployment");
    let mut v = deployment();
    if strategic::apply(kind.arena(), kind.root(), &mut v, patch.clone()).is_ok() {
        assert!(v.is_object());
        let text = v.to_string();
        assert!(!text.contains("\"$patch\"") || patch.to_string().contains("$patch"), "{text}");
    }
}

/// What was applied once changes nothing when it is applied again, whatever was there.
pub(crate) fn apply(data: &[u8]) {
    let mut parts = data.splitn(2, |b| *b == b'\n');
    let mut read = || serde_json::from_slice::<Value>(parts.next()?).ok().filter(Value::is_object);
    let (Some(mut config), live) = (read(), read()) else { return };
    let mut live = live.unwrap_or_else(deployment);
    for v in [&mut config, &mut live] {
        v["apiVersion"] = json!("apps/v1");
        v["kind"] = json!("Deployment");
        if !v["metadata"].is_object() {
            v["metadata"] = json!({"name": "d"});
        }
    }
    take_managed(&mut config);
    let Ok(managed) = Managed::read(&take_managed(&mut live)) else { return };
    let kind = kind("Deployment");
    let versions = Versions {
        current: "apps/v1",
        typed: Typed::object(kind.arena(), kind.root(), pack::of(Minor::LATEST)),
        convert: &|_, _| None,
        convert_back: &|_, _| None,
    };
    let reset = FieldSet::of_fields(&["status"]);
    let writer = |now| Writer { manager: "fuzz", subresource: "", reset: &reset, now };
    // As in a server, everything that is there belongs to somebody.
    let empty = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}});
    let other = Writer { manager: "other", ..writer("2026-01-01T00:00:00Z") };
    let Ok(managed) = apply::update(&versions, &empty, &live, managed, &other) else { return };
    let first = writer("2026-01-01T00:00:00Z");
    let Ok((object, owned)) = apply::apply(&versions, &live, &config, &managed, &first, true)
    else {
        return;
    };
    let later = writer("2026-01-01T00:00:01Z");
    match apply::apply(&versions, &object, &config, &owned, &later, false) {
        Ok((again, still)) => {
            assert_eq!(again, object, "applying {config} twice");
            assert_eq!(still.write(), owned.write(), "owners after applying {config} twice");
        }
        Err(e) => panic!("{config} was applied, and then not: {e}"),
    }
}

/// A set of fields is written as what reads the same.
pub(crate) fn field_set(data: &[u8]) {
    let Ok(v) = serde_json::from_slice::<Value>(data) else { return };
    let Some(set) = FieldSet::from_json(&v) else { return };
    let again = FieldSet::from_json(&set.to_json());
    assert_eq!(again.as_ref(), Some(&set));
    set.paths();
    assert!(set.difference(&set).is_empty());
    assert_eq!(set.union(&FieldSet::from_json(&v).unwrap_or_default()), again.unwrap_or_default());
}
