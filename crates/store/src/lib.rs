//! Where objects live: revisions, transactions, exact snapshots and watches.
//!
//! A [`Store`] holds many [`Cluster`]s. One committer thread assigns revisions, persists a batch
//! of writes with one fsync, then publishes it: a write is durable before it is visible, and
//! visible to everyone in one order. Reads come from memory: a [`Snapshot`] is a pointer into a
//! persistent ordered map, so lists and continue tokens are exact at a revision. A [`Watch`] is a
//! cursor on the resource's log; a cursor that compaction overtook ends with [`Compacted`] and
//! never skips an event.
//!
//! It never reads a clock and knows nothing of Kubernetes but where the resourceVersion stands in
//! an object's bytes. Start with [`object`], then `committer`, then [`watch`].
//!
//! Tested by a model test over random operations, and with the binary by killing it under load.
#![warn(missing_docs)]

mod committer;
mod engine;
pub mod object;
mod view;
pub mod watch;

use committer::{Committer, Message};
pub use engine::OpenError;
pub use object::{Encoded, Header, Key, Object};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::{mpsc, oneshot};
pub use view::Snapshot;
use view::State;
pub use watch::{Event, EventKind, Watch};

/// Writes that may wait for the committer before writers have to wait themselves.
const QUEUE: usize = 4096;

/// What must hold of the stored object for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no object with the key.
    Absent,
    /// The object is at this revision.
    Revision(u64),
}

/// One write.
#[derive(Debug)]
pub struct Write {
    /// What to write.
    pub key: Key,
    /// When to write it.
    pub expect: Expect,
    /// The new object, or `None` to delete.
    pub object: Option<Encoded>,
}

/// Why a write did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The expectation did not hold; this is what is stored.
    #[error("the stored object is not what the writer expected")]
    Conflict(Option<Arc<Object>>),
    /// The disk failed; nothing more can be written until a restart.
    #[error("cannot persist a write: {0}")]
    Engine(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A revision is no longer (or not yet) there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// Compacted away; the oldest that is still there.
    #[error("revision was compacted; the oldest is {0}")]
    Compacted(u64),
    /// Not reached yet; the newest that is there.
    #[error("revision is in the future; the newest is {0}")]
    Future(u64),
}

/// All clusters of a process. Dropping the last handle ends the committer thread.
#[derive(Clone, Debug)]
pub struct Store {
    sender: mpsc::Sender<Message>,
    clusters: Arc<Mutex<BTreeMap<String, Cluster>>>,
    engine: Arc<engine::Engine>,
}

impl Store {
    /// A store that keeps nothing when the process ends.
    pub fn in_memory() -> Self {
        Self::start(engine::Engine::Memory)
    }

    /// Opens or creates a store in a directory.
    ///
    /// # Errors
    /// When the directory is in use, of another format, or unreadable.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Ok(Self::start(engine::Engine::open(directory)?))
    }

    fn start(engine: engine::Engine) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let engine = Arc::new(engine);
        let committer = Committer::new(engine.clone());
        let thread = std::thread::Builder::new().name("committer".into());
        if let Err(error) = thread.spawn(move || committer.run(receiver)) {
            tracing::error!(%error, "cannot start the committer thread");
        }
        Self { sender, clusters: Arc::default(), engine }
    }

    /// The cluster with an id, loaded on first use.
    ///
    /// # Errors
    /// When its objects cannot be read.
    pub fn cluster(&self, id: &str) -> Result<Cluster, OpenError> {
        let mut clusters = self.clusters.lock();
        if let Some(c) = clusters.get(id) {
            return Ok(c.clone());
        }
        let state = Arc::new(State::new(id, self.engine.load(id)?));
        let cluster = Cluster { state, sender: self.sender.clone() };
        clusters.insert(id.into(), cluster.clone());
        Ok(cluster)
    }
}

/// One cluster's objects.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: Arc<State>,
    sender: mpsc::Sender<Message>,
}

impl Cluster {
    /// The newest published revision.
    pub fn revision(&self) -> u64 {
        self.state.view().revision
    }

    /// A resource's objects, newest.
    pub fn snapshot(&self, resource: &str) -> Snapshot {
        let view = self.state.view();
        let objects = view.resources.get(resource).cloned().unwrap_or_default();
        Snapshot { revision: view.revision, objects }
    }

    /// A resource's objects as they were at a revision.
    ///
    /// # Errors
    /// When the revision was compacted or is not there yet.
    pub fn snapshot_at(&self, resource: &str, revision: u64) -> Result<Snapshot, RevisionError> {
        self.state.snapshot_at(resource, revision)
    }

    /// One object, newest.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.state.view().resources.get(&*key.resource)?.get(&key.name).cloned()
    }

    /// Names of all resources that have objects.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.state.view().resources.keys().cloned().collect()
    }

    /// Writes and waits until the write is durable and visible. Returns the object as it stands
    /// now, or, for a deletion, as it stood with the deletion's revision.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when the expectation does not hold.
    pub async fn commit(&self, write: Write) -> Result<Arc<Object>, CommitError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Write { cluster: self.state.clone(), write, reply };
        self.sender.send(message).await.map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)?
    }

    /// Watches a resource for what happens after a revision.
    ///
    /// # Errors
    /// When the revision was compacted.
    pub fn watch(&self, resource: &str, after: u64) -> Result<Watch, RevisionError> {
        let log = self.state.log(resource);
        let oldest = log.compacted();
        if after < oldest {
            return Err(RevisionError::Compacted(oldest));
        }
        Ok(Watch::new(self.state.clone(), log, after))
    }

    /// Forgets history up to a revision: older watches and lists get [`RevisionError::Compacted`].
    pub fn compact(&self, revision: u64) {
        self.state.compact(revision.min(self.state.settled.load(Ordering::Acquire)));
    }

    /// Deletes the objects whose time to live ended before `now_seconds` (Unix time).
    pub async fn expire(&self, now_seconds: u64) {
        let message = Message::Expire { cluster: self.state.clone(), now_seconds };
        // A closed store has nothing left to expire.
        let _ = self.sender.send(message).await;
    }
}

#[cfg(test)]
mod tests;
