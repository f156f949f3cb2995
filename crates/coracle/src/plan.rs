//! `coracle plan`: what would be bought, and what it would cost, before it happens. It reads the
//! cluster and writes nothing.

mod manifests;
mod report;

use crate::{Output, client, policy::Asked};
use anyhow::{Context, Result, bail};
use coracle_control::karpenter;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, core::DynamicObject};
use manifests::Manifests;
use std::path::PathBuf;

/// Options of `coracle plan`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Manifests (YAML or JSON) of pods that would be created, and NodePools that there would be: a
    /// file, or - for standard input. May be given several times
    #[arg(long, short, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Another number of replicas of what is there, such as deployment/web=50. May be given several
    /// times
    #[arg(long, value_name = "KIND/NAME=REPLICAS")]
    scale: Vec<String>,
    /// Namespace of what names none
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    asked: Asked,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Plans, and prints the plan.
pub(crate) fn run(o: &Options) -> Result<()> {
    client::block_on(plan(o))
}

async fn plan(o: &Options) -> Result<()> {
    let mut wanted = Manifests::default();
    for file in &o.filename {
        wanted.read(file, &o.namespace)?;
    }
    let client = o.asked.client().await?;
    let resource = karpenter::resource(karpenter::API, "NodePool", "nodepools");
    let pools = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let listed = pools.list(&kube::api::ListParams::default()).await;
    let none = listed.context("cannot list NodePools (karpenter.sh/v1)")?.items.is_empty();
    if none && wanted.node_pools.is_empty() {
        bail!("the cluster has no NodePool: nothing could be bought");
    }
    for scale in &o.scale {
        add_replicas(&client, scale, &o.namespace, &mut wanted).await?;
    }
    let pods: Vec<Pod> = wanted.pods()?;
    let reader = o.asked.reader(&client).await?;
    let supposed: Vec<DynamicObject> = wanted
        .node_pools
        .iter()
        .map(|v| {
            serde_json::from_value(v.clone()).context("a NodePool of the manifests cannot be read")
        })
        .collect::<Result<_>>()?;
    let drifting = if supposed.is_empty() {
        None
    } else {
        reader.suppose(supposed);
        Some(reader.drifting().await?)
    };
    let found = reader.what_if(&pods).await?;
    reader.close().await;
    let report = report::Report::new(&found, &wanted, pods.len(), drifting);
    match o.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report.to_json())?),
        Output::Text => print!("{report}"),
    }
    Ok(())
}

/// The pods that more replicas of an object would be.
async fn add_replicas(
    client: &Client,
    scale: &str,
    namespace: &str,
    wanted: &mut Manifests,
) -> Result<()> {
    let parts = scale.split_once('=').and_then(|(what, n)| {
        let (kind, name) = what.split_once('/')?;
        Some((kind.to_lowercase(), name, n.parse::<usize>().ok()?))
    });
    let (kind, name, replicas) = parts.with_context(|| {
        format!("--scale {scale:?}: say KIND/NAME=REPLICAS, such as deployment/web=50")
    })?;
    let (kind, plural) = match kind.trim_end_matches('s').split('.').next().unwrap_or_default() {
        "deployment" | "deploy" => ("Deployment", "deployments"),
        "replicaset" | "r" => ("ReplicaSet", "replicasets"),
        "statefulset" | "st" => ("StatefulSet", "statefulsets"),
        other => bail!("--scale {scale:?}: {other} is no deployment, replicaset or statefulset"),
    };
    let resource = karpenter::resource("apps/v1", kind, plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object = api.get(name).await.map_err(|e| match e {
        kube::Error::Api(s) => anyhow::anyhow!("--scale {scale:?}: {}", s.message),
        other => anyhow::anyhow!("--scale {scale:?}: {other}"),
    })?;
    let now = object.data["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
    let mut value = serde_json::to_value(&object)?;
    value["kind"] = kind.into();
    value["spec"]["replicas"] = replicas.saturating_sub(now).into();
    wanted.add(&value, namespace);
    if replicas < now {
        wanted.note(format!(
            "{kind} {name} would have {} pods less: what that frees is not planned with",
            now - replicas
        ));
    }
    Ok(())
}
