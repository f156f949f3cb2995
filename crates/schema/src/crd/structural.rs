//! Whether the schema of a CustomResourceDefinition is one that objects can be pruned, defaulted and
//! validated by: what each node may say, and that the structure stands outside of junctors.

use super::{build, rules, text, texts};
use crate::{decode, defaults, types::Arena, validate};
use coracle_meta::status::{FieldError, FieldErrorKind};
use serde_json::{Map, Value, json};

/// The schemas of a definition before an update: what they were allowed, they still are.
#[derive(Debug)]
pub(super) struct Legacy {
    pub(super) schemas: Vec<Value>,
}

/// Deepest nesting of a schema; upstream's limit comes from its recursive decoder.
pub(super) const MAX_DEPTH: usize = 96;

/// Checks a schema at a path.
pub(super) fn check(
    schema: &Value,
    at: &str,
    status: bool,
    old: Option<&Legacy>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !fits(schema, MAX_DEPTH) {
        return vec![FieldError::forbidden(at, "schema is nested too deeply")];
    }
    if status {
        root_with_status(schema, at, &mut errors);
    }
    if schema["nullable"] == true {
        let why = "nullable cannot be true at the root";
        errors.push(FieldError::forbidden(format!("{at}.nullable"), why));
    }
    let mut structural = Vec::new();
    invariants(schema, at, Level::Root, &mut structural);
    complete(schema, schema, at, at, &mut structural);
    structural.sort_by_key(ToString::to_string);
    let sound = structural.is_empty();
    errors.extend(structural);
    let mut nodes = Vec::new();
    node(schema, at, Meta::No, &mut nodes);
    let sound = sound && nodes.is_empty();
    if sound {
        default_values(schema, at, &mut errors);
    }
    errors.extend(nodes);
    if sound && errors.is_empty() {
        let unchanged = old.is_some_and(|o| o.schemas.contains(schema));
        errors.extend(rules::check(schema, at, unchanged));
    }
    errors
}

fn fits(v: &Value, left: usize) -> bool {
    let Some(left) = left.checked_sub(1) else { return false };
    match v {
        Value::Object(m) => m.values().all(|v| fits(v, left)),
        Value::Array(a) => a.iter().all(|v| fits(v, left)),
        _ => true,
    }
}

fn root_with_status(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    const ALLOWED: [&str; 24] = [
        "description",
        "type",
        "format",
        "title",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "multipleOf",
        "required",
        "items",
        "properties",
        "externalDocs",
        "example",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
        "id",
        "$schema",
    ];
    let ty = text(schema, "type");
    if !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(
            format!("{at}.type"),
            ty,
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        ));
        return;
    }
    let set = |v: &Value| !matches!(v, Value::Null | Value::Bool(false));
    let odd = schema.as_object().into_iter().flatten().any(|(k, v)| {
        !ALLOWED.contains(&k.as_str()) && set(v) && !k.starts_with("x-kubernetes-group")
    });
    if odd {
        errors.push(FieldError::invalid(at, schema.clone(), "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled"));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

fn given(s: &Value, field: &str) -> bool {
    s[field] == true
}

/// What the structure itself must hold.
fn invariants(s: &Value, at: &str, level: Level, errors: &mut Vec<FieldError>) {
    let ty = text(s, "type");
    let (int_or_string, embedded, preserve) = (
        given(s, "x-kubernetes-int-or-string"),
        given(s, "x-kubernetes-embedded-resource"),
        given(s, "x-kubernetes-preserve-unknown-fields"),
    );
    if ty == "array" && !s["items"].is_object() {
        errors.push(FieldError::required(format!("{at}.items"), "must be specified"));
    }
    let additional = &s["additionalProperties"];
    let has_additional = additional.is_object() || *additional == true;
    if level == Level::Root && has_additional {
        let why = "must not be used at the root";
        errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), why));
    }
    let not_with_both = "must be false if x-kubernetes-int-or-string is true";
    for (on, field) in [
        (preserve, "x-kubernetes-preserve-unknown-fields"),
        (embedded, "x-kubernetes-embedded-resource"),
    ] {
        if int_or_string && on {
            errors.push(FieldError::invalid(format!("{at}.{field}"), true, not_with_both));
        }
    }
    value_validations(s, at, errors);
    let type_path = format!("{at}.type");
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(required_or_invalid(&type_path, ty, why));
    } else if ty.is_empty() && !int_or_string && !preserve {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&*type_path, why));
    }
    if embedded && has_additional {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(type_path, ty, "must be object at the root"));
    }
    if level == Level::Root || embedded {
        own_fields(s, at, errors);
    }
    if level == Level::Root {
        root_metadata(s, at, errors);
    }
    let no_properties = s["properties"].as_object().is_none_or(Map::is_empty);
    if embedded && !preserve && no_properties {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{at}.properties"), why));
    }
    for (name, p) in s["properties"].as_object().into_iter().flatten() {
        invariants(p, &format!("{at}.properties[{name}]"), Level::Field, errors);
    }
    if s["items"].is_object() {
        invariants(&s["items"], &format!("{at}.items"), Level::Item, errors);
    }
    if additional.is_object() {
        invariants(additional, &format!("{at}.additionalProperties"), Level::Field, errors);
    }
}

fn required_or_invalid(path: &str, value: &str, why: &str) -> FieldError {
    match value {
        "" => FieldError::required(path, why),
        v => FieldError::invalid(path, v, why),
    }
}

/// `apiVersion`, `kind` and `metadata` of a whole object.
fn own_fields(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (field, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let p = &s["properties"][field];
        if p.is_object() && text(p, "type") != wanted {
            let path = format!("{at}.properties[{field}].type");
            errors.push(FieldError::invalid(path, text(p, "type"), format!("must be {wanted}")));
        }
    }
}

fn root_metadata(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(meta) = s["properties"]["metadata"].as_object() else { return };
    let known = ["name", "generateName"];
    let rest = meta.iter().any(|(k, v)| match k.as_str() {
        "type" | "default" => false,
        "properties" => {
            v.as_object().is_some_and(|p| p.keys().any(|k| !known.contains(&k.as_str())))
        }
        _ => !matches!(v, Value::Null | Value::Bool(false)),
    });
    if rest {
        errors.push(FieldError::forbidden(format!("{at}.properties[metadata]"), "must not specify anything other than name and generateName, but metadata is implicitly specified"));
    }
}

const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// The value validations of a node, and what may not stand in its junctors.
fn value_validations(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if let Some(p) = s["pattern"].as_str() {
        if let Err(e) = coracle_meta::pattern::compile(p) {
            let e = coracle_meta::pattern::fault(p, &e);
            let why = format!("must be a valid regular expression, but isn't: {e}");
            errors.push(FieldError::invalid(format!("{at}.pattern"), p, why));
        }
    }
    let int_or_string = json!([{"type": "integer"}, {"type": "string"}]);
    for field in JUNCTORS {
        if field == "anyOf" && s["anyOf"] == int_or_string {
            continue;
        }
        for (i, inner) in s[field].as_array().into_iter().flatten().enumerate() {
            let bare = inner.as_object().is_some_and(|m| m.len() == 1);
            if field == "allOf" && i == 0 && bare && inner["anyOf"] == int_or_string {
                continue;
            }
            nested(inner, &format!("{at}.{field}[{i}]"), errors);
        }
    }
    if s["not"].is_object() {
        nested(&s["not"], &format!("{at}.not"), errors);
    }
}

fn nested(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let set = |f: &str| !matches!(&s[f], Value::Null | Value::Bool(false));
    let listed = |f: &str| s[f].as_array().is_some_and(|a| !a.is_empty());
    let worded = |f: &str| !text(s, f).is_empty();
    for (wrong, field, why) in [
        (worded("type"), "type", "must be empty to be structural"),
        (set("additionalProperties"), "additionalProperties", "must be undefined to be structural"),
        (set("default"), "default", "must be undefined to be structural"),
        (worded("title"), "title", "must be empty to be structural"),
        (worded("description"), "description", "must be empty to be structural"),
        (set("nullable"), "nullable", "must be false to be structural"),
        (
            set("x-kubernetes-preserve-unknown-fields"),
            "x-kubernetes-preserve-unknown-fields",
            "must be false to be structural",
        ),
        (
            set("x-kubernetes-embedded-resource"),
            "x-kubernetes-embedded-resource",
            "must be false to be structural",
        ),
        (
            set("x-kubernetes-int-or-string"),
            "x-kubernetes-int-or-string",
            "must be false to be structural",
        ),
        (
            listed("x-kubernetes-list-map-keys"),
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            worded("x-kubernetes-list-type"),
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            worded("x-kubernetes-map-type"),
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
        (
            listed("x-kubernetes-validations"),
            "x-kubernetes-validations",
            "must be empty to be structural",
        ),
    ] {
        if wrong {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), why));
        }
    }
    if s["properties"]["metadata"].is_object() {
        let why = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(format!("{at}.properties[metadata]"), why));
    }
    value_validations(s, at, errors);
    for (name, p) in s["properties"].as_object().into_iter().flatten() {
        nested(p, &format!("{at}.properties[{name}]"), errors);
    }
    if s["items"].is_object() {
        nested(&s["items"], &format!("{at}.items"), errors);
    }
}

/// Every field that a junctor of the root names must stand in the structure. (Upstream looks at
/// no other node's.)
fn complete(s: &Value, nested_in: &Value, at: &str, inner_at: &str, errors: &mut Vec<FieldError>) {
    let root = std::ptr::eq(s, nested_in);
    let junctors = JUNCTORS.iter().flat_map(|field| {
        let all = nested_in[field].as_array().into_iter().flatten().enumerate();
        all.map(move |(i, inner)| (inner, format!("{inner_at}.{field}[{i}]")))
    });
    let not = nested_in["not"].is_object().then(|| (&nested_in["not"], format!("{inner_at}.not")));
    for (inner, path) in junctors.chain(not) {
        complete(s, inner, at, &path, errors);
    }
    if root {
        return;
    }
    let properties = nested_in["properties"].as_object().into_iter().flatten();
    let properties = properties.map(|(n, p)| (&s["properties"][n], p, format!(".properties[{n}]")));
    let items = nested_in["items"].is_object();
    let items = items.then(|| (&s["items"], &nested_in["items"], ".items".to_owned()));
    for (own, inner, step) in properties.chain(items) {
        let (path, inner_path) = (format!("{at}{step}"), format!("{inner_at}{step}"));
        if own.is_object() {
            complete(own, inner, &path, &inner_path, errors);
        } else {
            let why = format!("because it is defined in {inner_path}");
            errors.push(FieldError::required(path, why));
        }
    }
}

/// Where a node stands to the metadata of whole objects.
#[derive(Clone, Copy, PartialEq)]
enum Meta {
    No,
    /// Within the metadata of the root or of an embedded resource.
    Inside(&'static str, bool),
}

/// What each node may say.
fn node(s: &Value, at: &str, meta: Meta, errors: &mut Vec<FieldError>) {
    standard(s, at, meta, errors);
    if s["uniqueItems"] == true {
        let why =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{at}.uniqueItems"), why));
    }
    let additional = &s["additionalProperties"];
    let properties = s["properties"].as_object();
    let schema_or_false = additional.is_object() || *additional == false;
    if schema_or_false && properties.is_some_and(|p| !p.is_empty()) {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), why));
    }
    if additional.is_object() {
        node(additional, &format!("{at}.additionalProperties"), meta, errors);
    }
    let root = !at.contains(".openAPIV3Schema.");
    let whole = root || given(s, "x-kubernetes-embedded-resource");
    for (name, p) in properties.into_iter().flatten() {
        let inner = match name.as_str() {
            "metadata" if whole => Meta::Inside("metadata", root),
            "apiVersion" if whole => Meta::Inside("apiVersion", root),
            "kind" if whole => Meta::Inside("kind", root),
            _ => meta,
        };
        node(p, &format!("{at}.properties[{name}]"), inner, errors);
    }
    if s["not"].is_object() {
        node(&s["not"], &format!("{at}.not"), meta, errors);
    }
    for field in JUNCTORS {
        for (i, inner) in s[field].as_array().into_iter().flatten().enumerate() {
            node(inner, &format!("{at}.{field}[{i}]"), meta, errors);
        }
    }
    if s["items"].is_object() {
        node(&s["items"], &format!("{at}.items"), meta, errors);
    }
    if s["x-kubernetes-preserve-unknown-fields"] == false {
        let path = format!("{at}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(path, false, "must be true or undefined"));
    }
    map_type(s, at, errors);
    list_type(s, at, errors);
    rules::check_words(s, at, errors);
}

fn standard(s: &Value, at: &str, meta: Meta, errors: &mut Vec<FieldError>) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    let ty = text(s, "type");
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(format!("{at}.type"), ty, &TYPES));
    }
    if let (Meta::Inside(field, true), true) = (meta, !s["default"].is_null()) {
        let why = format!("must not be set in top-level {field}");
        errors.push(FieldError::forbidden(format!("{at}.default"), why));
    }
    let listed = |v: &Value| match v {
        Value::Null => false,
        Value::Object(m) => !m.is_empty(),
        Value::String(t) => !t.is_empty(),
        _ => true,
    };
    for field in
        ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"]
    {
        if listed(&s[field]) {
            let why = format!("{field} is not supported");
            errors.push(FieldError::forbidden(format!("{at}.{field}"), why));
        }
    }
    if ty == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(format!("{at}.type"), why));
    }
    if s["items"].is_array() {
        let why = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(format!("{at}.items"), why));
    }
    if meta != Meta::No && given(s, "x-kubernetes-embedded-resource") {
        let path = format!("{at}.x-kubernetes-embedded-resource");
        errors.push(FieldError::forbidden(path, "must not be used inside of resource meta"));
    }
}

fn map_type(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(map_type) = s["x-kubernetes-map-type"].as_str() else { return };
    let ty = text(s, "type");
    if ty != "object" {
        let why = "must be object if x-kubernetes-map-type is specified";
        errors.push(required_or_invalid(&format!("{at}.type"), ty, why));
    }
    if !["atomic", "granular"].contains(&map_type) {
        let path = format!("{at}.x-kubernetes-map-type");
        errors.push(FieldError::not_supported(path, map_type, &["atomic", "granular"]));
    }
}

fn list_type(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let (list, ty, items) = (s["x-kubernetes-list-type"].as_str(), text(s, "type"), &s["items"]);
    let keys = texts(&s["x-kubernetes-list-map-keys"]);
    if let Some(list) = list {
        if ty != "array" {
            let why = "must be array if x-kubernetes-list-type is specified";
            errors.push(required_or_invalid(&format!("{at}.type"), ty, why));
        } else if list == "set" {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let inner = items["x-kubernetes-list-type"].as_str();
            if text(items, "type") == "array" && inner.is_some_and(|t| t != "atomic") {
                let path = format!("{at}.items.x-kubernetes-list-type");
                errors.push(FieldError::invalid(path, inner.unwrap_or_default(), why));
            }
            let map = items["x-kubernetes-map-type"].as_str();
            if text(items, "type") == "object" && map.is_some_and(|t| t != "atomic") {
                let path = format!("{at}.items.x-kubernetes-map-type");
                errors.push(FieldError::invalid(
                    path,
                    items["x-kubernetes-list-type"].clone(),
                    why,
                ));
            }
        }
        if !["atomic", "set", "map"].contains(&list) {
            let path = format!("{at}.x-kubernetes-list-type");
            errors.push(FieldError::not_supported(path, list, &["atomic", "set", "map"]));
        }
    }
    if !keys.is_empty() && list != Some("map") {
        let path = format!("{at}.x-kubernetes-list-type");
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(required_or_invalid(&path, list.unwrap_or_default(), why));
    }
    if list == Some("map") {
        keyed_list(&keys, items, at, errors);
    }
    if matches!(list, Some("set" | "map")) && items.is_object() {
        unique_items(&keys, list.unwrap_or_default(), items, at, errors);
    }
}

fn keyed_list(keys: &[String], items: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let path = format!("{at}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(path, why));
        return;
    }
    if !items.is_object() {
        let why = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(format!("{at}.items"), why));
        return;
    }
    let ty = text(items, "type");
    if ty != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(format!("{at}.items.type"), ty, why));
        return;
    }
    let shown = json!(keys);
    for (i, k) in keys.iter().enumerate() {
        let p = &items["properties"][k];
        if !p.is_object() {
            let why = "entries must all be names of item properties";
            errors.push(FieldError::invalid(&*path, shown.clone(), why));
        } else if ["array", "object"].contains(&text(p, "type")) {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            let at = format!("{at}.items.properties[{k}].type");
            errors.push(FieldError::invalid(at, ty, why));
        }
        if keys[..i].contains(k) {
            let why = "must not contain duplicate entries";
            errors.push(FieldError::invalid(&*path, shown.clone(), why));
        }
    }
}

fn unique_items(
    keys: &[String],
    list: &str,
    items: &Value,
    at: &str,
    errors: &mut Vec<FieldError>,
) {
    if given(items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.push(FieldError::forbidden(format!("{at}.items.nullable"), why));
    }
    if list != "map" {
        return;
    }
    let required = texts(&items["required"]);
    for k in keys {
        let p = &items["properties"][k];
        if !p.is_object() {
            continue;
        }
        if !required.contains(k) && p["default"].is_null() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            let at = format!("{at}.items.properties[{k}].default");
            errors.push(FieldError::required(at, why));
        }
        if given(p, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            let at = format!("{at}.items.properties[{k}].nullable");
            errors.push(FieldError::forbidden(at, why));
        }
    }
}

/// Defaults must be what the schema takes, and nothing that it would prune.
fn default_values(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if !s["default"].is_null() {
        let mut arena = Arena::default();
        let slot = build::slot(s, &mut arena);
        let (given, path) = (&s["default"], format!("{at}.default"));
        let mut v = given.clone();
        let report = decode::decode(&arena, &slot, &mut v, decode::Form::Custom, false);
        if !report.unknown.is_empty() {
            let why = "must not have unknown fields";
            errors.push(FieldError::invalid(&*path, given.clone(), why));
        }
        for e in &report.errors {
            let mut wrong = validate::type_error(e);
            wrong.path = join(&path, &e.path);
            errors.push(wrong);
        }
        if report.errors.is_empty() {
            defaults::apply(&arena, &slot, &mut v);
            let mut wrong = validate::validate(&arena, &slot, &v, "");
            // What upstream does not look at in a default.
            wrong.retain(|e| e.kind != FieldErrorKind::Duplicate);
            for e in &mut wrong {
                e.path = join(&path, &e.path);
            }
            errors.extend(wrong);
        }
    }
    for (name, p) in s["properties"].as_object().into_iter().flatten() {
        default_values(p, &format!("{at}.properties[{name}]"), errors);
    }
    if s["items"].is_object() {
        default_values(&s["items"], &format!("{at}.items"), errors);
    }
}

fn join(path: &str, rest: &str) -> String {
    match rest {
        "" => path.to_owned(),
        r if r.starts_with('[') => format!("{path}{r}"),
        r => format!("{path}.{r}"),
    }
}
