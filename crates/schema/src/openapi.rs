//! OpenAPI v3 documents, one a group and version, made from the same definitions that the
//! handlers use. `kubectl explain` reads the schemas; `kubectl apply` looks for the
//! `fieldValidation` parameter of the patch operations.

use crate::{
    descriptions,
    kinds::Kind,
    minor::Minor,
    pack,
    types::{Arena, DefId, ListType, Slot, Type},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// Names of the components that are no objects.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
/// Short names of the metadata that kinds of all groups share.
const OBJECT_META: &str = "meta.v1.ObjectMeta";
const LIST_META: &str = "meta.v1.ListMeta";

/// The document of one group and version. Custom resources take the built-in definitions of their
/// metadata from the minor.
pub fn document(kinds: &[Arc<Kind>], minor: Minor) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in kinds {
        let mut render = Renderer {
            arena: kind.arena(),
            custom: kind.custom,
            schemas: &mut schemas,
            pending: vec![],
        };
        let name = component_name(kind);
        let mut root = render.object_schema(kind);
        root["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        render.schemas.insert(name.clone(), root);
        render.drain();
        schemas.insert(format!("{name}List"), list_schema(kind, &name));
        add_paths(&mut paths, kind, &name);
    }
    let arena = &pack::of(minor).arena;
    let meta = [OBJECT_META, LIST_META].map(|m| (m, arena.find(m)));
    let pending = meta.into_iter().filter_map(|(m, id)| Some((full_name(m), id?))).collect();
    Renderer { arena, custom: false, schemas: &mut schemas, pending }.drain();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": minor.git_version()},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The name of a kind's schema among the components.
pub fn component_name(kind: &Kind) -> String {
    if let (false, Type::Object(id)) = (kind.custom, &kind.root().ty) {
        if let Some(name) = name_of(kind.arena(), *id) {
            return name;
        }
    }
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

fn name_of(arena: &Arena, id: DefId) -> Option<String> {
    arena.name(id).map(full_name)
}

fn full_name(short: &str) -> String {
    match short.split_once('.').map(|(group, _)| group) {
        Some("meta" | "version") => format!("io.k8s.apimachinery.pkg.apis.{short}"),
        Some("apiextensions") => format!("io.k8s.apiextensions-apiserver.pkg.apis.{short}"),
        Some("apiregistration") => format!("io.k8s.kube-aggregator.pkg.apis.{short}"),
        _ => format!("io.k8s.api.{short}"),
    }
}

fn list_schema(kind: &Kind, name: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": sentence("apiVersion")},
            "kind": {"type": "string", "description": sentence("kind")},
            "metadata": {"allOf": [reference(&full_name(LIST_META))]},
            "items": {"type": "array", "items": reference(name)},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// What is said of a field that every kind has.
fn sentence(field: &str) -> &'static str {
    descriptions::of_field("*", field, true).unwrap_or_default()
}

struct Renderer<'a> {
    arena: &'a Arena,
    custom: bool,
    schemas: &'a mut Map<String, Value>,
    pending: Vec<(String, DefId)>,
}

impl Renderer<'_> {
    fn object_schema(&mut self, kind: &Kind) -> Value {
        let Type::Object(id) = kind.root().ty else { return json!({"type": "object"}) };
        let mut v = self.def(id);
        let properties = &mut v["properties"];
        if properties.is_null() {
            *properties = json!({});
        }
        if kind.custom {
            for field in ["apiVersion", "kind"] {
                properties[field] = json!({"type": "string", "description": sentence(field)});
            }
            properties["metadata"] = json!({"allOf": [reference(&full_name(OBJECT_META))], "description": sentence("metadata")});
            if !kind.root().description.is_empty() {
                v["description"] = json!(kind.root().description);
            }
        }
        v
    }

    fn drain(&mut self) {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        while let Some((name, id)) = self.pending.pop() {
            if seen.insert(name.clone()) && !self.schemas.contains_key(&name) {
                let schema = self.def(id);
                self.schemas.insert(name, schema);
            }
        }
    }

    fn def(&mut self, id: DefId) -> Value {
        let def = self.arena.def(id);
        let short = self.arena.name(id).unwrap_or_default();
        let is_kind =
            ["apiVersion", "kind", "metadata"].iter().all(|f| def.fields.contains_key(*f));
        let mut v = json!({"type": "object"});
        if let Some(text) = descriptions::of_def(short) {
            v["description"] = json!(text);
        }
        let mut properties = Map::new();
        for (name, slot) in &def.fields {
            let mut property = self.slot(slot);
            if let Some(text) = descriptions::of_field(short, name, is_kind) {
                property["description"] = json!(text);
            }
            properties.insert(name.to_string(), property);
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
            v["additionalProperties"] = self.slot(a);
        }
        if def.atomic {
            v["x-kubernetes-map-type"] = json!("atomic");
        }
        if def.preserve_unknown {
            v["x-kubernetes-preserve-unknown-fields"] = json!(true);
        }
        v
    }

    fn slot(&mut self, slot: &Slot) -> Value {
        let mut v = self.ty(&slot.ty);
        if !slot.description.is_empty() {
            v["description"] = json!(slot.description);
        }
        if !slot.allowed.is_empty() {
            v["enum"] = json!(slot.allowed);
        }
        if slot.nullable {
            v["nullable"] = json!(true);
        }
        if slot.atomic {
            v["x-kubernetes-map-type"] = json!("atomic");
        }
        if matches!(slot.ty, Type::List(_)) {
            match &slot.list {
                ListType::Atomic => {}
                ListType::Set => v["x-kubernetes-list-type"] = json!("set"),
                ListType::Map(keys) => {
                    v["x-kubernetes-list-type"] = json!("map");
                    v["x-kubernetes-list-map-keys"] = json!(keys);
                }
            }
        }
        let strategies: Vec<&str> =
            [(slot.patch.merge, "merge"), (slot.patch.retain_keys, "retainKeys")]
                .iter()
                .filter_map(|(on, name)| on.then_some(*name))
                .collect();
        if !strategies.is_empty() {
            v["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
        }
        if let Some(key) = &slot.patch.merge_key {
            v["x-kubernetes-patch-merge-key"] = json!(key);
        }
        v
    }

    /// A type of its own that is no object.
    fn scalar(&mut self, name: &str, schema: fn() -> Value) -> Value {
        if !self.schemas.contains_key(name) {
            self.schemas.insert(name.to_owned(), schema());
        }
        json!({"allOf": [reference(name)]})
    }

    fn ty(&mut self, ty: &Type) -> Value {
        match ty {
            Type::String => json!({"type": "string"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Number => json!({"type": "number", "format": "double"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
            Type::Quantity => self.scalar(QUANTITY, || {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}], "description": "A number with a suffix such as m, k, Ki or Gi."})
            }),
            Type::IntOrString if self.custom => {
                json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true})
            }
            Type::IntOrString => self.scalar(INT_OR_STRING, || {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }),
            Type::Any => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            Type::List(item) => json!({"type": "array", "items": self.slot(item)}),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.slot(item)}),
            Type::Object(id) => match name_of(self.arena, *id) {
                Some(name) => {
                    self.pending.push((name.clone(), *id));
                    // A reference beside other keywords must stand in allOf.
                    json!({"allOf": [reference(&name)]})
                }
                None => self.def(*id),
            },
        }
    }
}

fn add_paths(paths: &mut Map<String, Value>, kind: &Kind, component: &str) {
    let base = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let collection = if kind.namespaced() {
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    };
    let has = |verb: &str| kind.verbs.iter().any(|v| v == verb);
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let path_parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let write = || json!([query("dryRun"), query("fieldManager"), query("fieldValidation")]);
    let operation = |action: &str, parameters: Value| {
        json!({
            "operationId": format!("{action}{}", kind.kind),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(component)}}}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(kind),
        })
    };
    let scope = if kind.namespaced() { vec![path_parameter("namespace")] } else { vec![] };
    let item_parameters = [&scope[..], &[path_parameter("name")]].concat();
    let mut item = json!({"parameters": item_parameters});
    let mut list = json!({"parameters": scope});
    if has("list") {
        let parameters =
            ["labelSelector", "fieldSelector", "limit", "continue", "watch", "resourceVersion"]
                .map(query);
        list["get"] = operation("list", json!(parameters));
    }
    if has("create") {
        list["post"] = operation("post", write());
    }
    if has("deletecollection") {
        list["delete"] =
            operation("deletecollection", json!([query("dryRun"), query("labelSelector")]));
    }
    for (verb, method, parameters) in [
        ("get", "get", json!([])),
        ("update", "put", write()),
        (
            "patch",
            "patch",
            json!([
                query("dryRun"),
                query("fieldManager"),
                query("fieldValidation"),
                query("force")
            ]),
        ),
        (
            "delete",
            "delete",
            json!([query("dryRun"), query("gracePeriodSeconds"), query("propagationPolicy")]),
        ),
    ] {
        if has(verb) {
            item[method] = operation(method, parameters);
        }
    }
    paths.insert(format!("{collection}/{{name}}"), item);
    paths.insert(collection, list);
}

#[cfg(test)]
mod tests {
    use crate::{minor::Minor, pack};

    #[test]
    fn references_resolve() {
        let kinds = &pack::of(Minor::LATEST).kinds;
        for group in ["", "apps", "apiextensions.k8s.io"] {
            let of: Vec<_> = kinds.iter().filter(|k| k.group == group).cloned().collect();
            let doc = super::document(&of, Minor::LATEST);
            let text = doc.to_string();
            for r in text.split("#/components/schemas/").skip(1) {
                let name = r.split('"').next().unwrap();
                assert!(doc["components"]["schemas"].get(name).is_some(), "{name}");
            }
        }
    }
}
