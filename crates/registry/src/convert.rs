//! Conversion between the versions of a kind. Stored is the version named in `STORED`; custom
//! resources differ by `apiVersion` only.

use coracle_schema::Kind;
use serde_json::{Map, Value, json};

/// The stored form of kinds that are served in several.
const STORED: [(&str, &str, &str); 2] = [
    ("events.k8s.io", "events", "v1"),
    ("autoscaling", "horizontalpodautoscalers", "autoscaling/v2"),
];

/// Fields of core events (left) and `events.k8s.io` events (right).
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";

/// The `apiVersion` that objects of a kind are stored with.
pub(crate) fn stored_api_version(kind: &Kind) -> String {
    STORED
        .iter()
        .find(|(g, p, _)| *g == kind.group && *p == kind.plural)
        .map_or_else(|| kind.api_version(), |(_, _, v)| (*v).to_owned())
}

/// Whether stored bytes can be sent as they are to a client of this version.
pub(crate) fn is_current(kind: &Kind, bytes: &[u8]) -> bool {
    // Keys are stored in order, so apiVersion comes first.
    let mut rest = bytes;
    let mut eat = |text: &str| match rest.strip_prefix(text.as_bytes()) {
        Some(tail) => {
            rest = tail;
            true
        }
        None => false,
    };
    eat("{\"apiVersion\":\"")
        && (kind.group.is_empty() || (eat(&kind.group) && eat("/")))
        && eat(&kind.version)
        && eat("\"")
}

/// Brings a stored object to the version of a kind.
pub(crate) fn from_stored(kind: &Kind, v: &mut Value) {
    let current = kind.api_version();
    if v["apiVersion"] == current.as_str() {
        return;
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("events.k8s.io", "events") => rename(v, |(core, new)| (core, new)),
        ("autoscaling", "horizontalpodautoscalers") => hpa_v2_to_v1(v),
        _ => {}
    }
    v["apiVersion"] = json!(current);
}

/// Brings an object of a kind's version to the stored one.
pub(crate) fn to_stored(kind: &Kind, v: &mut Value) {
    let stored = stored_api_version(kind);
    if v["apiVersion"] == stored.as_str() {
        return;
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("events.k8s.io", "events") => rename(v, |(core, new)| (new, core)),
        ("autoscaling", "horizontalpodautoscalers") => hpa_v1_to_v2(v),
        _ => {}
    }
    v["apiVersion"] = json!(stored);
}

fn rename(
    v: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = v.as_object_mut() else { return };
    for pair in EVENT_FIELDS {
        let (from, to) = direction(pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

fn cpu_metric(target: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}})
}

fn hpa_v1_to_v2(v: &mut Value) {
    let annotation = v["metadata"]["annotations"].as_object_mut().and_then(|a| a.remove(METRICS));
    let mut metrics: Vec<Value> =
        annotation.and_then(|a| serde_json::from_str(a.as_str()?).ok()).unwrap_or_default();
    if let Some(spec) = v["spec"].as_object_mut() {
        let target = spec.remove("targetCPUUtilizationPercentage");
        if let Some(t) = target.or_else(|| metrics.is_empty().then(|| json!(80))) {
            metrics.insert(0, cpu_metric(&t));
        }
        spec.insert("metrics".into(), Value::Array(metrics));
    }
    if let Some(status) = v["status"].as_object_mut() {
        if let Some(current) = status.remove("currentCPUUtilizationPercentage") {
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": current, "averageValue": "0"}}});
            status.insert("currentMetrics".into(), json!([metric]));
        }
    }
}

fn hpa_v2_to_v1(v: &mut Value) {
    let is_cpu = |m: &Value| {
        m["resource"]["name"] == "cpu" && m["resource"]["target"]["type"] == "Utilization"
    };
    let mut others = Vec::new();
    if let Some(spec) = v["spec"].as_object_mut() {
        for m in spec.remove("metrics").and_then(|m| m.as_array().cloned()).unwrap_or_default() {
            if is_cpu(&m) && !spec.contains_key("targetCPUUtilizationPercentage") {
                let target = m["resource"]["target"]["averageUtilization"].clone();
                spec.insert("targetCPUUtilizationPercentage".into(), target);
            } else {
                others.push(m);
            }
        }
        spec.remove("behavior");
    }
    if let Some(status) = v["status"].as_object_mut() {
        let metrics = status.remove("currentMetrics").unwrap_or_default();
        status.remove("conditions");
        let cpu = metrics.as_array().into_iter().flatten().find(|m| m["resource"]["name"] == "cpu");
        if let Some(current) = cpu.map(|m| m["resource"]["current"]["averageUtilization"].clone()) {
            status.insert("currentCPUUtilizationPercentage".into(), current);
        }
    }
    if !others.is_empty() {
        let annotations = &mut v["metadata"]["annotations"];
        if !annotations.is_object() {
            *annotations = Value::Object(Map::new());
        }
        annotations[METRICS] = json!(Value::Array(others).to_string());
    }
}
