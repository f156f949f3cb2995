//! Logs of events, and cursors on them.

use crate::{
    RevisionError,
    object::{Name, Object},
    view::{Objects, State},
};
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, atomic::Ordering},
};
use tokio::sync::watch;

/// Events of a resource whose frames are kept for watchers to come.
const FRAMES: usize = 1024;
/// Most events that a resource's log keeps between compactions; older ones are compacted early.
const MAX_EVENTS: usize = 100_000;
/// Most events that a cursor hands out at once.
const MAX_BATCH: usize = 512;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted.
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// Revision of the change.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// To which object.
    pub name: Name,
    /// The object after the change; for a deletion, its last state at the deletion's revision.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
    /// The frame that watchers send, encoded once for all of them.
    pub frame: OnceLock<Bytes>,
    /// The same in the other encoding.
    pub binary_frame: OnceLock<Bytes>,
    /// The resource's objects after the change: exact lists at this revision.
    pub(crate) after: Objects,
}

impl Event {
    fn without_frames(&self) -> Self {
        Self {
            revision: self.revision,
            kind: self.kind,
            name: self.name.clone(),
            object: self.object.clone(),
            previous: self.previous.clone(),
            frame: OnceLock::new(),
            binary_frame: OnceLock::new(),
            after: self.after.clone(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    inner: RwLock<Inner>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    /// Everything up to here is gone.
    compacted: u64,
    /// The objects at `compacted`.
    base: Objects,
    events: VecDeque<Arc<Event>>,
}

impl Log {
    pub(crate) fn new(compacted: u64, base: Objects) -> Self {
        let inner = Inner { compacted, base, events: VecDeque::new() };
        Self { inner: RwLock::new(inner), newest: watch::Sender::new(0) }
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.inner.read().compacted
    }

    pub(crate) fn append(&self, events: &[Arc<Event>]) {
        let mut inner = self.inner.write();
        inner.events.extend(events.iter().cloned());
        inner.drop_frames(events.len());
        if inner.events.len() > MAX_EVENTS {
            let cut = inner.events[MAX_EVENTS / 4].revision;
            inner.compact(cut);
        }
    }

    /// Wakes those who wait for events.
    pub(crate) fn announce(&self, revision: u64) {
        self.newest.send_replace(revision);
    }

    pub(crate) fn compact(&self, revision: u64) {
        self.inner.write().compact(revision);
    }

    pub(crate) fn objects_at(&self, revision: u64) -> Result<Objects, RevisionError> {
        let inner = self.inner.read();
        if revision < inner.compacted {
            return Err(RevisionError::Compacted(inner.compacted));
        }
        let after = inner.events.partition_point(|e| e.revision <= revision);
        Ok(match after.checked_sub(1) {
            Some(i) => inner.events[i].after.clone(),
            None => inner.base.clone(),
        })
    }

    /// Events after a revision, up to another.
    fn between(&self, revision: u64, until: u64) -> Result<Vec<Arc<Event>>, RevisionError> {
        let inner = self.inner.read();
        if revision < inner.compacted {
            return Err(RevisionError::Compacted(inner.compacted));
        }
        let from = inner.events.partition_point(|e| e.revision <= revision);
        let events = inner.events.range(from..).take_while(|e| e.revision <= until);
        Ok(events.take(MAX_BATCH).cloned().collect())
    }
}

impl Inner {
    /// Takes the frames of events that most watchers have passed by now, after some were added: they
    /// are as large as the objects, and who comes later makes them again.
    fn drop_frames(&mut self, added: usize) {
        let old = self.events.len().saturating_sub(FRAMES);
        for i in old.saturating_sub(added)..old {
            let e = &self.events[i];
            if e.frame.get().is_some() || e.binary_frame.get().is_some() {
                self.events[i] = Arc::new(e.without_frames());
            }
        }
    }

    fn compact(&mut self, revision: u64) {
        while self.events.front().is_some_and(|e| e.revision <= revision) {
            if let Some(e) = self.events.pop_front() {
                self.base = e.after.clone();
            }
        }
        self.compacted = self.compacted.max(revision);
    }
}

/// A cursor on a resource's events. It holds no queue: a slow reader costs nothing until
/// compaction overtakes it.
#[derive(Debug)]
pub struct Watch {
    state: Arc<State>,
    log: Arc<Log>,
    position: u64,
    newest: watch::Receiver<u64>,
}

/// A batch of events, or the progress that there were none up to a revision.
#[derive(Debug)]
pub struct Batch {
    /// Events in order; may be empty after [`Watch::poll`].
    pub events: Vec<Arc<Event>>,
    /// Every event up to this revision has been handed out with this batch or before.
    pub progress: u64,
}

impl Watch {
    pub(crate) fn new(state: Arc<State>, log: Arc<Log>, after: u64) -> Self {
        let newest = log.newest.subscribe();
        Self { state, log, position: after, newest }
    }

    /// What is there now, without waiting.
    ///
    /// # Errors
    /// When compaction overtook the cursor.
    pub fn poll(&mut self) -> Result<Batch, RevisionError> {
        let settled = self.state.settled.load(Ordering::Acquire);
        let events = self.log.between(self.position, settled)?;
        if let Some(last) = events.last() {
            self.position = last.revision;
        }
        if events.len() < MAX_BATCH {
            self.position = self.position.max(settled);
        }
        Ok(Batch { events, progress: self.position })
    }

    /// Waits until there are events.
    ///
    /// # Errors
    /// When compaction overtook the cursor.
    pub async fn next(&mut self) -> Result<Batch, RevisionError> {
        loop {
            self.newest.mark_unchanged();
            let batch = self.poll()?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            // The sender lives in the log that we hold.
            let _ = self.newest.changed().await;
        }
    }
}
