//! What the cloud tells of its machines: those that are taken back are left in time.

use super::{CLAIMS, Shared};
use crate::{Stop, api::Error, karpenter::is_true, stopped};
use coracle_clouds::{CapacityType, Notice};
use coracle_provisioning::offering::{CAPACITY_TYPE, INSTANCE_TYPE, ZONE};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// First and longest wait after the cloud could not be asked.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let (shared, mut stop) = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        if !shared.begins(&mut stop).await {
            return;
        }
        let mut wait = BACKOFF.0;
        loop {
            let heard = tokio::select! {
                () = stopped(&mut stop) => return,
                heard = shared.cloud.notices() => heard,
            };
            let done = match heard {
                Ok(notices) => shared.hear(notices).await,
                Err(error) => Err(error.to_string()),
            };
            let Err(error) = done else {
                wait = BACKOFF.0;
                continue;
            };
            tracing::warn!(error, "notices of interruptions could not be dealt with");
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    });
}

impl Shared {
    /// Deals with notices. Those that fail are told again.
    async fn hear(&self, notices: Vec<Notice>) -> Result<(), String> {
        let (mut done, mut failed) = (Vec::new(), None);
        for n in notices {
            match self.hear_one(&n).await {
                Ok(()) => done.push(n.handle),
                Err(e) => failed = Some(e.to_string()),
            }
        }
        if !done.is_empty() {
            self.cloud.acknowledge(done).await.map_err(|e| e.to_string())?;
        }
        failed.map_or(Ok(()), Err)
    }

    async fn hear_one(&self, n: &Notice) -> Result<(), Error> {
        for claim in n.provider_ids.iter().flat_map(|id| self.karpenter.claims.grouped(id)) {
            if !is_true(&claim, "Launched") || claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let kind = if n.leave { "Warning" } else { "Normal" };
            self.writer.event(&claim.metadata, CLAIMS, kind, n.reason, &n.message).await;
            let label = |k: &str| claim.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned();
            let capacity = label(CAPACITY_TYPE).and_then(|c| CapacityType::parse(&c));
            if let (true, Some(c), Some(t), Some(zone)) =
                (n.scarce, capacity, label(INSTANCE_TYPE), label(ZONE))
            {
                self.set_unavailable(vec![(t.into(), zone.into(), c)]);
            }
            if n.leave {
                self.delete_claim(&claim).await?;
            }
        }
        Ok(())
    }
}
