//! `coracle nodes`: nodes, how full they are, and what they cost, in the layout that people know
//! from eks-node-viewer. It shows requests against allocatable, never usage.

mod live;
mod model;
mod render;

use crate::{Output, up::DATA_DIR};
use anyhow::{Context, Result};
use coracle_control::{informer::Informer, karpenter};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::DynamicObject,
};
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(show(o));
    runtime.shutdown_background();
    result
}

async fn show(o: &Options) -> Result<()> {
    // Two providers may be linked; this one is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let selector =
        coracle_meta::LabelSelector::parse(o.node_selector.as_deref().unwrap_or_default())
            .context("--node-selector")?;
    let client = client(o.kubeconfig.as_deref()).await?;
    client.apiserver_version().await.context("cannot reach the cluster")?;
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

pub(crate) async fn client(file: Option<&Path>) -> Result<Client> {
    let local = Path::new(DATA_DIR).join("kubeconfig");
    let chosen = match file {
        Some(f) => Some(f.to_owned()),
        None if std::env::var_os("KUBECONFIG").is_none() && local.exists() => Some(local),
        None => None,
    };
    let options = KubeConfigOptions::default();
    let config = match chosen {
        Some(f) => {
            let kubeconfig = Kubeconfig::read_from(&f)
                .with_context(|| format!("cannot read {}", f.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        }
        None => Config::from_kubeconfig(&options)
            .await
            .context("no kubeconfig was found; say --kubeconfig FILE")?,
    };
    Ok(Client::try_from(config)?)
}
