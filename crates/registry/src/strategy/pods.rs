//! Pods and the templates of pods.

use super::reset_status;
use crate::{Registry, write::set_or_remove};
use coracle_meta::{Quantity, Status, time};
use coracle_schema::{Kind, rules::container_requests};
use serde_json::{Value, json};

pub(super) fn containers(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = ["containers", "initContainers", "ephemeralContainers"];
    spec.as_object_mut()
        .into_iter()
        .flatten()
        .filter(move |(k, _)| fields.contains(&k.as_str()))
        .filter_map(|(_, v)| v.as_array_mut())
        .flatten()
}

/// `Always` for images without a tag or with `latest`.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    match (name.contains('@'), name.split('@').next().unwrap_or("").rsplit_once(':')) {
        (_, Some((_, "latest"))) | (false, None) => "Always",
        _ => "IfNotPresent",
    }
}

pub(super) fn pod_template(template: &mut Value) {
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
        .find(|a| a.as_str().is_some_and(|a| !a.is_empty()))
        .cloned();
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(image) = volume.get_mut("image").filter(|i| i["pullPolicy"].is_null()) {
            let policy = pull_policy(image["reference"].as_str().unwrap_or_default());
            image["pullPolicy"] = json!(policy);
        }
    }
    if let Some(account) = account {
        spec["serviceAccountName"] = account.clone();
        spec["serviceAccount"] = account;
    }
}

pub(super) fn pod_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    if !v["spec"].is_object() {
        return Ok(());
    }
    select_own_labels(v);
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

/// `matchLabelKeys` and `mismatchLabelKeys` of a new pod's affinity and spread become part of their
/// selectors, with the pod's own values (KEP-3633, KEP-3243).
fn select_own_labels(v: &mut Value) {
    let labels = v["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let add = |term: &mut Value| {
        if !term["labelSelector"].is_object() {
            return;
        }
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in term[field].as_array().cloned().unwrap_or_default() {
                let Some(value) = key.as_str().and_then(|k| labels.get(k)) else { continue };
                let more = json!({"key": key, "operator": operator, "values": [value]});
                match term["labelSelector"]["matchExpressions"].as_array_mut() {
                    Some(all) => all.push(more),
                    None => term["labelSelector"]["matchExpressions"] = json!([more]),
                }
            }
        }
    };
    let spec = &mut v["spec"];
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.pointer_mut(&format!("/affinity/{kind}")) else { continue };
        for (list, inner) in [
            ("/requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("/preferredDuringSchedulingIgnoredDuringExecution", "/podAffinityTerm"),
        ] {
            let terms = affinity.pointer_mut(list).and_then(Value::as_array_mut);
            terms.into_iter().flatten().filter_map(|t| t.pointer_mut(inner)).for_each(add);
        }
    }
    let spread = spec.pointer_mut("/topologySpreadConstraints").and_then(Value::as_array_mut);
    spread.into_iter().flatten().for_each(add);
}

/// Requests of a pod as a whole, where it has limits: what its containers request, else the limit
/// (KEP-2837).
fn pod_requests(spec: &mut Value) {
    let Some(limits) = spec["resources"]["limits"].as_object().filter(|l| !l.is_empty()).cloned()
    else {
        return;
    };
    for name in ["cpu", "memory"] {
        if !spec["resources"]["requests"][name].is_null() {
            continue;
        }
        let sum = container_requests(spec, name).map(|q| json!(q.to_string()));
        if let Some(q) = sum.or_else(|| limits.get(name).cloned()) {
            spec["resources"]["requests"][name] = q;
        }
    }
    for (name, q) in limits {
        let huge = name.starts_with("hugepages-");
        if huge && spec["resources"]["requests"][&name].is_null() {
            spec["resources"]["requests"][name] = q;
        }
    }
}

/// Upstream keeps amounts in thousandths at the finest.
fn round_up(resources: &mut Value) {
    for list in ["/requests", "/limits"] {
        let amounts = resources.pointer_mut(list).and_then(Value::as_object_mut);
        for (_, q) in amounts.into_iter().flatten() {
            let exact = q.as_str().and_then(|s| s.parse::<Quantity>().ok());
            if let Some(e) = exact.filter(|e| e.nanos() % 1_000_000 != 0) {
                let millis = e.nanos().div_euclid(1_000_000) + 1;
                *q = json!(e.with_nanos(millis * 1_000_000).to_string());
            }
        }
    }
}

pub(super) fn pod_after_defaults(v: &mut Value) {
    pod_template_of_pod(v);
    let spec = &mut v["spec"];
    if !spec.is_object() {
        return;
    }
    if spec["enableServiceLinks"].is_null() {
        spec["enableServiceLinks"] = json!(true);
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|n| n < 0) {
        spec["terminationGracePeriodSeconds"] = json!(1);
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
    for c in containers(spec) {
        if let Some(r) = c.get_mut("resources") {
            round_up(r);
        }
    }
    if spec.get("resources").is_some_and(Value::is_object) {
        pod_requests(spec);
    }
    if v["status"]["qosClass"].is_null() {
        let class = qos_class(&v["spec"]);
        v["status"]["qosClass"] = json!(class);
    }
}

pub(super) fn pod_template_of_pod(v: &mut Value) {
    let mut template = json!({"spec": v["spec"].take()});
    pod_template(&mut template);
    v["spec"] = template["spec"].take();
}

/// Guaranteed, Burstable or BestEffort, as the resources say.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let amount =
        |v: &Value| v.as_str().and_then(|s| s.parse::<Quantity>().ok()).filter(|q| q.nanos() > 0);
    let (mut any, mut guaranteed) = (false, true);
    let lists = ["containers", "initContainers"];
    let each = lists.iter().flat_map(|l| spec[l].as_array().into_iter().flatten());
    // Resources of the pod as a whole decide alone (KEP-2837).
    let whole = spec["resources"].is_object().then_some(spec);
    let counted: Vec<&Value> = whole.map_or_else(|| each.collect(), |w| vec![w]);
    for c in counted {
        for resource in ["cpu", "memory"] {
            let (request, limit) = (
                amount(&c["resources"]["requests"][resource]),
                amount(&c["resources"]["limits"][resource]),
            );
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
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
