//! What upstream's registries compute for a kind on create and update, beyond the default table.
//! One table from resource to function; every function does one thing.

use crate::{Registry, write::set_or_remove};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_meta::{Quantity, Status, json as path, status::FieldError, time};
use coracle_schema::Kind;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::atomic::Ordering};

type Create = fn(&Registry, &Kind, &mut Value) -> Result<(), Status>;
type AfterDefaults = fn(&mut Value);

const CREATE: &[(&str, Create)] = &[
    ("/pods", pod_create),
    ("/namespaces", namespace_create),
    ("/secrets", |_, _, v| secret(v)),
    ("/services", service_create),
    ("/persistentvolumes", |_, _, v| reset_status(v, json!({"phase": "Pending"}))),
    ("/persistentvolumeclaims", |_, _, v| reset_status(v, json!({"phase": "Pending"}))),
    ("batch/jobs", job_create),
    ("batch/cronjobs", |_, _, v| drop_status(v)),
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
    ("batch/jobs", |v| pod_template(&mut v["spec"]["template"])),
    ("batch/cronjobs", |v| pod_template(&mut v["spec"]["jobTemplate"]["spec"]["template"])),
    ("/namespaces", namespace_label),
    ("/limitranges", limit_range),
];

fn key(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.plural)
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
        ("apiextensions.k8s.io/customresourcedefinitions", "") => crd_update(new),
        ("/pods", "status") => {
            // The Quality-of-Service class is fixed at creation.
            set_or_remove(&mut new["status"], "qosClass", old["status"]["qosClass"].clone());
            Ok(())
        }
        _ => Ok(()),
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

// Services.

/// The first address of the service network 10.96.0.0/12.
const SERVICE_NETWORK: u32 = 0x0A60_0000;
/// Addresses below this offset are left for well-known services.
const SERVICE_FIRST: u32 = 256;
const SERVICE_SIZE: u32 = 1 << 20;

fn service_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    let spec = &mut v["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    if spec["type"] == "ExternalName" {
        return reset_status(v, json!({"loadBalancer": {}}));
    }
    let given = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let ip = match given.as_str() {
        "" => free_service_ip(r)?,
        "None" => given,
        ip if ip.parse::<std::net::IpAddr>().is_ok() => given,
        ip => {
            let e = FieldError::invalid(
                "spec.clusterIPs[0]",
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
            return Err(Status::invalid("", "Service", path::text(v, "metadata.name"), vec![e]));
        }
    };
    spec["clusterIP"] = json!(ip);
    spec["clusterIPs"] = json!([ip]);
    let headless_without_selector =
        ip == "None" && spec["selector"].as_object().is_none_or(Map::is_empty);
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] =
            if headless_without_selector { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
    }
    if spec["ipFamilyPolicy"].is_null() {
        let policy = if headless_without_selector { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = json!(policy);
    }
    allocate_node_ports(r, spec);
    reset_status(v, json!({"loadBalancer": {}}))
}

fn service_update(r: &Registry, old: &Value, new: &mut Value) -> Result<(), Status> {
    if new["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if new["spec"][f].is_null() && !old["spec"][f].is_null() {
            new["spec"][f] = old["spec"][f].clone();
        }
    }
    allocate_node_ports(r, &mut new["spec"]);
    Ok(())
}

fn services(r: &Registry) -> Vec<Value> {
    let snapshot = r.store().snapshot("/services");
    snapshot.iter(None, None).filter_map(|(_, o)| serde_json::from_slice(&o.bytes).ok()).collect()
}

fn free_service_ip(r: &Registry) -> Result<String, Status> {
    let used: std::collections::HashSet<String> =
        services(r).iter().map(|s| path::text(s, "spec.clusterIP").to_owned()).collect();
    for _ in 0..SERVICE_SIZE {
        let n =
            r.next_service_ip.fetch_add(1, Ordering::Relaxed) % (SERVICE_SIZE - SERVICE_FIRST - 1);
        let ip = std::net::Ipv4Addr::from(SERVICE_NETWORK + SERVICE_FIRST + n).to_string();
        if !used.contains(&ip) {
            return Ok(ip);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

fn allocate_node_ports(r: &Registry, spec: &mut Value) {
    let kind = spec["type"].as_str().unwrap_or_default();
    if kind != "NodePort"
        && (kind != "LoadBalancer" || spec["allocateLoadBalancerNodePorts"] == false)
    {
        return;
    }
    let all = services(r);
    let ports = all.iter().flat_map(|s| s["spec"]["ports"].as_array().cloned().unwrap_or_default());
    let mut used: std::collections::BTreeSet<i64> =
        ports.filter_map(|p| p["nodePort"].as_i64()).collect();
    for p in spec["ports"].as_array_mut().into_iter().flatten() {
        if p["nodePort"].as_i64().unwrap_or(0) == 0 {
            if let Some(port) = (30000..32768).find(|n| !used.contains(n)) {
                used.insert(port);
                p["nodePort"] = json!(port);
            }
        }
    }
}

// Pods and their templates.

fn containers(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = ["containers", "initContainers", "ephemeralContainers"];
    spec.as_object_mut()
        .into_iter()
        .flatten()
        .filter(move |(k, _)| fields.contains(&k.as_str()))
        .filter_map(|(_, v)| v.as_array_mut())
        .flatten()
}

/// `Always` for images without a tag or with `latest`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    match (name.contains('@'), name.split('@').next().unwrap_or("").rsplit_once(':')) {
        (_, Some((_, "latest"))) | (false, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn pod_template(template: &mut Value) {
    let spec = &mut template["spec"];
    if !spec.is_object() {
        return;
    }
    for c in containers(spec) {
        if c["imagePullPolicy"].as_str().unwrap_or_default().is_empty() {
            let policy = pull_policy(c["image"].as_str().unwrap_or_default());
            c["imagePullPolicy"] = json!(policy);
        }
    }
    let account = [&spec["serviceAccountName"], &spec["serviceAccount"]]
        .into_iter()
        .find(|a| a.is_string())
        .cloned();
    if let Some(account) = account {
        spec["serviceAccountName"] = account.clone();
        spec["serviceAccount"] = account;
    }
}

fn pod_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    if !v["spec"].is_object() {
        return Ok(());
    }
    let mut status = json!({"phase": "Pending"});
    if v["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": time::rfc3339(r.now()),
        }]);
    }
    reset_status(v, status)
}

fn pod_after_defaults(v: &mut Value) {
    pod_template_of_pod(v);
    let spec = &mut v["spec"];
    if !spec.is_object() {
        return;
    }
    if spec["enableServiceLinks"].is_null() {
        spec["enableServiceLinks"] = json!(true);
    }
    let host_network = spec["hostNetwork"] == true;
    for field in ["containers", "initContainers"] {
        for c in spec[field].as_array_mut().into_iter().flatten() {
            for (k, q) in c["resources"]["limits"].as_object().cloned().unwrap_or_default() {
                if !c["resources"]["requests"].is_object() {
                    c["resources"]["requests"] = json!({});
                }
                if c["resources"]["requests"][&k].is_null() {
                    c["resources"]["requests"][k] = q;
                }
            }
            let ports = c.get_mut("ports").and_then(Value::as_array_mut);
            for p in ports.into_iter().flatten().filter(|_| host_network) {
                if p["hostPort"].as_i64().unwrap_or(0) == 0 {
                    p["hostPort"] = p["containerPort"].clone();
                }
            }
        }
        // Index access creates nulls where the field was absent.
        if spec[field].is_null() {
            set_or_remove(spec, field, Value::Null);
        }
    }
    if v["status"]["qosClass"].is_null() {
        let class = qos_class(&v["spec"]);
        v["status"]["qosClass"] = json!(class);
    }
}

fn pod_template_of_pod(v: &mut Value) {
    let mut template = json!({"spec": v["spec"].take()});
    pod_template(&mut template);
    v["spec"] = template["spec"].take();
}

/// Guaranteed, Burstable or BestEffort, as the resources say.
fn qos_class(spec: &Value) -> &'static str {
    let amount =
        |v: &Value| v.as_str().and_then(|s| s.parse::<Quantity>().ok()).filter(|q| q.nanos() > 0);
    let (mut any, mut guaranteed) = (false, true);
    for field in ["containers", "initContainers"] {
        for c in spec[field].as_array().into_iter().flatten() {
            for resource in ["cpu", "memory"] {
                let (request, limit) = (
                    amount(&c["resources"]["requests"][resource]),
                    amount(&c["resources"]["limits"][resource]),
                );
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request == limit;
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn job_create(_: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
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
        spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    }
    if v["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
        v["metadata"]["labels"] = v["spec"]["template"]["metadata"]["labels"].clone();
    }
    drop_status(v)
}

// CustomResourceDefinitions.

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CRD_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

fn crd_names(v: &mut Value) {
    let names = &mut v["spec"]["names"];
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    if names["singular"].as_str().unwrap_or_default().is_empty() {
        names["singular"] = json!(kind.to_lowercase());
    }
    if names["listKind"].as_str().unwrap_or_default().is_empty() {
        names["listKind"] = json!(format!("{kind}List"));
    }
}

fn crd_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
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

fn crd_update(new: &mut Value) -> Result<(), Status> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:ab", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn qos_classes() {
        let pod = |r: Value| json!({"containers": [{"resources": r}]});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": both, "limits": both}))), "Guaranteed");
    }
}
