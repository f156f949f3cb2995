//! What every cluster starts with: system namespaces, roles, priority classes, the `kubernetes`
//! service. Existing objects are left as they are, except that default roles get back the rules
//! they lost (upstream's reconciliation).

use crate::Server;
use coracle_meta::Status;
use coracle_registry::write::{Input, WriteOptions};
use serde_json::{Value, json};
use std::net::SocketAddr;

const POLICY: &str = include_str!("../policy/rbac.txt");
const OWN_POLICY: &str = include_str!("../policy/coracle.txt");

/// Why a cluster could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot create {what}: {source}")]
pub struct BootstrapError {
    what: String,
    source: Status,
}

/// The rules of one of our own parts' cluster roles, for who runs the part beside another cluster.
pub fn rules_of(cluster_role: &str) -> Vec<Value> {
    let all = policy(OWN_POLICY);
    let role =
        all.iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == cluster_role);
    role.and_then(|o| o["rules"].as_array().cloned()).unwrap_or_default()
}

/// Creates what is missing.
///
/// # Errors
/// When the server refuses one of the objects.
pub async fn run(server: &Server, address: SocketAddr) -> Result<(), BootstrapError> {
    let mut first: Vec<Value> = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .to_vec();
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        first.push(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value, "description": description}));
    }
    let mut second = policy(POLICY);
    second.extend(policy(OWN_POLICY));
    aggregate(&mut second);
    second.push(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": server.registry.api_server_ip().to_string(), "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}]}}));
    // An address that only this host knows is no endpoint, as upstream has it.
    if !address.ip().is_loopback() {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        second.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}]}));
    }
    if let Some(proxy) = server.front_proxy() {
        second.push(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {"client-ca-file": proxy.ca_pem, "requestheader-client-ca-file": proxy.ca_pem,
                "requestheader-username-headers": "[\"X-Remote-User\"]",
                "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
                "requestheader-allowed-names": "[\"front-proxy-client\"]"}}));
    }
    for stage in [first, second] {
        // Together, so that one fsync carries them all.
        let results = futures::future::join_all(stage.into_iter().map(|v| ensure(server, v))).await;
        results.into_iter().collect::<Result<Vec<()>, _>>()?;
    }
    Ok(())
}

/// Creates an object unless it is there.
///
/// # Errors
/// When the server refuses it.
pub async fn ensure(server: &Server, v: Value) -> Result<(), BootstrapError> {
    let text = |p: &str| coracle_meta::json::text(&v, p).to_owned();
    let (kind, name, namespace) = (text("kind"), text("metadata.name"), text("metadata.namespace"));
    let what = format!("{kind} {name}");
    let fail = |source| BootstrapError { what: what.clone(), source };
    let gvk = coracle_meta::Gvk::parse(&text("apiVersion"), &kind);
    let kinds = server.registry.kinds();
    let found =
        kinds.of(&gvk.group, &gvk.version).and_then(|k| k.iter().find(|k| k.kind == kind)).cloned();
    let k = found.ok_or_else(|| fail(Status::no_such_resource()))?;
    if let Ok(bytes) = server.registry.get(&k, &namespace, &name) {
        let is_default = v["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults";
        if !is_default {
            return Ok(());
        }
        let mut stored: Value =
            serde_json::from_slice(&bytes).map_err(|e| fail(Status::internal(e)))?;
        if stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"]
            == "false"
            || !restore(&mut stored, &v)
        {
            return Ok(());
        }
        let written = server
            .registry
            .update(&k, &namespace, &name, "", Input::from(stored), &WriteOptions::default())
            .await;
        return written.map(drop).map_err(fail);
    }
    match server
        .registry
        .create(&k, &namespace, None, Input::from(v), &WriteOptions::default())
        .await
    {
        Err(s) if s.reason != "AlreadyExists" => Err(fail(s)),
        _ => Ok(()),
    }
}

/// Adds missing rules and subjects. Returns whether there were any.
fn restore(stored: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for field in ["rules", "subjects"] {
        for item in wanted[field].as_array().into_iter().flatten() {
            let mut list = stored[field].as_array().cloned().unwrap_or_default();
            if !list.contains(item) {
                list.push(item.clone());
                stored[field] = Value::Array(list);
                changed = true;
            }
        }
    }
    changed
}

/// Fills the rules of aggregated roles from the roles that their labels select.
fn aggregate(objects: &mut [Value]) {
    // view feeds edit feeds admin, so three passes settle everything.
    for _ in 0..3 {
        let roles: Vec<Value> =
            objects.iter().filter(|o| o["kind"] == "ClusterRole").cloned().collect();
        for o in objects.iter_mut().filter(|o| o["aggregationRule"].is_object()) {
            let selector = &o["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
            let Some((key, _)) = selector.as_object().and_then(|m| m.iter().next()) else {
                continue;
            };
            let from = roles.iter().filter(|r| r["metadata"]["labels"][key] == "true");
            let mut rules: Vec<Value> =
                from.flat_map(|r| r["rules"].as_array().cloned().unwrap_or_default()).collect();
            let mut seen = std::collections::HashSet::new();
            rules.retain(|r| seen.insert(r.to_string()));
            o["rules"] = Value::Array(rules);
        }
    }
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|s| s.trim_matches('"')).collect()
}

/// Reads a policy table. A malformed line is a mistake of this crate, found by its tests.
fn policy(text: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')) {
        if line.starts_with(' ') {
            let rule = rule(line.trim());
            if let Some(rules) = objects.last_mut().and_then(|o| o["rules"].as_array_mut()) {
                rules.push(rule);
            }
            continue;
        }
        objects.push(head(line));
    }
    objects
}

fn rule(line: &str) -> Value {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["url", verbs, paths] => json!({"verbs": list(verbs), "nonResourceURLs": list(paths)}),
        [verbs, groups, resources] => {
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)})
        }
        [verbs, groups, resources, names] => {
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources), "resourceNames": list(names)})
        }
        _ => panic!("policy: bad rule {line:?}"),
    }
}

fn head(line: &str) -> Value {
    let (left, subjects) = line.split_once(" : ").unwrap_or((line.trim_end_matches(" :"), ""));
    let words: Vec<&str> = left.split_whitespace().collect();
    let mut v = match words[..] {
        ["clusterrole", name, ..] => {
            json!({"kind": "ClusterRole", "metadata": {"name": name}, "rules": []})
        }
        ["role", ns, name] => {
            json!({"kind": "Role", "metadata": {"name": name, "namespace": ns}, "rules": []})
        }
        ["clusterrolebinding", name, "->", role] => {
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": role_ref("ClusterRole", role)})
        }
        ["rolebinding", ns, name, "->", kind, role] => {
            let kind = if kind == "role" { "Role" } else { "ClusterRole" };
            json!({"kind": "RoleBinding", "metadata": {"name": name, "namespace": ns}, "roleRef": role_ref(kind, role)})
        }
        _ => panic!("policy: bad line {line:?}"),
    };
    v["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
    v["metadata"]["labels"] = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    v["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    for option in words.iter().skip(2) {
        if let Some(to) = option.strip_prefix("aggregate-to=") {
            for to in to.split(',') {
                v["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] =
                    json!("true");
            }
        } else if let Some(key) = option.strip_prefix("aggregate-from=") {
            v["aggregationRule"] =
                json!({"clusterRoleSelectors": [{"matchLabels": {key: "true"}}]});
        }
    }
    if v["roleRef"].is_object() {
        v["subjects"] = subjects.split_whitespace().map(subject).collect();
    }
    v
}

fn role_ref(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name})
}

fn subject(text: &str) -> Value {
    let named = |kind: &str, name: &str| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    match text.split_once(':') {
        Some(("user", name)) => named("User", name),
        Some(("group", name)) => named("Group", name),
        Some(("sa", rest)) => {
            let (ns, name) = rest.split_once('/').unwrap_or(("kube-system", rest));
            json!({"kind": "ServiceAccount", "name": name, "namespace": ns})
        }
        _ => panic!("policy: bad subject {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_reads_and_aggregates() {
        let mut all = policy(POLICY);
        all.extend(policy(OWN_POLICY));
        aggregate(&mut all);
        let rules = |name: &str| {
            all.iter()
                .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name)
                .unwrap()["rules"]
                .as_array()
                .unwrap()
                .len()
        };
        assert!(
            rules("admin") > rules("edit") && rules("edit") > rules("view") && rules("view") > 5
        );
        for o in all.iter().filter(|o| o["roleRef"]["kind"] == "ClusterRole") {
            assert!(
                all.iter()
                    .any(|r| r["kind"] == "ClusterRole"
                        && r["metadata"]["name"] == o["roleRef"]["name"]),
                "{o}"
            );
        }
    }
}
