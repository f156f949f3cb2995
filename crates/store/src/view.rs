//! What readers see of a cluster: persistent maps, swapped as a whole, and the logs of watches.

use crate::{
    RevisionError,
    engine::Loaded,
    object::{Name, Object},
    watch::Log,
};
use parking_lot::{Mutex, RwLock};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A resource's objects in the order of lists.
pub(crate) type Objects = RedBlackTreeMapSync<Name, Arc<Object>>;

/// All objects of a cluster at a revision.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) revision: u64,
    pub(crate) resources: HashTrieMapSync<Arc<str>, Objects>,
}

/// A resource's objects at a revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    pub(crate) objects: Objects,
}

impl Snapshot {
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether both show the same objects, by identity: nothing was written in between.
    pub fn is_same(&self, other: &Self) -> bool {
        self.objects.ptr_eq(&other.objects)
    }

    /// One object.
    pub fn get(&self, name: &Name) -> Option<&Arc<Object>> {
        self.objects.get(name)
    }

    /// Objects in order: of one namespace or of all, after a name if one is given.
    pub fn iter<'s>(
        &'s self,
        namespace: Option<&'s str>,
        after: Option<&'s Name>,
    ) -> impl Iterator<Item = (&'s Name, &'s Arc<Object>)> {
        let first = Name { namespace: namespace.unwrap_or_default().into(), name: "".into() };
        let start = match after {
            Some(a) => Bound::Excluded(a.clone()),
            None => Bound::Included(first),
        };
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(n, _)| namespace.is_none_or(|ns| &*n.namespace == ns))
    }
}

/// Everything the process holds of a cluster.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) id: Arc<str>,
    view: RwLock<Arc<View>>,
    logs: Mutex<HashMap<Arc<str>, Arc<Log>>>,
    /// All events up to this revision are in the logs.
    pub(crate) settled: AtomicU64,
    /// Resources without a log yet were compacted up to here.
    compacted: AtomicU64,
    /// When objects expire; only the committer changes it.
    pub(crate) expiries: Mutex<BTreeSet<(u64, Arc<str>, Name)>>,
}

impl State {
    pub(crate) fn new(id: &str, loaded: Loaded) -> Self {
        let mut resources: HashMap<String, Objects> = HashMap::new();
        let mut expiries = BTreeSet::new();
        for (resource, name, object) in loaded.objects {
            if object.expires_seconds > 0 {
                expiries.insert((object.expires_seconds, resource.as_str().into(), name.clone()));
            }
            resources.entry(resource).or_default().insert_mut(name, object);
        }
        // Revision 0 means "any" in the API, so a fresh cluster begins at 1.
        let revision = loaded.revision.max(1);
        let resources = resources.into_iter().map(|(k, v)| (Arc::from(k), v)).collect();
        Self {
            id: id.into(),
            view: RwLock::new(Arc::new(View { revision, resources })),
            logs: Mutex::default(),
            settled: AtomicU64::new(revision),
            compacted: AtomicU64::new(revision),
            expiries: Mutex::new(expiries),
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    pub(crate) fn publish(&self, view: View) {
        *self.view.write() = Arc::new(view);
    }

    /// The log of a resource, made when first asked for.
    pub(crate) fn log(&self, resource: &str) -> Arc<Log> {
        let mut logs = self.logs.lock();
        if let Some(log) = logs.get(resource) {
            return log.clone();
        }
        let base = self.view().resources.get(resource).cloned().unwrap_or_default();
        let log = Arc::new(Log::new(self.compacted.load(Ordering::Acquire), base));
        logs.insert(resource.into(), log.clone());
        log
    }

    pub(crate) fn snapshot_at(
        &self,
        resource: &str,
        revision: u64,
    ) -> Result<Snapshot, RevisionError> {
        let view = self.view();
        if revision > view.revision {
            return Err(RevisionError::Future(view.revision));
        }
        let current = view.resources.get(resource).cloned().unwrap_or_default();
        if revision == view.revision {
            return Ok(Snapshot { revision, objects: current });
        }
        let objects = self.log(resource).objects_at(revision)?;
        Ok(Snapshot { revision, objects })
    }

    pub(crate) fn compact(&self, revision: u64) {
        let logs = self.logs.lock();
        self.compacted.fetch_max(revision, Ordering::AcqRel);
        for log in logs.values() {
            log.compact(revision);
        }
    }
}
