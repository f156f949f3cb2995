//! How commands that talk to a cluster find and reach it.

use crate::up::DATA_DIR;
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_ec2::Access;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::path::Path;

/// Runs a command that waits for a cluster.
pub(crate) fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    // Two providers may be linked; this one is meant. Installed twice is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// A client of the cluster of a kubeconfig: of the file that was named, of $KUBECONFIG, of the cluster
/// of this directory, or of the user's own.
///
/// # Errors
/// When there is no kubeconfig or the cluster does not answer.
pub(crate) async fn connect(file: Option<&Path>) -> Result<Client> {
    Ok(reach(file).await?.client)
}

/// A cluster, and how its nodes would reach it.
pub(crate) struct Reached {
    /// A client.
    pub(crate) client: Client,
    /// The same way, for others.
    pub(crate) access: Access,
}

/// As [`connect`], and says how.
pub(crate) async fn reach(file: Option<&Path>) -> Result<Reached> {
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
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let authorities = config.root_cert.clone().unwrap_or_default();
    let client = Client::try_from(config)?;
    let version = client.apiserver_version().await.context("cannot reach the cluster")?;
    // Some clouds add a plus.
    let minor = version.minor.trim_end_matches('+');
    let access = Access {
        server,
        ca_pem: authorities.iter().map(|der| pem(der)).collect(),
        minor: format!("{}.{minor}", version.major),
    };
    Ok(Reached { client, access })
}

/// A certificate as text (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
