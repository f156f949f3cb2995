//! Real operators' definitions, where they are there: all load, are served at once, and explain
//! themselves.

use crate::{
    cluster::{Cluster, root},
    durability::client,
};
use coracle_schema::{Minor, pack};
use futures::StreamExt;
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;

async fn get(c: &Client, path: &str) -> Value {
    c.request(Request::get(path).body(vec![]).unwrap()).await.unwrap()
}

/// Definitions by name; where several files have one, the first.
fn files() -> Option<BTreeMap<String, Value>> {
    let directory = root().join("../shared/data/crds");
    if !directory.is_dir() {
        println!("skipped: {} is not there", directory.display());
        return None;
    }
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut all = BTreeMap::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(v) = serde_saphyr::from_str::<Value>(&text) else { continue };
        // Among them are patches for kustomize, and one of a version that is no longer served.
        let whole = v["apiVersion"] == "apiextensions.k8s.io/v1" && v["spec"]["group"].is_string();
        // A built-in kind stays what it is, whatever a definition of its name says.
        let plural = &v["spec"]["names"]["plural"];
        let mut built_in = pack::of(Minor::LATEST).kinds.iter();
        let whole =
            whole && !built_in.any(|k| v["spec"]["group"] == *k.group && *plural == *k.plural);
        if let (true, Some(name)) = (whole, v["metadata"]["name"].as_str()) {
            all.entry(name.to_owned()).or_insert(v);
        }
    }
    Some(all)
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

#[test]
fn real_definitions_load_serve_and_explain() {
    let Some(definitions) = files() else { return };
    assert!(definitions.len() > 120, "{}", definitions.len());
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let c = client(&cluster.kubeconfig()).await;
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (before, started) = (resident_mib(cluster.pid()), std::time::Instant::now());
        let there: Vec<String> = get(&c, crds).await["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        // Some are Coracle's own words already.
        let mut definitions = definitions;
        definitions.retain(|name, _| !there.contains(name));
        let new = definitions.iter();
        let created: Vec<Result<Value, String>> = futures::stream::iter(new)
            .map(|(name, v)| {
                let c = c.clone();
                async move {
                    let request = Request::post(crds).header("content-type", "application/json");
                    let request = request.body(v.to_string().into_bytes()).unwrap();
                    c.request::<Value>(request).await.map_err(|e| format!("{name}: {e}"))
                }
            })
            .buffer_unordered(4)
            .collect()
            .await;
        let failures: Vec<&String> = created.iter().filter_map(|r| r.as_ref().err()).collect();
        assert!(failures.is_empty(), "{failures:#?}");
        let (n, took) = (created.len(), started.elapsed());
        let mib = resident_mib(cluster.pid()) - before;
        println!("{n} definitions in {took:?}, {:.2} MiB each", mib / n as f64);

        // Served at once, at every version that says so.
        for v in definitions.values() {
            let (group, plural) = (
                v["spec"]["group"].as_str().unwrap(),
                v["spec"]["names"]["plural"].as_str().unwrap(),
            );
            for version in v["spec"]["versions"].as_array().unwrap() {
                if version["served"] == true {
                    let path =
                        format!("/apis/{group}/{}/{plural}", version["name"].as_str().unwrap());
                    let list = get(&c, &path).await;
                    assert_eq!(list["items"], json!([]), "{path}");
                }
            }
        }
        // Each has its schema among the group's, with its description.
        let index = get(&c, "/openapi/v3").await;
        for v in definitions.values() {
            let group = v["spec"]["group"].as_str().unwrap();
            let version = &v["spec"]["versions"][0];
            if version["served"] != true {
                continue;
            }
            let path = format!("apis/{group}/{}", version["name"].as_str().unwrap());
            let url = index["paths"][&path]["serverRelativeURL"].as_str().unwrap();
            let document = get(&c, url).await;
            let kind = v["spec"]["names"]["kind"].as_str().unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let found =
                schemas.values().find(|s| s["x-kubernetes-group-version-kind"][0]["kind"] == kind);
            let described = &version["schema"]["openAPIV3Schema"]["description"];
            assert_eq!(found.unwrap()["description"], *described, "{path} {kind}");
        }
    });
    if !cluster.kubectl_has(27, "explain by OpenAPI v3") {
        return;
    }
    let text = cluster.kubectl(&["explain", "nodeclaims.spec.requirements"]);
    assert!(text.contains("key\t<string> -required-"), "{text}");
    let text = cluster.kubectl(&[
        "explain",
        "workloads.spec.podSets",
        "--api-version=kueue.x-k8s.io/v1beta1",
    ]);
    assert!(text.contains("template"), "{text}");
}

fn simple(plural: &str, kind: &str, short: &str) -> String {
    serde_json::json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.sky.example.com")},
        "spec": {"group": "sky.example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "shortNames": [short]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
    .to_string()
}

fn condition(c: &Cluster, plural: &str, of: &str) -> String {
    let name = format!("{plural}.sky.example.com");
    let v = c.json(&["get", "crd", &name]);
    let all = v["status"]["conditions"].as_array().unwrap();
    all.iter().find(|c| c["type"] == of).map_or(String::new(), |c| {
        format!("{} {}: {}", c["status"], c["reason"], c["message"]).replace('"', "'")
    })
}

#[test]
fn a_name_belongs_to_one_definition_of_a_group() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    c.apply(&simple("kites", "Kite", "ki"));
    assert_eq!(
        condition(&c, "kites", "Established"),
        "'True' 'InitialNamesAccepted': 'the initial names have been accepted'"
    );
    c.eventually("its APIService", || {
        c.try_kubectl(&["get", "apiservice", "v1.sky.example.com"]).status.success().then_some(())
    });
    // The short name is taken: the other one is not served.
    c.apply(&simple("kiwis", "Kiwi", "ki"));
    let taken = condition(&c, "kiwis", "NamesAccepted");
    assert_eq!(taken, "'False' 'ShortNamesConflict': '\\'ki\\' is already in use'");
    let established = condition(&c, "kiwis", "Established");
    assert_eq!(established, "'False' 'NotAccepted': 'not all names are accepted'");
    assert!(c.kubectl_error(&["get", "kiwis"]).contains("doesn't have a resource type"));

    // What is being removed takes no new objects, and says so.
    let kite = r#"{"apiVersion":"sky.example.com/v1","kind":"Kite","metadata":{"name":"k","namespace":"default","finalizers":["example.com/hold"]}}"#;
    c.apply(kite);
    c.kubectl(&["delete", "crd", "kites.sky.example.com", "--wait=false"]);
    let going = condition(&c, "kites", "Terminating");
    assert!(going.starts_with("'True' 'InstanceDeletionInProgress'"), "{going}");
    let path = "/apis/sky.example.com/v1/namespaces/default/kites";
    let another = c.directory.path().join("kite.json");
    std::fs::write(&another, kite.replace("\"k\"", "\"k2\"")).unwrap();
    let error = c.kubectl_error(&["create", "--raw", path, "-f", another.to_str().unwrap()]);
    assert!(
        error.contains("create not allowed while custom resource definition is terminating"),
        "{error}"
    );
    let free = r#"{"metadata":{"finalizers":null}}"#;
    c.kubectl(&["patch", "kite", "k", "--type=merge", "-p", free]);
    // When it is gone, the name goes to who waits for it.
    c.eventually("the other definition", || {
        condition(&c, "kiwis", "Established").starts_with("'True'").then_some(())
    });
    // (By its long name: kubectl remembers who had the short one.)
    c.eventually("its discovery", || {
        c.try_kubectl(&["get", "kiwis"]).status.success().then_some(())
    });
    c.kubectl(&["delete", "crd", "kiwis.sky.example.com"]);
    c.eventually("no APIService", || {
        (!c.try_kubectl(&["get", "apiservice", "v1.sky.example.com"]).status.success())
            .then_some(())
    });
}
