//! `coracle plan`: what it says is what happens, and asking changes nothing.

use crate::cluster::{BINARY, Cluster};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Output, Stdio},
};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 40
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers: [{name: c, image: i, resources: {requests: {cpu: 500m, memory: 1Gi}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec: {containers: [{name: c, image: i, resources: {requests: {cpu: '5000'}}}]}
";

fn plan(c: &Cluster, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(["plan", "--kubeconfig"])
        .arg(c.kubeconfig())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn json(o: &Output) -> Value {
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    serde_json::from_slice(&o.stdout).unwrap()
}

/// How many nodes of each type, zone and capacity type.
fn count(
    keys: impl Iterator<Item = (String, String, String)>,
) -> BTreeMap<(String, String, String), usize> {
    let mut all = BTreeMap::new();
    keys.for_each(|k| *all.entry(k).or_default() += 1);
    all
}

#[test]
fn what_the_plan_says_is_what_happens() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    let planned = json(&plan(&c, &["-f", "-", "--output", "json"], WEB));
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let status = &planned["status"];
    let nodes = status["nodes"].as_array().unwrap();
    assert!(!nodes.is_empty() && status["unschedulable"]["default/huge"].is_string(), "{planned}");
    assert!(
        status["lowerBoundUSDPerHour"].as_f64().unwrap()
            <= status["usdPerHourMore"].as_f64().unwrap()
    );
    // Nothing was bought for the asking.
    assert_eq!(c.kubectl(&["get", "nodeclaims,pods", "-o", "name"]), "");

    // All pods wait before anything can be bought, as in the plan; and nothing is moved afterwards.
    let pool = c.json(&["get", "nodepool", "default"]);
    c.kubectl(&["delete", "nodepool", "default"]);
    c.apply(WEB);
    c.eventually("all pods wait", || {
        let pods =
            c.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.conditions[*].reason}"]);
        (pods.matches("Unschedulable").count() == 41).then_some(())
    });
    let mut spec = pool["spec"].clone();
    spec["disruption"]["consolidateAfter"] = "Never".into();
    let (api, kind) = (&pool["apiVersion"], &pool["kind"]);
    c.apply(&serde_json::json!({"apiVersion": api, "kind": kind, "metadata": {"name": "default"}, "spec": spec}).to_string());
    c.eventually("pods run", || (c.nodes()["pods"]["running"] == 40).then_some(()));
    let claims = c.json(&["get", "nodeclaims"]);
    let label = |o: &Value, k: &str| text(&o["metadata"]["labels"][k]);
    let bought = count(claims["items"].as_array().unwrap().iter().map(|o| {
        (
            label(o, "node.kubernetes.io/instance-type"),
            label(o, "topology.kubernetes.io/zone"),
            label(o, "karpenter.sh/capacity-type"),
        )
    }));
    let said = count(
        nodes
            .iter()
            .map(|n| (text(&n["instanceTypes"][0]), text(&n["zone"]), text(&n["capacityType"]))),
    );
    assert_eq!(said, bought);

    // The pod that waits is in the next plan; more replicas are only those that are not there yet.
    let more = json(&plan(&c, &["--scale", "deployment/web=43", "-o", "json"], ""));
    assert_eq!(
        (&more["spec"]["pods"], &more["spec"]["waiting"][0]),
        (&3.into(), &"default/huge".into())
    );
    assert!(more["status"]["usdPerHourNow"].as_f64().unwrap() > 0.1, "{more}");
    let shown = plan(&c, &["--scale", "deployment/web=43"], "");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("3 pods of Deployment default/web")
            && shown.contains("Nothing was changed."),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_planned_is_said() {
    let c = Cluster::start(&["--in-memory"]);
    for (args, stdin, words) in [
        (&["--scale", "web=3"][..], "", "say KIND/NAME=REPLICAS"),
        (&["--scale", "deployment/none=3"], "", "deployments.apps \"none\" not found"),
        (&["--scale", "job/x=3"], "", "no deployment, replicaset or statefulset"),
        (&["-f", "-"], "kind: [", "is no YAML or JSON"),
        (&["-f", "/nowhere.yaml"], "", "cannot read /nowhere.yaml"),
        (
            &["-f", "-"],
            "{kind: Pod, metadata: {name: p}, spec: {containers: 5}}",
            "pod \"p\" of the manifests",
        ),
        (&["--cloud", "moon"], "", "unknown cloud \"moon\""),
    ] {
        let o = plan(&c, args, stdin);
        let said = String::from_utf8_lossy(&o.stderr);
        assert!(!o.status.success() && said.contains(words), "{args:?}: {said}");
    }
    let c = Cluster::start(&["--in-memory", "--no-default-nodepool"]);
    let o = plan(&c, &[], "");
    assert!(String::from_utf8_lossy(&o.stderr).contains("has no NodePool"), "{o:?}");
}

#[test]
fn a_changed_nodepool_is_planned_as_it_would_be() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    c.apply(&WEB.replace("5000", "1"));
    c.eventually("pods run", || (c.nodes()["pods"]["running"] == 41).then_some(()));
    let mut pool = c.json(&["get", "nodepool", "default"]);
    let now = c.kubectl(&["get", "nodeclaims", "-o", "name"]);
    // The same pool replaces nothing, whatever the server has added to it.
    let same = json(&plan(&c, &["-f", "-", "-o", "json"], &pool.to_string()));
    assert_eq!(same["status"]["drift"]["nodes"], serde_json::json!({}), "{same}");
    let requirements = pool["spec"]["template"]["spec"]["requirements"].as_array_mut().unwrap();
    requirements.retain(|r| r["key"] != "karpenter.sh/capacity-type");
    requirements.push(serde_json::json!({"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}));
    let text = pool.to_string();
    let planned = json(&plan(&c, &["-f", "-", "-o", "json"], &text));
    let drift = &planned["status"]["drift"];
    let (spot, paid) =
        (drift["usdPerHour"].as_f64().unwrap(), drift["usdPerHourInstead"].as_f64().unwrap());
    assert_eq!(drift["nodes"].as_object().unwrap().len(), now.lines().count(), "{drift}");
    assert!(
        drift["nodes"].as_object().unwrap().values().all(|w| w == "RequirementsDrifted")
            && paid > spot,
        "{drift}"
    );
    let shown = plan(&c, &["-f", "-"], &text);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("In place of $") && shown.contains("Nothing was changed."), "{shown}");
    assert_eq!(c.kubectl(&["get", "nodeclaims", "-o", "name"]), now);
}
