//! Cells that need more than a template: the named functions of `pack/columns.txt`.

use crate::columns::{age, plain};
use coracle_meta::{json, time};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeSet;

/// Makes a cell from an object at a time.
pub type Function = fn(&Value, Timestamp) -> Value;

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";

/// The function with a name.
pub fn by_name(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

const FUNCTIONS: &[(&str, Function)] = &[
    ("podReady", |o, _| pod(o).ready.into()),
    ("podStatus", |o, _| pod(o).status.into()),
    ("podRestarts", pod_restarts),
    ("podReadinessGates", pod_readiness_gates),
    ("nodeStatus", node_status),
    ("nodeRoles", node_roles),
    ("nodeInternalIP", |o, _| node_address(o, "InternalIP")),
    ("nodeExternalIP", |o, _| node_address(o, "ExternalIP")),
    ("nodeKernel", |o, _| or(json::text(o, "status.nodeInfo.kernelVersion"), "<unknown>").into()),
    ("serviceExternalIP", service_external_ip),
    ("servicePorts", service_ports),
    ("endpoints", endpoints),
    ("configMapData", |o, _| (size(&o["data"]) + size(&o["binaryData"])).into()),
    ("eventFirstSeen", |o, now| event_first_seen(o, now).into()),
    ("eventLastSeen", event_last_seen),
    ("eventCount", event_count),
    ("eventObject", event_object),
    ("eventSource", event_source),
    ("eventMessage", |o, _| text2(o, "message", "note").trim().into()),
    ("pvAccessModes", |o, _| access_modes(&o["spec"]["accessModes"]).into()),
    ("pvStatus", terminating_or_phase),
    ("pvClaim", |o, _| match &o["spec"]["claimRef"] {
        Value::Null => "".into(),
        c => format!("{}/{}", text(c, "namespace"), text(c, "name")).into(),
    }),
    ("pvStorageClass", storage_class),
    ("pvcStatus", terminating_or_phase),
    ("pvcCapacity", |o, _| match text(&o["spec"], "volumeName") {
        "" => "".into(),
        _ => or(json::text(o, "status.capacity.storage"), "0").into(),
    }),
    ("pvcAccessModes", |o, _| match text(&o["spec"], "volumeName") {
        "" => "".into(),
        _ => access_modes(&o["status"]["accessModes"]).into(),
    }),
    ("pvcStorageClass", storage_class),
    ("quotaRequest", |o, _| quota(o, false).into()),
    ("quotaLimit", |o, _| quota(o, true).into()),
    ("componentStatus", |o, _| match condition(o, "Healthy").map(|c| text(c, "status")) {
        Some("True") => "Healthy".into(),
        Some(_) => "Unhealthy".into(),
        None => "Unknown".into(),
    }),
    ("componentMessage", |o, _| condition(o, "Healthy").map_or("", |c| text(c, "message")).into()),
    ("componentError", |o, _| condition(o, "Healthy").map_or("", |c| text(c, "error")).into()),
    ("controllerRef", controller_ref),
    ("jobStatus", job_status),
    ("jobCompletions", job_completions),
    ("jobDuration", job_duration),
    ("cronJobSuspend", |o, _| match &o["spec"]["suspend"] {
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        _ => UNSET.into(),
    }),
    ("cronJobLastSchedule", |o, now| match o["status"]["lastScheduleTime"].as_str() {
        Some(t) => age(t, now).into(),
        None => NONE.into(),
    }),
    ("ingressHosts", ingress_hosts),
    ("ingressAddress", |o, _| load_balancer(o).join(",").into()),
    ("ingressPorts", |o, _| {
        if list(&o["spec"]["tls"]).is_empty() { "80" } else { "80, 443" }.into()
    }),
    ("ingressClassName", |o, _| with_default(o, &["ingressclass.kubernetes.io/is-default-class"])),
    ("ingressClassParameters", |o, _| match &o["spec"]["parameters"] {
        Value::Null => NONE.into(),
        p => {
            let group = text(p, "apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(p, "kind"), text(p, "name")).into()
        }
    }),
    ("ipAddressParent", ip_address_parent),
    ("hpaTargets", hpa_targets),
    ("bindingUsers", |o, _| subjects(o, "User", |s| text(s, "name").into()).into()),
    ("bindingGroups", |o, _| subjects(o, "Group", |s| text(s, "name").into()).into()),
    ("bindingServiceAccounts", |o, _| {
        subjects(o, "ServiceAccount", |s| format!("{}/{}", text(s, "namespace"), text(s, "name")))
            .into()
    }),
    ("storageClassName", |o, _| {
        with_default(
            o,
            &[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ],
        )
    }),
    ("slicePorts", |o, _| {
        let ports = list(&o["ports"]).iter().map(|p| match (&p["port"], text(p, "name")) {
            (Value::Number(n), _) => n.to_string(),
            (_, "") => "*".into(),
            (_, name) => name.into(),
        });
        or(&first_three(ports.collect()), UNSET).into()
    }),
    ("sliceEndpoints", |o, _| {
        let all = list(&o["endpoints"]).iter().flat_map(|e| list(&e["addresses"])).map(plain);
        or(&first_three(all.collect()), UNSET).into()
    }),
    ("csrDuration", |o, _| match o["spec"]["expirationSeconds"].as_i64() {
        Some(s) => time::human_duration(SignedDuration::from_secs(s)).into(),
        None => NONE.into(),
    }),
    ("csrCondition", csr_condition),
    ("pcrState", |o, _| {
        let known = |t: &str| ["Issued", "Denied", "Failed"].contains(&t);
        let last =
            list(&o["status"]["conditions"]).iter().map(|c| text(c, "type")).rfind(|t| known(t));
        last.unwrap_or("Pending").into()
    }),
    ("policyParamKind", |o, _| match &o["spec"]["paramKind"] {
        Value::Null => UNSET.into(),
        p => format!("{}/{}", text(p, "apiVersion"), text(p, "kind")).into(),
    }),
    ("bindingParamRef", |o, _| match &o["spec"]["paramRef"] {
        Value::Null => UNSET.into(),
        p if text(p, "name").is_empty() => or(&plain(&p["selector"]), UNSET).into(),
        p => format!("{}/{}", or(text(p, "namespace"), "*"), text(p, "name")).into(),
    }),
    ("flowSchemaMissingPL", |o, _| {
        condition(o, "Dangling").map_or("?", |c| text(c, "status")).into()
    }),
    ("apiServiceRef", |o, _| match &o["spec"]["service"] {
        Value::Null => "Local".into(),
        s => format!("{}/{}", text(s, "namespace"), text(s, "name")).into(),
    }),
    ("apiServiceAvailable", |o, _| match condition(o, "Available") {
        None => "Unknown".into(),
        Some(c) if text(c, "status") == "True" || text(c, "reason").is_empty() => {
            text(c, "status").into()
        }
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")).into(),
    }),
    ("resourceClaimState", resource_claim_state),
    ("svmResource", |o, _| {
        let (r, group) = (&o["spec"]["resource"], text(&o["spec"]["resource"], "group"));
        let dot = if group.is_empty() { "" } else { "." };
        format!("{}{dot}{group}", text(r, "resource")).into()
    }),
    ("svmStatus", |o, _| {
        let known = |c: &&Value| {
            c["status"] == "True" && ["Running", "Failed", "Succeeded"].contains(&text(c, "type"))
        };
        list(&o["status"]["conditions"])
            .iter()
            .rfind(known)
            .map_or("Unknown", |c| text(c, "type"))
            .into()
    }),
];

fn text<'v>(v: &'v Value, field: &str) -> &'v str {
    v[field].as_str().unwrap_or_default()
}

fn text2<'v>(v: &'v Value, a: &str, b: &str) -> &'v str {
    or(text(v, a), text(v, b))
}

fn or<'s>(s: &'s str, other: &'s str) -> &'s str {
    if s.is_empty() { other } else { s }
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn size(v: &Value) -> usize {
    v.as_object().map_or(0, serde_json::Map::len)
}

fn condition<'v>(o: &'v Value, kind: &str) -> Option<&'v Value> {
    list(&o["status"]["conditions"]).iter().find(|c| c["type"] == kind)
}

fn condition_true(o: &Value, kind: &str) -> bool {
    condition(o, kind).is_some_and(|c| c["status"] == "True")
}

fn deleting(o: &Value) -> bool {
    o["metadata"]["deletionTimestamp"].is_string()
}

fn annotation<'v>(o: &'v Value, key: &str) -> &'v str {
    text(&o["metadata"]["annotations"], key)
}

fn first_three(items: Vec<String>) -> String {
    match items.len() {
        n if n > 3 => format!("{} + {} more...", items[..3].join(","), n - 3),
        _ => items.join(","),
    }
}

/// What `kubectl get pods` says of a pod.
struct PodSummary {
    status: String,
    ready: String,
    restarts: i64,
    last_restart: Option<String>,
}

/// A terminated container's reason, or its signal or exit code.
fn terminated(t: &Value, prefix: &str) -> String {
    match (text(t, "reason"), t["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("{prefix}ExitCode:{}", t["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

/// Restarts and the time of the latest one.
#[derive(Clone, Default)]
struct Restarts(i64, Option<String>);

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.0 += status["restartCount"].as_i64().unwrap_or(0);
        let finished = status["lastState"]["terminated"]["finishedAt"].as_str().map(str::to_owned);
        self.1 = self.1.take().max(finished);
    }
}

fn pod(o: &Value) -> PodSummary {
    let (spec, status) = (&o["spec"], &o["status"]);
    let mut reason = or(text(status, "reason"), text(status, "phase")).to_owned();
    if condition(o, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let init = list(&spec["initContainers"]);
    let sidecar =
        |name: &str| init.iter().any(|c| c["name"] == name && c["restartPolicy"] == "Always");
    let total = list(&spec["containers"]).len()
        + init.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let (mut ready, mut all, mut sidecars) = (0, Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (i, s) in list(&status["initContainerStatuses"]).iter().enumerate() {
        all.add(s);
        let is_sidecar = sidecar(text(s, "name"));
        if is_sidecar {
            sidecars.add(s);
        }
        let state = &s["state"];
        if state["terminated"].is_object() && state["terminated"]["exitCode"] == 0 {
            continue;
        }
        if is_sidecar && s["started"] == true {
            ready += usize::from(s["ready"] == true);
            continue;
        }
        initializing = true;
        let waiting = text(&state["waiting"], "reason");
        reason = if state["terminated"].is_object() {
            terminated(&state["terminated"], "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", init.len())
        };
        break;
    }
    if !initializing || condition_true(o, "Initialized") {
        all = sidecars;
        let (mut running, mut failure) = (false, String::new());
        for s in list(&status["containerStatuses"]).iter().rev() {
            all.add(s);
            let (state, waiting) = (&s["state"], text(&s["state"]["waiting"], "reason"));
            if !waiting.is_empty() {
                reason = waiting.into();
            } else if state["terminated"].is_object() {
                reason = terminated(&state["terminated"], "");
                if state["terminated"]["exitCode"] != 0 {
                    failure = reason.clone();
                }
            } else if s["ready"] == true && state["running"].is_object() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && condition_true(o, "Ready") {
                reason = "Running".into();
            } else if !failure.is_empty() {
                reason = failure;
            } else if running {
                reason = "NotReady".into();
            }
        }
    }
    if deleting(o) {
        if text(status, "reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !["Succeeded", "Failed"].contains(&text(status, "phase")) {
            reason = "Terminating".into();
        }
    }
    PodSummary {
        status: reason,
        ready: format!("{ready}/{total}"),
        restarts: all.0,
        last_restart: all.1,
    }
}

fn pod_restarts(o: &Value, now: Timestamp) -> Value {
    let p = pod(o);
    match p.last_restart {
        Some(t) if p.restarts != 0 => format!("{} ({} ago)", p.restarts, age(&t, now)).into(),
        _ => p.restarts.to_string().into(),
    }
}

fn pod_readiness_gates(o: &Value, _: Timestamp) -> Value {
    let gates = list(&o["spec"]["readinessGates"]);
    if gates.is_empty() {
        return NONE.into();
    }
    let met = gates.iter().filter(|g| condition_true(o, text(g, "conditionType"))).count();
    format!("{met}/{}", gates.len()).into()
}

fn node_status(o: &Value, _: Timestamp) -> Value {
    let mut s = match condition(o, "Ready").map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if o["spec"]["unschedulable"] == true {
        s += ",SchedulingDisabled";
    }
    s.into()
}

fn node_roles(o: &Value, _: Timestamp) -> Value {
    let mut roles = BTreeSet::new();
    for (k, v) in o["metadata"]["labels"].as_object().into_iter().flatten() {
        match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => drop(roles.insert(role.to_owned())),
            _ if k == "kubernetes.io/role" && v != "" => drop(roles.insert(plain(v))),
            _ => {}
        }
    }
    or(&roles.into_iter().collect::<Vec<_>>().join(","), NONE).into()
}

fn node_address(o: &Value, kind: &str) -> Value {
    let found = list(&o["status"]["addresses"]).iter().find(|a| a["type"] == kind);
    found.map_or(NONE, |a| text(a, "address")).into()
}

fn load_balancer(o: &Value) -> Vec<String> {
    let ingress = list(&o["status"]["loadBalancer"]["ingress"]);
    let set: BTreeSet<String> = ingress.iter().map(|i| text2(i, "ip", "hostname").into()).collect();
    set.into_iter().collect()
}

fn service_external_ip(o: &Value, _: Timestamp) -> Value {
    let ips: Vec<String> = list(&o["spec"]["externalIPs"]).iter().map(plain).collect();
    match text(&o["spec"], "type") {
        "ClusterIP" | "NodePort" => or(&ips.join(","), NONE).into(),
        "LoadBalancer" => or(&[load_balancer(o), ips].concat().join(","), "<pending>").into(),
        "ExternalName" => text(&o["spec"], "externalName").into(),
        _ => "<unknown>".into(),
    }
}

fn service_ports(o: &Value, _: Timestamp) -> Value {
    let ports = list(&o["spec"]["ports"]).iter().map(|p| {
        let (port, node, protocol) =
            (&p["port"], p["nodePort"].as_i64().unwrap_or(0), text(p, "protocol"));
        if node > 0 { format!("{port}:{node}/{protocol}") } else { format!("{port}/{protocol}") }
    });
    or(&ports.collect::<Vec<_>>().join(","), NONE).into()
}

fn endpoints(o: &Value, _: Timestamp) -> Value {
    let subsets = list(&o["subsets"]);
    if subsets.is_empty() {
        return NONE.into();
    }
    let mut all = Vec::new();
    for s in subsets {
        let ips = || list(&s["addresses"]).iter().map(|a| text(a, "ip"));
        if list(&s["ports"]).is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for p in list(&s["ports"]) {
            all.extend(ips().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{}", p["port"])
                } else {
                    format!("{ip}:{}", p["port"])
                }
            }));
        }
    }
    first_three(all).into()
}

fn event_first_seen(o: &Value, now: Timestamp) -> String {
    let first = or(text2(o, "firstTimestamp", "deprecatedFirstTimestamp"), text(o, "eventTime"));
    if first.is_empty() { "<unknown>".into() } else { age(first, now) }
}

fn event_last_seen(o: &Value, now: Timestamp) -> Value {
    let last = or(
        text(&o["series"], "lastObservedTime"),
        text2(o, "lastTimestamp", "deprecatedLastTimestamp"),
    );
    if last.is_empty() { event_first_seen(o, now).into() } else { age(last, now).into() }
}

fn event_count(o: &Value, _: Timestamp) -> Value {
    let count = |v: &Value| v.as_i64().filter(|n| *n > 0);
    count(&o["series"]["count"])
        .or(count(&o["count"]))
        .or(count(&o["deprecatedCount"]))
        .unwrap_or(1)
        .into()
}

fn event_object(o: &Value, _: Timestamp) -> Value {
    let about =
        if o["involvedObject"].is_object() { &o["involvedObject"] } else { &o["regarding"] };
    let kind = text(about, "kind").to_lowercase();
    match text(about, "name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

fn event_source(o: &Value, _: Timestamp) -> Value {
    let source = if o["source"].is_object() { &o["source"] } else { &o["deprecatedSource"] };
    let component =
        or(text(source, "component"), text2(o, "reportingComponent", "reportingController"));
    match or(text(source, "host"), text(o, "reportingInstance")) {
        "" => component.into(),
        host => format!("{component}, {host}").into(),
    }
}

fn access_modes(modes: &Value) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = |long: &str| list(modes).iter().any(|m| m == long);
    SHORT.iter().filter(|(long, _)| given(long)).map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

fn terminating_or_phase(o: &Value, _: Timestamp) -> Value {
    if deleting(o) { "Terminating".into() } else { text(&o["status"], "phase").into() }
}

fn storage_class(o: &Value, _: Timestamp) -> Value {
    or(
        annotation(o, "volume.beta.kubernetes.io/storage-class"),
        text(&o["spec"], "storageClassName"),
    )
    .into()
}

fn quota(o: &Value, limits: bool) -> String {
    let (hard, used) = (&o["status"]["hard"], &o["status"]["used"]);
    let rows =
        hard.as_object().into_iter().flatten().filter(|(k, _)| k.starts_with("limits.") == limits);
    rows.map(|(k, v)| format!("{k}: {}/{}", or(text(used, k), "0"), plain(v)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn controller_ref(o: &Value, _: Timestamp) -> Value {
    let Some(r) = list(&o["metadata"]["ownerReferences"]).iter().find(|r| r["controller"] == true)
    else {
        return NONE.into();
    };
    let (group, _) = coracle_meta::gvk::split_api_version(text(r, "apiVersion"));
    let dot = if group.is_empty() { "" } else { "." };
    format!("{}{dot}{}/{}", text(r, "kind").to_lowercase(), group.to_lowercase(), text(r, "name"))
        .into()
}

fn job_status(o: &Value, _: Timestamp) -> Value {
    let first = |kinds: &[&'static str]| kinds.iter().find(|k| condition_true(o, k)).copied();
    if let Some(done) = first(&["Complete", "Failed"]) {
        return done.into();
    }
    if deleting(o) {
        return "Terminating".into();
    }
    first(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running").into()
}

fn job_completions(o: &Value, _: Timestamp) -> Value {
    let done = o["status"]["succeeded"].as_i64().unwrap_or(0);
    match (o["spec"]["completions"].as_i64(), o["spec"]["parallelism"].as_i64().unwrap_or(0)) {
        (Some(n), _) => format!("{done}/{n}").into(),
        (None, p) if p > 1 => format!("{done}/1 of {p}").into(),
        _ => format!("{done}/1").into(),
    }
}

fn job_duration(o: &Value, now: Timestamp) -> Value {
    let at = |f: &str| o["status"][f].as_str().and_then(time::parse_rfc3339);
    let Some(start) = at("startTime") else { return "".into() };
    let end = at("completionTime").unwrap_or(now);
    time::human_duration(SignedDuration::from_secs(end.as_second() - start.as_second())).into()
}

fn ingress_hosts(o: &Value, _: Timestamp) -> Value {
    let rules = list(&o["spec"]["rules"]);
    let hosts: Vec<&str> =
        rules.iter().map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
    match hosts.len() {
        0 => "*".into(),
        n if n > 3 => format!("{} + {} more...", hosts[..3].join(","), rules.len() - 3).into(),
        _ => hosts.join(",").into(),
    }
}

fn with_default(o: &Value, keys: &[&str]) -> Value {
    let name = text(&o["metadata"], "name");
    if keys.iter().any(|k| annotation(o, k) == "true") {
        format!("{name} (default)").into()
    } else {
        name.into()
    }
}

fn ip_address_parent(o: &Value, _: Timestamp) -> Value {
    let p = &o["spec"]["parentRef"];
    if p.is_null() {
        return NONE.into();
    }
    let mut s = text(p, "resource").to_owned();
    for (sep, f) in [(".", "group"), ("/", "namespace")] {
        if !text(p, f).is_empty() {
            s += &format!("{sep}{}", text(p, f));
        }
    }
    format!("{}/{}", s.to_lowercase(), text(p, "name")).into()
}

fn hpa_targets(o: &Value, _: Timestamp) -> Value {
    let metrics = list(&o["spec"]["metrics"]);
    if metrics.is_empty() {
        return NONE.into();
    }
    let one = |(i, m): (usize, &Value)| {
        let source = match text(m, "type") {
            "External" => "external",
            "Object" => "object",
            "Pods" => "pods",
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            _ => return "<unknown type>".to_owned(),
        };
        let (target, current) =
            (&m[source]["target"], &o["status"]["currentMetrics"][i][source]["current"]);
        let value = |v: &Value, absent: &str, unit: &str| {
            if v.is_null() { absent.to_owned() } else { plain(v) + unit }
        };
        let pair = |f: &str| {
            format!("{}/{}", value(&current[f], "<unknown>", ""), value(&target[f], "<auto>", ""))
        };
        match source {
            "resource" | "containerResource" if target["averageValue"].is_null() => {
                let f = "averageUtilization";
                let (c, t) =
                    (value(&current[f], "<unknown>", "%"), value(&target[f], "<auto>", "%"));
                format!("{}: {c}/{t}", text(&m[source], "name"))
            }
            "resource" | "containerResource" => {
                format!("{}: {}", text(&m[source], "name"), pair("averageValue"))
            }
            "pods" => pair("averageValue"),
            _ if target["averageValue"].is_null() => pair("value"),
            _ => pair("averageValue") + " (avg)",
        }
    };
    let all: Vec<String> = metrics.iter().enumerate().map(one).collect();
    match all.len() {
        n if n > 2 => format!("{} + {} more...", all[..2].join(", "), n - 2).into(),
        _ => all.join(", ").into(),
    }
}

fn subjects(o: &Value, kind: &str, name: impl Fn(&Value) -> String) -> String {
    list(&o["subjects"])
        .iter()
        .filter(|s| s["kind"] == kind)
        .map(name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn csr_condition(o: &Value, _: Timestamp) -> Value {
    let has = |t| condition(o, t).is_some();
    let first = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if text(&o["status"], "certificate").is_empty() { "" } else { ",Issued" };
    format!("{first}{failed}{issued}").into()
}

fn resource_claim_state(o: &Value, _: Timestamp) -> Value {
    let mut states = Vec::new();
    if deleting(o) {
        states.push("deleted");
    }
    if o["status"]["allocation"].is_object() {
        states.push("allocated");
        if !list(&o["status"]["reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if states.is_empty() {
        states.push("pending");
    }
    states.join(",").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn summary(v: &Value) -> (String, String) {
        let p = pod(v);
        (p.status, p.ready)
    }

    #[test]
    fn pod_status_follows_upstream() {
        let base = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}, "status": {"phase": "Pending"}});
        assert_eq!(summary(&base), ("Pending".into(), "0/1".into()));
        let mut init = base.clone();
        init["status"]["initContainerStatuses"] =
            json!([{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]);
        assert_eq!(summary(&init).0, "Init:0/1");
        let mut crash = base.clone();
        crash["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
        assert_eq!(summary(&crash).0, "CrashLoopBackOff");
        let mut done = base.clone();
        done["status"] = json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]});
        assert_eq!(summary(&done).0, "Completed");
        done["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(summary(&done).0, "Completed");
        crash["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(summary(&crash).0, "Terminating");
    }
}
