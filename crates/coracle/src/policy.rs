//! Options of the provisioner, shared by the commands that run it or ask it.

use crate::{client, cloud::Cloud};
use anyhow::Result;
use coracle_control::provisioner::{self, Reader};
use coracle_ec2::Access;
use kube::Client;
use std::path::PathBuf;

/// How nodes are planned where objects leave it open.
#[derive(clap::Args)]
pub(crate) struct Planning {
    /// Whether nodes are bought whose types are more alike than minValues of their NodePool asks
    #[arg(long, value_enum, default_value_t = MinValues::Strict)]
    min_values_policy: MinValues,
    /// Whether preferences of pods weigh when nodes are planned for them
    #[arg(long, value_enum, default_value_t = Preferences::Respect)]
    preference_policy: Preferences,
}

/// How nodes are bought and given up where objects leave it open.
#[derive(clap::Args)]
pub(crate) struct Policy {
    #[command(flatten)]
    planning: Planning,
    /// Replace nodes that stay unhealthy for half an hour
    #[arg(long)]
    node_repair: bool,
}

/// How `minValues` is taken.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum MinValues {
    /// As a rule
    #[value(name = "Strict", alias = "strict")]
    Strict,
    /// As a wish: claims that miss it say so
    #[value(name = "BestEffort", alias = "best-effort")]
    BestEffort,
}

/// How preferences are taken.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Preferences {
    /// As the scheduler takes them
    #[value(name = "Respect", alias = "respect")]
    Respect,
    /// Not at all: the cheapest nodes
    #[value(name = "Ignore", alias = "ignore")]
    Ignore,
}

impl From<&Planning> for provisioner::Options {
    fn from(p: &Planning) -> Self {
        Self {
            relax_min_values: p.min_values_policy == MinValues::BestEffort,
            ignore_preferences: p.preference_policy == Preferences::Ignore,
            node_repair: false,
        }
    }
}

impl From<&Policy> for provisioner::Options {
    fn from(p: &Policy) -> Self {
        Self { node_repair: p.node_repair, ..(&p.planning).into() }
    }
}

/// A cluster that is asked about, and not changed.
#[derive(clap::Args)]
pub(crate) struct Asked {
    /// Kubeconfig file; without it $KUBECONFIG, then ./.coracle/kubeconfig, then ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where nodes are bought: as `coracle up` was told
    #[arg(long, value_name = "CLOUD", default_value = "simulated")]
    cloud: String,
    #[command(flatten)]
    planning: Planning,
}

impl Asked {
    /// A client of the cluster.
    pub(crate) async fn client(&self) -> Result<Client> {
        client::connect(self.kubeconfig.as_deref()).await
    }

    /// The provisioner's view of the cluster.
    pub(crate) async fn reader(&self, client: &Client) -> Result<Reader> {
        let version = client.apiserver_version().await?;
        // Of what machines would be told, only the version decides what there is to choose from.
        let minor = format!("{}.{}", version.major, version.minor.trim_end_matches('+'));
        let access = || Ok(Access { minor, ..Access::default() });
        let cloud = Cloud::read(&self.cloud)?.open(access, false)?.cloud;
        Ok(Reader::open(client, &cloud, (&self.planning).into()).await?)
    }
}
