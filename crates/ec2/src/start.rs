//! Starting the machine of a claim: one, whatever happens in between.

use crate::{
    Ec2,
    client::error,
    launch::{Common, Fleet, Outcome, Template},
    machines::{CLAIM, CLAIM_UID, POOL},
    resolve::Subnet,
    resolved::Class,
    userdata::Joining,
};
use coracle_clouds::{CapacityType, CloudError, Launch, LaunchError, Launched, Machine, Offer};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// Launches of a claim that certainly failed, and since when one's outcome is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    failed: u32,
    unknown_since: Option<Instant>,
}

/// How a request went.
enum Sent {
    /// A machine of an earlier request.
    Found(Arc<Machine>),
    /// The cloud's answer.
    Answered(Outcome),
}

impl Ec2 {
    pub(crate) async fn start(&self, request: &Launch) -> Result<Launched, LaunchError> {
        if let Some(machine) = self.machines.of_claim(&request.uid) {
            return Ok(Launched { machine, refused: Vec::new() });
        }
        let not_ready = |why: &str| LaunchError::ClassNotReady(why.to_owned());
        let class = self.class(&request.class).ok_or_else(|| not_ready("it was not found"))?;
        if let Some(why) = &class.problem {
            return Err(not_ready(why));
        }
        let templates = self.templates_of(request, &class);
        let mut refused: Vec<Offer> = Vec::new();
        let mut kinds: Vec<CapacityType> = request.offerings.iter().map(|o| o.2).collect();
        kinds.dedup();
        let mut tried: Vec<CapacityType> = Vec::new();
        for kind in kinds {
            if tried.contains(&kind) {
                continue;
            }
            tried.push(kind);
            let overrides: Vec<_> = request
                .offerings
                .iter()
                .filter(|o| o.2 == kind)
                .filter_map(|o| {
                    let t = class.catalogue.get(&o.0)?;
                    let image = class.images.iter().position(|i| i.suits(&t.labels))?;
                    let subnet = class.subnets.iter().find(|s| *s.zone == *o.1)?;
                    Some((templates.get(&image)?, o, subnet))
                })
                .collect();
            if overrides.is_empty() {
                continue;
            }
            let sent: Vec<Offer> = overrides.iter().map(|(_, o, _)| (*o).clone()).collect();
            let outcome = match self.send(request, &class, kind, overrides).await? {
                Sent::Found(machine) => return Ok(Launched { machine, refused }),
                Sent::Answered(outcome) => outcome,
            };
            if let Some(started) = &outcome.started {
                refused.extend(outcome.refused);
                let machine = self.machines.put(started, &request.name, &request.uid);
                self.attempts.lock().remove(&request.uid);
                return Ok(Launched { machine, refused });
            }
            self.attempts.lock().entry(request.uid.clone()).or_default().failed += 1;
            match outcome.other {
                Some((code, message)) if outcome.refused.is_empty() => {
                    return Err(LaunchError::Unsure(error("CreateFleet", &code, &message)));
                }
                // Those that it does not name were not tried for the same reason.
                _ => refused.extend(sent),
            }
        }
        self.attempts.lock().remove(&request.uid);
        if refused.is_empty() {
            Err(LaunchError::NoSuchType)
        } else {
            Err(LaunchError::NoCapacity(refused))
        }
    }

    /// A template for each image, by its place in the class's list.
    fn templates_of(&self, request: &Launch, class: &Class) -> BTreeMap<usize, Template> {
        let claim = &request.claim;
        // The kubelet may not set labels of these groups by itself; registration does.
        let own = |k: &str| {
            let group = k.split('/').next().unwrap_or_default();
            !k.contains('/') || !(group.ends_with("kubernetes.io") || group.ends_with("k8s.io"))
        };
        let labels = claim["metadata"]["labels"].as_object().into_iter().flatten();
        let labels: BTreeMap<String, String> = labels
            .filter(|(k, _)| own(k))
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect();
        let lists = ["taints", "startupTaints"].into_iter();
        let mut taints: Vec<Value> =
            lists.filter_map(|l| claim["spec"][l].as_array()).flatten().cloned().collect();
        taints.push(json!({"key": "karpenter.sh/unregistered", "effect": "NoExecute"}));
        let common = Common {
            joining: Joining {
                cluster: &self.settings.cluster,
                access: &self.access,
                spec: &class.spec,
                labels: &labels,
                taints: &taints,
            },
            groups: &class.groups,
            profile: &class.profile,
        };
        let all = class.images.iter().enumerate();
        all.map(|(i, image)| (i, Template::new(&common, image))).collect()
    }

    async fn send(
        &self,
        request: &Launch,
        class: &Class,
        kind: CapacityType,
        overrides: Vec<(&Template, &Offer, &Subnet)>,
    ) -> Result<Sent, LaunchError> {
        let tags = self.tags(&request.class, &class.spec);
        for (t, _, _) in &overrides {
            if self.templates.lock().contains(&t.name) {
                continue;
            }
            t.ensure(&self.client, &tags).await.map_err(LaunchError::Unsure)?;
            self.templates.lock().insert(t.name.clone());
        }
        let mut own: BTreeMap<String, String> = tags.into_iter().collect();
        own.entry("Name".into()).or_insert_with(|| request.name.clone());
        own.insert(POOL.into(), request.pool.clone());
        own.insert(CLAIM.into(), request.name.clone());
        own.insert(CLAIM_UID.into(), request.uid.clone());
        let tags: Vec<(String, String)> = own.into_iter().collect();
        let failed = self.attempts.lock().get(&request.uid).map_or(0, |a| a.failed);
        let fleet = Fleet {
            token: &format!("{}-{failed}", request.uid),
            capacity_type: kind,
            overrides,
            tags: &tags,
            context: class.spec.context.as_deref(),
        };
        let e = match fleet.send(&self.client).await {
            Ok(outcome) => return Ok(Sent::Answered(outcome)),
            Err(e) => e,
        };
        if e.code.starts_with("InvalidLaunchTemplate") {
            // Somebody deleted them.
            self.templates.lock().clear();
        }
        if e.code == "IdempotentParameterMismatch" {
            return self.asked_before(request, e).await;
        }
        Err(LaunchError::Unsure(e))
    }

    /// An earlier process asked with the same token, at other prices: its machine is the one. If there is
    /// none when it could be seen, that launch has failed.
    async fn asked_before(&self, request: &Launch, e: CloudError) -> Result<Sent, LaunchError> {
        let found = self.machines.find(&self.client, &request.uid).await;
        if let Some(m) = found.map_err(LaunchError::Unsure)? {
            return Ok(Sent::Found(m));
        }
        let mut attempts = self.attempts.lock();
        let a = attempts.entry(request.uid.clone()).or_default();
        let since = *a.unknown_since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.visible_after {
            *a = Attempts { failed: a.failed + 1, unknown_since: None };
        }
        Err(LaunchError::Unsure(e))
    }
}
