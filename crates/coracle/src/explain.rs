//! `coracle explain`: why a node was bought and stays, why a pod is where it is or waits, what a
//! NodePool may buy and did. It reads the cluster and writes nothing.

mod render;

use crate::{Output, client, policy::Asked};
use anyhow::{Result, bail};
use serde_json::json;

/// Options of `coracle explain`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to explain
    #[arg(value_enum)]
    kind: Kind,
    /// Its name
    name: String,
    /// Namespace of the pod
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    asked: Asked,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A node, by its name or that of its NodeClaim
    #[value(alias = "nodeclaim", alias = "nodes", alias = "no")]
    Node,
    /// A pod
    #[value(alias = "pods", alias = "po")]
    Pod,
    /// A NodePool
    #[value(alias = "nodepools")]
    Nodepool,
}

/// Explains, and prints it.
pub(crate) fn run(o: &Options) -> Result<()> {
    client::block_on(explain(o))
}

async fn explain(o: &Options) -> Result<()> {
    let reader = o.asked.reader(&o.asked.client().await?).await?;
    let (object, text) = match o.kind {
        Kind::Node => {
            let Some(f) = reader.explain_node(&o.name).await? else {
                bail!("there is no node {:?}", o.name)
            };
            (json!(f), render::node(&f))
        }
        Kind::Pod => {
            let Some(f) = reader.explain_pod(&o.namespace, &o.name).await? else {
                bail!("there is no pod {:?} in namespace {:?}", o.name, o.namespace)
            };
            (json!(f), render::pod(&f))
        }
        Kind::Nodepool => {
            let Some(f) = reader.explain_nodepool(&o.name).await? else {
                bail!("there is no NodePool {:?}", o.name)
            };
            (json!(f), render::pool(&f))
        }
    };
    reader.close().await;
    match o.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&object)?),
        Output::Text => print!("{text}"),
    }
    Ok(())
}
