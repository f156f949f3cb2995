//! Namespaces: a default service account and the authority's certificate in each, and removal of
//! everything in one that is deleted, pods first (KEP-5080).

use crate::{
    Stop,
    api::{Error, Writer, path},
    informer::{Key, key},
    queue::Queue,
    world::World,
};
use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// A namespace whose content takes time to go is looked at again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Starts the namespace, service account and root CA controllers.
pub fn start(
    world: &Arc<World>,
    clients: &Arc<dyn Fn(&str) -> Client + Send + Sync>,
    ca_pem: &str,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let q = queue.clone();
    world.namespaces.on_change(move |c| {
        if let Some(n) = c.new {
            q.add(key(&**n));
        }
    });
    let q = queue.clone();
    world.service_accounts.on_change(move |c| {
        if c.new.is_none() {
            c.old.iter().for_each(|s| {
                q.add((String::new(), s.metadata.namespace.clone().unwrap_or_default()))
            });
        }
    });
    let accounts = Writer::new(&clients("service-account-controller"), "serviceaccount-controller");
    let publisher =
        Writer::new(&clients("root-ca-cert-publisher"), "root-ca-certificate-publisher");
    let remover = Writer::new(&clients("namespace-controller"), "namespace-controller");
    let (world, ca) = (world.clone(), ca_pem.to_owned());
    queue.work("namespaces", 4, stop, tasks, move |k| {
        let (world, ca) = (world.clone(), ca.clone());
        let (accounts, publisher, remover) = (accounts.clone(), publisher.clone(), remover.clone());
        async move {
            let Some(ns) = world.namespaces.get("", &k.1) else { return Ok(None) };
            if ns.metadata.deletion_timestamp.is_some() {
                return remove(&remover, &ns).await;
            }
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": k.1}});
            ensure(&accounts, "serviceaccounts", &k.1, &account).await?;
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": k.1,
                "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver."}}, "data": {"ca.crt": ca}});
            ensure(&publisher, "configmaps", &k.1, &map).await?;
            Ok(None)
        }
    });
}

async fn ensure(
    writer: &Writer,
    plural: &str,
    namespace: &str,
    object: &Value,
) -> Result<(), Error> {
    match writer
        .send("POST", &path("v1", plural, namespace, "", ""), "application/json", object)
        .await
    {
        Err(e) if !e.is_conflict() && e.code() != Some(404) && e.code() != Some(403) => Err(e),
        _ => Ok(()),
    }
}

async fn get(writer: &Writer, path: &str) -> Result<Value, Error> {
    let request =
        Request::builder().uri(path).body(vec![]).map_err(|e| Error::Request(e.to_string()))?;
    let what = format!("GET {path}");
    writer.client().request(request).await.map_err(|e| Error::Api { what, source: Box::new(e) })
}

/// Collections that hold objects of namespaces: `group/version` and plural.
pub(crate) async fn collections(
    writer: &Writer,
    namespaced: bool,
) -> Result<Vec<(String, String)>, Error> {
    let mut versions = vec!["v1".to_owned()];
    let groups = get(writer, "/apis").await?;
    for g in groups["groups"].as_array().into_iter().flatten() {
        versions.extend(g["preferredVersion"]["groupVersion"].as_str().map(str::to_owned));
    }
    let mut found = Vec::new();
    for gv in versions {
        let root = if gv.contains('/') { "apis" } else { "api" };
        let list = get(writer, &format!("/{root}/{gv}")).await?;
        for r in list["resources"].as_array().into_iter().flatten() {
            let has = |v: &str| r["verbs"].as_array().is_some_and(|a| a.iter().any(|x| x == v));
            let name = r["name"].as_str().unwrap_or_default();
            if r["namespaced"] == namespaced
                && has("list")
                && has("deletecollection")
                && !name.contains('/')
            {
                found.push((gv.clone(), name.to_owned()));
            }
        }
    }
    // Both groups of events hold the same objects.
    found.retain(|(gv, name)| !(name == "events" && gv != "v1"));
    Ok(found)
}

async fn remove(writer: &Writer, ns: &Namespace) -> Result<Option<Duration>, Error> {
    let name = ns.metadata.name.clone().unwrap_or_default();
    if ns
        .spec
        .as_ref()
        .and_then(|s| s.finalizers.as_ref())
        .is_none_or(|f| !f.iter().any(|x| x == "kubernetes"))
    {
        return Ok(None);
    }
    let mut all = collections(writer, true).await?;
    // Pods go first, so that nothing that they need goes before them.
    all.sort_by_key(|(_, plural)| plural != "pods");
    let mut left = Vec::new();
    for (gv, plural) in &all {
        let at = path(gv, plural, &name, "", "");
        let list = get(writer, &at).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        if items.is_empty() {
            continue;
        }
        if items.iter().any(|i| i["metadata"]["deletionTimestamp"].is_null()) {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
            writer.send("DELETE", &at, "application/json", &options).await?;
        }
        let rest = get(writer, &at).await?["items"].as_array().map_or(0, Vec::len);
        if rest > 0 {
            left.push(format!("{plural} has {rest} resource instances"));
        }
        if plural == "pods" && rest > 0 {
            break;
        }
    }
    if !left.is_empty() {
        let message = format!("Some resources are remaining: {}", left.join(", "));
        let now = coracle_meta::time::rfc3339(jiff::Timestamp::now());
        let condition = json!({"type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain", "message": message, "lastTransitionTime": now});
        let conditions =
            ns.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let known = conditions.into_iter().any(|c| {
            c.type_ == "NamespaceContentRemaining" && c.message.as_deref() == Some(&message)
        });
        if !known {
            writer
                .patch(
                    &path("v1", "namespaces", "", &name, "status"),
                    &json!({"status": {"conditions": [condition]}}),
                )
                .await?;
        }
        return Ok(Some(AGAIN));
    }
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": ns.metadata.resource_version}, "spec": {"finalizers": []}});
    match writer
        .send("PUT", &path("v1", "namespaces", "", &name, "finalize"), "application/json", &body)
        .await
    {
        Err(e) if e.code() != Some(404) => Err(e),
        _ => Ok(None),
    }
}
