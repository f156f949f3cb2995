//! Whether a pod may run on a node, as far as only the two of them matter; with upstream's words
//! for why not.

use crate::{Node, PodSpec, Requirements, node::Taint, pod::Toleration};
use std::{borrow::Cow, collections::BTreeMap};

/// Why a node was refused, in the words of upstream's plugins.
pub type Reason = Cow<'static, str>;

/// The first rule that a node breaks for a pod, in upstream's order of plugins.
pub fn check(pod: &PodSpec, node: &Node) -> Result<(), Reason> {
    unschedulable(pod, node)?;
    taints(pod, node)?;
    node_affinity(pod, node)?;
    host_ports(pod, node)?;
    if !pod.requests.fits(&node.used, &node.allocatable) {
        return Err(lacking(pod, node));
    }
    Ok(())
}

/// What a node has too little of. Most of the nodes that are looked at lack the usual resources: words
/// for those are not made anew each time.
fn lacking(pod: &PodSpec, node: &Node) -> Reason {
    let (need, used, total) = (&pod.requests, &node.used, &node.allocatable);
    let short = |need: i64, used: i64, total: i64| need > 0 && used + need > total;
    let usual = !short(need.ephemeral_bytes, used.ephemeral_bytes, total.ephemeral_bytes)
        && need.extended.iter().all(|(n, v)| !short(*v, used.extended(n), total.extended(n)));
    let pods = short(need.pods, used.pods, total.pods);
    let cpu = short(need.cpu_milli, used.cpu_milli, total.cpu_milli);
    let memory = short(need.memory_bytes, used.memory_bytes, total.memory_bytes);
    match (usual, pods, cpu, memory) {
        (true, false, true, false) => "Insufficient cpu".into(),
        (true, false, false, true) => "Insufficient memory".into(),
        (true, false, true, true) => "Insufficient cpu, Insufficient memory".into(),
        (true, true, false, false) => "Too many pods".into(),
        _ => need.lacking(used, total).join(", ").into(),
    }
}

/// Cordoned nodes take only pods that tolerate it.
pub fn unschedulable(pod: &PodSpec, node: &Node) -> Result<(), Reason> {
    if node.unschedulable && !pod.tolerates("node.kubernetes.io/unschedulable", "", "NoSchedule") {
        return Err("node(s) were unschedulable".into());
    }
    Ok(())
}

/// Every hard taint must be tolerated.
pub fn taints(pod: &PodSpec, node: &Node) -> Result<(), Reason> {
    match untolerated(&pod.tolerations, node) {
        Some(t) => Err(format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value).into()),
        None => Ok(()),
    }
}

pub(crate) fn untolerated<'n>(tolerations: &[Toleration], node: &'n Node) -> Option<&'n Taint> {
    let hard = |t: &Taint| matches!(&*t.effect, "NoSchedule" | "NoExecute");
    let tolerated =
        |t: &Taint| tolerations.iter().any(|x| x.tolerates(&t.key, &t.value, &t.effect));
    node.taints.iter().find(|t| hard(t) && !tolerated(t))
}

/// Node selector and required node affinity.
pub fn node_affinity(pod: &PodSpec, node: &Node) -> Result<(), Reason> {
    if accepts(&pod.node_selector, &pod.node_terms, node) {
        Ok(())
    } else {
        Err("node(s) didn't match Pod's node affinity/selector".into())
    }
}

pub(crate) fn accepts(
    selector: &BTreeMap<String, String>,
    terms: &[(Requirements, Option<String>)],
    node: &Node,
) -> bool {
    let named = |name: &Option<String>| name.as_ref().is_none_or(|n| *n == node.name);
    selector.iter().all(|(k, v)| node.labels.get(k) == Some(v))
        && (terms.is_empty() || terms.iter().any(|(r, n)| named(n) && r.accepts(&node.labels)))
}

/// No two pods of a node share a port of the host.
pub fn host_ports(pod: &PodSpec, node: &Node) -> Result<(), Reason> {
    if pod.host_ports.is_empty() {
        return Ok(());
    }
    let clash = |a: &(String, String, i32), b: &(String, String, i32)| {
        a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1 == "0.0.0.0" || b.1 == "0.0.0.0")
    };
    let taken = node
        .pods
        .values()
        .any(|p| p.host_ports.iter().any(|b| pod.host_ports.iter().any(|a| clash(a, b))));
    if taken {
        Err("node(s) didn't have free ports for the requested pod ports".into())
    } else {
        Ok(())
    }
}
