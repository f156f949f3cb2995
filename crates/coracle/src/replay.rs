//! `coracle replay`: a day of a cluster in seconds, over the provisioner's own cores.

use crate::{Output, defaults};
use anyhow::{Context, Result, bail};
use coracle_clouds::{Settings as CloudSettings, Simulated};
use coracle_control::{karpenter::NodePool, provisioner::types};
use coracle_provisioning::Pool;
use coracle_replay::{Settings, picture, replay};
use coracle_scheduling::PodSpec;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

/// Options of `coracle replay`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seed of the day: its load, its spot market
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Nodes that the cluster has at its peak, about
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    nodes: usize,
    /// Hours to replay
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    hours: u64,
    /// A NodePool (YAML or JSON) to replay with, instead of the default one
    #[arg(long, short, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Where nodes are bought, as for `coracle up`: its seed decides prices
    #[arg(long, value_name = "CLOUD", default_value = "simulated")]
    cloud: String,
    /// Draw the day into a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Replays, and prints what came of it.
pub(crate) fn run(o: &Options) -> Result<()> {
    if !(1..=5000).contains(&o.nodes) || !(1..=168).contains(&o.hours) {
        bail!("--nodes goes from 1 to 5000, --hours from 1 to 168");
    }
    let started = Instant::now();
    let cloud: CloudSettings = o.cloud.parse().map_err(anyhow::Error::msg).context("--cloud")?;
    let cloud = Simulated::new(cloud);
    let node_pool = node_pool(o)?;
    let pool = Pool {
        name: node_pool.name.clone(),
        requirements: node_pool.requirements.clone(),
        labels: node_pool.labels.clone(),
        taints: node_pool.taints.clone(),
        room: BTreeMap::new(),
        types: Arc::new(types(&cloud.all(), &node_pool, &[], &[], |_, _, _| false)),
        min_values: node_pool.min_values.clone(),
        ..Pool::default()
    };
    if pool.types.is_empty() {
        bail!("no instance type of the cloud meets the requirements of NodePool {}", pool.name);
    }
    let settings = Settings {
        seed: o.seed,
        nodes: o.nodes,
        hours: o.hours,
        underutilized: node_pool.underutilized,
        budgets: node_pool.budgets.clone(),
        ..Settings::default()
    };
    let report = replay(&settings, &pool, daemons());
    if let Some(file) = &o.svg {
        std::fs::write(file, picture::svg(&report))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    match o.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => println!("{report}  replayed in {:.1} s", started.elapsed().as_secs_f64()),
    }
    Ok(())
}

fn node_pool(o: &Options) -> Result<NodePool> {
    let value: Value = match &o.filename {
        None => defaults::node_pool()[1].clone(),
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let all: Vec<Value> = serde_saphyr::from_multiple(&text)
                .with_context(|| format!("{} is no YAML or JSON", file.display()))?;
            let pool = all.into_iter().find(|v| v["kind"] == "NodePool");
            pool.with_context(|| format!("{} has no NodePool", file.display()))?
        }
    };
    let object: DynamicObject =
        serde_json::from_value(value).context("the NodePool cannot be read")?;
    Ok(NodePool::read(&object))
}

/// What every node of a usual cluster runs: a proxy and something that ships logs.
fn daemons() -> Vec<Arc<PodSpec>> {
    let daemon = |name: &str, cpu: &str, memory: &str| {
        let v = json!({"metadata": {"name": name, "namespace": "kube-system", "labels": {"app": name}},
            "spec": {"tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
        // What was just written reads.
        Arc::new(PodSpec::from_pod(&serde_json::from_value(v).unwrap_or_default()))
    };
    vec![daemon("proxy", "50m", "64Mi"), daemon("logs", "50m", "128Mi")]
}
