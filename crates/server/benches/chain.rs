//! `cargo bench -p coracle-server`: durable creates of 2 KiB from 64 callers through the whole chain
//! (authentication apart: the identity is given) without a socket, and watchers of the same events.
//! What is left to a client's side of the machine in `cargo xtask bench` is not in these figures.

use bytes::Bytes;
use coracle_registry::Registry;
use coracle_schema::Minor;
use coracle_server::{Server, authn::Identity, bootstrap, pki::Pki};
use coracle_store::Store;
use http::{Method, Request};
use http_body_util::BodyExt;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

const CALLERS: usize = 64;
const CREATES: usize = 40_000;
const WATCHERS: usize = 1000;
const EVENTS: usize = 1000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let durable =
            server(Store::open(&directory.path().join("store"))?, directory.path()).await?;
        println!("creates of 2 KiB through the chain, {CALLERS} callers at once:");
        println!("  durable: {}", creates(&durable).await?);
        let memory = server(Store::in_memory(), directory.path()).await?;
        println!("  in memory: {}", creates(&memory).await?);
        fan_out(&server(Store::in_memory(), directory.path()).await?).await?;
        applies(&server(Store::in_memory(), directory.path()).await?).await
    })
}

async fn server(store: Store, directory: &std::path::Path) -> Result<Arc<Server>, Failure> {
    let pki = Pki::open(&directory.join("pki"))?;
    let registry = Registry::new(store.cluster("c")?, Minor::LATEST, jiff::Timestamp::now);
    let server = Server::new(Arc::new(registry), pki.token_key()?);
    bootstrap::run(&server, SocketAddr::from(([127, 0, 0, 1], 6443))).await?;
    Ok(server)
}

fn admin() -> Identity {
    Identity::user("admin", &["system:masters"])
}

/// Fields of the Deployment that is applied.
const FIELDS: usize = 500;
const APPLIES: usize = 500;

/// A Deployment whose container has so many variables that there are [`FIELDS`] fields.
fn wide(image: usize) -> String {
    let fixed = 20;
    let environment: Vec<String> = (0..(FIELDS - fixed) / 2)
        .map(|i| format!("{{\"name\":\"V{i}\",\"value\":\"value {i}\"}}"))
        .collect();
    format!(
        "{{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{{\"name\":\"wide\"}},\"spec\":{{\"selector\":{{\"matchLabels\":{{\"a\":\"b\"}}}},\"template\":{{\"metadata\":{{\"labels\":{{\"a\":\"b\"}}}},\"spec\":{{\"containers\":[{{\"name\":\"c\",\"image\":\"i:{image}\",\"env\":[{}]}}]}}}}}}}}",
        environment.join(",")
    )
}

/// Server-side applies of one caller: each changes one field, or none.
async fn applies(server: &Arc<Server>) -> Result<(), Failure> {
    let apply = async |image: usize| -> Result<(), Failure> {
        let request = Request::builder()
            .method(Method::PATCH)
            .uri("/apis/apps/v1/namespaces/default/deployments/wide?fieldManager=bench")
            .header("content-type", "application/apply-patch+yaml")
            .body(Bytes::from(wide(image)))?;
        let response = server.handle(&admin(), request).await;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(format!("the answer was {}", response.status()).into()),
        }
    };
    apply(0).await?;
    for (what, changes) in [("changing one field", true), ("changing nothing", false)] {
        let started = Instant::now();
        for i in 1..=APPLIES {
            apply(if changes { i } else { APPLIES }).await?;
        }
        let rate = APPLIES as f64 / started.elapsed().as_secs_f64();
        println!("server-side apply, a Deployment of {FIELDS} fields, {what}: {rate:.0}/s");
    }
    let parsed = Instant::now();
    for i in 0..APPLIES {
        let v: serde_json::Value = serde_json::from_str(&wide(i))?;
        std::hint::black_box(serde_json::to_vec(&v)?);
    }
    let floor = APPLIES as f64 / parsed.elapsed().as_secs_f64();
    println!("  the floor, its JSON read and written once: {floor:.0}/s");
    Ok(())
}

async fn post(server: &Arc<Server>, name: &str, size: usize) -> Result<(), Failure> {
    let body = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\",\"labels\":{{\"bench\":\"1\"}}}},\"data\":{{\"payload\":\"{}\"}}}}",
        "x".repeat(size)
    );
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/json")
        .body(Bytes::from(body))?;
    let response = server.handle(&admin(), request).await;
    if !response.status().is_success() {
        return Err(format!("the answer was {}", response.status()).into());
    }
    Ok(())
}

/// Processor time of this process so far, in seconds. A tick is 10 ms wherever Linux runs.
fn cpu() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after) = stat.rsplit_once(") ").ok_or("no process")?;
    let ticks: Vec<f64> =
        after.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

async fn creates(server: &Arc<Server>) -> Result<String, Failure> {
    let used = cpu()?;
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let caller = || {
        let (server, next) = (server.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= CREATES {
                    return Ok::<(), Failure>(());
                }
                post(&server, &format!("m{i}"), 1800).await?;
            }
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(|_| caller()).collect();
    for c in callers {
        c.await??;
    }
    let rate = CREATES as f64 / started.elapsed().as_secs_f64();
    let each = (cpu()? - used) * 1e6 / CREATES as f64;
    Ok(format!("{rate:.0}/s, {each:.0} us of processor time each"))
}

async fn fan_out(server: &Arc<Server>) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    for _ in 0..WATCHERS {
        let server = server.clone();
        let request =
            Request::get("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0")
                .body(Bytes::new())?;
        let mut body = server.handle(&admin(), request).await.into_body();
        tasks.push(tokio::spawn(async move {
            let mut lines = 0;
            while lines < EVENTS {
                let frame = body.frame().await.ok_or("a watch ended early")??;
                lines += frame.data_ref().map_or(0, |d| d.iter().filter(|b| **b == b'\n').count());
            }
            Ok::<(), Failure>(())
        }));
    }
    let started = Instant::now();
    for i in 0..EVENTS {
        post(server, &format!("e{i}"), 100).await?;
    }
    for t in tasks {
        t.await??;
    }
    let rate = (WATCHERS * EVENTS) as f64 / started.elapsed().as_secs_f64();
    println!(
        "watch fan-out, {WATCHERS} watchers, {EVENTS} events, one writer: {rate:.0} deliveries/s"
    );
    Ok(())
}
