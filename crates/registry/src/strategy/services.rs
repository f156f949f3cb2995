//! Services: addresses, ports and families that the server hands out.

use super::reset_status;
use crate::Registry;
use coracle_meta::{Status, json as path, status::FieldError};
use coracle_schema::Kind;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// Addresses below this offset are left for well-known services.
const FIRST: u32 = 256;

pub(super) fn service_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
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

pub(super) fn service_update(r: &Registry, old: &Value, new: &mut Value) -> Result<(), Status> {
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

pub(super) fn services(r: &Registry) -> Vec<Value> {
    let snapshot = r.store().snapshot("/services");
    snapshot.iter(None, None).filter_map(|(_, o)| serde_json::from_slice(&o.bytes).ok()).collect()
}

pub(super) fn free_service_ip(r: &Registry) -> Result<String, Status> {
    let used: std::collections::HashSet<String> =
        services(r).iter().map(|s| path::text(s, "spec.clusterIP").to_owned()).collect();
    let network = r.service_network;
    let first = FIRST.min(network.size / 16).max(2);
    for _ in 0..network.size {
        let n = r.next_service_ip.fetch_add(1, Ordering::Relaxed) % (network.size - first - 1);
        let ip = std::net::Ipv4Addr::from(u32::from(network.base) + first + n).to_string();
        if !used.contains(&ip) {
            return Ok(ip);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

pub(super) fn allocate_node_ports(r: &Registry, spec: &mut Value) {
    let kind = spec["type"].as_str().unwrap_or_default();
    if kind != "NodePort"
        && (kind != "LoadBalancer" || spec["allocateLoadBalancerNodePorts"] == false)
    {
        return;
    }
    let all = services(r);
    let ports = all.iter().flat_map(|s| s["spec"]["ports"].as_array().cloned().unwrap_or_default());
    let health = all.iter().filter_map(|s| s["spec"]["healthCheckNodePort"].as_i64());
    let mut used: std::collections::BTreeSet<i64> =
        ports.filter_map(|p| p["nodePort"].as_i64()).chain(health).collect();
    let local = kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    if local && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        if let Some(port) = (30000..32768).find(|n| !used.contains(n)) {
            used.insert(port);
            spec["healthCheckNodePort"] = json!(port);
        }
    }
    for p in spec["ports"].as_array_mut().into_iter().flatten() {
        if p["nodePort"].as_i64().unwrap_or(0) == 0 {
            if let Some(port) = (30000..32768).find(|n| !used.contains(n)) {
                used.insert(port);
                p["nodePort"] = json!(port);
            }
        }
    }
}
