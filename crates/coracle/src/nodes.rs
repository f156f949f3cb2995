//! `coracle nodes`: nodes, how full they are, and what they cost, in the layout that people know
//! from eks-node-viewer. It shows requests against allocatable, never usage.

mod live;
mod model;
mod render;

use crate::{Output, client};
use anyhow::{Context, Result};
use coracle_control::{informer::Informer, karpenter};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, core::DynamicObject};
use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// Options of `coracle nodes`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kubeconfig file; without it $KUBECONFIG, then ./.coracle/kubeconfig, then ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Print once and exit, without colours; what happens anyway when the output is no terminal
    #[arg(long)]
    once: bool,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only nodes with these labels
    #[arg(long, value_name = "SELECTOR")]
    node_selector: Option<String>,
}

/// The cluster did not answer within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is watched.
pub(crate) struct Watched {
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    claims: Option<Arc<Informer<DynamicObject>>>,
    selector: coracle_meta::LabelSelector,
}

/// Shows nodes until the user has seen enough.
pub(crate) fn run(o: &Options) -> Result<()> {
    client::block_on(show(o))
}

async fn show(o: &Options) -> Result<()> {
    let selector =
        coracle_meta::LabelSelector::parse(o.node_selector.as_deref().unwrap_or_default())
            .context("--node-selector")?;
    let client = client::connect(o.kubeconfig.as_deref()).await?;
    let (_stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let resource = karpenter::resource(karpenter::API, "NodeClaim", "nodeclaims");
    let claims: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let has_claims = claims.list(&kube::api::ListParams::default().limit(1)).await.is_ok();
    let watched = Watched {
        nodes: Informer::start(Api::all(client.clone()), |_| (), None, &stopping, &mut tasks),
        pods: Informer::start(Api::all(client), |_| (), None, &stopping, &mut tasks),
        claims: has_claims.then(|| Informer::start(claims, |_| (), None, &stopping, &mut tasks)),
        selector,
    };
    let first = async {
        tokio::join!(watched.nodes.synced(), watched.pods.synced());
        if let Some(c) = &watched.claims {
            c.synced().await;
        }
    };
    tokio::time::timeout(PATIENCE, first)
        .await
        .context("the cluster did not list its nodes and pods in time")?;
    if o.output == Output::Json {
        println!("{}", model::summary(&watched).to_json());
        return Ok(());
    }
    if o.once || !std::io::stdout().is_terminal() {
        let mut out = std::io::stdout().lock();
        for line in render::lines(&model::summary(&watched), render::Style::Plain) {
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    live::run(&watched).await
}
