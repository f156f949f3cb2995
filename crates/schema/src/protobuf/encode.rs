//! Writes the protobuf form: fields in the order of their numbers, map entries in the order of their
//! keys, as upstream's generated code does. What is absent is not written; readers take it for zero.

use super::{MAGIC, union::Union};
use crate::types::{Arena, DefId, Slot, Type};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_meta::time;
use serde_json::Value;

/// The raw message of an object of a type.
pub fn encode(arena: &Arena, slot: &Slot, v: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if let Type::Object(id) = slot.ty {
        message(arena, id, v, &mut out);
    }
    out
}

/// An object with its type, ready to be sent: the magic and a `runtime.Unknown`.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    bytes(&mut meta, 1, api_version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 24);
    out.extend_from_slice(MAGIC);
    bytes(&mut out, 1, &meta);
    bytes(&mut out, 2, raw);
    // Content encoding and type, which are always there and always empty.
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    out
}

/// The raw message of a list: its metadata and the raw messages of its items.
pub fn list<'i>(meta: &[u8], items: impl IntoIterator<Item = &'i [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, meta);
    for item in items {
        bytes(&mut out, 2, item);
    }
    out
}

/// A frame of a watch stream: a length of four bytes, then a `WatchEvent` that holds a sealed
/// object.
pub fn watch_frame(kind: &str, sealed: &[u8]) -> Vec<u8> {
    let mut object = Vec::with_capacity(sealed.len() + 8);
    bytes(&mut object, 1, sealed);
    let mut event = Vec::with_capacity(object.len() + 24);
    bytes(&mut event, 1, kind.as_bytes());
    bytes(&mut event, 2, &object);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &event].concat()
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn key(out: &mut Vec<u8>, number: u32, wire: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire));
}

fn number(out: &mut Vec<u8>, field: u32, n: u64) {
    key(out, field, 0);
    varint(out, n);
}

pub(super) fn bytes(out: &mut Vec<u8>, field: u32, b: &[u8]) {
    key(out, field, 2);
    varint(out, b.len() as u64);
    out.extend_from_slice(b);
}

pub(super) fn message(arena: &Arena, id: DefId, v: &Value, out: &mut Vec<u8>) {
    let def = arena.def(id);
    let mut fields: Vec<(&str, &Slot, &Value)> = v
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, v)| Some((name.as_str(), def.fields.get(name.as_str())?, v)))
        .filter(|(_, slot, v)| !slot.tag.is_empty() && !v.is_null())
        .collect();
    fields.sort_by(|a, b| a.1.tag.cmp(&b.1.tag));
    level(arena, id, &fields, 0, out);
}

/// Writes fields whose numbers share the first `depth` steps. A longer path is a field of an
/// embedded struct, which is a message of its own on the wire.
fn level(
    arena: &Arena,
    id: DefId,
    fields: &[(&str, &Slot, &Value)],
    depth: usize,
    out: &mut Vec<u8>,
) {
    for group in fields.chunk_by(|a, b| a.1.tag[depth] == b.1.tag[depth]) {
        let number = group[0].1.tag[depth];
        if let [(name, slot, v)] = group {
            if slot.tag.len() == depth + 1 {
                match Union::of(arena, id, name) {
                    Some(union) => union.write(arena, id, number, v, out),
                    None => field(arena, number, &slot.ty, v, out),
                }
                continue;
            }
        }
        let mut inner = Vec::new();
        level(arena, id, group, depth + 1, &mut inner);
        bytes(out, number, &inner);
    }
}

fn field(arena: &Arena, n: u32, ty: &Type, v: &Value, out: &mut Vec<u8>) {
    match (ty, v) {
        (Type::List(item), Value::Array(items)) => {
            items.iter().for_each(|v| field(arena, n, &item.ty, v, out));
        }
        (Type::Map(item), Value::Object(map)) => {
            for (k, v) in map {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, k.as_bytes());
                match &item.ty {
                    // A map of lists holds messages with one repeated field.
                    Type::List(inner) => {
                        let mut values = Vec::new();
                        for v in v.as_array().into_iter().flatten() {
                            field(arena, 1, &inner.ty, v, &mut values);
                        }
                        bytes(&mut entry, 2, &values);
                    }
                    ty => field(arena, 2, ty, v, &mut entry),
                }
                bytes(out, n, &entry);
            }
        }
        (Type::Bool, v) => number(out, n, u64::from(v == &Value::Bool(true))),
        (Type::Int32 | Type::Int64, v) => number(out, n, v.as_i64().unwrap_or(0) as u64),
        (Type::Number, v) => {
            key(out, n, 1);
            out.extend_from_slice(&v.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        (Type::String, Value::String(s)) => bytes(out, n, s.as_bytes()),
        (Type::Bytes, Value::String(s)) => bytes(out, n, &STANDARD.decode(s).unwrap_or_default()),
        (ty, v) => {
            let mut inner = Vec::new();
            wrapped(arena, ty, v, &mut inner);
            bytes(out, n, &inner);
        }
    }
}

/// Types that are messages on the wire.
fn wrapped(arena: &Arena, ty: &Type, v: &Value, out: &mut Vec<u8>) {
    match (ty, v) {
        (Type::Object(id), v) => message(arena, *id, v, out),
        (Type::Quantity, v) => {
            bytes(out, 1, v.as_str().map_or_else(|| v.to_string(), str::to_owned).as_bytes());
        }
        (Type::IntOrString, v) => {
            let text = v.as_str();
            number(out, 1, u64::from(text.is_some()));
            number(out, 2, v.as_i64().unwrap_or(0) as u64);
            bytes(out, 3, text.unwrap_or_default().as_bytes());
        }
        (Type::Time | Type::MicroTime, v) => {
            if let Some(t) = v.as_str().and_then(time::parse_rfc3339) {
                number(out, 1, t.as_second() as u64);
                number(out, 2, t.subsec_nanosecond() as u64);
            }
        }
        (_, v) => bytes(out, 1, v.to_string().as_bytes()),
    }
}
