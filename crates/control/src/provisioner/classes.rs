//! Node classes: what they ask for is found by the cloud and written in their status; one that is
//! deleted stays until no claim needs it.

use super::Shared;
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{text, with_condition},
    queue::Queue,
    stopped,
};
use coracle_clouds::Resolved;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// A cloud that cannot be asked is asked again after this.
const RETRY: Duration = Duration::from_secs(5);
/// A class that claims still need is looked at again after this.
const NEEDED: Duration = Duration::from_secs(5);

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    shared.karpenter.classes.on_change(move |c| {
        // Our own writing of the status changes nothing about what is asked for.
        let asked =
            |o: &DynamicObject| (o.data["spec"].clone(), o.metadata.deletion_timestamp.is_some());
        if c.old.map(|o| asked(o)) != c.new.map(|o| asked(o)) {
            c.object().iter().for_each(|o| q.add(key(&***o)));
        }
    });
    let (s, mut stopping) = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        let first = async {
            s.listed().await;
            while let Err(error) = s.cloud.ready().await {
                tracing::warn!(%error, "the cloud cannot be asked for its machines");
                tokio::time::sleep(RETRY).await;
            }
            s.resolve_all().await;
            s.resolved.send_replace(true);
        };
        tokio::select! {
            () = stopped(&mut stopping) => {}
            () = first => {}
        }
    });
    let shared = shared.clone();
    queue.work("nodeclass-status", 1, stop, tasks, move |k| {
        let shared = shared.clone();
        async move {
            shared.listed().await;
            match shared.karpenter.classes.get("", &k.1) {
                Some(class) => shared.class(&class).await,
                None => {
                    let gone = shared.cloud.forget(&k.1, &Value::Null).await;
                    gone.map(|()| None).map_err(|e| Error::Request(e.to_string()))
                }
            }
        }
    });
}

/// A class or claim as clouds read it.
pub(super) fn whole(o: &DynamicObject) -> Value {
    json!({"metadata": o.metadata, "spec": o.data["spec"], "status": o.data["status"]})
}

impl Shared {
    /// Lets the cloud find what all classes ask for, without writing it down.
    pub(super) async fn resolve_all(&self) {
        for class in self.karpenter.classes.all() {
            let name = class.metadata.name.as_deref().unwrap_or_default();
            let found = self.cloud.resolve(name, &whole(&class)).await;
            for c in found.conditions.iter().filter(|c| !c.holds) {
                tracing::warn!(class = name, condition = c.kind, c.message, "is not ready");
            }
        }
    }

    fn at_class(&self, meta: &ObjectMeta, sub: &str) -> String {
        let kind = self.karpenter.class_kind;
        let api = format!("{}/{}", kind.group, kind.version);
        path(&api, kind.plural, "", meta.name.as_deref().unwrap_or_default(), sub)
    }

    async fn class(&self, class: &DynamicObject) -> Result<Option<Duration>, Error> {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let finalizer = self.cloud.class_finalizer();
        let has = |f: &str| class.metadata.finalizers.iter().flatten().any(|own| own == f);
        if class.metadata.deletion_timestamp.is_some() {
            let Some(f) = finalizer.filter(|f| has(f)) else { return Ok(None) };
            let of = |c: &Arc<DynamicObject>| text(&c.data["spec"]["nodeClassRef"]["name"]) == name;
            if self.karpenter.claims.all().iter().any(of) {
                return Ok(Some(self.real(NEEDED)));
            }
            let forgotten = self.cloud.forget(name, &whole(class)).await;
            forgotten.map_err(|e| Error::Request(e.to_string()))?;
            return self.set_finalizers(&class.metadata, |all| all.retain(|own| own != f)).await;
        }
        if let Some(f) = finalizer.filter(|f| !has(f)) {
            self.set_finalizers(&class.metadata, |all| all.push(f.to_owned())).await?;
        }
        let found = self.cloud.resolve(name, &whole(class)).await;
        let again = found.again.map(|d| self.real(d));
        self.write_class(class, found).await?;
        // What can be bought may have changed.
        self.wake_provision.notify_one();
        self.wake_disruption.notify_one();
        Ok(again)
    }

    async fn set_finalizers(
        &self,
        meta: &ObjectMeta,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<Option<Duration>, Error> {
        let mut all = meta.finalizers.clone().unwrap_or_default();
        change(&mut all);
        let patch = json!({"metadata": {"finalizers": all}});
        match self.writer.patch(&self.at_class(meta, ""), &patch).await {
            Err(e) if e.code() != Some(404) => Err(e),
            _ => Ok(None),
        }
    }

    async fn write_class(&self, class: &DynamicObject, found: Resolved) -> Result<(), Error> {
        let noted = |k: &str| class.metadata.annotations.as_ref().and_then(|a| a.get(k));
        let stamps = self.cloud.stamps(&whole(class));
        let changed = stamps.iter().filter(|(k, v)| noted(k) != Some(v));
        let changed: serde_json::Map<_, _> =
            changed.map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        if !changed.is_empty() {
            let patch = json!({"metadata": {"annotations": changed}});
            self.writer.patch(&self.at_class(&class.metadata, ""), &patch).await?;
        }
        let now = Timestamp::now();
        let mut copy = class.clone();
        for c in &found.conditions {
            if let Some(all) = with_condition(&copy, c.kind, c.holds, &c.reason, &c.message, now) {
                copy.data["status"]["conditions"] = json!(all);
            }
        }
        let bad = found.conditions.iter().find(|c| !c.holds);
        let (reason, message) = match bad {
            Some(c) => (c.reason.as_str(), format!("{}: {}", c.kind, c.message)),
            None => ("Ready", String::new()),
        };
        if let Some(all) = with_condition(&copy, "Ready", bad.is_none(), reason, &message, now) {
            copy.data["status"]["conditions"] = json!(all);
        }
        let mut status = found.status;
        status["conditions"] = copy.data["status"]["conditions"].clone();
        let fields = status.as_object().into_iter().flatten();
        if fields.into_iter().any(|(k, v)| class.data["status"][k] != *v) {
            let patch = json!({"status": status});
            self.writer.patch(&self.at_class(&class.metadata, "status"), &patch).await?;
        }
        Ok(())
    }
}
