//! Giving up nodes: empty ones at once, others when their pods fit elsewhere for less. What may be given
//! up is in [`super::candidates`], how it goes in [`super::command`].

use super::{
    Shared, buffers,
    candidates::{candidate, candidates, counts, note_pod_events, whole},
    command::{Removed, Running, advance, begin, give_up, release, removed},
    decisions::Decision,
};
use crate::{Stop, api::Error, karpenter::NodePool, stopped};
use coracle_provisioning::{
    Candidate, Command, Plan, Pool, Terms, budget, consolidate, pack, policy::Policy,
};
use coracle_scheduling::{Node, PodSpec, Snapshot};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Changes come in crowds: a look follows this long after one.
const SETTLE: Duration = Duration::from_millis(200);

/// Windows of policies are looked at this often.
const WINDOWS_EVERY: Duration = Duration::from_secs(5);

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let (shared, mut stop) = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        if !shared.begins(&mut stop).await {
            return;
        }
        // What keeps room is known before anything is called empty.
        shared.resolve_buffers().await;
        let mut running: Option<Running> = None;
        loop {
            let again = match look(&shared, &mut running).await {
                Ok(again) => again,
                Err(error) => {
                    tracing::debug!(%error, "disruption is tried again");
                    Some(Duration::from_secs(1))
                }
            };
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = shared.wake_disruption.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(again.unwrap_or(Duration::from_secs(3600))) => {}
            }
        }
    });
}

async fn look(
    shared: &Arc<Shared>,
    running: &mut Option<Running>,
) -> Result<Option<Duration>, Error> {
    if let Some(r) = running {
        // An error leaves the command where it is: the next look goes on with it.
        if !advance(shared, r).await? {
            return Ok(Some(Duration::from_secs(2)));
        }
        *running = None;
    }
    release(shared).await?;
    note_pod_events(shared).await?;
    let pools = shared.pools_by_name();
    let policies: HashMap<String, Policy> =
        pools.keys().map(|name| (name.clone(), shared.policy(name))).collect();
    put_to_sleep(shared, &policies).await?;
    let (mut candidates, mut wait) = candidates(shared, &pools);
    // What could not be had may be worth a move when it can.
    wait = wait.into_iter().chain(shared.next_available()).min();
    if policies.values().any(|p| *p != Policy::default()) {
        // Windows open and close by themselves.
        wait = Some(wait.map_or(WINDOWS_EVERY, |w| w.min(WINDOWS_EVERY)));
    }
    // What waits with no place yet may need any node: the provisioner goes first.
    let Some(soon) = as_it_will_be(shared).await? else { return Ok(wait) };
    candidates.iter_mut().for_each(|c| soon.add_to(c));
    let now = Timestamp::now();
    let counts = counts(shared, &pools);
    let allowed = |pool: &str, reason: &str| {
        let (total, disrupted) = counts.get(pool).copied().unwrap_or_default();
        if !policies.get(pool).is_none_or(|p| p.may_disrupt(now)) {
            return 0;
        }
        pools.get(pool).map_or(0, |p| budget::allowed(&p.budgets, reason, total, disrupted, now))
    };
    let empty = consolidate::empty(&candidates, |pool| allowed(pool, "Empty"));
    if !empty.is_empty() {
        give_up_empty(shared, &empty).await?;
        return Ok(Some(SETTLE));
    }
    if let Some(command) = replace_drifted(shared, &pools, &allowed, &soon).await? {
        *running = Some(begin(shared, command, "Drifted").await?);
        return Ok(Some(Duration::from_millis(500)));
    }
    let mut under: Vec<Candidate> = candidates
        .into_iter()
        .filter(|c| pools.get(&c.pool).is_some_and(|p| p.underutilized))
        .collect();
    under.retain(|c| !c.pods.is_empty());
    if under.is_empty() {
        return Ok(wait);
    }
    let terms: BTreeMap<String, Terms> = pools
        .values()
        .map(|p| {
            let balance = p.balanced.then(|| whole(shared, &p.name));
            let budget = allowed(&p.name, "Underutilized");
            (p.name.clone(), terms_of(&policies[&p.name], budget, balance))
        })
        .collect();
    let began = Instant::now();
    let s = shared.clone();
    let found = tokio::task::spawn_blocking(move || {
        consolidate::search(&soon.snapshot, &under, &s.pools(), &s.daemons(), |pool| {
            terms.get(pool).copied().unwrap_or_default()
        })
    });
    let found = found.await.map_err(|e| Error::Request(e.to_string()))?;
    let took = "karpenter_voluntary_disruption_decision_evaluation_duration_seconds";
    shared.metrics.observe(took, began.elapsed());
    let Some(command) = found else { return Ok(wait) };
    tracing::info!(why = command.why, "consolidating");
    *running = Some(begin(shared, command, "Underutilized").await?);
    Ok(Some(Duration::from_millis(500)))
}

/// What a pool and its policies let consolidation do.
pub(super) fn terms_of(policy: &Policy, budget: usize, balance: Option<(f64, f64)>) -> Terms {
    let usual = Terms::default();
    Terms {
        budget,
        balance,
        min_savings: policy.min_savings.unwrap_or(usual.min_savings),
        usd_per_eviction: policy.usd_per_eviction.unwrap_or(usual.usd_per_eviction),
    }
}

/// Gives up all nodes of pools that sleep. Their pods wait for the morning, or go to other pools.
async fn put_to_sleep(shared: &Shared, policies: &HashMap<String, Policy>) -> Result<(), Error> {
    let now = Timestamp::now();
    for pool in policies.iter().filter(|(_, p)| p.sleeps(now)).map(|(name, _)| name) {
        let claims = shared.claims_of(pool);
        let awake = claims.iter().filter(|c| c.metadata.deletion_timestamp.is_none());
        let names: Vec<String> = awake.map(|c| shared.node_name(c)).collect();
        let gone: Vec<Removed> = names.iter().filter_map(|n| removed(shared, n)).collect();
        for name in &names {
            give_up(shared, name, "Hibernating", "its NodePool has no nodes now").await?;
        }
        if !names.is_empty() {
            let saves = gone.iter().map(|r| r.usd_per_hour).sum();
            let message = format!("NodePool {pool} hibernates: {} node(s) go", names.len());
            let decision = Decision {
                action: "Hibernating",
                message,
                plan: None,
                removed: gone,
                saves_usd_per_hour: saves,
            };
            shared.record(decision).await;
        }
    }
    Ok(())
}

async fn give_up_empty(shared: &Shared, empty: &[String]) -> Result<(), Error> {
    let removed: Vec<Removed> = empty.iter().filter_map(|n| removed(shared, n)).collect();
    let saves_usd_per_hour = removed.iter().map(|r| r.usd_per_hour).sum();
    for name in empty {
        give_up(shared, name, "Empty", "the node has no pods that need it").await?;
    }
    let message = format!("{} node(s) had no pods that need them", removed.len());
    let decision = Decision { action: "Empty", message, plan: None, removed, saves_usd_per_hour };
    shared.record(decision).await;
    Ok(())
}

/// The cluster as it will be.
struct Soon {
    snapshot: Snapshot,
    /// Pods that are not there, on the nodes that they are counted on.
    by_node: HashMap<String, Vec<Arc<PodSpec>>>,
}

impl Soon {
    /// What will be on a node has to move with what is there.
    fn add_to(&self, c: &mut Candidate) {
        c.pods.extend(self.by_node.get(&c.node).into_iter().flatten().cloned());
    }
}

/// The cluster as it will be: with pods that wait, or that leave a node which goes, on the nodes that
/// they fit, and with the room that buffers keep, which moves as pods do and costs nothing to move.
/// `None` when one of these pods fits no node.
async fn as_it_will_be(shared: &Arc<Shared>) -> Result<Option<Soon>, Error> {
    let s = shared.clone();
    let found = tokio::task::spawn_blocking(move || {
        let mut snapshot = s.snapshot();
        let mut coming = s.hopeful();
        let hopeless = s.hopeless.lock().clone();
        let leaving = s.leaving(&mut snapshot).into_iter();
        coming.extend(leaving.filter(|p| !hopeless.contains(&p.key)));
        let (mut by_node, homeless) = buffers::occupy(&mut snapshot, coming);
        if homeless > 0 {
            return None;
        }
        let (room, _) = buffers::occupy(&mut snapshot, s.room());
        room.into_iter().for_each(|(node, pods)| by_node.entry(node).or_default().extend(pods));
        // Nobody moves to a node that may never come.
        for name in s.coming() {
            if let Some(node) = snapshot.node(&name).cloned() {
                snapshot.set_node(Node { unschedulable: true, ..node });
            }
        }
        Some(Soon { snapshot, by_node })
    });
    found.await.map_err(|e| Error::Request(e.to_string()))
}

/// A wave of replacements for nodes that have drifted, as large as the budgets let it be.
async fn replace_drifted(
    shared: &Arc<Shared>,
    pools: &HashMap<String, NodePool>,
    allowed: &impl Fn(&str, &str) -> usize,
    soon: &Soon,
) -> Result<Option<Command>, Error> {
    let drifted = shared.drifted().await?;
    let mut taken: HashMap<String, usize> = HashMap::new();
    let (mut wave, mut fixed): (Vec<Candidate>, Vec<Candidate>) = (Vec::new(), Vec::new());
    for c in drifted.iter().filter_map(|name| shared.claim_of(name)) {
        // A deadline lets a drain begin that pods would hold up otherwise.
        let patient = c.data["spec"]["terminationGracePeriod"].is_null();
        let Ok(mut candidate) = candidate(shared, &c, patient) else { continue };
        soon.add_to(&mut candidate);
        let Some(pool) = pools.get(&candidate.pool) else { continue };
        let n = taken.entry(candidate.pool.clone()).or_default();
        if *n < allowed(&candidate.pool, "Drifted") {
            *n += 1;
            if pool.replicas.is_some() { &mut fixed } else { &mut wave }.push(candidate);
        }
    }
    if let Some(command) = one_for_one(shared, pools, &fixed) {
        return Ok(Some(command));
    }
    if wave.is_empty() {
        return Ok(None);
    }
    let (s, snapshot) = (shared.clone(), soon.snapshot.clone());
    let found = tokio::task::spawn_blocking(move || {
        consolidate::replace(&snapshot, &wave, &drifted, &s.pools(), &s.daemons())
    });
    let command = found.await.map_err(|e| Error::Request(e.to_string()))?;
    if let Some(c) = &command {
        tracing::info!(nodes = c.remove.len(), "replacing nodes that have drifted");
    }
    Ok(command)
}

/// A new node for each of a pool of a fixed size.
fn one_for_one(
    shared: &Shared,
    pools: &HashMap<String, NodePool>,
    drifted: &[Candidate],
) -> Option<Command> {
    let daemons = shared.daemons();
    let mut models: HashMap<&str, Pool> = HashMap::new();
    let (mut remove, mut nodes) = (Vec::new(), Vec::new());
    for c in drifted {
        if !models.contains_key(c.pool.as_str()) {
            let model = shared.pool(pools.get(&c.pool)?)?;
            models.insert(&c.pool, model);
        }
        // Old and new are there together for a while: limits on nodes may hold that up.
        let Some(node) = pack::any_node(models.get_mut(c.pool.as_str())?, &daemons) else {
            continue;
        };
        remove.push(c.node.clone());
        nodes.push(node);
    }
    let why = format!("{} node(s) are replaced one for one", remove.len());
    (!remove.is_empty()).then(|| Command {
        remove,
        plan: Plan::of_nodes(nodes),
        saves_usd_per_hour: 0.0,
        disruption: drifted.iter().map(|c| c.disruption).sum(),
        charge_usd: 0.0,
        why,
    })
}
