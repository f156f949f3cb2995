//! What discovery answers with: definitions that no kind refers to, and the paths that have them.

use super::{
    paths::{camel, tag, with_unauthorized},
    reference,
};
use serde_json::{Map, Value, json};

pub(super) const VERSIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions";
pub(super) const GROUPS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList";
pub(super) const GROUP: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup";
pub(super) const RESOURCES: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";
pub(super) const INFO: &str = "io.k8s.apimachinery.pkg.version.Info";
const RESOURCE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResource";
const GROUP_VERSION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.GroupVersionForDiscovery";
const ADDRESS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ServerAddressByClientCIDR";
const EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// A definition, and the names of those that it refers to.
pub(super) fn definition(name: &str) -> Option<(Value, &'static [&'static str])> {
    let many = |of: &str| json!({"type": "array", "items": reference(of)});
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let one = |of: &str| json!({"allOf": [reference(of)]});
    let text = || json!({"type": "string"});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    Some(match name {
        VERSIONS => (
            object(
                &["versions", "serverAddressByClientCIDRs"],
                json!({"apiVersion": text(), "kind": text(), "versions": texts(), "serverAddressByClientCIDRs": many(ADDRESS)}),
            ),
            &[ADDRESS],
        ),
        GROUPS => (
            object(
                &["groups"],
                json!({"apiVersion": text(), "kind": text(), "groups": many(GROUP)}),
            ),
            &[GROUP],
        ),
        GROUP => (
            object(
                &["name", "versions"],
                json!({"apiVersion": text(), "kind": text(), "name": text(), "versions": many(GROUP_VERSION),
                    "preferredVersion": one(GROUP_VERSION), "serverAddressByClientCIDRs": many(ADDRESS)}),
            ),
            &[GROUP_VERSION, ADDRESS],
        ),
        GROUP_VERSION => (
            object(
                &["groupVersion", "version"],
                json!({"groupVersion": text(), "version": text()}),
            ),
            &[],
        ),
        ADDRESS => (
            object(
                &["clientCIDR", "serverAddress"],
                json!({"clientCIDR": text(), "serverAddress": text()}),
            ),
            &[],
        ),
        RESOURCES => (
            object(
                &["groupVersion", "resources"],
                json!({"apiVersion": text(), "kind": text(), "groupVersion": text(), "resources": many(RESOURCE)}),
            ),
            &[RESOURCE],
        ),
        RESOURCE => (
            object(
                &["name", "singularName", "namespaced", "kind", "verbs"],
                json!({"name": text(), "singularName": text(), "namespaced": {"type": "boolean"}, "kind": text(),
                    "group": text(), "version": text(), "verbs": texts(), "shortNames": texts(),
                    "categories": texts(), "storageVersionHash": text()}),
            ),
            &[],
        ),
        EVENT => (object(&["type", "object"], json!({"type": text(), "object": one(RAW)})), &[RAW]),
        PATCH | RAW => (json!({"type": "object"}), &[]),
        INFO => {
            let required = [
                "major",
                "minor",
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            ];
            let more = [
                "emulationMajor",
                "emulationMinor",
                "minCompatibilityMajor",
                "minCompatibilityMinor",
            ];
            let properties: Map<String, Value> =
                required.iter().chain(&more).map(|f| ((*f).to_owned(), text())).collect();
            (object(&required, Value::Object(properties)), &[])
        }
        _ => return None,
    })
}

type Document = (String, Map<String, Value>);

fn get(path: &str, tag: &str, id: String, text: &str, schema: &str, types: &[&str]) -> Document {
    let schema = json!({"schema": reference(schema)});
    let content: Map<String, Value> =
        types.iter().map(|t| ((*t).to_owned(), schema.clone())).collect();
    let answer = json!({"200": {"description": "OK", "content": content}});
    let operation = json!({"tags": [tag], "description": text, "operationId": id, "responses": with_unauthorized(answer)});
    let paths = Map::from_iter([(format!("/{path}/"), json!({"get": operation}))]);
    (path.to_owned(), paths)
}

const ALL: &[&str] =
    &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

/// `/api/`
pub(super) fn versions() -> Document {
    let text = "get available API versions";
    get("api", "core", "getCoreAPIVersions".into(), text, VERSIONS, ALL)
}

/// `/apis/`
pub(super) fn groups() -> Document {
    let text = "get available API versions";
    get("apis", "apis", "getAPIVersions".into(), text, GROUPS, ALL)
}

/// `/apis/GROUP/`
pub(super) fn group(name: &str) -> Document {
    let id = format!("get{}APIGroup", camel(name));
    get(&format!("apis/{name}"), &tag(name), id, "get information of a group", GROUP, ALL)
}

/// `/version/`
pub(super) fn version() -> Document {
    let text = "get the version information for this server";
    get("version", "version", "getCodeVersion".into(), text, INFO, &["application/json"])
}
