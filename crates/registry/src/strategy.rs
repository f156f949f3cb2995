//! What upstream's registries compute for a kind on create and update, beyond the default table.
//! One table from resource to function; every function does one thing.

mod definitions;
mod jobs;
pub(crate) mod pods;
mod services;

use crate::{Registry, write::set_or_remove};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_meta::{Status, time};
use coracle_schema::Kind;
use definitions::{crd_create, crd_deleted, crd_update};
use jobs::job_create;
use pods::{pod_after_defaults, pod_create, pod_template};
use serde_json::{Map, Value, json};
use services::{service_create, service_update};

type Create = fn(&Registry, &Kind, &mut Value) -> Result<(), Status>;
type AfterDefaults = fn(&mut Value);

const CREATE: &[(&str, Create)] = &[
    ("/pods", pod_create),
    ("/namespaces", namespace_create),
    ("/secrets", |_, _, v| secret(v)),
    ("/services", service_create),
    ("/persistentvolumes", |_, _, v| reset_status(v, json!({"phase": "Pending"}))),
    ("/persistentvolumeclaims", |_, _, v| reset_status(v, json!({"phase": "Pending"}))),
    ("/persistentvolumes", |r, _, v| {
        v["status"]["lastPhaseTransitionTime"] = json!(time::rfc3339(r.now()));
        Ok(())
    }),
    ("/replicationcontrollers", |_, _, v| {
        replication_controller(v);
        reset_status(v, json!({"replicas": 0}))
    }),
    ("batch/jobs", job_create),
    ("batch/cronjobs", |_, _, v| drop_status(v)),
    ("storagemigration.k8s.io/storageversionmigrations", |_, _, v| drop_status(v)),
    ("resource.k8s.io/devicetaintrules", |_, _, v| drop_status(v)),
    ("resource.k8s.io/resourceclaims", |_, _, v| drop_status(v)),
    ("certificates.k8s.io/podcertificaterequests", |_, _, v| drop_status(v)),
    ("storage.k8s.io/volumeattachments", |_, _, v| drop_status(v)),
    ("networking.k8s.io/servicecidrs", |_, _, v| drop_status(v)),
    ("autoscaling/horizontalpodautoscalers", |_, _, v| drop_status(v)),
    ("admissionregistration.k8s.io/validatingadmissionpolicies", |_, _, v| drop_status(v)),
    ("flowcontrol.apiserver.k8s.io/prioritylevelconfigurations", |_, _, v| drop_status(v)),
    ("flowcontrol.apiserver.k8s.io/flowschemas", |_, _, v| drop_status(v)),
    ("networking.k8s.io/ingresses", |_, _, v| drop_status(v)),
    ("/resourcequotas", |_, _, v| drop_status(v)),
    ("apps/deployments", |_, _, v| drop_status(v)),
    ("apps/replicasets", |_, _, v| reset_status(v, json!({"replicas": 0}))),
    ("apps/statefulsets", |_, _, v| {
        reset_status(v, json!({"replicas": 0, "availableReplicas": 0}))
    }),
    ("apps/daemonsets", daemon_set_create),
    ("policy/poddisruptionbudgets", |_, _, v| drop_status(v)),
    ("apiextensions.k8s.io/customresourcedefinitions", crd_create),
];

const AFTER_DEFAULTS: &[(&str, AfterDefaults)] = &[
    ("/pods", pod_after_defaults),
    ("apps/deployments", |v| pod_template(&mut v["spec"]["template"])),
    ("apps/replicasets", |v| pod_template(&mut v["spec"]["template"])),
    ("apps/statefulsets", |v| pod_template(&mut v["spec"]["template"])),
    ("apps/daemonsets", |v| pod_template(&mut v["spec"]["template"])),
    ("/replicationcontrollers", |v| pod_template(&mut v["spec"]["template"])),
    ("/podtemplates", |v| pod_template(&mut v["template"])),
    ("batch/jobs", |v| pod_template(&mut v["spec"]["template"])),
    ("batch/cronjobs", |v| pod_template(&mut v["spec"]["jobTemplate"]["spec"]["template"])),
    ("/namespaces", namespace_label),
    ("/limitranges", limit_range),
    ("autoscaling/horizontalpodautoscalers", autoscaler),
];

fn key(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.plural)
}

/// Whether an update may leave out the resourceVersion of what it replaces. Of these it may not;
/// nor of custom kinds.
pub(crate) fn allows_unconditional_update(kind: &Kind) -> bool {
    const CONDITIONAL: [&str; 8] = [
        "apiextensions.k8s.io/customresourcedefinitions",
        "apiregistration.k8s.io/apiservices",
        "coordination.k8s.io/leases",
        "policy/poddisruptionbudgets",
        "storage.k8s.io/csidrivers",
        "storage.k8s.io/csinodes",
        "storage.k8s.io/volumeattachments",
        "node.k8s.io/runtimeclasses",
    ];
    !kind.custom && !CONDITIONAL.contains(&key(kind).as_str())
}

/// Before defaulting, on create.
pub(crate) fn prepare_create(r: &Registry, kind: &Kind, v: &mut Value) -> Result<(), Status> {
    let key = key(kind);
    CREATE.iter().filter(|(k, _)| *k == key).try_for_each(|(_, f)| f(r, kind, v))
}

/// After defaulting, on create and update.
pub(crate) fn after_defaults(kind: &Kind, v: &mut Value) {
    let key = key(kind);
    AFTER_DEFAULTS.iter().filter(|(k, _)| *k == key).for_each(|(_, f)| f(v));
}

/// Before defaulting, on update.
pub(crate) fn prepare_update(
    r: &Registry,
    kind: &Kind,
    subresource: &str,
    old: &Value,
    new: &mut Value,
) -> Result<(), Status> {
    match (key(kind).as_str(), subresource) {
        ("/secrets", _) => secret(new),
        ("certificates.k8s.io/certificatesigningrequests", _) => {
            // Who asked, and for what, stands.
            new["spec"] = old["spec"].clone();
            Ok(())
        }
        ("/services", "") => service_update(r, old, new),
        ("/namespaces", "") => {
            // Only the finalize subresource takes finalizers away.
            set_or_remove(&mut new["spec"], "finalizers", old["spec"]["finalizers"].clone());
            Ok(())
        }
        ("apps/daemonsets", "") => {
            let generation = &old["metadata"]["annotations"][DS_GENERATION];
            let number: i64 = generation.as_str().and_then(|s| s.parse().ok()).unwrap_or(0);
            let changed = i64::from(old["spec"]["template"] != new["spec"]["template"]);
            annotate(new, DS_GENERATION, &(number + changed).to_string());
            Ok(())
        }
        ("apiextensions.k8s.io/customresourcedefinitions", "" | "status") => crd_update(r, new),
        ("/pods", "status") => {
            // The Quality-of-Service class is fixed at creation.
            set_or_remove(&mut new["status"], "qosClass", old["status"]["qosClass"].clone());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What the status of an object says once it is marked for deletion.
pub(crate) fn prepare_delete(r: &Registry, kind: &Kind, v: &mut Value) {
    match key(kind).as_str() {
        "/namespaces" => v["status"]["phase"] = json!("Terminating"),
        "apiextensions.k8s.io/customresourcedefinitions" => crd_deleted(r, v),
        _ => {}
    }
}

/// Whether an object that was marked for deletion has nothing left to wait for.
pub(crate) fn is_finished(kind: &Kind, v: &Value) -> bool {
    let meta = &v["metadata"];
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let namespace = kind.plural == "namespaces" && kind.group.is_empty();
    meta["deletionTimestamp"].is_string()
        && none(&meta["finalizers"])
        && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && (!namespace || none(&v["spec"]["finalizers"]))
}

const DS_GENERATION: &str = "deprecated.daemonset.template.generation";

fn annotate(v: &mut Value, key: &str, value: &str) {
    let annotations = &mut v["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[key] = json!(value);
}

fn drop_status(v: &mut Value) -> Result<(), Status> {
    reset_status(v, json!({}))
}

fn reset_status(v: &mut Value, status: Value) -> Result<(), Status> {
    v["status"] = status;
    Ok(())
}

fn daemon_set_create(_: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    annotate(v, DS_GENERATION, "1");
    let zero = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
    reset_status(v, zero)
}

fn namespace_create(_: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    if !v["spec"].is_object() {
        v["spec"] = json!({});
    }
    let mut finalizers = v["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push(json!("kubernetes"));
    }
    v["spec"]["finalizers"] = Value::Array(finalizers);
    reset_status(v, json!({"phase": "Active"}))
}

fn namespace_label(v: &mut Value) {
    let name = v["metadata"]["name"].clone();
    let labels = &mut v["metadata"]["labels"];
    if !labels.is_object() {
        *labels = Value::Object(Map::new());
    }
    labels["kubernetes.io/metadata.name"] = name;
}

/// What the template says, where the controller itself says nothing.
fn replication_controller(v: &mut Value) {
    let labels = v["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_none_or(Map::is_empty) {
        return;
    }
    for place in ["/spec/selector", "/metadata/labels"] {
        let absent = v.pointer(place).and_then(Value::as_object).is_none_or(Map::is_empty);
        if absent {
            let (parent, field) = place.rsplit_once('/').unwrap_or_default();
            if let Some(parent) = v.pointer_mut(parent) {
                parent[field] = labels.clone();
            }
        }
    }
}

/// Scaling rules that were given in part.
fn autoscaler(v: &mut Value) {
    let policy = |kind: &str, n: i64| json!({"type": kind, "value": n, "periodSeconds": 15});
    let behavior = &mut v["spec"]["behavior"];
    if let Some(up) = behavior.get_mut("scaleUp").filter(|u| u.is_object()) {
        if up["stabilizationWindowSeconds"].is_null() {
            up["stabilizationWindowSeconds"] = json!(0);
        }
        if up["policies"].is_null() {
            up["policies"] = json!([policy("Pods", 4), policy("Percent", 100)]);
        }
    }
    if let Some(down) = behavior.get_mut("scaleDown").filter(|d| d.is_object()) {
        if down["policies"].is_null() {
            down["policies"] = json!([policy("Percent", 100)]);
        }
    }
    if behavior.is_null() {
        set_or_remove(&mut v["spec"], "behavior", Value::Null);
    }
}

fn secret(v: &mut Value) -> Result<(), Status> {
    let Some(strings) = v.as_object_mut().and_then(|m| m.remove("stringData")) else {
        return Ok(());
    };
    for (k, text) in strings.as_object().into_iter().flatten() {
        if !v["data"].is_object() {
            v["data"] = json!({});
        }
        v["data"][k] = json!(STANDARD.encode(text.as_str().unwrap_or_default()));
    }
    Ok(())
}

fn limit_range(v: &mut Value) {
    for item in v["spec"]["limits"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter(|i| i["type"] == "Container")
    {
        for (from, to) in
            [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
        {
            for (k, q) in item[from].as_object().cloned().unwrap_or_default() {
                if !item[to].is_object() {
                    item[to] = json!({});
                }
                if item[to][&k].is_null() {
                    item[to][k] = q;
                }
            }
        }
    }
}
