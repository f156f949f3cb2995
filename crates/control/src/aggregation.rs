//! Whether aggregated API servers answer: the `Available` condition of APIServices, and the APIServices
//! of the groups that the API server itself serves.

use crate::{
    Stop,
    api::{Writer, path},
    informer::{Informer, Key, key},
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

/// How often a server that answered is asked again, as upstream.
const AGAIN: Duration = Duration::from_secs(30);
/// How soon one that did not.
const RETRY: Duration = Duration::from_secs(2);
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(6);
const API: &str = "apiregistration.k8s.io/v1";

/// Starts the controller.
pub(crate) fn start(client: &Client, stop: &Stop, tasks: &mut JoinSet<()>) {
    let gvk = GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService");
    let resource = ApiResource::from_gvk(&gvk);
    let informer: Arc<Informer<DynamicObject>> =
        Informer::start(Api::all_with(client.clone(), &resource), |_| {}, None, stop, tasks);
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    informer.on_change(move |c| {
        if let Some(o) = c.new {
            q.add(key(&**o));
        }
    });
    let writer = Writer::new(client, "kube-aggregator");
    let registrar = Writer::new(client, "kube-aggregator");
    queue.work("api-services", 2, stop, tasks, move |k| {
        let (informer, writer) = (informer.clone(), writer.clone());
        async move {
            let Some(service) = informer.get("", &k.1) else { return Ok(None) };
            let spec = &service.data["spec"];
            let (status, reason, message) = if spec["service"].is_object() {
                judge(&writer, spec).await
            } else {
                ("True", "Local", "Local APIServices are always available".to_owned())
            };
            let again = if !spec["service"].is_object() {
                None
            } else if status == "True" {
                Some(AGAIN)
            } else {
                Some(RETRY)
            };
            let old = service.data["status"]["conditions"]
                .as_array()
                .and_then(|c| c.iter().find(|c| c["type"] == "Available"))
                .cloned()
                .unwrap_or_default();
            if old["status"] == status && old["reason"] == reason && old["message"] == *message {
                return Ok(again);
            }
            let since = if old["status"] == status {
                old["lastTransitionTime"].clone()
            } else {
                json!(coracle_meta::time::rfc3339(jiff::Timestamp::now()))
            };
            let condition = json!({"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
            let at = path(API, "apiservices", "", &k.1, "status");
            writer.patch(&at, &json!({"status": {"conditions": [condition]}})).await?;
            Ok(again)
        }
    });
    tasks.spawn(async move { register(&registrar).await });
}

/// What the server behind an APIService is like: status, reason, message.
async fn judge(writer: &Writer, spec: &Value) -> (&'static str, &'static str, String) {
    let text = |v: &Value, f: &str| v[f].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&spec["service"], "namespace"), text(&spec["service"], "name"));
    let port = spec["service"]["port"].as_i64().unwrap_or(443);
    let service = get(writer, &path("v1", "services", &namespace, &name, "")).await;
    let Ok(service) = service else {
        let why = format!("service/{name} in {namespace:?} is not present");
        return ("False", "ServiceNotFound", why);
    };
    let spec_of_service = &service["spec"];
    if text(spec_of_service, "type") == "ClusterIP" {
        let ports = spec_of_service["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !ports.iter().any(|p| p["port"].as_i64() == Some(port)) {
            let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
            return ("False", "ServicePortError", why);
        }
        let selector = format!("?labelSelector=kubernetes.io%2Fservice-name%3D{name}");
        let at = path("discovery.k8s.io/v1", "endpointslices", &namespace, "", "") + &selector;
        let slices = get(writer, &at).await.unwrap_or_default();
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        if slices.is_empty() {
            let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
            return ("False", "EndpointsNotFound", why);
        }
        let port_name = ports
            .iter()
            .find(|p| p["port"].as_i64() == Some(port))
            .map(|p| text(p, "name"))
            .unwrap_or_default();
        let ready = slices.iter().any(|s| {
            let named = s["ports"].as_array().into_iter().flatten();
            let mut named = named.into_iter();
            named.any(|p| text(p, "name") == port_name)
                && s["endpoints"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|e| e["conditions"]["ready"] != false)
        });
        if !ready {
            let why = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            return ("False", "MissingEndpoints", why);
        }
    }
    // Through the API server, as any client's request would go.
    let at = format!("/apis/{}/{}", text(spec, "group"), text(spec, "version"));
    match tokio::time::timeout(PATIENCE, get(writer, &at)).await {
        Ok(Ok(_)) => ("True", "Passed", "all checks passed".into()),
        Ok(Err(e)) => {
            let why = format!("failing or missing response from {at}: {e}");
            ("False", "FailedDiscoveryCheck", why)
        }
        Err(_) => ("False", "FailedDiscoveryCheck", format!("timed out waiting for {at}")),
    }
}

async fn get(writer: &Writer, at: &str) -> Result<Value, String> {
    let request = Request::get(at).body(vec![]).map_err(|e| e.to_string())?;
    writer.client().request(request).await.map_err(|e: kube::Error| e.to_string())
}

/// Registers the groups that the API server serves by itself.
async fn register(writer: &Writer) {
    for (group, priority, versions) in
        // The aggregator does not register itself.
        groups::BUILT_IN.iter().filter(|(g, ..)| *g != "apiregistration.k8s.io")
    {
        for (version, version_priority) in *versions {
            let name = format!("{version}.{group}");
            let object = json!({
                "apiVersion": API, "kind": "APIService",
                "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
                "spec": {"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": version_priority},
            });
            let at = path(API, "apiservices", "", "", "");
            // One that is there already is as it should be, or somebody's own.
            if let Err(e) = writer.send("POST", &at, "application/json", &object).await {
                tracing::debug!(error = %e, name, "an APIService was not created");
            }
        }
    }
}
