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
  bench provisioner [--draws FILE]... [--output json]
                    Karpenter's own benchmark, and a cluster with a real catalogue
  fuzz TARGET [SECONDS]
                    run a fuzz target (crates/fuzzing) with libFuzzer, for a minute unless told
                    otherwise; needs nightly and cargo-fuzz, which it installs
  history [WRITES]  prove that lists and watches tell one history, over so many writes of each engine
                    and of the API (a million unless told otherwise)
  schemas [--check] make the schema pack anew, or prove that it is what its sources give";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    match args[..] {
        ["test"] => test::run(&root),
        ["bench"] => bench::run(&root),
        ["bench", "provisioner", ref rest @ ..] => bench::provisioner(&root, rest),
        ["fuzz", target] => fuzz(&root, target, "60"),
        ["fuzz", target, seconds] => fuzz(&root, target, seconds),
        ["history"] => history(&root, "1000000"),
        ["history", writes] => history(&root, writes),
        ["schemas"] => schemas::generate(&root),
        ["schemas", "--check"] => schemas::check(&root),
        [] | ["help" | "--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown task {:?}\n\n{USAGE}", args.join(" ")),
    }
}

/// The tests of histories, longer than in the usual run.
fn history(root: &std::path::Path, writes: &str) -> Result<()> {
    writes.parse::<u64>().with_context(|| format!("{writes:?} is no number of writes"))?;
    for (package, test, filter) in
        [("coracle-store", "history", ""), ("coracle", "it", "history::")]
    {
        run(Command::new("cargo")
            .args(["test", "--profile", "profiling", "--package", package, "--test", test])
            .args(["--", "--nocapture", filter])
            .env("CORACLE_HISTORY_OPS", writes)
            .current_dir(root))?;
    }
    Ok(())
}

/// One target for some time, starting from its corpus; what it learns goes to `fuzz/target`.
fn fuzz(root: &std::path::Path, target: &str, seconds: &str) -> Result<()> {
    seconds.parse::<u32>().with_context(|| format!("{seconds:?} is no number of seconds"))?;
    let seeds = root.join("fuzz/corpus").join(target);
    if !seeds.is_dir() {
        bail!("there is no target {target}: see fuzz/corpus");
    }
    let learned = root.join("fuzz/target/corpus").join(target);
    std::fs::create_dir_all(&learned)?;
    let installed = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !installed.is_ok_and(|o| o.status.success()) {
        run(Command::new("cargo").args(["install", "--locked", "cargo-fuzz"]))?;
    }
    run(Command::new("cargo")
        .args(["+nightly", "fuzz", "run", "target"])
        .arg(learned)
        .arg(seeds)
        .args(["--", "-max_len=4096", "-timeout=5", "-rss_limit_mb=2048"])
        .arg(format!("-max_total_time={seconds}"))
        .env("CORACLE_FUZZ_TARGET", target)
        .current_dir(root))
}

/// Runs a command to its end and fails when it fails.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
