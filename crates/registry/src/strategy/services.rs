//! Services: addresses, ports and families that the server hands out.

use super::reset_status;
use crate::Registry;
use coracle_meta::{Status, json as path, status::FieldError};
use coracle_schema::Kind;
use serde_json::{Map, Value, json};
use std::{net::IpAddr, ops::Range, sync::atomic::Ordering};

/// What nodes may listen at for services.
const NODE_PORTS: Range<i64> = 30000..32768;

/// Addresses below this offset are left for well-known services.
const FIRST: u32 = 256;

pub(super) fn service_create(r: &Registry, _: &Kind, v: &mut Value) -> Result<(), Status> {
    let spec = &mut v["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    let given = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let several = spec["clusterIPs"].as_array().is_some_and(|a| !a.is_empty());
    if !given.is_empty() && !several {
        spec["clusterIPs"] = json!([given]);
    }
    if spec["type"] == "ExternalName" {
        return reset_status(v, json!({"loadBalancer": {}}));
    }
    let mut errors = Vec::new();
    if given.is_empty() && !several {
        let ip = free_service_ip(r)?;
        spec["clusterIPs"] = json!([ip]);
        spec["clusterIP"] = json!(ip);
    } else {
        address(r, &given, &mut errors);
    }
    let ip = spec["clusterIP"].clone();
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
    node_ports(r, spec, &mut errors);
    if !errors.is_empty() {
        let name = path::text(v, "metadata.name");
        return Err(Status::invalid("", "Service", name, errors));
    }
    allocate_node_ports(r, &mut v["spec"]);
    reset_status(v, json!({"loadBalancer": {}}))
}

/// An address that somebody asked for must be ours to give. (What is no address, validation tells.)
fn address(r: &Registry, ip: &str, errors: &mut Vec<FieldError>) {
    let mut refuse = |at: &str, why: String| errors.push(FieldError::invalid(at, json!([ip]), why));
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => {
            refuse("spec.clusterIPs[0]", "IPv6 is not configured on this cluster".into());
        }
        Ok(IpAddr::V4(v4)) => {
            let (base, size) = (u32::from(r.service_network.base), r.service_network.size);
            let offset = u32::from(v4).wrapping_sub(base);
            // Neither the network's own address nor that of all.
            if offset == 0 || offset >= size.saturating_sub(1) {
                let range = format!("{}/{}", r.service_network.base, 32 - size.ilog2());
                refuse(
                    "spec.clusterIPs",
                    format!(
                        "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                    ),
                );
            } else if services(r).iter().any(|s| s["spec"]["clusterIP"] == ip) {
                let why = format!("failed to allocate IP {ip}: provided IP is already allocated");
                refuse("spec.clusterIPs", why);
            }
        }
        Err(_) => {}
    }
}

/// So must be the ports of nodes.
fn node_ports(r: &Registry, spec: &Value, errors: &mut Vec<FieldError>) {
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.iter().all(|p| p["nodePort"].as_i64().unwrap_or(0) == 0) {
        return;
    }
    let all = services(r);
    let taken = |n: i64| {
        let mut ports = all.iter().filter_map(|s| s["spec"]["ports"].as_array()).flatten();
        ports.any(|p| p["nodePort"] == n)
    };
    for (i, p) in ports.iter().enumerate() {
        let n = p["nodePort"].as_i64().unwrap_or(0);
        let why = match n {
            0 => continue,
            n if !NODE_PORTS.contains(&n) => {
                "provided port is not in the valid range. The range of valid ports is 30000-32767"
            }
            n if taken(n) => "provided port is already allocated",
            _ => continue,
        };
        errors.push(FieldError::invalid(format!("spec.ports[{i}].nodePort"), n, why));
    }
}

pub(super) fn service_update(r: &Registry, old: &Value, new: &mut Value) -> Result<(), Status> {
    if new["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    keep_addresses(&old["spec"], &mut new["spec"]);
    allocate_node_ports(r, &mut new["spec"]);
    Ok(())
}

/// What was handed out, a writer need not repeat. Of `clusterIP` and `clusterIPs`, which say the same
/// twice, the one that was changed counts.
fn keep_addresses(old: &Value, new: &mut Value) {
    let none = |v: &Value| v.is_null() || *v == "" || v.as_array().is_some_and(Vec::is_empty);
    let had_ip = !none(&old["clusterIP"]);
    let same = none(&new["clusterIPs"]) || new["clusterIPs"] == old["clusterIPs"];
    if had_ip && same && none(&new["clusterIP"]) {
        new["clusterIP"] = old["clusterIP"].clone();
    }
    if had_ip && same && new["clusterIP"] != old["clusterIP"] {
        new["clusterIPs"] = json!([new["clusterIP"]]);
    }
    for f in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if none(&new[f]) && !none(&old[f]) {
            new[f] = old[f].clone();
        }
    }
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
        if let Some(port) = NODE_PORTS.into_iter().find(|n| !used.contains(n)) {
            used.insert(port);
            spec["healthCheckNodePort"] = json!(port);
        }
    }
    for p in spec["ports"].as_array_mut().into_iter().flatten() {
        if p["nodePort"].as_i64().unwrap_or(0) == 0 {
            if let Some(port) = NODE_PORTS.into_iter().find(|n| !used.contains(n)) {
                used.insert(port);
                p["nodePort"] = json!(port);
            }
        }
    }
}
