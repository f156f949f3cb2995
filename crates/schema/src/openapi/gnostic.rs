//! Version 2 as protobuf, by the field numbers of gnostic's `openapi.v2`: what client-go asks for.

use serde_json::{Map, Value};

/// A message that grows field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n.to_le_bytes()[0] | 0x80);
            n >>= 7;
        }
        self.0.push(n.to_le_bytes()[0]);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, m: Self) {
        self.bytes(field, &m.0);
    }

    fn text(&mut self, field: u64, v: &Value) {
        if let Some(text) = v.as_str().filter(|t| !t.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, v: &Value) {
        for text in v.as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u64, v: &Value) {
        if *v == true {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn integer(&mut self, field: u64, v: &Value) {
        if let Some(n) = v.as_u64().filter(|n| *n > 0) {
            self.varint(field << 3);
            self.varint(n);
        }
    }

    fn number(&mut self, field: u64, v: &Value) {
        if let Some(n) = v.as_f64().filter(|n| *n != 0.0) {
            self.varint(field << 3 | 1);
            self.0.extend_from_slice(&n.to_le_bytes());
        }
    }

    /// Pairs of a name and what `of` makes of its value.
    fn named(&mut self, field: u64, v: &Value, of: impl Fn(&Value) -> Self) {
        for (name, value) in v.as_object().into_iter().flatten() {
            let mut pair = Self::default();
            pair.bytes(1, name.as_bytes());
            pair.message(2, of(value));
            self.message(field, pair);
        }
    }

    /// What begins with `x-`.
    fn extensions(&mut self, field: u64, v: &Value) {
        let all = v.as_object().into_iter().flatten();
        let own: Map<String, Value> =
            all.filter(|(k, _)| k.starts_with("x-")).map(|(k, v)| (k.clone(), v.clone())).collect();
        self.named(field, &Value::Object(own), any);
    }
}

/// Any value, as YAML; JSON is that too.
fn any(v: &Value) -> Message {
    let mut m = Message::default();
    m.bytes(2, format!("{v}\n").as_bytes());
    m
}

/// A document of version 2.
pub fn encode(v: &Value) -> Vec<u8> {
    let mut m = Message::default();
    m.text(1, &v["swagger"]);
    let mut info = Message::default();
    info.text(1, &v["info"]["title"]);
    info.text(2, &v["info"]["version"]);
    m.message(2, info);
    let mut paths = Message::default();
    paths.named(2, &v["paths"], path_item);
    m.message(8, paths);
    let mut definitions = Message::default();
    definitions.named(1, &v["definitions"], schema);
    m.message(9, definitions);
    let mut parameters = Message::default();
    parameters.named(1, &v["parameters"], parameter);
    m.message(10, parameters);
    for requirement in v["security"].as_array().into_iter().flatten() {
        let mut r = Message::default();
        r.named(1, requirement, |_| Message::default());
        m.message(12, r);
    }
    let mut security = Message::default();
    security.named(1, &v["securityDefinitions"], |s| {
        let mut key = Message::default();
        key.text(1, &s["type"]);
        key.text(2, &s["name"]);
        key.text(3, &s["in"]);
        key.text(4, &s["description"]);
        let mut item = Message::default();
        item.message(2, key);
        item
    });
    m.message(13, security);
    m.0
}

fn path_item(v: &Value) -> Message {
    let mut m = Message::default();
    let methods = [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("options", 6),
        ("head", 7),
        ("patch", 8),
    ];
    for (method, field) in methods {
        if v[method].is_object() {
            m.message(field, operation(&v[method]));
        }
    }
    for p in v["parameters"].as_array().into_iter().flatten() {
        m.message(9, parameter_item(p));
    }
    m
}

fn operation(v: &Value) -> Message {
    let mut m = Message::default();
    m.texts(1, &v["tags"]);
    m.text(3, &v["description"]);
    m.text(5, &v["operationId"]);
    m.texts(6, &v["produces"]);
    m.texts(7, &v["consumes"]);
    for p in v["parameters"].as_array().into_iter().flatten() {
        m.message(8, parameter_item(p));
    }
    let mut responses = Message::default();
    responses.named(1, &v["responses"], |r| {
        let mut response = Message::default();
        response.text(1, &r["description"]);
        if r["schema"].is_object() {
            let mut item = Message::default();
            item.message(1, schema(&r["schema"]));
            response.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, response);
        value
    });
    m.message(9, responses);
    m.texts(10, &v["schemes"]);
    m.extensions(13, v);
    m
}

fn parameter_item(v: &Value) -> Message {
    let mut m = Message::default();
    if v["$ref"].is_string() {
        let mut reference = Message::default();
        reference.text(1, &v["$ref"]);
        m.message(2, reference);
    } else {
        m.message(1, parameter(v));
    }
    m
}

fn parameter(v: &Value) -> Message {
    let mut m = Message::default();
    let mut p = Message::default();
    if v["in"] == "body" {
        p.text(1, &v["description"]);
        p.text(2, &v["name"]);
        p.text(3, &v["in"]);
        p.flag(4, &v["required"]);
        p.message(5, schema(&v["schema"]));
        m.message(1, p);
        return m;
    }
    p.flag(1, &v["required"]);
    p.text(2, &v["in"]);
    p.text(3, &v["description"]);
    p.text(4, &v["name"]);
    // A query's parameter may also say that it may be empty, which moves the rest by one.
    let (kind, ty, unique) = if v["in"] == "query" { (3, 6, 20) } else { (4, 5, 19) };
    p.text(ty, &v["type"]);
    p.flag(unique, &v["uniqueItems"]);
    let mut of = Message::default();
    of.message(kind, p);
    m.message(2, of);
    m
}

fn schema(v: &Value) -> Message {
    let mut m = Message::default();
    m.text(1, &v["$ref"]);
    m.text(2, &v["format"]);
    m.text(3, &v["title"]);
    m.text(4, &v["description"]);
    m.number(6, &v["multipleOf"]);
    m.number(7, &v["maximum"]);
    m.flag(8, &v["exclusiveMaximum"]);
    m.number(9, &v["minimum"]);
    m.flag(10, &v["exclusiveMinimum"]);
    m.integer(11, &v["maxLength"]);
    m.integer(12, &v["minLength"]);
    m.text(13, &v["pattern"]);
    m.integer(14, &v["maxItems"]);
    m.integer(15, &v["minItems"]);
    m.flag(16, &v["uniqueItems"]);
    m.integer(17, &v["maxProperties"]);
    m.integer(18, &v["minProperties"]);
    m.texts(19, &v["required"]);
    for value in v["enum"].as_array().into_iter().flatten() {
        m.message(20, any(value));
    }
    match &v["additionalProperties"] {
        Value::Bool(b) => {
            let mut item = Message::default();
            // Of two choices the set one is written even if false.
            item.varint(2 << 3);
            item.varint(u64::from(*b));
            m.message(21, item);
        }
        o @ Value::Object(_) => {
            let mut item = Message::default();
            item.message(1, schema(o));
            m.message(21, item);
        }
        _ => {}
    }
    if v["type"].is_string() {
        let mut ty = Message::default();
        ty.text(1, &v["type"]);
        m.message(22, ty);
    }
    if v["items"].is_object() {
        let mut items = Message::default();
        items.message(1, schema(&v["items"]));
        m.message(23, items);
    }
    if v["properties"].is_object() {
        let mut properties = Message::default();
        properties.named(1, &v["properties"], schema);
        m.message(25, properties);
    }
    m.extensions(31, v);
    m
}
