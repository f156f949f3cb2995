//! Kubelets of the emulated cloud's machines, which boot nothing: their nodes join under names of the
//! cloud's choice, and what is deleted on them ends at once.

use crate::{cluster::Cluster, durability::client};
use coracle_meta::time::rfc3339_micro;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

pub(crate) struct Kubelets {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelets {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, kubeconfig) = (stop.clone(), cluster.kubeconfig());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let c = client(&kubeconfig).await;
                while !stopped.load(Ordering::Relaxed) {
                    // The cluster may be stopping: the next look tells.
                    let _ = look(&c).await;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

async fn look(c: &kube::Client) -> kube::Result<()> {
    let resource =
        coracle_control::karpenter::resource("karpenter.sh/v1", "NodeClaim", "nodeclaims");
    let claims: Api<DynamicObject> = Api::all_with(c.clone(), &resource);
    let nodes: Api<Node> = Api::all(c.clone());
    let there = nodes.list(&ListParams::default()).await?;
    for claim in claims.list(&ListParams::default()).await? {
        let Some(id) = claim.data["status"]["providerID"].as_str() else { continue };
        let has = |n: &Node| n.spec.as_ref().and_then(|s| s.provider_id.as_deref()) == Some(id);
        if claim.metadata.deletion_timestamp.is_none() && !there.iter().any(has) {
            join(c, &nodes, &claim, id).await?;
        }
    }
    let pods: Api<Pod> = Api::all(c.clone());
    for p in pods.list(&ListParams::default()).await? {
        let bound = p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        if bound && p.metadata.deletion_timestamp.is_some() {
            let own: Api<Pod> = Api::namespaced(c.clone(), &p.namespace().unwrap_or_default());
            let _ = own.delete(&p.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
    }
    Ok(())
}

async fn join(
    c: &kube::Client,
    nodes: &Api<Node>,
    claim: &DynamicObject,
    id: &str,
) -> kube::Result<()> {
    let machine = id.rsplit('/').next().unwrap();
    let name = format!("ip-{}.ec2.internal", &machine[2..10]);
    let mut taints = vec![json!({"key": "karpenter.sh/unregistered", "effect": "NoExecute"})];
    taints.extend(claim.data["spec"]["taints"].as_array().cloned().unwrap_or_default());
    let node: Value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"providerID": id, "taints": taints},
        "status": {"capacity": claim.data["status"]["capacity"], "allocatable": claim.data["status"]["allocatable"],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await?;
    // Renewed for the hour that no test takes.
    let hour = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": rfc3339_micro(hour)}});
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(c.clone(), "kube-node-lease");
    leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await?;
    Ok(())
}
