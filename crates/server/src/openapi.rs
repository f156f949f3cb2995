//! `/openapi/v3`: an index with hashes, and a document a group and version, rendered when first
//! asked for and kept until the kinds change.

use crate::{Server, body::Body, negotiate, respond, roots};
use bytes::Bytes;
use coracle_registry::KindTable;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Documents by their path.
type Documents = BTreeMap<String, Bytes>;

/// Rendered documents of one table of kinds.
#[derive(Debug, Default)]
pub struct Cache {
    inner: Mutex<Option<(Arc<KindTable>, Documents)>>,
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Answers a path below `/openapi/`.
pub(crate) fn answer(server: &Server, path: &str, _: &Request<Bytes>) -> Response<Body> {
    match path {
        "/openapi/v2" => document_v2(server).unwrap_or_else(|_| roots::not_found()),
        "/openapi/v3" => respond::json(StatusCode::OK, &index(server)),
        p => p
            .strip_prefix("/openapi/v3/")
            .and_then(|wanted| document(server, wanted))
            .unwrap_or_else(roots::not_found),
    }
}

/// The index of documents.
pub(crate) fn index(server: &Server) -> Value {
    let kinds = server.registry.kinds();
    let mut paths = Map::new();
    for (group, versions) in kinds.groups() {
        for (version, _) in versions {
            let p = path(group, version);
            let url = format!("/openapi/v3/{p}?hash={:016X}", kinds.id);
            paths.insert(p, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// One document.
pub(crate) fn document(server: &Server, wanted: &str) -> Option<Response<Body>> {
    let kinds = server.registry.kinds();
    let mut cache = server.openapi.inner.lock();
    if !cache.as_ref().is_some_and(|(table, _)| Arc::ptr_eq(table, &kinds)) {
        *cache = Some((kinds.clone(), BTreeMap::new()));
    }
    let (_, documents) = cache.as_mut()?;
    if !documents.contains_key(wanted) {
        let found = kinds
            .groups()
            .flat_map(|(g, versions)| versions.into_iter().map(move |(v, k)| (path(g, v), k)));
        let (p, of) = found.into_iter().find(|(p, _)| p == wanted)?;
        let rendered = coracle_schema::openapi::document(of, server.registry.minor()).to_string();
        documents.insert(p, rendered.into());
    }
    Some(respond::with(StatusCode::OK, negotiate::JSON, documents.get(wanted)?.clone()))
}

/// `/openapi/v2` as far as it goes: title and version, without definitions. Clients that fall back to
/// it find no schema there, which is true of the kinds that they fall back for.
pub(crate) fn document_v2(server: &Server) -> Result<Response<Body>, coracle_meta::Status> {
    let version = server.registry.minor().git_version();
    let field = |number: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).unwrap_or(0);
        [&[number << 3 | 2, length], bytes].concat()
    };
    let info = [field(1, b"Kubernetes"), field(2, version.as_bytes())].concat();
    let document = [field(1, b"2.0"), field(2, &info)].concat();
    Ok(respond::with(
        StatusCode::OK,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        document,
    ))
}
