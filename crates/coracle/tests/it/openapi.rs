//! OpenAPI documents as clients read them: hashes and caching of version 3 (KEP-2896), version 2 by the
//! kubectl that decodes it, and custom kinds in both.

use crate::{cluster::Cluster, durability::client};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

async fn get(c: &Client, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let builder = headers.iter().fold(Request::get(path), |b, (k, v)| b.header(*k, *v));
    let response = c.send(builder.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn index(c: &Client) -> Value {
    serde_json::from_slice(&get(c, "/openapi/v3", &[]).await.2).unwrap()
}

fn url(index: &Value, path: &str) -> String {
    index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_default().to_owned()
}

fn definition(field: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "description": "A boat.", "properties": {"spec": {"type": "object", "properties": {
                    field: {"type": "string", "description": "What it is called.", "pattern": "^[a-z]+$", "nullable": true}}}}}}}]}})
}

#[test]
fn documents_are_named_by_what_they_say() {
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let c = client(&cluster.kubeconfig()).await;
        let before = index(&c).await;
        let apps = url(&before, "apis/apps/v1");
        let (code, headers, body) = get(&c, &apps, &[]).await;
        assert_eq!((code, &headers["cache-control"]), (200, &"public, immutable".parse().unwrap()));
        assert!(headers.contains_key("expires") && headers["vary"] == "Accept");
        let hash = apps.split("hash=").nth(1).unwrap();
        let etag = headers["etag"].to_str().unwrap();
        assert_eq!(etag, format!("\"{hash}\""));
        let document: Value = serde_json::from_slice(&body).unwrap();
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        // Who has it need not read it again; who asks for another one is sent to this.
        let (code, _, body) = get(&c, &apps, &[("if-none-match", etag)]).await;
        assert_eq!((code, body.len()), (304, 0));
        let (code, headers, _) = get(&c, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await;
        assert_eq!((code, headers["location"].to_str().unwrap()), (301, &*apps));
        assert_eq!(get(&c, "/openapi/v3/apis/apps/v9", &[]).await.0, 404);
        assert_eq!(get(&c, &apps, &[("accept", "text/html")]).await.0, 406);

        // A definition has a document at once, and a change of it gives that another hash.
        cluster.apply(&definition("name").to_string());
        let with = index(&c).await;
        let boats = url(&with, "apis/sea.example.com/v1");
        let boat: Value = serde_json::from_slice(&get(&c, &boats, &[]).await.2).unwrap();
        let name = &boat["components"]["schemas"]["com.example.sea.v1.Boat"]["properties"]["spec"]["properties"]["name"];
        assert_eq!((&name["pattern"], &name["nullable"]), (&json!("^[a-z]+$"), &json!(true)));
        assert_eq!(url(&with, "apis/apps/v1"), apps, "nothing else changed");
        cluster.apply(&definition("title").to_string());
        assert_ne!(url(&index(&c).await, "apis/sea.example.com/v1"), boats);

        // Version 2 says what it can, and has no key that old clients stumble over.
        let v2 = get(&c, "/openapi/v2", &[("accept", "application/json")]).await.2;
        let v2: Value = serde_json::from_slice(&v2).unwrap();
        let title = &v2["definitions"]["com.example.sea.v1.Boat"]["properties"]["spec"]["properties"]["title"];
        assert_eq!(*title, json!({"description": "What it is called.", "pattern": "^[a-z]+$"}));
        assert!(v2["definitions"]["io.k8s.api.core.v1.Pod"]["description"].is_string());
    });
    if cluster.kubectl_has(27, "explain by OpenAPI v2") {
        let explain =
            |what: &str| cluster.kubectl(&["explain", what, "--output=plaintext-openapiv2"]);
        assert!(explain("boats.spec").contains("What it is called."));
        assert!(explain("pod.spec.containers").contains("Image pull policy"));
    }
}
