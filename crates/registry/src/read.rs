//! Get, list and watch.

use crate::{
    Registry, convert, encoding,
    page::{Place, Token},
    parse, table,
};
use bytes::Bytes;
use coracle_meta::{FieldSelector, LabelSelector, Status};
use coracle_schema::Kind;
use coracle_store::{EventKind, Header, Object, RevisionError, object::Name};
use serde_json::Value;
use std::sync::Arc;

/// How `resourceVersion` is meant (`resourceVersionMatch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// At exactly this revision.
    Exact,
    /// At this revision or any newer.
    NotOlderThan,
}

/// Options of list and watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Only objects with these labels.
    pub labels: LabelSelector,
    /// Only objects with these fields.
    pub fields: FieldSelector,
    /// Most items of a page.
    pub limit: Option<usize>,
    /// Where to go on.
    pub continue_token: Option<String>,
    /// Revision, if one was asked for; 0 means any.
    pub revision: Option<u64>,
    /// What the revision means.
    pub revision_match: Option<Match>,
}

/// A page of a list.
#[derive(Debug)]
pub struct List {
    /// The revision of all pages.
    pub revision: u64,
    /// Objects in order.
    pub items: Vec<Arc<Object>>,
    /// Token of the next page, if there is one.
    pub continue_token: Option<String>,
    /// How many items follow, where that is known.
    pub remaining: Option<usize>,
}

/// Tells which objects a list or watch shows.
#[derive(Clone, Debug)]
pub struct Filter {
    kind: Arc<Kind>,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    fn matches(&self, name: &Name, object: &Object) -> bool {
        if self.namespace.as_deref().is_some_and(|ns| ns != &*name.namespace) {
            return false;
        }
        if self.labels.is_empty() && self.fields.is_empty() {
            return true;
        }
        let header = object.header(|bytes| read_header(&self.kind, bytes));
        self.labels.requirements.iter().all(|r| r.matches_value(header.label(&r.key)))
            && self.fields.matches(|f| match f {
                "metadata.name" => (&*name.name).into(),
                "metadata.namespace" => (&*name.namespace).into(),
                f => header.field(f).into(),
            })
    }

    /// What an event means to somebody who sees only matching objects.
    pub fn event(&self, event: &coracle_store::Event) -> Option<(EventKind, Arc<Object>)> {
        let before = event.previous.as_deref().is_some_and(|o| self.matches(&event.name, o));
        let now = event.kind != EventKind::Deleted && self.matches(&event.name, &event.object);
        match (before, now) {
            (false, true) => Some((EventKind::Added, event.object.clone())),
            (true, true) => Some((EventKind::Modified, event.object.clone())),
            (true, false) if event.kind == EventKind::Deleted => {
                Some((EventKind::Deleted, event.object.clone()))
            }
            // It left the selection: shown as it last was, at the revision of the change.
            (true, false) => {
                let last = event.previous.as_deref()?.at_revision(event.revision);
                Some((EventKind::Deleted, Arc::new(last)))
            }
            (false, false) => None,
        }
    }
}

/// A watch with its selection.
#[derive(Debug)]
pub struct Watching {
    /// The cursor.
    pub watch: coracle_store::Watch,
    /// The selection.
    pub filter: Filter,
    /// Objects to show as ADDED first, and the revision that they stand at.
    pub initial: Option<List>,
}

fn read_header(kind: &Kind, bytes: &[u8]) -> Header {
    serde_json::from_slice::<Value>(bytes).map(|v| table::header(kind, &v)).unwrap_or_default()
}

impl Registry {
    /// An object's bytes at the version of a kind.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Bytes, Status> {
        self.present(kind, &*self.stored(kind, namespace, name)?)
    }

    /// A stored object's bytes at the version of a kind.
    ///
    /// # Errors
    /// 500 when the stored object cannot be read.
    pub fn present(&self, kind: &Kind, object: &Object) -> Result<Bytes, Status> {
        if convert::is_fresh(kind, object) {
            return Ok(object.bytes.clone());
        }
        let mut v = parse(object)?;
        self.read_back(kind, std::slice::from_mut(&mut v))?;
        encoding::bytes(&v)
    }

    fn filter(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        o: &ListOptions,
    ) -> Result<Filter, Status> {
        for t in &o.fields.terms {
            let known = ["metadata.name", "metadata.namespace"].contains(&t.field.as_str());
            if !known && !kind.selectable_fields.contains(&t.field) {
                return Err(Status::bad_request(unknown_field(kind, &t.field)));
            }
        }
        Ok(Filter {
            kind: kind.clone(),
            namespace: namespace.map(str::to_owned),
            labels: o.labels.clone(),
            fields: o.fields.clone(),
        })
    }

    /// A page of objects, all at one revision.
    ///
    /// # Errors
    /// 400 for options that contradict each other, 410 for compacted revisions, 504 for revisions
    /// of the future.
    pub fn list(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        o: &ListOptions,
    ) -> Result<List, Status> {
        let filter = self.filter(kind, namespace, o)?;
        let resource = table::storage_resource(kind);
        let place = Place::of(kind.namespaced(), namespace);
        let token = match &o.continue_token {
            Some(text) => Some(Token::decode(text, place)?),
            None => None,
        };
        let revision = self.list_revision(o, token.as_ref())?;
        let snapshot = match revision {
            Some(r) => self
                .store
                .snapshot_at(&resource, r)
                .map_err(|e| self.gone(e, r, place, token.as_ref()))?,
            None => self.store.snapshot(&resource),
        };
        let after = token.as_ref().map(|t| &t.after);
        let limit = o.limit.filter(|l| *l > 0).unwrap_or(usize::MAX);
        // A name names at most one object a namespace.
        if let (Some(name), Some(ns)) =
            (o.fields.required("metadata.name"), namespace.or((!kind.namespaced()).then_some("")))
        {
            let name = Name { namespace: ns.into(), name: name.into() };
            let found = snapshot.get(&name).filter(|obj| filter.matches(&name, obj)).cloned();
            return Ok(List {
                revision: snapshot.revision,
                items: found.into_iter().collect(),
                continue_token: None,
                remaining: None,
            });
        }
        let mut items = Vec::new();
        let mut last: Option<&Name> = None;
        let mut more = snapshot.iter(namespace, after).filter(|(n, obj)| filter.matches(n, obj));
        for (name, object) in more.by_ref().take(limit) {
            items.push(object.clone());
            last = Some(name);
        }
        let selects = !o.labels.is_empty() || !o.fields.is_empty();
        let remaining = if limit == usize::MAX { 0 } else { more.count() };
        let continue_token = (remaining > 0)
            .then_some(last)
            .flatten()
            .map(|n| Token { revision: Some(snapshot.revision), after: n.clone() }.encode(place));
        let remaining = (continue_token.is_some() && !selects).then_some(remaining);
        Ok(List { revision: snapshot.revision, items, continue_token, remaining })
    }

    /// The exact revision to list at, or `None` for the newest.
    fn list_revision(&self, o: &ListOptions, token: Option<&Token>) -> Result<Option<u64>, Status> {
        if let Some(t) = token {
            if o.revision.is_some_and(|r| r != 0) || o.revision_match.is_some() {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            return Ok(t.revision);
        }
        match (o.revision, o.revision_match) {
            (None, Some(_)) => Err(Status::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            (Some(0), Some(Match::Exact)) => Err(Status::bad_request(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            )),
            (Some(r), Some(Match::Exact)) => Ok(Some(r)),
            (Some(r), None) if r > 0 && o.limit.is_some_and(|l| l > 0) => Ok(Some(r)),
            (Some(r), _) if r > self.store.revision() => {
                Err(Status::future_revision(r, self.store.revision()))
            }
            _ => Ok(None),
        }
    }

    fn gone(&self, e: RevisionError, wanted: u64, place: Place, token: Option<&Token>) -> Status {
        match e {
            RevisionError::Future(current) => Status::future_revision(wanted, current),
            RevisionError::Compacted(_) => {
                let Some(t) = token else {
                    return Status::expired(
                        "The resourceVersion for the provided list is too old.",
                    );
                };
                let mut s = Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                );
                s.continue_token =
                    Some(Token { revision: None, after: t.after.clone() }.encode(place).into());
                s
            }
        }
    }

    /// A watch from a revision. Without one (or from 0) the objects of now come first, as ADDED.
    ///
    /// # Errors
    /// 400 for a bad selector, 410 for compacted revisions.
    pub fn watch(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        o: &ListOptions,
        initial: bool,
    ) -> Result<Watching, Status> {
        let filter = self.filter(kind, namespace, o)?;
        let resource = table::storage_resource(kind);
        let fresh = initial || o.revision.is_none_or(|r| r == 0);
        let (initial, after) = if fresh {
            let now = ListOptions {
                labels: o.labels.clone(),
                fields: o.fields.clone(),
                ..ListOptions::default()
            };
            let list = self.list(kind, namespace, &now)?;
            let revision = list.revision;
            (Some(list), revision)
        } else {
            (None, o.revision.unwrap_or(0))
        };
        let watch = self.store.watch(&resource, after).map_err(|e| match e {
            RevisionError::Compacted(oldest) => too_old(after, oldest),
            RevisionError::Future(current) => Status::future_revision(after, current),
        })?;
        Ok(Watching { watch, filter, initial })
    }
}

/// What upstream says of a field that cannot be selected by: kinds with selectable fields of their
/// own have their own words for it.
fn unknown_field(kind: &Kind, field: &str) -> String {
    if kind.custom || !kind.selectable_fields.is_empty() {
        return format!("field label not supported: {field}");
    }
    format!(
        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    )
}

/// The 410 of a watch.
pub fn too_old(wanted: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {wanted} ({oldest})"))
}
