//! Responses: objects, lists, tables and partial metadata, as the client accepts them.

use crate::{
    binary,
    body::{self, Body},
    negotiate::{Accept, Format, JSON, PROTOBUF, Shape, YAML},
    shapes::{self, Table},
};
use bytes::{Bytes, BytesMut};
use coracle_meta::Status;
use coracle_registry::{Registry, encoding, read::List};
use coracle_schema::Kind;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING},
};
use jiff::Timestamp;
use serde_json::{Value, json};

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

/// The response of a failed request, in the format that the client wants.
pub fn status(s: &Status, headers: &HeaderMap) -> Response<Body> {
    let code = StatusCode::from_u16(s.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let format = Accept::of(headers, true).map_or(Format::Json, |a| a.format);
    let v = s.to_value();
    let mut response = encode(code, format, &v).unwrap_or_else(|_| json(code, &v));
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

/// A whole object (or table, or list) in a format.
pub(crate) fn encode(
    code: StatusCode,
    format: Format,
    v: &Value,
) -> Result<Response<Body>, Status> {
    Ok(match format {
        Format::Json => json(code, v),
        Format::Yaml => with(code, YAML, serde_saphyr::to_string(v).map_err(Status::internal)?),
        Format::Protobuf => with(code, PROTOBUF, binary::sealed(v)?),
    })
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
    if accept.shape == Shape::Object && accept.format == Format::Json {
        return Ok(with(code, JSON, bytes.clone()));
    }
    accept.shape.check(&kind.kind, false)?;
    let text = match accept.shape {
        Shape::Object => return encode(code, accept.format, &parse(bytes)?),
        Shape::Partial(version) | Shape::PartialList(version) => shapes::partial(bytes, version)?,
        Shape::Table(version) => {
            let table = Table { kind, include: accept.include, version, now };
            table.of_one(bytes, true)?
        }
    };
    encode_text(code, accept.format, text)
}

/// JSON in another format, if the client wants that.
fn encode_text(code: StatusCode, format: Format, text: String) -> Result<Response<Body>, Status> {
    match format {
        Format::Json => Ok(with(code, JSON, text)),
        other => encode(code, other, &parse(text.as_bytes())?),
    }
}

fn list_meta(kind: &Kind, list: &List) -> Value {
    let mut meta = json!({"resourceVersion": list.revision.to_string()});
    if kind.custom {
        // Unstructured lists always have it.
        meta["continue"] = json!("");
    }
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
    accept.shape.check(&kind.kind, true)?;
    let meta = list_meta(kind, list);
    if accept.shape == Shape::Object && accept.format == Format::Protobuf {
        return Ok(with(
            StatusCode::OK,
            PROTOBUF,
            binary::list(registry, kind, &meta, &list.items)?,
        ));
    }
    let items = registry.present_all(kind, &list.items)?;
    if accept.shape == Shape::Object && accept.format == Format::Json {
        return Ok(with(StatusCode::OK, JSON, concatenate(kind, &items, &meta)));
    }
    let bytes = items.iter().map(|b| &**b);
    let text = match accept.shape {
        Shape::Object => {
            let v = parse(&concatenate(kind, &items, &meta))?;
            return encode(StatusCode::OK, accept.format, &v);
        }
        Shape::Partial(version) | Shape::PartialList(version) => {
            shapes::partials(bytes, &meta, version)?
        }
        Shape::Table(version) => {
            let now = registry.now();
            Table { kind, include: accept.include, version, now }.of(bytes, &meta, true)?
        }
    };
    encode_text(StatusCode::OK, accept.format, text)
}

/// A list of objects' bytes at a revision.
pub(crate) fn raw_list(
    kind: &Kind,
    format: Format,
    items: &[Bytes],
    revision: u64,
) -> Result<Response<Body>, Status> {
    let meta = json!({"resourceVersion": revision.to_string()});
    let bytes = concatenate(kind, items, &meta);
    match format {
        Format::Json => Ok(with(StatusCode::OK, JSON, bytes)),
        other => encode(StatusCode::OK, other, &parse(&bytes)?),
    }
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
    let prefix = if kind.custom { String::new() } else { encoding::type_prefix(kind) };
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b",");
        }
        let (brace, rest) =
            if kind.custom { (&b""[..], &**item) } else { encoding::untyped(item, &prefix) };
        out.extend_from_slice(brace);
        out.extend_from_slice(rest);
    }
    out.extend_from_slice(b"]}\n");
    out.freeze()
}
