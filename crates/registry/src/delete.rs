//! Deletion: preconditions, grace, finalizers and propagation.

use crate::{Registry, encoding, parse, read::ListOptions, strategy, write::commit_value};
use bytes::Bytes;
use coracle_meta::{GroupResource, Status, json as path, time};
use coracle_schema::Kind;
use coracle_store::{CommitError, Expect, Object, Write};
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::sync::Arc;

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector deletes them afterwards.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// `meta.v1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds until the object may be removed by force; only pods wait.
    pub grace_period_seconds: Option<i64>,
    /// Only delete the object with this UID.
    pub uid: Option<String>,
    /// Only delete the object at this resourceVersion.
    pub resource_version: Option<String>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// Do all but store.
    pub dry_run: bool,
    /// Only delete an object that cannot be read (KEP-3926). None of ours is so, which refuses it.
    pub unreadable: bool,
}

/// What a deletion did.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; as it last was.
    Gone(Bytes),
    /// The object waits for its grace period or its finalizers.
    Waiting(Bytes),
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

impl Registry {
    /// Deletes an object, or marks it for deletion.
    ///
    /// # Errors
    /// 404, 403 for namespaces that cannot be deleted, 409 when a precondition does not hold.
    pub async fn delete(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        o: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        if kind.group.is_empty()
            && kind.plural == "namespaces"
            && ["default", "kube-system", "kube-public"].contains(&name)
        {
            return Err(Status::forbidden(
                &kind.group_resource(),
                name,
                "this namespace may not be deleted",
            ));
        }
        loop {
            let stored = self.stored(kind, namespace, name)?;
            let old = parse(&stored)?;
            self.check_preconditions(kind, name, &old, o)?;
            let mut new = old.clone();
            let waits = self.mark(kind, &mut new, o);
            if o.dry_run {
                return Ok(if waits {
                    self.read_back(kind, std::slice::from_mut(&mut new))?;
                    Deleted::Waiting(encoding::bytes(&new)?)
                } else {
                    Deleted::Gone(self.present(kind, &stored)?)
                });
            }
            let result = if waits && new == old {
                return Ok(Deleted::Waiting(self.present(kind, &stored)?));
            } else if waits {
                commit_value(self, kind, &stored, new, namespace, name).await
            } else {
                self.remove(kind, &stored, namespace, name).await
            };
            match result {
                Ok(object) if waits => {
                    self.after_write(kind);
                    return Ok(Deleted::Waiting(self.present(kind, &object)?));
                }
                Ok(object) => {
                    let last = self.present(kind, &object)?;
                    self.after_write(kind);
                    return Ok(Deleted::Gone(last));
                }
                Err(CommitError::Conflict(None)) => {
                    return Err(Status::not_found(&kind.group_resource(), name));
                }
                Err(CommitError::Conflict(Some(_))) => {}
                Err(e) => return Err(Status::internal(e)),
            }
        }
    }

    async fn remove(
        &self,
        kind: &Kind,
        stored: &Object,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, CommitError> {
        let key = Self::key(kind, namespace, name);
        self.store
            .commit(Write { key, expect: Expect::Revision(stored.revision), object: None })
            .await
    }

    fn check_preconditions(
        &self,
        kind: &Kind,
        name: &str,
        old: &Value,
        o: &DeleteOptions,
    ) -> Result<(), Status> {
        let resource = kind.group_resource();
        if o.unreadable {
            let place = path::text(old, "metadata.namespace");
            let key = [&*resource.group, &*resource.resource, place, name];
            let key =
                key.iter().filter(|part| !part.is_empty()).fold(String::new(), |k, p| k + "/" + p);
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry{key}, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage"
            );
            return Err(Status::conflict(&resource, name, &why));
        }
        // Upstream names the kind here, and the resource everywhere else.
        let named = GroupResource::new(&*kind.group, &*kind.kind);
        let changed = ["deleted and then recreated", "modified"];
        for ((what, wanted, field), changed) in
            [("UID", &o.uid, "uid"), ("ResourceVersion", &o.resource_version, "resourceVersion")]
                .into_iter()
                .zip(changed)
        {
            let have = old["metadata"][field].as_str().unwrap_or_default();
            if let Some(w) = wanted.as_deref().filter(|w| *w != have) {
                let why = format!(
                    "the {what} in the precondition ({w}) does not match the {what} in record ({have}). The object might have been {changed}"
                );
                return Err(Status::conflict(&named, name, &why));
            }
        }
        Ok(())
    }

    /// Marks the object as being deleted. Returns whether it has to wait.
    fn mark(&self, kind: &Kind, v: &mut Value, o: &DeleteOptions) -> bool {
        let already = v["metadata"]["deletionTimestamp"].is_string();
        let mut finalizers: Vec<Value> =
            v["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !already || o.propagation.is_some() {
            let propagation = o.propagation.unwrap_or(if finalizers.iter().any(|f| f == ORPHAN) {
                Propagation::Orphan
            } else if finalizers.iter().any(|f| f == FOREGROUND) {
                Propagation::Foreground
            } else if kind.orphan_default {
                Propagation::Orphan
            } else {
                Propagation::Background
            });
            finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
            match propagation {
                Propagation::Background => {}
                Propagation::Foreground => finalizers.push(json!(FOREGROUND)),
                Propagation::Orphan => finalizers.push(json!(ORPHAN)),
            }
        }
        let grace = grace_seconds(kind, v, o);
        let namespace_content = kind.plural == "namespaces"
            && kind.group.is_empty()
            && v["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let waits = grace > 0 || !finalizers.is_empty() || namespace_content;
        if !waits {
            return false;
        }
        let now = self.now();
        let meta = &mut v["metadata"];
        super::write::set_or_remove(
            meta,
            "finalizers",
            if finalizers.is_empty() { Value::Null } else { Value::Array(finalizers) },
        );
        let shorter = meta["deletionGracePeriodSeconds"].as_i64().is_some_and(|g| grace < g);
        if !already || shorter {
            let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
            meta["deletionTimestamp"] = json!(time::rfc3339(end));
            meta["deletionGracePeriodSeconds"] = json!(grace);
            if kind.generation {
                let generation = meta["generation"].as_i64().unwrap_or(0) + 1;
                meta["generation"] = json!(generation);
            }
        }
        strategy::prepare_delete(self, kind, v);
        true
    }

    /// Deletes all objects that a list selects.
    ///
    /// # Errors
    /// As list and delete.
    pub async fn delete_collection(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        list: &ListOptions,
        o: &DeleteOptions,
    ) -> Result<Vec<Bytes>, Status> {
        let found = self.list(kind, namespace, list)?;
        let mut deleted = Vec::with_capacity(found.items.len());
        for object in found.items {
            let v = parse(&object)?;
            let (ns, name) =
                (path::text(&v, "metadata.namespace"), path::text(&v, "metadata.name"));
            match self.delete(kind, ns, name, o).await {
                Ok(_) => deleted.push(self.present(kind, &object)?),
                Err(s) if s.code == 404 => {}
                Err(s) => return Err(s),
            }
        }
        Ok(deleted)
    }
}

/// Only pods wait: for their containers to stop, unless nothing runs.
fn grace_seconds(kind: &Kind, v: &Value, o: &DeleteOptions) -> i64 {
    if kind.plural != "pods" || !kind.group.is_empty() {
        return 0;
    }
    let phase = path::text(v, "status.phase");
    if path::text(v, "spec.nodeName").is_empty() || ["Succeeded", "Failed"].contains(&phase) {
        return 0;
    }
    let wanted = o
        .grace_period_seconds
        .or(v["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30)
        .max(0);
    // A pod that is being deleted already can only be given less time.
    match v["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(given) if v["metadata"]["deletionTimestamp"].is_string() => wanted.min(given),
        _ => wanted,
    }
}
