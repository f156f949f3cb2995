//! Why nodes, pods and NodePools are as they are: from what was decided and written down, and from
//! what the same code would decide now.

use super::{
    DECISION, Shared, buffers,
    candidates::{candidate, counts, quiet_for, whole},
    disruption::terms_of,
    reader::Reader,
};
use crate::{
    api::{Error, path},
    karpenter::{CORACLE_API, NodePool, condition, is_true, pool_of, text},
};
use coracle_provisioning::{budget, consolidate, offering::POOL, pack};
use coracle_scheduling::{Requirements, Resources};
use jiff::Timestamp;
use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Offerings and decisions that are told of.
const TOLD: usize = 5;

/// Something that could be bought.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alternative {
    /// Type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// Capacity type.
    pub capacity_type: String,
    /// Price.
    pub usd_per_hour: f64,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// NodePool; empty for a node that the provisioner did not buy.
    pub node_pool: String,
    /// What it is.
    #[serde(flatten)]
    pub offering: Alternative,
    /// Pods that would have to move.
    pub pods: usize,
    /// Shares of processor and memory that are asked for, in percent.
    pub cpu_percent: f64,
    /// As `cpu_percent`.
    pub memory_percent: f64,
    /// Why it was bought: the decision's part about it, with `decision` (its name) and `time`.
    pub bought: Value,
    /// What would take its place now, if anything would, and what all of that costs.
    pub instead: Option<(Vec<String>, f64)>,
    /// Why it stays. Empty if it is about to go.
    pub stays_because: Vec<String>,
}

/// A pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// Namespace and name.
    pub name: String,
    /// The node that it is on.
    pub node: Option<String>,
    /// Why that node was bought, if it was for this pod or is known.
    pub bought: Value,
    /// Where it would go now, if it waits.
    pub would_go: Option<String>,
    /// Why it waits.
    pub waits_because: Vec<String>,
}

/// How many nodes of a pool may go for a reason now.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Reason.
    pub reason: &'static str,
    /// How many.
    pub allowed: usize,
}

/// A NodePool.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolFacts {
    /// Name.
    pub name: String,
    /// Whether it can buy, and why not.
    pub ready: bool,
    /// Why it is not ready.
    pub message: String,
    /// Its nodes.
    pub nodes: usize,
    /// What they cost.
    pub usd_per_hour: f64,
    /// Limits: resource, what is left below it.
    pub left: Vec<(String, i64)>,
    /// Nodes, and those of them that are not ready or going.
    pub disrupted: (usize, usize),
    /// What its budgets allow now.
    pub budgets: Vec<Budget>,
    /// Types that the cloud sells, and that the pool may buy.
    pub types: (usize, usize),
    /// How many types each requirement excludes by itself.
    pub excluded: Vec<(String, usize)>,
    /// The cheapest that it may buy.
    pub cheapest: Vec<Alternative>,
    /// Its newest decisions: time, action, message.
    pub decisions: Vec<(String, String, String)>,
}

impl Reader {
    /// Why a node is there, and why it stays. `None` if there is no such node.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub async fn explain_node(&self, name: &str) -> Result<Option<NodeFacts>, Error> {
        let shared = self.shared.clone();
        let (node, claim) = (shared.world.nodes.get("", name), shared.claim_of(name));
        if node.is_none() && claim.is_none() {
            return Ok(None);
        }
        let label = |k: &str| {
            let of_node = node.as_ref().and_then(|n| n.metadata.labels.as_ref()?.get(k));
            let of_claim = claim.as_ref().and_then(|c| c.metadata.labels.as_ref()?.get(k));
            of_node.or(of_claim).cloned().unwrap_or_default()
        };
        let model = claim.as_ref().and_then(|c| shared.model(c));
        let offering = Alternative {
            instance_type: label("node.kubernetes.io/instance-type"),
            zone: label("topology.kubernetes.io/zone"),
            capacity_type: label("karpenter.sh/capacity-type"),
            usd_per_hour: model.map_or(0.0, |m| m.usd_per_hour),
        };
        let pods = shared.pods_on(name);
        let moving = pods.iter().filter(|p| !super::lifecycle::stays(p)).count();
        let mut asked = Resources::default();
        pods.iter().for_each(|p| asked.add(&p.asks.requests, 1));
        let offered = node.as_ref().and_then(|n| n.status.as_ref()?.allocatable.as_ref());
        let offered = Resources::from_list(offered);
        let share = |a: i64, b: i64| 100.0 * a as f64 / b.max(1) as f64;
        let bought = self.bought(name, claim.as_deref()).await?;
        let looked = tokio::task::spawn_blocking({
            let (shared, claim) = (shared.clone(), claim.clone());
            move || match claim {
                Some(c) => why_it_stays(&shared, &c),
                None => (None, vec!["the provisioner did not buy it and leaves it alone".into()]),
            }
        });
        let (instead, stays_because) = looked.await.map_err(|e| Error::Request(e.to_string()))?;
        Ok(Some(NodeFacts {
            name: name.to_owned(),
            node_pool: label(POOL),
            offering,
            pods: moving,
            cpu_percent: share(asked.cpu_milli, offered.cpu_milli),
            memory_percent: share(asked.memory_bytes, offered.memory_bytes),
            bought,
            instead,
            stays_because,
        }))
    }

    /// Where a pod is and why, or why it waits. `None` if there is no such pod.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub async fn explain_pod(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<PodFacts>, Error> {
        let shared = self.shared.clone();
        let Some(p) = shared.world.pods.get(namespace, name) else { return Ok(None) };
        let mut facts = PodFacts {
            name: format!("{namespace}/{name}"),
            node: None,
            bought: Value::Null,
            would_go: None,
            waits_because: Vec::new(),
        };
        if !p.node_name.is_empty() {
            facts.bought =
                self.bought(&p.node_name, shared.claim_of(&p.node_name).as_deref()).await?;
            facts.node = Some(p.node_name.clone());
            return Ok(Some(facts));
        }
        if let Some(gates) = p.spec.scheduling_gates.as_ref().filter(|g| !g.is_empty()) {
            let names: Vec<&str> = gates.iter().map(|g| g.name.as_str()).collect();
            facts
                .waits_because
                .push(format!("its scheduling gates are closed: {}", names.join(", ")));
            return Ok(Some(facts));
        }
        let key = p.asks.key.clone();
        let planned = tokio::task::spawn_blocking(move || {
            pack::pack(
                &mut shared.snapshot(),
                &shared.waiting(),
                &shared.pools(),
                &shared.daemons(),
            )
        });
        let plan = planned.await.map_err(|e| Error::Request(e.to_string()))?;
        if let Some(node) = plan.existing.get(&key) {
            facts.would_go = Some(format!("to {node}, which is there or on its way"));
        } else if let Some(n) = plan.new_nodes.iter().find(|n| n.pods.contains(&key)) {
            facts.would_go = Some(format!("to a new node of NodePool {}: {}", n.pool, n.why));
        }
        facts.waits_because.extend(plan.unschedulable.get(&key).cloned());
        Ok(Some(facts))
    }

    /// What a NodePool may buy, has, and did. `None` if there is no such pool.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub async fn explain_nodepool(&self, name: &str) -> Result<Option<PoolFacts>, Error> {
        let shared = &self.shared;
        let Some(o) = shared.karpenter.pools.get("", name) else { return Ok(None) };
        let pool = NodePool::read(&o);
        let ready = condition(&o, "Ready");
        let types = shared.types(&pool);
        let claims = shared.claims_of(name);
        let models = claims.iter().filter_map(|c| shared.model(c));
        let pools: HashMap<String, NodePool> = [(name.to_owned(), pool.clone())].into();
        let (total, disrupted) = counts(shared, &pools).get(name).copied().unwrap_or_default();
        let now = Timestamp::now();
        let budgets = ["Empty", "Underutilized", "Drifted"].map(|reason| Budget {
            reason,
            allowed: budget::allowed(&pool.budgets, reason, total, disrupted, now),
        });
        let mut cheapest: Vec<Alternative> = types
            .iter()
            .flat_map(|t| t.offerings.first().map(|o| (t, o)))
            .map(|(t, o)| Alternative {
                instance_type: t.name.to_string(),
                zone: o.zone.to_string(),
                capacity_type: o.capacity_type.to_owned(),
                usd_per_hour: o.usd_per_hour,
            })
            .collect();
        cheapest.truncate(TOLD);
        let of_pool = |d: &Value| {
            ["newNodes", "removedNodes"].iter().any(|list| {
                d["spec"][list].as_array().into_iter().flatten().any(|n| n["nodePool"] == name)
            })
        };
        let mut decisions: Vec<(String, String, String)> = self
            .decisions()
            .await?
            .iter()
            .filter(|d| of_pool(d))
            .map(|d| {
                (text(&d["spec"]["time"]), text(&d["spec"]["action"]), text(&d["spec"]["message"]))
            })
            .collect();
        decisions.sort();
        decisions.reverse();
        decisions.truncate(TOLD);
        let left = shared.pool(&pool).map(|p| p.room.into_iter().collect()).unwrap_or_default();
        Ok(Some(PoolFacts {
            name: name.to_owned(),
            ready: is_true(&o, "Ready"),
            message: ready.map(|c| text(&c["message"])).unwrap_or_default(),
            nodes: claims.len(),
            usd_per_hour: models.map(|m| m.usd_per_hour).sum(),
            left,
            disrupted: (total, disrupted),
            budgets: budgets.into(),
            types: (sold(shared, &pool), types.len()),
            excluded: excluded(shared, &pool),
            cheapest,
            decisions,
        }))
    }

    async fn decisions(&self) -> Result<Vec<Value>, Error> {
        let at = path(CORACLE_API, "decisions", "", "", "");
        let writer = &self.shared.writer;
        match writer.send("GET", &at, "application/json", &Value::Null).await {
            Ok(all) => Ok(all["items"].as_array().cloned().unwrap_or_default()),
            // Another provisioner writes none.
            Err(e) if e.code() == Some(404) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// What was written down when a node was bought; of one that is older than that, what its claim says.
    async fn bought(&self, node: &str, claim: Option<&DynamicObject>) -> Result<Value, Error> {
        let bought = claim.and_then(|c| c.metadata.name.as_deref()).unwrap_or(node);
        for d in self.decisions().await? {
            let nodes = d["spec"]["newNodes"].as_array();
            if let Some(n) = nodes.into_iter().flatten().find(|n| n["name"] == bought) {
                let mut n = n.clone();
                n["decision"] = d["metadata"]["name"].clone();
                n["action"] = d["spec"]["action"].clone();
                n["message"] = d["spec"]["message"].clone();
                n["time"] = d["spec"]["time"].clone();
                return Ok(n);
            }
        }
        let noted = claim.and_then(|c| c.metadata.annotations.as_ref()?.get(DECISION).cloned());
        Ok(noted.map_or(Value::Null, |why| serde_json::json!({"reason": why})))
    }
}

/// How many types there are for a pool to choose from.
fn sold(shared: &Shared, pool: &NodePool) -> usize {
    shared.catalogue(&pool.class).map_or(0, |all| all.types().len())
}

/// How many types each requirement of a pool excludes by itself.
fn excluded(shared: &Shared, pool: &NodePool) -> Vec<(String, usize)> {
    let all = sold(shared, pool);
    let mut out: Vec<(String, usize)> = pool
        .requirements
        .0
        .iter()
        .map(|(key, values)| {
            let one = NodePool {
                requirements: Requirements([(key.clone(), values.clone())].into()),
                ..pool.clone()
            };
            (key.to_string(), all - shared.types(&one).len())
        })
        .filter(|(_, n)| *n > 0)
        .collect();
    out.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    out
}

/// What would take a node's place, and all that speaks against it.
fn why_it_stays(
    shared: &Shared,
    claim: &Arc<DynamicObject>,
) -> (Option<(Vec<String>, f64)>, Vec<String>) {
    let mut why = Vec::new();
    let Some(o) = shared.karpenter.pools.get("", pool_of(claim)) else {
        return (None, vec!["its NodePool is gone".into()]);
    };
    let pool = NodePool::read(&o);
    if pool.replicas.is_some() {
        return (None, vec!["its NodePool keeps a fixed number of nodes".into()]);
    }
    if !is_true(claim, "Initialized") {
        return (None, vec!["it is not set up yet".into()]);
    }
    let mut candidate = match candidate(shared, claim, true) {
        Ok(c) => c,
        Err(reason) => return (None, vec![reason]),
    };
    match pool.consolidate_after.map(|d| shared.real(d)) {
        None => why.push("consolidateAfter of its NodePool is Never".into()),
        Some(quiet) => {
            let calm = quiet_for(shared, claim).unwrap_or(Duration::MAX);
            if calm < quiet {
                let more = (quiet - calm).as_secs();
                why.push(format!(
                    "pods came or went a moment ago: consolidateAfter leaves it {more} s more"
                ));
            }
        }
    }
    if !pool.underutilized && !candidate.pods.is_empty() {
        why.push("it has pods, and its NodePool gives up empty nodes only (consolidationPolicy: WhenEmpty)".into());
    }
    let policy = shared.policy(&pool.name);
    if !policy.may_disrupt(Timestamp::now()) {
        why.push("a ProvisioningPolicy lets its NodePool be disturbed at other times only".into());
    }
    let pools: HashMap<String, NodePool> = [(pool.name.clone(), pool.clone())].into();
    let (total, disrupted) = counts(shared, &pools).get(&pool.name).copied().unwrap_or_default();
    let reason = if candidate.pods.is_empty() { "Empty" } else { "Underutilized" };
    let allowed = budget::allowed(&pool.budgets, reason, total, disrupted, Timestamp::now());
    if allowed == 0 {
        why.push(format!(
            "the budgets of its NodePool let no more nodes go for {reason}: {disrupted} of {total} are disrupted already"
        ));
    }
    let balance = pool.balanced.then(|| whole(shared, &pool.name));
    let terms = terms_of(&policy, allowed.max(1), balance);
    let mut snapshot = shared.snapshot();
    let (mut here, homeless) = buffers::occupy(&mut snapshot, shared.hopeful());
    if homeless > 0 {
        why.push("pods wait for nodes that are not bought yet: that goes first".into());
    }
    let (mut room, _) = buffers::occupy(&mut snapshot, shared.room());
    for list in [&mut here, &mut room] {
        candidate.pods.extend(list.remove(&candidate.node).unwrap_or_default());
    }
    if candidate.pods.is_empty() {
        return (None, why);
    }
    let verdict =
        consolidate::verdict(&snapshot, &candidate, &shared.pools(), &shared.daemons(), terms);
    why.extend(verdict.against);
    let instead = verdict.command.map(|c| {
        let types = c.plan.new_nodes.iter().filter_map(|n| n.types.first());
        (types.map(ToString::to_string).collect(), c.plan.usd_per_hour)
    });
    (instead, why)
}
