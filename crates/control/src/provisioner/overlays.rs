//! NodeOverlays: which of them hold, and what their status says.

use super::{Shared, model::type_labels};
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{OVERLAY_API, overlay, with_condition},
    queue::Queue,
};
use coracle_clouds::{CapacityType, catalogue};
use coracle_provisioning::{
    offering::{CAPACITY_TYPE, ZONE},
    overlay::{Overlay, conflict, sort},
};
use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let (q, s) = (queue.clone(), shared.clone());
    shared.karpenter.overlays.on_change(move |c| {
        if c.old.map(|o| o.data["spec"].clone()) == c.new.map(|o| o.data["spec"].clone()) {
            return;
        }
        s.refresh_overlays();
        s.wake_provision.notify_one();
        s.wake_disruption.notify_one();
        // One that goes may end a conflict of another.
        c.object().into_iter().for_each(|o| q.add(key(&**o)));
        s.karpenter.overlays.all().iter().for_each(|o| q.add(key(&**o)));
    });
    let shared = shared.clone();
    queue.work("nodeoverlay-status", 1, stop, tasks, move |k| {
        let shared = shared.clone();
        async move {
            shared.synced().await;
            match shared.karpenter.overlays.get("", &k.1) {
                Some(o) => shared.overlay_status(&o).await,
                None => Ok(None),
            }
        }
    });
}

impl Shared {
    /// Reads the overlays anew. One that contradicts another of the same weight does not hold.
    pub(super) fn refresh_overlays(&self) {
        let mut all: Vec<Overlay> =
            self.karpenter.overlays.all().iter().map(|o| overlay(o)).collect();
        let held = all.clone();
        all.retain(|o| self.contradicted(&held, o).is_none());
        sort(&mut all);
        *self.overlays.write() = Arc::new(all);
    }

    /// The overlay of the same weight that says something else of the same offering.
    fn contradicted<'o>(&self, all: &'o [Overlay], of: &Overlay) -> Option<&'o Overlay> {
        let zones = self.cloud.zones();
        let offerings = catalogue().iter().flat_map(|t| {
            let labels = type_labels(t);
            zones.iter().flat_map(move |zone| {
                let labels = labels.clone();
                [CapacityType::Spot, CapacityType::OnDemand].map(|c| (labels.clone(), zone, c))
            })
        });
        let offerings: Vec<_> = if all.len() < 2 { Vec::new() } else { offerings.collect() };
        conflict(
            all,
            of,
            offerings.iter().map(|(labels, zone, c)| {
                move |k: &str| match k {
                    ZONE => Some(zone.as_str()),
                    CAPACITY_TYPE => Some(c.as_str()),
                    k => labels.get(k).map(String::as_str),
                }
            }),
        )
    }

    async fn overlay_status(&self, o: &DynamicObject) -> Result<Option<Duration>, Error> {
        let all: Vec<Overlay> = self.karpenter.overlays.all().iter().map(|o| overlay(o)).collect();
        let own = overlay(o);
        let meant = own.requirements.is_contradictory();
        let other = self.contradicted(&all, &own);
        let (ok, reason, message) = match other {
            _ if meant => {
                (false, "RequirementsContradict", "its requirements leave nothing".to_owned())
            }
            Some(other) => (
                false,
                "Conflict",
                format!(
                    "NodeOverlay {} of the same weight says something else of the same instance types",
                    other.name
                ),
            ),
            None => (true, "ValidationSucceeded", String::new()),
        };
        let mut copy = o.clone();
        let mut changed = false;
        for (kind, reason) in
            [("ValidationSucceeded", reason), ("Ready", if ok { "Ready" } else { reason })]
        {
            if let Some(all) = with_condition(&copy, kind, ok, reason, &message, Timestamp::now()) {
                copy.data["status"]["conditions"] = json!(all);
                changed = true;
            }
        }
        if changed {
            let at = path(OVERLAY_API, "nodeoverlays", "", &own.name, "status");
            let status = json!({"status": {"conditions": copy.data["status"]["conditions"]}});
            self.writer.patch(&at, &status).await?;
        }
        Ok(None)
    }
}
