//! Clients in other languages, unmodified from PyPI and npm, where `cargo xtask test` puts them.

use crate::cluster::{Cluster, root};
use std::{
    path::PathBuf,
    process::{Command, Output},
};

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn passes(out: &Output) {
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.ends_with("ok\n"), "the script did not come to its end: {text}");
}

fn python(name: &str, arguments: &[&str]) {
    let python = root().join("target/python/bin/python");
    assert!(python.exists(), "{} is missing: `cargo xtask test` makes it", python.display());
    let c = Cluster::start(arguments);
    passes(&Command::new(python).arg(script(name)).arg(c.kubeconfig()).output().unwrap());
}

#[test]
fn the_python_client_works_unmodified() {
    python("basics.py", &["--cloud", "simulated:speed=4", "--in-memory"]);
}

#[test]
fn the_python_dynamic_client_applies_and_elects() {
    python("dynamic.py", &["--no-default-nodepool", "--in-memory"]);
}

#[test]
fn the_asynchronous_python_client_works() {
    python("asynchronous.py", &["--no-default-nodepool", "--in-memory"]);
}

#[test]
fn the_javascript_client_works() {
    let packages = root().join("target/javascript");
    assert!(packages.exists(), "{} is missing: `cargo xtask test` makes it", packages.display());
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let mut node = Command::new("node");
    node.arg(script("objects.cjs")).arg(c.kubeconfig()).arg(packages.canonicalize().unwrap());
    passes(&node.output().unwrap());
}
