//! `coracle explain`: what it says was decided, and is what happens.

use crate::cluster::{BINARY, Cluster};
use serde_json::{Value, json};
use std::process::{Command, Output};

fn deployment(name: &str, replicas: u32, cpu: &str) -> String {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}}}})
    .to_string()
}

fn ask(c: &Cluster, args: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("explain")
        .args(args)
        .arg("--kubeconfig")
        .arg(c.kubeconfig())
        .output()
        .unwrap()
}

fn explain(c: &Cluster, args: &[&str]) -> Value {
    let o = ask(c, &[args, &["--output", "json"]].concat());
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    serde_json::from_slice(&o.stdout).unwrap()
}

fn said(c: &Cluster, args: &[&str]) -> String {
    String::from_utf8(ask(c, args).stdout).unwrap()
}

#[test]
fn why_nodes_are_bought_and_stay_and_pods_wait() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    let patch = |p: Value| {
        c.kubectl(&["patch", "nodepool", "default", "--type=merge", "-p", &p.to_string()]);
    };
    c.apply(&deployment("web", 3, "1"));
    c.apply(&deployment("huge", 1, "900"));
    c.eventually("pods run", || (c.nodes()["pods"]["running"] == 3).then_some(()));
    let pods = c.json(&["get", "pods", "-l", "app=web"]);
    let (pod, node) = (
        pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned(),
        pods["items"][0]["spec"]["nodeName"].as_str().unwrap().to_owned(),
    );

    // Why it was bought: as the object says that the provisioner wrote.
    let facts = explain(&c, &["node", &node]);
    let decision = facts["bought"]["decision"].as_str().unwrap();
    let object = c.json(&["get", "decision", decision]);
    assert_eq!(object["spec"]["action"], "Provisioned");
    let own =
        object["spec"]["newNodes"].as_array().unwrap().iter().find(|n| n["name"] == node.as_str());
    assert_eq!(own.unwrap()["reason"], facts["bought"]["reason"]);
    assert_eq!(facts["instanceType"], own.unwrap()["instanceType"]);
    let dearer = facts["bought"]["alternatives"].as_array().unwrap();
    assert!(!dearer.is_empty());
    assert!(dearer.iter().all(|a| a["usdPerHour"].as_f64() >= own.unwrap()["usdPerHour"].as_f64()));
    let of_pod = explain(&c, &["pod", &pod]);
    assert_eq!((&of_pod["node"], &of_pod["bought"]), (&json!(node), &facts["bought"]));

    // Why it stays: each of these is the reason that the provisioner itself goes by.
    let stays = |c: &Cluster| explain(c, &["node", &node])["staysBecause"].to_string();
    c.eventually("it is the cheapest", || {
        stays(&c).contains("the cheapest other way costs").then_some(())
    });
    c.kubectl(&["annotate", "pod", &pod, "karpenter.sh/do-not-disrupt=true"]);
    c.eventually("a pod keeps it", || {
        stays(&c).contains(&format!("of pod default/{pod} asks to leave it")).then_some(())
    });
    c.kubectl(&["annotate", "pod", &pod, "karpenter.sh/do-not-disrupt-"]);
    c.apply(&json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}}).to_string());
    c.eventually("a budget keeps it", || {
        stays(&c).contains("PodDisruptionBudget web lets no more pods").then_some(())
    });
    c.kubectl(&["delete", "pdb", "web"]);
    patch(
        json!({"spec": {"disruption": {"budgets": [{"nodes": "0"}], "consolidateAfter": "Never"}}}),
    );
    c.eventually("the pool keeps it", || {
        let all = stays(&c);
        (all.contains("budgets of its NodePool")
            && all.contains("consolidateAfter of its NodePool is Never"))
        .then_some(())
    });

    // Why a pod waits, and what a pool may buy.
    let huge = c.json(&["get", "pods", "-l", "app=huge"])["items"][0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        explain(&c, &["pod", &huge])["waitsBecause"]
            .to_string()
            .contains("no instance type is large enough")
    );
    assert!(said(&c, &["pod", &huge]).contains("Why it waits:"));
    let of_pool = explain(&c, &["nodepool", "default"]);
    assert_eq!(of_pool["ready"], true);
    assert!(of_pool["excluded"].to_string().contains("kubernetes.io/arch"));
    assert!(of_pool["budgets"].as_array().unwrap().iter().all(|b| b["allowed"] == 0));
    assert!(said(&c, &["nodepool", "default"]).contains("Its last decisions:"));

    // A pod that nothing fits keeps no node alive.
    patch(
        json!({"spec": {"disruption": {"budgets": [{"nodes": "100%"}], "consolidateAfter": "0s"}}}),
    );
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    c.eventually("empty nodes go", || {
        c.kubectl(&["get", "nodeclaims", "-o", "name"]).is_empty().then_some(())
    });
    let actions = c.kubectl(&["get", "decisions", "-o", "jsonpath={.items[*].spec.action}"]);
    assert!(actions.contains("Empty"), "{actions}");
    for (args, words) in [
        (&["node", "none"][..], "there is no node \"none\""),
        (&["pod", "none"], "there is no pod \"none\" in namespace \"default\""),
        (&["nodepool", "none"], "there is no NodePool \"none\""),
    ] {
        let o = ask(&c, args);
        let error = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(!o.status.success() && error.contains(words), "{error}");
    }
}
