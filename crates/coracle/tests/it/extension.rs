//! The API is extended by other servers: conversion webhooks and aggregated API servers.

use crate::{cluster::Cluster, durability::client, https};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Request};
use kube::Client;
use serde_json::{Value, json};
use std::time::Duration;

async fn ask(c: &Client, method: &str, path: &str, body: Value) -> Result<Value, kube::Error> {
    let patch = method == "PATCH";
    let kind = if patch { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    c.request(request.body(body).unwrap()).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn status(e: &kube::Error) -> (u16, &str) {
    match e {
        kube::Error::Api(s) => (s.code, &s.message),
        other => panic!("{other}"),
    }
}

/// `v1` has `spec.hostPort`, `v2` has `spec.host` and `spec.port`.
fn converts(_: &str, _: &HeaderMap, review: &Value) -> (u16, Value) {
    let request = &review["request"];
    let convert = |o: &Value| {
        let mut o = o.clone();
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        if o["apiVersion"] == wanted {
            return o;
        }
        o["apiVersion"] = json!(wanted);
        o["spec"] = if wanted.ends_with("v1") {
            let spec = &o["spec"];
            json!({"hostPort": format!("{}:{}", spec["host"].as_str().unwrap(), spec["port"])})
        } else {
            let both = o["spec"]["hostPort"].as_str().unwrap_or(":");
            let (host, port) = both.split_once(':').unwrap();
            json!({"host": host, "port": port.parse::<u16>().unwrap_or(0)})
        };
        o
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(convert).collect();
    if objects.iter().any(|o| o["metadata"]["name"] == "bad") {
        let result = json!({"status": "Failure", "message": "bad cannot be converted"});
        return (
            200,
            json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview",
            "response": {"uid": request["uid"], "result": result}}),
        );
    }
    let response = json!({"uid": request["uid"], "convertedObjects": objects,
        "result": {"status": "Success"}});
    let review = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response});
    (200, review)
}

fn endpoints(webhook: &https::Https, storage: &str) -> Value {
    let version = |name: &str, spec: Value| {
        json!({"name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": spec}}}}})
    };
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port),
        "caBundle": STANDARD.encode(&webhook.ca_pem)});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "endpoints.net.example.com"},
        "spec": {"group": "net.example.com", "scope": "Namespaced",
            "names": {"plural": "endpoints", "kind": "Endpoint"},
            "conversion": {"strategy": "Webhook", "webhook":
                {"clientConfig": client, "conversionReviewVersions": ["v1"]}},
            "versions": [version("v1", json!({"hostPort": {"type": "string"}})),
                version("v2", json!({"host": {"type": "string"}, "port": {"type": "integer"}}))]}})
}

#[test]
fn a_conversion_webhook_lets_every_version_be_used() {
    const V1: &str = "/apis/net.example.com/v1/namespaces/default/endpoints";
    const V2: &str = "/apis/net.example.com/v2/namespaces/default/endpoints";
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    runtime().block_on(async {
        let c = client(&cluster.kubeconfig()).await;
        let webhook = https::serve(&["127.0.0.1"], None, converts).await;
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        ask(&c, "POST", crds, endpoints(&webhook, "v1")).await.unwrap();
        let object = |name: &str, version: &str, spec: Value| {
            json!({"apiVersion": format!("net.example.com/{version}"), "kind": "Endpoint",
                "metadata": {"name": name}, "spec": spec})
        };
        // Written at one version, read and changed at the other.
        let made =
            ask(&c, "POST", V2, object("a", "v2", json!({"host": "h", "port": 80}))).await.unwrap();
        assert_eq!(made["spec"], json!({"host": "h", "port": 80}));
        let one = ask(&c, "GET", &format!("{V1}/a"), Value::Null).await.unwrap();
        assert_eq!(one["spec"], json!({"hostPort": "h:80"}));
        let patch = json!({"spec": {"port": 81}});
        ask(&c, "PATCH", &format!("{V2}/a"), patch).await.unwrap();
        ask(&c, "POST", V1, object("b", "v1", json!({"hostPort": "g:1"}))).await.unwrap();
        let list = ask(&c, "GET", V2, Value::Null).await.unwrap();
        let specs: Vec<&Value> =
            list["items"].as_array().unwrap().iter().map(|o| &o["spec"]).collect();
        assert_eq!(specs, [&json!({"host": "h", "port": 81}), &json!({"host": "g", "port": 1})]);
        // What the webhook refuses is told, and nothing is stored.
        let bad = ask(&c, "POST", V2, object("bad", "v2", json!({"host": "h", "port": 1}))).await;
        let (code, message) = status(bad.as_ref().unwrap_err()).to_owned();
        assert!(code == 500 && message.contains("bad cannot be converted"), "{code} {message}");
        let list = ask(&c, "GET", V1, Value::Null).await.unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        // A new storage version: what was stored at the old one is still read, and rewritten.
        let mut definition = endpoints(&webhook, "v2");
        let there = ask(&c, "GET", &format!("{crds}/endpoints.net.example.com"), Value::Null).await;
        definition["metadata"]["resourceVersion"] =
            there.unwrap()["metadata"]["resourceVersion"].clone();
        let path = format!("{crds}/endpoints.net.example.com");
        let d = ask(&c, "PUT", &path, definition).await.unwrap();
        assert_eq!(d["status"]["storedVersions"], json!(["v1", "v2"]));
        let one = ask(&c, "GET", &format!("{V2}/b"), Value::Null).await.unwrap();
        assert_eq!(one["spec"], json!({"host": "g", "port": 1}));
    });
}

/// Two resources of `metrics.example.com/v1`, and who asked.
fn aggregated(path: &str, headers: &HeaderMap, _: &Value) -> (u16, Value) {
    let path = path.split('?').next().unwrap();
    match path {
        "/apis/metrics.example.com/v1" => (
            200,
            json!({"kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": "metrics.example.com/v1",
                "resources": [{"name": "meters", "singularName": "meter", "namespaced": false,
                    "kind": "Meter", "verbs": ["get", "list"]}]}),
        ),
        "/apis/metrics.example.com/v1/meters/m" => {
            let header = |n: &str| headers.get(n).map_or("", |v| v.to_str().unwrap());
            (
                200,
                json!({"apiVersion": "metrics.example.com/v1", "kind": "Meter",
                    "metadata": {"name": "m"}, "user": header("x-remote-user"),
                    "authorization": header("authorization")}),
            )
        }
        _ => (
            404,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "message": format!("{path} is not here"), "reason": "NotFound"}),
        ),
    }
}

#[test]
fn an_aggregated_server_answers_for_its_group() {
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    // The other server lives as long as this.
    let runtime = runtime();
    runtime.block_on(async {
        let c = client(&cluster.kubeconfig()).await;
        // As every aggregated server does, it learns from the cluster whose headers to believe.
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let trust = ask(&c, "GET", path, Value::Null).await.unwrap();
        let ca = trust["data"]["requestheader-client-ca-file"].as_str().unwrap().to_owned();
        let names = ["meters.default.svc", "localhost"];
        let server = https::serve(&names, Some(&ca), aggregated).await;
        let service = json!({"metadata": {"name": "meters"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        ask(&c, "POST", "/api/v1/namespaces/default/services", service).await.unwrap();
        let spec = json!({"group": "metrics.example.com", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10,
            "caBundle": STANDARD.encode(&server.ca_pem),
            "service": {"namespace": "default", "name": "meters", "port": server.port}});
        let api = json!({"metadata": {"name": "v1.metrics.example.com"}, "spec": spec});
        let apis = "/apis/apiregistration.k8s.io/v1/apiservices";
        ask(&c, "POST", apis, api).await.unwrap();
        let meter = "/apis/metrics.example.com/v1/meters/m";
        let mut seen = ask(&c, "GET", meter, Value::Null).await;
        for _ in 0..100 {
            if seen.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            seen = ask(&c, "GET", meter, Value::Null).await;
        }
        // The caller is told in headers; its own credentials are not passed on.
        let seen = seen.unwrap();
        assert_eq!(seen["user"], "kubernetes-admin", "{seen}");
        assert_eq!(seen["authorization"], "");
        let missing = ask(&c, "GET", "/apis/metrics.example.com/v1/none/x", Value::Null).await;
        assert_eq!(status(missing.as_ref().unwrap_err()).0, 404);
    });
    cluster.eventually("it is available", || {
        let out = cluster.kubectl(&["get", "apiservice", "v1.metrics.example.com"]);
        out.contains("True").then_some(())
    });
    cluster.eventually("its resources are discovered", || {
        let out = cluster.kubectl(&["api-resources", "--api-group=metrics.example.com"]);
        out.contains("meters").then_some(())
    });
    let out = cluster.kubectl(&["get", "meters", "m", "-o", "jsonpath={.metadata.name}"]);
    assert_eq!(out, "m");
    cluster.kubectl(&["delete", "apiservice", "v1.metrics.example.com"]);
    cluster.eventually("its group is gone", || {
        let out = cluster.try_kubectl(&["get", "--raw", "/apis/metrics.example.com/v1"]);
        (!out.status.success()).then_some(())
    });
}
