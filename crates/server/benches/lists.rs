//! `cargo bench -p coracle-server --bench lists`: lists of pods through the whole chain without a
//! socket, in every form, beside what cannot be beaten: copying the same bytes, and serde_json
//! serializing the same values.

use bytes::Bytes;
use coracle_registry::Registry;
use coracle_schema::Minor;
use coracle_server::{Server, authn::Identity, bootstrap, pki::Pki};
use coracle_store::Store;
use http::{Method, Request};
use http_body_util::BodyExt;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

const SIZES: [usize; 2] = [10_000, 100_000];
/// Of so many runs the best counts.
const RUNS: usize = 5;
/// Pods that serde_json serializes for its figure: parsed ones take many times their size.
const PARSED: usize = 10_000;
const FORMS: [(&str, &str); 4] = [
    ("JSON", "application/json"),
    ("protobuf", "application/vnd.kubernetes.protobuf"),
    ("table", "application/json;as=Table;v=v1;g=meta.k8s.io"),
    ("metadata", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
];

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pki = Pki::open(&directory.path().join("pki"))?;
        let store = Store::in_memory().cluster("c")?;
        let registry = Registry::new(store, Minor::LATEST, jiff::Timestamp::now);
        let server = Server::new(Arc::new(registry), pki.token_key()?);
        bootstrap::run(&server, SocketAddr::from(([127, 0, 0, 1], 6443))).await?;
        send(
            &server,
            Method::POST,
            "/api/v1/namespaces/default/serviceaccounts",
            "",
            r#"{"metadata":{"name":"default"}}"#,
        )
        .await?;
        let mut there = 0;
        for size in SIZES {
            while there < size {
                create(&server, there).await?;
                there += 1;
            }
            lists(&server, size).await?;
        }
        Ok(())
    })
}

async fn send(
    server: &Arc<Server>,
    method: Method,
    path: &str,
    accept: &str,
    body: &str,
) -> Result<Bytes, Failure> {
    let mut request = Request::builder().method(method).uri(path);
    if !accept.is_empty() {
        request = request.header("accept", accept);
    }
    let request =
        request.header("content-type", "application/json").body(Bytes::from(body.to_owned()))?;
    let admin = Identity::user("admin", &["system:masters"]);
    let response = server.handle(&admin, request).await;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)).into());
    }
    Ok(bytes)
}

async fn create(server: &Arc<Server>, i: usize) -> Result<(), Failure> {
    let pod = format!(
        r#"{{"metadata":{{"name":"p{i}","labels":{{"app":"bench","n":"{}"}}}},"spec":{{"nodeName":"node-{}","containers":[{{"name":"c","image":"registry.example.com/team/app:1.2.{}","env":[{{"name":"A","value":"b"}}],"ports":[{{"containerPort":80}}],"resources":{{"requests":{{"cpu":"100m","memory":"100Mi"}}}},"readinessProbe":{{"httpGet":{{"port":80,"path":"/ready"}}}}}}]}}}}"#,
        i % 100,
        i % 1000,
        i % 10
    );
    send(server, Method::POST, "/api/v1/namespaces/default/pods", "", &pod).await.map(drop)
}

async fn lists(server: &Arc<Server>, size: usize) -> Result<(), Failure> {
    println!("list of {size} pods:");
    for (name, accept) in FORMS {
        let list =
            async || send(server, Method::GET, "/api/v1/namespaces/default/pods", accept, "").await;
        // The first one may make what later ones find made.
        let first = Instant::now();
        let bytes = list().await?;
        let first = first.elapsed();
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            let started = Instant::now();
            std::hint::black_box(list().await?);
            best = best.min(started.elapsed());
        }
        let copy = best_of(|| drop(std::hint::black_box(bytes.to_vec())));
        println!(
            "  {name}: {:.1} MB in {:.1} ms ({:.1} ms the first time), {:.0} MB/s, {:.2} of copying the bytes ({:.0} MB/s)",
            bytes.len() as f64 / 1e6,
            millis(best),
            millis(first),
            rate(bytes.len(), best),
            copy.as_secs_f64() / best.as_secs_f64(),
            rate(bytes.len(), copy),
        );
        if name == "JSON" && size == PARSED {
            let parsed: serde_json::Value = serde_json::from_slice(&bytes)?;
            let took = best_of(|| drop(std::hint::black_box(parsed.to_string())));
            println!("    serde_json, serializing the same: {:.0} MB/s", rate(bytes.len(), took));
        }
    }
    Ok(())
}

fn best_of(mut f: impl FnMut()) -> Duration {
    let mut once = || {
        let started = Instant::now();
        f();
        started.elapsed()
    };
    (0..RUNS).map(|_| once()).min().unwrap_or_default()
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn rate(bytes: usize, d: Duration) -> f64 {
    bytes as f64 / 1e6 / d.as_secs_f64()
}
