//! CustomResourceDefinitions: names, conditions, stored versions.

use super::reset_status;
use crate::Registry;
use coracle_meta::{Status, time};
use coracle_schema::Kind;
use serde_json::{Value, json};

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CRD_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(super) fn crd_names(v: &mut Value) {
    let names = &mut v["spec"]["names"];
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    if names["singular"].as_str().unwrap_or_default().is_empty() {
        names["singular"] = json!(kind.to_lowercase());
    }
    if names["listKind"].as_str().unwrap_or_default().is_empty() {
        names["listKind"] = json!(format!("{kind}List"));
    }
}

pub(super) fn crd_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    crd_names(v);
    v["metadata"]["finalizers"] = json!([CRD_FINALIZER]);
    let now = time::rfc3339(r.now());
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let storage =
        v["spec"]["versions"].as_array().into_iter().flatten().find(|x| x["storage"] == true);
    let stored: Vec<Value> = storage.map(|s| s["name"].clone()).into_iter().collect();
    let status = json!({
        "acceptedNames": v["spec"]["names"],
        "storedVersions": stored,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    reset_status(v, status)
}

pub(super) fn crd_update(new: &mut Value) -> Result<(), Status> {
    crd_names(new);
    new["status"]["acceptedNames"] = new["spec"]["names"].clone();
    let versions = new["spec"]["versions"].as_array().cloned().unwrap_or_default();
    if let Some(storage) = versions.iter().find(|x| x["storage"] == true) {
        let stored = &mut new["status"]["storedVersions"];
        let mut list = stored.as_array().cloned().unwrap_or_default();
        if !list.contains(&storage["name"]) {
            list.push(storage["name"].clone());
        }
        *stored = Value::Array(list);
    }
    Ok(())
}
