//! The command line: what it prints, and one clear sentence for every mistake.

use crate::cluster::{BINARY, Cluster};
use std::{os::unix::fs::PermissionsExt, process::Command};

fn fails(args: &[&str]) -> String {
    let out = Command::new(BINARY).args(args).output().unwrap();
    assert!(!out.status.success(), "{args:?}");
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn mistakes_get_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let up = |extra: &[&str]| {
        fails(&[&["up", "--data-dir", dir, "--listen", "127.0.0.1:0"], extra].concat())
    };
    assert_eq!(
        up(&["--kubernetes-version", "1.20"]),
        "error: unknown Kubernetes version \"1.20\": this build serves 1.34, 1.35, 1.36, 1.37\n"
    );
    assert_eq!(
        up(&["--cloud", "mars"]),
        "error: --cloud: unknown cloud \"mars\": this build has simulated and ec2\n"
    );
    assert!(
        up(&["--cloud", "simulated:speed=fast"])
            .contains("\"fast\" is no number above 0 for speed")
    );
    assert!(
        fails(&["up", "--data-dir", dir, "--listen", "nonsense"])
            .contains("--listen \"nonsense\" is no address")
    );
    assert!(
        fails(&["kubeconfig", "--data-dir", "/nowhere"])
            .contains("cannot read /nowhere/kubeconfig")
    );
    assert!(fails(&["nodes", "--kubeconfig", "/nowhere"]).contains("cannot read /nowhere"));
    assert!(fails(&["up", "--data-dir", "/dev/null/x"]).contains("/dev/null/x"));
}

#[test]
fn a_port_or_directory_in_use_is_said_so() {
    let c = Cluster::start(&["--no-default-nodepool"]);
    let address = c.ready_line.split("https://").nth(1).unwrap().split(',').next().unwrap();
    let other = tempfile::tempdir().unwrap();
    let e = fails(&["up", "--data-dir", other.path().to_str().unwrap(), "--listen", address]);
    assert_eq!(
        e,
        format!("error: {address} is taken by another program; choose another with --listen\n")
    );
    let dir = c.directory.path().to_str().unwrap();
    let e = fails(&["up", "--data-dir", dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(e, format!("error: the data directory {dir} is in use by another process\n"));
}

#[test]
fn versions_only_go_up() {
    let c = Cluster::start(&["--no-default-nodepool", "--kubernetes-version", "1.35"]);
    assert!(c.ready_line.contains("Kubernetes 1.35"), "{}", c.ready_line);
    assert!(c.kubectl(&["version", "-o", "json"]).contains("v1.35.0"));
    assert!(!c.kubectl(&["api-resources"]).contains("mutatingadmissionpolicies"));
    let (dir, _) = c.stop();
    let path = dir.path().to_str().unwrap().to_owned();
    let e = fails(&[
        "up",
        "--data-dir",
        &path,
        "--listen",
        "127.0.0.1:0",
        "--kubernetes-version",
        "1.34",
    ]);
    assert!(
        e.contains("was written by Kubernetes 1.35; start with --kubernetes-version 1.35 or newer"),
        "{e}"
    );
    let c = Cluster::start_in(dir, &["--no-default-nodepool"]);
    assert!(c.kubectl(&["api-resources"]).contains("mutatingadmissionpolicies"));
}

#[test]
fn keys_are_private_and_the_kubeconfig_prints() {
    let c = Cluster::start(&["--in-memory"]);
    for file in ["kubeconfig", "pki/ca.key", "pki/sa.key"] {
        let mode = std::fs::metadata(c.directory.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let out = Command::new(BINARY)
        .args(["kubeconfig", "--data-dir"])
        .arg(c.directory.path())
        .output()
        .unwrap();
    assert_eq!(out.stdout, std::fs::read(c.kubeconfig()).unwrap());
    let version = Command::new(BINARY).args(["version", "--output", "json"]).output().unwrap();
    let v: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(v["kubernetesVersions"][3], "1.37");
    assert!(c.kubectl(&["get", "nodepools"]).contains("default"));
    let (dir, _) = c.stop();
    assert!(!dir.path().join("store").exists(), "in memory means in memory");
}
