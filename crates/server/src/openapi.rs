//! `/openapi/v2` and `/openapi/v3`: rendered when asked for. An index of version 3 names each document
//! with a hash of it, so that clients keep what they have read (KEP-2896).

use crate::{
    Server,
    body::{self, Body},
    negotiate::JSON,
    request::query,
    respond, roots,
};
use bytes::Bytes;
use coracle_prose::Prose;
use coracle_registry::KindTable;
use coracle_schema::{
    Kind, Minor,
    openapi::{self, gnostic, v2},
    pack,
};
use coracle_store::object::Name;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use ring::digest::{Context, SHA512, digest};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

const V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same by its older name, which most clients still send.
const V2_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const CRDS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The documents that were asked for last: a client that asks often asks for the same.
#[derive(Debug, Default)]
pub struct Cache {
    v2: Mutex<Option<(u64, &'static str, String, Bytes)>>,
    v3: Mutex<Option<(String, String, Bytes)>>,
}

/// Answers a path below `/openapi/`.
pub(crate) fn answer(server: &Server, path: &str, request: &Request<Bytes>) -> Response<Body> {
    match path {
        "/openapi/v2" => version_2(server, request.headers()),
        "/openapi/v3" => respond::json(StatusCode::OK, &index(server)),
        p => match p.strip_prefix("/openapi/v3/") {
            Some(wanted) => version_3(server, wanted, request),
            None => roots::not_found(),
        },
    }
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Kinds of a group and version by their document's path.
fn versions(kinds: &KindTable) -> Vec<(String, Vec<Arc<Kind>>)> {
    let of = |(group, versions): (&str, Vec<(&str, &[Arc<Kind>])>)| {
        let group = group.to_owned();
        let named = versions.into_iter().map(|(v, kinds)| (path(&group, v), kinds.to_vec()));
        named.collect::<Vec<_>>()
    };
    kinds.groups().flat_map(of).collect()
}

fn index(server: &Server) -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, hash: &str| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path.to_owned(), json!({"serverRelativeURL": url}));
    };
    for (path, kinds) in versions(&server.registry.kinds()) {
        if kinds.iter().any(|k| k.custom) {
            add(&path, &custom_hash(server, &kinds));
        }
    }
    for (path, hash) in &*built_in(server.registry.minor()) {
        add(path, hash);
    }
    json!({"paths": paths})
}

/// Hashes of documents by their paths.
type Hashes = Arc<BTreeMap<String, String>>;

/// The hashes of the documents that are the same in all clusters of a minor.
fn built_in(minor: Minor) -> Hashes {
    // Held while they are made: who comes meanwhile needs them too.
    static KNOWN: Mutex<BTreeMap<u32, Hashes>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock();
    if let Some(hashes) = known.get(&minor.number()) {
        return hashes.clone();
    }
    let table = KindTable::new(&pack::of(minor).kinds, vec![]);
    let prose = Prose::unpack();
    let describe = |def: &str, field: &str| prose.of(def, field);
    let hash = |v: &Value| hex(digest(&SHA512, v.to_string().as_bytes()).as_ref());
    let mut all = BTreeMap::new();
    for (path, kinds) in versions(&table) {
        all.insert(path, hash(&openapi::document(&kinds, minor, &describe)));
    }
    let groups: Vec<&str> = table.groups().map(|(g, _)| g).filter(|g| !g.is_empty()).collect();
    for (path, document) in openapi::roots(&groups, minor, &describe) {
        all.insert(path, hash(&document));
    }
    let all = Arc::new(all);
    known.insert(minor.number(), all.clone());
    all
}

/// A hash of what a document of custom kinds is made of, which is cheaper than the document.
fn custom_hash(server: &Server, kinds: &[Arc<Kind>]) -> String {
    let definitions = server.registry.store().snapshot(CRDS);
    let mut context = Context::new(&SHA512);
    context.update(env!("CARGO_PKG_VERSION").as_bytes());
    for kind in kinds {
        let name = format!("{}.{}", kind.plural, kind.group);
        let name = Name { namespace: "".into(), name: name.into() };
        if let Some(object) = definitions.get(&name) {
            context.update(&object.bytes);
        }
    }
    hex(context.finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(128), |mut text, b| {
        let _ = write!(text, "{b:02X}");
        text
    })
}

/// A document of version 3, or where it is.
fn version_3(server: &Server, wanted: &str, request: &Request<Bytes>) -> Response<Body> {
    let kinds = server.registry.kinds();
    let minor = server.registry.minor();
    let found = match wanted.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => kinds.of("", version),
        ["apis", group, version] => kinds.of(group, version),
        _ => None,
    };
    let custom = found.filter(|kinds| kinds.iter().any(|k| k.custom));
    let hash = match custom {
        Some(kinds) => custom_hash(server, kinds),
        None => match built_in(minor).get(wanted) {
            Some(hash) => hash.clone(),
            None => return empty(StatusCode::NOT_FOUND),
        },
    };
    if accepts(request.headers(), &[JSON]).is_none() {
        return empty(StatusCode::NOT_ACCEPTABLE);
    }
    let given = query(request).into_iter().find(|(k, _)| k == "hash").map(|(_, v)| v);
    if given.as_ref().is_some_and(|given| *given != hash) {
        let mut response = empty(StatusCode::MOVED_PERMANENTLY);
        let url = format!("/openapi/v3/{wanted}?hash={hash}");
        if let Ok(url) = HeaderValue::from_str(&url) {
            response.headers_mut().insert(header::LOCATION, url);
        }
        return response;
    }
    let bytes = document(server, wanted, &hash, found, &kinds);
    let mut response = tagged(request.headers(), JSON, &hash, bytes);
    if given.is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
        let year = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 365);
        let text = year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(text) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(header::EXPIRES, text);
        }
    }
    response
}

fn document(
    server: &Server,
    wanted: &str,
    hash: &str,
    found: Option<&[Arc<Kind>]>,
    kinds: &KindTable,
) -> Bytes {
    if let Some((path, of, bytes)) = &*server.openapi.v3.lock() {
        if path == wanted && of == hash {
            return bytes.clone();
        }
    }
    let minor = server.registry.minor();
    let prose = Prose::unpack();
    let describe = |def: &str, field: &str| prose.of(def, field);
    let v = match found {
        Some(kinds) => openapi::document(kinds, minor, &describe),
        None => {
            let groups: Vec<&str> = kinds.groups().map(|(g, _)| g).collect();
            let all = openapi::roots(&groups, minor, &describe);
            all.into_iter().find(|(p, _)| p == wanted).map(|(_, v)| v).unwrap_or_default()
        }
    };
    let bytes = Bytes::from(v.to_string());
    *server.openapi.v3.lock() = Some((wanted.to_owned(), hash.to_owned(), bytes.clone()));
    bytes
}

/// The document of version 2, in the format that the client wants.
fn version_2(server: &Server, headers: &HeaderMap) -> Response<Body> {
    let Some(accepted) = accepts(headers, &[JSON, V2, V2_OLD]) else {
        return empty(StatusCode::NOT_ACCEPTABLE);
    };
    let content_type = if accepted == JSON { JSON } else { V2 };
    let kinds = server.registry.kinds();
    let mut known = server.openapi.v2.lock();
    let (hash, bytes) = match &*known {
        Some((id, of, hash, bytes)) if *id == kinds.id && *of == content_type => {
            (hash.clone(), bytes.clone())
        }
        _ => {
            let v = whole(&kinds, server.registry.minor());
            let bytes: Bytes = match content_type {
                JSON => v.to_string().into(),
                _ => gnostic::encode(&v).into(),
            };
            let hash = hex(digest(&SHA512, &bytes).as_ref());
            *known = Some((kinds.id, content_type, hash.clone(), bytes.clone()));
            (hash, bytes)
        }
    };
    tagged(headers, content_type, &hash, bytes)
}

fn whole(kinds: &KindTable, minor: Minor) -> Value {
    let prose = Prose::unpack();
    let describe = |def: &str, field: &str| prose.of(def, field);
    let mut all: Vec<Value> = versions(kinds)
        .into_iter()
        .map(|(_, kinds)| openapi::document(&kinds, minor, &describe))
        .collect();
    let groups: Vec<&str> =
        kinds.groups().map(|(g, _)| g).filter(|g| kinds.is_built_in(g) && !g.is_empty()).collect();
    all.extend(openapi::roots(&groups, minor, &describe).into_iter().map(|(_, v)| v));
    v2::document(&all, &minor.git_version())
}

fn empty(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::full(""));
    *response.status_mut() = code;
    response
}

/// The first of what a client accepts that is among what there is.
fn accepts(headers: &HeaderMap, there: &[&'static str]) -> Option<&'static str> {
    let text = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    text.split(',').find_map(|entry| {
        let media = entry.split(';').next().unwrap_or_default().trim();
        match media {
            "*/*" | "application/*" | "" => Some(JSON),
            media => there.iter().copied().find(|t| *t == media),
        }
    })
}

/// A document with its tag; nothing if the client has it already.
fn tagged(
    headers: &HeaderMap,
    content_type: &'static str,
    hash: &str,
    bytes: Bytes,
) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let has = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|t| t.trim().trim_start_matches("W/") == tag));
    let (code, bytes) =
        if has { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, bytes) };
    let mut response = respond::with(code, content_type, bytes);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
