//! What the viewer shows, as data.

use super::Watched;
use coracle_control::karpenter::PRICE;
use coracle_meta::time::human_duration;
use coracle_scheduling::{Resources, pod::requests};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Hours of a month, as the viewer counts.
const HOURS_PER_MONTH: f64 = 730.0;

/// One node, or a machine whose node has not appeared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) created: i64,
    pub(crate) used: Resources,
    pub(crate) allocatable: Resources,
    pub(crate) pods: usize,
    pub(crate) instance_type: String,
    pub(crate) usd_per_hour: Option<f64>,
    pub(crate) capacity_type: String,
    pub(crate) cordoned: bool,
    pub(crate) deleting: bool,
    /// Ready, or how long it has not been.
    pub(crate) state: String,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) rows: Vec<Row>,
    pub(crate) pods: usize,
    pub(crate) pending: usize,
    pub(crate) running: usize,
    pub(crate) bound: usize,
}

impl Summary {
    pub(crate) fn used(&self) -> Resources {
        self.sum(|r| &r.used)
    }

    pub(crate) fn allocatable(&self) -> Resources {
        self.sum(|r| &r.allocatable)
    }

    fn sum(&self, f: fn(&Row) -> &Resources) -> Resources {
        let mut total = Resources::default();
        self.rows.iter().for_each(|r| total.add(f(r), 1));
        total
    }

    /// Unknown prices are left out.
    pub(crate) fn usd_per_hour(&self) -> f64 {
        self.rows.iter().filter_map(|r| r.usd_per_hour).sum()
    }

    pub(crate) fn usd_per_month(&self) -> f64 {
        self.usd_per_hour() * HOURS_PER_MONTH
    }

    pub(crate) fn to_json(&self) -> Value {
        let row = |r: &Row| {
            json!({"name": r.name, "instanceType": r.instance_type, "capacityType": r.capacity_type, "usdPerHour": r.usd_per_hour,
                "pods": r.pods, "used": r.used.to_list(), "allocatable": r.allocatable.to_list(), "cordoned": r.cordoned, "deleting": r.deleting, "state": r.state})
        };
        json!({
            "nodes": self.rows.iter().map(row).collect::<Vec<_>>(),
            "used": self.used().to_list(), "allocatable": self.allocatable().to_list(),
            "usdPerHour": round(self.usd_per_hour()), "usdPerMonth": round(self.usd_per_month()),
            "pods": {"total": self.pods, "pending": self.pending, "running": self.running, "bound": self.bound},
        })
    }
}

fn round(usd: f64) -> f64 {
    (usd * 1e6).round() / 1e6
}

fn price(node: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> Option<f64> {
    let own = labels.get("eks-node-viewer/instance-price");
    own.or_else(|| node.get(PRICE))?.parse().ok()
}

fn capacity_type(labels: &BTreeMap<String, String>) -> String {
    match labels.get("karpenter.sh/capacity-type").map(String::as_str) {
        Some("spot") => "Spot",
        Some("on-demand") => "On-Demand",
        Some("reserved") => "Reserved",
        _ => "-",
    }
    .into()
}

fn row(n: &Node) -> Row {
    let labels = n.metadata.labels.clone().unwrap_or_default();
    let annotations = n.metadata.annotations.clone().unwrap_or_default();
    let spec = n.spec.clone().unwrap_or_default();
    let conditions = n.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let created = n.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
    let unregistered = spec.taints.iter().flatten().any(|t| t.key == "karpenter.sh/unregistered");
    let state = match ready {
        Some(c) if c.status == "True" && !unregistered => "Ready".to_owned(),
        Some(c) if c.status != "True" => "NotReady".to_owned(),
        _ => human_duration(SignedDuration::from_secs(Timestamp::now().as_second() - created)),
    };
    let going = spec
        .taints
        .iter()
        .flatten()
        .any(|t| t.effect == "NoSchedule" && t.key.starts_with("karpenter.sh/disrupt"));
    Row {
        name: n.metadata.name.clone().unwrap_or_default(),
        created,
        used: Resources::default(),
        allocatable: Resources::from_list(n.status.as_ref().and_then(|s| s.allocatable.as_ref())),
        pods: 0,
        instance_type: labels
            .get("node.kubernetes.io/instance-type")
            .cloned()
            .unwrap_or_else(|| "-".into()),
        usd_per_hour: price(&annotations, &labels),
        capacity_type: capacity_type(&labels),
        cordoned: spec.unschedulable == Some(true) || going,
        deleting: n.metadata.deletion_timestamp.is_some(),
        state,
    }
}

/// Counts all pods, and gives each node its own.
fn count(summary: &mut Summary, pods: &[std::sync::Arc<Pod>]) {
    for p in pods {
        let phase = p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") || p.metadata.deletion_timestamp.is_some() {
            continue;
        }
        summary.pods += 1;
        summary.pending += usize::from(phase == "Pending");
        summary.running += usize::from(phase == "Running");
        let Some(spec) = p.spec.as_ref() else { continue };
        let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) else { continue };
        summary.bound += 1;
        if let Some(row) = summary.rows.iter_mut().find(|r| r.name == node) {
            row.used.add(&requests(spec), 1);
            row.pods += 1;
        }
    }
}

/// What there is now.
pub(crate) fn summary(w: &Watched) -> Summary {
    let mut rows: Vec<Row> = w
        .nodes
        .all()
        .iter()
        .filter(|n| w.selector.matches_map(n.metadata.labels.as_ref()))
        .map(|n| row(n))
        .collect();
    // Machines that were launched show before their nodes exist.
    for c in w.claims.iter().flat_map(|c| c.all()) {
        let name = c.metadata.name.clone().unwrap_or_default();
        let labels = c.metadata.labels.clone().unwrap_or_default();
        let launched =
            c.data["status"]["providerID"].is_string() && w.selector.matches_map(Some(&labels));
        if !launched || w.nodes.get("", &name).is_some() {
            if let Some(r) = rows.iter_mut().find(|r| r.name == name) {
                r.deleting |= c.metadata.deletion_timestamp.is_some();
            }
            continue;
        }
        let created = c.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let list: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            serde_json::from_value(c.data["status"]["allocatable"].clone()).unwrap_or_default();
        rows.push(Row {
            created,
            allocatable: Resources::from_list(Some(&list)),
            instance_type: labels
                .get("node.kubernetes.io/instance-type")
                .cloned()
                .unwrap_or_else(|| "-".into()),
            usd_per_hour: price(&c.metadata.annotations.clone().unwrap_or_default(), &labels),
            capacity_type: capacity_type(&labels),
            deleting: c.metadata.deletion_timestamp.is_some(),
            state: human_duration(SignedDuration::from_secs(
                Timestamp::now().as_second() - created,
            )),
            name,
            ..Row::default()
        });
    }
    rows.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut summary = Summary { rows, ..Summary::default() };
    count(&mut summary, &w.pods.all());
    summary
}
