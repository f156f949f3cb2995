//! Faults of the simulated cloud, and what the provisioner does about them.

use crate::cluster::Cluster;
use serde_json::{Value, json};

fn pause(name: &str, replicas: u32, extra: &str) -> String {
    format!("
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{{extra} terminationGracePeriodSeconds: 0, containers: [{{name: c, image: i, resources: {{requests: {{cpu: '1', memory: 1Gi}}}}}}]}}}}
")
}

fn faults(c: &Cluster, faults: Value) {
    c.kubectl(&[
        "patch",
        "simulatednodeclass",
        "default",
        "--type=merge",
        "-p",
        &json!({"spec": {"faults": faults}}).to_string(),
    ]);
}

fn runs(c: &Cluster, n: u64) -> Option<Value> {
    let v = c.nodes();
    (v["pods"]["running"] == n && v["pods"]["total"] == n).then_some(v)
}

#[test]
fn without_spot_capacity_it_buys_on_demand_and_goes_back() {
    let c = Cluster::start(&["--cloud", "simulated:speed=60", "--in-memory"]);
    faults(&c, json!([{"type": "NoCapacity", "capacityType": "spot"}]));
    c.apply(&pause("web", 3, ""));
    let v = c.eventually("pods run", || runs(&c, 3));
    assert!(v["nodes"].as_array().unwrap().iter().all(|n| n["capacityType"] == "On-Demand"), "{v}");
    let dear = v["usdPerHour"].as_f64().unwrap();
    // Spot would be worth a move and is tried again each three minutes (three seconds here): as long as it
    // cannot be had, no pod moves for the trying.
    let on = || {
        c.kubectl(&[
            "get",
            "pods",
            "-o",
            "jsonpath={.items[*].metadata.name} {.items[*].spec.nodeName}",
        ])
    };
    let before = on();
    std::thread::sleep(std::time::Duration::from_secs(8));
    assert_eq!(on(), before);
    faults(&c, json!([]));
    // Refused offerings are asked for again after three minutes of the cloud's time.
    c.eventually("spot is back", || {
        runs(&c, 3).filter(|v| v["usdPerHour"].as_f64().unwrap() < dear * 0.6)
    });
}

#[test]
fn a_node_that_never_registers_is_replaced() {
    let c = Cluster::start(&["--cloud", "simulated:speed=200", "--in-memory"]);
    faults(&c, json!([{"type": "NeverRegisters"}]));
    c.apply(&pause("web", 1, ""));
    let lost = c.eventually("a claim is there", || {
        let v = c.json(&["get", "nodeclaims"]);
        v["items"][0]["status"]["providerID"]
            .as_str()
            .map(|_| v["items"][0]["metadata"]["name"].as_str().unwrap().to_owned())
    });
    faults(&c, json!([]));
    c.eventually("the pod runs elsewhere", || runs(&c, 1));
    assert!(!c.kubectl(&["get", "nodeclaims", "-o", "name"]).contains(&lost));
}

#[test]
fn what_nothing_can_satisfy_is_said() {
    let c = Cluster::start(&["--in-memory"]);
    c.apply(
        "
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: impossible}
spec:
  template:
    spec:
      nodeClassRef: {group: coracle.dev, kind: SimulatedNodeClass, name: default}
      requirements: [{key: node.kubernetes.io/instance-type, operator: In, values: [none.such]}]
",
    );
    c.eventually("the pool says so", || {
        let text = c.kubectl(&[
            "get",
            "nodepool",
            "impossible",
            "-o",
            "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}",
        ]);
        text.contains("no instance type of the cloud meets the requirements").then_some(())
    });
    c.apply(&pause("huge", 1, "nodeSelector: {karpenter.sh/nodepool: impossible},"));
    c.eventually("the pod's event says so", || {
        c.kubectl(&["get", "events"])
            .contains("NodePool impossible: no instance type meets its requirements")
            .then_some(())
    });
    c.eventually("the scheduler says so", || {
        c.kubectl(&["describe", "pods"])
            .contains("0/0 nodes are available: no nodes available to schedule pods.")
            .then_some(())
    });
}

#[test]
fn nodes_that_nobody_needs_go_and_a_quiet_cluster_stays_still() {
    let c = Cluster::start(&["--cloud", "simulated:speed=4"]);
    c.apply(&pause("web", 6, ""));
    c.eventually("pods run", || runs(&c, 6));
    c.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    c.eventually("one node is enough", || {
        runs(&c, 1).filter(|v| v["nodes"].as_array().unwrap().len() == 1)
    });
    // It may move on to a better one; then it stays.
    let claims = || c.kubectl(&["get", "nodeclaims", "-o", "name"]);
    let before = c.eventually("the cluster is still", || {
        let before = claims();
        std::thread::sleep(std::time::Duration::from_secs(5));
        (claims() == before && before.lines().count() == 1).then_some(before)
    });
    // The machines outlive the process that bought them.
    let (dir, _) = c.stop();
    let c = Cluster::start_in(dir, &["--cloud", "simulated:speed=4"]);
    assert_eq!(c.kubectl(&["get", "nodeclaims", "-o", "name"]), before);
    c.eventually("the pod still runs", || runs(&c, 1));
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    c.eventually("nothing is left", || {
        c.kubectl(&["get", "nodes,nodeclaims", "-o", "name"]).is_empty().then_some(())
    });
}

#[test]
fn a_disruption_that_a_restart_forgot_is_undone() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    c.apply(&pause("web", 1, ""));
    let v = c.eventually("the pod runs", || runs(&c, 1));
    let node = v["nodes"][0]["name"].as_str().unwrap().to_owned();
    // What a command leaves behind when its process ends before it.
    c.kubectl(&["taint", "node", &node, "karpenter.sh/disrupted:NoSchedule"]);
    c.eventually("the taint is gone", || {
        let taints = c.kubectl(&["get", "node", &node, "-o", "jsonpath={.spec.taints}"]);
        (!taints.contains("disrupted")).then_some(())
    });
    assert_eq!(runs(&c, 1).expect("the pod still runs")["nodes"][0]["name"], node.as_str());
}

/// Without that they would count as lost after 40 seconds.
#[test]
fn nodes_renew_their_leases() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    c.apply(&pause("web", 1, ""));
    let lease = || {
        let all = c.json(&["get", "leases", "-n", "kube-node-lease"]);
        all["items"][0]["spec"]["renewTime"].as_str().map(str::to_owned)
    };
    let first = c.eventually("a lease is there", lease);
    c.eventually("it is renewed", || lease().filter(|t| *t > first));
}
