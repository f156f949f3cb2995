//! Version 2 ("Swagger"): one document of everything, made from those of version 3. What version 2
//! cannot say is left out, as upstream does (`ToStructuralOpenAPIV2`): old clients read one document,
//! and one schema that they do not understand would break it all.

use serde_json::{Map, Value, json};

/// What a schema of version 2 may say, besides extensions.
const KNOWN: &[&str] = &[
    "$ref",
    "additionalProperties",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "uniqueItems",
];
/// Parameters that kubectl before 1.28 looks for in the operations themselves.
const IN_PLACE: [&str; 3] = ["name", "dryRun", "fieldValidation"];
/// Deepest nesting of a schema; what is deeper says nothing.
const MAX_DEPTH: usize = 128;

/// The document of all documents of version 3.
pub fn document<'a>(documents: impl IntoIterator<Item = &'a Value>, version: &str) -> Value {
    let mut whole = Document::default();
    for d in documents {
        for (name, schema) in d["components"]["schemas"].as_object().into_iter().flatten() {
            if !whole.definitions.contains_key(name) {
                whole.definitions.insert(name.clone(), definition(name, schema));
            }
        }
        for (path, item) in d["paths"].as_object().into_iter().flatten() {
            let item = whole.path_item(item);
            whole.paths.insert(path.clone(), item);
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": whole.paths,
        "definitions": whole.definitions,
        "parameters": whole.parameters,
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

#[derive(Default)]
struct Document {
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
    parameters: Map<String, Value>,
}

fn definition(name: &str, schema: &Value) -> Value {
    let mut v = convert(schema, MAX_DEPTH);
    match name.rsplit('.').next() {
        Some("Quantity") if name.starts_with("io.k8s.") => v["type"] = json!("string"),
        Some("IntOrString") if name.starts_with("io.k8s.") => v["type"] = json!("string"),
        _ => {}
    }
    v
}

fn convert(schema: &Value, left: usize) -> Value {
    let (Some(map), Some(left)) = (schema.as_object(), left.checked_sub(1)) else {
        return json!({});
    };
    let mut out = Map::new();
    for (key, value) in map {
        let value = match key.as_str() {
            "properties" => {
                let all = value.as_object().into_iter().flatten();
                all.map(|(name, v)| (name.clone(), convert(v, left))).collect()
            }
            "items" | "additionalProperties" if value.is_object() => convert(value, left),
            "$ref" => json!(
                value
                    .as_str()
                    .unwrap_or_default()
                    .replace("#/components/schemas/", "#/definitions/")
            ),
            // A reference that stands apart because of its description.
            "allOf" => match value[0]["$ref"].as_str() {
                Some(r) => {
                    let r = r.replace("#/components/schemas/", "#/definitions/");
                    out.insert("$ref".into(), json!(r));
                    continue;
                }
                None => continue,
            },
            key if KNOWN.contains(&key) || key.starts_with("x-") => value.clone(),
            _ => continue,
        };
        out.insert(key.clone(), value);
    }
    loosen(schema, &mut out);
    Value::Object(out)
}

/// Says less where version 2 would say something else than what is meant.
fn loosen(schema: &Value, out: &mut Map<String, Value>) {
    let drop = |out: &mut Map<String, Value>, keys: &[&str]| {
        keys.iter().for_each(|k| {
            out.remove(*k);
        });
    };
    if schema["nullable"] == true {
        drop(out, &["type", "items", "properties"]);
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        drop(out, &["items", "properties"]);
        if schema["type"] == "object" || schema["type"] == "array" {
            out.remove("type");
        }
    }
    if schema["type"] == "array" && !out.contains_key("items") {
        out.remove("type");
    }
    // A reference may have no type beside it.
    if out.contains_key("$ref") {
        drop(out, &["type", "properties", "items", "format"]);
    }
    let nullable = |name: &str| schema["properties"][name]["nullable"] == true;
    if let Some(required) = out.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|r| !r.as_str().is_some_and(nullable));
        if required.is_empty() {
            out.remove("required");
        }
    }
}

impl Document {
    fn path_item(&mut self, item: &Value) -> Value {
        let mut out = Map::new();
        for (method, operation) in item.as_object().into_iter().flatten() {
            let v = match method.as_str() {
                "parameters" => json!(self.shared(operation)),
                _ => self.operation(method, operation),
            };
            out.insert(method.clone(), v);
        }
        Value::Object(out)
    }

    fn operation(&mut self, method: &str, o: &Value) -> Value {
        let mut v = json!({
            "description": o["description"],
            "operationId": o["operationId"],
            "schemes": ["https"],
            "tags": o["tags"],
            "responses": {},
        });
        for key in ["x-kubernetes-action", "x-kubernetes-group-version-kind"] {
            if !o[key].is_null() {
                v[key] = o[key].clone();
            }
        }
        let types = |content: &Value| -> Vec<String> {
            content.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect()
        };
        let body = &o["requestBody"];
        let mut parameters = self.shared(&o["parameters"]);
        v["consumes"] = match body["content"].as_object() {
            Some(_) => json!(types(&body["content"])),
            None => json!(["*/*"]),
        };
        if let Some((_, first)) = body["content"].as_object().and_then(|c| c.iter().next()) {
            let mut parameter = json!({"name": "body", "in": "body", "schema": convert(&first["schema"], MAX_DEPTH)});
            if body["required"] == true {
                parameter["required"] = json!(true);
            }
            let meta = "#/definitions/io.k8s.apimachinery";
            let of_all = parameter["schema"]["$ref"].as_str().is_some_and(|r| r.starts_with(meta));
            parameters.insert(0, if of_all { self.share(parameter) } else { parameter });
        }
        if !parameters.is_empty() {
            v["parameters"] = json!(parameters);
        }
        let mut produces = vec![];
        for (code, response) in o["responses"].as_object().into_iter().flatten() {
            let mut r = json!({"description": response["description"]});
            let content = &response["content"];
            if let Some((_, first)) = content.as_object().and_then(|c| c.iter().next()) {
                r["schema"] = convert(&first["schema"], MAX_DEPTH);
                produces.extend(types(content));
            }
            v["responses"][code] = r;
        }
        produces.sort();
        produces.dedup();
        // What only tells what there is takes no body.
        if method == "get" && o["x-kubernetes-action"].is_null() {
            v["consumes"] = json!(produces);
        }
        v["produces"] = json!(produces);
        v
    }

    fn shared(&mut self, parameters: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        for p in parameters.as_array().into_iter().flatten() {
            let mut flat = json!({"name": p["name"], "in": p["in"], "description": p["description"],
                "type": p["schema"]["type"], "uniqueItems": true});
            if p["required"] == true {
                flat["required"] = json!(true);
            }
            let in_place = IN_PLACE.iter().any(|n| p["name"] == **n);
            all.push(if in_place { flat } else { self.share(flat) });
        }
        all
    }

    /// Keeps a parameter once, under its name and a hash of what it is, and refers to it.
    fn share(&mut self, parameter: Value) -> Value {
        let text = parameter.to_string();
        // FNV-1, 64 bits, as upstream.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            h.wrapping_mul(0x0100_0000_01b3) ^ u64::from(b)
        });
        let name = parameter["name"].as_str().unwrap_or_default();
        let key = format!("{name}-{:08x}", hash >> 32);
        let reference = json!({"$ref": format!("#/parameters/{key}")});
        self.parameters.entry(key).or_insert(parameter);
        reference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_version_2_cannot_say_is_left_out() {
        let v3 = json!({"type": "object", "required": ["a", "b"], "anyOf": [{"required": ["a"]}], "properties": {
            "a": {"type": "string", "nullable": true, "default": "x"},
            "b": {"allOf": [{"$ref": "#/components/schemas/x"}], "description": "d"},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {}},
            "d": {"type": "array"},
            "e": {"type": "array", "items": {"type": "integer", "oneOf": []}},
        }});
        let v2 = json!({"type": "object", "required": ["b"], "properties": {
            "a": {},
            "b": {"$ref": "#/definitions/x", "description": "d"},
            "c": {"x-kubernetes-preserve-unknown-fields": true},
            "d": {},
            "e": {"type": "array", "items": {"type": "integer"}},
        }});
        assert_eq!(convert(&v3, MAX_DEPTH), v2);
    }
}
