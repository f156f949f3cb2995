//! Paths that are no resources: health, version, metrics, the keys of service account tokens; and
//! the doors to [`discovery`] and [`openapi`].

use crate::{
    Server,
    body::{self, Body},
    discovery, openapi,
    request::{self, RequestInfo},
    respond,
};
use bytes::Bytes;
use coracle_meta::Status;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::{fmt::Write, sync::Arc};

const TEXT: &str = "text/plain; charset=utf-8";
/// How long others may keep the keys, as upstream says.
const KEYS_MAX_AGE: &str = "public, max-age=3600";

/// Answers a path that is no resource.
///
/// # Errors
/// 405 for anything but reading.
pub(crate) fn answer(
    server: &Arc<Server>,
    info: &RequestInfo,
    request: &Request<Bytes>,
) -> Result<Response<Body>, Status> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(crate::handlers::not_allowed());
    }
    let path = info.path.trim_end_matches('/');
    if let Some(response) = health(server, path, request) {
        return Ok(response);
    }
    Ok(match path {
        "/version" => respond::json(StatusCode::OK, &discovery::version(&server.registry)),
        "/metrics" => metrics(server),
        "/.well-known/openid-configuration" => {
            keys("application/json", &configuration(server, request))
        }
        "/openid/v1/jwks" => keys("application/jwk-set+json", &server.tokens.key_set()),
        _ if path.starts_with("/openapi/") => openapi::answer(server, path, request),
        _ => match discovery::answer(server, path, request) {
            Some(response) => response,
            None => return unknown(server, path),
        },
    })
}

/// What upstream says of paths that nothing serves: plain text, no `Status`.
pub(crate) fn not_found() -> Response<Body> {
    let mut response = respond::with(StatusCode::NOT_FOUND, TEXT, "404 page not found\n");
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// Below a built-in group, upstream routes every path, and says in a `Status` that there is nothing.
fn unknown(server: &Server, path: &str) -> Result<Response<Body>, Status> {
    let mut parts = path.split('/').skip(1);
    let routed = match (parts.next(), parts.next(), parts.next()) {
        (Some("api"), Some(_), None) => true,
        (Some("apis"), Some(group), Some(_)) => server.registry.kinds().is_built_in(group),
        _ => false,
    };
    if routed { Err(Status::no_such_resource()) } else { Ok(not_found()) }
}

fn metrics(server: &Server) -> Response<Body> {
    let store = server.registry.store();
    let counts: Vec<(String, usize)> =
        store.resources().iter().map(|r| (r.to_string(), store.snapshot(r).len())).collect();
    let text = server.metrics.render(server.registry.minor(), &counts);
    respond::with(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// `/healthz`, `/livez`, `/readyz` and their single checks.
fn health(server: &Server, path: &str, request: &Request<Bytes>) -> Option<Response<Body>> {
    let (name, one) = match path.strip_prefix('/')?.split_once('/') {
        Some((name, one)) => (name, Some(one)),
        None => (&path[1..], None),
    };
    if !["healthz", "livez", "readyz"].contains(&name) {
        return None;
    }
    // What can be wrong with a server that answers: the store is in this process, and a database
    // that cannot be written ends it.
    let stopping = *server.stopping().borrow();
    let mut checks = vec![("ping", true), ("log", true), ("etcd", true)];
    if name == "readyz" {
        checks.extend([("informer-sync", true), ("shutdown", !stopping)]);
    }
    if let Some(one) = one {
        let Some((_, fine)) = checks.iter().find(|(check, _)| *check == one) else {
            return Some(not_found());
        };
        let failed = "internal server error: process is shutting down";
        return Some(if *fine { text(200, "ok") } else { text(500, failed) });
    }
    let query = request::query(request);
    let excluded: Vec<&str> =
        query.iter().filter(|(k, _)| k == "exclude").map(|(_, v)| v.as_str()).collect();
    let (mut lines, mut fine) = (String::new(), true);
    for (check, ok) in checks {
        let line = match (excluded.contains(&check), ok) {
            (true, _) => format!("[+]{check} excluded: ok"),
            (false, true) => format!("[+]{check} ok"),
            (false, false) => {
                fine = false;
                format!("[-]{check} failed: reason withheld")
            }
        };
        let _ = writeln!(lines, "{line}");
    }
    if !fine {
        return Some(text(500, format!("{lines}{name} check failed\n")));
    }
    let verbose = query.iter().any(|(k, _)| k == "verbose");
    Some(text(200, if verbose { format!("{lines}{name} check passed\n") } else { "ok".into() }))
}

fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond::with(code, TEXT, text)
}

fn keys(content_type: &'static str, v: &Value) -> Response<Body> {
    let mut response = Response::new(body::full(v.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(KEYS_MAX_AGE));
    response
}

/// OpenID Connect Discovery for service account tokens: who trusts this issuer (a cloud's
/// workload identity) verifies them without asking.
fn configuration(server: &Server, request: &Request<Bytes>) -> Value {
    let authority = request::authority(request);
    json!({
        "issuer": server.tokens.issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", authority.unwrap_or("kubernetes.default.svc")),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
