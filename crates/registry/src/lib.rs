//! REST semantics of the Kubernetes API, written once for every kind.
//!
//! A [`Registry`] is one cluster's API without HTTP: [`read`] has get, list and watch, [`write`]
//! create, update and patch, [`delete`] deletion with grace, finalizers and propagation,
//! [`subresource`] scale, binding, eviction and their like. What differs by kind is looked up in
//! the [`table`]; the few computed rules stand in `strategy`, `admission` and `validation`, each a
//! table from resource to function.
//!
//! It never sees HTTP, users or TLS, and reads no clock but the one it is given. Start with
//! [`Registry`], then [`write`].
#![warn(missing_docs)]

mod admission;
mod convert;
pub mod delete;
mod ownership;
mod page;
pub mod read;
mod strategy;
pub mod subresource;
pub mod table;
mod validation;
pub mod write;

use arc_swap::ArcSwap;
use coracle_meta::Status;
use coracle_schema::{Kind, Minor, pack};
use coracle_store::{Cluster, Key, Object};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
};
pub use table::KindTable;

/// One cluster's API.
#[derive(Debug)]
pub struct Registry {
    store: Cluster,
    minor: Minor,
    kinds: ArcSwap<KindTable>,
    clock: fn() -> Timestamp,
    next_service_ip: AtomicU32,
    /// Parsed objects that admission looks at again and again, by revision.
    parsed: Mutex<HashMap<u64, Arc<Value>>>,
}

/// Most objects that are kept parsed.
const MAX_PARSED: usize = 256;

/// The resource that holds CustomResourceDefinitions.
const CRDS: &str = "apiextensions.k8s.io/customresourcedefinitions";

impl Registry {
    /// The API of a cluster at a minor. Custom kinds that are stored already are served at once.
    pub fn new(store: Cluster, minor: Minor, clock: fn() -> Timestamp) -> Self {
        let kinds = ArcSwap::from_pointee(KindTable::new(&pack::of(minor).kinds, vec![]));
        let registry = Self {
            store,
            minor,
            kinds,
            clock,
            next_service_ip: AtomicU32::new(1),
            parsed: Mutex::default(),
        };
        registry.reload_custom_kinds();
        registry
    }

    /// The served minor.
    pub fn minor(&self) -> Minor {
        self.minor
    }

    /// The kinds that are served now.
    pub fn kinds(&self) -> Arc<KindTable> {
        self.kinds.load_full()
    }

    /// The store below.
    pub fn store(&self) -> &Cluster {
        &self.store
    }

    /// The time, from the clock that was given.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Reads all stored definitions anew. Called after every write of one.
    pub(crate) fn reload_custom_kinds(&self) {
        let snapshot = self.store.snapshot(CRDS);
        let mut custom = Vec::new();
        for (name, object) in snapshot.iter(None, None) {
            match serde_json::from_slice(&object.bytes)
                .map(|v: Value| coracle_schema::crd::kinds(&v))
            {
                Ok(Ok(kinds)) => custom.extend(kinds),
                _ => tracing::warn!(crd = %name.name, "cannot serve a stored definition"),
            }
        }
        let table = KindTable::new(&pack::of(self.minor).kinds, custom);
        self.kinds.store(Arc::new(table));
    }

    /// A stored object parsed, from a small cache: a revision is one version of one object.
    pub(crate) fn parsed(&self, object: &Object) -> Result<Arc<Value>, Status> {
        if let Some(v) = self.parsed.lock().get(&object.revision) {
            return Ok(v.clone());
        }
        let v = Arc::new(parse(object)?);
        let mut parsed = self.parsed.lock();
        if parsed.len() >= MAX_PARSED {
            parsed.clear();
        }
        parsed.insert(object.revision, v.clone());
        Ok(v)
    }

    pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
        Key::new(&table::storage_resource(kind), namespace, name)
    }

    /// The stored object of a name.
    pub(crate) fn stored(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Status> {
        self.store
            .get(&Self::key(kind, namespace, name))
            .ok_or_else(|| Status::not_found(&kind.group_resource(), name))
    }
}

/// Parses a stored object.
pub(crate) fn parse(object: &Object) -> Result<Value, Status> {
    serde_json::from_slice(&object.bytes).map_err(Status::internal)
}
