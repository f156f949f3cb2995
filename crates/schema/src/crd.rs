//! Custom resources: from the OpenAPI v3 schema of a CustomResourceDefinition to the same
//! definitions that built-in kinds have. [`check`] says whether a definition may be stored, [`rules`]
//! holds its CEL.

mod build;
mod check;
pub mod rules;
mod structural;

use crate::{
    columns::{Cell, Column},
    jsonpath,
    kinds::{Definition, Kind, Lazy, Published, ScalePaths, Scope, Structure, Subresource},
    types::Arena,
};
pub use check::{APPROVED, Approval, approval, check, webhook_url};
use coracle_meta::name::NameRule;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// One kind for each version of a definition that was checked and stored at a revision. `read` gives the
/// definition again, when a kind's structure is first needed.
pub fn kinds(
    crd: &Value,
    revision: u64,
    read: impl Fn() -> Value + Clone + Send + Sync + 'static,
) -> Vec<Arc<Kind>> {
    if !is_established(crd) {
        return vec![];
    }
    let lazy = |i: usize| -> Lazy {
        let read = read.clone();
        LazyLock::new(Box::new(move || {
            let crd = read();
            let none = Value::Null;
            structure(self::versions(&crd).get(i).unwrap_or(&none))
        }))
    };
    let published = |i: usize| {
        let read = read.clone();
        Published(Box::new(move || {
            let crd = read();
            versions(&crd).get(i).map_or(Value::Null, |v| v["schema"]["openAPIV3Schema"].clone())
        }))
    };
    let kind =
        |(i, v)| Kind { published: Some(published(i)), ..version_kind(crd, v, revision, lazy(i)) };
    self::versions(crd).iter().enumerate().map(|v| Arc::new(kind(v))).collect()
}

/// Whether a definition has had all of its names once. One that was never judged has.
fn is_established(crd: &Value) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    let established = |c: &&Value| c["type"] == "Established";
    conditions.and_then(|c| c.iter().find(established)).is_none_or(|c| c["status"] == "True")
}

fn versions(crd: &Value) -> &[Value] {
    crd["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The definitions of a version's schema.
fn structure(version: &Value) -> Structure {
    let mut arena = Arena::default();
    let root = build::slot(&version["schema"]["openAPIV3Schema"], &mut arena);
    (Arc::new(arena), root)
}

fn text<'v>(v: &'v Value, field: &str) -> &'v str {
    v[field].as_str().unwrap_or_default()
}

fn texts(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(Into::into)).collect()
}

fn version_kind(crd: &Value, version: &Value, revision: u64, structure: Lazy) -> Kind {
    let spec = &crd["spec"];
    let names = Some(&crd["status"]["acceptedNames"]).filter(|n| !text(n, "plural").is_empty());
    let names = names.unwrap_or(&spec["names"]);
    // In upstream's order of discovery.
    let verbs = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    let kind = text(names, "kind").to_owned();
    let or = |field: &str, other: String| match text(names, field) {
        "" => other,
        s => s.to_owned(),
    };
    let columns = columns(version);
    let warning = (version["deprecated"] == true).then(|| {
        let fallback =
            format!("{}/{} {kind} is deprecated", text(spec, "group"), text(version, "name"));
        version["deprecationWarning"].as_str().map_or(fallback, str::to_owned)
    });
    Kind {
        group: text(spec, "group").into(),
        version: text(version, "name").into(),
        list_kind: or("listKind", format!("{kind}List")),
        plural: text(names, "plural").into(),
        singular: or("singular", kind.to_lowercase()),
        kind,
        scope: if text(spec, "scope") == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: verbs.map(Into::into).to_vec(),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        selectable_fields: version["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned())
            .collect(),
        subresources: subresources(version),
        name_rule: NameRule::Subdomain,
        ttl_seconds: None,
        generation: true,
        returns_deleted: false,
        orphan_default: false,
        scale: scale(version),
        columns,
        structure,
        custom: true,
        published: None,
        definition: Some(Definition {
            storage_version: versions(crd)
                .iter()
                .find(|v| v["storage"] == true)
                .map_or_else(|| text(version, "name").to_owned(), |v| text(v, "name").to_owned()),
            webhook: (spec["conversion"]["strategy"] == "Webhook")
                .then(|| spec["conversion"]["webhook"].clone()),
            served: version["served"] == true,
            terminating: crd["metadata"]["deletionTimestamp"].is_string(),
            revision,
        }),
        warning,
    }
}

fn subresources(version: &Value) -> Vec<Subresource> {
    let sub = |name: &str, group: &str, v: &str, kind: &str| Subresource {
        name: name.into(),
        group: group.into(),
        version: v.into(),
        kind: kind.into(),
        verbs: ["get", "patch", "update"].map(Into::into).to_vec(),
    };
    let declared = &version["subresources"];
    let mut list = Vec::new();
    if declared["scale"].is_object() {
        list.push(sub("scale", "autoscaling", "v1", "Scale"));
    }
    if declared["status"].is_object() {
        list.push(sub("status", "", "", ""));
    }
    list
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let s = version["subresources"]["scale"].as_object()?;
    let path =
        |f: &str| s.get(f).and_then(Value::as_str).map(|p| p.trim_start_matches('.').to_owned());
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let mut columns = vec![Column::name()];
    let declared = version["additionalPrinterColumns"].as_array();
    for c in declared.into_iter().flatten() {
        // What is no path of ours shows nothing, as upstream.
        let Some(compiled) = jsonpath::Path::parse(text(c, "jsonPath")) else { continue };
        columns.push(Column {
            name: text(c, "name").into(),
            kind: text(c, "type").into(),
            format: text(c, "format").into(),
            description: text(c, "description").into(),
            priority: c["priority"].as_i64().unwrap_or(0),
            cell: Cell::JsonPath(compiled),
        });
    }
    if declared.is_none_or(Vec::is_empty) {
        columns.push(Column::age());
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, defaults, validate};
    use serde_json::json;

    fn widget() -> Value {
        json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
              "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
              "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "required": ["name"],
                "properties": {"size": {"type": "integer", "minimum": 1, "default": 3}, "name": {"type": "string", "pattern": "^[a-z]+$"},
                  "mode": {"type": "string", "enum": ["A", "B"]}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}]},
            "status": {"storedVersions": ["v1"]}})
    }

    #[test]
    fn prunes_defaults_and_validates() {
        assert_eq!(check(&widget(), None), []);
        let k = &kinds(&widget(), 1, widget)[0];
        let mut v = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
            "spec": {"name": "X", "mode": "C", "free": {"any": 1}, "extra": true}});
        let r = decode::decode(k.arena(), k.root(), &mut v, decode::Form::Custom, true);
        assert_eq!(r.unknown, ["spec.extra"]);
        defaults::apply(k.arena(), k.root(), &mut v);
        assert_eq!(v["spec"]["size"], 3);
        assert_eq!(v["spec"]["free"], json!({"any": 1}));
        let errors: Vec<String> = validate::validate(k.arena(), k.root(), &v, "")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "spec.mode: Unsupported value: \"C\": supported values: \"A\", \"B\"",
                "spec.name: Invalid value: \"X\": spec.name in body should match '^[a-z]+$'",
            ]
        );
    }

    #[test]
    fn faults_name_their_field() {
        let mut crd = widget();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["bad"] = json!({"type": "text"});
        crd["metadata"]["name"] = json!("wrong");
        let paths: Vec<String> = check(&crd, None).into_iter().map(|e| e.path).collect();
        assert_eq!(
            paths,
            [
                "metadata.name",
                "spec.validation.openAPIV3Schema.properties[spec].properties[bad].type"
            ]
        );
    }
}
