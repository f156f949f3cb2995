//! The built-in admission steps: namespace lifecycle, service accounts, priority, default
//! tolerations. Webhooks and policies follow upstream's order around them when they come.

use crate::{Registry, write::set_or_remove};
use coracle_meta::{Status, json as path};
use coracle_schema::Kind;
use coracle_store::Key;
use serde_json::{Value, json};
use std::sync::Arc;

/// Runs on create, after defaulting.
pub(crate) fn create(
    r: &Registry,
    kind: &Kind,
    namespace: &str,
    v: &mut Value,
) -> Result<(), Status> {
    if kind.namespaced() && r.admits_by("NamespaceLifecycle") {
        namespace_lifecycle(r, kind, namespace, v)?;
    }
    if kind.definition.as_ref().is_some_and(|d| d.terminating) {
        let why = "create not allowed while custom resource definition is terminating";
        let name = path::text(v, "metadata.name");
        return Err(Status::forbidden(&kind.group_resource(), name, why));
    }
    if kind.group.is_empty() && kind.plural == "pods" {
        if r.admits_by("ServiceAccount") {
            service_account(r, namespace, v)?;
        }
        if r.admits_by("Priority") {
            priority(r, v)?;
        }
        if r.admits_by("DefaultTolerationSeconds") {
            default_tolerations(v);
        }
    }
    Ok(())
}

/// Runs on update: what admission set on create, a writer need not repeat.
pub(crate) fn update(r: &Registry, kind: &Kind, subresource: &str, old: &Value, v: &mut Value) {
    if !kind.group.is_empty() || kind.plural != "pods" || !subresource.is_empty() {
        return;
    }
    if r.admits_by("Priority") {
        for f in ["priority", "preemptionPolicy"] {
            if v["spec"][f].is_null() {
                set_or_remove(&mut v["spec"], f, old["spec"][f].clone());
            }
        }
    }
    if r.admits_by("DefaultTolerationSeconds") {
        default_tolerations(v);
    }
}

fn lookup(r: &Registry, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
    let object = r.store().get(&Key::new(&Arc::from(resource), namespace, name))?;
    r.parsed(&object).ok()
}

/// Nothing is created in a namespace that is missing or going away.
fn namespace_lifecycle(
    r: &Registry,
    kind: &Kind,
    namespace: &str,
    v: &Value,
) -> Result<(), Status> {
    let Some(ns) = lookup(r, "/namespaces", "", namespace) else {
        return Err(Status::not_found(
            &coracle_meta::GroupResource::new("", "namespaces"),
            namespace,
        ));
    };
    if ns["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut s = Status::forbidden(&kind.group_resource(), path::text(v, "metadata.name"), &why);
    s.causes = vec![coracle_meta::status::Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    }];
    Err(s)
}

/// Every pod runs as a service account and gets its token mounted.
fn service_account(r: &Registry, namespace: &str, v: &mut Value) -> Result<(), Status> {
    let name = match path::text(v, "spec.serviceAccountName") {
        "" => "default".to_owned(),
        n => n.to_owned(),
    };
    let pods = coracle_meta::GroupResource::new("", "pods");
    let Some(account) = lookup(r, "/serviceaccounts", namespace, &name) else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        );
        return Err(Status::forbidden(&pods, path::text(v, "metadata.name"), &why));
    };
    let random = path::text(v, "metadata.uid").get(..5).unwrap_or("token").to_owned();
    let spec = &mut v["spec"];
    spec["serviceAccountName"] = json!(name);
    spec["serviceAccount"] = json!(name);
    let wanted = [&spec["automountServiceAccountToken"], &account["automountServiceAccountToken"]];
    if wanted.into_iter().find(|a| a.is_boolean()).is_some_and(|a| a == false) {
        return Ok(());
    }
    const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let volume = format!("kube-api-access-{random}");
    let mut used = false;
    for field in ["containers", "initContainers"] {
        for c in spec[field].as_array_mut().into_iter().flatten() {
            let mounts = c["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().all(|m| m["mountPath"] != MOUNT) {
                let mount = json!({"name": volume, "mountPath": MOUNT, "readOnly": true});
                c["volumeMounts"] = Value::Array([mounts, vec![mount]].concat());
                used = true;
            }
        }
        if spec[field].is_null() {
            crate::write::set_or_remove(spec, field, Value::Null);
        }
    }
    if used {
        let projected = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        spec["volumes"] = Value::Array([volumes, vec![projected]].concat());
    }
    Ok(())
}

/// Resolves the priority class to a number.
fn priority(r: &Registry, v: &mut Value) -> Result<(), Status> {
    let name = path::text(v, "spec.priorityClassName").to_owned();
    let class = if name.is_empty() {
        let all = r.store().snapshot("scheduling.k8s.io/priorityclasses");
        let parsed = all.iter(None, None).filter_map(|(_, o)| r.parsed(o).ok());
        parsed.filter(|c| c["globalDefault"] == true).min_by_key(|c| c["value"].as_i64())
    } else {
        let found = lookup(r, "scheduling.k8s.io/priorityclasses", "", &name);
        if found.is_none() {
            let pods = coracle_meta::GroupResource::new("", "pods");
            let why = format!("no PriorityClass with name {name} was found");
            return Err(Status::forbidden(&pods, path::text(v, "metadata.name"), &why));
        }
        found
    };
    let name = path::text(v, "metadata.name").to_owned();
    let spec = &mut v["spec"];
    let (value, preemption) = match &class {
        Some(c) => {
            spec["priorityClassName"] = c["metadata"]["name"].clone();
            (c["value"].clone(), c["preemptionPolicy"].clone())
        }
        None => (json!(0), Value::Null),
    };
    let preemption = if preemption.is_null() { json!("PreemptLowerPriority") } else { preemption };
    let given = [
        (&spec["priority"], &value, "integer value of priority"),
        (&spec["preemptionPolicy"], &preemption, "string value of PreemptionPolicy"),
    ];
    for (given, computed, what) in given {
        if !given.is_null() && given != computed {
            let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let why = format!(
                "the {what} ({}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                plain(given),
                plain(computed)
            );
            let pods = coracle_meta::GroupResource::new("", "pods");
            return Err(Status::forbidden(&pods, &name, &why));
        }
    }
    spec["priority"] = value;
    spec["preemptionPolicy"] = preemption;
    Ok(())
}

/// Pods survive a node's absence for five minutes unless they say otherwise.
fn default_tolerations(v: &mut Value) {
    let spec = &mut v["spec"];
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            let any_key = t["key"].is_null() && t["operator"] == "Exists";
            (any_key || t["key"] == key)
                && (t["effect"].is_null() || t["effect"] == "" || t["effect"] == "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    spec["tolerations"] = Value::Array(tolerations);
}
