//! Removal of a deleted CustomResourceDefinition's objects, then of the definition.

use crate::{
    Stop,
    api::{Writer, path},
    informer::{Informer, Key, key},
    queue::Queue,
};
use http::Request;
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Starts the controller.
pub fn start(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk(&gvk);
    // Only names and deletion matter: schemas would be most of the memory.
    let trim = |o: &mut DynamicObject| {
        let spec = &o.data["spec"];
        let versions: Vec<Value> = spec["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|v| v["served"] == true)
            .map(|v| v["name"].clone())
            .collect();
        o.data = json!({"group": spec["group"], "plural": spec["names"]["plural"], "versions": versions});
    };
    let informer: Arc<Informer<DynamicObject>> =
        Informer::start(Api::all_with(client.clone(), &resource), trim, None, stop, tasks);
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    informer.on_change(move |c| {
        if let Some(o) = c.new.filter(|o| o.metadata.deletion_timestamp.is_some()) {
            q.add(key(&**o));
        }
    });
    let writer = Writer::new(client, "definition-cleanup");
    queue.work("definition-cleanup", 2, stop, tasks, move |k| {
        let (informer, writer) = (informer.clone(), writer.clone());
        async move {
            let Some(crd) = informer.get("", &k.1) else { return Ok(None) };
            let finalizers = crd.metadata.finalizers.clone().unwrap_or_default();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                return Ok(None);
            }
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let (group, plural) = (text(&crd.data["group"]), text(&crd.data["plural"]));
            if let Some(version) = crd.data["versions"].as_array().and_then(|v| v.first()) {
                let at = path(&format!("{group}/{}", text(version)), &plural, "", "", "");
                let request = Request::builder().uri(&at).body(vec![]).map_err(|e| crate::api::Error::Request(e.to_string()))?;
                let list: Value = writer.client().request(request).await.unwrap_or_default();
                let items = list["items"].as_array().cloned().unwrap_or_default();
                for i in items.iter().filter(|i| i["metadata"]["deletionTimestamp"].is_null()) {
                    let one = path(&format!("{group}/{}", text(version)), &plural, &text(&i["metadata"]["namespace"]), &text(&i["metadata"]["name"]), "");
                    if let Err(e) = writer.send("DELETE", &one, "application/json", &Value::Null).await {
                        tracing::debug!(error = %e, "an object of a removed definition stays for now");
                    }
                }
                if !items.is_empty() {
                    return Ok(Some(Duration::from_millis(300)));
                }
            }
            let rest: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
            let patch = json!({"metadata": {"finalizers": rest}});
            writer.patch(&path("apiextensions.k8s.io/v1", "customresourcedefinitions", "", &k.1, ""), &patch).await?;
            Ok(None)
        }
    });
}
