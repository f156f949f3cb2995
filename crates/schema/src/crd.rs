//! Custom resources: from the OpenAPI v3 schema of a CustomResourceDefinition to the same
//! definitions that built-in kinds have.

use crate::{
    columns::{Cell, Column},
    defaults::{Rule, Source},
    jsonpath,
    kinds::{Kind, Lazy, ScalePaths, Scope, Structure, Subresource},
    types::{Arena, Def, Limits, ListType, Slot, Type},
};
use coracle_meta::{name::NameRule, status::FieldError};
use regex::Regex;
use serde_json::{Map, Value};
use std::sync::{Arc, LazyLock};

/// Deepest nesting of a schema; upstream's limit comes from its recursive decoder.
const MAX_DEPTH: usize = 96;

/// Checks a definition object.
///
/// # Errors
/// Every fault, with its field path.
pub fn check(crd: &Value) -> Result<(), Vec<FieldError>> {
    let mut errors = Vec::new();
    check_names(crd, &mut errors);
    let versions = versions(crd);
    if versions.is_empty() {
        errors.push(FieldError::required(
            "spec.versions",
            "must have exactly one version marked as storage version",
        ));
    } else if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            Value::Array(vec![]),
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        structure(version, &path, &mut errors);
        columns(version, &path, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// One kind for each served version of a definition that was checked. `read` gives the definition
/// again, when a kind's structure is first needed.
pub fn kinds(
    crd: &Value,
    read: impl Fn() -> Value + Clone + Send + Sync + 'static,
) -> Vec<Arc<Kind>> {
    let versions = versions(crd).iter().enumerate().filter(|(_, v)| v["served"] == true);
    let lazy = |i: usize| -> Lazy {
        let read = read.clone();
        LazyLock::new(Box::new(move || {
            let crd = read();
            let none = Value::Null;
            structure(self::versions(&crd).get(i).unwrap_or(&none), "", &mut Vec::new())
        }))
    };
    versions.map(|(i, v)| Arc::new(version_kind(crd, v, lazy(i)))).collect()
}

fn versions(crd: &Value) -> &[Value] {
    crd["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The definitions of a version's schema.
fn structure(version: &Value, path: &str, errors: &mut Vec<FieldError>) -> Structure {
    let mut arena = Arena::default();
    let schema = &version["schema"]["openAPIV3Schema"];
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    if !schema.is_object() {
        errors.push(FieldError::required(schema_path.clone(), "schemas are required"));
    } else if schema["type"] != "object" {
        errors.push(FieldError::invalid(
            format!("{schema_path}.type"),
            schema["type"].clone(),
            "must be object at the root",
        ));
    }
    let mut builder = Builder { arena: &mut arena, errors, depth: 0 };
    let root = builder.slot(schema, &schema_path);
    (Arc::new(arena), root)
}

fn text<'v>(v: &'v Value, field: &str) -> &'v str {
    v[field].as_str().unwrap_or_default()
}

fn texts(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(Into::into)).collect()
}

fn check_names(crd: &Value, errors: &mut Vec<FieldError>) {
    let (spec, name) = (&crd["spec"], text(&crd["metadata"], "name"));
    let names = &spec["names"];
    let group = text(spec, "group");
    for e in coracle_meta::name::check_subdomain(group) {
        errors.push(FieldError::invalid("spec.group", group, e));
    }
    if !group.contains('.') {
        errors.push(FieldError::invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        ));
    }
    let wanted = format!("{}.{group}", text(names, "plural"));
    if name != wanted {
        errors.push(FieldError::invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    for field in ["plural", "kind"] {
        if text(names, field).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    for e in coracle_meta::name::check_label_1035(&text(names, "plural").to_lowercase()) {
        errors.push(FieldError::invalid("spec.names.plural", text(names, "plural"), e));
    }
    if !["Namespaced", "Cluster"].contains(&text(spec, "scope")) {
        errors.push(FieldError::not_supported(
            "spec.scope",
            text(spec, "scope"),
            &["Cluster", "Namespaced"],
        ));
    }
}

fn version_kind(crd: &Value, version: &Value, structure: Lazy) -> Kind {
    let (spec, names) = (&crd["spec"], &crd["spec"]["names"]);
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let kind = text(names, "kind").to_owned();
    let or = |field: &str, other: String| match text(names, field) {
        "" => other,
        s => s.to_owned(),
    };
    let columns = columns(version, "", &mut Vec::new());
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
        orphan_default: false,
        scale: scale(version),
        columns,
        structure,
        custom: true,
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

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<Column> {
    let mut columns = vec![Column::name()];
    let declared = version["additionalPrinterColumns"].as_array();
    for (i, c) in declared.into_iter().flatten().enumerate() {
        let expression = text(c, "jsonPath");
        let Some(compiled) = jsonpath::Path::parse(expression) else {
            errors.push(FieldError::invalid(
                format!("{path}.additionalPrinterColumns[{i}].jsonPath"),
                expression,
                "is not a JSONPath that this server knows",
            ));
            continue;
        };
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

struct Builder<'a> {
    arena: &'a mut Arena,
    errors: &'a mut Vec<FieldError>,
    depth: usize,
}

impl Builder<'_> {
    fn slot(&mut self, s: &Value, path: &str) -> Slot {
        self.depth += 1;
        let mut slot = if self.depth > MAX_DEPTH {
            self.errors.push(FieldError::forbidden(path, "schema is nested too deeply"));
            Slot::of(Type::Any)
        } else {
            Slot::of(self.ty(s, path))
        };
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
        slot.limits = self.limits(s, path, false).map(Box::new);
        self.depth -= 1;
        slot
    }

    fn ty(&mut self, s: &Value, path: &str) -> Type {
        let preserve = s["x-kubernetes-preserve-unknown-fields"] == true;
        if s["x-kubernetes-int-or-string"] == true {
            return Type::IntOrString;
        }
        match (text(s, "type"), text(s, "format")) {
            ("string", "date-time") => Type::String,
            ("string", _) => Type::String,
            ("integer", "int32") => Type::Int32,
            ("integer", _) => Type::Int64,
            ("number", _) => Type::Number,
            ("boolean", _) => Type::Bool,
            ("array", _) => {
                if !s["items"].is_object() {
                    self.errors
                        .push(FieldError::required(format!("{path}.items"), "must be specified"));
                }
                Type::List(Box::new(self.slot(&s["items"], &format!("{path}.items"))))
            }
            ("object", _) => self.object(s, path, preserve),
            ("", _) if preserve => Type::Any,
            ("", _) => {
                self.errors.push(FieldError::required(
                    format!("{path}.type"),
                    "must not be empty for specified object fields",
                ));
                Type::Any
            }
            (other, _) => {
                let all = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(format!("{path}.type"), other, &all));
                Type::Any
            }
        }
    }

    fn object(&mut self, s: &Value, path: &str, preserve: bool) -> Type {
        let properties = s["properties"].as_object();
        let additional = &s["additionalProperties"];
        if properties.is_none_or(Map::is_empty) && additional.is_object() {
            return Type::Map(Box::new(
                self.slot(additional, &format!("{path}.additionalProperties")),
            ));
        }
        let mut def = Def {
            atomic: s["x-kubernetes-map-type"] == "atomic",
            embedded: s["x-kubernetes-embedded-resource"] == true,
            preserve_unknown: preserve || additional == true,
            ..Def::default()
        };
        if additional.is_object() {
            def.additional =
                Some(Box::new(self.slot(additional, &format!("{path}.additionalProperties"))));
        }
        let required = texts(&s["required"]);
        for (name, p) in properties.into_iter().flatten() {
            let mut slot = self.slot(p, &format!("{path}.properties[{name}]"));
            slot.required = required.contains(name);
            if let Some(value) = p.get("default") {
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
        for name in &required {
            if def.fields.contains_key(name.as_str()) {
                continue;
            }
            let mut slot = Slot::of(Type::Any);
            slot.required = true;
            def.fields.insert(name.as_str().into(), slot);
        }
        Type::Object(self.arena.add("", def))
    }

    /// The value validations of a schema. Inside junctors (`nested`) there is no structure, so
    /// properties and required fields are validations there too.
    fn limits(&mut self, s: &Value, path: &str, nested: bool) -> Option<Limits> {
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
            ..Limits::default()
        };
        if let Some(p) = s["pattern"].as_str() {
            match Regex::new(&go_pattern(p)) {
                Ok(r) => l.pattern = Some(r),
                Err(e) => self.errors.push(FieldError::invalid(
                    format!("{path}.pattern"),
                    p,
                    format!("must be a valid regular expression, but isn't: {e}"),
                )),
            }
        }
        for (field, list) in
            [("allOf", &mut l.all_of), ("anyOf", &mut l.any_of), ("oneOf", &mut l.one_of)]
        {
            for (i, inner) in s[field].as_array().into_iter().flatten().enumerate() {
                list.push(self.nested(inner, &format!("{path}.{field}[{i}]")));
            }
        }
        if s["not"].is_object() {
            l.not = Some(self.nested(&s["not"], &format!("{path}.not")));
        }
        if nested {
            l.required_fields = texts(&s["required"]).into_iter().map(Into::into).collect();
            for (name, p) in s["properties"].as_object().into_iter().flatten() {
                let slot = self.nested(p, &format!("{path}.properties[{name}]"));
                l.properties.insert(name.as_str().into(), slot);
            }
        }
        let empty = format!("{:?}", Limits::default());
        (format!("{l:?}") != empty).then_some(l)
    }

    fn nested(&mut self, s: &Value, path: &str) -> Slot {
        self.depth += 1;
        let mut slot = Slot::of(Type::Any);
        if self.depth > MAX_DEPTH {
            self.errors.push(FieldError::forbidden(path, "schema is nested too deeply"));
        } else {
            slot.allowed = s["enum"].as_array().cloned().unwrap_or_default();
            slot.limits = self.limits(s, path, true).map(Box::new);
            if s["items"].is_object() {
                slot.ty = Type::List(Box::new(self.nested(&s["items"], &format!("{path}.items"))));
            }
        }
        self.depth -= 1;
        slot
    }
}

/// A pattern of Go's syntax in that of our engine, which reads more into a class of characters: a
/// bracket, and `&&`, `--` and `~~`, are there operators.
fn go_pattern(p: &str) -> String {
    let mut out = String::with_capacity(p.len());
    let (mut inside, mut at_start) = (false, false);
    let mut chars = p.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                out.push(c);
                out.extend(chars.next());
                at_start = false;
                continue;
            }
            '[' if !inside => {
                (inside, at_start) = (true, true);
                out.push(c);
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                continue;
            }
            // `[:alpha:]` is the same in both.
            '[' if chars.peek() == Some(&':') => {
                out.push(c);
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
                at_start = false;
                continue;
            }
            '[' => out.push('\\'),
            ']' if inside && at_start => out.push('\\'),
            ']' => inside = false,
            // Of two, the second: the first may begin a range's end.
            '&' | '~' | '-' if inside && !at_start && out.ends_with(c) => out.push('\\'),
            _ => {}
        }
        out.push(c);
        at_start = false;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, defaults, validate};
    use serde_json::json;

    fn widget() -> Value {
        json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
              "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
              "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "required": ["name"],
                "properties": {"size": {"type": "integer", "minimum": 1, "default": 3}, "name": {"type": "string", "pattern": "^[a-z]+$"},
                  "mode": {"type": "string", "enum": ["A", "B"]}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}]}})
    }

    #[test]
    fn prunes_defaults_and_validates() {
        check(&widget()).unwrap();
        let k = &kinds(&widget(), widget)[0];
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
    fn patterns_are_gos() {
        for (pattern, yes, no) in [
            ("^[-_[A-Za-z0-9]+@x$", "a[_b@x", "a]@x"),
            ("^[]a]+$", "]a", "b"),
            ("^[^]a]+$", "b", "]"),
            ("^[a&&b]+$", "&ab", "c"),
            ("^[+--]+$", "+,-", "a"),
            ("^[[:alpha:]_]+$", "ab_", "1"),
            (r"^[\[\]]+\[$", "[][", "a["),
        ] {
            let r = Regex::new(&go_pattern(pattern)).unwrap();
            assert!(r.is_match(yes) && !r.is_match(no), "{pattern}");
        }
    }

    #[test]
    fn faults_name_their_field() {
        let mut crd = widget();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["bad"] = json!({"type": "text"});
        crd["metadata"]["name"] = json!("wrong");
        let paths: Vec<String> = check(&crd).unwrap_err().into_iter().map(|e| e.path).collect();
        assert_eq!(
            paths,
            [
                "metadata.name",
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[bad].type"
            ]
        );
    }
}
