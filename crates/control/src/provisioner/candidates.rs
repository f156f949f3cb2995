//! Which nodes may be given up, and why not the others; which pods will need a place.

use super::{Shared, lifecycle};
use crate::{
    api::{Error, path},
    karpenter::{API, DO_NOT_DISRUPT, NodePool, is_true, pool_of},
};
use coracle_meta::time::{parse_rfc3339, rfc3339};
use coracle_provisioning::{Candidate, consolidate};
use coracle_scheduling::{PodSpec, Snapshot};
use coracle_workloads::{PodView, pod};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DynamicObject;
use serde_json::json;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// The scheduler has tried a pod by then.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// Comings and goings of pods are noted at most this often.
const NOTE_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// Nodes that may be given up now, and when more may be.
pub(super) fn candidates(
    shared: &Shared,
    pools: &HashMap<String, NodePool>,
) -> (Vec<Candidate>, Option<Duration>) {
    let (mut found, mut wait): (Vec<Candidate>, Option<Duration>) = (Vec::new(), None);
    for claim in shared.karpenter.claims.all() {
        let Some(pool) = pools.get(pool_of(&claim)) else { continue };
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
        let mut all = self.unbound();
        all.retain(|p| (p.unschedulable || young(p)) && !hopeless.contains(&p.asks.key));
        all.iter().map(|p| self.wishes(&p.asks)).collect()
    }

    /// Nodes that were bought and are not set up.
    pub(super) fn coming(&self) -> Vec<String> {
        let mut claims = self.karpenter.claims.all();
        claims.retain(|c| !is_true(c, "Initialized"));
        claims.iter().map(|c| self.node_name(c)).collect()
    }

    /// Stand-ins for pods whose nodes go, in whose place others like them will come; they themselves are
    /// taken off the snapshot.
    pub(super) fn leaving(&self, snapshot: &mut Snapshot) -> Vec<Arc<PodSpec>> {
        // Not those of a command that waits for its replacements: it may still be given up.
        let claims = self.karpenter.claims.all();
        let goes = claims.iter().filter(|c| c.metadata.deletion_timestamp.is_some());
        let pods = goes.flat_map(|c| self.pods_on(&self.node_name(c)));
        let moving = pods.filter(|p| !lifecycle::stays(p) && !pod::is_deleting(&p.metadata));
        let mut all = Vec::new();
        for p in moving {
            snapshot.remove_pod(&p.asks.key);
            let mut spec = (*self.wishes(&p.asks)).clone();
            spec.key.name.push_str("-moved");
            all.push(Arc::new(spec));
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
    let seen = shared.touched.lock().get(&shared.node_name(claim)).map(|t| t.elapsed());
    Some(seen.or_else(|| last_pod_event(claim).map(ago)).map_or(age, |t| t.min(age)))
}

fn last_pod_event(claim: &DynamicObject) -> Option<Timestamp> {
    parse_rfc3339(claim.data["status"]["lastPodEventTime"].as_str()?)
}

/// Writes down when pods last came to or left nodes, every ten seconds at most, as Karpenter.
pub(super) async fn note_pod_events(shared: &Shared) -> Result<(), Error> {
    let touched: Vec<(String, Duration)> =
        shared.touched.lock().iter().map(|(n, t)| (n.clone(), t.elapsed())).collect();
    for (name, ago) in touched {
        let Some(c) = shared.claim_of(&name) else { continue };
        let at = Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN);
        let noted = last_pod_event(&c);
        if noted.is_none_or(|t| at.duration_since(t) >= NOTE_EVERY) {
            let patch = json!({"status": {"lastPodEventTime": rfc3339(at)}});
            let own = c.metadata.name.as_deref().unwrap_or_default();
            let to = path(API, "nodeclaims", "", own, "status");
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
    let pool = pool_of(claim).to_owned();
    if pool.is_empty() {
        return Err("it belongs to no NodePool".into());
    }
    let node = shared.node_of(claim).ok_or("it is not there yet")?;
    let name = node.metadata.name.clone().unwrap_or_default();
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
    for claim in shared.karpenter.claims.all() {
        let pool = pool_of(&claim);
        if !pools.contains_key(pool) || !is_true(&claim, "Initialized") {
            continue;
        }
        let ready = shared.node_of(&claim).is_some_and(|n| lifecycle::is_ready(&n));
        let entry = counts.entry(pool.to_owned()).or_default();
        entry.0 += 1;
        let deleting = claim.metadata.deletion_timestamp.is_some();
        entry.1 += usize::from(!ready || deleting || going.contains(&shared.node_name(&claim)));
    }
    counts
}
