//! Drift: nodes that are not what their NodePool says any more. What a pool stamps on its nodes is
//! compared by a hash that claims carry; its requirements are held against a node's labels.

use super::Shared;
use crate::{
    api::{Error, path},
    karpenter::{API, NodePool, condition, is_true, pool_of, provider_id, with_condition},
};
use coracle_clouds::Claimed;
use coracle_provisioning::offering::{INSTANCE_TYPE, POOL};
use coracle_scheduling::Requirements;
use coracle_workloads::pod;
use jiff::Timestamp;
use kube::{ResourceExt, core::DynamicObject};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Annotation of pools and claims with the hash.
pub(super) const HASH: &str = "karpenter.sh/nodepool-hash";
/// Annotation with how it was made: hashes of another version say nothing.
pub(super) const HASH_VERSION: &str = "karpenter.sh/nodepool-hash-version";
/// Our version: the hash is ours, not Karpenter's.
pub(super) const VERSION: &str = "coracle-1";

/// The hash of what a pool stamps on its nodes: all of its template but the requirements.
pub(super) fn hash(pool: &DynamicObject) -> String {
    let template = &pool.data["spec"]["template"];
    let mut spec = template["spec"].clone();
    if let Some(s) = spec.as_object_mut() {
        s.remove("requirements");
    }
    pod::template_hash(&json!({"metadata": template["metadata"], "spec": spec}), 0)
}

/// What a pool says of its nodes now, read once for all of them.
struct Wanted {
    hash: String,
    requirements: Requirements,
}

impl Wanted {
    fn of(pool: &DynamicObject) -> Self {
        Self { hash: hash(pool), requirements: NodePool::read(pool).requirements }
    }

    /// Why a claim has drifted from it, in Karpenter's words.
    fn reason(&self, claim: &DynamicObject) -> Option<&'static str> {
        let note = |k: &str| claim.metadata.annotations.as_ref().and_then(|a| a.get(k));
        let judged = note(HASH_VERSION).is_some_and(|v| v == VERSION);
        if judged && note(HASH).is_some_and(|h| *h != self.hash) {
            return Some("NodePoolDrifted");
        }
        let label = |k: &str| claim.metadata.labels.as_ref().and_then(|l| l.get(k));
        let differs = self.requirements.0.iter().any(|(k, v)| {
            // The pool is a label of claims; what a type has not got is judged by what it has.
            &**k != POOL && !v.accepts(label(k).map(String::as_str))
        });
        (is_true(claim, "Launched") && differs).then_some("RequirementsDrifted")
    }
}

impl Shared {
    /// Claims that are set up, with why they have drifted if they have.
    pub(super) fn judged(&self) -> Vec<(Arc<DynamicObject>, Option<&'static str>)> {
        let pools = self.node_pools();
        let wanted: HashMap<String, Wanted> =
            pools.iter().map(|p| (p.name_any(), Wanted::of(p))).collect();
        let mut claims = self.karpenter.claims.all();
        claims.retain(|c| c.metadata.deletion_timestamp.is_none() && is_true(c, "Initialized"));
        let judge = |claim: Arc<DynamicObject>| {
            let why = wanted.get(pool_of(&claim)).and_then(|w| w.reason(&claim));
            let why = why.or_else(|| self.class_drift(&claim));
            (claim, why)
        };
        claims.into_iter().map(judge).collect()
    }

    /// Why a claim is not what its node class says any more, or can be had no more.
    fn class_drift(&self, claim: &DynamicObject) -> Option<&'static str> {
        let reference = &claim.data["spec"]["nodeClassRef"];
        let name = reference["name"].as_str()?;
        let none = BTreeMap::new();
        let by_cloud = self.cloud.drift(
            name,
            Claimed {
                labels: claim.metadata.labels.as_ref().unwrap_or(&none),
                annotations: claim.metadata.annotations.as_ref().unwrap_or(&none),
                provider_id: provider_id(claim),
                image: claim.data["status"]["imageID"].as_str(),
            },
        );
        let label = claim.metadata.labels.as_ref().and_then(|l| l.get(INSTANCE_TYPE));
        let gone = || {
            let catalogue = self.catalogue(reference).filter(|c| !c.types().is_empty())?;
            catalogue.get(label?).is_none().then_some("InstanceTypeNotFound")
        };
        by_cloud.or_else(gone)
    }

    /// Nodes that have drifted, by name; their claims' conditions are brought up to date.
    pub(super) async fn drifted(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for (claim, why) in self.judged() {
            self.mark(&claim, why).await?;
            names.extend(why.map(|_| self.node_name(&claim)));
        }
        Ok(names)
    }

    /// Sets the condition Drifted, or takes it away.
    async fn mark(&self, claim: &DynamicObject, why: Option<&str>) -> Result<(), Error> {
        let conditions = match why {
            Some(why) => with_condition(claim, "Drifted", true, why, "", Timestamp::now()),
            None if condition(claim, "Drifted").is_some() => {
                let all = claim.data["status"]["conditions"].as_array().cloned();
                let mut all: Vec<Value> = all.unwrap_or_default();
                all.retain(|c| c["type"] != "Drifted");
                Some(all)
            }
            None => None,
        };
        let Some(conditions) = conditions else { return Ok(()) };
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"status": {"conditions": conditions}});
        self.writer.patch(&path(API, "nodeclaims", "", name, "status"), &patch).await.map(drop)
    }
}
