//! Stands for the kubelets of the simulated cloud's machines: nodes register after their boot,
//! renew their leases, run pods that are bound to them, and go when they are interrupted. There are
//! no containers: a pod "runs" when its status says so.
//!
//! Annotations steer it: `coracle.dev/run-duration` and `coracle.dev/exit-code` on pods that end,
//! `coracle.dev/interrupt: "true"` and `coracle.dev/fail: "true"` on nodes.

mod pods;

use crate::{
    Stop,
    api::{Error, Writer, path},
    informer::{Key, key},
    karpenter::{self, PRICE, UNREGISTERED, Watched, condition, is_true},
    queue::Queue,
    stopped,
    world::ClusterState,
};
use coracle_clouds::{CapacityType, Cloud, Machine, Simulated};
use coracle_meta::time::{rfc3339, rfc3339_micro};
use jiff::Timestamp;
use kube::{Client, core::DynamicObject};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// Annotation of nodes: take the machine back.
pub const INTERRUPT: &str = "coracle.dev/interrupt";
/// Annotation of nodes: report the node as not ready, as long as it is there.
pub const FAIL: &str = "coracle.dev/fail";
/// Annotation of nodes: when an interrupted machine ends.
pub const DEADLINE: &str = "coracle.dev/interruption-deadline";
/// Label of leases of simulated nodes.
const OURS: &str = "coracle.dev/simulated";
/// Leases are renewed this often, as by the kubelet.
const RENEW_EVERY: Duration = Duration::from_secs(10);

struct Kubelets {
    world: Arc<ClusterState>,
    karpenter: Arc<Watched>,
    cloud: Arc<Simulated>,
    writer: Writer,
    /// When something about an object is due, by UID and what.
    due: Mutex<HashMap<(String, &'static str), Instant>>,
    events: pods::EventRate,
}

/// Starts the kubelets.
pub fn start(
    world: &Arc<ClusterState>,
    karpenter: &Arc<Watched>,
    client: &Client,
    cloud: &Arc<Simulated>,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) {
    let k = Arc::new(Kubelets {
        world: world.clone(),
        karpenter: karpenter.clone(),
        cloud: cloud.clone(),
        writer: Writer::new(client, "kubelet"),
        due: Mutex::default(),
        events: pods::EventRate::default(),
    });
    let machines: Arc<Queue<Key>> = Queue::new();
    let q = machines.clone();
    karpenter.claims.on_change(move |c| c.new.iter().for_each(|o| q.add(key(&***o))));
    let q = machines.clone();
    world.nodes.on_change(move |c| {
        let noted = |n: &k8s_openapi::api::core::v1::Node| {
            let noted = |k: &str| n.metadata.annotations.as_ref().and_then(|a| a.get(k)).cloned();
            (noted(INTERRUPT), noted(FAIL))
        };
        if c.old.map(|n| noted(n)) != c.new.map(|n| noted(n)) {
            c.object().iter().for_each(|n| q.add(key(&***n)));
        }
    });
    let me = k.clone();
    machines.work("machines", 8, stop, tasks, move |key| {
        let me = me.clone();
        async move { me.machine(&key.1).await }
    });

    let pods: Arc<Queue<Key>> = Queue::new();
    let q = pods.clone();
    world.pods.on_change(move |c| match c.new {
        Some(p) if !p.node_name.is_empty() => q.add(key(&**p)),
        _ => {}
    });
    let me = k.clone();
    pods.work("pods", 16, stop, tasks, move |key| {
        let me = me.clone();
        async move { me.pod(&key).await }
    });

    let mut stop = stop.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(RENEW_EVERY) => k.renew_all().await,
            }
        }
    });
}

impl Kubelets {
    /// How long until something is due; counted from the first time it was asked for.
    fn until(&self, uid: &str, what: &'static str, after: Duration) -> Duration {
        let due = *self
            .due
            .lock()
            .entry((uid.to_owned(), what))
            .or_insert_with(|| Instant::now() + after);
        due.saturating_duration_since(Instant::now())
    }

    /// Whether a time for something was set.
    fn is_due(&self, uid: &str, what: &'static str) -> bool {
        self.due.lock().contains_key(&(uid.to_owned(), what))
    }

    fn forget(&self, uid: &str) {
        self.due.lock().retain(|(u, _), _| u != uid);
    }

    async fn machine(&self, name: &str) -> Result<Option<Duration>, Error> {
        tokio::join!(self.world.nodes.synced(), self.karpenter.synced());
        let Some(claim) = self.karpenter.claims.get("", name) else { return Ok(None) };
        let Some(id) =
            claim.data["status"]["providerID"].as_str().filter(|_| is_true(&claim, "Launched"))
        else {
            return Ok(None);
        };
        let label = |k: &str| {
            claim.metadata.labels.as_ref().and_then(|l| l.get(k)).cloned().unwrap_or_default()
        };
        let machine = match self.cloud.machine(id) {
            Some(m) => m,
            // An earlier process launched it. One that was ended stays ended.
            None if !is_true(&claim, "InstanceTerminating")
                && self.world.nodes.get("", name).is_none_or(|n| {
                    n.metadata.annotations.as_ref().is_none_or(|a| !a.contains_key(DEADLINE))
                }) =>
            {
                let capacity = CapacityType::parse(&label("karpenter.sh/capacity-type"))
                    .unwrap_or(CapacityType::OnDemand);
                match self.cloud.adopt(Machine {
                    provider_id: String::new(),
                    name: name.to_owned(),
                    uid: claim.metadata.uid.clone().unwrap_or_default(),
                    instance_type: label("node.kubernetes.io/instance-type").into(),
                    zone: label("topology.kubernetes.io/zone").into(),
                    capacity_type: capacity,
                    reservation: Some(label(karpenter::RESERVATION)).filter(|r| !r.is_empty()),
                    image: None,
                }) {
                    Some(m) => m,
                    None => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        match self.world.nodes.get("", name) {
            Some(node) => {
                self.fail(&node).await?;
                self.interrupt(&node, &machine, &uid).await
            }
            None if condition(&claim, "Registered").is_some_and(|c| c["status"] == "True") => {
                Ok(None)
            }
            None => {
                let class = claim.data["spec"]["nodeClassRef"]["name"]
                    .as_str()
                    .and_then(|c| self.karpenter.classes.get("", c));
                let own = class.and_then(|c| karpenter::duration(&c.data["spec"]["bootDelay"]));
                let Some(boot) = self
                    .cloud
                    .boot(&machine.provider_id)
                    .map(|b| if b == self.cloud.settings().boot { own.unwrap_or(b) } else { b })
                else {
                    return Ok(None);
                };
                let left = self.until(&uid, "boot", self.cloud.settings().real(boot));
                if !left.is_zero() {
                    return Ok(Some(left));
                }
                self.register(&claim, &machine).await?;
                Ok(None)
            }
        }
    }

    /// Reports a node that shall be broken as not ready.
    async fn fail(&self, node: &k8s_openapi::api::core::v1::Node) -> Result<(), Error> {
        let shall = node.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(FAIL));
        let conditions =
            node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready != shall {
            return Ok(());
        }
        let (status, reason) =
            if shall { ("False", "KubeletNotReady") } else { ("True", "KubeletReady") };
        let now = rfc3339(Timestamp::now());
        let mut all = json!(conditions);
        for c in all.as_array_mut().into_iter().flatten().filter(|c| c["type"] == "Ready") {
            *c = json!({"type": "Ready", "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now});
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"status": {"conditions": all}});
        self.writer.patch(&path("v1", "nodes", "", name, "status"), &patch).await.map(drop)
    }

    /// Shows an interruption's notice, and ends the machine when it is over.
    async fn interrupt(
        &self,
        node: &k8s_openapi::api::core::v1::Node,
        machine: &Machine,
        uid: &str,
    ) -> Result<Option<Duration>, Error> {
        let annotations = node.metadata.annotations.clone().unwrap_or_default();
        if annotations.get(INTERRUPT).map(String::as_str) != Some("true") {
            return Ok(None);
        }
        let notice = self.cloud.settings().real(self.cloud.settings().notice);
        let left = self.until(uid, "interrupt", notice);
        if !annotations.contains_key(DEADLINE) {
            let end = Timestamp::now()
                .checked_add(jiff::SignedDuration::try_from(left).unwrap_or_default())
                .unwrap_or(Timestamp::MAX);
            let patch = json!({"metadata": {"annotations": {DEADLINE: rfc3339(end)}}});
            self.writer.patch(&path("v1", "nodes", "", &machine.name, ""), &patch).await?;
            self.writer
                .event(
                    &node.metadata,
                    coracle_workloads::action::NODES,
                    "Warning",
                    "SpotInterrupted",
                    "The machine is taken back in two minutes",
                )
                .await;
        }
        if left.is_zero() {
            self.cloud.end(&machine.provider_id);
            return Ok(None);
        }
        Ok(Some(left))
    }

    async fn register(&self, claim: &DynamicObject, machine: &Machine) -> Result<(), Error> {
        let (now, name) = (rfc3339(Timestamp::now()), &machine.name);
        let catalogue = self.cloud.all();
        let Some(t) = catalogue.get(&machine.instance_type) else { return Ok(()) };
        let usd_per_hour = t.price(&machine.zone, machine.capacity_type).unwrap_or(t.usd_per_hour);
        let mut labels = (*t.labels).clone();
        labels.insert("topology.kubernetes.io/zone".into(), machine.zone.to_string());
        labels.insert("karpenter.sh/capacity-type".into(), machine.capacity_type.to_string());
        labels.insert("kubernetes.io/hostname".into(), name.clone());
        labels
            .extend(machine.reservation.iter().map(|r| (karpenter::RESERVATION.into(), r.clone())));
        let mut taints = vec![json!({"key": UNREGISTERED, "effect": "NoExecute"})];
        for list in ["taints", "startupTaints"] {
            taints.extend(claim.data["spec"][list].as_array().cloned().unwrap_or_default());
        }
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": now});
        let index = machine
            .provider_id
            .bytes()
            .fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let ip =
            format!("10.{}.{}.{}", 1 + index % 200, (index >> 8) % 250, 1 + (index >> 16) % 250);
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": {PRICE: usd_per_hour.to_string()}},
            "spec": {"providerID": machine.provider_id, "taints": taints},
            "status": {
                // With the devices that an overlay promised: their plugin is simulated too.
                "capacity": claim.data["status"]["capacity"], "allocatable": claim.data["status"]["allocatable"],
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                    condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
                ],
                "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}],
                "nodeInfo": {"architecture": t.labels.get("kubernetes.io/arch"), "operatingSystem": "linux", "kubeletVersion": "v1.37.0+coracle-simulated", "kubeProxyVersion": "",
                    "containerRuntimeVersion": "simulated://1", "osImage": "Simulated", "kernelVersion": "simulated", "machineID": "", "systemUUID": "", "bootID": ""},
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            },
        });
        match self
            .writer
            .send("POST", &path("v1", "nodes", "", "", ""), "application/json", &node)
            .await
        {
            Err(e) if !e.is_conflict() => return Err(e),
            _ => {}
        }
        self.renew(name).await
    }

    async fn renew(&self, node: &str) -> Result<(), Error> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node, "namespace": "kube-node-lease", "labels": {OURS: "true"}},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": rfc3339_micro(Timestamp::now())},
        });
        let at = |name: &str| path("coordination.k8s.io/v1", "leases", "kube-node-lease", name, "");
        match self.writer.patch(&at(node), &lease).await {
            Err(e) if e.code() == Some(404) => {
                self.writer.send("POST", &at(""), "application/json", &lease).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn renew_all(&self) {
        self.world.nodes.synced().await;
        for machine in self.cloud.machines() {
            if self.world.nodes.get("", &machine.name).is_some() {
                if let Err(error) = self.renew(&machine.name).await {
                    tracing::warn!(%error, "a lease was not renewed");
                }
            }
        }
        // Leases of our nodes that are gone; others are none of ours.
        let ours = |l: &k8s_openapi::api::coordination::v1::Lease| {
            l.metadata.labels.as_ref().is_some_and(|l| l.contains_key(OURS))
        };
        for lease in self.world.leases.all().into_iter().filter(|l| ours(l)) {
            let name = lease.metadata.name.clone().unwrap_or_default();
            if self.world.nodes.get("", &name).is_none() {
                let at = path("coordination.k8s.io/v1", "leases", "kube-node-lease", &name, "");
                let _ = self.writer.send("DELETE", &at, "application/json", &Value::Null).await;
            }
        }
    }
}
