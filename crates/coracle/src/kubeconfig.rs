//! The administrator's kubeconfig.

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_server::pki::{Pki, write_private};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Where a data directory keeps it.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("kubeconfig")
}

/// Writes it, readable by its owner only, and returns its path.
pub(crate) fn write(data_dir: &Path, pki: &Pki, address: SocketAddr) -> Result<PathBuf> {
    let data = |pem: &str| STANDARD.encode(pem);
    let client = pki.client("kubernetes-admin", "system:masters")?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "coracle", "preferences": {},
        "clusters": [{"name": "coracle", "cluster": {"server": format!("https://{address}"), "certificate-authority-data": data(pki.ca_pem())}}],
        "users": [{"name": "kubernetes-admin", "user": {
            "client-certificate-data": data(&client.certificate_pem), "client-key-data": data(&client.key_pem)}}],
        "contexts": [{"name": "coracle", "context": {"cluster": "coracle", "user": "kubernetes-admin"}}],
    });
    let path = path(data_dir);
    write_private(&path, serde_saphyr::to_string(&config)?.as_bytes())?;
    Ok(std::fs::canonicalize(&path)?)
}

/// Prints the one of a data directory.
pub(crate) fn print(data_dir: &Path) -> Result<()> {
    let path = path(data_dir);
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; start a cluster there with `coracle up --data-dir {}`",
            path.display(),
            data_dir.display()
        )
    })?;
    print!("{text}");
    Ok(())
}
