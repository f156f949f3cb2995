//! What upstream checks beyond structure: metadata for every kind, and a table of rules for the
//! built-in kinds, with upstream's paths and words.

use crate::CRDS;
mod updates;

use coracle_meta::{
    name,
    status::{FieldError, FieldErrorKind},
};
use coracle_schema::{Kind, Pack, Type, rules::Mode, validate};
use serde_json::Value;

type Rule = fn(&Value, Option<&Value>, &mut Vec<FieldError>);

/// What the table of rules beside the schema cannot say.
const RULES: &[(&str, &[Rule])] = &[
    ("/pods", &[updates::pod]),
    ("/persistentvolumeclaims", &[updates::claim]),
    ("/persistentvolumes", &[updates::volume]),
    ("apps/statefulsets", &[claimed_volumes]),
    ("batch/jobs", &[updates::job]),
    (CRDS, &[|v, old, e| e.extend(coracle_schema::crd::check(v, old))]),
];

/// All faults of an object beyond its metadata, but for custom kinds.
pub(crate) fn rules(
    pack: &Pack,
    kind: &Kind,
    v: &Value,
    old: Option<&Value>,
    subresource: &str,
) -> Vec<FieldError> {
    let mode = match (old, subresource) {
        (None, _) => Mode::Create,
        (_, "") => Mode::Update,
        (_, "status") => Mode::Status,
        // Parts of a pod's specification are written through them.
        (_, "ephemeralcontainers" | "resize") => Mode::Update,
        _ => Mode::Other,
    };
    let Type::Object(root) = kind.root().ty else { return vec![] };
    let key = format!("{}/{}", kind.group, kind.plural);
    let mut errors = match coracle_schema::rules::check(pack, root, v, old, mode) {
        Some(errors) => errors,
        // Their own check says it all.
        None if key == CRDS => vec![],
        None => structural(kind, v, old),
    };
    if subresource == "resize" {
        updates::resize(v, old, &mut errors);
    }
    if subresource.is_empty() {
        for (_, rules) in RULES.iter().filter(|(k, _)| *k == key) {
            rules.iter().for_each(|rule| rule(v, old, &mut errors));
        }
    }
    errors
}

/// All faults of a review, if there are rules for it.
pub(crate) fn review(pack: &Pack, kind: &Kind, v: &Value) -> Vec<FieldError> {
    let Type::Object(root) = kind.root().ty else { return vec![] };
    coracle_schema::rules::check(pack, root, v, None, Mode::Create).unwrap_or_default()
}

/// For kinds that no rule is known of: what their structure asks for.
fn structural(kind: &Kind, v: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate::validate(kind.arena(), kind.root(), v, "");
    if let Some(old) = old {
        // What was stored already and did not change may stay as it is.
        let before = validate::validate(kind.arena(), kind.root(), old, "");
        errors.retain(|e| !before.contains(e));
    }
    // Built-in lists say themselves what may not occur twice.
    errors.retain(|e| e.kind != FieldErrorKind::Duplicate);
    errors
}

/// Warnings that upstream gives on create.
pub(crate) fn warn(kind: &Kind, v: &Value, warnings: &mut Vec<String>) {
    if kind.group.is_empty()
        && kind.plural == "pods"
        && v["spec"]["serviceAccount"].is_string()
        && v["spec"]["serviceAccountName"].is_null()
    {
        warnings
            .push("spec.serviceAccount: deprecated in v1.24, use spec.serviceAccountName".into());
    }
}

/// Names, labels, annotations, finalizers and owners.
pub(crate) fn metadata(kind: &Kind, v: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let meta = &v["metadata"];
    let own_name = meta["name"].as_str().unwrap_or_default();
    if old.is_none() {
        if own_name.is_empty() {
            errors.push(FieldError::required("metadata.name", "name or generateName is required"));
        } else {
            let base = meta["generateName"].as_str().unwrap_or_default();
            if !base.is_empty() {
                for e in name::check(kind.name_rule, &name::of_base(base)) {
                    errors.push(FieldError::invalid("metadata.generateName", base, e));
                }
            }
            for e in name::check(kind.name_rule, own_name) {
                errors.push(FieldError::invalid("metadata.name", own_name, e));
            }
        }
        let ns = meta["namespace"].as_str().unwrap_or_default();
        if kind.namespaced() {
            errors.extend(
                name::check_label(ns)
                    .into_iter()
                    .map(|e| FieldError::invalid("metadata.namespace", ns, e)),
            );
        }
    }
    labels(&meta["labels"], "metadata.labels", &mut errors);
    let mut size = 0;
    for (k, value) in meta["annotations"].as_object().into_iter().flatten() {
        size += k.len() + value.as_str().map_or(0, str::len);
        for e in name::check_qualified_name(&k.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", k.as_str(), e));
        }
    }
    if size > 256 << 10 {
        let mut e =
            FieldError::forbidden("metadata.annotations", "may not be more than 262144 bytes");
        e.kind = coracle_meta::status::FieldErrorKind::TooLong;
        errors.push(e);
    }
    for (i, f) in meta["finalizers"].as_array().into_iter().flatten().enumerate() {
        let f = f.as_str().unwrap_or_default();
        for e in name::check_qualified_name(f) {
            errors.push(FieldError::invalid("metadata.finalizers", f, e));
        }
        if strict_finalizers(kind) && !f.contains('/') && !STANDARD_FINALIZERS.contains(&f) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("metadata.finalizers[{i}]"), f, why));
        }
    }
    if let Some(old) = old.filter(|o| o["metadata"]["deletionTimestamp"].is_string()) {
        let had = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let new: Vec<&Value> = meta["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|f| !had.contains(f))
            .collect();
        if !new.is_empty() {
            let list: Vec<&str> = new.iter().filter_map(|f| f.as_str()).collect();
            errors.push(FieldError::forbidden("metadata.finalizers", format!("no new finalizers can be added if the object is being deleted, found new finalizers {list:?}")));
        }
    }
    owners(&meta["ownerReferences"], &mut errors);
    errors
}

const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Whether a kind's finalizers need a domain, or be Kubernetes' own. Upstream asks it of the kinds
/// that its oldest groups' code validates.
fn strict_finalizers(kind: &Kind) -> bool {
    const OTHERS: [&str; 6] = [
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "coordination.k8s.io",
        "node.k8s.io",
        "policy",
    ];
    !kind.custom && !OTHERS.contains(&kind.group.as_str())
}

fn owners(references: &Value, errors: &mut Vec<FieldError>) {
    let all = references.as_array().map(Vec::as_slice).unwrap_or_default();
    for (i, r) in all.iter().enumerate() {
        for f in ["apiVersion", "kind", "name", "uid"] {
            if r[f].as_str().unwrap_or_default().is_empty() {
                let at = format!("metadata.ownerReferences[{i}].{f}");
                errors.push(FieldError::required(at, "must not be empty"));
            }
        }
        let at = format!("metadata.ownerReferences[{i}]");
        let version = r["apiVersion"].as_str().unwrap_or_default();
        if version.matches('/').count() > 1 {
            let why = "must be <group>/<version> or <version>";
            errors.push(FieldError::invalid(format!("{at}.apiVersion"), version, why));
        } else if matches!(
            (version, r["kind"].as_str()),
            ("v1" | "events.k8s.io/v1", Some("Event"))
        ) {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let why = format!("{group}/{version}, Kind=Event is disallowed from being an owner");
            errors.push(FieldError {
                kind: FieldErrorKind::Invalid,
                path: at,
                value: None,
                detail: format!("{}: {why}", in_order(r)),
            });
        }
    }
    let mut controllers = all.iter().filter(|r| r["controller"] == true);
    if let (Some(a), Some(b)) = (controllers.next(), controllers.next()) {
        let who = |r: &Value| {
            let text = |f: &str| r[f].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text("kind"), text("name"))
        };
        let shown: Vec<String> = all.iter().map(in_order).collect();
        errors.push(FieldError {
            kind: FieldErrorKind::Invalid,
            path: "metadata.ownerReferences".into(),
            value: None,
            detail: format!(
                "[{}]: Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                shown.join(","),
                who(a),
                who(b)
            ),
        });
    }
}

/// An owner reference as Go writes it.
fn in_order(r: &Value) -> String {
    const FIELDS: [&str; 6] =
        ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let given = FIELDS.iter().filter(|f| !r[**f].is_null());
    let fields: Vec<String> = given.map(|f| format!("\"{f}\":{}", r[*f])).collect();
    format!("{{{}}}", fields.join(","))
}

fn labels(map: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (k, v) in map.as_object().into_iter().flatten() {
        for e in name::check_qualified_name(k) {
            errors.push(FieldError::invalid(at, k.as_str(), e));
        }
        let v = v.as_str().unwrap_or_default();
        for e in name::check_label_value(v) {
            errors.push(FieldError::invalid(at, v, e));
        }
    }
}

/// Volumes that the pods of a StatefulSet get from its claim templates may be mounted.
fn claimed_volumes(v: &Value, _: Option<&Value>, errors: &mut Vec<FieldError>) {
    let claims =
        v["spec"]["volumeClaimTemplates"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.retain(|e| {
        e.kind != FieldErrorKind::NotFound
            || !claims.iter().any(|c| Some(&c["metadata"]["name"]) == e.value.as_ref())
    });
}
