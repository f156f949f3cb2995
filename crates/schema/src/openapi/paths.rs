//! Operations: what can be done at which path, from a kind's verbs and subresources. Names and order
//! are upstream's (`installer.go`): clients are generated from them.

use super::{component_name, gvk, parameters, reference, schemas::Components};
use crate::{
    kinds::{Kind, Subresource},
    types::Arena,
};
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";

/// Where a path of a kind leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// All objects of all namespaces.
    AllNamespaces,
    /// The objects of a namespace, or of a kind without namespaces.
    Collection,
    /// One object.
    Item,
}

struct Builder<'a> {
    kind: &'a Kind,
    base: String,
    component: String,
    /// `CoreV1`, `AppsV1`.
    prefix: String,
    tag: String,
}

/// Adds the paths of a kind, and to the components what they refer to.
pub(super) fn add(
    paths: &mut Map<String, Value>,
    kind: &Kind,
    components: &mut Components,
    arena: &Arena,
) {
    let b = Builder::new(kind);
    let namespaced = kind.namespaced() && !is_review(kind);
    let collection = b.path(if namespaced { Place::Collection } else { Place::AllNamespaces });
    if ["patch", "delete"].iter().any(|v| b.has(v)) {
        for short in ["meta.v1.DeleteOptions", "meta.v1.Status", "meta.v1.Patch"] {
            components.built_in(arena, short);
        }
    }
    let mut list = Map::new();
    if b.has("list") {
        list.insert("get".into(), b.list(Place::Collection));
    }
    if b.has("create") {
        list.insert("post".into(), b.create());
    }
    if b.has("deletecollection") {
        list.insert("delete".into(), b.delete_collection());
    }
    if !list.is_empty() {
        insert(paths, collection.clone(), list, b.scope(Place::Collection, &[]));
    }
    let mut item = Map::new();
    for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch")] {
        if b.has(verb) {
            item.insert(method.into(), b.item(verb, method));
        }
    }
    if b.has("delete") {
        item.insert("delete".into(), b.delete());
    }
    if !item.is_empty() {
        insert(paths, b.path(Place::Item), item, b.scope(Place::Item, &[]));
    }
    if namespaced && b.has("list") {
        let mut all = b.list(Place::AllNamespaces);
        all["parameters"] = json!([]);
        let shared = b.scope(Place::AllNamespaces, parameters::LIST);
        insert(paths, b.path(Place::AllNamespaces), one("get", all), shared);
    }
    for sub in &kind.subresources {
        b.subresource(paths, sub, components, arena);
    }
    if b.has("watch") && !kind.custom {
        b.watches(paths, components);
    }
}

/// The path that lists the resources of a group and version.
pub(super) fn add_resources(
    paths: &mut Map<String, Value>,
    kind: &Kind,
    components: &mut Components,
) {
    let b = Builder::new(kind);
    components.fixed(super::discovery::RESOURCES);
    let answer = json!({"200": b.response("OK", &reference(super::discovery::RESOURCES), false)});
    let get = json!({
        "tags": [b.tag], "description": "get available resources",
        "operationId": format!("get{}APIResources", b.prefix),
        "responses": with_unauthorized(answer),
    });
    insert(paths, format!("{}/", b.base), one("get", get), vec![]);
}

fn one(method: &str, operation: Value) -> Map<String, Value> {
    Map::from_iter([(method.to_owned(), operation)])
}

fn insert(
    paths: &mut Map<String, Value>,
    path: String,
    mut operations: Map<String, Value>,
    parameters: Vec<Value>,
) {
    if !parameters.is_empty() {
        operations.insert("parameters".into(), json!(parameters));
    }
    paths.insert(path, Value::Object(operations));
}

fn is_review(kind: &Kind) -> bool {
    !kind.stored() && !kind.namespaced()
}

pub(super) fn with_unauthorized(mut responses: Value) -> Value {
    responses["401"] = json!({"description": "Unauthorized"});
    responses
}

/// `rbac.authorization.k8s.io` as `RbacAuthorization`.
pub(super) fn camel(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    short.split(|c: char| !c.is_ascii_alphanumeric()).map(capital).collect()
}

/// A group as the tag of its operations.
pub(super) fn tag(group: &str) -> String {
    let camel = camel(group);
    let mut chars = camel.chars();
    chars.next().map(|c| c.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

impl<'a> Builder<'a> {
    fn new(kind: &'a Kind) -> Self {
        let base = match kind.group.as_str() {
            "" => format!("/api/{}", kind.version),
            group => format!("/apis/{group}/{}", kind.version),
        };
        Self {
            kind,
            base,
            component: component_name(kind),
            prefix: camel(&kind.group) + &capital(&kind.version),
            tag: format!("{}_{}", tag(&kind.group), kind.version),
        }
    }

    fn has(&self, verb: &str) -> bool {
        self.kind.verbs.iter().any(|v| v == verb)
    }

    fn path(&self, place: Place) -> String {
        let (base, plural) = (&self.base, &self.kind.plural);
        let namespace = if self.kind.namespaced() { "/namespaces/{namespace}" } else { "" };
        match place {
            Place::AllNamespaces => format!("{base}/{plural}"),
            Place::Collection => format!("{base}{namespace}/{plural}"),
            Place::Item => format!("{base}{namespace}/{plural}/{{name}}"),
        }
    }

    /// What all operations of a path take, by name.
    fn scope(&self, place: Place, more: &[&str]) -> Vec<Value> {
        let mut all: Vec<Value> = more.iter().map(|n| parameters::query(n)).collect();
        if place == Place::Item {
            all.push(parameters::path("name", &format!("name of the {}", self.kind.kind)));
        }
        if place != Place::AllNamespaces && self.kind.namespaced() && !is_review(self.kind) {
            let text = "object name and auth scope, such as for teams and projects";
            all.push(parameters::path("namespace", text));
        }
        all.push(parameters::query("pretty"));
        all.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        all
    }

    /// `createCoreV1NamespacedPod` and the like.
    fn id(&self, verb: &str, infix: &str, suffix: &str) -> String {
        let scope = if self.kind.namespaced() && !is_review(self.kind) { "Namespaced" } else { "" };
        format!("{verb}{}{infix}{scope}{}{suffix}", self.prefix, self.kind.kind)
    }

    fn operation(&self, action: &str, id: String, description: String, query: &[&str]) -> Value {
        let mut v = json!({
            "tags": [self.tag],
            "description": description,
            "operationId": id,
            "responses": {},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(self.kind),
        });
        if !query.is_empty() {
            let all: Vec<Value> = query.iter().map(|n| parameters::query(n)).collect();
            v["parameters"] = json!(all);
        }
        v
    }

    fn content(&self, schema: &Value, streams: bool) -> Value {
        let mut types = vec![JSON, YAML];
        if streams {
            types.push("application/json;stream=watch");
        }
        if !self.kind.custom {
            types.push(PROTOBUF);
            if streams {
                types.push("application/vnd.kubernetes.protobuf;stream=watch");
            }
        } else if streams {
            types.truncate(2);
        }
        types
            .into_iter()
            .map(|t| (t.to_owned(), json!({"schema": schema})))
            .collect::<Map<_, _>>()
            .into()
    }

    fn response(&self, description: &str, schema: &Value, streams: bool) -> Value {
        json!({"description": description, "content": self.content(schema, streams)})
    }

    fn responses(&self, codes: &[u16], schema: &Value) -> Value {
        let mut all = json!({});
        for code in codes {
            let description = match code {
                201 => "Created",
                202 => "Accepted",
                _ => "OK",
            };
            all[code.to_string()] = self.response(description, schema, false);
        }
        with_unauthorized(all)
    }

    fn body(&self, schema: &Value) -> Value {
        let content = match self.kind.custom {
            true => self.content(schema, false),
            false => json!({"*/*": {"schema": schema}}),
        };
        json!({"content": content, "required": true})
    }

    fn own(&self) -> Value {
        reference(&self.component)
    }

    fn list(&self, place: Place) -> Value {
        let all = place == Place::AllNamespaces;
        let id = match all {
            true => format!("list{}{}ForAllNamespaces", self.prefix, self.kind.kind),
            false => self.id("list", "", ""),
        };
        let words = if self.kind.custom { "list" } else { "list or watch" };
        let text = format!("{words} objects of kind {}", self.kind.kind);
        let mut v = self.operation("list", id, text, parameters::LIST);
        let schema = reference(&format!("{}List", self.component));
        v["responses"] = with_unauthorized(json!({"200": self.response("OK", &schema, true)}));
        v
    }

    fn create(&self) -> Value {
        let text = format!("create {} {}", article(&self.kind.kind), self.kind.kind);
        let mut v = self.operation("post", self.id("create", "", ""), text, parameters::WRITE);
        v["requestBody"] = self.body(&self.own());
        v["responses"] = self.responses(&[200, 201, 202], &self.own());
        v
    }

    fn delete_body(&self) -> Value {
        let mut body = self.body(&reference(&super::full_name("meta.v1.DeleteOptions")));
        if let Some(body) = body.as_object_mut() {
            body.remove("required");
        }
        body
    }

    fn delete_collection(&self) -> Value {
        let (id, text) = (
            self.id("delete", "Collection", ""),
            format!("delete collection of {}", self.kind.kind),
        );
        let mut v = self.operation("deletecollection", id, text, parameters::DELETE_COLLECTION);
        v["requestBody"] = self.delete_body();
        v["responses"] = self.responses(&[200], &reference(&super::full_name("meta.v1.Status")));
        v
    }

    fn delete(&self) -> Value {
        let text = format!("delete {} {}", article(&self.kind.kind), self.kind.kind);
        let mut v = self.operation("delete", self.id("delete", "", ""), text, parameters::DELETE);
        v["requestBody"] = self.delete_body();
        let answer = match self.kind.returns_deleted {
            true => self.own(),
            false => reference(&super::full_name("meta.v1.Status")),
        };
        v["responses"] = self.responses(&[200, 202], &answer);
        v
    }

    fn item(&self, verb: &str, method: &str) -> Value {
        self.change(verb, method, "", &format!("the specified {}", self.kind.kind), &self.own())
    }

    /// Reading, replacing or patching an object or a part of it.
    fn change(&self, verb: &str, method: &str, part: &str, what: &str, schema: &Value) -> Value {
        let (word, text, query, codes): (_, _, &[&str], &[u16]) = match verb {
            "update" => ("replace", "replace", parameters::WRITE, &[200, 201]),
            "patch" => ("patch", "partially update", parameters::PATCH, &[200, 201]),
            _ => ("read", "read", &[], &[200]),
        };
        let mut v =
            self.operation(method, self.id(word, "", part), format!("{text} {what}"), query);
        match verb {
            "update" => v["requestBody"] = self.body(schema),
            "patch" => v["requestBody"] = self.patches(),
            _ => {}
        }
        v["responses"] = self.responses(codes, schema);
        v
    }

    fn patches(&self) -> Value {
        let mut types = vec![
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        if !self.kind.custom {
            types.push("application/strategic-merge-patch+json");
        }
        let schema = json!({"schema": reference(&super::full_name("meta.v1.Patch"))});
        let content: Map<String, Value> =
            types.into_iter().map(|t| (t.to_owned(), schema.clone())).collect();
        json!({"content": content, "required": true})
    }

    fn subresource(
        &self,
        paths: &mut Map<String, Value>,
        sub: &Subresource,
        components: &mut Components,
        arena: &Arena,
    ) {
        let path = format!("{}/{}", self.path(Place::Item), sub.name);
        let title = match sub.name.as_str() {
            "ephemeralcontainers" => "Ephemeralcontainers".into(),
            name => capital(name),
        };
        if sub.kind.ends_with("Options") {
            return self.connections(paths, sub, &path, &title);
        }
        if sub.name == "log" {
            let mut get = self.change(
                "get",
                "get",
                "Log",
                &format!("log of the specified {}", self.kind.kind),
                &json!({"type": "string"}),
            );
            get["responses"]["200"]["content"]["text/plain"] =
                json!({"schema": {"type": "string"}});
            let shared = self.scope(Place::Item, parameters::of_connection("log"));
            return insert(paths, path, one("get", get), shared);
        }
        let (schema, kind) = self.exchanged(sub, components, arena);
        let mut operations = Map::new();
        for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch")] {
            if sub.verbs.iter().any(|v| v == verb) {
                let what = format!("{} of the specified {}", sub.name, self.kind.kind);
                let mut v = self.change(verb, method, &title, &what, &schema);
                v["x-kubernetes-group-version-kind"] = kind.clone();
                operations.insert(method.into(), v);
            }
        }
        let mut shared = self.scope(Place::Item, &[]);
        if sub.verbs.iter().any(|v| v == "create") {
            let text =
                format!("create {} of {} {}", sub.name, article(&self.kind.kind), self.kind.kind);
            let mut v = self.operation("post", self.id("create", "", &title), text, &[]);
            v["requestBody"] = self.body(&schema);
            v["responses"] = self.responses(&[200, 201, 202], &schema);
            v["x-kubernetes-group-version-kind"] = kind;
            operations.insert("post".into(), v);
            shared = self.scope(Place::Item, parameters::WRITE);
        }
        insert(paths, path, operations, shared);
    }

    /// The schema that a subresource exchanges, and its kind.
    fn exchanged(
        &self,
        sub: &Subresource,
        components: &mut Components,
        arena: &Arena,
    ) -> (Value, Value) {
        let other = !sub.version.is_empty() && sub.kind != self.kind.kind;
        if !other {
            return (self.own(), gvk(self.kind));
        }
        let package = match sub.group.split('.').next() {
            None | Some("") => "core",
            Some(package) => package,
        };
        let schema = components.built_in(arena, &format!("{package}.{}.{}", sub.version, sub.kind));
        (schema, json!({"group": sub.group, "version": sub.version, "kind": sub.kind}))
    }

    fn connections(
        &self,
        paths: &mut Map<String, Value>,
        sub: &Subresource,
        path: &str,
        title: &str,
    ) {
        let kind =
            json!({"group": self.kind.group, "version": self.kind.version, "kind": sub.kind});
        let methods = [
            ("get", "get"),
            ("update", "put"),
            ("create", "post"),
            ("delete", "delete"),
            ("patch", "patch"),
        ];
        let answer = json!({"200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}});
        let responses = with_unauthorized(answer);
        let operations = |suffix: &str| -> Map<String, Value> {
            let served = methods.iter().filter(|(verb, _)| sub.verbs.iter().any(|v| v == verb));
            let operation = |(_, method): &(&str, &str)| {
                let verb = format!("connect{}{}", self.prefix, capital(method));
                let id = self.id("", "", &format!("{title}{suffix}"));
                let id = verb + id.strip_prefix(&self.prefix).unwrap_or(&id);
                let text = format!(
                    "connect {} requests to {} of {}",
                    method.to_uppercase(),
                    sub.name,
                    self.kind.kind
                );
                let mut v = self.operation("connect", id, text, &[]);
                v["responses"] = responses.clone();
                v["x-kubernetes-group-version-kind"] = kind.clone();
                ((*method).to_owned(), v)
            };
            served.map(operation).collect()
        };
        let mut shared = self.scope(Place::Item, parameters::of_connection(&sub.name));
        shared.retain(|p| p["name"] != "pretty");
        insert(paths, path.to_owned(), operations(""), shared.clone());
        if sub.name == "proxy" {
            shared.push(parameters::path("path", "path to the resource"));
            insert(paths, format!("{path}/{{path}}"), operations("WithPath"), shared);
        }
    }

    /// The old paths of watches.
    fn watches(&self, paths: &mut Map<String, Value>, components: &mut Components) {
        let event = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
        components.fixed(event);
        let k = &self.kind.kind;
        let mut all = vec![
            (
                Place::Collection,
                "watchlist",
                self.id("watch", "", "List"),
                format!(
                    "watch individual changes to a list of {k}. deprecated: use the 'watch' parameter with a list operation instead."
                ),
            ),
            (
                Place::Item,
                "watch",
                self.id("watch", "", ""),
                format!(
                    "watch changes to an object of kind {k}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
                ),
            ),
        ];
        if self.kind.namespaced() {
            let id = format!("watch{}{k}ListForAllNamespaces", self.prefix);
            all.push((Place::AllNamespaces, "watchlist", id, all[0].3.clone()));
        }
        for (place, action, id, text) in all {
            let path = self.path(place);
            let rest = path.strip_prefix(&self.base).unwrap_or(&path);
            let mut v = self.operation(action, id, text, &[]);
            v["responses"] =
                with_unauthorized(json!({"200": self.response("OK", &reference(event), true)}));
            let shared = self.scope(place, parameters::LIST);
            insert(paths, format!("{}/watch{rest}", self.base), one("get", v), shared);
        }
    }
}
