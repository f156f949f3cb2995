//! Whole objects: their structure, defaults, rules and encodings, and definitions of new kinds.

use coracle_schema::{
    Kind, Minor, Pack, crd,
    decode::{self, Form},
    defaults, openapi, pack, protobuf, rules,
    types::Type,
    validate,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn pack() -> &'static Pack {
    pack::of(Minor::LATEST)
}

fn kind(v: &Value) -> &'static Arc<Kind> {
    let named =
        pack().kinds.iter().find(|k| v["kind"] == *k.kind && v["apiVersion"] == k.api_version());
    let pods = || pack().kinds.iter().find(|k| k.kind == "Pod");
    named.or_else(pods).unwrap_or_else(|| panic!("there are pods"))
}

/// Any JSON is refused, or becomes an object that its own rules can be asked about; decoding and
/// defaulting twice is the same as once.
pub(crate) fn object(data: &[u8]) {
    let Ok(mut v) = serde_json::from_slice::<Value>(data) else { return };
    if !v.is_object() {
        return;
    }
    let kind = kind(&v);
    let read = |v: &mut Value| decode::decode(kind.arena(), kind.root(), v, Form::BuiltIn, true);
    if !read(&mut v).errors.is_empty() {
        return;
    }
    defaults::apply(kind.arena(), kind.root(), &mut v);
    let once = v.clone();
    let report = read(&mut v);
    assert!(report.errors.is_empty() && report.unknown.is_empty(), "{once}");
    defaults::apply(kind.arena(), kind.root(), &mut v);
    assert_eq!(v, once);
    let Type::Object(root) = kind.root().ty else { return };
    rules::check(pack(), root, &v, None, rules::Mode::Create);
    rules::check(pack(), root, &v, Some(&once), rules::Mode::Update);
    for column in &kind.columns {
        column.cell(&v, jiff::Timestamp::UNIX_EPOCH);
    }
}

/// What is read from protobuf is written as something that reads the same, once what says nothing
/// (unreadable JSON inside, empty messages) is gone.
pub(crate) fn protobuf(data: &[u8]) {
    let (root, raw) = match protobuf::envelope(data) {
        Ok(e) => (kind(&json!({"kind": e.kind, "apiVersion": e.api_version})).root(), e.raw),
        Err(_) => (kind(&Value::Null).root(), data),
    };
    let arena = &pack().arena;
    let Ok(v) = protobuf::decode(arena, root, raw) else { return };
    let again = |v: &Value| {
        let again = protobuf::decode(arena, root, &protobuf::encode(arena, root, v));
        again.unwrap_or_else(|e| panic!("{e}: {v}"))
    };
    let settled = again(&v);
    assert_eq!(again(&settled), settled);
}

/// A definition is refused, or its kinds can be compiled, published and asked about objects.
pub(crate) fn definition(data: &[u8]) {
    let mut parts = data.splitn(2, |b| *b == b'\n');
    let mut next = || serde_json::from_slice::<Value>(parts.next()?).ok();
    let (Some(schema), object) = (next(), next().unwrap_or_default()) else { return };
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    if !crd::check(&definition, None).is_empty() {
        return;
    }
    let kept = definition.clone();
    for kind in crd::kinds(&definition, 1, move || kept.clone()) {
        openapi::document(std::slice::from_ref(&kind), Minor::LATEST, &|_, _| None);
        let mut v = object.clone();
        if !v.is_object() {
            v = json!({});
        }
        decode::decode(kind.arena(), kind.root(), &mut v, Form::Custom, true);
        defaults::apply(kind.arena(), kind.root(), &mut v);
        validate::validate(kind.arena(), kind.root(), &v, "");
        crd::rules::evaluate(kind.arena(), kind.root(), &v, Some(&object));
    }
}
