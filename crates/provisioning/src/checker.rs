//! The independent checker: binds pods one by one, as a plan says, under the rules that the
//! Kubernetes documentation gives, and reports each that is broken.
//!
//! It reads API objects as JSON and shares no code with the planner or the scheduling model, so
//! that a mistake in those is found here and not repeated. It is a reference: clear first, and
//! quick enough for tens of thousands of pods (matching pods are counted once for each selector).
//!
//! Checked, with where it is written down: requests against allocatable with init containers,
//! sidecars and overhead (Resource Management, KEP-753, KEP-688), taints and cordons, node selector
//! and required node affinity, host ports, required pod affinity and anti-affinity in both
//! directions (Assigning Pods to Nodes), hard spread constraints with all their fields (Pod
//! Topology Spread Constraints, KEP-895, KEP-3022, KEP-3094, KEP-3243).

mod amounts;
mod labels;

use labels::{Selection, node_matches};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Nodes, the pods that were bound to them, and what is counted about both.
#[derive(Debug, Default)]
pub struct Checker {
    nodes: Vec<NodeState>,
    by_name: HashMap<String, usize>,
    bound: Vec<(Value, usize)>,
    namespaces: BTreeMap<String, Value>,
    /// How many bound pods a selection takes, by node.
    counts: HashMap<Selection, Vec<i64>>,
    /// Anti-affinity of bound pods: the selection that it keeps out, the key of its domains, and
    /// the values of that key that are taken.
    repelled: Vec<(Selection, String, HashSet<String>)>,
}

#[derive(Debug)]
struct NodeState {
    node: Value,
    free: amounts::Amounts,
    ports: HashSet<(String, String, i64)>,
}

impl NodeState {
    fn label(&self, key: &str) -> Option<&str> {
        self.node["metadata"]["labels"][key].as_str()
    }
}

fn name(v: &Value) -> &str {
    v["metadata"]["name"].as_str().unwrap_or_default()
}

fn list<'v>(v: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    v.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

impl Checker {
    /// A cluster of nodes without pods. Namespaces are needed where affinity selects them by label.
    pub fn new(nodes: Vec<Value>, namespaces: &[Value]) -> Self {
        let mut checker = Self::default();
        for n in namespaces {
            checker.namespaces.insert(name(n).to_owned(), n["metadata"]["labels"].clone());
        }
        for node in nodes {
            checker.by_name.insert(name(&node).to_owned(), checker.nodes.len());
            let free = amounts::allocatable(&node);
            checker.nodes.push(NodeState { node, free, ports: HashSet::new() });
        }
        checker
    }

    /// Binds a pod that is there already: nothing is asked.
    pub fn place(&mut self, pod: Value, node: &str) {
        if let Some(i) = self.by_name.get(node).copied() {
            self.take(pod, i);
        }
    }

    /// Binds a pod. Returns the rules that this breaks.
    pub fn bind(&mut self, pod: Value, node: &str) -> Vec<String> {
        let Some(i) = self.by_name.get(node).copied() else {
            return vec![format!("{} goes to {node}, which is not there", name(&pod))];
        };
        let mut broken = Vec::new();
        self.alone(&pod, i, &mut broken);
        self.affinity(&pod, i, &mut broken);
        self.anti_affinity(&pod, i, &mut broken);
        self.spread(&pod, i, &mut broken);
        let told = broken.into_iter().map(|b| format!("{} on {node}: {b}", name(&pod)));
        let told = told.collect();
        self.take(pod, i);
        told
    }

    /// What concerns the pod and its node alone.
    fn alone(&self, pod: &Value, i: usize, broken: &mut Vec<String>) {
        let n = &self.nodes[i];
        for (resource, need) in amounts::requests(pod) {
            let free = n.free.get(&resource).copied().unwrap_or(0);
            if need > free {
                broken.push(format!("asks for {need} of {resource}, and {free} are free"));
            }
        }
        if n.node["spec"]["unschedulable"] == true && !labels::tolerates(pod, &unschedulable()) {
            broken.push("the node is cordoned".into());
        }
        for taint in list(&n.node, "/spec/taints") {
            let hard = taint["effect"] != "PreferNoSchedule";
            if hard && !labels::tolerates(pod, taint) {
                broken.push(format!("taint {} is not tolerated", taint["key"]));
            }
        }
        if !node_matches(pod, &n.node) {
            broken.push("node selector or affinity does not match".into());
        }
        for port in ports(pod) {
            let wild = |a: &str| a == "0.0.0.0";
            let taken = n.ports.iter().any(|(protocol, address, number)| {
                *protocol == port.0
                    && *number == port.2
                    && (*address == port.1 || wild(address) || wild(&port.1))
            });
            if taken {
                broken.push(format!("host port {} is taken", port.2));
            }
        }
    }

    /// How many bound pods a selection takes, node by node.
    fn counted(&mut self, selection: &Selection) -> &[i64] {
        let (bound, count, namespaces) = (&self.bound, self.nodes.len(), &self.namespaces);
        self.counts.entry(selection.clone()).or_insert_with(|| {
            let mut counts = vec![0; count];
            for (pod, node) in bound {
                counts[*node] += i64::from(selection.takes(pod, namespaces));
            }
            counts
        })
    }

    fn in_domain(&mut self, selection: &Selection, key: &str, i: usize) -> Option<i64> {
        let domain = self.nodes[i].label(key)?.to_owned();
        if key == "kubernetes.io/hostname" {
            return Some(self.counted(selection)[i]);
        }
        let counts = self.counted(selection).to_vec();
        let inside = counts.iter().zip(&self.nodes).filter(|(_, n)| n.label(key) == Some(&domain));
        Some(inside.map(|(c, _)| c).sum())
    }

    fn affinity(&mut self, pod: &Value, i: usize, broken: &mut Vec<String>) {
        let terms: Vec<Value> =
            list(pod, &format!("/spec/affinity/podAffinity/{REQUIRED}")).cloned().collect();
        let mut nowhere = true;
        let mut missing = Vec::new();
        for term in &terms {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            let selection = Selection::of_term(term, pod);
            nowhere &= self.counted(&selection).iter().all(|c| *c == 0)
                && selection.takes(pod, &self.namespaces);
            match self.in_domain(&selection, key, i) {
                None => broken.push(format!("the node has no label {key}")),
                Some(0) => missing.push(format!("no pod that it wants is in its {key}")),
                Some(_) => {}
            }
        }
        // The first pod of a group that wants its own kind may go anywhere.
        if !nowhere {
            broken.extend(missing);
        }
    }

    fn anti_affinity(&mut self, pod: &Value, i: usize, broken: &mut Vec<String>) {
        let terms: Vec<Value> =
            list(pod, &format!("/spec/affinity/podAntiAffinity/{REQUIRED}")).cloned().collect();
        for term in &terms {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            let selection = Selection::of_term(term, pod);
            if self.in_domain(&selection, key, i).is_some_and(|n| n > 0) {
                broken.push(format!("a pod that it keeps away from is in its {key}"));
            }
        }
        for (selection, key, taken) in &self.repelled {
            let here = self.nodes[i].label(key);
            if here.is_some_and(|h| taken.contains(h)) && selection.takes(pod, &self.namespaces) {
                broken.push(format!("a pod in its {key} keeps away from it"));
            }
        }
    }

    fn spread(&mut self, pod: &Value, i: usize, broken: &mut Vec<String>) {
        let hard: Vec<Value> = list(pod, "/spec/topologySpreadConstraints")
            .filter(|c| c["whenUnsatisfiable"] == "DoNotSchedule")
            .cloned()
            .collect();
        let keys: Vec<&str> = hard.iter().filter_map(|c| c["topologyKey"].as_str()).collect();
        for c in &hard {
            let key = c["topologyKey"].as_str().unwrap_or_default();
            let Some(domain) = self.nodes[i].label(key).map(str::to_owned) else {
                broken.push(format!("the node has no label {key}"));
                continue;
            };
            let selection = Selection::of_spread(c, pod);
            let counts = self.counted(&selection).to_vec();
            let mut domains: HashMap<&str, i64> = HashMap::new();
            for (count, n) in counts.iter().zip(&self.nodes) {
                let Some(value) = n.label(key) else { continue };
                if keys.iter().all(|k| n.label(k).is_some()) && eligible(c, pod, &n.node) {
                    *domains.entry(value).or_default() += count;
                }
            }
            let enough = domains.len() as i64 >= c["minDomains"].as_i64().unwrap_or(1);
            let least = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
            let own = i64::from(selection.takes(pod, &self.namespaces));
            let here = domains.get(domain.as_str()).copied().unwrap_or(0);
            if here + own - least > c["maxSkew"].as_i64().unwrap_or(1) {
                broken.push(format!("{here} pods in its {key} are too many beside {least}"));
            }
        }
    }

    fn take(&mut self, pod: Value, i: usize) {
        for (resource, need) in amounts::requests(&pod) {
            *self.nodes[i].free.entry(resource).or_default() -= need;
        }
        self.nodes[i].ports.extend(ports(&pod));
        for (selection, counts) in &mut self.counts {
            counts[i] += i64::from(selection.takes(&pod, &self.namespaces));
        }
        for term in list(&pod, &format!("/spec/affinity/podAntiAffinity/{REQUIRED}")) {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            let Some(domain) = self.nodes[i].label(key).map(str::to_owned) else { continue };
            let selection = Selection::of_term(term, &pod);
            match self.repelled.iter_mut().find(|(s, k, _)| *s == selection && k == key) {
                Some((.., taken)) => drop(taken.insert(domain)),
                None => self.repelled.push((selection, key.to_owned(), HashSet::from([domain]))),
            }
        }
        self.bound.push((pod, i));
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Whether a node counts for a constraint (`nodeAffinityPolicy`, `nodeTaintsPolicy`).
fn eligible(constraint: &Value, pod: &Value, node: &Value) -> bool {
    let affine = constraint["nodeAffinityPolicy"] == "Ignore" || node_matches(pod, node);
    let taints = constraint["nodeTaintsPolicy"] == "Honor";
    let tolerated = || {
        list(node, "/spec/taints")
            .filter(|t| t["effect"] != "PreferNoSchedule")
            .all(|t| labels::tolerates(pod, t))
    };
    affine && (!taints || tolerated())
}

fn unschedulable() -> Value {
    serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
}

/// Protocol, address and number of a pod's ports on its host.
fn ports(pod: &Value) -> Vec<(String, String, i64)> {
    let host = pod["spec"]["hostNetwork"] == true;
    let all = list(pod, "/spec/containers").flat_map(|c| list(c, "/ports"));
    all.filter_map(|p| {
        let number = p["hostPort"].as_i64().filter(|n| *n != 0);
        let number = number.or_else(|| p["containerPort"].as_i64().filter(|_| host))?;
        let text = |f: &str, absent: &str| p[f].as_str().unwrap_or(absent).to_owned();
        Some((text("protocol", "TCP"), text("hostIP", "0.0.0.0"), number))
    })
    .collect()
}

#[cfg(test)]
mod tests;
