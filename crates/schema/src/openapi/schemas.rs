//! Components: the schemas of kinds and of everything that they refer to.

use super::{Describe, built_in, component_name, discovery, full_name, gvk, name_of, reference};
use crate::{
    kinds::Kind,
    types::{Arena, DefId, ListType, Slot, Type},
};
use serde_json::{Map, Value, json};

/// Names of the components that are no objects.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
/// Short names of the metadata that kinds of all groups share.
const OBJECT_META: &str = "meta.v1.ObjectMeta";
const LIST_META: &str = "meta.v1.ListMeta";

const CONVENTIONS: &str =
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
/// What all kinds take their words for the fields of every object from.
const ANY_KIND: &str = "io.k8s.api.core.v1.Pod";

/// Deepest nesting of a published schema, as deep as JSON is read.
const MAX_DEPTH: usize = 128;

/// Schemas by name, growing by what they refer to.
pub(super) struct Components<'a> {
    pub(super) schemas: Map<String, Value>,
    describe: Describe<'a>,
}

impl<'a> Components<'a> {
    pub(super) fn new(describe: Describe<'a>) -> Self {
        Self { schemas: Map::new(), describe }
    }

    /// Adds a kind, its list, and what they refer to.
    pub(super) fn kind(&mut self, kind: &Kind) {
        let name = component_name(kind);
        let mut root = self.root(kind, &name);
        root["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        let selectable: Vec<Value> = match kind.custom {
            true => kind.selectable_fields.iter().map(|f| json!({"fieldPath": f})).collect(),
            false => vec![],
        };
        let mut list = if kind.stored() { Some(self.list(kind, &name)) } else { None };
        if !selectable.is_empty() {
            root["x-kubernetes-selectable-fields"] = json!(selectable);
            if let Some(list) = &mut list {
                list["x-kubernetes-selectable-fields"] = json!(selectable);
            }
        }
        self.schemas.insert(name.clone(), root);
        if let Some(list) = list {
            self.schemas.insert(format!("{name}List"), list);
        }
    }

    /// Adds a built-in definition by its short name, and what it refers to.
    pub(super) fn built_in(&mut self, arena: &Arena, short: &str) -> Value {
        match built_in(arena, short).map(|slot| slot.ty) {
            Some(Type::Object(id)) => self.object(arena, id, &full_name(short)),
            _ => self.fixed(&full_name(short)),
        }
        reference(&full_name(short))
    }

    /// Adds a definition that the pack does not have.
    pub(super) fn fixed(&mut self, name: &str) {
        if self.schemas.contains_key(name) {
            return;
        }
        let Some((mut schema, others)) = discovery::definition(name) else { return };
        if let Some(text) = self.said(name, "") {
            schema["description"] = json!(text);
        }
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (field, property) in properties.into_iter().flatten() {
            if let Some(text) = (self.describe)(name, field) {
                describe(property, text);
            }
        }
        self.schemas.insert(name.to_owned(), schema);
        others.iter().for_each(|other| self.fixed(other));
    }

    fn said(&self, definition: &str, field: &str) -> Option<String> {
        (self.describe)(definition, field)
    }

    fn root(&mut self, kind: &Kind, name: &str) -> Value {
        // First, as the structure of a custom kind is made when it is looked at.
        if let Some(published) = &kind.published {
            return self.published((published.0)());
        }
        match &kind.root().ty {
            Type::Object(id) => self.def(kind.arena(), *id, name),
            _ => json!({"type": "object"}),
        }
    }

    /// The schema of a definition, with the fields that every object has.
    fn published(&mut self, mut v: Value) -> Value {
        if !v.is_object() {
            v = json!({});
        }
        v["type"] = json!("object");
        self.embed(&mut v, MAX_DEPTH);
        self.add_type_meta(&mut v);
        v
    }

    fn add_type_meta(&mut self, v: &mut Value) {
        let meta = self.built_in_meta(OBJECT_META);
        let properties = &mut v["properties"];
        if !properties.is_object() {
            *properties = json!({});
        }
        for field in ["apiVersion", "kind"] {
            properties[field] = json!({"type": "string"});
        }
        properties["metadata"] = meta;
        for field in ["apiVersion", "kind", "metadata"] {
            if let Some(text) = self.said(ANY_KIND, field) {
                describe(&mut properties[field], text);
            }
        }
    }

    /// Gives objects inside an object (`x-kubernetes-embedded-resource`) the fields that they have.
    fn embed(&mut self, v: &mut Value, left: usize) {
        let Some(left) = left.checked_sub(1) else { return };
        let children = ["properties", "items", "additionalProperties"];
        for (key, child) in v.as_object_mut().into_iter().flatten() {
            match key.as_str() {
                "properties" => {
                    let all = child.as_object_mut().into_iter().flatten();
                    all.for_each(|(_, property)| self.embed(property, left));
                }
                key if children.contains(&key) => self.embed(child, left),
                _ => {}
            }
        }
        if v["x-kubernetes-embedded-resource"] == true {
            self.add_type_meta(v);
            v["required"] = json!(["apiVersion", "kind"]);
        }
    }

    /// Metadata is the same for all kinds, and comes from the newest minor.
    fn built_in_meta(&mut self, short: &str) -> Value {
        let arena = crate::pack::of(crate::minor::Minor::LATEST).arena.clone();
        self.built_in(&arena, short)
    }

    fn list(&mut self, kind: &Kind, name: &str) -> Value {
        let meta = self.built_in_meta(LIST_META);
        let mut v = json!({
            "type": "object",
            "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [meta], "description": format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds")},
                "items": {"type": "array", "items": reference(name), "description": format!("List of {}. More info: {CONVENTIONS}", kind.plural)},
            },
            "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
        });
        for field in ["apiVersion", "kind"] {
            if let Some(text) = self.said(ANY_KIND, field) {
                v["properties"][field]["description"] = json!(text);
            }
        }
        v
    }

    /// Adds an object's schema under a name, unless it is there.
    fn object(&mut self, arena: &Arena, id: DefId, name: &str) {
        if self.schemas.contains_key(name) {
            return;
        }
        // Its place is taken first: definitions refer to themselves.
        self.schemas.insert(name.to_owned(), Value::Null);
        let schema = self.def(arena, id, name);
        self.schemas.insert(name.to_owned(), schema);
    }

    fn def(&mut self, arena: &Arena, id: DefId, name: &str) -> Value {
        let def = arena.def(id);
        let mut v = json!({"type": "object"});
        if let Some(text) = self.said(name, "") {
            v["description"] = json!(text);
        }
        let mut properties = Map::new();
        for (field, slot) in &def.fields {
            let mut property = self.slot(arena, slot);
            if let Some(text) = self.said(name, field) {
                let text = text + &values(slot);
                describe(&mut property, text);
            }
            properties.insert(field.to_string(), property);
        }
        let required: Vec<&str> =
            def.fields.iter().filter(|(_, s)| s.required).map(|(n, _)| &**n).collect();
        if !required.is_empty() {
            v["required"] = json!(required);
        }
        if !properties.is_empty() {
            v["properties"] = Value::Object(properties);
        }
        if let Some(a) = &def.additional {
            v["additionalProperties"] = self.slot(arena, a);
        }
        if def.atomic {
            v["x-kubernetes-map-type"] = json!("atomic");
        }
        if def.preserve_unknown {
            v["x-kubernetes-preserve-unknown-fields"] = json!(true);
        }
        v
    }

    fn slot(&mut self, arena: &Arena, slot: &Slot) -> Value {
        let mut v = self.ty(arena, &slot.ty);
        if !slot.description.is_empty() {
            describe(&mut v, slot.description.to_string());
        }
        let mut set = |key: &str, value: Value| {
            apart(&mut v);
            v[key] = value;
        };
        if !slot.allowed.is_empty() {
            set("enum", json!(slot.allowed));
        }
        if slot.nullable {
            set("nullable", json!(true));
        }
        if slot.atomic {
            set("x-kubernetes-map-type", json!("atomic"));
        }
        if matches!(slot.ty, Type::List(_)) {
            match &slot.list {
                ListType::Atomic => {}
                ListType::Set => set("x-kubernetes-list-type", json!("set")),
                ListType::Map(keys) => {
                    set("x-kubernetes-list-type", json!("map"));
                    set("x-kubernetes-list-map-keys", json!(keys));
                }
            }
        }
        let strategies: Vec<&str> =
            [(slot.patch.merge, "merge"), (slot.patch.retain_keys, "retainKeys")]
                .iter()
                .filter_map(|(on, name)| on.then_some(*name))
                .collect();
        if !strategies.is_empty() {
            set("x-kubernetes-patch-strategy", json!(strategies.join(",")));
        }
        if let Some(key) = &slot.patch.merge_key {
            set("x-kubernetes-patch-merge-key", json!(key));
        }
        v
    }

    /// A type of its own that is no object.
    fn scalar(&mut self, name: &str, schema: Value) -> Value {
        if !self.schemas.contains_key(name) {
            let mut schema = schema;
            if let Some(text) = self.said(name, "") {
                schema["description"] = json!(text);
            }
            self.schemas.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    fn ty(&mut self, arena: &Arena, ty: &Type) -> Value {
        let time = json!({"type": "string", "format": "date-time"});
        match ty {
            Type::String => json!({"type": "string"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Number => json!({"type": "number", "format": "double"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Time => self.scalar(TIME, time),
            Type::MicroTime => self.scalar(MICRO_TIME, time),
            Type::Quantity => {
                self.scalar(QUANTITY, json!({"oneOf": [{"type": "string"}, {"type": "number"}]}))
            }
            Type::IntOrString => self.scalar(
                INT_OR_STRING,
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Type::Any => json!({"type": "object"}),
            Type::List(item) => json!({"type": "array", "items": self.slot(arena, item)}),
            Type::Map(item) => {
                json!({"type": "object", "additionalProperties": self.slot(arena, item)})
            }
            Type::Object(id) => match name_of(arena, *id) {
                Some(name) => {
                    self.object(arena, *id, &name);
                    reference(&name)
                }
                None => self.def(arena, *id, ""),
            },
        }
    }
}

/// A reference beside other keywords must stand in `allOf`.
fn apart(v: &mut Value) {
    if v.get("$ref").is_some() {
        *v = json!({"allOf": [v.take()]});
    }
}

fn describe(v: &mut Value, text: String) {
    apart(v);
    v["description"] = json!(text);
}

/// What upstream adds to the description of an enumeration.
fn values(slot: &Slot) -> String {
    if slot.allowed.is_empty() {
        return String::new();
    }
    let lines = slot.allowed.iter().map(|value| format!("\n - `{value}`"));
    lines.fold("\n\nPossible enum values:".to_owned(), |text, line| text + &line)
}
