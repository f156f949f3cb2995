//! OpenAPI documents, made from the same definitions that the handlers use: version 3, one a group and
//! version ([`document`]), and version 2, one of all ([`v2`]). `kubectl explain` reads the schemas;
//! `kubectl apply` looks for the `fieldValidation` parameter of the patch operations; generators of
//! clients read the operations. Descriptions come from the caller.

mod discovery;
pub mod gnostic;
mod parameters;
mod paths;
mod schemas;
pub mod v2;

use crate::{
    kinds::Kind,
    minor::Minor,
    pack,
    types::{Arena, DefId, Slot, Type},
};
use schemas::Components;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What is said of a definition (by its full name, with an empty field) or of a field of it.
pub type Describe<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// The document of one group and version.
pub fn document(kinds: &[Arc<Kind>], minor: Minor, describe: Describe) -> Value {
    let arena = &pack::of(minor).arena;
    let mut components = Components::new(describe);
    let mut paths = Map::new();
    for kind in kinds {
        components.kind(kind);
        paths::add(&mut paths, kind, &mut components, arena);
    }
    let custom = kinds.iter().all(|k| k.custom);
    if let (false, Some(first)) = (custom, kinds.first()) {
        paths::add_resources(&mut paths, first, &mut components);
    }
    let info = if custom {
        json!({"title": "Kubernetes CRD Swagger", "version": "v0.1.0"})
    } else {
        json!({"title": "Kubernetes", "version": minor.git_version()})
    };
    assemble(&info, paths, components)
}

/// The documents that belong to no group and version: by the path below `/openapi/v3`.
pub fn roots(groups: &[&str], minor: Minor, describe: Describe) -> Vec<(String, Value)> {
    let info = json!({"title": "Kubernetes", "version": minor.git_version()});
    let of = |(path, operations): (String, Map<String, Value>), names: &[&str]| {
        let mut components = Components::new(describe);
        names.iter().for_each(|n| components.fixed(n));
        (path, assemble(&info, operations, components))
    };
    let mut all = vec![
        of(discovery::versions(), &[discovery::VERSIONS]),
        of(discovery::groups(), &[discovery::GROUPS]),
        of(discovery::version(), &[discovery::INFO]),
    ];
    all.extend(groups.iter().map(|g| of(discovery::group(g), &[discovery::GROUP])));
    all
}

fn assemble(info: &Value, paths: Map<String, Value>, components: Components) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info,
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication",
                "name": "authorization", "in": "header",
            }},
        },
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

/// The slot of a built-in definition by its short name.
fn built_in(arena: &Arena, short: &str) -> Option<Slot> {
    arena.find(short).map(|id| Slot::of(Type::Object(id)))
}

fn full_name(short: &str) -> String {
    match short.split_once('.').map(|(group, _)| group) {
        Some("meta") => format!("io.k8s.apimachinery.pkg.apis.{short}"),
        Some("version") => format!("io.k8s.apimachinery.pkg.{short}"),
        Some("apiextensions") => format!("io.k8s.apiextensions-apiserver.pkg.apis.{short}"),
        Some("apiregistration") => format!("io.k8s.kube-aggregator.pkg.apis.{short}"),
        _ => format!("io.k8s.api.{short}"),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
    use crate::{minor::Minor, pack};

    #[test]
    fn references_resolve_and_ids_are_unique() {
        let kinds = &pack::of(Minor::LATEST).kinds;
        let mut ids = std::collections::BTreeSet::new();
        for group in ["", "apps", "apiextensions.k8s.io"] {
            let of: Vec<_> = kinds.iter().filter(|k| k.group == group).cloned().collect();
            let doc = super::document(&of, Minor::LATEST, &|_, _| None);
            let text = doc.to_string();
            for r in text.split("#/components/schemas/").skip(1) {
                let name = r.split('"').next().unwrap();
                assert!(doc["components"]["schemas"].get(name).is_some(), "{name}");
            }
            for id in text.split("\"operationId\":\"").skip(1) {
                let id = id.split('"').next().unwrap();
                assert!(ids.insert(id.to_owned()), "{id} stands twice");
            }
        }
        for id in [
            "listCoreV1NamespacedPod",
            "listCoreV1PodForAllNamespaces",
            "deleteCoreV1CollectionNamespacedPod",
            "createCoreV1NamespacedPodEviction",
            "connectCoreV1GetNamespacedPodProxyWithPath",
            "patchAppsV1NamespacedDeploymentScale",
            "watchAppsV1DeploymentListForAllNamespaces",
            "getAppsV1APIResources",
            "readCoreV1Node",
        ] {
            assert!(ids.contains(id), "{id} is missing");
        }
    }
}
