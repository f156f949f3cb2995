//! `coracle attach`: the provisioner beside any Kubernetes, through its public API alone.

use crate::{
    client::{self, Reached},
    cloud::Cloud,
    defaults, metrics,
    policy::Policy,
    up,
};
use anyhow::{Context, Result, bail};
use coracle_clouds::NodeClassKind;
use coracle_control::{
    ProvisionerClients, api::Writer, karpenter, leader::Candidate, run_provisioner,
    world::ClusterState,
};
use coracle_server::bootstrap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};
use tokio::{sync::watch, task::JoinSet};

/// Name of the lease, of the service account, and of the roles.
const NAME: &str = "coracle-provisioner";
/// Roles of the parts that run.
const PARTS: [&str; 2] =
    ["system:controller:coracle-provisioner", "system:controller:coracle-simulated-nodes"];
/// Definitions are served within this time, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `coracle attach`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kubeconfig file; without it $KUBECONFIG, then ./.coracle/kubeconfig, then ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Cloud to buy nodes from, as for `coracle up`
    #[arg(long, value_name = "CLOUD", default_value = "simulated")]
    cloud: String,
    /// Create or update the definitions of NodePool and the other kinds first; that needs more rights
    /// than running does
    #[arg(long)]
    install_crds: bool,
    /// Print the objects that give a service account the rights to run, and end
    #[arg(long)]
    print_rbac: bool,
    /// Namespace of the service account and of the lease by which one of several processes leads
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    namespace: String,
    /// What this process is called in the lease; its host and process id if not given
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Serve metrics (Prometheus, Karpenter's names) at this address over plain HTTP, while leading
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    policy: Policy,
    /// What to log to standard error: error, warn, info, debug, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// Runs the provisioner until it is told to stop.
pub(crate) fn run(o: &Options) -> Result<()> {
    if o.print_rbac {
        for object in rbac(&o.namespace) {
            println!("---\n{}", serde_saphyr::to_string(&object)?.trim_end());
        }
        return Ok(());
    }
    up::start_log(&o.log)?;
    client::block_on(attach(o))
}

/// What a service account needs to run this, and no more.
fn rbac(namespace: &str) -> [Value; 5] {
    let rules: Vec<Value> = PARTS.iter().flat_map(|p| bootstrap::rules_of(p)).collect();
    let group = "rbac.authorization.k8s.io";
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}]);
    let reference = |kind: &str| json!({"apiGroup": group, "kind": kind, "name": NAME});
    let api = format!("{group}/v1");
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": namespace}}),
        json!({"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": rules}),
        json!({"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": NAME}, "roleRef": reference("ClusterRole"), "subjects": subjects}),
        json!({"apiVersion": api, "kind": "Role", "metadata": {"name": NAME, "namespace": namespace}, "rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [NAME], "verbs": ["get", "update"]}]}),
        json!({"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": NAME, "namespace": namespace}, "roleRef": reference("Role"), "subjects": subjects}),
    ]
}

async fn attach(o: &Options) -> Result<()> {
    let cloud = Cloud::read(&o.cloud)?;
    let Reached { client, access } = client::reach(o.kubeconfig.as_deref()).await?;
    let provider = cloud.open(|| Ok(access), true)?;
    if o.install_crds {
        install(&client).await?;
    }
    let (stop, mut stopping) = watch::channel(false);
    let signals = tokio::spawn(async move {
        let outcome = up::wait_for_signal().await;
        stop.send_replace(true);
        outcome
    });
    let identity = o.identity.clone().unwrap_or_else(own_identity);
    let writer = Writer::new(&client, NAME);
    let mut candidate = Candidate::new(writer, &o.namespace, NAME, &identity);
    say(&format!("waiting: {identity} leads when nobody else does (lease {}/{NAME})", o.namespace));
    if !candidate.acquire(&mut stopping).await {
        return Ok(());
    }
    check(&client, provider.cloud.class_kind()).await?;
    let mut tasks = JoinSet::new();
    // Of its own: what leads stops before the lease goes.
    let (halt, halting) = watch::channel(false);
    let state = ClusterState::new(&client, &halting, &mut tasks);
    let clients = ProvisionerClients { provisioner: client.clone(), nodes: client.clone() };
    let provisioner =
        run_provisioner(&state, &clients, &provider, (&o.policy).into(), &halting, &mut tasks);
    if let Some(at) = o.metrics_listen {
        metrics::serve(at, provisioner, halting.clone(), &mut tasks).await?;
    }
    say(&format!(
        "ready: {identity} provisions nodes, cloud {}\n  type:  kubectl get nodepools,nodeclaims",
        o.cloud
    ));
    let lost = candidate.hold(&mut stopping).await;
    halt.send_replace(true);
    if lost {
        // Another may work already.
        tasks.abort_all();
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(10), all).await.is_err() {
        tasks.shutdown().await;
    }
    signals.abort();
    if lost {
        bail!(
            "the lease {}/{NAME} was lost: another process leads, or the cluster cannot be reached",
            o.namespace
        );
    }
    candidate.release().await;
    Ok(())
}

/// Tells whoever started this. A reader that has gone is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

fn own_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // Process ids repeat: each container has its own first one.
    let unique =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let host = if host.is_empty() { "coracle" } else { host.trim() };
    format!("{host}_{}_{:x}", std::process::id(), unique.as_nanos() & 0xffff_ffff)
}

/// Says what is missing before anything waits for it in vain.
async fn check(client: &Client, class: &NodeClassKind) -> Result<()> {
    let class_api = format!("{}/{}", class.group, class.version);
    for (api, kind, plural) in [
        (karpenter::API, "NodePool", "nodepools"),
        (karpenter::API, "NodeClaim", "nodeclaims"),
        (&class_api, class.kind, class.plural),
    ] {
        let api_of: Api<DynamicObject> =
            Api::all_with(client.clone(), &karpenter::resource(api, kind, plural));
        match api_of.list(&kube::api::ListParams::default().limit(1)).await {
            Err(kube::Error::Api(s)) if s.code == 404 => {
                bail!("the cluster does not serve {kind} ({api}): start once with --install-crds")
            }
            Err(e) => return Err(e).with_context(|| format!("cannot list {plural}.{api}")),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Creates or updates the definitions, and waits until they are served.
async fn install(client: &Client) -> Result<()> {
    let resource = karpenter::resource(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    for definition in defaults::definitions()? {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let params = PatchParams::apply("coracle").force();
        api.patch(&name, &params, &Patch::Apply(&definition))
            .await
            .with_context(|| format!("cannot install {name}"))?;
        let served = async {
            loop {
                let conditions = api.get(&name).await?.data["status"]["conditions"].clone();
                let mut all = conditions.as_array().into_iter().flatten();
                if all.any(|c| c["type"] == "Established" && c["status"] == "True") {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, served)
            .await
            .with_context(|| format!("{name} was not served in time"))??;
    }
    say("installed: the definitions of karpenter.sh, autoscaling.x-k8s.io and coracle.dev");
    Ok(())
}
