//! The protobuf form through the door: what a Go client asks for, held against the JSON form.

use crate::{cluster::Cluster, durability::client};
use coracle_schema::{Minor, pack, protobuf};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn send(
    c: &Client,
    method: &str,
    path: &str,
    accept: &str,
    body: Vec<u8>,
) -> (StatusCode, String, Vec<u8>) {
    let content = if body.starts_with(b"k8s\0") { PROTOBUF } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("accept", accept);
    let request = request.header("content-type", content).body(body.into()).unwrap();
    let response = c.send(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    (status, headers["content-type"].to_str().unwrap().to_owned(), bytes)
}

async fn get(c: &Client, path: &str, accept: &str) -> (StatusCode, String, Vec<u8>) {
    send(c, "GET", path, accept, vec![]).await
}

async fn json(c: &Client, path: &str) -> Value {
    serde_json::from_slice(&get(c, path, "application/json").await.2).unwrap()
}

/// Reads a sealed object of a kind by its JSON name.
fn open(bytes: &[u8]) -> Value {
    let e = protobuf::envelope(bytes).unwrap();
    let pack = pack::of(Minor::LATEST);
    let kind = pack.kinds.iter().find(|k| k.api_version() == e.api_version && k.kind == e.kind);
    let slot = kind.map(|k| k.root().clone()).unwrap_or_else(|| {
        let id = pack.arena.find(&format!("meta.v1.{}", e.kind)).unwrap();
        coracle_schema::Slot::of(coracle_schema::Type::Object(id))
    });
    let mut v = protobuf::decode(&pack.arena, &slot, e.raw).unwrap();
    v["apiVersion"] = json!(e.api_version);
    v["kind"] = json!(e.kind);
    v
}

/// Fields of a message, as number and bytes; what is no message is left out.
fn parts(mut b: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(b: &mut &[u8]) -> u64 {
        let mut n = 0;
        for shift in (0..).step_by(7) {
            let byte = b[0];
            *b = &b[1..];
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        n
    }
    let mut out = Vec::new();
    while !b.is_empty() {
        let key = varint(&mut b);
        let n = varint(&mut b);
        if key & 7 == 2 {
            let (inner, rest) = b.split_at(usize::try_from(n).unwrap());
            out.push((key >> 3, inner));
            b = rest;
        }
    }
    out
}

#[test]
fn every_answer_can_be_protobuf() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let c = client(&c.kubeconfig()).await;
        let maps = "/api/v1/namespaces/default/configmaps";
        let v = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p", "labels": {"a": "b"}}, "data": {"k": "v", "z": ""}, "binaryData": {"b": "AAEC"}});
        let pack = pack::of(Minor::LATEST);
        let kind = pack.kinds.iter().find(|k| k.plural == "configmaps").unwrap();
        let body = protobuf::seal("v1", "ConfigMap", &protobuf::encode(kind.arena(), kind.root(), &v));
        let (status, content, created) = send(&c, "POST", maps, PROTOBUF, body).await;
        assert_eq!((status, content.as_str()), (StatusCode::CREATED, PROTOBUF));
        let stored = json(&c, &format!("{maps}/p")).await;
        assert_eq!(open(&created), stored);
        assert_eq!(stored["data"], json!({"k": "v", "z": ""}));
        let (_, content, bytes) =
            get(&c, &format!("{maps}/p"), "application/vnd.kubernetes.protobuf,application/json").await;
        assert_eq!((content.as_str(), open(&bytes)), (PROTOBUF, stored.clone()));

        // Every kind that is there, as a list.
        for path in ["/api/v1/namespaces", "/api/v1/services", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/scheduling.k8s.io/v1/priorityclasses", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"] {
            let want = json(&c, path).await;
            let (_, content, bytes) = get(&c, path, PROTOBUF).await;
            assert_eq!(content, PROTOBUF, "{path}");
            let e = protobuf::envelope(&bytes).unwrap();
            assert_eq!(e.kind, want["kind"], "{path}");
            let items: Vec<&[u8]> = parts(e.raw).into_iter().filter(|(n, _)| *n == 2).map(|(_, b)| b).collect();
            let wanted = want["items"].as_array().unwrap();
            assert_eq!(items.len(), wanted.len(), "{path}");
            let name = e.kind.strip_suffix("List").unwrap();
            let kind = pack.kinds.iter().find(|k| k.kind == name && k.api_version() == e.api_version).unwrap();
            for (item, want) in items.iter().zip(wanted) {
                let mut want = want.clone();
                for f in ["apiVersion", "kind"] { want.as_object_mut().unwrap().remove(f); }
                assert_eq!(protobuf::decode(kind.arena(), kind.root(), item).unwrap(), want, "{path}");
            }
        }

        // Errors, subresources and metadata alone.
        let (status, content, bytes) = get(&c, &format!("{maps}/none"), PROTOBUF).await;
        assert_eq!((status, content.as_str()), (StatusCode::NOT_FOUND, PROTOBUF));
        assert_eq!(open(&bytes)["message"], "configmaps \"none\" not found");
        let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        let (_, _, bytes) = get(&c, &format!("{maps}/p"), &metadata).await;
        let e = protobuf::envelope(&bytes).unwrap();
        assert_eq!((e.api_version.as_str(), e.kind.as_str()), ("meta.k8s.io/v1", "PartialObjectMetadata"));
        let meta = protobuf::decode(&pack.arena, &pack.object_meta, parts(e.raw)[0].1).unwrap();
        assert_eq!(meta, stored["metadata"]);
        // Custom resources have no such form: the next best, or none.
        let pools = "/apis/karpenter.sh/v1/nodepools";
        assert_eq!(get(&c, pools, PROTOBUF).await.0, StatusCode::NOT_ACCEPTABLE);
        let (status, content, _) = get(&c, pools, &format!("{PROTOBUF},application/json")).await;
        assert_eq!((status, content.as_str()), (StatusCode::OK, "application/json"));
        watch(&c, maps, &stored).await;
        let path = format!("{maps}?fieldSelector=metadata.name%3Dp");
        let (status, _, bytes) = send(&c, "DELETE", &path, PROTOBUF, vec![]).await;
        let e = protobuf::envelope(&bytes).unwrap();
        assert_eq!((status, e.kind.as_str()), (StatusCode::OK, "ConfigMapList"));
        assert_eq!(parts(e.raw).iter().filter(|(n, _)| *n == 2).count(), 1);
    });
}

async fn watch(c: &Client, maps: &str, stored: &Value) {
    let path = format!(
        "{maps}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dp&timeoutSeconds=1"
    );
    let (_, content, mut bytes) = get(c, &path, PROTOBUF).await;
    assert_eq!(content, "application/vnd.kubernetes.protobuf;stream=watch");
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        let rest = bytes.split_off(4 + length);
        let event = parts(&bytes[4..]);
        let kind = String::from_utf8(event[0].1.to_vec()).unwrap();
        seen.push((kind, open(parts(event[1].1)[0].1)));
        bytes = rest;
    }
    assert_eq!(seen[0], ("ADDED".to_owned(), stored.clone()));
    assert_eq!(seen[1].0, "BOOKMARK");
    assert_eq!(seen[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}
