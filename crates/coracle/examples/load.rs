//! The load of `cargo xtask bench`: writes, lists, watches and scheduling through TLS and the API,
//! from a second process on the same machine. Answers are read but not parsed, and the server's
//! own processor time is told beside each rate: what a client of its own machine would leave it.

use http::Request;
use http_body_util::BodyExt;
use kube::{
    Client, Config,
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

/// Reads an answer to its end; returns its size.
async fn read(c: &Client, request: Request<Vec<u8>>) -> Result<usize, Failure> {
    let (parts, body) = request.into_parts();
    let response = c.send(Request::from_parts(parts, body.into())).await?;
    let (status, mut body, mut size) = (response.status(), response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        size += frame?.data_ref().map_or(0, |d| d.len());
    }
    if status.is_success() { Ok(size) } else { Err(format!("the answer was {status}").into()) }
}

async fn post(c: &Client, path: &str, body: &Value) -> Result<(), Failure> {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())?;
    read(c, request).await.map(drop)
}

/// The server's process.
#[derive(Clone, Copy)]
struct Server(u32);

impl Server {
    /// Processor time that it used so far, in seconds.
    fn cpu(self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name may hold spaces; user and system time are the 12th and 13th after it. A tick is
        // 10 ms wherever Linux runs.
        let (_, after) = stat.rsplit_once(") ").ok_or("no process")?;
        let ticks: Vec<f64> =
            after.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// What `n` things took since a former time, in microseconds each.
    fn each(self, since: f64, n: usize) -> Result<String, Failure> {
        Ok(format!("server {:.0} us each", (self.cpu()? - since) * 1e6 / n as f64))
    }
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

async fn list_pods(c: &Client, server: Server) -> Result<(), Failure> {
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
    const LISTS: usize = 20;
    let mut best = Duration::MAX;
    let (mut size, cpu) = (0, server.cpu()?);
    for _ in 0..LISTS {
        let started = Instant::now();
        let request = Request::get("/api/v1/namespaces/kube-public/pods").body(vec![])?;
        size = read(c, request).await?;
        best = best.min(started.elapsed());
    }
    println!(
        "list of 10,000 pods: {:.0} ms for {:.1} MB, {:.0} MB/s ({})",
        best.as_secs_f64() * 1000.0,
        size as f64 / 1e6,
        size as f64 / 1e6 / best.as_secs_f64(),
        server.each(cpu, LISTS)?
    );
    Ok(())
}

/// Counts the lines of a watch until there were enough.
async fn watch(
    c: Client,
    namespace: &str,
    wanted: usize,
) -> Result<impl Future<Output = Result<(), Failure>>, Failure> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?watch=1&resourceVersion=0");
    let response = c.send(Request::get(path).body(vec![].into())?).await?;
    Ok(async move {
        let (mut body, mut lines) = (response.into_body(), 0);
        while lines < wanted {
            let frame = body.frame().await.ok_or("a watch ended early")??;
            lines += frame.data_ref().map_or(0, |d| d.iter().filter(|b| **b == b'\n').count());
        }
        Ok(())
    })
}

async fn fan_out(
    file: &str,
    server: Server,
    watchers: usize,
    events: usize,
) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    let writer = client(file).await?;
    for chunk in 0..watchers.div_ceil(50) {
        let c = client(file).await?;
        for _ in 0..50.min(watchers - chunk * 50) {
            // The namespace's own map comes first.
            tasks.push(tokio::spawn(watch(c.clone(), "kube-node-lease", events + 1).await?));
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (started, cpu) = (Instant::now(), server.cpu()?);
    // Several writers, as a busy cluster has: one alone would wait for its own watchers.
    for chunk in (0..events).collect::<Vec<_>>().chunks(32) {
        let sent = chunk.iter().map(|i| {
            let (c, v) = (&writer, json!({"metadata": {"name": format!("e{i}")}}));
            async move { post(c, "/api/v1/namespaces/kube-node-lease/configmaps", &v).await }
        });
        futures::future::try_join_all(sent).await?;
    }
    for t in tasks {
        t.await??;
    }
    let took = started.elapsed().as_secs_f64();
    let used = server.cpu()? - cpu;
    let deliveries = (watchers * events) as f64;
    println!(
        "watch fan-out, {watchers} watchers, {events} events: {:.0} deliveries/s ({:.0} a second of the server's processor time)",
        deliveries / took,
        deliveries / used
    );
    Ok(())
}

async fn scheduling(c: &Client, server: Server, nodes: usize, pods: usize) -> Result<(), Failure> {
    for chunk in (0..nodes).collect::<Vec<_>>().chunks(100) {
        let sent = chunk.iter().map(|i| {
            let v = json!({"metadata": {"name": format!("n{i}"), "labels": {"topology.kubernetes.io/zone": format!("z{}", i % 3)}},
                "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
            async move { post(c, "/api/v1/nodes", &v).await }
        });
        futures::future::try_join_all(sent).await?;
    }
    let (started, cpu) = (Instant::now(), server.cpu()?);
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
        "pods created and scheduled, {nodes} nodes: {:.0}/s ({pods} pods in {took:.2} s, {created:.2} s of it creating them; {})",
        pods as f64 / took,
        server.each(cpu, pods)?
    );
    Ok(())
}

/// Creates many objects and ends: `load fill pods|configmaps COUNT KUBECONFIG`.
async fn fill(what: &str, count: usize, file: &str) -> Result<(), Failure> {
    if what == "configmaps" {
        return creates(file, 64, count, "fill").await.map(drop);
    }
    let c = client(file).await?;
    for chunk in (0..count).collect::<Vec<usize>>().chunks(100) {
        let sent = chunk.iter().map(|i| {
            let (c, v) = (&c, pod(*i, true));
            async move { post(c, "/api/v1/namespaces/default/pods", &v).await }
        });
        futures::future::try_join_all(sent).await?;
    }
    let request = Request::get("/api/v1/namespaces/default/pods").body(vec![])?;
    println!("{count} pods are {:.1} MB of JSON", read(&c, request).await? as f64 / 1e6);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["fill", what, count, file] = arguments[..] {
        return fill(what, count.parse()?, file).await;
    }
    let file = std::env::args().nth(1).ok_or("usage: load KUBECONFIG")?;
    let pid = std::env::args().nth(2).ok_or("usage: load KUBECONFIG PID")?;
    let (c, server) = (client(&file).await?, Server(pid.parse()?));
    for (writers, total) in [(1, 2000), (16, 10_000), (64, 20_000)] {
        let cpu = server.cpu()?;
        let rate = creates(&file, writers, total, &format!("w{writers}")).await?;
        let each = server.each(cpu, total)?;
        println!("creates, {writers} writers, 2 KiB, durable: {rate:.0}/s ({each})");
    }
    fan_out(&file, server, 1000, 2000).await?;
    scheduling(&c, server, 1000, 5000).await?;
    list_pods(&c, server).await
}
