//! A cluster for a test: a process of its own, on a port and in a directory of its own, that ends
//! with the test.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_coracle");

pub(crate) struct Cluster {
    process: Child,
    pub(crate) directory: TempDir,
    pub(crate) ready_line: String,
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Cluster {
    /// Starts a cluster in a new directory.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    /// Starts a cluster in a directory that may have one already.
    pub(crate) fn start_in(directory: TempDir, args: &[&str]) -> Self {
        Self::start_with(directory, args, &[])
    }

    /// The same, with variables of the environment.
    pub(crate) fn start_with(directory: TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(BINARY);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(directory.path())
            .args(["--listen", "127.0.0.1:0"])
            .envs(env.iter().copied())
            .args(args);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready_line = lines.next().expect("the cluster says that it is ready").unwrap();
        assert!(ready_line.starts_with("ready: "), "{ready_line}");
        Self { process, directory, ready_line }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL; gives the directory back.
    pub(crate) fn kill(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// SIGTERM, and how the process ended.
    pub(crate) fn stop(mut self) -> (TempDir, bool) {
        Command::new("kill").arg(self.pid().to_string()).status().unwrap();
        let status = self.process.wait().unwrap();
        (std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap()), status.success())
    }

    /// Runs kubectl; it must succeed. Returns what it printed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let out = self.try_kubectl(args);
        assert!(out.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Output {
        let cache = self.directory.path().join("kube-cache");
        Command::new("kubectl")
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", cache)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl is installed")
    }

    /// The minor of the installed kubectl.
    pub(crate) fn kubectl_minor(&self) -> u32 {
        let v = self.json(&["version"]);
        v["clientVersion"]["minor"].as_str().unwrap().trim_end_matches('+').parse().unwrap()
    }

    /// Whether kubectl is new enough for something; says so when it is not (Debian 12 has 1.20).
    pub(crate) fn kubectl_has(&self, minor: u32, what: &str) -> bool {
        let own = self.kubectl_minor();
        if own < minor {
            println!("skipped: kubectl 1.{own} has no {what}, which 1.{minor} brought");
        }
        own >= minor
    }

    /// What kubectl says when it fails.
    pub(crate) fn kubectl_error(&self, args: &[&str]) -> String {
        let out = self.try_kubectl(args);
        assert!(
            !out.status.success(),
            "kubectl {args:?} succeeded: {}",
            String::from_utf8_lossy(&out.stdout)
        );
        String::from_utf8(out.stderr).unwrap()
    }

    /// Applies YAML text.
    pub(crate) fn apply(&self, yaml: &str) -> String {
        let file = self.directory.path().join("apply.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()])
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// `coracle nodes --output json`.
    pub(crate) fn nodes(&self) -> Value {
        let out = Command::new(BINARY)
            .args(["nodes", "--output", "json", "--kubeconfig"])
            .arg(self.kubeconfig())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Waits until something holds; panics with `what` after a generous while.
    pub(crate) fn eventually<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            if let Some(v) = check() {
                return v;
            }
            assert!(
                Instant::now() < end,
                "it did not happen: {what}\n{}",
                String::from_utf8_lossy(
                    &self
                        .try_kubectl(&[
                            "get",
                            "pods,nodes,nodeclaims,nodepools",
                            "-A",
                            "-o",
                            "wide"
                        ])
                        .stdout
                )
            );
            std::thread::sleep(Duration::from_millis(150));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
