//! Leader election: of several processes that could do the same work, the one that holds a Lease does
//! it (`coordination.k8s.io/v1`, as client-go's `leaderelection`).

use crate::{
    Stop,
    api::{Error, Writer, path},
    karpenter::text,
    stopped,
};
use coracle_meta::time::rfc3339_micro;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// A lease that was not renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops to lead, before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between looks.
const RETRY: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Candidate {
    writer: Writer,
    namespace: String,
    name: String,
    identity: String,
    /// What the lease said when it last changed, and when that was seen: clocks of others are not
    /// trusted.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    /// Stands for the lease of a name.
    pub fn new(writer: Writer, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            writer,
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            seen: None,
        }
    }

    fn path(&self, name: &str) -> String {
        path("coordination.k8s.io/v1", "leases", &self.namespace, name, "")
    }

    /// Waits until the lease is ours. Returns false when it is time to stop.
    pub async fn acquire(&mut self, stop: &mut Stop) -> bool {
        loop {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "leader election is tried again"),
            }
            tokio::select! {
                () = stopped(stop) => return false,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Keeps the lease until it is time to stop or until it is lost. Returns whether it was lost; if not,
    /// it is to be [released](Self::release) when the work has ended.
    pub async fn hold(&mut self, stop: &mut Stop) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stopped(stop) => return false,
                () = tokio::time::sleep(RETRY) => {}
            }
            // A request that hangs must not lead for longer than one that fails.
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) | Err(_) => return true,
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed"),
            }
        }
    }

    /// Takes or renews the lease, if it is ours or free.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let now = rfc3339_micro(Timestamp::now());
        let old = match self
            .writer
            .send("GET", &self.path(&self.name), "application/json", &Value::Null)
            .await
        {
            Ok(v) => v,
            Err(e) if e.code() == Some(404) => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name, "namespace": self.namespace},
                    "spec": {"holderIdentity": self.identity, "leaseDurationSeconds": DURATION.as_secs(), "acquireTime": now, "renewTime": now, "leaseTransitions": 0}});
                return self.written("POST", &self.path(""), &lease).await;
            }
            Err(e) => return Err(e),
        };
        let holder = text(&old["spec"]["holderIdentity"]);
        let said = old["spec"].to_string();
        if self.seen.as_ref().is_none_or(|(s, _)| *s != said) {
            self.seen = Some((said, Instant::now()));
        }
        let rested = self.seen.as_ref().map_or(Duration::ZERO, |(_, at)| at.elapsed());
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() && rested < DURATION {
            return Ok(false);
        }
        let mut lease = old;
        let spec = &mut lease["spec"];
        if !ours {
            spec["acquireTime"] = json!(now);
            spec["leaseTransitions"] = json!(spec["leaseTransitions"].as_i64().unwrap_or(0) + 1);
        }
        spec["holderIdentity"] = json!(self.identity);
        spec["leaseDurationSeconds"] = json!(DURATION.as_secs());
        spec["renewTime"] = json!(now);
        // Its resourceVersion lets one of two win.
        self.written("PUT", &self.path(&self.name), &lease).await
    }

    async fn written(&self, method: &str, at: &str, lease: &Value) -> Result<bool, Error> {
        match self.writer.send(method, at, "application/json", lease).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_conflict() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Lets another take over at once.
    pub async fn release(&self) {
        let at = self.path(&self.name);
        let Ok(mut lease) = self.writer.send("GET", &at, "application/json", &Value::Null).await
        else {
            return;
        };
        if lease["spec"]["holderIdentity"] == self.identity.as_str() {
            lease["spec"]["holderIdentity"] = json!("");
            lease["spec"]["leaseDurationSeconds"] = json!(1);
            if let Err(error) = self.writer.send("PUT", &at, "application/json", &lease).await {
                tracing::debug!(%error, "the lease was not given back");
            }
        }
    }
}
