//! A plan for eyes and for programs.

use super::manifests::Manifests;
use coracle_control::provisioner::{Drifting, WhatIf};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt};

/// Hours of a month, as clouds count.
const HOURS: f64 = 730.0;
/// Pods without a place that are named one by one.
const NAMED: usize = 10;

/// New nodes that are alike.
#[derive(Default)]
struct Row {
    nodes: usize,
    pods: usize,
    usd_per_hour: f64,
    cpu_milli: i64,
    memory_bytes: i64,
}

/// What is told of a plan.
pub(crate) struct Report<'r> {
    found: &'r WhatIf,
    wanted: &'r Manifests,
    pods: usize,
    /// What changed NodePools would replace.
    drifting: Option<Drifting>,
    /// By type, zone and capacity type.
    rows: BTreeMap<(String, String, String), Row>,
}

impl<'r> Report<'r> {
    pub(crate) fn new(
        found: &'r WhatIf,
        wanted: &'r Manifests,
        pods: usize,
        drifting: Option<Drifting>,
    ) -> Self {
        let mut rows: BTreeMap<(String, String, String), Row> = BTreeMap::new();
        for n in &found.plan.new_nodes {
            let ty = n.types.first().map(ToString::to_string).unwrap_or_default();
            let key = (ty, n.offering.zone.to_string(), n.offering.capacity_type.to_owned());
            let row = rows.entry(key).or_default();
            row.nodes += 1;
            row.pods += n.pods.len();
            row.usd_per_hour += n.offering.usd_per_hour;
            row.cpu_milli += n.requests.cpu_milli;
            row.memory_bytes += n.requests.memory_bytes;
        }
        Self { found, wanted, pods, drifting, rows }
    }

    /// Shares of what the nodes of a row offer, in percent: processors, memory.
    fn fill(&self, ty: &str, row: &Row) -> (f64, f64) {
        let (cpu, memory) = self.found.allocatable.get(ty).copied().unwrap_or((1, 1));
        let share = |part: i64, whole: i64| 100.0 * part as f64 / (whole as f64 * row.nodes as f64);
        (share(row.cpu_milli, cpu), share(row.memory_bytes, memory))
    }

    /// As an object: apiVersion coracle.dev/v1, kind Plan.
    pub(crate) fn to_json(&self) -> Value {
        let plan = &self.found.plan;
        let nodes: Vec<Value> = plan
            .new_nodes
            .iter()
            .map(|n| {
                let pods: Vec<String> =
                    n.pods.iter().map(|p| format!("{}/{}", p.namespace, p.name)).collect();
                let types: Vec<&str> = n.types.iter().map(|t| &**t).collect();
                json!({
                    "nodePool": n.pool, "instanceTypes": types, "zone": &*n.offering.zone,
                    "capacityType": n.offering.capacity_type, "usdPerHour": n.offering.usd_per_hour,
                    "requests": n.requests.to_list(), "pods": pods, "reason": n.why,
                })
            })
            .collect();
        let named = |k: &coracle_scheduling::pod::PodKey| format!("{}/{}", k.namespace, k.name);
        let existing: BTreeMap<String, &String> =
            plan.existing.iter().map(|(k, n)| (named(k), n)).collect();
        let unschedulable: BTreeMap<String, &String> =
            plan.unschedulable.iter().map(|(k, why)| (named(k), why)).collect();
        json!({
            "apiVersion": "coracle.dev/v1",
            "kind": "Plan",
            "spec": {"pods": self.pods, "of": self.wanted.asked, "waiting": self.found.waiting.iter().map(named).collect::<Vec<_>>()},
            "status": {
                "usdPerHourNow": self.found.usd_per_hour_now,
                "usdPerHourMore": plan.usd_per_hour,
                "lowerBoundUSDPerHour": plan.lower_bound_usd_per_hour,
                "nodes": nodes,
                "existing": existing,
                "unschedulable": unschedulable,
                "notes": self.wanted.notes,
                "drift": self.drifting.as_ref().map(drift),
            },
        })
    }
}

fn drift(d: &Drifting) -> Value {
    let nodes: BTreeMap<&str, &str> = d.nodes.iter().map(|(n, why)| (n.as_str(), *why)).collect();
    json!({
        "nodes": nodes, "usdPerHour": d.usd_per_hour,
        "instanceTypesInstead": d.instead.as_ref().map(|i| &i.0), "usdPerHourInstead": d.instead.as_ref().map(|i| i.1),
    })
}

/// What changed NodePools would replace, for eyes.
fn drift_lines(d: &Drifting, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if d.nodes.is_empty() {
        return writeln!(f, "The NodePools would replace no node.");
    }
    writeln!(
        f,
        "The NodePools would replace {}, as their budgets allow:",
        count(d.nodes.len(), "node")
    )?;
    for (name, why) in d.nodes.iter().take(NAMED) {
        writeln!(f, "  {name}: {why}")?;
    }
    if d.nodes.len() > NAMED {
        writeln!(f, "  and {} more (--output json names all)", d.nodes.len() - NAMED)?;
    }
    match &d.instead {
        None => writeln!(f, "Not all of their pods would find a place."),
        Some((types, usd)) => {
            let mut of: BTreeMap<&str, usize> = BTreeMap::new();
            types.iter().for_each(|t| *of.entry(t).or_default() += 1);
            let of: Vec<String> = of.iter().map(|(t, n)| format!("{n} {t}")).collect();
            let of = if of.is_empty() { "nodes that are there".to_owned() } else { of.join(", ") };
            writeln!(f, "In place of ${:.4}/h: {of} for ${usd:.4}/h.", d.usd_per_hour)
        }
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.found.plan;
        for (what, n) in &self.wanted.asked {
            writeln!(f, "{} of {what}", count(*n, "pod"))?;
        }
        if !self.found.waiting.is_empty() {
            writeln!(f, "{} waiting for a node already", count(self.found.waiting.len(), "pod"))?;
        }
        for note in &self.wanted.notes {
            writeln!(f, "note: {note}")?;
        }
        if let Some(d) = &self.drifting {
            drift_lines(d, f)?;
            if self.pods + self.found.waiting.len() == 0 {
                return writeln!(f, "Nothing was changed.");
            }
        }
        if self.pods + self.found.waiting.len() == 0 {
            return writeln!(
                f,
                "Nothing to plan: no pods are asked for, and none waits. Say -f FILE or --scale deployment/NAME=N."
            );
        }
        writeln!(f)?;
        if !self.rows.is_empty() {
            writeln!(
                f,
                "{:>5}  {:<18} {:<14} {:<10} {:>9}  {:>5}  {:>5}  {:>6}",
                "NODES", "TYPE", "ZONE", "CAPACITY", "$/HOUR", "PODS", "CPU", "MEMORY"
            )?;
        }
        for ((ty, zone, capacity), row) in &self.rows {
            let (cpu, memory) = self.fill(ty, row);
            writeln!(
                f,
                "{:>5}  {ty:<18} {zone:<14} {capacity:<10} {:>9.4}  {:>5}  {cpu:>4.0}%  {memory:>5.0}%",
                row.nodes, row.usd_per_hour, row.pods
            )?;
        }
        if !plan.existing.is_empty() {
            writeln!(f, "On nodes that are there: {}.", count(plan.existing.len(), "pod"))?;
        }
        if !plan.unschedulable.is_empty() {
            writeln!(f, "Without a place: {}.", count(plan.unschedulable.len(), "pod"))?;
            for (k, why) in plan.unschedulable.iter().take(NAMED) {
                writeln!(f, "  {}/{}: {why}", k.namespace, k.name)?;
            }
            if plan.unschedulable.len() > NAMED {
                writeln!(
                    f,
                    "  and {} more (--output json names all)",
                    plan.unschedulable.len() - NAMED
                )?;
            }
        }
        let more = plan.usd_per_hour;
        writeln!(
            f,
            "\n{} for ${more:.4}/h, ${:.2} a month, beside ${:.4}/h now.",
            count(plan.new_nodes.len(), "node"),
            more * HOURS,
            self.found.usd_per_hour_now
        )?;
        if more > 0.0 {
            let bound = plan.lower_bound_usd_per_hour;
            writeln!(
                f,
                "No nodes for these pods cost less than ${bound:.4}/h: at most {:.0}% could be saved.",
                100.0 * (1.0 - bound / more)
            )?;
        }
        writeln!(f, "Nothing was changed.")
    }
}
