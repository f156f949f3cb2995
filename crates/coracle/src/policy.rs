//! Options of the provisioner, shared by the commands that run it or ask it.

use coracle_control::provisioner;

/// How nodes are bought and given up where objects leave it open.
#[derive(clap::Args)]
pub(crate) struct Policy {
    /// Whether nodes are bought whose types are more alike than minValues of their NodePool asks
    #[arg(long, value_enum, default_value_t = MinValues::Strict)]
    min_values_policy: MinValues,
    /// Whether preferences of pods weigh when nodes are planned for them
    #[arg(long, value_enum, default_value_t = Preferences::Respect)]
    preference_policy: Preferences,
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

impl From<&Policy> for provisioner::Options {
    fn from(p: &Policy) -> Self {
        Self {
            relax_min_values: p.min_values_policy == MinValues::BestEffort,
            ignore_preferences: p.preference_policy == Preferences::Ignore,
            node_repair: p.node_repair,
        }
    }
}
