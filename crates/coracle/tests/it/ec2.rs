//! `--cloud ec2`: EC2NodeClasses and the machines that come of them, against an emulator of the cloud's API
//! that fails as the real one does.

mod aws;
mod emulator;
mod kubelets;

use crate::cluster::Cluster;
use aws::{Aws, Faults, KEYS};
use coracle_testkit::random::Random;
use kubelets::Kubelets;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tempfile::TempDir;

const CLASS: &str = r#"
apiVersion: karpenter.k8s.aws/v1
kind: EC2NodeClass
metadata: {name: default}
spec:
  amiSelectorTerms: [{alias: al2023@latest}]
  role: nodes
  subnetSelectorTerms: [{tags: {karpenter.sh/discovery: test}}]
  securityGroupSelectorTerms: [{name: default}]
  tags: {team: a}
"#;

/// As Karpenter's documentation writes one.
fn pool(spec: &str) -> String {
    format!(
        r#"
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {{name: default}}
spec:
  template:
    spec:
      nodeClassRef: {{group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}}
      requirements:
      - {{key: kubernetes.io/arch, operator: In, values: [amd64]}}
      - {{key: karpenter.sh/capacity-type, operator: In, values: [on-demand, spot]}}
      - {{key: karpenter.k8s.aws/instance-category, operator: In, values: [c, m, r]}}
      - {{key: karpenter.k8s.aws/instance-generation, operator: Gt, values: ["4"]}}
{spec}
"#
    )
}

fn start(aws: &Aws, directory: TempDir, more: &str) -> Cluster {
    let cloud = format!(
        "ec2:cluster=test,region={},queue=notices,endpoint=http://127.0.0.1:{}{more}",
        aws::REGION,
        aws.port
    );
    Cluster::start_with(directory, &["--cloud", &cloud, "--log", "error"], &KEYS)
}

/// A condition of an object, as status and message.
fn condition(o: &Value, kind: &str) -> Option<(String, String)> {
    let all = o["status"]["conditions"].as_array()?;
    let c = all.iter().find(|c| c["type"] == kind)?;
    let text = |k: &str| c[k].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("message")))
}

fn is_true(o: &Value, kind: &str) -> bool {
    condition(o, kind).is_some_and(|c| c.0 == "True")
}

fn claims(c: &Cluster) -> Vec<Value> {
    c.json(&["get", "nodeclaims"])["items"].as_array().unwrap().clone()
}

fn deployment(replicas: usize, cpu: &str) -> String {
    let d = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}}}});
    d.to_string()
}

/// Claims when all of them are set up and all pods are on their nodes.
fn settled(c: &Cluster) -> Vec<Value> {
    c.eventually("all nodes are set up, and all pods are on them", || {
        let all = claims(c);
        let up = all.iter().all(|c| is_true(c, "Initialized"));
        let pods = c.json(&["get", "pods"]);
        let pods = pods["items"].as_array()?;
        let bound = pods.iter().all(|p| p["spec"]["nodeName"].is_string());
        (up && !all.is_empty() && !pods.is_empty() && bound).then_some(all)
    })
}

/// The manifests of Karpenter's getting started guide, unchanged, where machines are simulated.
#[test]
fn the_simulated_cloud_takes_the_same_manifests() {
    let args = ["--cloud", "simulated:speed=20,nodeclass=EC2NodeClass", "--in-memory"];
    let c = Cluster::start(&args);
    assert!(c.json(&["get", "nodepools"])["items"].as_array().unwrap().is_empty());
    c.apply(CLASS);
    c.apply(&pool("      expireAfter: 720h\n  limits: {cpu: 1000}\n  disruption: {consolidationPolicy: WhenEmptyOrUnderutilized, consolidateAfter: 1m}"));
    c.apply(&deployment(5, "1"));
    let all = settled(&c);
    assert!(all.iter().all(|c| c["spec"]["nodeClassRef"]["kind"] == "EC2NodeClass"));
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
}

#[test]
fn a_class_says_what_is_wrong_with_it() {
    let aws = Aws::start();
    let c = start(&aws, tempfile::tempdir().unwrap(), "");
    let refused = |yaml: &str, word: &str| {
        let file = c.directory.path().join("bad.yaml");
        std::fs::write(&file, yaml).unwrap();
        let said = c.kubectl_error(&["apply", "-f", file.to_str().unwrap()]);
        assert!(said.contains(word), "{said}");
    };
    refused(&CLASS.replace("role: nodes", "context: x"), "['role', 'instanceProfile']");
    refused(&CLASS.replace("al2023@latest", "al2023"), "family@version");
    refused(&CLASS.replace("[{name: default}]", "[{id: sg-1, name: default}]"), "'id' is mutually");
    refused(&CLASS.replace("team: a", "karpenter.sh/x: a"), "restricted tag");
    let says = |yaml: String, kind: &str, word: &str| {
        c.apply(&yaml);
        let said = c.eventually(&format!("{kind} is about {word}"), || {
            let o = c.json(&["get", "ec2nodeclass", "default"]);
            let ready = condition(&o, "Ready")?;
            assert!(o["metadata"]["finalizers"].is_array());
            let (status, message) = condition(&o, kind)?;
            (status == "False" && ready.0 == "False" && message.contains(word)).then_some(ready.1)
        });
        assert!(said.contains(kind), "{said}");
    };
    says(CLASS.replace("sh/discovery: test", "sh/discovery: none"), "SubnetsReady", "select none");
    says(CLASS.replace("role: nodes", "role: nobody"), "InstanceProfileReady", "nobody");
    says(
        CLASS.replace("al2023@latest", "windows2022@latest"),
        "ValidationSucceeded",
        "spec.amiFamily",
    );
    c.apply(&pool(""));
    c.apply(&deployment(1, "1"));
    c.eventually("the NodePool says that its class is not ready", || {
        let o = c.json(&["get", "nodepool", "default"]);
        condition(&o, "Ready")
            .filter(|(s, m)| s == "False" && m.contains("\"default\" is not ready"))
    });
    assert!(claims(&c).is_empty() && aws.running().is_empty());
    // Mended, all of it comes by itself; the list of prices is missing, and the built-in one stands in.
    aws.set_faults(Faults { no_prices: true, ..Faults::default() });
    c.apply(CLASS);
    let o = c.eventually("the class is ready", || {
        Some(c.json(&["get", "ec2nodeclass", "default"])).filter(|o| is_true(o, "Ready"))
    });
    let zones: BTreeSet<&str> = o["status"]["subnets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["zone"].as_str().unwrap())
        .collect();
    assert_eq!(zones.len(), 3);
    assert_eq!(o["status"]["amis"].as_array().unwrap().len(), 2, "{}", o["status"]["amis"]);
    c.eventually("a machine is bought", || (aws.running().len() == 1).then_some(()));
    // A class goes when no claim needs it, with what was made for it.
    assert_eq!(aws.ids("DescribeLaunchTemplates", "launchTemplateName").len(), 1);
    c.kubectl(&["delete", "ec2nodeclass", "default", "--wait=false"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        !c.json(&["get", "ec2nodeclass", "default"])["metadata"]["deletionTimestamp"].is_null()
    );
    c.kubectl(&["delete", "nodepool,deployment", "--all"]);
    c.eventually("the class is gone", || {
        c.json(&["get", "ec2nodeclass"])["items"].as_array()?.is_empty().then_some(())
    });
    assert!(aws.running().is_empty());
    assert!(aws.ids("DescribeLaunchTemplates", "launchTemplateName").is_empty());
    assert_eq!(aws.unsigned(), [] as [&str; 0]);
}

#[test]
fn machines_are_bought_moved_from_and_replaced() {
    let aws = Aws::start();
    let c = start(&aws, tempfile::tempdir().unwrap(), ",speed=20");
    let kubelets = Kubelets::start(&c);
    c.apply(CLASS);
    c.apply(&pool("      expireAfter: Never\n  disruption: {consolidateAfter: 0s, budgets: [{nodes: \"100%\"}]}"));
    c.apply(&deployment(1, "900m"));
    let bought = settled(&c);
    let claim = &bought[0];
    let label = |k: &str| claim["metadata"]["labels"][k].as_str().unwrap_or_default().to_owned();
    // The cheapest zone of the three is bought in, and the node has the cloud's name for it.
    assert_eq!(label("karpenter.sh/capacity-type"), "spot");
    let zones: BTreeSet<String> =
        aws.ids("DescribeSubnets", "availabilityZone").into_iter().take(3).collect();
    assert_eq!(Some(&label("topology.kubernetes.io/zone")), zones.last());
    let node = claim["status"]["nodeName"].as_str().unwrap();
    assert!(node.starts_with("ip-") && node.ends_with(".ec2.internal"), "{node}");
    let node = c.json(&["get", "node", node]);
    assert_eq!(node["metadata"]["labels"]["karpenter.sh/initialized"], "true");
    assert_eq!(
        node["metadata"]["labels"]["karpenter.k8s.aws/instance-cpu"],
        label("karpenter.k8s.aws/instance-cpu")
    );
    assert_eq!(claim["status"]["imageID"], aws.image("x86_64"));
    let tags = aws.call("ec2", "Action=DescribeInstances&Version=2016-11-15");
    for tag in
        ["karpenter.sh/nodeclaim", "karpenter.sh/nodepool", "kubernetes.io/cluster/test", "team"]
    {
        assert!(tags.contains(&format!("<key>{tag}</key>")), "{tag}");
    }
    // `explain` speaks of the cloud's own types.
    let kubeconfig = c.kubeconfig();
    let explained = |what: &[&str]| {
        let cloud = format!(
            "ec2:cluster=test,region={},endpoint=http://127.0.0.1:{}",
            aws::REGION,
            aws.port
        );
        let mut command = std::process::Command::new(crate::cluster::BINARY);
        command.args(["explain"]).args(what).args(["--output", "json", "--cloud", &cloud]);
        let out = command.arg("--kubeconfig").arg(&kubeconfig).envs(KEYS).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    assert!(explained(&["nodepool", "default"])["types"][0].as_u64().unwrap() > 500);
    assert!(
        explained(&["node", claim["status"]["nodeName"].as_str().unwrap()])["bought"]["reason"]
            .as_str()
            .unwrap()
            .contains("cheapest")
    );

    // It is taken back: another takes its place, of another offering.
    let id = claim["status"]["providerID"].as_str().unwrap();
    let offering = |c: &Value| {
        let l = &c["metadata"]["labels"];
        (l["node.kubernetes.io/instance-type"].clone(), l["topology.kubernetes.io/zone"].clone())
    };
    let old = (claim["metadata"]["name"].clone(), offering(claim));
    let short = id.rsplit('/').next().unwrap();
    aws.notify(
        "EC2 Spot Instance Interruption Warning",
        &json!({"instance-id": short, "instance-action": "terminate"}),
    );
    let claim = c.eventually("another machine has taken its place", || {
        let all = claims(&c);
        let [one] = &all[..] else { return None };
        (one["metadata"]["name"] != old.0 && is_true(one, "Initialized")).then(|| one.clone())
    });
    assert_ne!(offering(&claim), old.1);
    c.eventually("the old one is gone", || (aws.running().len() == 1).then_some(()));

    // A new image: the machine has drifted.
    let images = aws.call("ec2", "Action=DescribeImages&Version=2016-11-15&Owner.1=amazon&Filter.1.Name=architecture&Filter.1.Value.1=x86_64");
    let old = aws.image("x86_64");
    let xml = roxmltree::Document::parse(&images).unwrap();
    let ids =
        xml.descendants().filter(|n| n.tag_name().name() == "imageId").filter_map(|n| n.text());
    let new = ids.into_iter().find(|id| *id != old).unwrap().to_owned();
    aws.set_image("x86_64", &new);
    c.kubectl(&["annotate", "ec2nodeclass", "default", "x=y"]);
    c.kubectl(&[
        "patch",
        "ec2nodeclass",
        "default",
        "--type=merge",
        "-p",
        r#"{"spec":{"securityGroupSelectorTerms":[{"tags":{"none":"*"}},{"name":"default"}]}}"#,
    ]);
    c.eventually("it has the new image", || {
        let all = claims(&c);
        let [one] = &all[..] else { return None };
        (one["status"]["imageID"] == json!(new) && is_true(one, "Initialized")).then_some(())
    });

    // Somebody ends the machine behind our back: its claim and node go, another comes.
    let gone = claims(&c)[0].clone();
    let id = gone["status"]["providerID"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    aws.call("ec2", &format!("Action=TerminateInstances&Version=2016-11-15&InstanceId.1={id}"));
    c.eventually("a lost machine is replaced", || {
        let all = claims(&c);
        let [one] = &all[..] else { return None };
        let new = one["metadata"]["name"] != gone["metadata"]["name"];
        (new && is_true(one, "Initialized") && aws.running().len() == 1).then_some(())
    });
    // And a machine that nobody claims ends.
    let stray = "Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&ImageId=".to_owned()
        + &new
        + "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=eks:eks-cluster-name&TagSpecification.1.Tag.1.Value=test&TagSpecification.1.Tag.2.Key=karpenter.sh/nodepool&TagSpecification.1.Tag.2.Value=default";
    aws.call("ec2", &stray);
    assert_eq!(aws.running().len(), 2);
    c.eventually("a stray machine ends", || (aws.running().len() == 1).then_some(()));

    // No pods, no nodes, no machines.
    c.kubectl(&["delete", "deployment", "web"]);
    c.eventually("nothing is left", || {
        let nodes = c.json(&["get", "nodes"])["items"].as_array()?.len();
        (claims(&c).is_empty() && nodes == 0 && aws.running().is_empty()).then_some(())
    });
    drop(kubelets);
    assert_eq!(aws.unsigned(), [] as [&str; 0]);
}

#[test]
fn what_is_not_to_be_had_is_not_asked_for_again() {
    let aws = Aws::start();
    let c = start(&aws, tempfile::tempdir().unwrap(), "");
    let kubelets = Kubelets::start(&c);
    aws.set_faults(Faults {
        no_capacity: vec![("", "spot"), ("c6", ""), ("c7", "")],
        ..Faults::default()
    });
    c.apply(CLASS);
    c.apply(&pool("      expireAfter: Never"));
    c.apply(&deployment(3, "900m"));
    let all = settled(&c);
    for claim in &all {
        let labels = &claim["metadata"]["labels"];
        assert_eq!(labels["karpenter.sh/capacity-type"], "on-demand");
        let family = labels["karpenter.k8s.aws/instance-family"].as_str().unwrap();
        assert!(!family.starts_with("c6") && !family.starts_with("c7"), "{family}");
    }
    std::thread::sleep(Duration::from_secs(1));
    c.kubectl(&["scale", "deployment", "web", "--replicas=60"]);
    c.eventually("there is room for all", || {
        let pods = c.json(&["get", "pods"]);
        pods["items"].as_array()?.iter().all(|p| p["spec"]["nodeName"].is_string()).then_some(())
    });
    assert!(claims(&c).len() > all.len());
    assert_eq!(aws.asked("refused before"), 0);
    drop(kubelets);
}

/// Two hundred launches while the cloud throttles, loses answers and shows late what it did, and the process
/// is killed twenty times: afterwards there is a machine for each NodeClaim, and no other.
#[test]
fn crashes_neither_leak_nor_double_machines() {
    const ROUNDS: usize = 20;
    let aws = Aws::start();
    aws.set_faults(Faults {
        throttle_every: 13,
        lose_every: 7,
        invisible_for: Duration::from_secs(2),
        ..Faults::default()
    });
    let mut random = Random::new(4);
    let mut c = start(&aws, tempfile::tempdir().unwrap(), "");
    c.apply(CLASS);
    c.apply(&pool("  replicas: 0"));
    for round in 1..=ROUNDS {
        let replicas = format!("--replicas={}", 10 * round);
        c.kubectl(&["scale", "nodepool", "default", &replicas]);
        // Some are launched, some are being launched, some not: the kill comes at any moment.
        let before = aws.asked("CreateFleet");
        let some = 1 + random.below(8) as usize;
        c.eventually("launches begin", || {
            (aws.asked("CreateFleet") >= before + some).then_some(())
        });
        std::thread::sleep(Duration::from_millis(random.below(60)));
        c = start(&aws, c.kill(), "");
    }
    let ids = |all: &[Value]| -> BTreeSet<String> {
        all.iter().filter_map(|c| c["status"]["providerID"].as_str().map(str::to_owned)).collect()
    };
    let all = c.eventually("all claims have machines", || {
        let all = claims(&c);
        (all.len() == 10 * ROUNDS && all.iter().all(|c| is_true(c, "Launched"))).then_some(all)
    });
    assert_eq!(ids(&all).len(), 10 * ROUNDS);
    let differ = |all: &[Value]| -> Vec<String> {
        let running: BTreeSet<String> = aws.running().into_iter().collect();
        ids(all).symmetric_difference(&running).cloned().collect()
    };
    assert_eq!(differ(&all), [] as [&str; 0]);
    // And back, through the same faults.
    c.kubectl(&["scale", "nodepool", "default", "--replicas=3"]);
    c.eventually("most are gone", || {
        (claims(&c).len() == 3 && aws.running().len() == 3).then_some(())
    });
    assert_eq!(differ(&claims(&c)), [] as [&str; 0]);
    assert_eq!(aws.unsigned(), [] as [&str; 0]);
}
