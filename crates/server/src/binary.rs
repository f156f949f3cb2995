//! Protobuf responses of built-in kinds. Stored objects are encoded once, when first asked for.

use bytes::Bytes;
use coracle_meta::Status;
use coracle_registry::Registry;
use coracle_schema::{Arena, Kind, Minor, Slot, Type, pack, protobuf};
use coracle_store::Object;
use serde_json::Value;
use std::sync::Arc;

/// The structure of a built-in type by its version and kind: one that is served, or one that only
/// requests and responses carry (those of `meta` go by the version of any group). The newest
/// minor's table holds those of all.
pub(crate) fn definition(arena: &Arena, api_version: &str, kind: &str) -> Option<Slot> {
    let (group, version) = coracle_meta::gvk::split_api_version(api_version);
    let package = if group.is_empty() { "core" } else { group.split('.').next()? };
    let names = [format!("{package}.{version}.{kind}"), format!("meta.v1.{kind}")];
    names.iter().find_map(|n| arena.find(n)).map(|id| Slot::of(Type::Object(id)))
}

fn missing(v: &Value) -> Status {
    Status::internal(format!("{} {} has no protobuf form", v["apiVersion"], v["kind"]))
}

/// A whole object, sealed.
pub(crate) fn sealed(v: &Value) -> Result<Vec<u8>, Status> {
    let (api_version, kind) =
        (v["apiVersion"].as_str().unwrap_or_default(), v["kind"].as_str().unwrap_or_default());
    let raw = match v["items"].as_array().zip(kind.strip_suffix("List")) {
        Some((items, kind)) => {
            let items: Vec<Vec<u8>> =
                items.iter().map(|i| message(api_version, kind, i)).collect::<Result<_, _>>()?;
            protobuf::list(&list_meta(&v["metadata"])?, items.iter().map(Vec::as_slice))
        }
        None => message(api_version, kind, v)?,
    };
    Ok(protobuf::seal(api_version, kind, &raw))
}

/// The raw message of one object.
fn message(api_version: &str, kind: &str, v: &Value) -> Result<Vec<u8>, Status> {
    if kind == "PartialObjectMetadata" {
        return Ok(partial(v));
    }
    let arena = &pack::of(Minor::LATEST).arena;
    let slot = definition(arena, api_version, kind).ok_or_else(|| missing(v))?;
    Ok(protobuf::encode(arena, &slot, v))
}

/// Metadata alone: a message whose first field it is, as in a list.
fn partial(v: &Value) -> Vec<u8> {
    let pack = pack::of(Minor::LATEST);
    protobuf::list(&protobuf::encode(&pack.arena, &pack.object_meta, &v["metadata"]), [])
}

fn list_meta(meta: &Value) -> Result<Vec<u8>, Status> {
    let arena = &pack::of(Minor::LATEST).arena;
    let slot = definition(arena, "v1", "ListMeta").ok_or_else(|| missing(meta))?;
    Ok(protobuf::encode(arena, &slot, meta))
}

/// The raw message of a stored object at the version of a kind.
fn raw(registry: &Registry, kind: &Kind, object: &Object) -> Result<Bytes, Status> {
    let bytes = registry.present(kind, object)?;
    let encode = |bytes: &[u8]| -> Result<Bytes, Status> {
        let v: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
        Ok(protobuf::encode(kind.arena(), kind.root(), &v).into())
    };
    if bytes.as_ptr() != object.bytes.as_ptr() {
        return encode(&bytes); // Of another version than the stored one.
    }
    if let Some(known) = object.binary.get() {
        return Ok(known.clone());
    }
    let made = encode(&bytes)?;
    Ok(object.binary.get_or_init(|| made).clone())
}

/// A list, sealed.
pub(crate) fn list(
    registry: &Registry,
    kind: &Kind,
    meta: &Value,
    objects: &[Arc<Object>],
) -> Result<Vec<u8>, Status> {
    let items = objects.iter().map(|o| raw(registry, kind, o)).collect::<Result<Vec<_>, _>>()?;
    let message = protobuf::list(&list_meta(meta)?, items.iter().map(|b| &**b));
    Ok(protobuf::seal(&kind.api_version(), &kind.list_kind, &message))
}

/// A stored object, sealed.
pub(crate) fn stored(registry: &Registry, kind: &Kind, object: &Object) -> Result<Vec<u8>, Status> {
    Ok(protobuf::seal(&kind.api_version(), &kind.kind, &raw(registry, kind, object)?))
}
