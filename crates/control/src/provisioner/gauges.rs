//! What the provisioner's metrics say of the cluster at the moment.

use super::{Shared, candidates::counts};
use crate::metrics::{Gauge, labels};
use coracle_provisioning::{budget, offering::POOL};
use coracle_scheduling::Resources;
use jiff::Timestamp;
use std::sync::Arc;

/// A running provisioner, for who asks what it counts.
#[derive(Clone)]
pub struct Provisioner(pub(super) Arc<Shared>);

impl Provisioner {
    /// Its metrics in Prometheus' text form, under Karpenter's names.
    pub fn metrics(&self) -> String {
        self.0.metrics.render(&self.0.gauges())
    }
}

/// Amounts by resource, in units: processors, bytes, numbers.
fn amounts(r: &Resources) -> Vec<(String, f64)> {
    let mut all = vec![
        ("cpu".to_owned(), r.cpu_milli as f64 / 1000.0),
        ("memory".into(), r.memory_bytes as f64),
        ("ephemeral-storage".into(), r.ephemeral_bytes as f64),
        ("pods".into(), r.pods as f64),
    ];
    all.extend(r.extended.iter().map(|(n, v)| (n.to_string(), *v as f64)));
    all
}

impl Shared {
    fn gauges(&self) -> Vec<Gauge> {
        let mut all = Vec::new();
        let mut put = |name, help, of: &[(&str, &str)], value: f64| {
            all.push(Gauge { name, help, labels: labels(of), value });
        };
        let hopeless = self.hopeless.lock().len();
        put(
            "karpenter_scheduler_queue_depth",
            "Pods that wait for a node.",
            &[],
            self.waiting().len() as f64,
        );
        put(
            "karpenter_scheduler_unschedulable_pods_count",
            "Pods that nothing fits.",
            &[],
            hopeless as f64,
        );
        put(
            "karpenter_cluster_state_node_count",
            "Nodes.",
            &[],
            self.world.nodes.all().len() as f64,
        );
        put(
            "karpenter_cluster_state_synced",
            "Whether the state of the cluster is known.",
            &[],
            1.0,
        );
        let pools = self.pools_by_name();
        let mut names: Vec<&String> = pools.keys().collect();
        names.sort();
        for name in &names {
            for (resource, limit) in &pools[*name].limits {
                let Ok(q) = limit.parse::<coracle_meta::Quantity>() else { continue };
                put(
                    "karpenter_nodepools_limit",
                    "Limits of NodePools.",
                    &[("nodepool", name), ("resource_type", resource)],
                    q.nanos() as f64 / 1e9,
                );
            }
        }
        let mut costs = Vec::new();
        for name in &names {
            let (mut used, mut nodes, mut usd) = (Resources::default(), 0.0, 0.0);
            for m in self.claims_of(name).iter().filter_map(|c| self.model(c)) {
                used.add(&m.capacity, 1);
                usd += m.usd_per_hour;
                nodes += 1.0;
            }
            costs.push(usd);
            for (resource, n) in amounts(&used).into_iter().chain([("nodes".to_owned(), nodes)]) {
                put(
                    "karpenter_nodepools_usage",
                    "What NodePools have.",
                    &[("nodepool", name), ("resource_type", &resource)],
                    n,
                );
            }
        }
        for (name, usd) in names.iter().zip(costs) {
            put(
                "karpenter_nodepools_cost_total",
                "What NodePools cost, in US dollars an hour.",
                &[("nodepool", name)],
                usd,
            );
        }
        let counts = counts(self, &pools);
        let now = Timestamp::now();
        for name in &names {
            let (total, disrupted) = counts.get(*name).copied().unwrap_or_default();
            for reason in ["Empty", "Underutilized", "Drifted"] {
                let n = budget::allowed(&pools[*name].budgets, reason, total, disrupted, now);
                put(
                    "karpenter_nodepools_allowed_disruptions",
                    "Nodes that budgets let go now.",
                    &[("nodepool", name), ("reason", &reason.to_lowercase())],
                    n as f64,
                );
            }
        }
        self.nodes_of_gauges(&mut all);
        all
    }

    fn nodes_of_gauges(&self, all: &mut Vec<Gauge>) {
        let nodes = self.world.nodes.all();
        let label = |n: &k8s_openapi::api::core::v1::Node, k: &str| {
            n.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned().unwrap_or_default()
        };
        for (name, help, asked) in [
            ("karpenter_nodes_allocatable", "What nodes offer to pods.", false),
            ("karpenter_nodes_total_pod_requests", "What pods on nodes ask for.", true),
        ] {
            for n in &nodes {
                let own = n.metadata.name.clone().unwrap_or_default();
                let mut r = Resources::default();
                if asked {
                    self.pods_on(&own).iter().for_each(|p| r.add(&p.asks.requests, 1));
                } else {
                    r = Resources::from_list(
                        n.status.as_ref().and_then(|s| s.allocatable.as_ref()),
                    );
                }
                let pool = label(n, POOL);
                let ty = label(n, "node.kubernetes.io/instance-type");
                let zone = label(n, "topology.kubernetes.io/zone");
                let paid = label(n, "karpenter.sh/capacity-type");
                for (resource, value) in amounts(&r) {
                    let of = [
                        ("node_name", own.as_str()),
                        ("nodepool", &pool),
                        ("instance_type", &ty),
                        ("zone", &zone),
                        ("capacity_type", &paid),
                        ("resource_type", &resource),
                    ];
                    all.push(Gauge { name, help, labels: labels(&of), value });
                }
            }
        }
    }
}
