//! One watched kind: its objects in memory, an index by owner, and handlers that hear of changes.

use crate::{Stop, stopped};
use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
};
use tokio::{sync::watch, task::JoinSet};

/// Objects of one page of a list: pages that are read into projections and thrown away should not
/// be the most memory that a process ever needs.
pub(crate) const PAGE: u32 = 100;

/// Namespace (empty for cluster scope) and name.
pub type Key = (String, String);

/// The key of an object.
pub fn key<K: Resource>(o: &K) -> Key {
    (o.meta().namespace.clone().unwrap_or_default(), o.meta().name.clone().unwrap_or_default())
}

/// A change of one object.
#[derive(Debug)]
pub struct Change<'c, K> {
    /// The object before, if there was one.
    pub old: Option<&'c Arc<K>>,
    /// The object after, unless it was deleted.
    pub new: Option<&'c Arc<K>>,
}

impl<K> Change<'_, K> {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.or(self.old)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Store<K> {
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    /// Keys by the UID of the controlling owner; objects without one are under the empty UID.
    by_owner: Index,
    /// Keys by what the informer's user groups by.
    by_group: Index,
    revision: u64,
}

type Index = HashMap<String, BTreeSet<Arc<Key>>>;

/// What a kind is grouped by, such as the node of a pod.
pub type GroupBy<K> = fn(&K) -> &str;

/// Tells which objects are looked at.
pub type Keep<K> = Box<dyn Fn(&K) -> bool + Send + Sync>;

/// Which objects are looked at.
struct Scope<K> {
    /// The kind need not be served.
    optional: bool,
    /// Only these.
    keep: Option<Keep<K>>,
}

impl<K> Default for Scope<K> {
    fn default() -> Self {
        Self { optional: false, keep: None }
    }
}

/// The objects of a kind.
pub struct Informer<K> {
    store: RwLock<Store<K>>,
    group_by: Option<GroupBy<K>>,
    scope: Scope<K>,
    handlers: RwLock<Vec<Handler<K>>>,
    progress: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

impl<K> Informer<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts to watch. `trim` removes what no user of the informer reads, or lets objects share it.
    pub fn start(
        api: Api<K>,
        trim: impl FnMut(&mut K) + Send + 'static,
        group_by: Option<GroupBy<K>>,
        stop: &Stop,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        Self::begin(api, trim, group_by, Scope::default(), stop, tasks)
    }

    /// Starts to watch a kind that need not be served: then it has no objects.
    pub fn start_if_served(api: Api<K>, stop: &Stop, tasks: &mut JoinSet<()>) -> Arc<Self> {
        Self::begin(api, |_| (), None, Scope { optional: true, keep: None }, stop, tasks)
    }

    /// Starts to watch the objects of a kind that are to be kept; that never changes for one.
    pub fn start_of(
        api: Api<K>,
        keep: Keep<K>,
        group_by: Option<GroupBy<K>>,
        stop: &Stop,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let scope = Scope { optional: false, keep: Some(keep) };
        Self::begin(api, |_| (), group_by, scope, stop, tasks)
    }

    fn begin(
        api: Api<K>,
        trim: impl FnMut(&mut K) + Send + 'static,
        group_by: Option<GroupBy<K>>,
        scope: Scope<K>,
        stop: &Stop,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let store = Store {
            objects: BTreeMap::new(),
            by_owner: Index::new(),
            by_group: Index::new(),
            revision: 0,
        };
        let informer = Arc::new(Self {
            store: RwLock::new(store),
            group_by,
            scope,
            handlers: RwLock::default(),
            progress: watch::Sender::new(0),
            synced: watch::Sender::new(false),
        });
        tasks.spawn(informer.clone().run(api, trim, stop.clone()));
        informer
    }

    async fn run(
        self: Arc<Self>,
        api: Api<K>,
        mut trim: impl FnMut(&mut K) + Send,
        mut stop: Stop,
    ) {
        let mut stream = watcher(api, watcher::Config::default().any_semantic().page_size(PAGE))
            .default_backoff()
            .boxed();
        let mut listed: BTreeMap<Key, Arc<K>> = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = stopped(&mut stop) => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a watch was interrupted");
                    if self.scope.optional && is_not_served(&error) {
                        self.synced.send_replace(true);
                    }
                }
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(o) | watcher::Event::Apply(o)))
                    if self.scope.keep.as_ref().is_some_and(|keep| !keep(&o)) => {}
                Some(Ok(watcher::Event::InitApply(mut o))) => {
                    trim(&mut o);
                    listed.insert(key(&o), Arc::new(o));
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    let gone: Vec<Arc<K>> = {
                        let store = self.store.read();
                        store
                            .objects
                            .iter()
                            .filter(|(k, _)| !listed.contains_key(&***k))
                            .map(|(_, o)| o.clone())
                            .collect()
                    };
                    gone.iter().for_each(|o| self.remove(o));
                    // Progress grows object by object: the newest comes last, when all are in.
                    let mut all: Vec<Arc<K>> = std::mem::take(&mut listed).into_values().collect();
                    all.sort_by_key(|o| revision(&**o));
                    all.into_iter().for_each(|o| self.set(o));
                    self.synced.send_replace(true);
                }
                Some(Ok(watcher::Event::Apply(mut o))) => {
                    trim(&mut o);
                    self.set(Arc::new(o));
                }
                Some(Ok(watcher::Event::Delete(o))) => self.remove(&o),
            }
        }
    }

    fn set(&self, new: Arc<K>) {
        let (k, revision) = (key(&*new), revision(&*new));
        let old = {
            let mut store = self.store.write();
            store.revision = store.revision.max(revision);
            let known = store.objects.get_key_value(&k).map(|(k, _)| k.clone());
            let k = known.unwrap_or_else(|| Arc::new(k));
            let old = store.objects.insert(k.clone(), new.clone());
            let was = old.as_deref();
            relink(&mut store.by_owner, &k, was.map(|o| owner(o)), Some(owner(&*new)));
            if let Some(by) = self.group_by {
                relink(&mut store.by_group, &k, was.map(by), Some(by(&new)));
            }
            old
        };
        self.tell(&Change { old: old.as_ref(), new: Some(&new) }, revision);
    }

    fn remove(&self, o: &K) {
        let (k, revision) = (key(o), revision(o));
        let old = {
            let mut store = self.store.write();
            store.revision = store.revision.max(revision);
            let Some((k, old)) = store.objects.remove_entry(&k) else {
                drop(store);
                self.progress.send_modify(|r| *r = (*r).max(revision));
                return;
            };
            relink(&mut store.by_owner, &k, Some(owner(&*old)), None);
            if let Some(by) = self.group_by {
                relink(&mut store.by_group, &k, Some(by(&old)), None);
            }
            old
        };
        self.tell(&Change { old: Some(&old), new: None }, revision);
    }

    fn tell(&self, change: &Change<'_, K>, revision: u64) {
        for handler in self.handlers.read().iter() {
            handler(change);
        }
        self.progress.send_modify(|r| *r = (*r).max(revision));
    }

    /// Calls `handler` for every object that is there and every later change.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.write();
        // The store is let go first: a handler may read it.
        let all: Vec<Arc<K>> = self.store.read().objects.values().cloned().collect();
        for o in &all {
            handler(&Change { old: None, new: Some(o) });
        }
        handlers.push(Box::new(handler));
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until a revision has been seen.
    pub async fn seen(&self, revision: u64) {
        let mut progress = self.progress.subscribe();
        let _ = progress.wait_for(|r| *r >= revision).await;
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.read().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.read().objects.values().cloned().collect()
    }

    /// Objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = (namespace.to_owned(), String::new());
        self.store
            .read()
            .objects
            .range::<Key, _>(first..)
            .take_while(|(k, _)| k.0 == namespace)
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// Objects that a controller with this UID owns.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let store = self.store.read();
        store
            .by_owner
            .get(uid)
            .filter(|_| !uid.is_empty())
            .into_iter()
            .flatten()
            .filter_map(|k| store.objects.get(k).cloned())
            .collect()
    }

    /// Objects of a group: for pods, those on a node, or on none.
    pub fn grouped(&self, group: &str) -> Vec<Arc<K>> {
        let store = self.store.read();
        let keys = store.by_group.get(group).into_iter().flatten();
        keys.filter_map(|k| store.objects.get(k).cloned()).collect()
    }

    /// Objects of a namespace that no controller owns.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        let store = self.store.read();
        let first = (namespace.to_owned(), String::new());
        store
            .by_owner
            .get("")
            .into_iter()
            .flat_map(|keys| keys.range::<Key, _>(first.clone()..))
            .take_while(|k| k.0 == namespace)
            .filter_map(|k| store.objects.get(k).cloned())
            .collect()
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(e) if matches!(e, kube::Error::Api(s) if s.code == 404))
}

/// Moves a key from one entry of an index to another.
fn relink(index: &mut Index, k: &Arc<Key>, old: Option<&str>, new: Option<&str>) {
    if old == new {
        return;
    }
    if let Some(set) = old.and_then(|o| index.get_mut(o)) {
        set.remove(k);
        if set.is_empty() {
            index.remove(old.unwrap_or_default());
        }
    }
    if let Some(new) = new {
        index.entry(new.to_owned()).or_default().insert(k.clone());
    }
}

/// UID of the owner that controls an object: the API allows one. Empty for an orphan.
fn owner<K: Resource>(o: &K) -> &str {
    let mut owners = o.meta().owner_references.iter().flatten();
    owners.find(|r| r.controller == Some(true)).map_or("", |r| &r.uid)
}

/// The revision of an object; revisions compare within a kind (KEP-5504).
pub fn revision<K: Resource>(o: &K) -> u64 {
    o.resource_version().and_then(|r| r.parse().ok()).unwrap_or(0)
}
