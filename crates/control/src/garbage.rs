//! The garbage collector: metadata of every kind in one graph, and what the graph says done.

use crate::{
    Stop,
    api::{Error, Writer, path},
    informer::PAGE,
    namespaces::collections,
    queue::Queue,
    stopped,
};
use coracle_workloads::garbage::{FOREGROUND, Graph, Item, ORPHAN, Owner, Verdict};
use futures::StreamExt;
use http::Request;
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::Notify, task::JoinSet};

/// How often new kinds are looked for, besides when a definition changes.
const DISCOVER_EVERY: Duration = Duration::from_secs(5);
/// A burst of new definitions is one discovery.
const SETTLE: Duration = Duration::from_millis(200);

type Shared = Arc<(Mutex<Graph>, Arc<Queue<String>>)>;

/// Starts the collector.
pub fn start(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) {
    let writer = Writer::new(client, "garbage-collector");
    let shared: Shared = Arc::new((Mutex::default(), Queue::new()));
    let (s, w, mut stopping) = (shared.clone(), writer.clone(), stop.clone());
    let defined = Arc::new(Notify::new());
    tasks.spawn(async move {
        let mut watched: HashSet<(String, String)> = HashSet::new();
        let mut watches = JoinSet::new();
        loop {
            match all_collections(&w).await {
                Ok(found) => {
                    for c in found {
                        if watched.insert(c.clone()) {
                            watches.spawn(watch(w.client().clone(), c, s.clone(), defined.clone()));
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot discover kinds"),
            }
            tokio::select! {
                () = stopped(&mut stopping) => return,
                () = tokio::time::sleep(DISCOVER_EVERY) => {}
                () = defined.notified() => tokio::time::sleep(SETTLE).await,
            }
        }
    });
    let queue = shared.1.clone();
    queue.work("garbage-collector", 8, stop, tasks, move |uid| {
        let (shared, writer) = (shared.clone(), writer.clone());
        async move { collect(&shared.0, &writer, &uid).await }
    });
}

async fn all_collections(writer: &Writer) -> Result<Vec<(String, String)>, Error> {
    let mut all = collections(writer, true).await?;
    all.extend(collections(writer, false).await?);
    // Events own nothing and are owned by nothing.
    all.retain(|(_, plural)| plural != "events");
    Ok(all)
}

async fn watch(
    client: Client,
    (gv, plural): (String, String),
    shared: Shared,
    defined: Arc<Notify>,
) {
    let definitions = plural == "customresourcedefinitions";
    let (group, version) = gv.split_once('/').unwrap_or(("", &gv));
    let resource = ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: gv.clone(),
        kind: "Object".into(),
        plural: plural.clone(),
    };
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let mut stream = watcher(api, watcher::Config::default().any_semantic().page_size(PAGE))
        .default_backoff()
        .boxed();
    let here = Arc::new((gv, plural));
    let mut present: HashSet<String> = HashSet::new();
    let mut listed: HashSet<String> = HashSet::new();
    while let Some(event) = stream.next().await {
        let (graph, queue) = (&shared.0, &shared.1);
        let set = |o: PartialObjectMeta<DynamicObject>| {
            let item = item(&here, o);
            let uid = item.uid.clone();
            let mut graph = graph.lock();
            if definitions && graph.get(&uid).is_none() {
                defined.notify_one();
            }
            graph.set(item).into_iter().for_each(|u| queue.add(u));
            uid
        };
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(o)) => drop(listed.insert(set(o))),
            Ok(watcher::Event::InitDone) => {
                for gone in present.difference(&listed) {
                    graph.lock().remove(gone).into_iter().for_each(|u| queue.add(u));
                }
                present = std::mem::take(&mut listed);
                // An owner that ended before its kind was watched ended unnoticed.
                graph.lock().unresolved(&here.0).into_iter().for_each(|u| queue.add(u));
            }
            Ok(watcher::Event::Apply(o)) => drop(present.insert(set(o))),
            Ok(watcher::Event::Delete(o)) => {
                let uid = o.metadata.uid.unwrap_or_default();
                present.remove(&uid);
                graph.lock().remove(&uid).into_iter().for_each(|u| queue.add(u));
            }
            Err(error) => tracing::debug!(%error, kind = here.1, "a watch was interrupted"),
        }
    }
}

fn item(resource: &Arc<(String, String)>, o: PartialObjectMeta<DynamicObject>) -> Item {
    let m = o.metadata;
    let owner = |r: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| Owner {
        api_version: r.api_version,
        kind: r.kind,
        name: r.name,
        uid: r.uid,
        blocks: r.block_owner_deletion == Some(true),
    };
    Item {
        resource: resource.clone(),
        namespace: m.namespace.unwrap_or_default(),
        name: m.name.unwrap_or_default(),
        uid: m.uid.unwrap_or_default(),
        owners: m.owner_references.into_iter().flatten().map(owner).collect(),
        finalizers: m.finalizers.unwrap_or_default(),
        deleting: m.deletion_timestamp.is_some(),
    }
}

/// Where an owner would be: its kind's collection, by discovery.
async fn owner_exists(writer: &Writer, o: &Owner, namespace: &str) -> Result<bool, Error> {
    let get = async |p: String| -> Result<Option<Value>, Error> {
        let request =
            Request::builder().uri(&p).body(vec![]).map_err(|e| Error::Request(e.to_string()))?;
        match writer.client().request::<Value>(request).await {
            Ok(v) => Ok(Some(v)),
            Err(kube::Error::Api(s)) if s.code == 404 => Ok(None),
            Err(e) => Err(Error::Api { what: format!("GET {p}"), source: Box::new(e) }),
        }
    };
    let root = if o.api_version.contains('/') { "apis" } else { "api" };
    let Some(list) = get(format!("/{root}/{}", o.api_version)).await? else { return Ok(false) };
    let resources = list["resources"].as_array().cloned().unwrap_or_default();
    let Some(r) = resources
        .iter()
        .find(|r| r["kind"] == o.kind.as_str() && !r["name"].as_str().unwrap_or("/").contains('/'))
    else {
        return Ok(false);
    };
    let namespace = if r["namespaced"] == true { namespace } else { "" };
    let found =
        get(path(&o.api_version, r["name"].as_str().unwrap_or_default(), namespace, &o.name, ""))
            .await?;
    Ok(found.is_some_and(|v| v["metadata"]["uid"] == o.uid.as_str()))
}

async fn collect(
    graph: &Mutex<Graph>,
    writer: &Writer,
    uid: &str,
) -> Result<Option<Duration>, Error> {
    // Owners that the graph does not know are asked for, once, outside of its lock.
    let unknown: Vec<(Owner, String)> = {
        let graph = graph.lock();
        let Some(item) = graph.get(uid) else { return Ok(None) };
        let missing = item.owners.iter().filter(|o| graph.get(&o.uid).is_none());
        missing.map(|o| (o.clone(), item.namespace.clone())).collect()
    };
    let mut there = HashSet::new();
    for (o, namespace) in unknown {
        if owner_exists(writer, &o, &namespace).await? {
            there.insert(o.uid);
        }
    }
    let (verdict, item, dependents) = {
        let graph = graph.lock();
        let verdict = graph.verdict(uid, |o, _| there.contains(&o.uid));
        let Some(item) = graph.get(uid).cloned() else { return Ok(None) };
        let dependents: Vec<Item> = match &verdict {
            Verdict::OrphanDependents(uids) => {
                uids.iter().filter_map(|u| graph.get(u).cloned()).collect()
            }
            _ => vec![],
        };
        (verdict, item, dependents)
    };
    let at = |i: &Item| path(&i.resource.0, &i.resource.1, &i.namespace, &i.name, "");
    let gone = |e: Error| if e.code() == Some(404) { Ok(Value::Null) } else { Err(e) };
    match verdict {
        Verdict::Keep => {}
        Verdict::Delete { propagation } => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation, "preconditions": {"uid": item.uid}});
            writer.send("DELETE", &at(&item), "application/json", &options).await.or_else(gone)?;
        }
        Verdict::DropOwners(uids) => drop_owners(writer, &item, &uids, &at(&item)).await?,
        Verdict::OrphanDependents(_) => {
            for d in &dependents {
                drop_owners(writer, d, std::slice::from_ref(&item.uid), &at(d)).await?;
            }
            finish(writer, &item, ORPHAN, &at(&item)).await?;
        }
        Verdict::Finish(f) => {
            finish(writer, &item, if f == ORPHAN { ORPHAN } else { FOREGROUND }, &at(&item)).await?
        }
    }
    Ok(None)
}

async fn drop_owners(writer: &Writer, item: &Item, uids: &[String], at: &str) -> Result<(), Error> {
    edit(writer, at, &item.uid, |meta| {
        if let Some(list) = meta["ownerReferences"].as_array_mut() {
            list.retain(|o| !uids.iter().any(|u| o["uid"] == u.as_str()));
        }
    })
    .await
}

async fn finish(writer: &Writer, item: &Item, finalizer: &str, at: &str) -> Result<(), Error> {
    edit(writer, at, &item.uid, |meta| {
        if let Some(list) = meta["finalizers"].as_array_mut() {
            list.retain(|f| f != finalizer);
        }
    })
    .await
}

/// Changes metadata of the object as it is now, if it still is the same object.
async fn edit(
    writer: &Writer,
    at: &str,
    uid: &str,
    change: impl FnOnce(&mut Value),
) -> Result<(), Error> {
    let request =
        Request::builder().uri(at).body(vec![]).map_err(|e| Error::Request(e.to_string()))?;
    let mut v: Value = match writer.client().request(request).await {
        Ok(v) => v,
        Err(kube::Error::Api(s)) if s.code == 404 => return Ok(()),
        Err(e) => return Err(Error::Api { what: format!("GET {at}"), source: Box::new(e) }),
    };
    let meta = &mut v["metadata"];
    if meta["uid"] != uid {
        return Ok(());
    }
    change(meta);
    let patch = json!({"metadata": {"resourceVersion": meta["resourceVersion"], "ownerReferences": meta["ownerReferences"], "finalizers": meta["finalizers"]}});
    match writer.patch(at, &patch).await {
        Err(e) if e.code() != Some(404) => Err(e),
        _ => Ok(()),
    }
}
