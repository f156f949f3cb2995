//! Conversion between the versions of a kind. Built-in kinds are stored at the version named in
//! `STORED`, custom ones at the storage version of their definition. Versions of custom kinds differ by
//! `apiVersion` only, or are converted by a webhook, which is a port here ([`Converter`]): whoever runs
//! this API gives it.

use crate::{Registry, encoding, parse};
use bytes::Bytes;
use coracle_meta::Status;
use coracle_schema::{
    Kind,
    decode::{self, Form},
    defaults,
};
use coracle_store::Object;
use serde_json::{Map, Value, json};
use std::{fmt, sync::Arc};

/// Calls a conversion webhook: what `spec.conversion.webhook` says, and the review to send; gives the
/// review that came back, or why none did.
#[derive(Clone)]
pub struct Converter(Arc<Call>);

type Call = dyn Fn(&Value, &Value) -> Result<Value, String> + Send + Sync;

impl Converter {
    /// A way to call webhooks. It may take as long as the network does: requests that need it wait.
    pub fn new(
        call: impl Fn(&Value, &Value) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(call))
    }
}

impl fmt::Debug for Converter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Converter")
    }
}

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
    if let Some(d) = &kind.definition {
        return coracle_meta::gvk::api_version(&kind.group, &d.storage_version);
    }
    STORED
        .iter()
        .find(|(g, p, _)| *g == kind.group && *p == kind.plural)
        .map_or_else(|| kind.api_version(), |(_, _, v)| (*v).to_owned())
}

impl Registry {
    /// Gives the way to call conversion webhooks; the first one counts.
    pub fn set_converter(&self, converter: Converter) {
        // A second one would be a second server over this registry: it calls alike.
        let _ = self.converter.set(converter);
    }

    /// Stored objects' bytes at the version of a kind.
    ///
    /// # Errors
    /// 500 when a stored object cannot be read, or its webhook does not convert it.
    pub fn present_all(&self, kind: &Kind, objects: &[Arc<Object>]) -> Result<Vec<Bytes>, Status> {
        let stale: Vec<usize> =
            (0..objects.len()).filter(|i| !is_fresh(kind, &objects[*i])).collect();
        let mut all: Vec<Bytes> = objects.iter().map(|o| o.bytes.clone()).collect();
        let mut values =
            stale.iter().map(|i| parse(&objects[*i])).collect::<Result<Vec<_>, _>>()?;
        self.read_back(kind, &mut values)?;
        for (i, v) in stale.into_iter().zip(&values) {
            all[i] = encoding::bytes(v)?;
        }
        Ok(all)
    }

    /// Brings stored objects to the version of a kind. What was stored under an older definition is
    /// pruned and defaulted as the definition is now.
    pub(crate) fn read_back(&self, kind: &Kind, values: &mut [Value]) -> Result<(), Status> {
        if kind.custom {
            for v in values.iter_mut() {
                self.follow_definition(kind, v);
            }
        }
        self.converted(kind, &kind.api_version(), values)
    }

    fn follow_definition(&self, kind: &Kind, v: &mut Value) {
        let (_, version) =
            coracle_meta::gvk::split_api_version(v["apiVersion"].as_str().unwrap_or_default());
        if let Some(stored) = self.kinds().known(&kind.group, version, &kind.plural) {
            let meta = v["metadata"].take();
            decode::decode(stored.arena(), stored.root(), v, Form::Custom, true);
            defaults::apply(stored.arena(), stored.root(), v);
            v["metadata"] = meta;
        }
    }

    /// Brings an object of a kind's version to the one that is stored.
    pub(crate) fn for_storage(&self, kind: &Kind, v: &mut Value) -> Result<(), Status> {
        self.converted(kind, &stored_api_version(kind), std::slice::from_mut(v))
    }

    fn converted(&self, kind: &Kind, wanted: &str, values: &mut [Value]) -> Result<(), Status> {
        let webhook = kind.definition.as_ref().and_then(|d| d.webhook.as_ref());
        if let Some(webhook) = webhook {
            let mut stale: Vec<&mut Value> =
                values.iter_mut().filter(|v| v["apiVersion"] != *wanted).collect();
            return self
                .by_webhook(webhook, wanted, &mut stale)
                .map_err(|e| Status::new(500, "", e));
        }
        for v in values.iter_mut().filter(|v| v["apiVersion"] != *wanted) {
            if !kind.custom {
                between_built_in(kind, wanted, v);
            }
            v["apiVersion"] = json!(wanted);
        }
        Ok(())
    }

    /// One call for all objects; what comes back must be the same objects at the wanted version.
    fn by_webhook(
        &self,
        webhook: &Value,
        wanted: &str,
        values: &mut [&mut Value],
    ) -> Result<(), String> {
        let Some(first) = values.first() else { return Ok(()) };
        let about = format!(
            "{}, Kind={}",
            first["apiVersion"].as_str().unwrap_or_default(),
            first["kind"].as_str().unwrap_or_default()
        );
        let failed = |why: String| format!("conversion webhook for {about} failed: {why}");
        let converter =
            self.converter.get().ok_or_else(|| failed("this server calls no webhooks".into()))?;
        let review_version = webhook["conversionReviewVersions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find(|v| ["v1", "v1beta1"].contains(v))
            .ok_or_else(|| failed("no supported conversion review versions".into()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let objects: Vec<&Value> = values.iter().map(|v| &**v).collect();
        let api_version = format!("apiextensions.k8s.io/{review_version}");
        let review = json!({
            "kind": "ConversionReview", "apiVersion": api_version,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
        });
        let answer = (converter.0)(webhook, &review).map_err(failed)?;
        let response = &answer["response"];
        check_answer(&answer, &api_version, &uid).map_err(failed)?;
        let count = response["convertedObjects"].as_array().map_or(0, Vec::len);
        if count != values.len() {
            return Err(format!(
                "conversion webhook for {about} returned {count} objects, expected {}",
                values.len()
            ));
        }
        for (i, v) in values.iter_mut().enumerate() {
            let new = &response["convertedObjects"][i];
            **v = same_object(v, new, wanted, i)
                .map_err(|e| format!("conversion webhook for {about} returned {e}"))?;
        }
        Ok(())
    }
}

fn check_answer(answer: &Value, api_version: &str, uid: &str) -> Result<(), String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let given = (text(&answer["apiVersion"]), text(&answer["kind"]));
    if given != (api_version.to_owned(), "ConversionReview".to_owned()) {
        return Err(format!(
            "expected webhook response of {api_version}, Kind=ConversionReview, got {}, Kind={}",
            given.0, given.1
        ));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let got = text(&response["uid"]);
    if got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let status = text(&response["result"]["status"]);
    if status != "Success" {
        let message = text(&response["result"]["message"]);
        return Err(if message.is_empty() {
            format!("response.result.status was '{status}', not 'Success'")
        } else {
            message
        });
    }
    Ok(())
}

/// The converted object, with the metadata that a webhook may not change.
fn same_object(old: &Value, new: &Value, wanted: &str, i: usize) -> Result<Value, String> {
    if new["apiVersion"] != wanted {
        let got = new["apiVersion"].as_str().unwrap_or_default();
        return Err(format!(
            "invalid converted object at index {i}: invalid groupVersion (expected {wanted}, received {got})"
        ));
    }
    let text = |v: &Value, f: &str| v["metadata"][f].as_str().unwrap_or_default().to_owned();
    if new["kind"] != old["kind"] {
        return Err(format!(
            "invalid converted object at index {i}: must have the same kind: {} != {}",
            new["kind"], old["kind"]
        ));
    }
    for (field, word) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        if text(old, field) != text(new, field) {
            return Err(format!(
                "invalid converted object at index {i}: must have the same {word}: {} != {}",
                text(old, field),
                text(new, field)
            ));
        }
    }
    let mut v = new.clone();
    v["metadata"] = old["metadata"].clone();
    for field in ["labels", "annotations"] {
        crate::write::set_or_remove(&mut v["metadata"], field, new["metadata"][field].clone());
    }
    Ok(v)
}

/// Whether a stored object can be sent as it is: it is of the kind's version, and was written when the
/// definition was what it is now.
pub(crate) fn is_fresh(kind: &Kind, object: &Object) -> bool {
    encoding::is_at(kind, &object.bytes)
        && kind.definition.as_ref().is_none_or(|d| object.revision > d.revision)
}

fn between_built_in(kind: &Kind, wanted: &str, v: &mut Value) {
    let to_stored = wanted == stored_api_version(kind);
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("events.k8s.io", "events") => {
            rename(v, |(core, new)| if to_stored { (new, core) } else { (core, new) });
        }
        ("autoscaling", "horizontalpodautoscalers") if to_stored => hpa_v1_to_v2(v),
        ("autoscaling", "horizontalpodautoscalers") => hpa_v2_to_v1(v),
        _ => {}
    }
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
    let annotations = v["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
    let annotation = annotations.and_then(|a| a.remove(METRICS));
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
