//! Create, update and patch: one pipeline for every kind.
//!
//! decode, prepare (names, fields that the server owns, computed rules), default, admit, validate,
//! store. A patch runs the pipeline of an update on fresh state until the store accepts it.

pub use crate::input::{FieldValidation, Input};
use crate::{
    Registry, admission, convert, encoding, input::check_identity, parse, strategy, table,
    validation,
};
use bytes::Bytes;
use coracle_meta::{
    Status,
    status::{FieldError, FieldErrorKind},
    time,
};
use coracle_patch::{PatchError, apply::take_managed};
use coracle_schema::{Kind, crd, defaults, pack, validate};
use coracle_store::{CommitError, Encoded, Expect, Object, Write};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How often a write without a resourceVersion is tried against concurrent writers.
const RETRIES: usize = 64;
/// How often a generated name that is taken is drawn anew, as upstream.
const NAME_RETRIES: usize = 8;
/// Longest base of a generated name.
const NAME_BASE: usize = 58;

/// Options of every write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do all but store.
    pub dry_run: bool,
    /// What happens to unknown fields.
    pub field_validation: FieldValidation,
    /// Whose fields are written; `None` leaves the owners as they are (the server's own writes).
    pub writer: Option<FieldWriter>,
}

/// Who writes fields, and through what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldWriter {
    /// The field manager.
    pub manager: String,
    /// The subresource, or empty.
    pub subresource: String,
}

/// What a change makes of an object.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The object.
    pub(crate) value: Value,
    /// Its `managedFields`, where the change decided them itself.
    pub(crate) managed: Option<Value>,
}

impl From<Value> for Changed {
    fn from(value: Value) -> Self {
        Self { value, managed: None }
    }
}

/// A finished write.
#[derive(Debug)]
pub struct Written {
    /// The object as stored (or as it would be), at the version of the request.
    pub bytes: Bytes,
    /// Warnings for the client.
    pub warnings: Vec<String>,
    /// Whether the object is new.
    pub created: bool,
}

/// A patch and how to read it.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own.
    Strategic(Value),
}

impl Registry {
    /// Creates an object.
    ///
    /// # Errors
    /// 400 for what cannot be decoded, 403 from admission, 409 for a taken name, 422 for what is
    /// not valid.
    pub async fn create(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: Option<&str>,
        input: Input,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        self.create_as(kind, namespace, name, input, o, None).await
    }

    /// Creates an object whose `managedFields` may be known already.
    pub(crate) async fn create_as(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: Option<&str>,
        input: Input,
        o: &WriteOptions,
        managed: Option<Value>,
    ) -> Result<Written, Status> {
        let mut warnings = Vec::new();
        let mut base = self.decode(kind, input, o, &mut warnings)?;
        let given = take_managed(&mut base);
        let managed = match (managed, &o.writer) {
            (Some(managed), _) => managed,
            (None, Some(writer)) if kind.stored() => {
                let mut declared = base.clone();
                defaults::apply(kind.arena(), kind.root(), &mut declared);
                self.owners(kind, None, &declared, &Value::Null, &given, writer)?
            }
            _ => Value::Null,
        };
        for attempt in 0.. {
            let mut v = base.clone();
            self.prepare_metadata(kind, namespace, name, &mut v)?;
            strategy::prepare_create(self, kind, &mut v)?;
            defaults::apply(kind.arena(), kind.root(), &mut v);
            admission::create(self, kind, namespace, &mut v)?;
            strategy::after_defaults(kind, &mut v);
            set_or_remove(&mut v["metadata"], "managedFields", managed.clone());
            let errors = self.check(kind, &v, None, "", &mut warnings);
            let object_name = v["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if !errors.is_empty() {
                return Err(Status::invalid(&kind.group, &kind.kind, &object_name, errors));
            }
            validation::warn(kind, &v, &mut warnings);
            let generated = base["metadata"]["name"].is_null() && name.is_none();
            let key = Self::key(kind, namespace, &object_name);
            let exists = || Status::already_exists(&kind.group_resource(), &object_name);
            let outcome = if o.dry_run {
                match self.store.get(&key) {
                    Some(_) => Err(exists()),
                    None => self.unstored(kind, v).map(|bytes| Written {
                        bytes,
                        warnings: warnings.clone(),
                        created: true,
                    }),
                }
            } else {
                let write =
                    Write { key, expect: Expect::Absent, object: Some(self.encode(kind, v)?) };
                match self.store.commit(write).await {
                    Ok(object) => {
                        self.after_write(kind);
                        let bytes = self.present(kind, &object)?;
                        Ok(Written { bytes, warnings: warnings.clone(), created: true })
                    }
                    Err(CommitError::Conflict(_)) => Err(exists()),
                    Err(e) => Err(Status::internal(e)),
                }
            };
            match outcome {
                Err(s) if s.reason == "AlreadyExists" && generated && attempt < NAME_RETRIES => {}
                outcome => return outcome,
            }
        }
        Err(Status::internal("no free name was found"))
    }

    /// Replaces an object, or its status when `subresource` says so.
    ///
    /// # Errors
    /// As create, and 404, and 409 for a stale resourceVersion.
    pub async fn update(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        subresource: &str,
        input: Input,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        let mut warnings = Vec::new();
        let new = self.decode(kind, input, o, &mut warnings)?;
        check_identity(kind, namespace, name, &new)?;
        let stored = self.store.get(&Self::key(kind, namespace, name));
        if stored.is_none() && kind.plural == "leases" && subresource.is_empty() {
            return self.create(kind, namespace, Some(name), Input::from(new), o).await;
        }
        self.modify(kind, namespace, name, subresource, o, warnings, |_, _| Ok(new.clone().into()))
            .await
    }

    /// Patches an object, or its status when `subresource` says so.
    ///
    /// # Errors
    /// As update, and 400 or 422 for a patch that is malformed or does not apply.
    pub async fn patch(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
        duplicates: &[String],
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        if let (Patch::Strategic(_), true) = (patch, kind.custom) {
            return Err(Status::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        self.modify(kind, namespace, name, subresource, o, vec![], |old, warnings| {
            let v = self.patched(kind, name, old, patch, duplicates, o, warnings)?;
            check_identity(kind, namespace, name, &v)?;
            Ok(v.into())
        })
        .await
    }

    /// An object with a patch applied, decoded.
    pub(crate) fn patched(
        &self,
        kind: &Kind,
        name: &str,
        old: &Value,
        patch: &Patch,
        duplicates: &[String],
        o: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Status> {
        let mut value = old.clone();
        apply_patch(kind, &mut value, patch).map_err(|e| patch_status(kind, name, e))?;
        self.decode(kind, Input { value, duplicates: duplicates.to_vec() }, o, warnings)
    }

    /// Reads, changes, and writes an object until no other writer comes between.
    pub(crate) async fn modify(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        subresource: &str,
        o: &WriteOptions,
        warnings: Vec<String>,
        change: impl Fn(&Value, &mut Vec<String>) -> Result<Changed, Status>,
    ) -> Result<Written, Status> {
        for _ in 0..RETRIES {
            let mut warnings = warnings.clone();
            let stored = self.stored(kind, namespace, name)?;
            let mut old = parse(&stored)?;
            let at_storage_version = old["apiVersion"] == convert::stored_api_version(kind);
            self.read_back(kind, std::slice::from_mut(&mut old))?;
            let Changed { value: mut new, managed } = change(&old, &mut warnings)?;
            let before = take_managed(&mut old);
            let given_owners = take_managed(&mut new);
            let given = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let unconditional = given.is_empty() || given == "0";
            if unconditional
                && ["", "status"].contains(&subresource)
                && !strategy::allows_unconditional_update(kind)
            {
                let why = "must be specified for an update";
                let error = FieldError::invalid("metadata.resourceVersion", 0, why);
                return Err(Status::invalid(&kind.group, &kind.kind, name, vec![error]));
            }
            if !unconditional && given != stored.revision.to_string() {
                return Err(Status::modified(&kind.group_resource(), name));
            }
            if let Some(uid) =
                new["metadata"]["uid"].as_str().filter(|u| old["metadata"]["uid"] != *u)
            {
                let why = format!(
                    "StorageError: invalid object, Code: 4, Key: /{}/{namespace}/{name}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    kind.plural,
                    old["metadata"]["uid"].as_str().unwrap_or_default()
                );
                return Err(Status::conflict(&kind.group_resource(), name, &why));
            }
            keep_server_fields(kind, subresource, &old, &mut new);
            defaults::apply(kind.arena(), kind.root(), &mut new);
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            let managed = match (managed, &o.writer) {
                (Some(managed), _) => managed,
                (None, Some(writer)) => {
                    self.owners(kind, Some(&old), &new, &before, &given_owners, writer)?
                }
                (None, None) => before.clone(),
            };
            admission::update(self, kind, subresource, &old, &mut new);
            strategy::prepare_update(self, kind, subresource, &old, &mut new)?;
            defaults::apply(kind.arena(), kind.root(), &mut new);
            strategy::after_defaults(kind, &mut new);
            bump_generation(kind, &old, &mut new);
            if new == old && managed == before && at_storage_version {
                return Ok(Written {
                    bytes: self.present(kind, &stored)?,
                    warnings,
                    created: false,
                });
            }
            set_or_remove(&mut new["metadata"], "managedFields", managed);
            let errors = self.check(kind, &new, Some(&old), subresource, &mut warnings);
            if !errors.is_empty() {
                return Err(Status::invalid(&kind.group, &kind.kind, name, errors));
            }
            if o.dry_run {
                return Ok(Written { bytes: encoding::bytes(&new)?, warnings, created: false });
            }
            // Who takes the last finalizer away gets the object as it would be: nothing is stored.
            let finished = strategy::is_finished(kind, &new);
            let write = Write {
                key: Self::key(kind, namespace, name),
                expect: Expect::Revision(stored.revision),
                object: if finished { None } else { Some(self.encode(kind, new.clone())?) },
            };
            match self.store.commit(write).await {
                Ok(object) => {
                    self.after_write(kind);
                    let bytes = if finished {
                        new["metadata"]["resourceVersion"] = json!(object.revision.to_string());
                        encoding::bytes(&new)?
                    } else {
                        self.present(kind, &object)?
                    };
                    return Ok(Written { bytes, warnings, created: false });
                }
                Err(CommitError::Conflict(None)) => {
                    return Err(Status::not_found(&kind.group_resource(), name));
                }
                // Read again: a resourceVersion that the client gave will no longer match then.
                Err(CommitError::Conflict(Some(_))) => {}
                Err(e) => return Err(Status::internal(e)),
            }
        }
        Err(Status::modified(&kind.group_resource(), name))
    }

    /// Names and everything in metadata that only the server sets.
    fn prepare_metadata(
        &self,
        kind: &Kind,
        namespace: &str,
        name: Option<&str>,
        v: &mut Value,
    ) -> Result<(), Status> {
        let given_namespace = v["metadata"]["namespace"].as_str().unwrap_or_default();
        if kind.namespaced() && !given_namespace.is_empty() && given_namespace != namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if !v["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            return Err(Status::new(
                400,
                "BadRequest",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let now = time::rfc3339(self.now());
        let Some(meta) = v["metadata"].as_object_mut() else {
            return Err(Status::internal("no metadata"));
        };
        if let Some(name) = name {
            meta.insert("name".into(), json!(name));
        }
        let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let has_name = meta.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        if !has_name && !base.is_empty() {
            let cut = base.char_indices().nth(NAME_BASE).map_or(base.len(), |(i, _)| i);
            meta.insert("name".into(), json!(format!("{}{}", &base[..cut], random_suffix())));
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            meta.remove(field);
        }
        if kind.namespaced() {
            meta.insert("namespace".into(), json!(namespace));
        } else {
            meta.remove("namespace");
        }
        meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
        meta.insert("creationTimestamp".into(), json!(now));
        meta.remove("generation");
        if kind.generation {
            meta.insert("generation".into(), json!(1));
        }
        if kind.has_status() && kind.custom {
            if let Some(map) = v.as_object_mut() {
                map.remove("status");
            }
        }
        Ok(())
    }

    /// All validation of an object about to be stored.
    fn check(
        &self,
        kind: &Kind,
        v: &Value,
        old: Option<&Value>,
        subresource: &str,
        warnings: &mut Vec<String>,
    ) -> Vec<FieldError> {
        let mut errors = validation::metadata(kind, v, old);
        if kind.custom {
            errors.extend(custom_faults(kind, v, old, warnings));
        } else {
            let pack = pack::of(self.minor());
            errors.extend(validation::rules(pack, kind, v, old, subresource));
        }
        errors
    }

    /// What upstream refuses about a review: an object that is answered and never stored.
    pub fn review_faults(&self, kind: &Kind, v: &Value) -> Vec<FieldError> {
        validation::review(pack::of(self.minor()), kind, v)
    }

    /// The bytes to store, with an empty resourceVersion.
    pub(crate) fn encode(&self, kind: &Kind, mut v: Value) -> Result<Encoded, Status> {
        self.for_storage(kind, &mut v)?;
        v["metadata"]["resourceVersion"] = json!("");
        let header = table::header(kind, &v);
        let expires = kind
            .ttl_seconds
            .map_or(0, |ttl| u64::try_from(self.now().as_second()).unwrap_or(0) + u64::from(ttl));
        let (bytes, at) = encoding::with_revision_place(&v)?;
        Encoded::new(bytes, at, header, expires)
            .ok_or_else(|| Status::internal("the object has no metadata"))
    }

    fn unstored(&self, kind: &Kind, mut v: Value) -> Result<Bytes, Status> {
        self.for_storage(kind, &mut v)?;
        self.read_back(kind, std::slice::from_mut(&mut v))?;
        encoding::bytes(&v)
    }

    pub(crate) fn after_write(&self, kind: &Kind) {
        if kind.plural == "customresourcedefinitions" {
            self.reload_custom_kinds();
        }
    }
}

/// What the schema of a custom kind and its rules say of an object.
fn custom_faults(
    kind: &Kind,
    v: &Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Vec<FieldError> {
    let mut errors = match old {
        Some(old) => validate::validate_update(kind.arena(), kind.root(), v, old),
        None => validate::validate(kind.arena(), kind.root(), v, ""),
    };
    let blind = |e: &FieldError| {
        use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        matches!(e.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
    };
    if !kind.arena().has_rules() {
        return errors;
    }
    if errors.iter().any(blind) {
        errors.push(crd::rules::skipped());
        return errors;
    }
    let verdict = crd::rules::evaluate(kind.arena(), kind.root(), v, old);
    warnings.extend(verdict.warnings);
    errors.extend(verdict.errors);
    errors
}

fn random_suffix() -> String {
    // Upstream's alphabet: no vowels and no look-alikes.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    uuid::Uuid::new_v4().as_bytes()[..5]
        .iter()
        .map(|b| LETTERS[*b as usize % LETTERS.len()] as char)
        .collect()
}

/// Fields that a client cannot change, and the parts that this (sub)resource does not own.
fn keep_server_fields(kind: &Kind, subresource: &str, old: &Value, new: &mut Value) {
    if subresource == "status" {
        let status = new["status"].take();
        let given = new["metadata"].take();
        *new = old.clone();
        match status {
            Value::Null => drop(new.as_object_mut().map(|m| m.remove("status"))),
            s => new["status"] = s,
        }
        if !kind.custom {
            // Built-in kinds let a status writer change labels, annotations and finalizers.
            for f in ["labels", "annotations", "finalizers"] {
                set_or_remove(&mut new["metadata"], f, given[f].clone());
            }
        }
    } else if kind.has_status() && subresource.is_empty() {
        set_or_remove(new, "status", old["status"].clone());
    }
    for f in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "namespace",
    ] {
        set_or_remove(&mut new["metadata"], f, old["metadata"][f].clone());
    }
    set_or_remove(&mut new["metadata"], "selfLink", Value::Null);
}

/// Sets a field, or removes it when the value is null.
pub(crate) fn set_or_remove(v: &mut Value, field: &str, value: Value) {
    let Some(map) = v.as_object_mut() else { return };
    match value {
        Value::Null => drop(map.remove(field)),
        value => drop(map.insert(field.into(), value)),
    }
}

fn bump_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.generation {
        return;
    }
    let relevant = |v: &Value| -> Map<String, Value> {
        let map = v.as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(k, _)| !["metadata", "status", "apiVersion", "kind"].contains(&k.as_str()))
            .collect()
    };
    if relevant(old) != relevant(new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = json!(generation);
    }
}

fn apply_patch(kind: &Kind, v: &mut Value, patch: &Patch) -> Result<(), PatchError> {
    match patch {
        Patch::Json(p) => coracle_patch::json_patch::apply(v, p),
        Patch::Merge(p) if p.is_object() => {
            coracle_patch::merge::apply(v, p.clone());
            Ok(())
        }
        Patch::Merge(_) => Err(PatchError::Malformed("a merge patch must be an object".into())),
        Patch::Strategic(p) => {
            coracle_patch::strategic::apply(kind.arena(), kind.root(), v, p.clone())
        }
    }
}

fn patch_status(kind: &Kind, name: &str, e: PatchError) -> Status {
    match e {
        PatchError::Malformed(m) => Status::bad_request(format!("error decoding patch: {m}")),
        PatchError::TooLarge(m) => Status::new(413, "RequestEntityTooLarge", m),
        PatchError::DoesNotApply(m) => {
            let mut s = Status::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {m}"),
            );
            s.details = Some(Box::new((kind.group.clone(), kind.plural.clone(), name.into())));
            s
        }
    }
}

/// A plain write of a stored object by the server itself.
pub(crate) async fn commit_value(
    registry: &Registry,
    kind: &Kind,
    stored: &Object,
    v: Value,
    namespace: &str,
    name: &str,
) -> Result<Arc<Object>, CommitError> {
    let object = registry.encode(kind, v).map_err(|s| CommitError::Engine(s.message))?;
    let key = Registry::key(kind, namespace, name);
    registry
        .store
        .commit(Write { key, expect: Expect::Revision(stored.revision), object: Some(object) })
        .await
}
