//! Decisions, written down as objects (`coracle.dev/v1`, kind Decision) for whoever asks later why a
//! node was bought or given up. The newest are kept, the oldest go.

use super::{Shared, command::Removed};
use crate::{
    api::{Error, path},
    karpenter::CORACLE_API,
};
use coracle_meta::time::rfc3339;
use coracle_provisioning::{NewNode, Plan};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Decisions that are kept.
const KEPT: usize = 500;
/// Pods that one names for each node, and without a place.
const NAMED: usize = 20;
/// New nodes that one tells of.
const NODES: usize = 400;

/// Names of the decisions that are there, oldest first; `None` until they have been listed.
#[derive(Default)]
pub(super) struct Kept(Mutex<Option<VecDeque<String>>>);

/// What was decided.
pub(super) struct Decision<'d> {
    /// `Provisioned`, or the reason of a disruption such as `Underutilized`.
    pub(super) action: &'static str,
    /// Why, in a sentence.
    pub(super) message: String,
    /// What was planned; its new nodes got these names, in their order.
    pub(super) plan: Option<(&'d Plan, &'d [String])>,
    /// Nodes that go.
    pub(super) removed: Vec<Removed>,
    /// What that saves.
    pub(super) saves_usd_per_hour: f64,
}

fn new_node(n: &NewNode, name: Option<&String>) -> Value {
    let pods: Vec<String> =
        n.pods.iter().take(NAMED).map(|p| format!("{}/{}", p.namespace, p.name)).collect();
    let alternatives: Vec<Value> = n
        .alternatives
        .iter()
        .map(|(t, usd)| json!({"instanceType": &**t, "usdPerHour": round(*usd)}))
        .collect();
    json!({
        "name": name, "nodePool": n.pool, "instanceType": n.types.first().map(|t| &**t), "zone": &*n.offering.zone,
        "capacityType": n.offering.capacity_type, "usdPerHour": round(n.offering.usd_per_hour), "reason": n.why,
        "podCount": n.pods.len(), "pods": pods, "alternatives": alternatives,
        "requests": n.requests.to_list(),
    })
}

/// Prices are told to a millionth.
fn round(usd: f64) -> f64 {
    (usd * 1e6).round() / 1e6 + 0.0
}

impl Shared {
    /// Counts a decision and writes it down. A record that is lost stops nothing.
    pub(super) async fn record(&self, d: Decision<'_>) {
        if !d.removed.is_empty() {
            let buys = d.plan.is_some_and(|(plan, _)| !plan.new_nodes.is_empty());
            let decision = if buys { "replace" } else { "delete" };
            let of = [("decision", decision), ("reason", &d.action.to_lowercase())];
            self.metrics.count("karpenter_voluntary_disruption_decisions_total", &of);
        }
        if let Err(error) = self.write_down(&d).await {
            tracing::debug!(%error, "a decision was not recorded");
        }
    }

    async fn write_down(&self, d: &Decision<'_>) -> Result<(), Error> {
        let removed: Vec<Value> = d
            .removed
            .iter()
            .map(|r| json!({"name": r.name, "nodePool": r.pool, "instanceType": r.instance_type, "usdPerHour": round(r.usd_per_hour), "podCount": r.pods}))
            .collect();
        let mut spec = json!({
            "action": d.action, "message": d.message, "time": rfc3339(Timestamp::now()),
            "removedNodes": removed, "savesUSDPerHour": round(d.saves_usd_per_hour),
        });
        if let Some((plan, names)) = d.plan {
            let nodes = plan
                .new_nodes
                .iter()
                .take(NODES)
                .enumerate()
                .map(|(i, n)| new_node(n, names.get(i)));
            let without: BTreeMap<String, &String> = plan
                .unschedulable
                .iter()
                .take(NAMED)
                .map(|(p, why)| (format!("{}/{}", p.namespace, p.name), why))
                .collect();
            spec["newNodes"] = nodes.collect();
            spec["unschedulable"] = json!(without);
            spec["usdPerHour"] = json!(round(plan.usd_per_hour));
            spec["lowerBoundUSDPerHour"] = json!(round(plan.lower_bound_usd_per_hour));
        }
        let object = json!({"apiVersion": CORACLE_API, "kind": "Decision",
            "metadata": {"generateName": format!("{}-", d.action.to_lowercase()), "labels": {"coracle.dev/action": d.action}}, "spec": spec});
        let at = |name: &str| path(CORACLE_API, "decisions", "", name, "");
        let made = self.writer.send("POST", &at(""), "application/json", &object).await?;
        let listed = self.decisions.0.lock().is_some();
        if !listed {
            let all = self.writer.send("GET", &at(""), "application/json", &Value::Null).await?;
            let mut names: Vec<(String, String)> = all["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|o| {
                    (o["spec"]["time"].to_string(), crate::karpenter::text(&o["metadata"]["name"]))
                })
                .collect();
            names.sort();
            *self.decisions.0.lock() = Some(names.into_iter().map(|(_, n)| n).collect());
        } else if let Some(kept) = self.decisions.0.lock().as_mut() {
            kept.push_back(crate::karpenter::text(&made["metadata"]["name"]));
        }
        loop {
            let oldest = {
                let mut kept = self.decisions.0.lock();
                kept.as_mut().filter(|k| k.len() > KEPT).and_then(VecDeque::pop_front)
            };
            let Some(name) = oldest else { return Ok(()) };
            match self.writer.send("DELETE", &at(&name), "application/json", &Value::Null).await {
                Err(e) if e.code() != Some(404) => return Err(e),
                _ => {}
            }
        }
    }
}
