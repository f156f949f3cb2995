//! `cargo xtask bench provisioner [--draws FILE]... [--output json]`: Karpenter's own benchmark.
//!
//! One plan on a fresh snapshot, on one core, after one that warms up; beside it the lower bound of
//! the volume (of the plan itself, where prices follow no formula), what Karpenter's figures are
//! (measured on a core of the same kind, see the documentation), and what the independent checker
//! says of the plan, pod by pod.

mod catalogue;
mod consolidation;
mod draws;
mod workload;

use coracle_provisioning::{Place, Plan, Pool, checker::Checker, offering::HOSTNAME, pack::pack};
use coracle_scheduling::{PodSpec, Snapshot};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Instant};
use workload::Workload;

/// Pods that Karpenter plans in a second of processor time at 5,000 (the quiet run).
const KARPENTER_PODS_PER_CPU_SECOND: f64 = 320.0;
/// Where draws and the catalogue are, from the root of the checkout.
const DATA: &str = "../shared/data";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Err(error) = run(&args) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let (mut files, mut as_json) = (Vec::new(), false);
    let mut args = args.iter();
    while let Some(a) = args.next() {
        match (a.as_str(), args.next()) {
            ("--draws", Some(file)) => files.push(PathBuf::from(file)),
            ("--output", Some(form)) if form == "json" => as_json = true,
            ("--output", Some(form)) if form == "text" => {}
            (other, _) => return Err(format!("{other:?}: use --draws FILE, --output json|text")),
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(DATA);
    if files.is_empty() {
        files = [1000, 5000, 20_000]
            .map(|n| root.join(format!("karpenter-benchmark/diverse_pods_{n}.csv")))
            .into_iter()
            .filter(|f| f.exists())
            .collect();
        if files.is_empty() {
            eprintln!(
                "no draws in {}: only the preferences are run; --draws FILE has others",
                root.display()
            );
        }
    }
    let (mut all, pool) = (Vec::new(), workload::pool());
    for file in &files {
        all.push(race(&workload::diverse(file)?, &pool, &[]));
    }
    all.push(race(&workload::preferences(true), &pool, &[]));
    all.push(race(&workload::preferences(false), &pool, &[]));
    let types = root.join("ec2-us-east-1.csv");
    if types.exists() {
        let pool = catalogue::pool(&types)?;
        for count in [1000, 5000, 20_000] {
            all.push(race(&catalogue::pods(count), &pool, &catalogue::daemons()));
        }
    } else {
        eprintln!("no catalogue in {}: the second workload is not run", root.display());
    }
    let sizes = [(100, 10), (100, 100), (1000, 10), (1000, 100), (5000, 10), (5000, 100)];
    let searches: Vec<Value> = sizes.map(|(n, percent)| consolidation::race(n, percent)).into();
    if as_json {
        all.extend(searches);
        println!("{}", serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?);
    } else {
        print(&all);
        print_searches(&searches);
        all.extend(searches);
    }
    let broken = all.iter().any(|r| r["violations"].as_array().is_some_and(|v| !v.is_empty()));
    if broken { Err("the checker found rules that are broken".into()) } else { Ok(()) }
}

/// Processor time of this thread so far, in seconds.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Resident memory of this process at its highest, in MiB.
fn peak_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn race(w: &Workload, pool: &Pool, daemons: &[Value]) -> Value {
    let pools = [pool.clone()];
    let specs: Vec<Arc<PodSpec>> = daemons
        .iter()
        .map(|d| serde_json::from_value::<Pod>(d.clone()).expect("a pod"))
        .map(|d| Arc::new(PodSpec::from_pod(&d)))
        .collect();
    let _warm = pack(&mut Snapshot::default(), &w.pods, &pools, &specs);
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let plan = pack(&mut Snapshot::default(), &w.pods, &pools, &specs);
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let rate = w.pods.len() as f64 / cpu.max(1e-9);
    let violations = check(w, &plan, pool, daemons);
    let bound = w.volume_bound_usd_per_hour.unwrap_or(plan.lower_bound_usd_per_hour);
    json!({
        "workload": w.name,
        "pods": w.pods.len(),
        "types": pool.types.len(),
        "wallSeconds": wall,
        "cpuSeconds": cpu,
        "podsPerCPUSecond": rate,
        "timesKarpenter": rate / KARPENTER_PODS_PER_CPU_SECOND,
        "peakMiB": peak_mib(),
        "nodes": plan.new_nodes.len(),
        "unschedulable": plan.unschedulable.len(),
        "usdPerHour": plan.usd_per_hour,
        "boundUSDPerHour": bound,
        "boundBy": if w.volume_bound_usd_per_hour.is_some() { "volume" } else { "plan" },
        "aboveBound": plan.usd_per_hour / bound - 1.0,
        "planLowerBoundUSDPerHour": plan.lower_bound_usd_per_hour,
        "violations": violations,
    })
}

/// Launches the plan's nodes and binds its pods in its order.
fn check(w: &Workload, plan: &Plan, pool: &Pool, daemons: &[Value]) -> Vec<String> {
    let objects: HashMap<&str, &Value> =
        w.objects.iter().filter_map(|o| Some((o["metadata"]["name"].as_str()?, o))).collect();
    let node = |(i, n): (usize, &coracle_provisioning::NewNode)| {
        let ty = pool.types.iter().find(|t| t.name == n.types[0]).expect("a type of the pool");
        let mut labels = (*ty.labels).clone();
        labels.insert(HOSTNAME.into(), format!("n{i}"));
        labels.insert("topology.kubernetes.io/zone".into(), n.offering.zone.to_string());
        labels.insert("karpenter.sh/capacity-type".into(), n.offering.capacity_type.into());
        json!({"metadata": {"name": format!("n{i}"), "labels": labels}, "status": {"allocatable": ty.allocatable.to_list()}})
    };
    let mut checker = Checker::new(plan.new_nodes.iter().enumerate().map(node).collect(), &[]);
    for i in 0..plan.new_nodes.len() {
        daemons.iter().for_each(|d| checker.place(d.clone(), &format!("n{i}")));
    }
    let mut broken = Vec::new();
    let mut bound = 0;
    for (pod, place) in plan.bindings() {
        let (Some(object), Place::New(i)) = (objects.get(pod.name.as_str()), place) else {
            continue;
        };
        broken.extend(checker.bind((*object).clone(), &format!("n{i}")));
        bound += 1;
    }
    if bound + plan.unschedulable.len() != w.pods.len() {
        broken.push(format!("{bound} of {} pods are bound", w.pods.len()));
    }
    broken.truncate(20);
    broken
}

fn print_searches(all: &[Value]) {
    println!(
        "\n{:<29} {:>8} {:>7} {:>10} {:>10} {:>8} {:>7} {:>7} {:>7}  checker",
        "workload", "cpu ms", "pods", "$/h before", "after", "saved", "removed", "bought", "moved"
    );
    for r in all {
        let n = |k: &str| r[k].as_f64().unwrap_or(0.0);
        let verdict = match r["violations"].as_array() {
            Some(v) if !v.is_empty() => format!("{} rules broken: {}", v.len(), v[0]),
            _ => "ok".to_owned(),
        };
        println!(
            "{:<29} {:>8.0} {:>7} {:>10.2} {:>10.2} {:>7.1}% {:>7} {:>7} {:>7}  {verdict}",
            r["workload"].as_str().unwrap_or_default(),
            n("cpuSeconds") * 1000.0,
            n("pods"),
            n("usdPerHourBefore"),
            n("usdPerHourAfter"),
            100.0 * (1.0 - n("usdPerHourAfter") / n("usdPerHourBefore").max(1e-9)),
            n("nodesRemoved"),
            n("nodesBought"),
            n("podsMoved"),
        );
    }
}

fn print(all: &[Value]) {
    println!(
        "{:<27} {:>8} {:>9} {:>10} {:>6} {:>6} {:>10} {:>10} {:>7}  checker",
        "workload", "cpu ms", "pods/s", "x karp.", "nodes", "MiB", "$/h", "bound $/h", "above"
    );
    for r in all {
        let n = |k: &str| r[k].as_f64().unwrap_or(0.0);
        let verdict = match r["violations"].as_array() {
            Some(v) if !v.is_empty() => format!("{} rules broken: {}", v.len(), v[0]),
            _ if n("unschedulable") > 0.0 => format!("{} pods without a place", n("unschedulable")),
            _ => "ok".to_owned(),
        };
        println!(
            "{:<27} {:>8.1} {:>9.0} {:>10.0} {:>6} {:>6.0} {:>10.2} {:>10.2} {:>6.1}%  {verdict}",
            r["workload"].as_str().unwrap_or_default(),
            n("cpuSeconds") * 1000.0,
            n("podsPerCPUSecond"),
            n("timesKarpenter"),
            n("nodes"),
            n("peakMiB"),
            n("usdPerHour"),
            n("boundUSDPerHour"),
            n("aboveBound") * 100.0,
        );
    }
}
