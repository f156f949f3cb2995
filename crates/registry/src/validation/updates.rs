//! What of an object may not change any more, where a table cannot say it.

use crate::strategy::pods::qos_class;
use coracle_meta::{json as path, status::FieldError};
use coracle_schema::validate::changed;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const IMMUTABLE: &str = "field is immutable";

fn fixed(v: &Value, old: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if changed(old, v, field) {
        let given = path::get(v, field).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(field, given, IMMUTABLE));
    }
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Refuses the fields that differ. Upstream shows a difference of its internal structs here; their
/// names say the same shortly.
fn same_spec(new: &Value, old: &Value, why: &str, errors: &mut Vec<FieldError>) {
    let names =
        [new, old].into_iter().filter_map(Value::as_object).flatten().map(|(k, _)| k.as_str());
    let changed: BTreeSet<&str> = names.filter(|k| new.get(*k) != old.get(*k)).collect();
    if !changed.is_empty() {
        let names: Vec<&str> = changed.into_iter().collect();
        let why = format!("{why}; changed: {}", names.join(", "));
        errors.push(FieldError::forbidden("spec", why));
    }
}

/// Only a few fields of a pod's spec may change.
pub(super) fn pod(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let Some(old) = old else { return };
    let (new, was) = (&v["spec"], &old["spec"]);
    for f in ["containers", "initContainers"] {
        if list(&new[f]).len() != list(&was[f]).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{f}"), why));
            return;
        }
    }
    deadline(&new["activeDeadlineSeconds"], &was["activeDeadlineSeconds"], errors);
    tolerations(&new["tolerations"], &was["tolerations"], errors);
    let gated = gates(new, was, errors);
    let selector_grows = gated && only_grows(&new["nodeSelector"], &was["nodeSelector"], errors);
    let rest = |spec: &Value| {
        let mut spec = spec.clone();
        let Some(map) = spec.as_object_mut() else { return Value::Null };
        for f in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            map.remove(f);
        }
        // A negative period was once taken.
        if was["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
            map.remove("terminationGracePeriodSeconds");
        }
        for f in ["containers", "initContainers"] {
            let containers = map.get_mut(f).and_then(Value::as_array_mut).into_iter().flatten();
            for c in containers.filter_map(Value::as_object_mut) {
                c.remove("image");
            }
        }
        if selector_grows {
            map.remove("nodeSelector");
        }
        if gated {
            narrowed(map);
        }
        spec
    };
    same_spec(&rest(new), &rest(was), WHY, errors);
}

/// A gated pod may narrow the nodes that it may run on.
/// Only amounts of processor and memory change in place, and not so that the pod's class changes
/// (KEP-1287).
pub(super) fn resize(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(old) = old else { return };
    let class = qos_class(&old["spec"]);
    if qos_class(&v["spec"]) != class {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", class, why));
    }
    for field in ["initContainers", "containers"] {
        for (i, c) in list(&v["spec"][field]).iter().enumerate() {
            let Some(was) = list(&old["spec"][field]).iter().find(|o| o["name"] == c["name"])
            else {
                continue;
            };
            for part in ["requests", "limits"] {
                let names =
                    |v: &Value| v["resources"][part].as_object().cloned().unwrap_or_default();
                let (had, has) = (names(was), names(c));
                if had
                    .keys()
                    .any(|k| ["cpu", "memory"].contains(&k.as_str()) && !has.contains_key(k))
                {
                    let at = format!("spec.{field}[{i}].resources.{part}");
                    let why = format!("resource {part} cannot be removed");
                    errors.push(FieldError::forbidden(at, why));
                }
                let other = |m: &Map<String, Value>| {
                    let mut m = m.clone();
                    m.retain(|k, _| k != "cpu" && k != "memory");
                    m
                };
                let why = "only cpu and memory resources are mutable";
                if other(&had) != other(&has) && !errors.iter().any(|e| e.detail == why) {
                    errors.push(FieldError::forbidden("spec", why));
                }
            }
        }
    }
}

fn narrowed(spec: &mut Map<String, Value>) {
    let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) else { return };
    affinity.remove("nodeAffinity");
    if affinity.is_empty() {
        spec.remove("affinity");
    }
}

/// How long a pod may run can only shrink.
fn deadline(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    let why = match (new.as_i64(), old.as_i64()) {
        (None, Some(_)) => "must not update from a positive integer to nil value",
        (Some(n), Some(o)) if n > o => "must be less than or equal to previous value",
        _ => return,
    };
    errors.push(FieldError::invalid(FIELD, new.clone(), why));
}

fn tolerations(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        t.as_object_mut().map(|m| m.remove("tolerationSeconds"));
        t
    };
    let there: Vec<Value> = list(new).iter().map(bare).collect();
    if list(old).iter().any(|t| !there.contains(&bare(t))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
    }
}

/// Gates may only be taken away. Whether there were any.
fn gates(new: &Value, old: &Value, errors: &mut Vec<FieldError>) -> bool {
    let had = list(&old["schedulingGates"]);
    for (i, gate) in list(&new["schedulingGates"]).iter().enumerate() {
        if !had.iter().any(|g| g["name"] == gate["name"]) {
            let name = gate["name"].as_str().unwrap_or_default();
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(format!("spec.schedulingGates[{i}].name"), why));
        }
    }
    !had.is_empty()
}

fn only_grows(new: &Value, old: &Value, errors: &mut Vec<FieldError>) -> bool {
    let kept = old.as_object().into_iter().flatten().all(|(k, v)| new.get(k) == Some(v));
    if !kept {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", new.clone(), why));
    }
    true
}

/// What of a Job may not change.
pub(super) fn job(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(old) = old else { return };
    if old["spec"]["suspend"] != true {
        fixed(v, old, "spec.template", errors);
    }
}

/// What a claim asked for stands; once bound it may ask for more.
pub(super) fn claim(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    const WHY: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let Some(old) = old else { return };
    let (mut new, was) = (v["spec"].clone(), &old["spec"]);
    let mut take = |f: &str| super::super::write::set_or_remove(&mut new, f, was[f].clone());
    if was["volumeName"].as_str().unwrap_or_default().is_empty() {
        take("volumeName");
    }
    // A claim without a class may get the default one.
    let annotation = &old["metadata"]["annotations"][CLASS];
    let given = &v["spec"]["storageClassName"];
    if was["storageClassName"].is_null() && (annotation.is_null() || annotation == given) {
        take("storageClassName");
    }
    if old["status"]["phase"] == "Bound" {
        take("volumeAttributesClassName");
        if let Some(requests) = new["resources"]["requests"].as_object_mut() {
            requests.insert("storage".into(), was["resources"]["requests"]["storage"].clone());
        }
    }
    same_spec(&new, was, WHY, errors);
}

/// The storage behind a volume stands.
pub(super) fn volume(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let Some(old) = old else { return };
    let source = |v: &Value| {
        let mut spec = v["spec"].as_object().cloned().unwrap_or_default();
        spec.retain(|k, _| !OTHERS.contains(&k.as_str()));
        spec
    };
    if source(v) != source(old) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
    }
}
