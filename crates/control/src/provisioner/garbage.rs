//! Machines that no claim has, and claims whose machines are gone: both end. Listings of clouds lag
//! behind what was launched, so that one look decides nothing.

use super::{CLAIMS, Shared};
use crate::{
    Stop,
    karpenter::{is_true, provider_id},
    stopped,
};
use coracle_clouds::Machine;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// The cloud is asked this often.
const EVERY: Duration = Duration::from_secs(60);
/// The same, while something looks wrong.
const SOON: Duration = Duration::from_secs(15);
/// What looks wrong for this long is.
const SURE: Duration = Duration::from_secs(30);

/// Since when something looks wrong: machines that nobody claims and claims without machines, by id.
type Suspects = HashMap<String, Instant>;

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let (shared, mut stop) = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        if !shared.begins(&mut stop).await {
            return;
        }
        let mut suspects = Suspects::new();
        loop {
            let wait = if suspects.is_empty() { EVERY } else { SOON };
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(shared.real(wait)) => {}
            }
            match shared.cloud.list().await {
                Ok(machines) => shared.collect(&machines, &mut suspects).await,
                Err(error) => tracing::warn!(%error, "machines could not be listed"),
            }
        }
    });
}

/// Whether an id has looked wrong for long enough; it is remembered if not.
fn sure(suspects: &mut Suspects, id: &str, after: Duration) -> bool {
    suspects.entry(id.to_owned()).or_insert_with(Instant::now).elapsed() >= after
}

impl Shared {
    async fn collect(&self, machines: &[Arc<Machine>], suspects: &mut Suspects) {
        let claims = self.karpenter.claims.all();
        let running: HashSet<&str> = machines.iter().map(|m| &*m.provider_id).collect();
        let ids: HashSet<&str> = claims.iter().map(|c| provider_id(c)).collect();
        let uids: HashSet<&str> = claims.iter().filter_map(|c| c.metadata.uid.as_deref()).collect();
        let mut wrong: HashSet<String> = HashSet::new();
        for m in machines {
            // One that is being launched is known by its claim's UID before that has its id.
            if ids.contains(&*m.provider_id) || uids.contains(&*m.uid) {
                continue;
            }
            wrong.insert(m.provider_id.clone());
            if sure(suspects, &m.provider_id, self.real(SURE)) {
                tracing::warn!(machine = m.provider_id, "no NodeClaim has it: it is ended");
                if let Err(error) = self.cloud.terminate(&m.provider_id, &m.uid).await {
                    tracing::warn!(%error, "a machine could not be ended");
                }
            }
        }
        for claim in &claims {
            let id = provider_id(claim);
            let going = claim.metadata.deletion_timestamp.is_some();
            if going || !is_true(claim, "Launched") || running.contains(id) {
                continue;
            }
            wrong.insert(id.to_owned());
            if sure(suspects, id, self.real(SURE)) && !self.is_young() {
                let said = format!("its machine {id} is gone");
                self.writer.event(&claim.metadata, CLAIMS, "Warning", "InstanceGone", &said).await;
                if let Err(error) = self.delete_claim(claim).await {
                    tracing::debug!(%error, "a claim could not be deleted");
                }
            }
        }
        suspects.retain(|id, _| wrong.contains(id));
    }
}
