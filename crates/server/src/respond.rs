//! Responses: objects, lists, tables and partial metadata, as the client accepts them.

use crate::body::{self, Body};
use bytes::{Bytes, BytesMut};
use coracle_meta::Status;
use coracle_registry::{Registry, read::List};
use coracle_schema::Kind;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING},
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The usual media type.
pub(crate) const JSON: &str = "application/json";
/// The other media type.
pub(crate) const YAML: &str = "application/yaml";

/// What shape of an object the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Table,
    Partial,
}

/// What a row of a table carries of its object (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// What the client accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) include: Include,
    pub(crate) shape: Shape,
    pub(crate) yaml: bool,
}

impl Accept {
    /// The best of the accepted types that this server writes.
    ///
    /// # Errors
    /// 406 when there is none.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let text = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        let mut best: Option<(f32, Self)> = None;
        for entry in text.split(',').filter(|e| !e.trim().is_empty()) {
            let mut parts = entry.split(';').map(str::trim);
            let yaml = match parts.next().unwrap_or_default() {
                JSON | "*/*" | "application/*" => false,
                YAML => true,
                _ => continue,
            };
            let (mut shape, mut quality, mut known) = (Shape::Object, 1.0f32, true);
            for p in parts {
                match p.split_once('=') {
                    Some(("as", "Table")) => shape = Shape::Table,
                    Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                        shape = Shape::Partial
                    }
                    Some(("as", _)) => known = false,
                    Some(("v", v)) if v != "v1" => known = false,
                    Some(("q", q)) => quality = q.parse().unwrap_or(0.0),
                    _ => {}
                }
            }
            if known && best.as_ref().is_none_or(|(q, _)| quality > *q) {
                best = Some((quality, Self { shape, yaml, include: Include::default() }));
            }
        }
        best.map(|(_, a)| a).ok_or_else(|| {
            Status::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json, application/yaml",
            )
        })
    }
}

/// A response with a body of a type.
pub(crate) fn with(
    code: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON response.
pub(crate) fn json(code: StatusCode, v: &Value) -> Response<Body> {
    with(code, JSON, v.to_string())
}

/// The response of a failed request.
pub fn status(s: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(s.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &s.to_value());
    if let Some(seconds) = s.retry_after_seconds {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds warnings, as RFC 7234 has them.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for w in warnings {
        let quoted = w.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
        if let Ok(v) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, v);
        }
    }
}

fn encode(code: StatusCode, yaml: bool, v: &Value) -> Result<Response<Body>, Status> {
    if yaml {
        return Ok(with(code, YAML, serde_saphyr::to_string(v).map_err(Status::internal)?));
    }
    Ok(json(code, v))
}

fn parse(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(Status::internal)
}

/// One object.
pub(crate) fn object(
    kind: &Kind,
    accept: &Accept,
    code: StatusCode,
    bytes: &Bytes,
    now: Timestamp,
) -> Result<Response<Body>, Status> {
    if accept.shape == Shape::Object && !accept.yaml {
        return Ok(with(code, JSON, bytes.clone()));
    }
    let v = parse(bytes)?;
    let shaped = match accept.shape {
        Shape::Object => v,
        Shape::Partial => partial(&v),
        Shape::Table => {
            let meta = json!({"resourceVersion": v["metadata"]["resourceVersion"]});
            table(kind, meta, vec![row(kind, &v, accept.include, now)], true)
        }
    };
    encode(code, accept.yaml, &shaped)
}

/// Metadata only.
pub(crate) fn partial(v: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": v["metadata"]})
}

/// One row of a table.
pub(crate) fn row(kind: &Kind, v: &Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|c| c.cell(v, now)).collect();
    let mut row = json!({"cells": cells});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(v),
        Include::Object => row["object"] = v.clone(),
    }
    if kind.kind == "Pod" {
        let message = match v["status"]["phase"].as_str() {
            Some("Succeeded") => Some("The pod has completed successfully."),
            Some("Failed") => Some("The pod failed."),
            _ => None,
        };
        if let Some(message) = message {
            row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": v["status"]["phase"], "message": message}]);
        }
    }
    row
}

/// A table; column definitions are left out of later events of a watch.
pub(crate) fn table(kind: &Kind, meta: Value, rows: Vec<Value>, definitions: bool) -> Value {
    let columns: Vec<Value> =
        if definitions { kind.columns.iter().map(|c| c.definition()).collect() } else { vec![] };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns, "rows": rows})
}

fn list_meta(list: &List) -> Value {
    let mut meta = json!({"resourceVersion": list.revision.to_string()});
    if let Some(token) = &list.continue_token {
        meta["continue"] = json!(token);
    }
    if let Some(n) = list.remaining {
        meta["remainingItemCount"] = json!(n);
    }
    meta
}

/// A list. In the usual shape it is a concatenation of stored bytes.
pub(crate) fn list(
    registry: &Registry,
    kind: &Kind,
    accept: &Accept,
    list: &List,
) -> Result<Response<Body>, Status> {
    let mut items = Vec::with_capacity(list.items.len());
    for object in &list.items {
        items.push(registry.present(kind, object)?);
    }
    let meta = list_meta(list);
    if accept.shape == Shape::Object && !accept.yaml {
        return Ok(with(StatusCode::OK, JSON, concatenate(kind, &items, &meta)));
    }
    let values = items.iter().map(|b| parse(b)).collect::<Result<Vec<_>, _>>()?;
    let v = match accept.shape {
        Shape::Table => {
            let now = registry.now();
            table(
                kind,
                meta,
                values.iter().map(|v| row(kind, v, accept.include, now)).collect(),
                true,
            )
        }
        Shape::Partial => {
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": meta, "items": values.iter().map(partial).collect::<Vec<_>>()})
        }
        Shape::Object => {
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": meta, "items": values})
        }
    };
    encode(StatusCode::OK, accept.yaml, &v)
}

/// A list of bytes at a revision.
pub(crate) fn raw_list(kind: &Kind, items: &[Bytes], revision: u64) -> Response<Body> {
    let meta = json!({"resourceVersion": revision.to_string()});
    with(StatusCode::OK, JSON, concatenate(kind, items, &meta))
}

fn concatenate(kind: &Kind, items: &[Bytes], meta: &Value) -> Bytes {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{meta},\"items\":[",
        json!(kind.list_kind),
        json!(kind.api_version())
    );
    let size = head.len() + items.iter().map(|b| b.len() + 1).sum::<usize>() + 3;
    let mut out = BytesMut::with_capacity(size);
    out.extend_from_slice(head.as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(item);
    }
    out.extend_from_slice(b"]}\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Accept, Status> {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, HeaderValue::from_str(text).unwrap());
        Accept::of(&h)
    }

    #[test]
    fn negotiation() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().shape, Shape::Table);
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf,application/json").unwrap().shape,
            Shape::Object
        );
        assert_eq!(accept("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert!(accept("application/yaml").unwrap().yaml);
        assert!(!accept("application/yaml;q=0.5,application/json;q=0.9").unwrap().yaml);
    }
}
