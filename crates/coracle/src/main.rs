//! The `coracle` binary: command line and wiring, the only crate that knows all parts.
//!
//! `up` (in [`up`]) puts a cluster together, [`nodes`] is the viewer, [`plan`] asks what-if, [`explain`]
//! asks why, the rest is small. Policy
//! lives in the crates below; this one only passes arguments down and errors up.

mod attach;
mod client;
mod cloud;
mod defaults;
mod envtest;
mod explain;
mod kubeconfig;
mod metrics;
mod nodes;
mod plan;
mod policy;
mod replay;
mod up;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, process::ExitCode};

/// Kubernetes virtually anywhere, for everyone: control plane, scheduler, node provisioner and a
/// simulated cloud in one process.
#[derive(Parser)]
#[command(name = "coracle", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster and run it until Ctrl-C
    Up(up::Options),
    /// Run the provisioner beside any Kubernetes, through its API alone
    Attach(attach::Options),
    /// Show nodes, how full they are and what they cost
    Nodes(nodes::Options),
    /// Say what would be bought, and what it would cost, before it happens
    Plan(plan::Options),
    /// Say why a node, pod or NodePool is as it is: why it was bought, why it stays, why it waits
    Explain(explain::Options),
    /// Replay a day of a large cluster in seconds: what it costs, how long pods wait
    Replay(replay::Options),
    /// Print the administrator's kubeconfig
    Kubeconfig {
        /// Data directory of the cluster
        #[arg(long, value_name = "DIR", default_value = up::DATA_DIR)]
        data_dir: PathBuf,
    },
    /// Lay out kube-apiserver and etcd for controller-runtime's envtest (KUBEBUILDER_ASSETS)
    EnvtestAssets {
        /// The directory to fill
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the version of this program and the Kubernetes versions it serves
    Version {
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For eyes
    Text,
    /// For programs
    Json,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let name = args.first().map(std::path::Path::new).and_then(|p| p.file_name());
    let name = name.and_then(|n| n.to_str()).unwrap_or_default();
    let outcome = match envtest::run_as(name, args.get(1..).unwrap_or_default()) {
        Some(outcome) => outcome,
        None => run(Cli::parse().command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", chain(&e));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, as one sentence. Causes that the message holds already are left out.
fn chain(e: &anyhow::Error) -> String {
    let mut text = e.to_string();
    for cause in e.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up::run(options),
        Command::Attach(options) => attach::run(&options),
        Command::EnvtestAssets { dir } => envtest::assets(&dir),
        Command::Nodes(options) => nodes::run(&options),
        Command::Plan(options) => plan::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Kubeconfig { data_dir } => kubeconfig::print(&data_dir),
        Command::Version { output } => {
            version(output);
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn version(output: Output) {
    let minors: Vec<String> = coracle_schema::Minor::ALL.iter().map(ToString::to_string).collect();
    match output {
        Output::Text => {
            println!("coracle {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), minors.join(", "))
        }
        Output::Json => println!(
            "{}",
            serde_json::json!({"version": env!("CARGO_PKG_VERSION"), "kubernetesVersions": minors})
        ),
    }
}
