//! How a decision to give nodes up is carried out: replacements first, then taints, then deletions; and
//! back, if the replacements do not come.

use super::{CLAIMS, Shared, candidates::candidate, decisions::Decision, lifecycle, provision};
use crate::{
    api::Error,
    karpenter::{is_true, pool_of},
};
use coracle_provisioning::Command;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Replacements that are not ready after this are waited for no longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// A command whose replacements are on their way.
pub(super) struct Running {
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

pub(super) fn removed(shared: &Shared, name: &str) -> Option<Removed> {
    let claim = shared.claim_of(name)?;
    let model = shared.model(&claim)?;
    Some(Removed {
        name: name.to_owned(),
        pool: pool_of(&claim).to_owned(),
        instance_type: model.instance_type.to_string(),
        usd_per_hour: model.usd_per_hour,
        pods: shared.pods_on(name).iter().filter(|p| !lifecycle::stays(p)).count(),
    })
}

pub(super) async fn give_up(
    shared: &Shared,
    name: &str,
    reason: &str,
    why: &str,
) -> Result<(), Error> {
    let Some(c) = shared.claim_of(name) else { return Ok(()) };
    let of = [("nodepool", pool_of(&c)), ("reason", &reason.to_lowercase())];
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

pub(super) async fn begin(
    shared: &Shared,
    command: Command,
    reason: &'static str,
) -> Result<Running, Error> {
    shared.going.lock().extend(command.remove.iter().cloned());
    // Replacements first: a node is not tainted for a plan that cannot begin. After an error the next look
    // takes the note back.
    let replacements =
        provision::create_claims(shared, &command.plan.new_nodes, &reason.to_lowercase()).await?;
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
    for c in command.remove.iter().filter_map(|name| shared.claim_of(name)) {
        shared
            .writer
            .event(&c.metadata, CLAIMS, "Normal", "DisruptionLaunching", &command.why)
            .await;
    }
    Ok(Running { reason, remove: command.remove, replacements, since: Instant::now() })
}

/// Goes on with a command, however far it came. Returns whether it is over.
pub(super) async fn advance(shared: &Shared, r: &Running) -> Result<bool, Error> {
    let claims: Vec<_> =
        r.replacements.iter().map(|n| shared.karpenter.claims.get("", n)).collect();
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
    shared.claim_of(name).is_some_and(|c| candidate(shared, &c, true).is_err())
}

fn is_kept(shared: &Shared, name: &str) -> bool {
    shared.claim_of(name).is_some_and(|c| c.metadata.deletion_timestamp.is_none())
}

/// Takes the taint from nodes that no command wants: of one that was given up, or that a restart
/// forgot.
pub(super) async fn release(shared: &Shared) -> Result<(), Error> {
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
