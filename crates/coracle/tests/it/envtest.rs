//! The binaries that envtest starts: laid out by `coracle envtest-assets`, started with the flags
//! that controller-runtime passes, stopped by its signal.

use crate::cluster::BINARY;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(program: &Path, args: &[String]) -> Self {
        Self(Command::new(program).args(args).stderr(Stdio::null()).spawn().unwrap())
    }

    /// SIGTERM; whether it ended well.
    fn stop(mut self) -> bool {
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        self.0.wait().unwrap().success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago, as envtest chooses one.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The authority of clients, and an administrator's certificate and key.
fn administrator() -> (String, String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "envtest-environment");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec![]).unwrap();
    own.distinguished_name.push(DnType::CommonName, "default");
    own.distinguished_name.push(DnType::OrganizationName, "system:masters");
    own.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let certificate = own.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
    (ca_pem, certificate.pem(), key.serialize_pem())
}

fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let started = Instant::now();
    while !f() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not in 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn client(port: u16, certificate: &str, key: &str) -> Client {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig: Kubeconfig = serde_json::from_value(json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "u", "user": {"client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(key)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }))
    .unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

#[test]
fn envtest_finds_its_binaries() {
    let directory = tempfile::tempdir().unwrap();
    let assets = directory.path().join("assets");
    let out = Command::new(BINARY).arg("envtest-assets").arg(&assets).output().unwrap();
    assert!(out.status.success());
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("KUBEBUILDER_ASSETS"), "it says what to type next: {said}");

    // etcd answers its health, and ends well.
    let etcd_port = port();
    let url = format!("http://127.0.0.1:{etcd_port}");
    let args = [
        "--listen-peer-urls=http://localhost:0".to_owned(),
        format!("--advertise-client-urls={url}"),
        format!("--listen-client-urls={url}"),
        format!("--data-dir={}", directory.path().join("etcd").display()),
        "--unsafe-no-fsync=true".into(),
    ];
    let etcd = Process::start(&assets.join("etcd"), &args);
    eventually("etcd is healthy", || {
        let Ok(mut s) = TcpStream::connect(("127.0.0.1", etcd_port)) else { return false };
        s.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        s.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    });

    // kube-apiserver serves those whom the given authority signed.
    let (ca, certificate, key) = administrator();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let signer = KeyPair::generate().unwrap();
    let api_port = port();
    let args = [
        "--authorization-mode=RBAC".to_owned(),
        "--bind-address=127.0.0.1".into(),
        format!("--cert-dir={}", directory.path().display()),
        format!("--client-ca-file={}", file("client-ca.crt", &ca)),
        "--disable-admission-plugins=ServiceAccount".into(),
        format!("--etcd-servers={url}"),
        format!("--secure-port={api_port}"),
        format!("--service-account-issuer=https://127.0.0.1:{api_port}/"),
        format!("--service-account-key-file={}", file("sa.pub", &signer.public_key_pem())),
        format!("--service-account-signing-key-file={}", file("sa.key", &signer.serialize_pem())),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        "--allow-privileged=true".into(),
    ];
    let server = Process::start(&assets.join("kube-apiserver"), &args);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    eventually("the API answers", || TcpStream::connect(("127.0.0.1", api_port)).is_ok());
    runtime.block_on(async {
        let c = client(api_port, &certificate, &key).await;
        let maps: Api<ConfigMap> = Api::namespaced(c.clone(), "default");
        let new: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        maps.create(&PostParams::default(), &new).await.unwrap();
        // The plugin that was left out would have refused this pod, or given it a token's volume.
        let pods: Api<Pod> = Api::namespaced(c, "default");
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let new: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let pod = pods.create(&PostParams::default(), &new).await.unwrap();
        assert_eq!(pod.spec.unwrap().volumes.unwrap_or_default().len(), 0);
        // Nothing runs it, as in envtest.
        assert_eq!(pods.get("p").await.unwrap().status.unwrap().phase.unwrap(), "Pending");
    });
    assert!(server.stop() && etcd.stop(), "both end well");

    // A flag that upstream does not have is refused as upstream refuses it.
    let out = Command::new(assets.join("kube-apiserver")).arg("--no-such-flag=1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("unknown flag: --no-such-flag"), "{said}");
}
