//! `cargo xtask bench`: figures of the whole process, from a release build, through its public
//! door, then the benchmarks of the cores. The client shares the machine with the server.

use crate::run as run_command;
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Starts that are measured.
const STARTS: usize = 10;

pub(crate) fn run(root: &Path) -> Result<()> {
    run_command(
        Command::new("cargo")
            .args(["build", "--release", "--package", "coracle", "--example", "load", "--bins"])
            .current_dir(root),
    )?;
    let binary = root.join("target/release/coracle");
    let base = root.join("target/bench");
    let _ = std::fs::remove_dir_all(&base);
    std::fs::create_dir_all(&base)?;
    start_times(&binary, &base)?;
    let cluster = Cluster::start(&binary, &base.join("idle"), &["--no-default-nodepool"])?;
    std::thread::sleep(Duration::from_secs(5));
    println!(
        "resident memory, one empty cluster, everything running: {:.1} MiB",
        cluster.resident_mib()?
    );
    let load = root.join("target/release/examples/load");
    let pid = cluster.0.id().to_string();
    run_command(Command::new(load).arg(base.join("idle/kubeconfig")).arg(pid))?;
    println!("resident memory after that: {:.1} MiB", cluster.resident_mib()?);
    drop(cluster);
    many_objects(&binary, &base, root)?;
    run_command(
        Command::new("cargo")
            .args(["bench", "--package", "coracle-store", "--package", "coracle-scheduling"])
            .args(["--package", "coracle-provisioning", "--package", "coracle-server"])
            .args(["--bench", "durable", "--bench", "chain", "--bench", "lists"])
            .args(["--bench", "schedule", "--bench", "pack"])
            .current_dir(root),
    )
}

/// The planner's race, with its own arguments. Files are named from where the task was started.
pub(crate) fn provisioner(root: &Path, args: &[&str]) -> Result<()> {
    let here = std::env::current_dir()?;
    let absolute = |pair: &[&str]| -> Vec<String> {
        let value = if pair[0] == "--draws" {
            pair.get(1).map(|f| here.join(f).display().to_string())
        } else {
            pair.get(1).map(|v| (*v).to_owned())
        };
        std::iter::once(pair[0].to_owned()).chain(value).collect()
    };
    let args: Vec<String> = args.chunks(2).flat_map(absolute).collect();
    run_command(
        Command::new("cargo")
            .args([
                "bench",
                "--quiet",
                "--package",
                "coracle-provisioning",
                "--bench",
                "race",
                "--",
            ])
            .args(args)
            .current_dir(root),
    )
}

/// Memory of 10,000 pods, and a start with 100,000 objects on the disk.
fn many_objects(binary: &Path, base: &Path, root: &Path) -> Result<()> {
    let load = root.join("target/release/examples/load");
    let fill = |dir: &Path, what: &str, count: &str| -> Result<()> {
        run_command(Command::new(&load).args(["fill", what, count]).arg(dir.join("kubeconfig")))
    };
    let dir = base.join("pods");
    let cluster = Cluster::start(binary, &dir, &["--no-default-nodepool"])?;
    std::thread::sleep(Duration::from_secs(2));
    let empty = cluster.resident_mib()?;
    fill(&dir, "pods", "10000")?;
    // History is kept for a while; it goes when the server compacts, which is every five minutes.
    let full = cluster.resident_mib()?;
    println!("resident memory of 10,000 pods: {:.1} MiB more than empty", full - empty);
    drop(cluster);
    let cluster = Cluster::start(binary, &dir, &["--no-default-nodepool"])?;
    std::thread::sleep(Duration::from_secs(2));
    println!("the same after a restart: {:.1} MiB more", cluster.resident_mib()? - empty);
    drop(cluster);
    let dir = base.join("many");
    let cluster = Cluster::start(binary, &dir, &["--no-default-nodepool"])?;
    fill(&dir, "configmaps", "100000")?;
    drop(cluster);
    let started = Instant::now();
    let cluster = Cluster::start(binary, &dir, &["--no-default-nodepool"])?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    println!("start to ready with 100,000 objects of 2 KiB on the disk: {took:.0} ms");
    println!("resident memory then: {:.1} MiB", cluster.resident_mib()?);
    Ok(())
}

fn start_times(binary: &Path, base: &Path) -> Result<()> {
    let mut first = Vec::new();
    let mut again = Vec::new();
    for i in 0..STARTS {
        let dir = base.join(format!("start-{i}"));
        for list in [&mut first, &mut again] {
            let started = Instant::now();
            let _cluster = Cluster::start(binary, &dir, &[])?;
            list.push(started.elapsed().as_secs_f64() * 1000.0);
        }
    }
    for (name, mut list) in [("new", first), ("existing", again)] {
        list.sort_by(f64::total_cmp);
        println!(
            "start to ready, {name} cluster: median {:.0} ms, worst {:.0} ms of {STARTS}",
            list[STARTS / 2],
            list[STARTS - 1]
        );
    }
    Ok(())
}

struct Cluster(Child);

impl Cluster {
    fn start(binary: &Path, dir: &Path, args: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary)
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the cluster")?;
        let out = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if !line.starts_with("ready:") {
            bail!("the cluster did not become ready: {line}");
        }
        Ok(Self(child))
    }

    fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
