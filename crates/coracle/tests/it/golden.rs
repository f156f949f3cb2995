//! What kubectl prints of one object of each kind: held against files that a person has read.
//! `UPDATE_GOLDEN=1` writes them anew; the difference is for review.
//!
//! Tables come from the server and are compared with any kubectl. `describe` and `explain` are
//! worded by kubectl, so their files name the minor that printed them; with another one the test
//! says so and compares tables only.

use crate::cluster::{Cluster, root};
use std::path::PathBuf;

/// The minor of the kubectl whose words the files of `describe` and `explain` hold.
const KUBECTL_MINOR: u32 = 32;

fn file(name: &str) -> PathBuf {
    root().join("crates/coracle/tests/golden").join(name)
}

/// Replaces what differs from run to run, and runs of spaces, which depend on it.
struct Mask(Vec<(String, &'static str)>);

impl Mask {
    /// A word, at whose punctuation parts begin and end.
    fn word(&self, word: &str) -> String {
        let mut out = word.to_owned();
        for (secret, name) in &self.0 {
            out = out.replace(secret.as_str(), name);
        }
        let ends = |c: char| "(),/".contains(c);
        out.split_inclusive(ends)
            .map(|part| {
                let bare = part.trim_end_matches(ends);
                part.replacen(bare, &Self::part(bare), 1)
            })
            .collect()
    }

    fn part(s: &str) -> String {
        let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let is_ip = s.split('.').count() == 4 && s.split('.').all(|p| p.parse::<u8>().is_ok());
        let is_uid = s.len() == 36 && s.bytes().filter(|b| *b == b'-').count() == 4;
        // Names that the server or a controller completed end in five letters of its alphabet.
        let is_suffix = |s: &str| {
            s.len() == 5 && s.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
        };
        match s.rsplit_once('-') {
            _ if s.strip_suffix('s').is_some_and(number) => "AGE".into(),
            _ if is_ip => "IP".into(),
            _ if is_uid => "UID".into(),
            _ if s.len() == 20 && s.ends_with('Z') && s.as_bytes()[10] == b'T' => "TIME".into(),
            Some((head, tail)) if is_suffix(tail) || head == "kube-api-access" => {
                format!("{head}-XXXXX")
            }
            _ => s.to_owned(),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut out = String::new();
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            let words: Vec<String> = line.split_whitespace().map(|w| self.word(w)).collect();
            let masked = format!("{}{}", " ".repeat(indent), words.join(" "));
            // A point in time takes several words.
            let days = ["Mon,", "Tue,", "Wed,", "Thu,", "Fri,", "Sat,", "Sun,"];
            let others = ["Created on:", "Resource Version:"].map(|l| (l, l.len() + 1));
            let masked = match days
                .iter()
                .map(|d| (*d, 0))
                .chain(others)
                .find_map(|(d, skip)| Some(masked.find(d)? + skip))
            {
                Some(at) => format!("{}MASKED", &masked[..at]),
                None => masked,
            };
            out += masked.trim_end();
            out.push('\n');
        }
        out
    }
}

/// Compares with the file, or writes it.
fn compare(name: &str, actual: &str, failures: &mut Vec<String>) {
    let path = file(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |t: &str| t.lines().map(str::to_owned).collect::<Vec<_>>();
    let (wanted, actual) = (lines(&wanted), lines(actual));
    for i in 0..wanted.len().max(actual.len()) {
        let (w, a) = (wanted.get(i), actual.get(i));
        if w != a {
            failures.push(format!("{name}:{}\n  wanted {w:?}\n  got    {a:?}", i + 1));
            return;
        }
    }
}

fn settled(c: &Cluster) {
    let rollouts = ["deployment/web", "statefulset/db", "daemonset/agent"];
    for what in rollouts {
        c.kubectl(&["rollout", "status", "-n", "shop", what, "--timeout=90s"]);
    }
    c.kubectl(&["wait", "-n", "shop", "--for=condition=Complete", "job/once", "--timeout=90s"]);
    c.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]);
    // Status that follows the pods.
    c.eventually("the budget allows a disruption", || {
        let pdb = c.json(&["get", "pdb", "-n", "shop", "web"]);
        (pdb["status"]["disruptionsAllowed"] == 1).then_some(())
    });
}

fn mask(c: &Cluster) -> Mask {
    let mut secrets = Vec::new();
    let name = |args: &[&str]| {
        c.kubectl(
            &[args, &["-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"]].concat(),
        )
        .lines()
        .map(str::to_owned)
        .collect::<Vec<_>>()
    };
    for node in name(&["get", "nodes"]) {
        secrets.push((node, "NODE"));
    }
    let label = |path: &str| format!("jsonpath={{.items[0].metadata.labels.{path}}}");
    let get = |what: &str, path: String| {
        c.kubectl(&["get", "-n", "shop", what, "-l", "app", "-o", &path])
    };
    secrets.push((get("rs", label("pod-template-hash")), "HASH"));
    for app in ["db", "agent"] {
        let pods = ["get", "pods", "-n", "shop", "-l"];
        let app = format!("app={app}");
        let hash = label("controller-revision-hash");
        secrets.push((c.kubectl(&[&pods[..], &[&app, "-o", &hash]].concat()), "HASH"));
    }
    let uid = c.kubectl(&["get", "job", "-n", "shop", "once", "-o", "jsonpath={.metadata.uid}"]);
    secrets.push((uid, "UID"));
    Mask(secrets)
}

const KINDS: &[&str] = &[
    "namespaces",
    "serviceaccounts",
    "configmaps",
    "secrets",
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "jobs",
    "cronjobs",
    "pods",
    "services",
    "ingresses",
    "networkpolicies",
    "poddisruptionbudgets",
    "persistentvolumeclaims",
    "persistentvolumes",
    "storageclasses",
    "priorityclasses",
    "resourcequotas",
    "limitranges",
    "horizontalpodautoscalers",
    "roles",
    "rolebindings",
    "leases",
    "controllerrevisions",
    "customresourcedefinitions",
    "cakes",
];

#[test]
fn tables_and_descriptions() {
    let c = Cluster::start(&["--cloud", "simulated:speed=20", "--in-memory"]);
    c.kubectl(&["apply", "-f", file("objects.yaml").to_str().unwrap()]);
    c.kubectl(&["apply", "-f", file("cake.yaml").to_str().unwrap()]);
    settled(&c);
    let mask = mask(&c);
    let mut failures = Vec::new();

    let mut tables = String::new();
    for kind in KINDS {
        let args = ["get", kind, "-n", "shop", "-o", "wide"];
        tables += &format!("$ kubectl get {kind} -n shop -o wide\n");
        tables += &mask.text(&c.kubectl(&args));
        tables.push('\n');
    }
    compare("tables.txt", &tables, &mut failures);

    let minor = c.kubectl_minor();
    if minor != KUBECTL_MINOR {
        println!(
            "this kubectl is 1.{minor}, the files of describe and explain are 1.{KUBECTL_MINOR}'s: only tables were compared"
        );
    } else {
        describe(&c, &mask, &mut failures);
        explain(&c, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn describe(c: &Cluster, mask: &Mask, failures: &mut Vec<String>) {
    let mut text = String::new();
    for object in [
        "deployment/web",
        "replicaset",
        "statefulset/db",
        "daemonset/agent",
        "job/once",
        "cronjob/nightly",
        "pod/db-0",
        "service/web",
        "ingress/web",
        "networkpolicy/closed",
        "pdb/web",
        "pvc/disk",
        "storageclass/fast",
        "configmap/settings",
        "secret/key",
        "quota/small",
        "limits/sizes",
        "hpa/web",
        "role/reader",
        "rolebinding/reader",
        "serviceaccount/clerk",
        "namespace/shop",
        "cake/birthday",
    ] {
        text += &format!("$ kubectl describe -n shop {object} --show-events=false\n");
        text += &mask.text(&c.kubectl(&["describe", "-n", "shop", object, "--show-events=false"]));
        text.push('\n');
    }
    compare("describe.txt", &text, failures);
}

fn explain(c: &Cluster, failures: &mut Vec<String>) {
    let mut text = String::new();
    for what in [
        "deployment",
        "deployment.spec.strategy",
        "pod.spec.containers.resources",
        "cake",
        "cake.spec",
        "cake.spec.flavour",
        "cake.metadata",
        "node.spec.taints",
    ] {
        text += &format!("$ kubectl explain {what}\n");
        text += &c.kubectl(&["explain", what]);
        text.push('\n');
    }
    compare("explain.txt", &text, failures);
}
