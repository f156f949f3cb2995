//! `coracle attach`: a second process provisions for a cluster over TLS, with exactly the rights that it
//! prints, and a third takes over when it goes.

use crate::cluster::{BINARY, Cluster};
use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

struct Attached {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Attached {
    fn start(kubeconfig: &Path, identity: &str) -> Self {
        let mut process = Command::new(BINARY)
            .args([
                "attach",
                "--cloud",
                "simulated:speed=20",
                "--identity",
                identity,
                "--log",
                "warn,coracle_control=debug",
                "--kubeconfig",
            ])
            .arg(kubeconfig)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn says(&mut self, start: &str) {
        let said = self.lines.by_ref().map(Result::unwrap).find(|l| l.starts_with(start));
        assert!(said.is_some(), "it ended without {start:?}: {}", self.log());
    }

    fn log(&mut self) -> String {
        let mut log = String::new();
        let _ = self.process.kill();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// SIGTERM; whether it ended well, and what it logged.
    fn stop(mut self) -> (bool, String) {
        Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        let status = self.process.wait().unwrap();
        (status.success(), self.log())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A kubeconfig with the token of the service account.
fn service_account(c: &Cluster) -> PathBuf {
    let token = c.kubectl(&["create", "token", "coracle-provisioner", "-n", "kube-system"]);
    let admin = std::fs::read_to_string(c.kubeconfig()).unwrap();
    let mut config: serde_json::Value = serde_saphyr::from_str(&admin).unwrap();
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let file = c.directory.path().join("attached.kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

fn web(name: &str, replicas: u32) -> String {
    format!("
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: i, resources: {{requests: {{cpu: '1'}}}}}}]}}}}
")
}

#[test]
fn another_process_provisions_with_the_rights_that_it_prints() {
    let c = Cluster::start(&["--in-memory", "--no-provisioner"]);
    let printed = Command::new(BINARY).args(["attach", "--print-rbac"]).output().unwrap();
    let rbac = String::from_utf8(printed.stdout).unwrap();
    assert!(
        !rbac.contains("'*'") && !rbac.contains("\"*\"") && !rbac.contains("secrets"),
        "{rbac}"
    );
    // The cluster's own roles of these parts go: only what was printed gives rights.
    c.apply(&rbac);
    let kubeconfig = service_account(&c);
    let mut first = Attached::start(&kubeconfig, "first");
    first.says("ready: ");
    let mut second = Attached::start(&kubeconfig, "second");
    second.says("waiting: ");
    c.apply(&web("web", 3));
    let runs = |n: u64| {
        let v = c.nodes();
        (v["pods"]["running"] == n && v["pods"]["total"] == n).then_some(())
    };
    c.eventually("pods run", || runs(3));
    let decisions = c.kubectl(&["get", "decisions", "-o", "jsonpath={.items[*].spec.action}"]);
    assert!(decisions.contains("Provisioned"), "{decisions}");
    let holder = || {
        c.kubectl(&[
            "get",
            "lease",
            "-n",
            "kube-system",
            "coracle-provisioner",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ])
    };
    assert_eq!(holder(), "first");
    let machines = c.kubectl(&["get", "nodeclaims", "-o", "name"]);
    let (well, log) = first.stop();
    assert!(well && !log.contains("forbidden") && !log.contains("cannot"), "{log}");
    // The other takes over what is there, and goes on.
    second.says("ready: ");
    assert_eq!(holder(), "second");
    assert_eq!(c.kubectl(&["get", "nodeclaims", "-o", "name"]), machines);
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    c.eventually("nothing is left", || {
        c.kubectl(&["get", "nodeclaims,nodes", "-o", "name"]).is_empty().then_some(())
    });
    let (well, log) = second.stop();
    assert!(well && !log.contains("forbidden"), "{log}");
    assert_eq!(holder(), "");
}

#[test]
fn definitions_are_installed_on_request_and_missed_otherwise() {
    let c = Cluster::start(&["--in-memory", "--no-provisioner", "--no-default-nodepool"]);
    c.kubectl(&[
        "delete",
        "crd",
        "nodepools.karpenter.sh",
        "nodeoverlays.karpenter.sh",
        "--timeout=60s",
    ]);
    let attach = |args: &[&str]| {
        let o = Command::new(BINARY)
            .arg("attach")
            .args(args)
            .arg("--kubeconfig")
            .arg(c.kubeconfig())
            .output()
            .unwrap();
        String::from_utf8(o.stderr).unwrap()
    };
    assert!(
        attach(&[])
            .contains("does not serve NodePool (karpenter.sh/v1): start once with --install-crds")
    );
    let mut again = Command::new(BINARY)
        .args(["attach", "--install-crds", "--kubeconfig"])
        .arg(c.kubeconfig())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(again.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|l| l.starts_with("ready: "));
    again.kill().unwrap();
    again.wait().unwrap();
    assert!(said.is_some());
    assert!(c.kubectl(&["get", "crd", "-o", "name"]).contains("nodeoverlays.karpenter.sh"));
}
