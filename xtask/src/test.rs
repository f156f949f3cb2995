//! `cargo xtask test`: sets up what the tests need, then runs everything.

use crate::{run as command, schemas};
use anyhow::{Result, bail};
use std::{path::Path, process::Command, time::Instant};

/// The clients that the black-box tests use, from PyPI and npm. (Version 2 of the latter needs a
/// newer node than distributions have.)
const PYTHON_CLIENTS: [&str; 2] = ["kubernetes==37.0.2", "kubernetes_asyncio==36.1.0"];
/// An emulator of the cloud's API.
const MOTO: &str = "moto[ec2,iam,server,sqs,ssm]==5.2.5";
const JAVASCRIPT_CLIENT: &str = "@kubernetes/client-node@1.4.0";

fn step(name: &str, f: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    println!("==> {name}");
    f()?;
    println!("    {name}: {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs everything. Nothing is skipped in silence: what cannot run fails.
pub(crate) fn run(root: &Path) -> Result<()> {
    step("set-up", || set_up(root))?;
    let cargo = |args: &[&str]| {
        let mut c = Command::new("cargo");
        c.args(args).current_dir(root);
        c
    };
    step("formatting", || command(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("lints", || {
        command(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("documents", || layers(root))?;
    step("schema pack", || schemas::check(root))?;
    step("tests", || command(&mut cargo(&["test", "--workspace"])))
}

/// kubectl and node from the PATH or from Debian; clients of other languages in `target/`.
fn set_up(root: &Path) -> Result<()> {
    let works = |program: &str, arg: &str| {
        Command::new(program).arg(arg).output().is_ok_and(|o| o.status.success())
    };
    for (program, arg, packages) in
        [("kubectl", "help", &["kubernetes-client"][..]), ("npm", "--version", &["nodejs", "npm"])]
    {
        if !works(program, arg) {
            println!("    installing Debian's {}", packages.join(" and "));
            let mut install = Command::new("apt-get");
            command(install.args(["install", "--yes", "--quiet"]).args(packages))?;
        }
    }
    let target = root.join("target");
    std::fs::create_dir_all(&target)?;
    for (name, packages) in [("python", &PYTHON_CLIENTS[..]), ("moto", &[MOTO])] {
        once(&target.join(name), &packages.join(" "), |python| {
            command(Command::new("python3").args(["-m", "venv"]).arg(python))?;
            let mut pip = Command::new(python.join("bin/pip"));
            command(pip.args(["install", "--quiet"]).args(packages))
        })?;
    }
    once(&target.join("javascript"), JAVASCRIPT_CLIENT, |directory| {
        std::fs::create_dir_all(directory)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]);
        command(npm.arg("--prefix").arg(directory).arg(JAVASCRIPT_CLIENT))
    })
}

/// Fills a directory, unless it has what is wanted.
fn once(directory: &Path, wanted: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mark = directory.join("installed");
    if std::fs::read_to_string(&mark).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    println!("    installing {wanted}");
    fill(directory)?;
    Ok(std::fs::write(mark, wanted)?)
}

/// The layers of ARCHITECTURE.md: a crate may depend on lower layers, and sideways where listed.
const LAYERS: [(&str, u8); 16] = [
    ("meta", 0),
    ("cel", 0),
    ("prose", 0),
    ("schema", 1),
    ("patch", 1),
    ("store", 1),
    ("registry", 1),
    ("scheduling", 2),
    ("provisioning", 2),
    ("workloads", 2),
    ("replay", 2),
    ("clouds", 3),
    ("ec2", 3),
    ("server", 3),
    ("control", 3),
    ("coracle", 4),
];
const SIDEWAYS: [(&str, &str); 12] = [
    ("cel", "meta"),
    ("patch", "schema"),
    ("registry", "schema"),
    ("registry", "patch"),
    ("registry", "store"),
    ("provisioning", "scheduling"),
    ("workloads", "scheduling"),
    ("replay", "scheduling"),
    ("replay", "provisioning"),
    ("control", "clouds"),
    ("ec2", "clouds"),
    ("clouds", "scheduling"),
];
/// What cores may not have.
const NOT_IN_CORES: [&str; 8] =
    ["tokio", "hyper", "kube", "tracing", "rustls", "fjall", "futures", "uuid"];

/// No arrow points up, and no core has IO.
fn layers(root: &Path) -> Result<()> {
    for (name, layer) in LAYERS {
        let text = std::fs::read_to_string(root.join("crates").join(name).join("Cargo.toml"))?;
        let own = text
            .split("[dependencies]")
            .nth(1)
            .unwrap_or_default()
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default();
        for line in own.lines() {
            let dependency = line.split('.').next().unwrap_or_default().trim();
            if let Some(other) = dependency.strip_prefix("coracle-") {
                let theirs = LAYERS.iter().find(|(n, _)| *n == other).map_or(9, |(_, l)| *l);
                if theirs > layer || (theirs == layer && !SIDEWAYS.contains(&(name, other))) {
                    bail!(
                        "crates/{name} may not depend on {other}: the arrow points up or sideways"
                    );
                }
            }
            let core = layer == 0 || layer == 2 || ["schema", "patch"].contains(&name);
            if core && NOT_IN_CORES.contains(&dependency) {
                bail!("crates/{name} is a core: it may not depend on {dependency}");
            }
        }
    }
    Ok(())
}
