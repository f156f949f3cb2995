//! `coracle replay` through its own door.

use crate::cluster::BINARY;
use serde_json::Value;
use std::process::{Command, Output};

fn replay(args: &[&str]) -> Output {
    Command::new(BINARY).arg("replay").args(args).output().unwrap()
}

#[test]
fn a_day_is_the_same_each_time_and_a_nodepool_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("day.svg");
    let small = ["--nodes", "5", "--hours", "2", "--output", "json"];
    let o = replay(&[&small[..], &["--svg", picture.to_str().unwrap()]].concat());
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    assert_eq!(o.stdout, replay(&small).stdout);
    let day: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(day["samples"].as_array().unwrap().len(), 12);
    assert!(day["usd"].as_f64().unwrap() >= day["boundUsd"].as_f64().unwrap());
    assert!(std::fs::read_to_string(&picture).unwrap().starts_with("<svg"));
    // On-demand machines only: nothing is taken back, and it costs more.
    let pool = dir.path().join("pool.yaml");
    std::fs::write(
        &pool,
        "
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: on-demand}
spec:
  template:
    spec:
      nodeClassRef: {group: coracle.dev, kind: SimulatedNodeClass, name: default}
      requirements:
      - {key: karpenter.sh/capacity-type, operator: In, values: [on-demand]}
      - {key: karpenter.k8s.aws/instance-family, operator: In, values: [m5, c5, r5]}
  disruption: {budgets: [{nodes: 10%}]}
",
    )
    .unwrap();
    let o = replay(&[&small[..], &["-f", pool.to_str().unwrap()]].concat());
    let dear: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert!(dear["usd"].as_f64() > day["usd"].as_f64());
    assert_eq!(dear["interrupted"], 0);
    for (args, words) in [
        (&["--nodes", "0"][..], "--nodes goes from 1 to 5000"),
        (&["-f", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (&["--cloud", "moon"], "unknown cloud \"moon\""),
    ] {
        let o = replay(args);
        assert!(String::from_utf8_lossy(&o.stderr).contains(words), "{o:?}");
    }
}
