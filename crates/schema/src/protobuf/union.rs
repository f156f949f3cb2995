//! Fields of a CustomResourceDefinition's schema that are a schema or something else: JSON has the
//! one or the other in place, protobuf a message with both.

use super::{Fields, ProtobufError, Wire, encode, message};
use crate::types::{Arena, DefId, Type};
use serde_json::{Value, json};

/// What else a field may be.
#[derive(Clone, Copy)]
pub(super) enum Union {
    /// `additionalProperties`, `additionalItems`: whether they are allowed.
    Bool,
    /// `items`: a schema for each.
    Schemas,
}

impl Union {
    pub(super) fn of(arena: &Arena, id: DefId, field: &str) -> Option<Self> {
        let union = match field {
            "additionalProperties" | "additionalItems" => Self::Bool,
            "items" => Self::Schemas,
            _ => return None,
        };
        (arena.find("apiextensions.v1.JSONSchemaProps") == Some(id)).then_some(union)
    }

    /// Numbers of the schema and of the other.
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Bool => (2, 1),
            Self::Schemas => (1, 2),
        }
    }

    pub(super) fn write(
        self,
        arena: &Arena,
        schema: DefId,
        number: u32,
        v: &Value,
        out: &mut Vec<u8>,
    ) {
        let (one, other) = self.numbers();
        let mut inner = Vec::new();
        let mut put = |number, v: &Value| {
            let mut m = Vec::new();
            encode::message(arena, schema, v, &mut m);
            encode::bytes(&mut inner, number, &m);
        };
        match v {
            Value::Bool(b) => inner.extend([8, u8::from(*b)]),
            Value::Array(all) => all.iter().for_each(|v| put(other, v)),
            v => {
                put(one, v);
                if matches!(self, Self::Bool) {
                    // Where there is a schema, others are allowed.
                    inner.splice(0..0, [8, 1]);
                }
            }
        }
        encode::bytes(out, number, &inner);
    }

    pub(super) fn read(
        self,
        arena: &Arena,
        schema: DefId,
        b: &[u8],
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let (one, other) = self.numbers();
        let (mut found, mut allows, mut many) = (None, None, Vec::new());
        let ty = Type::Object(schema);
        for f in Fields(b) {
            match f? {
                (n, Wire::Bytes(b)) if n == one => {
                    found = Some(message(arena, &ty, b, depth + 1)?);
                }
                (n, Wire::Varint(v)) if n == other => allows = Some(json!(v != 0)),
                (n, Wire::Bytes(b)) if n == other => many.push(message(arena, &ty, b, depth + 1)?),
                _ => {}
            }
        }
        Ok(found.or(allows).unwrap_or(Value::Array(many)))
    }
}
