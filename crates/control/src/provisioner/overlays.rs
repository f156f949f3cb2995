//! NodeOverlays: which of them hold, and what their status says.

use super::Shared;
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{OVERLAY_API, overlay, with_condition},
    queue::Queue,
};
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
        let classes = self.karpenter.classes.all();
        let names = classes.iter().filter_map(|c| c.metadata.name.as_deref());
        let catalogues: Vec<_> = names.filter_map(|n| self.cloud.catalogue(n)).collect();
        let types = catalogues.iter().filter(|_| all.len() > 1).flat_map(|c| c.types());
        let offerings = types.flat_map(|t| t.offerings.iter().map(move |o| (&t.labels, o)));
        conflict(
            all,
            of,
            offerings.map(|(labels, o)| {
                move |k: &str| match k {
                    ZONE => Some(&*o.zone),
                    CAPACITY_TYPE => Some(o.capacity_type.as_str()),
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
