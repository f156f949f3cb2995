//! Bad input gets a Status with the right code and a message that names the field; nothing is half
//! done and nothing panics.

use crate::{cluster::Cluster, durability::client};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

async fn call(c: &Client, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(body.to_vec())
        .unwrap();
    match c.request::<Value>(request).await {
        Ok(v) => (200, v.to_string()),
        Err(kube::Error::Api(s)) => (s.code, s.message.clone()),
        Err(e) => panic!("{method} {path}: {e}"),
    }
}

#[test]
fn bad_input_is_refused_in_upstreams_words() {
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let c = client(&cluster.kubeconfig()).await;
        let maps = "/api/v1/namespaces/default/configmaps";
        let pods = "/api/v1/namespaces/default/pods";
        let deployments = "/apis/apps/v1/namespaces/default/deployments";
        let (json_type, merge, patch) = ("application/json", "application/merge-patch+json", "application/json-patch+json");
        let text = |v: Value| v.to_string().into_bytes();
        let deep = [b"{\"data\":".repeat(2000), b"1".to_vec(), b"}".repeat(2000)].concat();
        let pod = |spec: Value| text(json!({"metadata": {"name": "p"}, "spec": spec}));
        let cases: Vec<(&str, String, &str, Vec<u8>, u16, &str)> = vec![
            ("POST", maps.into(), json_type, b"{".to_vec(), 400, "json parse error"),
            ("POST", maps.into(), json_type, b"\xff\xfe".to_vec(), 400, "json parse error"),
            ("POST", maps.into(), json_type, deep, 400, "recursion limit"),
            ("POST", maps.into(), json_type, b"[]".to_vec(), 400, "couldn't get version/kind"),
            ("POST", maps.into(), json_type, vec![b' '; (3 << 20) + 1], 413, "too large"),
            ("POST", maps.into(), "application/xml", b"<a/>".to_vec(), 415, "unknown format"),
            ("POST", maps.into(), "application/yaml", b"a: [".to_vec(), 400, "unrecognized"),
            ("POST", maps.into(), json_type, text(json!({"metadata": {"name": "Bad_Name"}})), 422, "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain"),
            ("POST", maps.into(), json_type, text(json!({"metadata": {}})), 422, "metadata.name: Required value: name or generateName is required"),
            ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests".into(), json_type, text(json!([])), 400, "cannot unmarshal array"),
            ("POST", maps.into(), json_type, text(json!({"metadata": {"name": "a", "labels": {"a b": "c"}}})), 422, "metadata.labels: Invalid value: \"a b\""),
            ("POST", "/api/v1/namespaces/default/pods".into(), json_type, text(json!({"metadata": {"name": "a"}, "spec": {"containers": [{"image": "x"}]}})), 422, "spec.containers[0].name: Required value"),
            ("POST", maps.into(), json_type, text(json!({"metadata": {"name": "a"}, "data": {"k": 1}})), 400, "cannot unmarshal number into Go struct field ConfigMap.data of type string"),
            ("POST", format!("{maps}?fieldValidation=Strict"), json_type, text(json!({"metadata": {"name": "a"}, "dat": {}})), 400, "strict decoding error: unknown field \"dat\""),
            ("POST", format!("{maps}?fieldValidation=Strict"), json_type, b"{\"metadata\":{\"name\":\"a\"},\"data\":{},\"data\":{}}".to_vec(), 400, "duplicate field \"data\""),
            ("POST", maps.into(), json_type, text(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})), 400, "unknown conversion"),
            ("POST", "/api/v1/namespaces/nope/configmaps".into(), json_type, text(json!({"metadata": {"name": "a"}})), 404, "namespaces \"nope\" not found"),
            ("POST", "/apis/nope/v1/things".into(), json_type, b"{}".to_vec(), 404, "404 page not found"),
            ("POST", pods.into(), json_type, pod(json!({"containers": []})), 422, "spec.containers: Required value"),
            ("POST", pods.into(), json_type, pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "lots"}}}]})), 400, "quantities must match"),
            ("POST", pods.into(), json_type, pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]})), 422, "must be less than or equal to cpu limit of 1"),
            ("POST", pods.into(), json_type, pod(json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]})), 422, "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535"),
            ("POST", deployments.into(), json_type, text(json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})), 422, "`selector` does not match template `labels`"),
            ("GET", format!("{maps}?labelSelector=a%20b"), json_type, vec![], 400, "unable to parse requirement"),
            ("GET", format!("{maps}?fieldSelector=spec.x=1"), json_type, vec![], 400, "\"spec.x\" is not a known field selector"),
            ("GET", format!("{maps}?continue=garbage"), json_type, vec![], 400, "continue key is not valid"),
            ("GET", format!("{maps}?resourceVersion=1&resourceVersionMatch=Maybe"), json_type, vec![], 422, "resourceVersionMatch"),
            ("PATCH", format!("{maps}/kube-root-ca.crt"), patch, b"{}".to_vec(), 400, "cannot unmarshal object into Go value of type"),
            ("PATCH", format!("{maps}/kube-root-ca.crt"), patch, text(json!([{"op": "test", "path": "/data/x", "value": "1"}])), 422, "test failed"),
            ("PATCH", format!("{maps}/kube-root-ca.crt"), merge, text(json!({"metadata": {"resourceVersion": "1"}})), 409, "the object has been modified"),
            ("PATCH", format!("{maps}/kube-root-ca.crt"), merge, text(json!({"metadata": {"name": "other"}})), 400, "does not match the name on the URL"),
            ("PATCH", format!("{maps}/kube-root-ca.crt"), "text/plain", b"x".to_vec(), 415, "unknown format"),
            ("PUT", format!("{maps}/missing"), json_type, text(json!({"metadata": {"name": "missing"}})), 404, "configmaps \"missing\" not found"),
            ("DELETE", format!("{maps}/kube-root-ca.crt"), json_type, text(json!({"preconditions": {"uid": "x"}})), 409, "the UID in the precondition (x) does not match the UID in record"),
            ("DELETE", "/api/v1/namespaces/default".into(), json_type, vec![], 403, "this namespace may not be deleted"),
            ("PUT", "/api/v1/namespaces".into(), json_type, b"{}".to_vec(), 405, "does not allow this method"),
        ];
        cluster.eventually("the namespace is furnished", || cluster.try_kubectl(&["get", "configmap", "kube-root-ca.crt"]).status.success().then_some(()));
        let before = call(&c, "GET", &format!("{maps}/kube-root-ca.crt"), json_type, b"").await;
        for (method, path, kind, body, code, message) in cases {
            let (got, said) = call(&c, method, &path, kind, &body).await;
            assert!(got == code && said.contains(message), "{method} {path}: {got} {said}\n  wanted {code} {message}");
        }
        assert_eq!(call(&c, "GET", &format!("{maps}/kube-root-ca.crt"), json_type, b"").await, before, "a refused write changed something");
        let (_, list) = call(&c, "GET", pods, json_type, b"").await;
        assert!(list.contains("\"items\":[]"), "{list}");
    });
    // Still well.
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn strangers_get_nowhere() {
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let e = c.kubectl_error(&["get", "pods", "--as", "bob"]);
    assert_eq!(
        e,
        "Error from server (Forbidden): pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"\n"
    );
    c.kubectl(&["create", "serviceaccount", "reader"]);
    c.kubectl(&[
        "create",
        "rolebinding",
        "reader",
        "--clusterrole=view",
        "--serviceaccount=default:reader",
    ]);
    if !c.kubectl_has(24, "create token") {
        return;
    }
    let token = c.kubectl(&["create", "token", "reader"]);
    let server = c.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let ca = c.directory.path().join("pki/ca.crt");
    let with = |token: &str, what: &str| {
        let out = std::process::Command::new("kubectl")
            .env("KUBECONFIG", "/dev/null")
            .args([
                "--server",
                &server,
                "--certificate-authority",
                ca.to_str().unwrap(),
                "--token",
                token,
                "-n",
                "default",
                "get",
                what,
            ])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    assert!(with(token.trim(), "configmaps").contains("kube-root-ca.crt"));
    assert!(with(token.trim(), "secrets").contains("cannot list resource \"secrets\""));
    assert!(
        with("garbage", "configmaps").contains("Unauthorized")
            || with("garbage", "configmaps").contains("logged in")
    );
    c.kubectl(&["delete", "serviceaccount", "reader"]);
    let gone = with(token.trim(), "configmaps");
    assert!(!gone.contains("kube-root-ca.crt"), "{gone}");
}
