//! The value of `--cloud`: where nodes are bought.

use anyhow::{Context, Result};
use coracle_clouds::{Simulated, simulated};
use coracle_control::Provider;
use coracle_ec2::{Access, Ec2};
use std::{str::FromStr, sync::Arc};

/// What a text such as `simulated:zones=2` or `ec2:cluster=demo,region=us-east-1` names.
#[derive(Clone, Debug)]
pub(crate) enum Cloud {
    /// Machines that are only objects.
    Simulated(coracle_clouds::Settings),
    /// Machines of EC2.
    Ec2(coracle_ec2::Settings),
}

impl FromStr for Cloud {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split(':').next() {
            Some("ec2") => text.parse().map(Self::Ec2),
            _ => text.parse().map(Self::Simulated),
        }
    }
}

impl Cloud {
    /// Reads the value.
    pub(crate) fn read(text: &str) -> Result<Self> {
        text.parse().map_err(anyhow::Error::msg).context("--cloud")
    }

    /// Whether a fresh cluster has a NodePool of it: not where classes name what a user has.
    pub(crate) fn has_default_pool(&self) -> bool {
        matches!(self, Self::Simulated(s) if *s.class == simulated::CLASS)
    }

    /// Opens it. What its machines need to join a cluster is only asked for if there are any; one that
    /// `may_change` nothing answers what it would be like.
    pub(crate) fn open(
        self,
        access: impl FnOnce() -> Result<Access>,
        may_change: bool,
    ) -> Result<Provider> {
        Ok(match self {
            Self::Simulated(settings) => Arc::new(Simulated::new(settings)).into(),
            Self::Ec2(settings) => {
                let cloud = Arc::new(Ec2::new(settings, access()?, may_change)?);
                Provider { cloud, simulated: None }
            }
        })
    }
}
