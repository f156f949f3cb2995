//! The project's tasks. `cargo xtask` lists them.

mod bench;
mod schemas;
mod tags;
mod test;

use anyhow::{Context, Result, bail};
use std::{path::PathBuf, process::Command};

const USAGE: &str = "cargo xtask TASK

  test              everything that must be green: formatting, lints, unit, property and black-box
                    tests; installs what it needs (see CONTRIBUTING.md)
  bench             build for release and measure the whole process (docs/performance.md)
  schemas [--check] make the schema pack anew, or prove that it is what its sources give";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    match args[..] {
        ["test"] => test::run(&root),
        ["bench"] => bench::run(&root),
        ["schemas"] => schemas::generate(&root),
        ["schemas", "--check"] => schemas::check(&root),
        [] | ["help" | "--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown task {:?}\n\n{USAGE}", args.join(" ")),
    }
}

/// Runs a command to its end and fails when it fails.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
