//! The demonstration of examples/cost-demo, step by step, with its promises.

use crate::cluster::{Cluster, root};
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

fn usd(v: &Value) -> f64 {
    v["usdPerHour"].as_f64().unwrap()
}

/// Nothing is on its way: every node is ready, wanted and there, and `pods` run.
fn settled(c: &Cluster, pods: u64) -> Option<Value> {
    let v = c.nodes();
    let nodes = v["nodes"].as_array()?;
    let calm = nodes
        .iter()
        .all(|n| n["state"] == "Ready" && n["deleting"] == false && n["cordoned"] == false);
    (calm && v["pods"]["running"] == pods && v["pods"]["total"] == pods).then_some(v)
}

#[test]
fn cost_falls_and_no_budget_is_broken() {
    let c = Cluster::start(&["--no-default-nodepool", "--cloud", "simulated:speed=2"]);
    let file =
        |name: &str| root().join("examples/cost-demo").join(name).to_str().unwrap().to_owned();
    let mut started = Instant::now();
    let mut step = |name: &str, v: &Value| {
        println!(
            "{name}: {} nodes, ${:.3}/hour, ${:.2}/month, {:.1} s",
            v["nodes"].as_array().unwrap().len(),
            usd(v),
            v["usdPerMonth"].as_f64().unwrap(),
            started.elapsed().as_secs_f64()
        );
        started = Instant::now();
    };

    c.kubectl(&["apply", "-f", &file("1-one-type.yaml"), "-f", &file("1-workload.yaml")]);
    let v = c.eventually("fifty pods run", || settled(&c, 50));
    assert_eq!(v["nodes"].as_array().unwrap().len(), 5);
    assert!(v["nodes"].as_array().unwrap().iter().all(|n| n["instanceType"] == "c6a.8xlarge"));
    assert_eq!((usd(&v), v["usdPerMonth"].as_f64().unwrap()), (6.12, 4467.6));
    let first = usd(&v);
    step("1 five nodes of one type", &v);

    // From here on the budget is watched without a break.
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (stop, kubeconfig) = (stop.clone(), c.kubeconfig());
        move || watch_budget(&kubeconfig, &stop)
    });

    c.kubectl(&["scale", "deployment/shop", "--replicas=35"]);
    let v = c.eventually("thirty-five pods run", || settled(&c, 35));
    assert_eq!((v["nodes"].as_array().unwrap().len(), usd(&v)), (5, first));
    step("2 scaled to 70 %", &v);

    c.kubectl(&["apply", "-f", &file("3-catalogue.yaml")]);
    let v = c.eventually("consolidation saves 30 %", || {
        settled(&c, 35).filter(|v| usd(v) <= 0.70 * first + 1e-9)
    });
    step("3 the whole catalogue", &v);

    c.kubectl(&["apply", "-f", &file("4-spot.yaml")]);
    let v = c.eventually("spot saves 70 %", || settled(&c, 35).filter(|v| usd(v) <= 0.30 * first));
    step("4 spot", &v);

    let spot = v["nodes"].as_array().unwrap().iter().find(|n| n["capacityType"] == "Spot").unwrap()
        ["name"]
        .as_str()
        .unwrap()
        .to_owned();
    c.kubectl(&["annotate", "node", &spot, "coracle.dev/interrupt=true"]);
    let deadline = c.eventually("the notice is shown", || {
        let n = c.try_kubectl(&[
            "get",
            "node",
            &spot,
            "-o",
            "jsonpath={.metadata.annotations.coracle\\.dev/interruption-deadline}",
        ]);
        Some(String::from_utf8_lossy(&n.stdout).into_owned()).filter(|d| !d.is_empty())
    });
    let v = c.eventually("the pods run elsewhere", || {
        settled(&c, 35)
            .filter(|v| v["nodes"].as_array().unwrap().iter().all(|n| n["name"] != spot.as_str()))
    });
    let now: jiff::Timestamp = jiff::Timestamp::now();
    assert!(now < deadline.parse::<jiff::Timestamp>().unwrap(), "after the notice ended");
    step("5 an interruption", &v);

    stop.store(true, Ordering::Relaxed);
    let (looks, broken) = watcher.join().unwrap();
    println!("the budget was looked at {looks} times");
    assert!(looks > 10 && broken.is_empty(), "{broken:?}");
}

/// Looks at the pods themselves, not at what the budget's status says of them.
fn watch_budget(kubeconfig: &std::path::Path, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut looks, mut broken) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let out = std::process::Command::new("kubectl")
            .env("KUBECONFIG", kubeconfig)
            .args(["get", "deployment/shop", "-o", "json"])
            .output()
            .unwrap();
        let Ok(d) = serde_json::from_slice::<Value>(&out.stdout) else { continue };
        let (wanted, ready) = (
            d["spec"]["replicas"].as_i64().unwrap(),
            d["status"]["readyReplicas"].as_i64().unwrap_or(0),
        );
        // A tenth, rounded up as budgets round.
        let least = wanted - (wanted + 9) / 10;
        if ready < least {
            broken.push(format!("{ready} of {wanted} ready, {least} wanted"));
        }
        looks += 1;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    (looks, broken)
}
