//! Request bodies: JSON, YAML and protobuf objects, and patches.

use crate::{Server, binary, negotiate};
use bytes::Bytes;
use coracle_meta::{Status, json as strict};
use coracle_registry::write::{Input, Patch};
use coracle_schema::{Kind, protobuf};
use http::{HeaderMap, Request, header::CONTENT_TYPE};
use serde_json::{Value, json};

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const STRATEGIC_TOO: &str = "application/strategic-merge-patch+json, ";

pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or(negotiate::JSON);
    value.split(';').next().unwrap_or_default().trim()
}

fn unsupported() -> Status {
    Status::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// An object as JSON or YAML.
///
/// # Errors
/// 400 for what is neither.
pub fn decode_text(bytes: &[u8], yaml: bool) -> Result<Input, Status> {
    let bad = |e: &dyn std::fmt::Display| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type application/json or application/yaml): couldn't get version/kind; json parse error: {e}"
        ))
    };
    // Most of what is sent as YAML is JSON, which is read five times as fast.
    let json = || strict::decode(bytes).ok().filter(|_| bytes.trim_ascii_start().starts_with(b"{"));
    let decoded = if let Some(decoded) = yaml.then(json).flatten() {
        decoded
    } else if yaml {
        let text = std::str::from_utf8(bytes).map_err(|e| bad(&e))?;
        let value: Value = serde_saphyr::from_str(text).map_err(|e| bad(&e))?;
        strict::Decoded { value, duplicates: vec![] }
    } else {
        strict::decode(bytes).map_err(|e| bad(&e))?
    };
    Ok(Input { value: decoded.value, duplicates: decoded.duplicates })
}

/// The definition of a protobuf body: a served kind, or one that only requests carry.
fn read_protobuf(server: &Server, bytes: &[u8]) -> Result<Input, Status> {
    let bad = |e: protobuf::ProtobufError| {
        Status::bad_request(format!("the object provided cannot be read: {e}"))
    };
    let e = protobuf::envelope(bytes).map_err(bad)?;
    let gvk = coracle_meta::Gvk::parse(&e.api_version, &e.kind);
    let kinds = server.registry.kinds();
    let kind = kinds
        .of(&gvk.group, &gvk.version)
        .and_then(|k| k.iter().find(|k| k.kind == gvk.kind))
        .filter(|k| !k.custom);
    let pack = coracle_schema::pack::of(server.registry.minor());
    let known = match kind {
        Some(k) => Some(k.root().clone()),
        None => binary::definition(&pack.arena, &e.api_version, &e.kind),
    };
    let root = known.ok_or_else(|| {
        Status::bad_request(format!(
            "no kind {:?} is registered for version {:?}",
            e.kind, e.api_version
        ))
    })?;
    let mut value = protobuf::decode(&pack.arena, &root, e.raw).map_err(bad)?;
    value["apiVersion"] = json!(e.api_version);
    value["kind"] = json!(e.kind);
    Ok(Input::from(value))
}

pub(crate) fn read_body(server: &Server, request: &Request<Bytes>) -> Result<Input, Status> {
    match content_type(request.headers()) {
        "application/vnd.kubernetes.protobuf" => read_protobuf(server, request.body()),
        // Some clients send no type or curl's default; upstream reads those as JSON too.
        negotiate::JSON | "" | "*/*" | "application/x-www-form-urlencoded" => {
            decode_text(request.body(), false)
        }
        negotiate::YAML => decode_text(request.body(), true),
        _ => Err(unsupported()),
    }
}

pub(crate) fn read_patch(
    kind: &Kind,
    request: &Request<Bytes>,
) -> Result<(Patch, Vec<String>), Status> {
    let input = || {
        let bad = |e| Status::bad_request(format!("error decoding patch: {e}"));
        strict::decode(request.body()).map_err(bad)
    };
    Ok(match content_type(request.headers()) {
        "application/json-patch+json" => (Patch::Json(input()?.value), vec![]),
        "application/merge-patch+json" => {
            let d = input()?;
            (Patch::Merge(d.value), d.duplicates)
        }
        STRATEGIC if !kind.custom => {
            let d = input()?;
            (Patch::Strategic(d.value), d.duplicates)
        }
        _ => {
            let strategic = if kind.custom { "" } else { STRATEGIC_TOO };
            return Err(Status::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, {strategic}application/apply-patch+yaml"
                ),
            ));
        }
    })
}
