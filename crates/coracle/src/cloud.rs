//! The value of `--cloud`: where nodes are bought.

use anyhow::{Context, Result};
use coracle_clouds::{Settings, Simulated};
use coracle_control::Provider;
use std::sync::Arc;

/// Opens the cloud that a text such as `simulated:zones=2` names.
pub(crate) fn open(text: &str) -> Result<Provider> {
    let settings: Settings = text.parse().map_err(anyhow::Error::msg).context("--cloud")?;
    Ok(Arc::new(Simulated::new(settings)).into())
}
