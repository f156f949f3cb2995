//! The load of `cargo xtask bench`: writes, lists, watches and scheduling through TLS and the API,
//! from a second process on the same machine.

use futures::StreamExt;
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::WatchParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn client(file: &str) -> Result<Client, Failure> {
    let config = Kubeconfig::read_from(file)?;
    Ok(Client::try_from(
        Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?,
    )?)
}

async fn post(c: &Client, path: &str, body: &Value) -> Result<(), Failure> {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())?;
    c.request::<Value>(request).await?;
    Ok(())
}

/// A map of about 2 KiB.
fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"bench": "1"}}, "data": {"payload": "x".repeat(1800)}})
}

/// Creates maps with some writers at once; returns how many a second.
async fn creates(file: &str, writers: usize, total: usize, prefix: &str) -> Result<f64, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..writers {
        let (c, next, prefix) = (client(file).await?, next.clone(), prefix.to_owned());
        tasks.push(tokio::spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= total {
                    return Ok::<(), Failure>(());
                }
                post(&c, "/api/v1/namespaces/default/configmaps", &map(&format!("{prefix}-{i}")))
                    .await?;
            }
        }));
    }
    for t in tasks {
        t.await??;
    }
    Ok(total as f64 / started.elapsed().as_secs_f64())
}

fn pod(i: usize, gated: bool) -> Value {
    let mut v = json!({"metadata": {"name": format!("p{i}"), "labels": {"app": "bench"}}, "spec": {"terminationGracePeriodSeconds": 0, "schedulerName": if gated { "nobody" } else { "default-scheduler" },
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}]}});
    v["metadata"]["namespace"] = json!("default");
    v
}

async fn list_pods(c: &Client) -> Result<(), Failure> {
    for chunk in (0..10_000).collect::<Vec<usize>>().chunks(100) {
        let sent = chunk.iter().map(|i| {
            let v = pod(*i, true);
            async move {
                post(c, "/api/v1/namespaces/kube-public/pods", &{
                    let mut v = v;
                    v["metadata"]["namespace"] = json!("kube-public");
                    v
                })
                .await
            }
        });
        futures::future::try_join_all(sent).await?;
    }
    let mut best = Duration::MAX;
    let mut size = 0;
    for _ in 0..5 {
        let started = Instant::now();
        let text = c
            .request_text(Request::get("/api/v1/namespaces/kube-public/pods").body(vec![])?)
            .await?;
        best = best.min(started.elapsed());
        size = text.len();
    }
    println!(
        "list of 10,000 pods: {:.0} ms for {:.1} MB, {:.0} MB/s",
        best.as_secs_f64() * 1000.0,
        size as f64 / 1e6,
        size as f64 / 1e6 / best.as_secs_f64()
    );
    Ok(())
}

async fn fan_out(file: &str, watchers: usize, events: usize) -> Result<(), Failure> {
    let seen = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    let writer = client(file).await?;
    for chunk in 0..watchers.div_ceil(50) {
        let c = client(file).await?;
        for _ in 0..50.min(watchers - chunk * 50) {
            let api: Api<ConfigMap> = Api::namespaced(c.clone(), "kube-node-lease");
            let seen = seen.clone();
            let mut stream = api.watch(&WatchParams::default(), "0").await?.boxed();
            tasks.push(tokio::spawn(async move {
                let mut got = 0;
                // The namespace's own map comes first.
                while got < events + 1 && stream.next().await.is_some() {
                    got += 1;
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    for i in 0..events {
        post(
            &writer,
            "/api/v1/namespaces/kube-node-lease/configmaps",
            &json!({"metadata": {"name": format!("e{i}")}}),
        )
        .await?;
    }
    for t in tasks {
        t.await?;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "watch fan-out, {watchers} watchers, {events} events: {:.0} deliveries/s, server and client on the same two cores",
        (watchers * events) as f64 / took
    );
    Ok(())
}

async fn scheduling(c: &Client, nodes: usize, pods: usize) -> Result<(), Failure> {
    for chunk in (0..nodes).collect::<Vec<_>>().chunks(100) {
        let sent = chunk.iter().map(|i| {
            let v = json!({"metadata": {"name": format!("n{i}"), "labels": {"topology.kubernetes.io/zone": format!("z{}", i % 3)}},
                "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
            async move { post(c, "/api/v1/nodes", &v).await }
        });
        futures::future::try_join_all(sent).await?;
    }
    let started = Instant::now();
    for chunk in (0..pods).collect::<Vec<_>>().chunks(200) {
        let sent = chunk.iter().map(|i| {
            let v = pod(*i, false);
            async move { post(c, "/api/v1/namespaces/default/pods", &v).await }
        });
        futures::future::try_join_all(sent).await?;
    }
    let created = started.elapsed().as_secs_f64();
    loop {
        let left: Value = c
            .request(
                Request::get(
                    "/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3D&limit=1",
                )
                .body(vec![])?,
            )
            .await?;
        if left["items"].as_array().is_none_or(Vec::is_empty) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "pods created and scheduled, {nodes} nodes: {:.0}/s ({pods} pods in {took:.2} s, {created:.2} s of it creating them)",
        pods as f64 / took
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = std::env::args().nth(1).ok_or("usage: load KUBECONFIG")?;
    let c = client(&file).await?;
    println!("creates, 1 writer, 2 KiB, durable: {:.0}/s", creates(&file, 1, 2000, "one").await?);
    println!(
        "creates, 64 writers, 2 KiB, durable: {:.0}/s",
        creates(&file, 64, 20_000, "many").await?
    );
    fan_out(&file, 500, 200).await?;
    scheduling(&c, 1000, 5000).await?;
    list_pods(&c).await
}
