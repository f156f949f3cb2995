//! Kubernetes' protobuf form of built-in objects, by the field numbers of the pack: read here,
//! written by [`encode`].
//!
//! A message is the magic `k8s\0` and a `runtime.Unknown` that holds type and raw bytes. Fields
//! that the table does not know are skipped, as protobuf wants.

mod encode;
mod union;

use crate::types::{Arena, Slot, Type};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_meta::time;
pub use encode::{encode, list, seal, watch_frame};
use serde_json::{Map, Value, json};
use union::Union;

const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages, as for JSON.
const MAX_DEPTH: usize = 128;

/// Why bytes could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The magic is missing.
    #[error("the body does not begin with the Kubernetes protobuf prefix")]
    NoPrefix,
    /// The wire format is broken.
    #[error("the body is not valid protobuf")]
    Malformed,
    /// Messages are nested too deeply.
    #[error("the body is nested too deeply")]
    TooDeep,
}

/// A `runtime.Unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// `kind` of the object.
    pub kind: String,
    /// The object.
    pub raw: &'b [u8],
}

/// Opens the envelope.
///
/// # Errors
/// When it is none.
pub fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoPrefix)?;
    let mut e = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for field in Fields(body) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for f in Fields(meta) {
                    match f? {
                        (1, Wire::Bytes(b)) => e.api_version = text(b)?,
                        (2, Wire::Bytes(b)) => e.kind = text(b)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => e.raw = raw,
            _ => {}
        }
    }
    Ok(e)
}

/// Reads an object of a type.
///
/// # Errors
/// When the wire format is broken.
pub fn decode(arena: &Arena, slot: &Slot, raw: &[u8]) -> Result<Value, ProtobufError> {
    message(arena, &slot.ty, raw, 0)
}

enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'b [u8]),
}

struct Fields<'b>(&'b [u8]);

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u32, Wire<'b>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.field())
    }
}

impl<'b> Fields<'b> {
    fn field(&mut self) -> Result<(u32, Wire<'b>), ProtobufError> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| ProtobufError::Malformed)?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let n = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed)?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(self.broken()),
        };
        Ok((number, wire))
    }

    /// Ends the iteration: what follows cannot be read.
    fn broken(&mut self) -> ProtobufError {
        self.0 = &[];
        ProtobufError::Malformed
    }

    fn take(&mut self, n: usize) -> Result<&'b [u8], ProtobufError> {
        match self.0.split_at_checked(n) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(self.broken()),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        self.take(N)?.try_into().map_err(|_| ProtobufError::Malformed)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.broken())
    }
}

fn text(b: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(b.to_vec()).map_err(|_| ProtobufError::Malformed)
}

/// The field with a path of numbers, among a definition's fields.
fn message(arena: &Arena, ty: &Type, raw: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let Type::Object(id) = ty else { return Ok(Value::Null) };
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let mut map = Map::new();
    object(arena, *id, raw, &[], &mut map, depth)?;
    Ok(Value::Object(map))
}

fn object(
    arena: &Arena,
    id: crate::DefId,
    raw: &[u8],
    prefix: &[u32],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let def = arena.def(id);
    for field in Fields(raw) {
        let (number, wire) = field?;
        let path = [prefix, &[number]].concat();
        if let Some((name, slot)) = def.fields.iter().find(|(_, s)| *s.tag == *path) {
            match (Union::of(arena, id, name), wire) {
                (Some(union), Wire::Bytes(b)) => {
                    drop(map.insert(name.to_string(), union.read(arena, id, b, depth)?));
                }
                (_, wire) => put(arena, name, slot, wire, map, depth)?,
            }
        } else if let Wire::Bytes(inner) = wire {
            // An embedded struct: its fields are fields of this object.
            if path.len() < 4
                && def.fields.values().any(|s| s.tag.len() > path.len() && s.tag.starts_with(&path))
            {
                object(arena, id, inner, &path, map, depth)?;
            }
        }
    }
    Ok(())
}

fn put(
    arena: &Arena,
    name: &str,
    slot: &Slot,
    wire: Wire<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match &slot.ty {
        Type::List(item) => {
            let list = map.entry(name).or_insert_with(|| json!([]));
            let Some(list) = list.as_array_mut() else { return Ok(()) };
            match (&item.ty, wire) {
                // Packed numbers.
                (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(packed)) => {
                    let mut rest = Fields(packed);
                    while !rest.0.is_empty() {
                        let n = Wire::Varint(rest.varint()?);
                        list.push(value(arena, &item.ty, n, depth)?);
                    }
                }
                (ty, wire) => list.push(value(arena, ty, wire, depth)?),
            }
        }
        Type::Map(item) => {
            let Wire::Bytes(entry) = wire else { return Err(ProtobufError::Malformed) };
            let (mut key, mut v) = (String::new(), None);
            for f in Fields(entry) {
                match f? {
                    (1, Wire::Bytes(b)) => key = text(b)?,
                    (2, wire) => v = Some(map_value(arena, item, wire, depth)?),
                    _ => {}
                }
            }
            let entries = map.entry(name).or_insert_with(|| json!({}));
            entries[key] = v.unwrap_or_else(|| json!(""));
        }
        // Upstream's encoder writes every string, given or not: an empty one is an absent one. (Of
        // the few fields where it is not, clients that set them send JSON.)
        Type::String if matches!(wire, Wire::Bytes(b"")) => {}
        ty => drop(map.insert(name.into(), value(arena, ty, wire, depth)?)),
    }
    Ok(())
}

fn map_value(
    arena: &Arena,
    item: &Slot,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    match (&item.ty, wire) {
        // A map of lists holds messages with one repeated field.
        (Type::List(inner), Wire::Bytes(b)) => {
            let items = Fields(b).map(|f| f.and_then(|(_, w)| value(arena, &inner.ty, w, depth)));
            Ok(Value::Array(items.collect::<Result<_, _>>()?))
        }
        (ty, wire) => value(arena, ty, wire, depth),
    }
}

fn value(arena: &Arena, ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (ty, wire) {
        (Type::Bool, Wire::Varint(n)) => json!(n != 0),
        (Type::Int32 | Type::Int64, Wire::Varint(n)) => json!(n as i64),
        (Type::Number, Wire::Fixed64(n)) => float(f64::from_bits(n)),
        (Type::Number, Wire::Fixed32(n)) => float(f64::from(f32::from_bits(n))),
        (Type::String, Wire::Bytes(b)) => json!(text(b)?),
        (Type::Bytes, Wire::Bytes(b)) => json!(STANDARD.encode(b)),
        (Type::Quantity, Wire::Bytes(b)) => json!(text(first(b)?.unwrap_or_default())?),
        (Type::Time | Type::MicroTime, Wire::Bytes(b)) => timestamp(ty, b)?,
        (Type::IntOrString, Wire::Bytes(b)) => int_or_string(b)?,
        (Type::Any, Wire::Bytes(b)) => {
            serde_json::from_slice(first(b)?.unwrap_or_default()).unwrap_or(Value::Null)
        }
        (Type::Object(_), Wire::Bytes(b)) => message(arena, ty, b, depth + 1)?,
        _ => return Err(ProtobufError::Malformed),
    })
}

/// As Go writes it: a whole number has no point.
fn float(n: f64) -> Value {
    if n.fract() == 0.0 && n.abs() < 1e15 { json!(n as i64) } else { json!(n) }
}

/// The bytes of field 1.
fn first(b: &[u8]) -> Result<Option<&[u8]>, ProtobufError> {
    let mut found = None;
    for f in Fields(b) {
        if let (1, Wire::Bytes(inner)) = f? {
            found = Some(inner);
        }
    }
    Ok(found)
}

fn int_or_string(b: &[u8]) -> Result<Value, ProtobufError> {
    let (mut kind, mut number, mut string) = (0, 0, String::new());
    for f in Fields(b) {
        match f? {
            (1, Wire::Varint(n)) => kind = n,
            (2, Wire::Varint(n)) => number = n as i64,
            (3, Wire::Bytes(s)) => string = text(s)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { json!(number) } else { json!(string) })
}

fn timestamp(ty: &Type, b: &[u8]) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    for f in Fields(b) {
        match f? {
            (1, Wire::Varint(n)) => seconds = n as i64,
            (2, Wire::Varint(n)) => {
                nanos = i32::try_from(n).map_err(|_| ProtobufError::Malformed)?
            }
            _ => {}
        }
    }
    // Go's zero time is what an absent time looks like.
    let Ok(t) = jiff::Timestamp::new(seconds, nanos) else { return Ok(Value::Null) };
    Ok(match ty {
        _ if b.is_empty() => Value::Null,
        Type::Time => json!(time::rfc3339(t)),
        _ => json!(time::rfc3339_micro(t)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Minor, pack};
    use proptest::prelude::*;

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, body.len() as u8], body].concat()
    }

    #[test]
    fn reads_a_service_account() {
        let raw = field(
            1,
            &[field(1, b"a"), field(11, &[field(1, b"k"), field(2, b"v")].concat())].concat(),
        );
        let meta = [field(1, b"v1"), field(2, b"ServiceAccount")].concat();
        let bytes = [MAGIC.to_vec(), field(1, &meta), field(2, &raw)].concat();
        let e = envelope(&bytes).unwrap();
        assert_eq!((e.api_version.as_str(), e.kind.as_str()), ("v1", "ServiceAccount"));
        let k =
            pack::of(Minor::LATEST).kinds.iter().find(|k| k.plural == "serviceaccounts").unwrap();
        let v = decode(k.arena(), k.root(), e.raw).unwrap();
        assert_eq!(v, json!({"metadata": {"name": "a", "labels": {"k": "v"}}}));
    }

    /// Upstream's own samples of all minors, where they are there: each object reads as its JSON
    /// form does, and is written back byte by byte.
    #[test]
    fn reads_and_writes_what_upstream_wrote() {
        let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/data/api-roundtrip");
        if !base.is_dir() {
            println!("skipped: {} is not there", base.display());
            return;
        }
        let (mut checked, mut failures) = (0, Vec::new());
        for minor in Minor::ALL {
            let kinds = &pack::of(minor).kinds;
            let entries = std::fs::read_dir(base.join(format!("v{minor}"))).unwrap();
            for path in entries.map(|e| e.unwrap().path()) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if !name.ends_with(".pb") || name.contains("after_roundtrip") {
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                let e = envelope(&bytes).unwrap();
                let Some(k) =
                    kinds.iter().find(|k| k.api_version() == e.api_version && k.kind == e.kind)
                else {
                    continue;
                };
                let want: Value =
                    serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap())
                        .unwrap();
                let got = decode(k.arena(), k.root(), e.raw).unwrap();
                for (at, have) in leaves(&want) {
                    let known = ["/apiVersion", "/kind"].contains(&at.as_str());
                    if !known && got.pointer(&at) != Some(have) {
                        failures.push(format!(
                            "{minor} {name}: {at} {have} reads {:?}",
                            got.pointer(&at)
                        ));
                    }
                }
                let again = seal(&e.api_version, &e.kind, &encode(k.arena(), k.root(), &want));
                if again != bytes {
                    let at = again.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
                    failures.push(format!(
                        "{minor} {name}: byte {at} of {} differs: {:?} wanted {:?}",
                        bytes.len(),
                        String::from_utf8_lossy(
                            &again[at.saturating_sub(20)..(at + 30).min(again.len())]
                        ),
                        String::from_utf8_lossy(
                            &bytes[at.saturating_sub(20)..(at + 30).min(bytes.len())]
                        ),
                    ));
                }
                checked += 1;
            }
        }
        assert!(failures.is_empty(), "{} of {checked}\n{}", failures.len(), failures.join("\n"));
        assert!(checked > 200, "{checked}");
    }

    #[test]
    fn schemas_of_definitions_survive() {
        let v = json!({"metadata": {"name": "a.b"}, "spec": {"group": "b", "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
        "type": "object", "default": {"x": 1}, "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "m": {"additionalProperties": {"type": "string"}, "type": "object"},
            "o": {"additionalProperties": false},
            "l": {"items": {"type": "integer", "minimum": -1.5}, "enum": [1, "a", null]},
            "t": {"items": [{"type": "string"}, {"type": "boolean"}], "x-kubernetes-list-map-keys": ["k"]},
        }}}}]}});
        let kinds = &pack::of(Minor::LATEST).kinds;
        let k = kinds.iter().find(|k| k.plural == "customresourcedefinitions").unwrap();
        assert_eq!(decode(k.arena(), k.root(), &encode(k.arena(), k.root(), &v)).unwrap(), v);
    }

    fn leaves(v: &Value) -> Vec<(String, &Value)> {
        let join = |k: &str, v| {
            leaves(v)
                .into_iter()
                .map(|(p, x)| (format!("/{}{p}", k.replace('~', "~0").replace('/', "~1")), x))
                .collect::<Vec<_>>()
        };
        match v {
            Value::Object(m) if !m.is_empty() => m.iter().flat_map(|(k, v)| join(k, v)).collect(),
            Value::Array(a) if !a.is_empty() => {
                a.iter().enumerate().flat_map(|(i, v)| join(&i.to_string(), v)).collect()
            }
            Value::Object(_) | Value::Array(_) => vec![],
            Value::String(s) if s.is_empty() => vec![],
            v if *v == json!(0) || *v == json!(false) => vec![],
            v => vec![(String::new(), v)],
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = envelope(&[MAGIC, &bytes].concat());
            let k = pack::of(Minor::LATEST).kinds.iter().find(|k| k.plural == "pods").unwrap();
            let _ = decode(k.arena(), k.root(), &bytes);
        }
    }
}
