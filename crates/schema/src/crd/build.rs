//! From a schema that was checked to the definitions that objects are handled by. What a check would
//! have refused is read as well as it can be: nothing here fails.

use super::{rules, structural::MAX_DEPTH, text, texts};
use crate::{
    defaults::{Rule, Source},
    types::{Arena, Def, Limits, ListType, Slot, Type},
};
use serde_json::{Map, Value};

/// The place that a schema describes, and everything below it.
pub(super) fn slot(schema: &Value, arena: &mut Arena) -> Slot {
    let declared = rules::Declared::of(schema);
    Builder { arena, depth: 0, declared: &declared }.slot(schema)
}

struct Builder<'a> {
    arena: &'a mut Arena,
    depth: usize,
    declared: &'a rules::Declared,
}

impl Builder<'_> {
    fn slot(&mut self, s: &Value) -> Slot {
        self.depth += 1;
        let mut slot = Slot::of(if self.depth > MAX_DEPTH { Type::Any } else { self.ty(s) });
        slot.nullable = s["nullable"] == true;
        slot.allowed = s["enum"].as_array().cloned().unwrap_or_default();
        slot.description = text(s, "description").into();
        slot.list = match text(s, "x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => ListType::Map(
                texts(&s["x-kubernetes-list-map-keys"]).into_iter().map(Into::into).collect(),
            ),
            _ => ListType::Atomic,
        };
        slot.atomic = s["x-kubernetes-map-type"] == "atomic";
        slot.limits = self.limits(s, false).map(Box::new);
        slot.default = s.get("default").filter(|d| !d.is_null()).cloned().map(Box::new);
        slot.rules = rules::compile(s, self.declared);
        self.arena.has_rules |= slot.rules.is_some();
        self.depth -= 1;
        slot
    }

    fn ty(&mut self, s: &Value) -> Type {
        let preserve = s["x-kubernetes-preserve-unknown-fields"] == true;
        if s["x-kubernetes-int-or-string"] == true {
            return Type::IntOrString;
        }
        match (text(s, "type"), text(s, "format")) {
            ("string", _) => Type::String,
            ("integer", "int32") => Type::Int32,
            ("integer", _) => Type::Int64,
            ("number", _) => Type::Number,
            ("boolean", _) => Type::Bool,
            ("array", _) => Type::List(Box::new(self.slot(&s["items"]))),
            ("object", _) => self.object(s, preserve),
            _ if preserve && s["properties"].is_object() => self.object(s, preserve),
            _ => Type::Any,
        }
    }

    fn object(&mut self, s: &Value, preserve: bool) -> Type {
        let properties = s["properties"].as_object();
        let additional = &s["additionalProperties"];
        if properties.is_none_or(Map::is_empty) && additional.is_object() {
            return Type::Map(Box::new(self.slot(additional)));
        }
        let mut def = Def {
            atomic: s["x-kubernetes-map-type"] == "atomic",
            embedded: s["x-kubernetes-embedded-resource"] == true,
            preserve_unknown: preserve || additional == true,
            ..Def::default()
        };
        if additional.is_object() {
            def.additional = Some(Box::new(self.slot(additional)));
        }
        let required = texts(&s["required"]);
        for (name, p) in properties.into_iter().flatten() {
            let mut slot = self.slot(p);
            slot.required = required.contains(name);
            if let Some(value) = p.get("default").filter(|d| !d.is_null()) {
                def.defaults.push(Rule {
                    field: name.as_str().into(),
                    value: Source::Json(value.clone()),
                    zero_is_absent: false,
                    conditions: vec![],
                });
            }
            def.fields.insert(name.as_str().into(), slot);
        }
        // A required name without a property of its own is still required.
        for name in required {
            def.fields
                .entry(name.into())
                .or_insert_with(|| Slot { required: true, ..Slot::of(Type::Any) });
        }
        Type::Object(self.arena.add("", def))
    }

    /// The value validations of a schema. Inside junctors (`nested`) there is no structure, so
    /// properties and required fields are validations there too.
    fn limits(&mut self, s: &Value, nested: bool) -> Option<Limits> {
        const WORDS: [&str; 18] = [
            "minimum",
            "exclusiveMinimum",
            "maximum",
            "exclusiveMaximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "uniqueItems",
            "minProperties",
            "maxProperties",
            "pattern",
            "format",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        if !nested && WORDS.iter().all(|w| s[*w].is_null()) {
            return None;
        }
        let count = |f: &str| s[f].as_u64();
        let mut l = Limits {
            minimum: s["minimum"].as_f64(),
            exclusive_minimum: s["exclusiveMinimum"] == true,
            maximum: s["maximum"].as_f64(),
            exclusive_maximum: s["exclusiveMaximum"] == true,
            multiple_of: s["multipleOf"].as_f64(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: s["uniqueItems"] == true,
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            format: s["format"].as_str().filter(|f| !f.starts_with("int")).map(Into::into),
            pattern: s["pattern"].as_str().and_then(|p| coracle_meta::pattern::compile(p).ok()),
            ..Limits::default()
        };
        for (field, list) in
            [("allOf", &mut l.all_of), ("anyOf", &mut l.any_of), ("oneOf", &mut l.one_of)]
        {
            for inner in s[field].as_array().into_iter().flatten() {
                list.push(self.nested(inner));
            }
        }
        if s["not"].is_object() {
            l.not = Some(self.nested(&s["not"]));
        }
        if nested {
            l.required_fields = texts(&s["required"]).into_iter().map(Into::into).collect();
            for (name, p) in s["properties"].as_object().into_iter().flatten() {
                let slot = self.nested(p);
                l.properties.insert(name.as_str().into(), slot);
            }
        }
        Some(l)
    }

    fn nested(&mut self, s: &Value) -> Slot {
        self.depth += 1;
        let mut slot = Slot::of(Type::Any);
        if self.depth <= MAX_DEPTH {
            slot.allowed = s["enum"].as_array().cloned().unwrap_or_default();
            slot.limits = self.limits(s, true).map(Box::new);
            slot.json_type = (!text(s, "type").is_empty()).then(|| text(s, "type").into());
            if s["items"].is_object() {
                slot.ty = Type::List(Box::new(self.nested(&s["items"])));
            }
        }
        self.depth -= 1;
        slot
    }
}
