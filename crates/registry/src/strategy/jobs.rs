//! Jobs: labels and selectors that tie their pods to them.

use super::drop_status;
use crate::Registry;
use coracle_meta::Status;
use coracle_schema::Kind;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(super) fn job_create(_: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    let (uid, name) = (v["metadata"]["uid"].clone(), v["metadata"]["name"].clone());
    let spec = &mut v["spec"];
    if !spec.is_object() {
        return Ok(());
    }
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = json!(1);
    }
    let backoff = if spec["backoffLimitPerIndex"].is_null() { json!(6) } else { json!(i32::MAX) };
    let replacement =
        if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    let defaults = [
        ("parallelism", json!(1)),
        ("backoffLimit", backoff),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!(replacement)),
        ("manualSelector", json!(false)),
    ];
    for (field, value) in defaults {
        if spec[field].is_null() {
            spec[field] = value;
        }
    }
    if spec["manualSelector"] != true {
        let labels: BTreeMap<&str, Value> = BTreeMap::from([
            ("controller-uid", uid.clone()),
            ("batch.kubernetes.io/controller-uid", uid.clone()),
            ("job-name", name.clone()),
            ("batch.kubernetes.io/job-name", name),
        ]);
        if !spec["template"]["metadata"].is_object() {
            spec["template"]["metadata"] = json!({});
        }
        let target = &mut spec["template"]["metadata"]["labels"];
        if !target.is_object() {
            *target = json!({});
        }
        for (k, value) in labels {
            if target[k].is_null() {
                target[k] = value;
            }
        }
        // A selector that the user gave is kept: validation says whether it fits.
        let selector = &mut spec["selector"];
        if !selector["matchLabels"].is_object() {
            *selector = json!({"matchLabels": {}});
        }
        let own = &mut selector["matchLabels"]["batch.kubernetes.io/controller-uid"];
        if own.is_null() {
            *own = uid;
        }
    }
    if v["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
        v["metadata"]["labels"] = v["spec"]["template"]["metadata"]["labels"].clone();
    }
    drop_status(v)
}
