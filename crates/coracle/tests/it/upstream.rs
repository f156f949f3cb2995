//! What kube-apiserver answered to thousands of requests, and whether we answer the same.
//! `tests/upstream/README.md` says how the answers were recorded.

use crate::{cluster::Cluster, durability::client};
use http::Request;
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
};

/// In the order in which they were recorded: later ones leave objects behind.
const FILES: [&str; 6] = ["valid", "bad", "crd", "cr", "update", "read"];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/upstream")
}

async fn send(c: &Client, request: &Value) -> (u16, Value) {
    let text = |f: &str| request[f].as_str();
    let method = text("method").unwrap();
    let default =
        if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = match &request["body"] {
        Value::Null => vec![],
        body => body.to_string().into_bytes(),
    };
    let mut builder = Request::builder()
        .method(method)
        .uri(text("path").unwrap())
        .header("accept", text("accept").unwrap_or("application/json"));
    let content_type = text("contentType").unwrap_or(default);
    if !body.is_empty() && !content_type.is_empty() {
        builder = builder.header("content-type", content_type);
    }
    let request = builder.body(Body::from(body)).unwrap();
    let response = c.send(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let plain = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| plain()))
}

/// Text without unique ids, and without the revision that an object happens to have.
fn without_ids(text: &str) -> String {
    let id = regex::Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let revision = regex::Regex::new(r"ResourceVersion in record \(\d+\)").unwrap();
    revision.replace_all(&id.replace_all(text, "UID"), "ResourceVersion in record").into_owned()
}

/// Without what no two servers agree on.
fn comparable(v: &mut Value) {
    const OWN: [&str; 8] = [
        "uid",
        "storageVersionHash",
        "deletionTimestamp",
        "creationTimestamp",
        "resourceVersion",
        "managedFields",
        "lastTransitionTime",
        "time",
    ];
    match v {
        Value::Object(map) => {
            map.retain(|k, _| !OWN.contains(&k.as_str()));
            map.values_mut().for_each(comparable);
            // Our controllers run: they put their own ConfigMap into every namespace.
            if let Some(items) = map.get_mut("items").and_then(Value::as_array_mut) {
                items.retain(|i| i["metadata"]["name"] != "kube-root-ca.crt");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(comparable),
        _ => {}
    }
}

fn causes(answer: &Value) -> Value {
    let list = answer["details"]["causes"].as_array().into_iter().flatten();
    let mut pairs: Vec<[&str; 2]> = list
        .map(|c| [c["field"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or("")])
        .collect();
    pairs.sort_unstable();
    json!(pairs)
}

/// What differs, in words; empty if nothing does.
fn difference(case: &Value, code: u16, mut answer: Value) -> String {
    let mut text = String::new();
    let mut compare = |what: &str, ours: &Value| {
        let same = || without_ids(&case[what].to_string()) == without_ids(&ours.to_string());
        if !case[what].is_null() && case[what] != *ours && !same() {
            writeln!(text, "  {what}: upstream {}\n  {what}: we       {ours}", case[what]).unwrap();
        }
    };
    compare("code", &json!(code));
    if case["code"] == code {
        compare("causes", &causes(&answer));
        compare("message", answer.get("message").unwrap_or(&answer));
        comparable(&mut answer);
        compare("answer", &answer);
    }
    text
}

/// Runs one file's cases; gives the names of all, and what differs.
async fn run(
    c: &Client,
    file: &str,
    all: &mut BTreeSet<String>,
    wrong: &mut BTreeMap<String, String>,
) {
    let path = directory().join(format!("{file}.jsonl"));
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        for request in case["setup"].as_array().into_iter().flatten() {
            send(c, request).await;
        }
        let Some(id) = case["id"].as_str() else { continue };
        let (code, answer) = send(c, &case).await;
        let difference = difference(&case, code, answer);
        all.insert(id.to_owned());
        if !difference.is_empty() {
            wrong.insert(id.to_owned(), difference);
        }
    }
}

/// The names in `known.txt`, with the lines they stand in.
fn known() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(directory().join("known.txt")).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    lines.map(|l| (l.split_whitespace().next().unwrap_or("").to_owned(), l.to_owned())).collect()
}

#[test]
fn refusals_and_answers_are_upstreams() {
    let cluster = Cluster::start(&[
        "--no-default-nodepool",
        "--in-memory",
        "--disable-admission-plugins=ServiceAccount",
    ]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut all, mut wrong) = (BTreeSet::new(), BTreeMap::new());
    runtime.block_on(async {
        let c = client(&cluster.kubeconfig()).await;
        for file in FILES {
            run(&c, file, &mut all, &mut wrong).await;
        }
    });
    if let Ok(wanted) = std::env::var("UPSTREAM_DIFF") {
        for (id, difference) in wrong.iter().filter(|(id, _)| id.starts_with(&wanted)) {
            println!("{id}\n{difference}");
        }
    }
    println!("{} of {} answers are upstream's", all.len() - wrong.len(), all.len());
    let known = known();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let lines: Vec<&String> = wrong.keys().map(|id| known.get(id).unwrap_or(id)).collect();
        let text = lines.iter().fold(String::new(), |text, l| text + l + "\n");
        std::fs::write(directory().join("known.txt"), text).unwrap();
        return;
    }
    let new: String = wrong
        .iter()
        .filter(|(id, _)| !known.contains_key(*id))
        .map(|(id, d)| format!("{id}\n{d}"))
        .collect();
    assert!(new.is_empty(), "answers that differ, and did not:\n{new}");
    let gone: Vec<&String> = known.keys().filter(|id| !wrong.contains_key(*id)).collect();
    assert!(gone.is_empty(), "these are upstream's now, take them out of known.txt: {gone:#?}");
}
