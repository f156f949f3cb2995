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
pub mod convert;
pub mod delete;
pub mod encoding;
mod input;
mod ownership;
pub mod page;
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
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock, atomic::AtomicU32},
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
    /// Kinds of each definition, with the revision that they were read at.
    definitions: Mutex<Definitions>,
    /// Parsed objects that admission looks at again and again, by revision.
    parsed: Mutex<HashMap<u64, Arc<Value>>>,
    disabled_admission: BTreeSet<String>,
    service_network: ServiceNetwork,
    converter: OnceLock<convert::Converter>,
}

/// The addresses of services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceNetwork {
    pub(crate) base: std::net::Ipv4Addr,
    /// How many addresses there are.
    pub(crate) size: u32,
}

impl Default for ServiceNetwork {
    fn default() -> Self {
        Self { base: std::net::Ipv4Addr::new(10, 96, 0, 0), size: 1 << 20 }
    }
}

type Definitions = BTreeMap<Box<str>, (u64, Vec<Arc<Kind>>)>;

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
            definitions: Mutex::default(),
            parsed: Mutex::default(),
            disabled_admission: BTreeSet::new(),
            service_network: ServiceNetwork::default(),
            converter: OnceLock::new(),
        };
        registry.reload_custom_kinds();
        registry
    }

    /// Without some admission plugins, by upstream's names (`--disable-admission-plugins`).
    #[must_use]
    pub fn without_admission(mut self, plugins: impl IntoIterator<Item = String>) -> Self {
        self.disabled_admission.extend(plugins);
        self
    }

    /// With the network of cluster IPs, such as `10.96.0.0/12`; the first of several counts.
    ///
    /// # Errors
    /// When it is no network of IPv4.
    pub fn with_service_network(mut self, text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no network such as 10.96.0.0/12");
        let first = text.split(',').next().unwrap_or(text);
        let (base, bits) = first.split_once('/').ok_or_else(bad)?;
        let bits: u32 = bits.parse().ok().filter(|b| (8..=30).contains(b)).ok_or_else(bad)?;
        let base = base.parse().map_err(|_| bad())?;
        self.service_network = ServiceNetwork { base, size: 1 << (32 - bits) };
        Ok(self)
    }

    /// The cluster IP of the API server itself: the first of the network.
    pub fn api_server_ip(&self) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from(u32::from(self.service_network.base) + 1)
    }

    /// Whether an admission plugin is on.
    pub(crate) fn admits_by(&self, plugin: &str) -> bool {
        !self.disabled_admission.contains(plugin)
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

    /// Takes over what changed among the stored definitions. Called after every write of one.
    pub(crate) fn reload_custom_kinds(&self) {
        // Held to the end: a table never replaces a newer one.
        let mut known = self.definitions.lock();
        let snapshot = self.store.snapshot(CRDS);
        let mut definitions = BTreeMap::new();
        for (name, object) in snapshot.iter(None, None) {
            let kinds = match known.remove(&*name.name) {
                Some((revision, kinds)) if revision == object.revision => kinds,
                _ => definition_kinds(object),
            };
            definitions.insert(name.name.clone(), (object.revision, kinds));
        }
        let custom = definitions.values().flat_map(|(_, kinds)| kinds.iter().cloned()).collect();
        *known = definitions;
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

/// The kinds of a stored definition. Their structures are made from its bytes when first needed.
fn definition_kinds(object: &Arc<Object>) -> Vec<Arc<Kind>> {
    let Ok(v) = parse(object) else {
        tracing::warn!(revision = object.revision, "cannot serve a stored definition");
        return vec![];
    };
    let (object, revision) = (object.clone(), object.revision);
    coracle_schema::crd::kinds(&v, revision, move || parse(&object).unwrap_or_default())
}

/// Parses a stored object.
pub(crate) fn parse(object: &Object) -> Result<Value, Status> {
    serde_json::from_slice(&object.bytes).map_err(Status::internal)
}
