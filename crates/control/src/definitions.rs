//! CustomResourceDefinitions: a deleted one's objects go first; one that waits for a name gets it when
//! it is free; and each served group and version has its APIService.

use crate::{
    Stop,
    api::{Error, Writer, path},
    informer::{Change, Informer, Key, key},
    queue::Queue,
};
use coracle_meta::groups;
use http::Request;
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const API: &str = "apiextensions.k8s.io/v1";
const SERVICES: &str = "apiregistration.k8s.io/v1";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// How soon it is looked again whether a deleted definition's objects are gone.
const AGAIN: Duration = Duration::from_millis(300);

type Definitions = Arc<Informer<DynamicObject>>;

/// Starts the controllers.
pub fn start(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk(&gvk);
    let informer: Definitions =
        Informer::start(Api::all_with(client.clone(), &resource), trim, None, stop, tasks);

    let deleted: Arc<Queue<Key>> = Queue::new();
    let named: Arc<Queue<String>> = Queue::new();
    let served: Arc<Queue<(String, String)>> = Queue::new();
    let (d, n, s) = (deleted.clone(), named.clone(), served.clone());
    informer.on_change(move |c: &Change<DynamicObject>| {
        if let Some(o) = c.new.filter(|o| o.metadata.deletion_timestamp.is_some()) {
            d.add(key(&**o));
        }
        // A change of status or schema only concerns nobody here.
        if c.old.map(|o| &o.data) == c.new.map(|o| &o.data) {
            return;
        }
        for o in [c.old, c.new].into_iter().flatten() {
            n.add(text(&o.data["group"]));
            versions(o).for_each(|v| s.add((text(&o.data["group"]), v)));
        }
    });

    let writer = Writer::new(client, "definition-cleanup");
    let all = informer.clone();
    deleted.work("definition-cleanup", 2, stop, tasks, move |k| {
        let (all, writer) = (all.clone(), writer.clone());
        async move {
            match all.get("", &k.1) {
                Some(definition) => clean_up(&writer, &k.1, &definition).await,
                None => Ok(None),
            }
        }
    });
    let writer = Writer::new(client, "definition-names");
    let all = informer.clone();
    named.work("definition-names", 1, stop, tasks, move |group| {
        let (all, writer) = (all.clone(), writer.clone());
        async move { ask_again(&writer, &all, &group).await.map(|()| None) }
    });
    let writer = Writer::new(client, "kube-aggregator");
    served.work("definition-services", 2, stop, tasks, move |(group, version)| {
        let (all, writer) = (informer.clone(), writer.clone());
        async move { register(&writer, &all, &group, &version).await.map(|()| None) }
    });
}

/// Only names and a little of the status matter: schemas would be most of the memory.
fn trim(o: &mut DynamicObject) {
    let (spec, status) = (&o.data["spec"], &o.data["status"]);
    let all = spec["versions"].as_array().into_iter().flatten();
    let served: Vec<Value> =
        all.filter(|v| v["served"] == true).map(|v| v["name"].clone()).collect();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.filter(|c| c["type"] == "NamesAccepted");
    let waits = conditions.any(|c| c["status"] == "False");
    o.data = json!({"group": spec["group"], "plural": spec["names"]["plural"], "versions": served, "names": status["acceptedNames"], "waits": waits});
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn versions(o: &DynamicObject) -> impl Iterator<Item = String> {
    o.data["versions"].as_array().into_iter().flatten().map(text)
}

/// Deletes a definition's objects; when none is left, lets the definition go.
async fn clean_up(
    writer: &Writer,
    name: &str,
    definition: &DynamicObject,
) -> Result<Option<Duration>, Error> {
    let finalizers = definition.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    let (group, plural) = (text(&definition.data["group"]), text(&definition.data["plural"]));
    if let Some(version) = versions(definition).next() {
        let api = format!("{group}/{version}");
        let at = path(&api, &plural, "", "", "");
        let request = Request::get(&at).body(vec![]).map_err(|e| Error::Request(e.to_string()))?;
        // A definition that never was served has no objects, and no path.
        let list: Value = writer.client().request(request).await.unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        for i in items.iter().filter(|i| i["metadata"]["deletionTimestamp"].is_null()) {
            let meta = &i["metadata"];
            let one = path(&api, &plural, &text(&meta["namespace"]), &text(&meta["name"]), "");
            let sent = writer.send("DELETE", &one, "application/json", &Value::Null).await;
            if let Err(e) = sent {
                tracing::debug!(error = %e, "an object of a removed definition stays for now");
            }
        }
        if !items.is_empty() {
            return Ok(Some(AGAIN));
        }
    }
    let rest: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
    let patch = json!({"metadata": {"finalizers": rest}});
    writer.patch(&path(API, "customresourcedefinitions", "", name, ""), &patch).await?;
    Ok(None)
}

/// Lets the server judge again the definitions of a group that wait for a name.
async fn ask_again(writer: &Writer, all: &Definitions, group: &str) -> Result<(), Error> {
    let waiting = all.all();
    let waiting = waiting
        .iter()
        .filter(|o| o.data["group"] == group && o.data["waits"] == true)
        .filter_map(|o| o.metadata.name.clone());
    for name in waiting {
        let at = path(API, "customresourcedefinitions", "", &name, "status");
        match writer.patch(&at, &json!({})).await {
            Err(e) if e.code() != Some(404) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Creates the APIService of a group and version, or removes it when no definition serves that.
async fn register(
    writer: &Writer,
    all: &Definitions,
    group: &str,
    version: &str,
) -> Result<(), Error> {
    let serves =
        |o: &Arc<DynamicObject>| o.data["group"] == group && versions(o).any(|v| v == version);
    let name = format!("{version}.{group}");
    if all.all().iter().any(serves) {
        let object = json!({
            "apiVersion": SERVICES, "kind": "APIService",
            "metadata": {"name": name, "labels": {MANAGED: "true"}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": groups::CUSTOM, "versionPriority": groups::CUSTOM_VERSION},
        });
        let at = path(SERVICES, "apiservices", "", "", "");
        return match writer.send("POST", &at, "application/json", &object).await {
            Err(e) if e.code() != Some(409) => Err(e),
            _ => Ok(()),
        };
    }
    let at = path(SERVICES, "apiservices", "", &name, "");
    let request = Request::get(&at).body(vec![]).map_err(|e| Error::Request(e.to_string()))?;
    let service: Value = writer.client().request(request).await.unwrap_or_default();
    // Somebody's own is left alone.
    if service["metadata"]["labels"][MANAGED] != "true" {
        return Ok(());
    }
    match writer.send("DELETE", &at, "application/json", &Value::Null).await {
        Err(e) if e.code() != Some(404) => Err(e),
        _ => Ok(()),
    }
}
