//! CustomResourceDefinitions: which of their names are free, conditions, stored versions. Upstream's
//! controllers do this a moment after the write; here the write does it, so a definition is served, or
//! refused, when its sender hears of it.

use super::reset_status;
use crate::Registry;
use coracle_meta::{Status, time};
use coracle_schema::{
    Kind,
    crd::{Approval, approval},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CRD_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVE: &str =
    "protected groups must have approval annotation \"api-approved.kubernetes.io\"";
const WHY: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

pub(super) fn crd_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    fill_names(v);
    v["metadata"]["finalizers"] = json!([CRD_FINALIZER]);
    reset_status(v, json!({"storedVersions": [], "conditions": []}))?;
    settle(r, v);
    Ok(())
}

pub(super) fn crd_update(r: &Registry, new: &mut Value) -> Result<(), Status> {
    fill_names(new);
    settle(r, new);
    Ok(())
}

/// A definition whose objects are being deleted.
pub(super) fn crd_deleted(r: &Registry, v: &mut Value) {
    let why = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    set_condition(r, v, "Terminating", "True", why.0, why.1);
}

fn fill_names(v: &mut Value) {
    let names = &mut v["spec"]["names"];
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    if names["singular"].as_str().unwrap_or_default().is_empty() {
        names["singular"] = json!(kind.to_lowercase());
    }
    if names["listKind"].as_str().unwrap_or_default().is_empty() {
        names["listKind"] = json!(format!("{kind}List"));
    }
}

/// Brings the status up to what the spec says now.
fn settle(r: &Registry, v: &mut Value) {
    accept_names(r, v);
    approve(r, v);
    let versions = v["spec"]["versions"].as_array().into_iter().flatten();
    let storage = versions.into_iter().find(|x| x["storage"] == true).map(|x| x["name"].clone());
    let Some(storage) = storage else { return };
    let stored = &mut v["status"]["storedVersions"];
    let mut list = stored.as_array().cloned().unwrap_or_default();
    if !list.contains(&storage) {
        list.push(storage);
    }
    *stored = Value::Array(list);
}

/// Takes the names that nobody else in the group has; a definition that has all of its names once
/// is established for good.
fn accept_names(r: &Registry, v: &mut Value) {
    let used = used_names(r, v);
    let requested = v["spec"]["names"].clone();
    let mut accepted = v["status"]["acceptedNames"].take();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict = None;
    let taken = |names: &BTreeSet<String>, name: &str| {
        names.contains(name).then(|| format!("{name:?} is already in use"))
    };
    for (field, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        take(&requested, &mut accepted, field, reason, &mut conflict, |n| {
            taken(&used.resources, n)
        });
    }
    let short = |names: &Value| -> Vec<String> {
        let list = names["shortNames"].as_array().into_iter().flatten();
        list.filter_map(|n| n.as_str().map(str::to_owned)).collect()
    };
    let (new, old) = (short(&requested), short(&accepted));
    if new != old {
        let fresh = new.iter().filter(|n| !old.contains(n));
        let errors: Vec<String> = fresh.filter_map(|n| taken(&used.resources, n)).collect();
        match errors.as_slice() {
            [] => accepted["shortNames"] = requested["shortNames"].clone(),
            [one] => conflict = Some(("ShortNamesConflict", one.clone())),
            many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
        }
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        take(&requested, &mut accepted, field, reason, &mut conflict, |n| taken(&used.kinds, n));
    }
    accepted["categories"] = requested["categories"].clone();
    for field in ["shortNames", "categories"] {
        if accepted[field].is_null() {
            accepted.as_object_mut().map(|m| m.remove(field));
        }
    }
    v["status"]["acceptedNames"] = accepted;
    match conflict {
        Some((reason, why)) => set_condition(r, v, "NamesAccepted", "False", reason, &why),
        None => {
            set_condition(r, v, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            let why = "the initial names have been accepted";
            set_condition(r, v, "Established", "True", "InitialNamesAccepted", why);
        }
    }
    let conditions = v["status"]["conditions"].as_array();
    if !conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Established")) {
        let why = "not all names are accepted";
        set_condition(r, v, "Established", "False", "NotAccepted", why);
    }
}

/// Accepts one name, unless another definition has it.
fn take(
    requested: &Value,
    accepted: &mut Value,
    field: &str,
    reason: &'static str,
    conflict: &mut Option<(&'static str, String)>,
    taken: impl Fn(&str) -> Option<String>,
) {
    let name = requested[field].as_str().unwrap_or_default();
    if accepted[field] == name {
        return;
    }
    match taken(name) {
        Some(why) => *conflict = Some((reason, why)),
        None => accepted[field] = json!(name),
    }
}

/// Names that the other definitions of a group have.
#[derive(Default)]
struct Used {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

fn used_names(r: &Registry, v: &Value) -> Used {
    let own = v["metadata"]["name"].as_str().unwrap_or_default();
    let suffix = format!(".{}", v["spec"]["group"].as_str().unwrap_or_default());
    let snapshot = r.store.snapshot(crate::CRDS);
    let mut used = Used::default();
    for (name, object) in snapshot.iter(None, None) {
        if &*name.name == own || !name.name.ends_with(&suffix) {
            continue;
        }
        let Ok(other) = r.parsed(object) else { continue };
        if other["spec"]["group"] != v["spec"]["group"] {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        let text = |f: &str| names[f].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
        let short = names["shortNames"].as_array().into_iter().flatten();
        used.resources.extend(text("plural").into_iter().chain(text("singular")));
        used.resources.extend(short.filter_map(|n| n.as_str().map(str::to_owned)));
        used.kinds.extend(text("kind").into_iter().chain(text("listKind")));
    }
    used
}

/// Groups of the project itself need its approval (KEP-1111).
fn approve(r: &Registry, v: &mut Value) {
    let (status, reason, why) = match approval(v) {
        Approval::NotNeeded => return,
        Approval::Missing => ("False", "MissingAnnotation", format!("{APPROVE}, {WHY}")),
        Approval::Malformed(_) => {
            let how = "with either a URL or a reason starting with \"unapproved\"";
            ("False", "InvalidAnnotation", format!("{APPROVE} {how}, {WHY}"))
        }
        Approval::Approved(url) => ("True", "ApprovedAnnotation", format!("approved in {url}")),
        Approval::Bypassed(why) => {
            ("False", "UnapprovedAnnotation", format!("not approved: {why:?}"))
        }
    };
    set_condition(r, v, "KubernetesAPIApprovalPolicyConformant", status, reason, &why);
}

/// Sets a condition; its time is that of the last change of its status.
fn set_condition(r: &Registry, v: &mut Value, kind: &str, status: &str, reason: &str, why: &str) {
    let now = time::rfc3339(r.now());
    let list = &mut v["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let new = json!({"type": kind, "status": status, "reason": reason, "message": why, "lastTransitionTime": now});
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            let since =
                if old["status"] == status { old["lastTransitionTime"].take() } else { json!(now) };
            *old = new;
            old["lastTransitionTime"] = since;
        }
        None => list.push(new),
    }
}
