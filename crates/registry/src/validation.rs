//! What upstream checks beyond structure: metadata for every kind, and a table of rules for the
//! built-in kinds, with upstream's paths and words.

use coracle_meta::{LabelSelector, Quantity, json as path, name, status::FieldError};
use coracle_schema::{Kind, validate::changed};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};

type Rule = fn(&Value, Option<&Value>, &mut Vec<FieldError>);

const IMMUTABLE: &str = "field is immutable";

const RULES: &[(&str, &[Rule])] = &[
    ("/pods", &[|v, _, e| pod_spec(&v["spec"], "spec", e), pod_update]),
    ("apps/deployments", &[workload, selector_is_fixed]),
    ("apps/replicasets", &[workload, selector_is_fixed]),
    ("apps/statefulsets", &[workload, stateful_set_update]),
    ("apps/daemonsets", &[workload, selector_is_fixed]),
    ("batch/jobs", &[job]),
    ("batch/cronjobs", &[cron_job]),
    ("/services", &[service]),
    ("/configmaps", &[immutable_data]),
    ("/secrets", &[immutable_data, |v, old, e| fixed(v, old, "type", e)]),
    ("policy/poddisruptionbudgets", &[disruption_budget]),
    (
        "apiextensions.k8s.io/customresourcedefinitions",
        &[|v, old, e| e.extend(coracle_schema::crd::check(v, old))],
    ),
    ("rbac.authorization.k8s.io/rolebindings", &[role_ref]),
    ("rbac.authorization.k8s.io/clusterrolebindings", &[role_ref]),
    ("scheduling.k8s.io/priorityclasses", &[|v, old, e| fixed(v, old, "value", e)]),
    (
        "storage.k8s.io/storageclasses",
        &[|v, old, e| fixed(v, old, "provisioner", e), |v, old, e| fixed(v, old, "parameters", e)],
    ),
];

/// The rules of a kind.
pub(crate) fn rules(kind: &Kind, v: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !kind.custom {
        let key = format!("{}/{}", kind.group, kind.plural);
        for (_, rules) in RULES.iter().filter(|(k, _)| *k == key) {
            rules.iter().for_each(|rule| rule(v, old, &mut errors));
        }
    }
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
            errors.push(FieldError::invalid(format!("metadata.finalizers[{i}]"), f, e));
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

fn owners(references: &Value, errors: &mut Vec<FieldError>) {
    let mut controllers = 0;
    for (i, r) in references.as_array().into_iter().flatten().enumerate() {
        for f in ["apiVersion", "kind", "name", "uid"] {
            if r[f].as_str().unwrap_or_default().is_empty() {
                let at = format!("metadata.ownerReferences[{i}].{f}");
                errors.push(FieldError::invalid(at, "", format!("{f} must not be empty")));
            }
        }
        controllers += usize::from(r["controller"] == true);
    }
    if controllers > 1 {
        errors.push(FieldError::invalid(
            "metadata.ownerReferences",
            references.clone(),
            "Only one reference can have Controller set to true",
        ));
    }
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

fn fixed(v: &Value, old: Option<&Value>, field: &str, errors: &mut Vec<FieldError>) {
    if old.is_some_and(|o| changed(o, v, field)) {
        errors.push(FieldError::invalid(
            field,
            path::get(v, field).cloned().unwrap_or(Value::Null),
            IMMUTABLE,
        ));
    }
}

fn non_negative(v: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if let Some(n) = path::get(v, field).and_then(Value::as_i64).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(field, n, "must be greater than or equal to 0"));
    }
}

fn immutable_data(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    for field in ["data", "binaryData"] {
        for k in v[field].as_object().into_iter().flatten().map(|(k, _)| k) {
            let good = !k.is_empty()
                && k.len() <= 253
                && k != "."
                && k != ".."
                && k.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !good {
                errors.push(FieldError::invalid(format!("{field}[{k}]"), k.as_str(), "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"));
            }
        }
    }
    let Some(old) = old.filter(|o| o["immutable"] == true) else { return };
    if v["immutable"] != true {
        errors
            .push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in ["data", "binaryData"] {
        if changed(old, v, field) {
            errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
        }
    }
}

fn role_ref(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if old.is_some_and(|o| changed(o, v, "roleRef")) {
        errors.push(FieldError::invalid("roleRef", v["roleRef"].clone(), "cannot change roleRef"));
    }
    let kind = v["roleRef"]["kind"].as_str().unwrap_or_default();
    if !["Role", "ClusterRole"].contains(&kind) {
        errors.push(FieldError::not_supported("roleRef.kind", kind, &["ClusterRole", "Role"]));
    }
}

fn disruption_budget(v: &Value, _: Option<&Value>, errors: &mut Vec<FieldError>) {
    let spec = &v["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.push(FieldError::invalid(
            "spec",
            spec.clone(),
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for f in ["minAvailable", "maxUnavailable"] {
        let at = format!("spec.{f}");
        match &spec[f] {
            Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => errors.push(
                FieldError::invalid(at, spec[f].clone(), "must be greater than or equal to 0"),
            ),
            Value::String(s) => {
                let percent = s.strip_suffix('%').and_then(|p| p.parse::<u32>().ok());
                match percent {
                    None => errors.push(FieldError::invalid(at, s.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")),
                    Some(p) if p > 100 => errors.push(FieldError::invalid(at, s.as_str(), "must not be greater than 100%")),
                    Some(_) => {}
                }
            }
            _ => {}
        }
    }
}

fn service(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let spec = &v["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.is_empty() && spec["clusterIP"] != "None" && spec["type"] != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let mut seen = HashSet::new();
    for (i, p) in ports.iter().enumerate() {
        port(&p["port"], &format!("spec.ports[{i}].port"), errors);
        if ports.len() > 1 && p["name"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("spec.ports[{i}].name"), ""));
        }
        if !seen.insert((p["protocol"].to_string(), p["port"].to_string())) {
            errors.push(FieldError::duplicate(format!("spec.ports[{i}]"), p.clone()));
        }
    }
    labels(&spec["selector"], "spec.selector", errors);
    if let Some(old) =
        old.filter(|o| o["spec"]["type"] == spec["type"] && spec["type"] != "ExternalName")
    {
        if changed(old, v, "spec.clusterIP") {
            errors.push(FieldError::invalid(
                "spec.clusterIPs[0]",
                spec["clusterIPs"].clone(),
                "may not change once set",
            ));
        }
    }
}

fn port(v: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if let Some(n) = v.as_i64().filter(|n| !(1..=65535).contains(n)) {
        errors.push(FieldError::invalid(at, n, "must be between 1 and 65535, inclusive"));
    }
}

// Workloads.

fn workload(v: &Value, _: Option<&Value>, errors: &mut Vec<FieldError>) {
    for f in [
        "spec.replicas",
        "spec.minReadySeconds",
        "spec.revisionHistoryLimit",
        "spec.progressDeadlineSeconds",
    ] {
        non_negative(v, f, errors);
    }
    let selector = &v["spec"]["selector"];
    match LabelSelector::from_object(selector) {
        Err(e) => {
            errors.push(FieldError::invalid("spec.selector", selector.clone(), e.to_string()))
        }
        Ok(s) if s.is_empty() && selector.is_object() => {
            errors.push(FieldError::invalid(
                "spec.selector",
                selector.clone(),
                "empty selector is invalid for deployment",
            ));
        }
        Ok(s) => {
            let template_labels = &v["spec"]["template"]["metadata"]["labels"];
            if selector.is_object()
                && v["spec"]["template"].is_object()
                && !s.matches(template_labels.as_object())
            {
                errors.push(FieldError::invalid(
                    "spec.template.metadata.labels",
                    template_labels.clone(),
                    "`selector` does not match template `labels`",
                ));
            }
        }
    }
    let claims = v["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    let claims: Vec<String> =
        claims.filter_map(|c| c["metadata"]["name"].as_str().map(str::to_owned)).collect();
    template(&v["spec"]["template"], "spec.template", &["Always"], &claims, errors);
    let strategy = &v["spec"]["strategy"];
    if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
        errors.push(FieldError::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ));
    }
    let zero = |x: &Value| *x == 0 || *x == "0%";
    if zero(&strategy["rollingUpdate"]["maxUnavailable"])
        && zero(&strategy["rollingUpdate"]["maxSurge"])
    {
        errors.push(FieldError::invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            strategy["rollingUpdate"]["maxUnavailable"].clone(),
            "may not be 0 when `maxSurge` is 0",
        ));
    }
}

fn selector_is_fixed(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    fixed(v, old, "spec.selector", errors);
}

fn stateful_set_update(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(old) = old else { return };
    const MAY: [&str; 8] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        "status",
    ];
    let rest = |v: &Value| {
        let spec = v["spec"].as_object().cloned().unwrap_or_default();
        spec.into_iter().filter(|(k, _)| !MAY.contains(&k.as_str())).collect::<Vec<_>>()
    };
    if rest(v) != rest(old) {
        errors.push(FieldError::forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"));
    }
}

fn job(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    for f in [
        "spec.parallelism",
        "spec.completions",
        "spec.backoffLimit",
        "spec.ttlSecondsAfterFinished",
        "spec.activeDeadlineSeconds",
    ] {
        non_negative(v, f, errors);
    }
    template(&v["spec"]["template"], "spec.template", &["OnFailure", "Never"], &[], errors);
    if v["spec"]["completionMode"] == "Indexed" && v["spec"]["completions"].is_null() {
        errors.push(FieldError::required("spec.completions", "when completion mode is Indexed"));
    }
    if let Some(old) = old {
        for f in [
            "spec.selector",
            "spec.completionMode",
            "spec.podFailurePolicy",
            "spec.backoffLimitPerIndex",
        ] {
            fixed(v, Some(old), f, errors);
        }
        // An indexed Job scales by changing both numbers to the same value.
        let elastic = v["spec"]["completionMode"] == "Indexed"
            && v["spec"]["completions"] == v["spec"]["parallelism"];
        if !elastic {
            fixed(v, Some(old), "spec.completions", errors);
        }
        if old["spec"]["suspend"] != true {
            fixed(v, Some(old), "spec.template", errors);
        }
    }
}

fn cron_job(v: &Value, _: Option<&Value>, errors: &mut Vec<FieldError>) {
    let schedule = path::text(v, "spec.schedule");
    if schedule.is_empty() {
        errors.push(FieldError::required("spec.schedule", ""));
    } else if let Err(e) = coracle_meta::cron::Schedule::parse(schedule) {
        errors.push(FieldError::invalid("spec.schedule", schedule, e));
    }
    if schedule.contains("TZ") {
        errors.push(FieldError::invalid(
            "spec.schedule",
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    }
    if v["metadata"]["name"].as_str().is_some_and(|n| n.len() > 52) {
        errors.push(FieldError::invalid(
            "metadata.name",
            v["metadata"]["name"].clone(),
            "must be no more than 52 characters",
        ));
    }
    template(
        &v["spec"]["jobTemplate"]["spec"]["template"],
        "spec.jobTemplate.spec.template",
        &["OnFailure", "Never"],
        &[],
        errors,
    );
}

fn template(
    t: &Value,
    at: &str,
    restart: &[&str],
    claims: &[String],
    errors: &mut Vec<FieldError>,
) {
    if !t.is_object() {
        return;
    }
    labels(&t["metadata"]["labels"], &format!("{at}.metadata.labels"), errors);
    let spec = &t["spec"];
    if !spec.is_object() {
        errors.push(FieldError::required(format!("{at}.spec.containers"), ""));
        return;
    }
    pod_spec_with(spec, &format!("{at}.spec"), claims, errors);
    let policy = spec["restartPolicy"].as_str().unwrap_or_default();
    if !restart.contains(&policy) {
        if restart == ["OnFailure", "Never"] && policy == "Always" {
            errors.push(FieldError::required(
                format!("{at}.spec.restartPolicy"),
                "valid values: \"OnFailure\", \"Never\"",
            ));
        } else {
            errors.push(FieldError::not_supported(
                format!("{at}.spec.restartPolicy"),
                policy,
                restart,
            ));
        }
    }
}

// Pods.

fn pod_spec(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    pod_spec_with(spec, at, &[], errors);
}

/// `claims` are volumes that the pods will get beside those of the spec.
fn pod_spec_with(spec: &Value, at: &str, claims: &[String], errors: &mut Vec<FieldError>) {
    let list = |f: &str| spec[f].as_array().map(Vec::as_slice).unwrap_or_default().to_vec();
    if list("containers").is_empty() {
        errors.push(FieldError::required(format!("{at}.containers"), ""));
    }
    let names = list("volumes");
    let names = names.iter().filter_map(|v| v["name"].as_str().map(str::to_owned));
    let volumes: HashSet<String> = names.chain(claims.iter().cloned()).collect();
    let mut names = HashSet::new();
    for field in ["initContainers", "containers"] {
        for (i, c) in list(field).iter().enumerate() {
            container(c, &format!("{at}.{field}[{i}]"), &volumes, &mut names, errors);
        }
    }
    labels(&spec["nodeSelector"], &format!("{at}.nodeSelector"), errors);
    if let Some(n) = spec["terminationGracePeriodSeconds"].as_i64().filter(|n| *n < 0) {
        errors.push(FieldError::invalid(
            format!("{at}.terminationGracePeriodSeconds"),
            n,
            "must be greater than or equal to 0",
        ));
    }
    if let Some(n) = spec["activeDeadlineSeconds"].as_i64().filter(|n| *n < 1) {
        errors.push(FieldError::invalid(
            format!("{at}.activeDeadlineSeconds"),
            n,
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for (i, t) in list("topologySpreadConstraints").iter().enumerate() {
        let at = format!("{at}.topologySpreadConstraints[{i}]");
        if t["maxSkew"].as_i64().is_some_and(|n| n <= 0) {
            errors.push(FieldError::invalid(
                format!("{at}.maxSkew"),
                t["maxSkew"].clone(),
                "must be greater than zero",
            ));
        }
        let when = t["whenUnsatisfiable"].as_str().unwrap_or_default();
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            errors.push(FieldError::not_supported(
                format!("{at}.whenUnsatisfiable"),
                when,
                &["DoNotSchedule", "ScheduleAnyway"],
            ));
        }
    }
    for (i, t) in list("tolerations").iter().enumerate() {
        let at = format!("{at}.tolerations[{i}]");
        if t["key"].as_str().unwrap_or_default().is_empty() && t["operator"] != "Exists" {
            errors.push(FieldError::invalid(format!("{at}.operator"), t["operator"].clone(), "operator must be Exists when `key` is empty, which means \"match all values and all keys\""));
        }
        if t["operator"] == "Exists" && !t["value"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::invalid(
                format!("{at}.operator"),
                t.clone(),
                "value must be empty when `operator` is 'Exists'",
            ));
        }
    }
}

fn container(
    c: &Value,
    at: &str,
    volumes: &HashSet<String>,
    names: &mut HashSet<String>,
    errors: &mut Vec<FieldError>,
) {
    let own = c["name"].as_str().unwrap_or_default();
    if own.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else {
        errors.extend(
            name::check_label(own)
                .into_iter()
                .map(|e| FieldError::invalid(format!("{at}.name"), own, e)),
        );
        if !names.insert(own.into()) {
            errors.push(FieldError::duplicate(format!("{at}.name"), own));
        }
    }
    let image = c["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{at}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    for (i, p) in c["ports"].as_array().into_iter().flatten().enumerate() {
        port(&p["containerPort"], &format!("{at}.ports[{i}].containerPort"), errors);
        if p["hostPort"].as_i64().unwrap_or(0) != 0 {
            port(&p["hostPort"], &format!("{at}.ports[{i}].hostPort"), errors);
        }
    }
    for (i, m) in c["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let volume = m["name"].as_str().unwrap_or_default();
        if !volumes.contains(volume) {
            let mut e = FieldError::invalid(format!("{at}.volumeMounts[{i}].name"), volume, "");
            e.kind = coracle_meta::status::FieldErrorKind::NotFound;
            errors.push(e);
        }
    }
    resources(&c["resources"], &format!("{at}.resources"), errors);
}

fn resources(r: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let amount = |v: &Value| v.as_str().and_then(|s| s.parse::<Quantity>().ok());
    for field in ["limits", "requests"] {
        for (k, v) in r[field].as_object().into_iter().flatten() {
            if amount(v).is_some_and(|q| q.nanos() < 0) {
                errors.push(FieldError::invalid(
                    format!("{at}.{field}.{k}"),
                    v.clone(),
                    "must be greater than or equal to 0",
                ));
            }
        }
    }
    for (k, v) in r["requests"].as_object().into_iter().flatten() {
        if let (Some(request), Some(limit)) = (amount(v), amount(&r["limits"][k])) {
            if request > limit {
                errors.push(FieldError::invalid(
                    format!("{at}.requests"),
                    v.clone(),
                    format!("must be less than or equal to {k} limit of {limit}"),
                ));
            }
        }
    }
}

/// Only a few fields of a pod's spec may change.
fn pod_update(v: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(old) = old else { return };
    let rest = |v: &Value| {
        let mut spec = v["spec"].clone();
        let Some(map) = spec.as_object_mut() else { return Value::Null };
        for f in [
            "activeDeadlineSeconds",
            "tolerations",
            "schedulingGates",
            "terminationGracePeriodSeconds",
            "ephemeralContainers",
        ] {
            map.remove(f);
        }
        // Binding assigns the node once.
        if old["spec"]["nodeName"].is_null() {
            map.remove("nodeName");
        }
        for f in ["containers", "initContainers"] {
            for c in map
                .get_mut(f)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
                .filter_map(Value::as_object_mut)
            {
                c.remove("image");
                c.remove("imagePullPolicy");
                c.remove("resources");
            }
        }
        // A gated pod may narrow where it runs.
        if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            map.remove("nodeSelector");
            map.remove("affinity");
        }
        spec
    };
    let (new, was) = (rest(v), rest(old));
    let keys =
        [&new, &was].into_iter().filter_map(Value::as_object).flatten().map(|(k, _)| k.as_str());
    let changed: BTreeSet<&str> = keys.filter(|k| new.get(*k) != was.get(*k)).collect();
    if !changed.is_empty() {
        let list: Vec<&str> = changed.into_iter().collect();
        errors.push(FieldError::forbidden("spec", format!("pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative); changed: {}", list.join(", "))));
    }
}
