//! What clients send: its structure is checked, and what no schema knows is found.

use crate::{Registry, write::WriteOptions};
use coracle_meta::{Status, status::FieldError};
use coracle_schema::{
    Kind,
    decode::{self, Form},
};
use serde_json::{Map, Value, json};

/// What happens to unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// An object from a client.
#[derive(Clone, Debug)]
pub struct Input {
    /// The object.
    pub value: Value,
    /// Paths of keys that it gave twice.
    pub duplicates: Vec<String>,
}

impl From<Value> for Input {
    fn from(value: Value) -> Self {
        Self { value, duplicates: vec![] }
    }
}

impl Registry {
    /// Structure: types, unknown and duplicate fields, quantities.
    pub(crate) fn decode(
        &self,
        kind: &Kind,
        input: Input,
        o: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Status> {
        let Input { mut value, duplicates } = input;
        if !value.is_object() {
            return Err(Status::bad_request(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct",
                decode::json_type(&value)
            )));
        }
        check_depth(&value)?;
        check_type_meta(kind, &mut value)?;
        let meta = std::mem::take(&mut value["metadata"]);
        let form = if kind.custom { Form::Custom } else { Form::BuiltIn };
        let report = decode::decode(kind.arena(), kind.root(), &mut value, form, true);
        let (meta, meta_report) = decode_metadata(self, kind, meta);
        value["metadata"] = meta;
        let errors: Vec<_> = meta_report.errors.iter().chain(&report.errors).collect();
        // Types of custom resources are validation's: it tells all faults together.
        let of_metadata = !meta_report.errors.is_empty();
        if !errors.is_empty() && (of_metadata || !kind.custom) {
            return Err(Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: {}",
                kind.kind,
                kind.version,
                kind.kind,
                decode::go_message(errors[0])
            )));
        }
        let unknown = meta_report
            .unknown
            .iter()
            .chain(&report.unknown)
            .map(|p| format!("unknown field {p:?}"));
        let twice = duplicates.iter().map(|p| format!("duplicate field {p:?}"));
        let found: Vec<String> = unknown.chain(twice).collect();
        match o.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => warnings.extend(found),
            FieldValidation::Strict if found.is_empty() => {}
            FieldValidation::Strict => {
                return Err(Status::bad_request(format!(
                    "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                    kind.kind,
                    kind.version,
                    kind.kind,
                    found.join(", ")
                )));
            }
        }
        Ok(value)
    }
}

/// Deepest nesting of an object. What is stored must be readable again, and JSON is read to 128.
const MAX_DEPTH: usize = 120;

/// Refuses what JSON cannot carry but protobuf and patches can make.
pub(crate) fn check_depth(v: &Value) -> Result<(), Status> {
    fn fits(v: &Value, left: usize) -> bool {
        let Some(left) = left.checked_sub(1) else { return false };
        match v {
            Value::Object(map) => map.values().all(|v| fits(v, left)),
            Value::Array(items) => items.iter().all(|v| fits(v, left)),
            _ => true,
        }
    }
    if fits(v, MAX_DEPTH) {
        return Ok(());
    }
    Err(Status::bad_request(format!("the object is nested more than {MAX_DEPTH} levels deep")))
}

/// The kind that an object says it is must be the one that the path names. Built-in kinds need not
/// say it.
pub(crate) fn check_type_meta(kind: &Kind, v: &mut Value) -> Result<(), Status> {
    let text = |f: &str| v[f].as_str().unwrap_or_default().to_owned();
    let (api_version, given) = (text("apiVersion"), text("kind"));
    let (wanted, silent) = (kind.api_version(), !kind.custom && api_version.is_empty());
    let group = |v: &str| v.rsplit_once('/').map_or(String::new(), |(g, _)| g.to_owned());
    let misread = |why: String| {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        Err(Status::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {}: {why}",
            kind.kind
        )))
    };
    if kind.custom && given.is_empty() {
        let body = v.to_string();
        let start: String = body.chars().take(22).collect();
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{body}' ({start} ...)",
            kind.kind
        )));
    }
    if api_version != wanted && !silent {
        if !kind.custom && group(&api_version) == group(&wanted) && kind.group.is_empty() {
            return misread(format!("no kind {given:?} is registered for version {api_version:?}"));
        }
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    if given != kind.kind && !given.is_empty() {
        if !kind.custom {
            let internal = match kind.group.split('.').next() {
                None | Some("") => "core",
                Some(g) => g,
            };
            return misread(format!(
                "converting ({}.{given}) to ({internal}.{}): unknown conversion",
                kind.version, kind.kind
            ));
        }
        let name = v["metadata"]["name"].as_str().unwrap_or_default();
        let why = format!("must be {}", kind.kind);
        let error = FieldError::invalid("kind", given.as_str(), why);
        return Err(Status::invalid(&kind.group, &given, name, vec![error]));
    }
    v["apiVersion"] = json!(wanted);
    v["kind"] = json!(kind.kind);
    Ok(())
}

/// Metadata always has the structure of ObjectMeta, for custom resources too.
pub(crate) fn decode_metadata(
    registry: &Registry,
    kind: &Kind,
    meta: Value,
) -> (Value, decode::Report) {
    let arena = &coracle_schema::pack::of(registry.minor()).arena;
    let mut value = if meta.is_null() { Value::Object(Map::new()) } else { meta };
    let Some(id) = arena.find("meta.v1.ObjectMeta") else {
        return (value, decode::Report::default());
    };
    let slot = coracle_schema::Slot::of(coracle_schema::Type::Object(id));
    let mut wrapped = json!({"metadata": value.take()});
    let mut report = decode::decode(arena, &slot, &mut wrapped["metadata"], Form::BuiltIn, false);
    for e in &mut report.errors {
        let within =
            |p: &str| if p.is_empty() { "metadata".into() } else { format!("metadata.{p}") };
        e.path = within(&e.path);
        // Upstream reads the metadata of custom kinds apart.
        if !kind.custom {
            if e.fields.is_empty() {
                e.owner.clone_from(&kind.kind);
            }
            e.fields = within(&e.fields);
        }
    }
    for p in &mut report.unknown {
        *p = format!("metadata.{p}");
    }
    (wrapped["metadata"].take(), report)
}

pub(crate) fn check_identity(
    kind: &Kind,
    namespace: &str,
    name: &str,
    v: &Value,
) -> Result<(), Status> {
    let given = v["metadata"]["name"].as_str().unwrap_or_default();
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let given = v["metadata"]["namespace"].as_str().unwrap_or_default();
    if kind.namespaced() && !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
