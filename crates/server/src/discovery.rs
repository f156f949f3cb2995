//! What there is: `/version`, `/api`, `/apis`, each group and version, and the aggregated form
//! (KEP-3352) that kubectl asks for first.

use crate::{Server, aggregation, body::Body, request, respond};
use bytes::Bytes;
use coracle_meta::gvk::api_version;
use coracle_registry::Registry;
use coracle_schema::{Kind, Scope};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// `/version`.
pub(crate) fn version(registry: &Registry) -> Value {
    let minor = registry.minor();
    json!({
        "major": "1", "minor": minor.number().to_string(), "gitVersion": format!("{}+coracle", minor.git_version()),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "emulationMajor": "1", "emulationMinor": minor.number().to_string(),
        "minCompatibilityMajor": "1", "minCompatibilityMinor": (minor.number() - 1).to_string(),
    })
}

/// Answers a discovery path.
pub(crate) fn answer(
    server: &Server,
    path: &str,
    request: &Request<Bytes>,
) -> Option<Response<Body>> {
    let (registry, headers) = (&server.registry, request.headers());
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2");
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let v = match parts[..] {
        [] => json!({"paths": paths(registry)}),
        ["api"] if aggregated => return Some(aggregate(server, true, headers)),
        ["apis"] if aggregated => return Some(aggregate(server, false, headers)),
        ["api"] => {
            let address = request::authority(request);
            json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.unwrap_or_default()}]})
        }
        ["apis"] => {
            let kinds = registry.kinds();
            let own = kinds
                .groups()
                .filter(|(g, _)| !g.is_empty())
                .map(|(g, v)| group(g, &v.iter().map(|(v, _)| *v).collect::<Vec<_>>()));
            let others = aggregation::groups(server)
                .into_iter()
                .map(|(g, v)| group(&g, &v.iter().map(String::as_str).collect::<Vec<_>>()));
            let groups: Vec<Value> = own.chain(others).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => resources(registry, "", version)?,
        ["apis", name] => {
            let kinds = registry.kinds();
            let own = kinds.groups().find(|(g, _)| *g == name);
            let mut v = match own {
                Some((g, versions)) => {
                    group(g, &versions.iter().map(|(v, _)| *v).collect::<Vec<_>>())
                }
                None => {
                    let others = aggregation::groups(server);
                    let (g, versions) = others.iter().find(|(g, _)| *g == name)?;
                    group(g, &versions.iter().map(String::as_str).collect::<Vec<_>>())
                }
            };
            v["kind"] = json!("APIGroup");
            v["apiVersion"] = json!("v1");
            v
        }
        ["apis", group, version] => resources(registry, group, version)?,
        _ => return None,
    };
    Some(respond::json(StatusCode::OK, &v))
}

fn paths(registry: &Registry) -> Vec<String> {
    let mut all: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(Into::into)
    .to_vec();
    for (g, versions) in registry.kinds().groups().filter(|(g, _)| !g.is_empty()) {
        all.push(format!("/apis/{g}"));
        all.extend(versions.iter().map(|(v, _)| format!("/apis/{g}/{v}")));
    }
    all.sort();
    all
}

fn group(name: &str, versions: &[&str]) -> Value {
    let entry = |v: &&str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    json!({"name": name, "versions": versions.iter().map(entry).collect::<Vec<_>>(), "preferredVersion": versions.first().map(entry)})
}

fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds = registry.kinds();
    let mut list = Vec::new();
    for k in kinds.of(group, version)? {
        let mut v = json!({"name": k.plural, "singularName": k.singular, "namespaced": k.namespaced(), "kind": k.kind, "verbs": k.shown_verbs()});
        if !k.short_names.is_empty() {
            v["shortNames"] = json!(k.short_names);
        }
        if !k.categories.is_empty() {
            v["categories"] = json!(k.categories);
        }
        if k.stored() {
            v["storageVersionHash"] = json!(storage_hash(k));
        }
        list.push(v);
        for s in &k.subresources {
            let mut v = json!({"name": format!("{}/{}", k.plural, s.name), "singularName": "", "namespaced": k.namespaced(), "kind": if s.kind.is_empty() { &k.kind } else { &s.kind }, "verbs": s.verbs});
            if !s.version.is_empty() && (s.group != k.group || s.version != k.version) {
                v["group"] = json!(s.group);
                v["version"] = json!(s.version);
            }
            list.push(v);
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": list}),
    )
}

fn storage_hash(k: &Kind) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(hash(&format!("{}/{}/{}", k.group, k.version, k.kind)).to_be_bytes())
}

fn hash(text: &str) -> u64 {
    let mut h = DefaultHasher::new();
    text.hash(&mut h);
    h.finish()
}

fn aggregate(server: &Server, core: bool, headers: &HeaderMap) -> Response<Body> {
    let kinds = server.registry.kinds();
    let mut items: Vec<Value> = kinds
        .groups()
        .filter(|(g, _)| g.is_empty() == core)
        .map(|(g, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(v, kinds)| json!({"version": v, "freshness": "Current", "resources": kinds.iter().map(aggregated_resource).collect::<Vec<_>>()}))
                .collect();
            let meta = if g.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": g, "creationTimestamp": null}) };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    if !core {
        items.extend(aggregation::discovery(server));
    }
    let v = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}).to_string();
    let etag = format!("\"{:016X}\"", hash(&v));
    let matches =
        headers.get(header::IF_NONE_MATCH).is_some_and(|h| h.as_bytes() == etag.as_bytes());
    let (code, body) =
        if matches { (StatusCode::NOT_MODIFIED, String::new()) } else { (StatusCode::OK, v) };
    let mut response = respond::with(
        code,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        body,
    );
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_resource(k: &Arc<Kind>) -> Value {
    let response = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut v = json!({
        "resource": k.plural, "singularResource": k.singular, "verbs": k.shown_verbs(),
        "responseKind": response(&k.group, &k.version, &k.kind),
        "scope": if k.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
    });
    if !k.short_names.is_empty() {
        v["shortNames"] = json!(k.short_names);
    }
    if !k.categories.is_empty() {
        v["categories"] = json!(k.categories);
    }
    let subs: Vec<Value> = k
        .subresources
        .iter()
        .map(|s| {
            let kind = if s.kind.is_empty() { &k.kind } else { &s.kind };
            let (g, ver) =
                if s.version.is_empty() { (&k.group, &k.version) } else { (&s.group, &s.version) };
            json!({"subresource": s.name, "responseKind": response(g, ver, kind), "verbs": s.verbs})
        })
        .collect();
    if !subs.is_empty() {
        v["subresources"] = json!(subs);
    }
    v
}
