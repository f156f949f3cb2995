//! What was acknowledged is there after SIGKILL, and everything is there after a restart.

use crate::cluster::Cluster;
use futures::StreamExt;
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How often the process is killed.
const KILLS: usize = 100;
/// Writers that write while it happens.
const WRITERS: usize = 8;

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    Client::try_from(
        Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap(),
    )
    .unwrap()
}

fn map(name: &str, n: u64) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"n": n.to_string()}}))
        .unwrap()
}

fn revision(m: &ConfigMap) -> u64 {
    m.metadata.resource_version.as_ref().unwrap().parse().unwrap()
}

fn number(m: &ConfigMap) -> u64 {
    m.data.as_ref().unwrap()["n"].parse().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The last acknowledged revision and number of each name.
type Acknowledged = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

#[test]
fn sigkill_loses_nothing_that_was_acknowledged() {
    let args = ["--no-default-nodepool"];
    let acknowledged: Acknowledged = Arc::default();
    let mut cluster = Cluster::start(&args);
    let mut total = 0;
    for round in 0..KILLS {
        let dir = runtime().block_on(async {
            let api: Api<ConfigMap> =
                Api::namespaced(client(&cluster.kubeconfig()).await, "kube-public");
            let stop = Arc::new(AtomicBool::new(false));
            let writes = Arc::new(AtomicUsize::new(0));
            let tasks: Vec<_> = (0..WRITERS)
                .map(|w| {
                    let (api, acknowledged) = (api.clone(), acknowledged.clone());
                    tokio::spawn(write(api, w, acknowledged, writes.clone(), stop.clone()))
                })
                .collect();
            // After another number of writes each time: how fast the machine is does not matter.
            wait_for(&writes, 1 + (round * 7) % 40).await;
            let dir = cluster.kill();
            stop.store(true, Ordering::Relaxed);
            for t in tasks {
                t.await.unwrap();
            }
            total += writes.load(Ordering::Relaxed);
            dir
        });
        cluster = Cluster::start_in(dir, &args);
        runtime().block_on(verify(&cluster, &acknowledged));
    }
    println!("{total} acknowledged writes over {KILLS} kills");
}

/// Waits until so many writes were acknowledged; a minute without them is a server that hangs.
async fn wait_for(writes: &AtomicUsize, count: usize) {
    let enough = async {
        while writes.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let what = format!("no {count} acknowledged writes in a minute");
    tokio::time::timeout(Duration::from_secs(60), enough).await.expect(&what);
}

/// Writes one object after the other, each several times, until the server is gone.
async fn write(
    api: Api<ConfigMap>,
    writer: usize,
    acknowledged: Acknowledged,
    writes: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) {
    let (name, mut n) = (format!("w{writer}"), 0);
    let Ok(mut current) = api.get_opt(&name).await else { return };
    // What can be read is durable: it counts as acknowledged.
    if let Some(m) = &current {
        acknowledged.lock().unwrap().insert(name.clone(), (revision(m), number(m)));
    }
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let result = match &current {
            None => api.create(&PostParams::default(), &map(&name, n)).await,
            Some(old) => {
                let mut new = old.clone();
                let last: u64 = new.data.as_ref().unwrap()["n"].parse().unwrap();
                new.data = Some([("n".to_owned(), (last + 1).to_string())].into());
                api.replace(&name, &PostParams::default(), &new).await
            }
        };
        let Ok(written) = result else { break };
        let number: u64 = written.data.as_ref().unwrap()["n"].parse().unwrap();
        acknowledged.lock().unwrap().insert(name.clone(), (revision(&written), number));
        current = Some(written);
        writes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every acknowledged write is there, or a later one of the same writer; revisions only grow.
async fn verify(cluster: &Cluster, acknowledged: &Acknowledged) {
    let api: Api<ConfigMap> = Api::namespaced(client(&cluster.kubeconfig()).await, "kube-public");
    let list = api.list(&ListParams::default()).await.unwrap();
    let newest: u64 = list.metadata.resource_version.as_ref().unwrap().parse().unwrap();
    let found: BTreeMap<String, (u64, u64)> = list
        .items
        .iter()
        .filter_map(|m| {
            Some((
                m.metadata.name.clone()?,
                (revision(m), m.data.as_ref()?.get("n")?.parse().ok()?),
            ))
        })
        .collect();
    for (name, (rv, n)) in acknowledged.lock().unwrap().iter() {
        let (have_rv, have_n) = found.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        // One more write may have been stored whose answer was lost.
        assert!(
            have_n == n && have_rv == rv || *have_n == n + 1 && have_rv > rv,
            "{name}: acknowledged {n} at {rv}, found {have_n} at {have_rv}"
        );
        assert!(*have_rv <= newest);
    }
}

#[test]
fn a_restart_brings_ten_thousand_objects_back() {
    let args = ["--no-default-nodepool"];
    let cluster = Cluster::start(&args);
    let post = |client: Client, i: usize| async move {
        let body = map(&format!("c{i:05}"), i as u64);
        let request = Request::post("/api/v1/namespaces/default/configmaps")
            .header("content-type", "application/json");
        client
            .request::<Value>(request.body(serde_json::to_vec(&body).unwrap()).unwrap())
            .await
            .unwrap();
    };
    runtime().block_on(async {
        let client = client(&cluster.kubeconfig()).await;
        for chunk in (0..10_000).collect::<Vec<_>>().chunks(200) {
            futures::future::join_all(chunk.iter().map(|i| post(client.clone(), *i))).await;
        }
    });
    let before: Value = serde_json::from_str(&cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/namespaces/default/configmaps?limit=1",
    ]))
    .unwrap();
    let (dir, clean) = cluster.stop();
    assert!(clean, "SIGTERM ends it without an error");
    let cluster = Cluster::start_in(dir, &args);
    runtime().block_on(async {
        let api: Api<ConfigMap> = Api::namespaced(client(&cluster.kubeconfig()).await, "default");
        let list = api.list(&ListParams::default()).await.unwrap();
        let ours: Vec<_> = list
            .items
            .iter()
            .filter(|m| m.metadata.name.as_deref().is_some_and(|n| n.starts_with('c')))
            .collect();
        assert_eq!(ours.len(), 10_000);
        assert!(
            ours.iter().enumerate().all(|(i, m)| m.data.as_ref().unwrap()["n"] == i.to_string())
        );
        let rv: u64 = list.metadata.resource_version.unwrap().parse().unwrap();
        let was: u64 = before["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(rv >= was);
        // History did not survive: a watch from before the restart has to list again.
        let mut old = api.watch(&WatchParams::default(), "2").await.map(StreamExt::boxed);
        let code = match &mut old {
            Err(kube::Error::Api(s)) => s.code,
            Ok(s) => match s.next().await {
                Some(Ok(WatchEvent::Error(e))) => e.code,
                other => panic!("{other:?}"),
            },
            Err(e) => panic!("{e}"),
        };
        assert_eq!(code, 410);
    });
}
