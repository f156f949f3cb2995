//! A drop-in for the binaries of controller-runtime's envtest.
//!
//! Started under the name `kube-apiserver` or `etcd`, this program takes the flags that envtest passes
//! and serves at once, from memory. Test suites need no change: they find both names in
//! `KUBEBUILDER_ASSETS`, which `coracle envtest-assets` fills.

mod flags;

use crate::up::wait_for_signal;
use anyhow::{Context, Result, bail};
use coracle_registry::Registry;
use coracle_schema::Minor;
use coracle_server::{
    Server,
    authn::{Identity, TokenKey},
    bootstrap,
    inprocess::InProcess,
    listen, pki,
};
use coracle_store::Store;
use flags::Flags;
use jiff::Timestamp;
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};

/// Runs as the binary that this program was called as, if it is one of envtest's.
pub(crate) fn run_as(name: &str, args: &[String]) -> Option<Result<()>> {
    let (table, run): (_, fn(&Flags) -> Result<()>) = match name {
        "kube-apiserver" => (flags::KUBE_APISERVER, apiserver),
        "etcd" => (flags::ETCD, etcd),
        _ => return None,
    };
    if args.iter().any(|a| a == "--help" || a == "-h") {
        return Some(flags::print_help(name, table));
    }
    if args.iter().any(|a| a == "--version") {
        return Some(flags::print(&format!("Kubernetes {}\n", Minor::LATEST.git_version())));
    }
    Some(Flags::parse(name, table, args).and_then(|f| run(&f)))
}

/// Lays out a directory for `KUBEBUILDER_ASSETS`.
pub(crate) fn assets(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    let own = std::env::current_exe().context("cannot find this program")?;
    for name in ["kube-apiserver", "etcd"] {
        link(&own, &dir.join(name))?;
    }
    if let Some(kubectl) = on_path("kubectl") {
        link(&kubectl, &dir.join("kubectl"))?;
    }
    flags::print(&format!(
        "ready: kube-apiserver and etcd in {0}\n  type:  export KUBEBUILDER_ASSETS={0}\n",
        dir.display()
    ))
}

fn link(target: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        std::fs::remove_file(at).with_context(|| format!("cannot replace {}", at.display()))?;
    }
    std::os::unix::fs::symlink(target, at)
        .with_context(|| format!("cannot create the link {}", at.display()))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// An etcd that says it is well. Nothing is stored in it: the API server here has its own store.
fn etcd(flags: &Flags) -> Result<()> {
    let url = flags.last("listen-client-urls").unwrap_or("http://127.0.0.1:2379");
    let address = url.split("://").last().unwrap_or(url).trim_end_matches('/').to_owned();
    runtime()?.block_on(async move {
        let listener = TcpListener::bind(&address)
            .await
            .with_context(|| format!("cannot listen at {address}"))?;
        tokio::select! {
            r = answer_health(listener) => r,
            r = wait_for_signal() => r,
        }
    })
}

async fn answer_health(listener: TcpListener) -> Result<()> {
    /// A client has this long to ask.
    const PATIENCE: Duration = Duration::from_secs(5);
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 29\r\nConnection: close\r\n\r\n{\"health\":\"true\",\"reason\":\"\"}";
    loop {
        let (mut socket, _) = listener.accept().await.context("cannot accept a connection")?;
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let asked = tokio::time::timeout(PATIENCE, socket.read(&mut request)).await;
            if matches!(asked, Ok(Ok(n)) if n > 0) {
                let _ = socket.write_all(ANSWER).await;
            }
        });
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn apiserver(flags: &Flags) -> Result<()> {
    let log = flags.last("v").and_then(|v| v.parse().ok()).unwrap_or(0);
    let level = if log >= 4 { "debug" } else { "warn" };
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let runtime = runtime()?;
    let result = runtime.block_on(serve(flags));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The certificates to serve with: those of `--tls-cert-file`, those in `--cert-dir`, or new ones.
fn tls(flags: &Flags, address: IpAddr) -> Result<rustls::ServerConfig> {
    let client_ca = match flags.last("client-ca-file") {
        Some(path) => read(Path::new(path))?,
        None => String::new(),
    };
    let dir = PathBuf::from(flags.last("cert-dir").unwrap_or("/var/run/kubernetes"));
    let (chain, key) = match (flags.last("tls-cert-file"), flags.last("tls-private-key-file")) {
        (Some(c), Some(k)) => (PathBuf::from(c), PathBuf::from(k)),
        _ => (dir.join("apiserver.crt"), dir.join("apiserver.key")),
    };
    if !chain.exists() && !key.exists() {
        let made = pki::Pki::generate()?.server_certificate(&[address])?;
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        pki::write_private(&chain, made.certificate_pem.as_bytes())?;
        pki::write_private(&key, made.key_pem.as_bytes())?;
    }
    Ok(pki::server_config_of(&read(&chain)?, &read(&key)?, &client_ca)?)
}

fn token_key(flags: &Flags) -> Result<TokenKey> {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
    let key = match flags.last("service-account-signing-key-file") {
        Some(path) => {
            let pem = read(Path::new(path))?;
            let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
                .map_err(|e| anyhow::anyhow!("{path} holds no private key: {e}"))?;
            TokenKey::from_pkcs8(der.secret_der())
        }
        None => TokenKey::generate().and_then(|k| TokenKey::from_pkcs8(&k)),
    };
    let key = key.map_err(anyhow::Error::msg)?;
    Ok(match flags.last("service-account-issuer") {
        Some(issuer) => key.issued_by(issuer),
        None => key,
    })
}

async fn serve(flags: &Flags) -> Result<()> {
    let ip: IpAddr = match flags.last("bind-address").unwrap_or("127.0.0.1").parse() {
        Ok(ip) => ip,
        Err(_) => bail!("--bind-address is no IP address"),
    };
    let port: u16 =
        flags.last("secure-port").unwrap_or("6443").parse().context("--secure-port is no port")?;
    let minor: Minor = match flags.last("emulated-version") {
        Some(v) => v.trim_start_matches("kube=").parse().map_err(anyhow::Error::msg)?,
        None => Minor::LATEST,
    };
    let listener = TcpListener::bind(SocketAddr::new(ip, port))
        .await
        .with_context(|| format!("cannot listen at {ip}:{port}"))?;
    let address = listener.local_addr()?;
    let tls = tls(flags, ip)?;
    let registry = Registry::new(Store::in_memory().cluster("default")?, minor, Timestamp::now)
        .without_admission(flags.list("disable-admission-plugins"))
        .with_service_network(flags.last("service-cluster-ip-range").unwrap_or("10.0.0.0/24"))
        .map_err(anyhow::Error::msg)?;
    let server = Server::new(Arc::new(registry), token_key(flags)?);
    bootstrap::run(&server, address).await?;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(listen::serve(server.clone(), listener, tls, stopping.clone()));
    let client = |account: &str| {
        let identity = Identity::service_account("kube-system", account);
        kube::Client::new(InProcess::new(server.clone(), identity), "default")
    };
    coracle_control::run_server_side(&client, &stopping, &mut tasks);
    wait_for_signal().await?;
    stop.send_replace(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    // Whatever still runs ends with the process: nothing here is kept.
    let _ = tokio::time::timeout(Duration::from_secs(2), all).await;
    Ok(())
}
