//! The structure that conditions see of built-in definitions.

use crate::types::{Arena, DefId, Slot, Type};
use coracle_cel::types::{Field, ListKind, Object, Schema, Shape, escape};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Structures that were made already.
#[derive(Debug, Default)]
pub(super) struct Structures(Mutex<HashMap<u32, Arc<Object>>>);

impl Structures {
    pub(super) fn schema(&self, arena: &Arena, id: DefId) -> Schema {
        let mut made = self.0.lock();
        Schema::of(Shape::Object(object(arena, id, &mut made, &mut vec![])))
    }
}

fn object(
    arena: &Arena,
    id: DefId,
    made: &mut HashMap<u32, Arc<Object>>,
    open: &mut Vec<u32>,
) -> Arc<Object> {
    if let Some(o) = made.get(&id.0) {
        return o.clone();
    }
    open.push(id.0);
    let def = arena.def(id);
    let mut fields = std::collections::BTreeMap::new();
    for (name, slot) in &def.fields {
        if let Some(escaped) = escape(name) {
            let schema = schema(arena, slot, made, open);
            fields.insert(escaped.into(), Field { json: name.clone(), schema });
        }
    }
    open.pop();
    let name = arena.name(id).unwrap_or("object").into();
    let object = Arc::new(Object { name, fields });
    made.insert(id.0, object.clone());
    object
}

fn schema(
    arena: &Arena,
    slot: &Slot,
    made: &mut HashMap<u32, Arc<Object>>,
    open: &mut Vec<u32>,
) -> Schema {
    Schema::of(match &slot.ty {
        Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Quantity => Shape::String,
        Type::Int32 | Type::Int64 => Shape::Int,
        Type::Number => Shape::Double,
        Type::Bool => Shape::Bool,
        Type::IntOrString | Type::Any => Shape::Any,
        Type::List(item) => {
            Shape::List(Arc::new(schema(arena, item, made, open)), ListKind::Atomic)
        }
        Type::Map(value) => Shape::Map(Arc::new(schema(arena, value, made, open))),
        // Definitions that contain themselves end here.
        Type::Object(id) if open.contains(&id.0) => Shape::Any,
        Type::Object(id) => Shape::Object(object(arena, *id, made, open)),
    })
}
