//! Giving up nodes: empty ones at once, others when their pods fit elsewhere for less.

use super::{CLAIMS, Shared, buffers, decisions::Decision, lifecycle, provision};
use crate::{
    Stop,
    api::{Error, path},
    karpenter::{API, DO_NOT_DISRUPT, NodePool, is_true},
    stopped,
};
use coracle_meta::time::{parse_rfc3339, rfc3339};
use coracle_provisioning::{
    Candidate, Command, Plan, Pool, Terms, budget, consolidate, offering::POOL, pack,
    policy::Policy,
};
use coracle_scheduling::{Node, PodSpec, Snapshot};
use coracle_workloads::{PodView, pod};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DynamicObject;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Changes come in crowds: a look follows this long after one.
const SETTLE: Duration = Duration::from_millis(200);
/// Replacements that are not ready after this are waited for no longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The scheduler has tried a pod by then.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// Windows of policies are looked at this often.
const WINDOWS_EVERY: Duration = Duration::from_secs(5);
/// Comings and goings of pods are noted at most this often.
const NOTE_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// A command whose replacements are on their way.
struct Running {
    reason: &'static str,
    remove: Vec<String>,
    replacements: Vec<String>,
    since: Instant,
}

/// A node that goes, as it was.
pub(super) struct Removed {
    pub(super) name: String,
    pub(super) pool: String,
    pub(super) instance_type: String,
    pub(super) usd_per_hour: f64,
    pub(super) pods: usize,
}

fn removed(shared: &Shared, name: &str) -> Option<Removed> {
    let claim = claim(shared, name)?;
    let model = shared.model(&claim)?;
    Some(Removed {
        name: name.to_owned(),
        pool: claim.metadata.labels.as_ref().and_then(|l| l.get(POOL)).cloned().unwrap_or_default(),
        instance_type: model.instance_type.name.clone(),
        usd_per_hour: model.usd_per_hour,
        pods: shared.pods_on(name).iter().filter(|p| !lifecycle::stays(p)).count(),
    })
}

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let (shared, mut stop) = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        shared.synced().await;
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
    let pools: HashMap<String, NodePool> = shared
        .karpenter
        .pools
        .all()
        .iter()
        .map(|o| NodePool::read(o))
        .map(|p| (p.name.clone(), p))
        .collect();
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
    let Some(snapshot) = as_it_will_be(shared, &mut candidates).await? else { return Ok(wait) };
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
    if let Some(command) = replace_drifted(shared, &pools, &allowed).await? {
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
        consolidate::search(&snapshot, &under, &s.pools(), &s.daemons(), |pool| {
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
        let names: Vec<String> = awake.filter_map(|c| c.metadata.name.clone()).collect();
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
    let of = [("decision", "delete"), ("reason", "empty")];
    shared.metrics.count("karpenter_voluntary_disruption_decisions_total", &of);
    let message = format!("{} node(s) had no pods that need them", removed.len());
    let decision = Decision { action: "Empty", message, plan: None, removed, saves_usd_per_hour };
    shared.record(decision).await;
    Ok(())
}

/// The cluster as it will be: with pods that wait, or that leave a node which goes, on the nodes that
/// they fit, and with the room that buffers keep, which moves as pods do and costs nothing to move.
/// `None` when one of these pods fits no node.
async fn as_it_will_be(
    shared: &Arc<Shared>,
    candidates: &mut [Candidate],
) -> Result<Option<Snapshot>, Error> {
    let s = shared.clone();
    let found = tokio::task::spawn_blocking(move || {
        let mut snapshot = s.snapshot();
        let mut coming = s.hopeful();
        coming.extend(s.leaving(&mut snapshot));
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
        Some((snapshot, by_node))
    });
    let found = found.await.map_err(|e| Error::Request(e.to_string()))?;
    let Some((snapshot, mut by_node)) = found else { return Ok(None) };
    for c in candidates {
        c.pods.extend(by_node.remove(&c.node).unwrap_or_default());
    }
    Ok(Some(snapshot))
}

/// A wave of replacements for nodes that have drifted, as large as the budgets let it be.
async fn replace_drifted(
    shared: &Arc<Shared>,
    pools: &HashMap<String, NodePool>,
    allowed: &impl Fn(&str, &str) -> usize,
) -> Result<Option<Command>, Error> {
    let drifted = shared.drifted().await?;
    let mut taken: HashMap<String, usize> = HashMap::new();
    let (mut wave, mut fixed): (Vec<Candidate>, Vec<Candidate>) = (Vec::new(), Vec::new());
    for c in drifted.iter().filter_map(|name| claim(shared, name)) {
        // A deadline lets a drain begin that pods would hold up otherwise.
        let patient = c.data["spec"]["terminationGracePeriod"].is_null();
        let Ok(candidate) = candidate(shared, &c, patient) else { continue };
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
    let s = shared.clone();
    let found = tokio::task::spawn_blocking(move || {
        let snapshot = s.snapshot();
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

/// Nodes that may be given up now, and when more may be.
fn candidates(
    shared: &Shared,
    pools: &HashMap<String, NodePool>,
) -> (Vec<Candidate>, Option<Duration>) {
    let (mut found, mut wait): (Vec<Candidate>, Option<Duration>) = (Vec::new(), None);
    for claim in shared.karpenter.claims.all() {
        let label = claim.metadata.labels.as_ref().and_then(|l| l.get(POOL));
        let Some(pool) = label.and_then(|l| pools.get(l)) else { continue };
        if pool.replicas.is_some() {
            continue;
        }
        let Some(calm) = quiet_for(shared, &claim) else { continue };
        let Some(quiet) = pool.consolidate_after.map(|d| shared.real(d)) else { continue };
        if calm < quiet {
            wait = Some(wait.map_or(quiet - calm, |w| w.min(quiet - calm)));
            continue;
        }
        found.extend(candidate(shared, &claim, true));
    }
    (found, wait)
}

impl Shared {
    /// Pods that wait and may still find a place: the scheduler has just begun with them, or gave them
    /// up and the last plan did not.
    pub(super) fn hopeful(&self) -> Vec<Arc<PodSpec>> {
        let young = |p: &PodView| {
            let created = p.metadata.creation_timestamp.as_ref().map(|t| t.0);
            created.is_some_and(|t| Timestamp::now().duration_since(t) < FRESH)
        };
        let hopeless = self.hopeless.lock();
        let mut all = self.waiting();
        all.retain(|p| {
            let view = self.world.pods.get(&p.key.namespace, &p.key.name);
            view.is_some_and(|v| v.unschedulable || young(&v)) && !hopeless.contains(&p.key)
        });
        all
    }

    /// Nodes that were bought and are not set up.
    fn coming(&self) -> Vec<String> {
        let mut claims = self.karpenter.claims.all();
        claims.retain(|c| !is_true(c, "Initialized"));
        claims.iter().filter_map(|c| c.metadata.name.clone()).collect()
    }

    /// Stand-ins for pods whose nodes go, in whose place others like them will come; they themselves are
    /// taken off the snapshot.
    pub(super) fn leaving(&self, snapshot: &mut Snapshot) -> Vec<Arc<PodSpec>> {
        let hopeless = self.hopeless.lock().clone();
        // Not those of a command that waits for its replacements: it may still be given up.
        let claims = self.karpenter.claims.all();
        let goes = claims.iter().filter(|c| c.metadata.deletion_timestamp.is_some());
        let nodes = goes.filter_map(|c| c.metadata.name.as_deref());
        let pods = nodes.flat_map(|n| self.pods_on(n));
        let moving = pods.filter(|p| !lifecycle::stays(p) && !pod::is_deleting(&p.metadata));
        let mut all = Vec::new();
        for p in moving {
            snapshot.remove_pod(&p.asks.key);
            let mut spec = (*self.wishes(&p.asks)).clone();
            spec.key.name.push_str("-moved");
            if !hopeless.contains(&spec.key) {
                all.push(Arc::new(spec));
            }
        }
        all
    }
}

/// How long no pod came to or left a node; `None` while it is not set up. What this process has not seen
/// it takes from the claim.
pub(super) fn quiet_for(shared: &Shared, claim: &DynamicObject) -> Option<Duration> {
    let ago =
        |t: Timestamp| Duration::try_from(Timestamp::now().duration_since(t)).unwrap_or_default();
    let age = ago(lifecycle::initialized_at(claim)?);
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let seen = shared.touched.lock().get(name).map(|t| t.elapsed());
    Some(seen.or_else(|| last_pod_event(claim).map(ago)).map_or(age, |t| t.min(age)))
}

fn last_pod_event(claim: &DynamicObject) -> Option<Timestamp> {
    parse_rfc3339(claim.data["status"]["lastPodEventTime"].as_str()?)
}

/// Writes down when pods last came to or left nodes, every ten seconds at most, as Karpenter.
async fn note_pod_events(shared: &Shared) -> Result<(), Error> {
    let touched: Vec<(String, Duration)> =
        shared.touched.lock().iter().map(|(n, t)| (n.clone(), t.elapsed())).collect();
    for (name, ago) in touched {
        let Some(c) = claim(shared, &name) else { continue };
        let at = Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN);
        let noted = last_pod_event(&c);
        if noted.is_none_or(|t| at.duration_since(t) >= NOTE_EVERY) {
            let patch = json!({"status": {"lastPodEventTime": rfc3339(at)}});
            let to = path(API, "nodeclaims", "", &name, "status");
            match shared.writer.patch(&to, &patch).await {
                Err(e) if e.code() != Some(404) => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A node of a claim, if it may be moved, and, for the `patient`, if all that runs on it may; why not
/// otherwise.
pub(super) fn candidate(
    shared: &Shared,
    claim: &DynamicObject,
    patient: bool,
) -> Result<Candidate, String> {
    let label = claim.metadata.labels.as_ref().and_then(|l| l.get(POOL)).cloned();
    let pool = label.ok_or("it belongs to no NodePool")?;
    let name = claim.metadata.name.clone().unwrap_or_default();
    let node = shared.world.nodes.get("", &name).ok_or("it is not there yet")?;
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("it is going already".into());
    }
    let kept = node.metadata.annotations.as_ref().and_then(|a| a.get(DO_NOT_DISRUPT));
    if kept.is_some_and(|v| v == "true") {
        return Err(format!("its annotation {DO_NOT_DISRUPT} asks to leave it"));
    }
    let pods: Vec<_> = shared.pods_on(&name).into_iter().filter(|p| !lifecycle::stays(p)).collect();
    if patient {
        pods.iter().try_for_each(|p| movable(shared, p))?;
    }
    let usd_per_hour = shared.model(claim).map_or(0.0, |m| m.usd_per_hour);
    let disruption = pods.iter().map(|p| eviction_cost(p).max(0.0)).sum();
    let pods = pods.iter().map(|p| p.asks.clone()).collect();
    Ok(Candidate { node: name, pool, usd_per_hour, pods, disruption })
}

/// Whether a pod may move now; why not otherwise.
fn movable(shared: &Shared, p: &PodView) -> Result<(), String> {
    let name = || format!("pod {}/{}", p.asks.key.namespace, p.asks.key.name);
    if shared.is_kept(p) {
        return Err(format!("the annotation {DO_NOT_DISRUPT} of {} asks to leave it", name()));
    }
    if pod::is_deleting(&p.metadata) {
        return Err(format!("{} is ending", name()));
    }
    match blocking(shared, p) {
        Some(budget) => {
            Err(format!("PodDisruptionBudget {budget} lets no more pods like {} go", name()))
        }
        None => Ok(()),
    }
}

fn eviction_cost(p: &PodView) -> f64 {
    let annotations = p.metadata.annotations.as_ref();
    let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    consolidate::eviction_cost(p.asks.priority, cost.and_then(|c| c.parse().ok()).unwrap_or(0))
}

/// What the nodes of a pool cost an hour, and what evicting all of their pods would count for.
pub(super) fn whole(shared: &Shared, pool: &str) -> (f64, f64) {
    let (mut cost, mut disruption) = (0.0, 0.0);
    for claim in shared.claims_of(pool) {
        cost += shared.model(&claim).map_or(0.0, |m| m.usd_per_hour);
        let node = claim.data["status"]["nodeName"].as_str().unwrap_or_default();
        let pods = shared.pods_on(node).into_iter().filter(|p| !lifecycle::stays(p));
        disruption += pods.map(|p| eviction_cost(&p).max(0.0)).sum::<f64>();
    }
    (cost, disruption)
}

/// The budget that lets no pod like this one go now.
fn blocking(shared: &Shared, p: &PodView) -> Option<String> {
    let budgets =
        shared.world.budgets.in_namespace(p.metadata.namespace.as_deref().unwrap_or_default());
    let blocks = |b: &&Arc<PodDisruptionBudget>| {
        let selects = b
            .spec
            .as_ref()
            .and_then(|s| s.selector.as_ref())
            .and_then(pod::selector)
            .is_some_and(|s| s.matches_map(Some(p.labels())));
        selects && b.status.as_ref().is_none_or(|s| s.disruptions_allowed.unwrap_or(0) <= 0)
    };
    budgets.iter().find(blocks).and_then(|b| b.metadata.name.clone())
}

/// Nodes of each pool, and how many of them are disturbed already.
pub(super) fn counts(
    shared: &Shared,
    pools: &HashMap<String, NodePool>,
) -> HashMap<String, (usize, usize)> {
    let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
    let going = shared.going.lock().clone();
    for name in pools.keys() {
        for claim in shared.claims_of(name) {
            if !is_true(&claim, "Initialized") {
                continue;
            }
            let own = claim.metadata.name.clone().unwrap_or_default();
            let ready = shared.world.nodes.get("", &own).is_some_and(|n| {
                n.status
                    .as_ref()
                    .and_then(|s| s.conditions.as_ref())
                    .is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
            });
            let entry = counts.entry(name.clone()).or_default();
            entry.0 += 1;
            entry.1 += usize::from(
                !ready || claim.metadata.deletion_timestamp.is_some() || going.contains(&own),
            );
        }
    }
    counts
}

fn claim(shared: &Shared, name: &str) -> Option<Arc<DynamicObject>> {
    shared.karpenter.claims.get("", name)
}

pub(super) async fn give_up(
    shared: &Shared,
    name: &str,
    reason: &str,
    why: &str,
) -> Result<(), Error> {
    let Some(c) = claim(shared, name) else { return Ok(()) };
    let pool = c.metadata.labels.as_ref().and_then(|l| l.get(POOL)).cloned().unwrap_or_default();
    let of = [("nodepool", pool.as_str()), ("reason", &reason.to_lowercase())];
    shared.metrics.count("karpenter_nodeclaims_disrupted_total", &of);
    shared
        .writer
        .event(
            &c.metadata,
            CLAIMS,
            "Normal",
            "DisruptionTerminating",
            &format!("Disrupting NodeClaim: {reason}: {why}"),
        )
        .await;
    shared.delete_claim(&c).await
}

async fn begin(shared: &Shared, command: Command, reason: &'static str) -> Result<Running, Error> {
    shared.going.lock().extend(command.remove.iter().cloned());
    // Replacements first: a node is not tainted for a plan that cannot begin. After an error the next look
    // takes the note back.
    let replacements =
        provision::create_claims(shared, &command.plan.new_nodes, &reason.to_lowercase()).await?;
    let kind = if replacements.is_empty() { "delete" } else { "replace" };
    let of = [("decision", kind), ("reason", &*reason.to_lowercase())];
    shared.metrics.count("karpenter_voluntary_disruption_decisions_total", &of);
    let gone = command.remove.iter().filter_map(|n| removed(shared, n)).collect();
    shared
        .record(Decision {
            action: reason,
            message: command.why.clone(),
            plan: Some((&command.plan, &replacements)),
            removed: gone,
            saves_usd_per_hour: command.saves_usd_per_hour,
        })
        .await;
    for c in command.remove.iter().filter_map(|name| claim(shared, name)) {
        shared
            .writer
            .event(&c.metadata, CLAIMS, "Normal", "DisruptionLaunching", &command.why)
            .await;
    }
    Ok(Running { reason, remove: command.remove, replacements, since: Instant::now() })
}

/// Goes on with a command, however far it came. Returns whether it is over.
async fn advance(shared: &Shared, r: &Running) -> Result<bool, Error> {
    let claims: Vec<_> = r.replacements.iter().map(|n| claim(shared, n)).collect();
    let lost =
        claims.iter().any(|c| c.as_ref().is_none_or(|c| c.metadata.deletion_timestamp.is_some()));
    if lost || r.since.elapsed() > shared.real(PATIENCE) {
        return Ok(true);
    }
    for node in r.remove.iter().filter_map(|name| shared.world.nodes.get("", name)) {
        shared.taint(&node, false).await?;
    }
    if !claims.iter().flatten().all(|c| is_true(c, "Initialized")) {
        return Ok(false);
    }
    // What came meanwhile may ask to be left alone: then nothing goes, and the next look starts anew.
    if r.reason == "Underutilized"
        && r.remove.iter().any(|n| is_kept(shared, n) && is_blocked(shared, n))
    {
        return Ok(true);
    }
    let left: Vec<&String> = r.remove.iter().filter(|name| is_kept(shared, name)).collect();
    for name in &left {
        let why = match r.reason {
            "Drifted" => "it is not what its NodePool says any more",
            _ => "its pods fit elsewhere for less",
        };
        give_up(shared, name, r.reason, why).await?;
    }
    // Over when the deletions have been seen, or the taints would be taken back.
    Ok(left.is_empty())
}

fn is_blocked(shared: &Shared, name: &str) -> bool {
    claim(shared, name).is_some_and(|c| candidate(shared, &c, true).is_err())
}

fn is_kept(shared: &Shared, name: &str) -> bool {
    claim(shared, name).is_some_and(|c| c.metadata.deletion_timestamp.is_none())
}

/// Takes the taint from nodes that no command wants: of one that was given up, or that a restart
/// forgot.
async fn release(shared: &Shared) -> Result<(), Error> {
    shared.going.lock().clear();
    for node in shared.world.nodes.all() {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        if taints.any(|t| t.key == crate::karpenter::DISRUPTED) && is_kept(shared, name) {
            untaint(shared, name).await?;
        }
    }
    // What is known of nodes goes with them.
    shared.touched.lock().retain(|name, _| shared.world.nodes.get("", name).is_some());
    Ok(())
}

async fn untaint(shared: &Shared, name: &str) -> Result<(), Error> {
    let Some(node) = shared.world.nodes.get("", name) else { return Ok(()) };
    let mut taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    taints.retain(|t| t.key != crate::karpenter::DISRUPTED);
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
    shared.writer.patch(&crate::api::path("v1", "nodes", "", name, ""), &patch).await.map(drop)
}
