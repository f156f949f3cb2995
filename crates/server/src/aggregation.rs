//! Aggregated API servers: groups and versions that an APIService gives to a Service are answered there.
//! Requests pass this server's own chain first; the other one learns who calls from headers that it
//! believes because of our client certificate.

use crate::{
    Server,
    authn::Identity,
    body::{self, Body},
    outbound::{self, Target, Trust},
    request::RequestInfo,
};
use bytes::Bytes;
use coracle_meta::gvk::api_version;
use coracle_store::Key;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// Where APIServices are stored.
const RESOURCE: &str = "apiregistration.k8s.io/apiservices";

/// Headers that belong to one connection.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// The certificate that this server comes with, so that aggregated servers believe its headers.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    /// Our certificate, as PEM.
    pub certificate_pem: String,
    /// Its key, as PEM.
    pub key_pem: String,
    /// The authority that signed it, as PEM.
    pub ca_pem: String,
}

/// What is known of aggregated servers.
#[derive(Debug, Default)]
pub(crate) struct Aggregation {
    front_proxy: OnceLock<FrontProxy>,
    /// The resources of each group and version, as the other server last told them.
    resources: Mutex<BTreeMap<String, Value>>,
}

impl Server {
    /// Gives the certificate that aggregated servers know this one by.
    pub fn set_front_proxy(&self, certificate: FrontProxy) {
        // The first one counts.
        let _ = self.aggregation.front_proxy.set(certificate);
    }

    /// What `kube-system/extension-apiserver-authentication` tells aggregated servers.
    pub(crate) fn front_proxy(&self) -> Option<&FrontProxy> {
        self.aggregation.front_proxy.get()
    }
}

/// The APIService of a group and version that somebody else answers, if there is one.
pub(crate) fn remote(server: &Server, group: &str, version: &str) -> Option<Value> {
    let key = Key::new(&Arc::from(RESOURCE), "", &format!("{version}.{group}"));
    let object = server.registry.store().get(&key)?;
    let v: Value = serde_json::from_slice(&object.bytes).ok()?;
    v["spec"]["service"].is_object().then_some(v)
}

/// All APIServices that somebody else answers, best group first.
fn remotes(server: &Server) -> Vec<Value> {
    let snapshot = server.registry.store().snapshot(RESOURCE);
    let all = snapshot.iter(None, None).filter_map(|(_, o)| serde_json::from_slice(&o.bytes).ok());
    let mut all: Vec<Value> = all.filter(|v: &Value| v["spec"]["service"].is_object()).collect();
    all.sort_by_key(|v| {
        let name = v["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (std::cmp::Reverse(v["spec"]["groupPriorityMinimum"].as_i64().unwrap_or(0)), name)
    });
    all
}

/// The group and version that a path is below.
pub(crate) fn of_path(info: &RequestInfo) -> Option<(String, String)> {
    let mut parts = info.path.split('/').filter(|p| !p.is_empty());
    (parts.next() == Some("apis")).then_some(())?;
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(body::full(format!("{text}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Sends a request on to the server behind an APIService.
pub(crate) async fn proxy(
    server: &Server,
    identity: &Identity,
    service: &Value,
    request: &Request<Bytes>,
) -> Response<Body> {
    let unavailable = || plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
    let spec = &service["spec"];
    let text = |f: &str| spec["service"][f].as_str().unwrap_or_default();
    let port = spec["service"]["port"].as_i64().unwrap_or(443);
    let (namespace, name) = (text("namespace"), text("name"));
    let Ok(authority) = outbound::endpoint(&server.registry, namespace, name, port) else {
        return unavailable();
    };
    let target = Target { authority, name: format!("{name}.{namespace}.svc"), path: String::new() };
    let trust = match trust(server, spec) {
        Ok(t) => t,
        Err(e) => return plain(StatusCode::INTERNAL_SERVER_ERROR, &e),
    };
    let Ok(outgoing) = outgoing(identity, &target, request) else { return unavailable() };
    match outbound::send(&target, &trust, outgoing).await {
        Ok(response) => incoming(server, request, response).await,
        Err(e) => {
            plain(StatusCode::SERVICE_UNAVAILABLE, &format!("error trying to reach service: {e}"))
        }
    }
}

fn trust(server: &Server, spec: &Value) -> Result<Trust, String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let ca = spec["caBundle"].as_str().unwrap_or_default();
    let proxy = server.aggregation.front_proxy.get();
    Ok(Trust {
        ca_pem: STANDARD.decode(ca).map_err(|e| format!("caBundle: {e}"))?,
        anybody: spec["insecureSkipTLSVerify"] == true,
        client: proxy.map(|p| (p.certificate_pem.clone(), p.key_pem.clone())),
    })
}

fn outgoing(
    identity: &Identity,
    target: &Target,
    request: &Request<Bytes>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let mut builder = Request::builder().method(request.method()).uri(path);
    if let Some(headers) = builder.headers_mut() {
        for (name, value) in request.headers() {
            let own = HOP_BY_HOP.contains(&name.as_str())
                || *name == header::AUTHORIZATION
                || name.as_str().starts_with("x-remote-")
                || name.as_str().starts_with("impersonate-");
            if !own {
                headers.append(name.clone(), value.clone());
            }
        }
        let mut add = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        };
        add("host", &target.authority);
        add("x-remote-user", &identity.user);
        if !identity.uid.is_empty() {
            add("x-remote-uid", &identity.uid);
        }
        for group in &identity.groups {
            add("x-remote-group", group);
        }
    }
    builder.body(Full::new(request.body().clone()))
}

async fn incoming(
    server: &Server,
    request: &Request<Bytes>,
    response: Response<hyper::body::Incoming>,
) -> Response<Body> {
    let (mut parts, stream) = response.into_parts();
    if parts.status.is_redirection() && parts.headers.contains_key(header::LOCATION) {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return plain(StatusCode::BAD_GATEWAY, why);
    }
    let mut kept = HeaderMap::new();
    for (name, value) in &parts.headers {
        if !HOP_BY_HOP.contains(&name.as_str()) && *name != header::CONTENT_LENGTH {
            kept.append(name.clone(), value.clone());
        }
    }
    parts.headers = kept;
    // What the other server serves is kept for the discovery of this one.
    let depth = request.uri().path().split('/').filter(|p| !p.is_empty()).count();
    if parts.status == StatusCode::OK && depth == 3 {
        let Ok(whole) = stream.collect().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        };
        let bytes = whole.to_bytes();
        if let Ok(v) = serde_json::from_slice::<Value>(&bytes) {
            if let Some(gv) = v["groupVersion"].as_str() {
                server.aggregation.resources.lock().insert(gv.to_owned(), v.clone());
            }
        }
        return Response::from_parts(parts, body::full(bytes));
    }
    let stream = stream.map_err(|e| Box::new(e) as body::BodyError).boxed_unsync();
    Response::from_parts(parts, stream)
}

/// Groups that others answer, as `/apis` lists them: name, and versions with the best first.
pub(crate) fn groups(server: &Server) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<(i64, String)>)> = Vec::new();
    for v in remotes(server) {
        let text = |f: &str| v["spec"][f].as_str().unwrap_or_default().to_owned();
        let (group, version) = (text("group"), text("version"));
        let priority = v["spec"]["versionPriority"].as_i64().unwrap_or(0);
        match groups.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) => versions.push((priority, version)),
            None => groups.push((group, vec![(priority, version)])),
        }
    }
    let best_first = |mut versions: Vec<(i64, String)>| {
        versions.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.cmp(&a.1)));
        versions.into_iter().map(|(_, v)| v).collect()
    };
    groups.into_iter().map(|(g, versions)| (g, best_first(versions))).collect()
}

/// Groups that others answer, in the aggregated form of discovery. What cannot be asked is stale.
pub(crate) fn discovery(server: &Server) -> Vec<Value> {
    let known = server.aggregation.resources.lock();
    let version = |group: &str, v: &String| {
        let list = known.get(&api_version(group, v));
        let available = remote(server, group, v).is_some_and(|s| is_available(&s));
        json!({"version": v, "freshness": if available && list.is_some() { "Current" } else { "Stale" },
            "resources": list.map(aggregated).unwrap_or_default()})
    };
    let group = |(g, versions): (String, Vec<String>)| {
        let versions: Vec<Value> = versions.iter().map(|v| version(&g, v)).collect();
        json!({"metadata": {"name": g, "creationTimestamp": null}, "versions": versions})
    };
    groups(server).into_iter().map(group).collect()
}

fn is_available(service: &Value) -> bool {
    let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Available" && c["status"] == "True")
}

/// An APIResourceList in the aggregated form.
fn aggregated(list: &Value) -> Vec<Value> {
    let (group, version) =
        coracle_meta::gvk::split_api_version(list["groupVersion"].as_str().unwrap_or_default());
    let text = |v: &Value, f: &str, other: &str| {
        v[f].as_str().filter(|t| !t.is_empty()).unwrap_or(other).to_owned()
    };
    let kind = |r: &Value| json!({"group": text(r, "group", group), "version": text(r, "version", version), "kind": r["kind"]});
    let mut all: Vec<Value> = Vec::new();
    for r in list["resources"].as_array().into_iter().flatten() {
        let name = r["name"].as_str().unwrap_or_default();
        match name.split_once('/') {
            None => all.push(json!({
                "resource": name, "responseKind": kind(r), "singularResource": r["singularName"],
                "scope": if r["namespaced"] == true { "Namespaced" } else { "Cluster" },
                "verbs": r["verbs"], "shortNames": r["shortNames"], "categories": r["categories"],
            })),
            Some((parent, sub)) => {
                if let Some(p) = all.iter_mut().find(|p| p["resource"] == parent) {
                    let entry =
                        json!({"subresource": sub, "responseKind": kind(r), "verbs": r["verbs"]});
                    match p["subresources"].as_array_mut() {
                        Some(list) => list.push(entry),
                        None => p["subresources"] = json!([entry]),
                    }
                }
            }
        }
    }
    for r in &mut all {
        for f in ["shortNames", "categories"] {
            if r[f].is_null() {
                r.as_object_mut().map(|m| m.remove(f));
            }
        }
    }
    all
}
