//! Who owns which fields: every write is followed, and server-side apply is decided by it. The rules
//! are [`coracle_patch::apply`]'s; here they meet versions and stored objects.

use crate::{
    Registry,
    input::{Input, check_depth, check_type_meta, decode_metadata},
    write::{Changed, FieldWriter, WriteOptions, Written},
};
use coracle_meta::{Status, status::Cause, time};
use coracle_patch::apply::{
    self, ApplyError, FieldSet, Managed, Typed, Versions, Writer, take_managed,
};
use coracle_schema::{
    Kind,
    decode::{self, Form, TypeError},
    pack,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Who owns what was there before anything was applied.
const BEFORE: &str = "before-first-apply";
/// How often an apply that found no object is tried against others that create it.
const RETRIES: usize = 8;

impl Registry {
    /// Calls with the views of a kind's objects at all its versions, and with who writes now.
    fn with_versions<R>(
        &self,
        kind: &Kind,
        writer: &FieldWriter,
        f: impl FnOnce(&Versions<'_>, &Writer<'_>) -> R,
    ) -> R {
        let table = self.kinds();
        let pack = pack::of(self.minor());
        let at = |api_version: &str| {
            let (group, version) = coracle_meta::gvk::split_api_version(api_version);
            table.get(group, version, &kind.plural).filter(|_| group == kind.group)
        };
        let between = |from: &Kind, to: &Kind, v: &Value| {
            let mut v = v.clone();
            self.for_storage(from, &mut v).ok()?;
            self.read_back(to, std::slice::from_mut(&mut v)).ok()?;
            Some(v)
        };
        let current = kind.api_version();
        let (reset, now) = (reset_fields(kind, &writer.subresource), time::rfc3339(self.now()));
        let who = Writer {
            manager: &writer.manager,
            subresource: &writer.subresource,
            reset: &reset,
            now: &now,
        };
        let versions = Versions {
            current: &current,
            typed: Typed::object(kind.arena(), kind.root(), pack),
            convert: &|v, version| {
                let to = at(version)?;
                Some((between(kind, to, v)?, Typed::object(to.arena(), to.root(), pack)))
            },
            convert_back: &|v, version| between(at(version)?, kind, v),
        };
        f(&versions, &who)
    }

    /// `managedFields` after a write from `old` (none for a create) to `new`, neither of which has
    /// them; `before` is what the old object had, `given` what the client sent.
    pub(crate) fn owners(
        &self,
        kind: &Kind,
        old: Option<&Value>,
        new: &Value,
        before: &Value,
        given: &Value,
        writer: &FieldWriter,
    ) -> Result<Value, Status> {
        let empty = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {}});
        let own = writer.subresource.is_empty() && given != before;
        if !own && old == Some(new) {
            return Ok(before.clone());
        }
        let stored = || Managed::read(before).unwrap_or_default();
        let managed = match given.as_array().filter(|_| own).map(Vec::as_slice) {
            // One empty entry asks to forget all owners.
            Some([e]) if e.as_object().is_some_and(|e| e.is_empty()) => Managed::default(),
            Some([_, ..]) => match Managed::read(given) {
                Ok(m) if !m.0.is_empty() => m,
                _ => stored(),
            },
            _ => stored(),
        };
        // Who has asked to forget all owners is followed again from the next apply on.
        if managed.0.is_empty() && old.is_some() {
            return Ok(Value::Null);
        }
        let updated = self.with_versions(kind, writer, |versions, who| {
            apply::update(versions, old.unwrap_or(&empty), new, managed, who)
        });
        // An object whose parts cannot be told apart is for validation to refuse.
        Ok(updated.map_or_else(|_| before.clone(), |m| m.write()))
    }

    /// Server-side apply of a configuration, to an object or to its status.
    ///
    /// # Errors
    /// As patch, and 409 with a cause for each field that somebody else owns.
    pub async fn apply(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        config: Input,
        force: bool,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        let Some(writer) = &o.writer else {
            return Err(Status::internal("an apply without a manager"));
        };
        let config = self.configuration(kind, namespace, name, config.value)?;
        for _ in 0..RETRIES {
            let exists = self.store().get(&Self::key(kind, namespace, name)).is_some();
            if exists || !writer.subresource.is_empty() {
                let change = |old: &Value, _: &mut Vec<String>| {
                    let mut live = old.clone();
                    let before = take_managed(&mut live);
                    self.applied(kind, &live, &before, &config, writer, force)
                };
                let subresource = &writer.subresource;
                return self.modify(kind, namespace, name, subresource, o, vec![], change).await;
            }
            if ["uid", "resourceVersion"].iter().any(|f| !config["metadata"][*f].is_null()) {
                return Err(Status::not_found(&kind.group_resource(), name));
            }
            let live = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {}});
            let new = self.applied(kind, &live, &Value::Null, &config, writer, force)?;
            let input = Input::from(new.value);
            match self.create_as(kind, namespace, Some(name), input, o, new.managed).await {
                Err(s) if s.reason == "AlreadyExists" => {}
                other => return other,
            }
        }
        Err(Status::already_exists(&kind.group_resource(), name))
    }

    fn applied(
        &self,
        kind: &Kind,
        live: &Value,
        before: &Value,
        config: &Value,
        writer: &FieldWriter,
        force: bool,
    ) -> Result<Changed, Status> {
        let managed = Managed::read(before)
            .map_err(|e| Status::internal(format!("failed to decode managed fields: {e}")))?;
        let applied = self.with_versions(kind, writer, |versions, who| {
            let managed = if managed.0.is_empty() && live["metadata"]["uid"].is_string() {
                // What is there belongs to somebody, or the first apply would own it all.
                let before = Writer { manager: BEFORE, subresource: "", ..*who };
                let empty =
                    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {}});
                apply::update(versions, &empty, live, Managed::default(), &before)?
            } else {
                managed
            };
            apply::apply(versions, live, config, &managed, who, force)
        });
        match applied {
            Ok((value, managed)) => Ok(Changed { value, managed: Some(managed.write()) }),
            Err(ApplyError::Conflicts(conflicts)) => {
                let mut s = Status::new(
                    409,
                    "Conflict",
                    ApplyError::Conflicts(conflicts.clone()).to_string(),
                );
                s.causes = apply::causes(&conflicts)
                    .into_iter()
                    .map(|(message, field)| Cause {
                        reason: "FieldManagerConflict",
                        message,
                        field,
                    })
                    .collect();
                Err(s)
            }
            Err(e @ ApplyError::Malformed(_)) => Err(untyped(kind, config, &e.to_string())),
        }
    }

    /// A configuration in the form that stored objects have.
    fn configuration(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut v: Value,
    ) -> Result<Value, Status> {
        if !v.is_object() {
            return Err(Status::bad_request("the configuration to apply must be an object"));
        }
        for f in ["apiVersion", "kind"] {
            if v[f].as_str().unwrap_or_default().is_empty() {
                return Err(Status::bad_request(format!("{f} must be set in an apply patch")));
            }
        }
        check_depth(&v)?;
        check_type_meta(kind, &mut v)?;
        if !v["metadata"]["managedFields"].is_null() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let meta = v["metadata"].take();
        let form = if kind.custom { Form::Custom } else { Form::BuiltIn };
        let report = decode::decode(kind.arena(), kind.root(), &mut v, form, true);
        let (meta, meta_report) = decode_metadata(self, kind, meta);
        v["metadata"] = meta;
        if let Some(e) = meta_report.errors.iter().chain(&report.errors).next() {
            return Err(untyped(kind, &v, &expected(e)));
        }
        let unknown: Vec<String> = meta_report
            .unknown
            .iter()
            .chain(&report.unknown)
            .map(|p| format!(".{p}: field not declared in schema"))
            .collect();
        if !unknown.is_empty() {
            return Err(untyped(kind, &v, &unknown.join("\n")));
        }
        let given = v["metadata"]["name"].as_str().unwrap_or_default();
        if given.is_empty() {
            v["metadata"]["name"] = json!(name);
        } else if given != name {
            return Err(Status::bad_request(format!(
                "name in the apply patch ({given}) does not match the name on the URL ({name})"
            )));
        }
        let given = v["metadata"]["namespace"].as_str().unwrap_or_default();
        if kind.namespaced() && !given.is_empty() && given != namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(v)
    }
}

/// Fields that a write through a (sub)resource cannot set.
fn reset_fields(kind: &Kind, subresource: &str) -> FieldSet {
    match subresource {
        "" if kind.has_status() => FieldSet::of_fields(&["status"]),
        "status" if kind.custom => FieldSet::of_fields(&["spec", "metadata"]),
        "status" => FieldSet::of_fields(&["spec"]),
        _ => FieldSet::default(),
    }
}

/// Upstream's error for a configuration that is not of its kind's structure.
fn untyped(kind: &Kind, v: &Value, why: &str) -> Status {
    let text = |f: &str| v["metadata"][f].as_str().unwrap_or_default();
    Status::new(
        500,
        "",
        format!(
            "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {why}",
            text("namespace"),
            text("name"),
            kind.group,
            kind.version,
            kind.kind
        ),
    )
}

fn expected(e: &TypeError) -> String {
    let wanted = match e.expected {
        "int32" | "int64" | "float64" => "numeric (int or float)",
        "bool" => "boolean",
        "array" => "list",
        "object" => "map",
        other => other,
    };
    match &e.detail {
        Some(d) => format!(".{}: {d}", e.path),
        None => format!(".{}: expected {wanted}, got {}", e.path, e.found),
    }
}
