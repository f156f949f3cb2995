//! `coracle up`: one process that is a cluster.

use crate::{cloud::Cloud, defaults, kubeconfig, metrics};
use anyhow::{Context, Result, bail};
use coracle_ec2::Access;
use coracle_registry::Registry;
use coracle_schema::Minor;
use coracle_server::{
    Server, aggregation::FrontProxy, authn::Identity, bootstrap, inprocess::InProcess, listen,
    pki::Pki,
};
use coracle_store::{OpenError, Store};
use jiff::Timestamp;
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// Where a cluster lives unless told otherwise.
pub(crate) const DATA_DIR: &str = "./.coracle";
/// The only cluster of this process, for now.
const CLUSTER: &str = "default";
/// History is kept this long for watches and exact lists, as upstream compacts etcd.
const KEEP_HISTORY: Duration = Duration::from_secs(300);
/// How often expired events are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// Options of `coracle up`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Directory that holds everything the cluster keeps, and its kubeconfig
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Keep nothing: objects live in memory only
    #[arg(long)]
    in_memory: bool,
    /// Kubernetes version whose API is served: 1.34, 1.35, 1.36 or 1.37
    #[arg(long, value_name = "VERSION", default_value_t = Minor::LATEST.to_string())]
    kubernetes_version: String,
    /// Cloud to buy nodes from: simulated[:key=value,...] with the keys seed, speed, boot, pod-start, zones, notice and nodeclass, or ec2:cluster=NAME,region=REGION[,queue=NAME][,endpoint=URL]
    #[arg(long, value_name = "CLOUD", default_value = "simulated")]
    cloud: String,
    /// Address to listen at; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6443")]
    listen: String,
    /// Start without the default NodePool and its class
    #[arg(long)]
    no_default_nodepool: bool,
    /// Leave buying nodes to another process, such as `coracle attach`
    #[arg(long)]
    no_provisioner: bool,
    /// Admission plugins to leave out, by upstream's names: ServiceAccount, Priority,
    /// DefaultTolerationSeconds, NamespaceLifecycle
    #[arg(long, value_name = "PLUGINS", value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// Whether the scheduler fills nodes or spreads pods over them
    #[arg(long, value_enum, default_value_t = Profile::Spread)]
    scheduler_profile: Profile,
    /// Serve the provisioner's metrics (Prometheus, Karpenter's names) at this address over plain HTTP
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    policy: crate::policy::Policy,
    /// What to log to standard error: error, warn, info, debug, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// How the scheduler scores nodes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// Prefer full nodes (MostAllocated)
    Pack,
    /// Prefer empty nodes (LeastAllocated), as upstream's default
    Spread,
}

/// Runs a cluster until it is told to stop.
pub(crate) fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    start_log(&options.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(cluster(options, started));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Logs to standard error what a filter lets through.
pub(crate) fn start_log(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .context("the value of --log is no filter")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

async fn cluster(o: Options, started: Instant) -> Result<()> {
    let minor: Minor = o.kubernetes_version.parse().map_err(anyhow::Error::msg)?;
    let cloud = Cloud::read(&o.cloud)?;
    let address: SocketAddr = o
        .listen
        .parse()
        .ok()
        .or_else(|| {
            o.listen.strip_prefix(':').and_then(|p| {
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), p.parse().ok()?))
            })
        })
        .with_context(|| format!("--listen {:?} is no address such as 127.0.0.1:6443", o.listen))?;
    let listener = TcpListener::bind(address).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is taken by another program; choose another with --listen")
        }
        _ => anyhow::anyhow!("cannot listen at {address}: {e}"),
    })?;
    let address = listener.local_addr()?;
    let dir = &o.data_dir;
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create the data directory {}", dir.display()))?;
    let store = open_store(dir, o.in_memory, minor)?;
    let pki = Pki::open(&dir.join("pki"))?;
    let tls = pki.server_config(&[address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST)])?;
    let registry = Registry::new(store.cluster(CLUSTER)?, minor, Timestamp::now)
        .without_admission(o.disable_admission_plugins.clone());
    let registry = Arc::new(registry);
    let server = Server::new(registry, pki.token_key()?);
    let proxy = pki.client("front-proxy-client", "")?;
    server.set_front_proxy(FrontProxy {
        certificate_pem: proxy.certificate_pem,
        key_pem: proxy.key_pem,
        ca_pem: pki.ca_pem().to_owned(),
    });
    bootstrap::run(&server, address).await?;
    for definition in defaults::definitions()? {
        bootstrap::ensure(&server, definition).await?;
    }
    if !o.no_default_nodepool && cloud.has_default_pool() {
        for object in defaults::node_pool() {
            bootstrap::ensure(&server, object).await?;
        }
    }
    let kubeconfig = kubeconfig::write(dir, &pki, address)?;

    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(listen::serve(server.clone(), listener, tls, stopping.clone()));
    tasks.spawn(maintain(server.clone(), stopping.clone()));
    let access = || {
        Ok(Access {
            server: format!("https://{address}"),
            ca_pem: pki.ca_pem().to_owned(),
            minor: minor.to_string(),
        })
    };
    let provider = if o.no_provisioner { None } else { Some(cloud.open(access, true)?) };
    let settings = coracle_control::Settings {
        client: Arc::new(move |account| client(&server, account)),
        ca_pem: pki.ca_pem().to_owned(),
        profile: match o.scheduler_profile {
            Profile::Pack => coracle_scheduling::Profile::Pack,
            Profile::Spread => coracle_scheduling::Profile::Spread,
        },
        cloud: provider,
        provisioner: (&o.policy).into(),
    };
    let provisioner = coracle_control::run(&settings, &stopping, &mut tasks);
    if let (Some(at), Some(of)) = (o.metrics_listen, provisioner) {
        metrics::serve(at, of, stopping.clone(), &mut tasks).await?;
    }
    announce(&o, address, &kubeconfig, minor, started);
    wait_for_signal().await?;
    let _ = writeln!(std::io::stderr(), "stopping");
    stop.send_replace(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(10), all).await.is_err() {
        bail!("some parts did not stop in time");
    }
    Ok(())
}

/// A client inside this process: the same API, rights and all, without a socket.
fn client(server: &Arc<Server>, account: &str) -> kube::Client {
    let identity = if account.starts_with("system:") {
        Identity::user(account, &[])
    } else {
        Identity::service_account("kube-system", account)
    };
    kube::Client::new(InProcess::new(server.clone(), identity), "default")
}

fn announce(o: &Options, address: SocketAddr, kubeconfig: &Path, minor: Minor, started: Instant) {
    let data = if o.in_memory { "in memory".into() } else { o.data_dir.display().to_string() };
    let took = started.elapsed().as_secs_f64() * 1000.0;
    let text = format!(
        "ready: Kubernetes {minor} at https://{address}, cloud {}, data {data}, in {took:.0} ms\n  type:  export KUBECONFIG={}\n",
        o.cloud,
        kubeconfig.display()
    );
    // A reader that has gone is no reason to stop.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The file that says which version wrote a data directory.
const VERSION_FILE: &str = "kubernetes-version";

fn open_store(dir: &Path, in_memory: bool, minor: Minor) -> Result<Store> {
    if in_memory {
        return Ok(Store::in_memory());
    }
    let version_file = dir.join(VERSION_FILE);
    if let Ok(text) = std::fs::read_to_string(&version_file) {
        let written: Minor = text.trim().parse().map_err(|_| {
            anyhow::anyhow!("the data directory {} was written by Kubernetes {}, which this version does not know", dir.display(), text.trim())
        })?;
        if written > minor {
            bail!(
                "the data directory {} was written by Kubernetes {written}; start with --kubernetes-version {written} or newer, or with another --data-dir",
                dir.display()
            );
        }
    }
    let store = Store::open(&dir.join("store")).map_err(|e| match e {
        OpenError::InUse => {
            anyhow::anyhow!("the data directory {} is in use by another process", dir.display())
        }
        e => anyhow::Error::new(e)
            .context(format!("cannot open the data directory {}", dir.display())),
    })?;
    std::fs::write(&version_file, format!("{minor}\n"))
        .with_context(|| format!("cannot write {}", version_file.display()))?;
    Ok(store)
}

/// Compacts history and removes expired objects until the process stops.
async fn maintain(server: Arc<Server>, mut stopping: watch::Receiver<bool>) {
    let store = server.registry().store().clone();
    let mut tick = tokio::time::interval(EXPIRE_EVERY);
    let mut marks: std::collections::VecDeque<(Instant, u64)> = std::collections::VecDeque::new();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|s| *s) => return,
            _ = tick.tick() => {}
        }
        let now = Timestamp::now().as_second();
        store.expire(u64::try_from(now).unwrap_or(0)).await;
        marks.push_back((Instant::now(), store.revision()));
        while marks.front().is_some_and(|(t, _)| t.elapsed() > KEEP_HISTORY) {
            if let Some((_, revision)) = marks.pop_front() {
                store.compact(revision);
            }
        }
    }
}

pub(crate) async fn wait_for_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        r = tokio::signal::ctrl_c() => r?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
