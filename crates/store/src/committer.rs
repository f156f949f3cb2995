//! The one thread that writes: it checks expectations, assigns revisions, persists a batch with
//! one fsync, publishes, and only then answers.

use crate::{
    CommitError, Expect, Write,
    engine::{Change, Engine},
    object::{Name, Object},
    view::{State, View},
    watch::{Event, EventKind},
};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::{mpsc, oneshot};

/// Most writes of one fsync.
const MAX_BATCH: usize = 512;

pub(crate) enum Message {
    Write { cluster: Arc<State>, write: Write, reply: Reply },
    Expire { cluster: Arc<State>, now_seconds: u64 },
}

type Reply = oneshot::Sender<Result<Arc<Object>, CommitError>>;

pub(crate) struct Committer {
    engine: Arc<Engine>,
    failed: Option<String>,
}

/// A change that was accepted into the batch.
struct Accepted {
    resource: Arc<str>,
    event: Arc<Event>,
    reply: Option<Reply>,
}

/// A cluster's part of the batch.
struct Part {
    state: Arc<State>,
    view: View,
    accepted: Vec<Accepted>,
}

impl Committer {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, failed: None }
    }

    pub(crate) fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(first) = receiver.blocking_recv() {
            let mut messages = vec![first];
            while messages.len() < MAX_BATCH {
                match receiver.try_recv() {
                    Ok(m) => messages.push(m),
                    Err(_) => break,
                }
            }
            self.batch(messages);
        }
    }

    fn batch(&mut self, messages: Vec<Message>) {
        let mut parts: HashMap<Arc<str>, Part> = HashMap::new();
        for message in messages {
            let cluster = match &message {
                Message::Write { cluster, .. } | Message::Expire { cluster, .. } => cluster,
            };
            let part = parts.entry(cluster.id.clone()).or_insert_with(|| Part {
                state: cluster.clone(),
                view: View::clone(&cluster.view()),
                accepted: vec![],
            });
            match message {
                Message::Write { reply, .. } if self.failed.is_some() => {
                    let why = self.failed.clone().unwrap_or_default();
                    let _ = reply.send(Err(CommitError::Engine(why)));
                }
                Message::Write { write, reply, .. } => part.write(write, reply),
                Message::Expire { .. } if self.failed.is_some() => {}
                Message::Expire { now_seconds, .. } => part.expire(now_seconds),
            }
        }
        let parts: Vec<Part> = parts.into_values().filter(|p| !p.accepted.is_empty()).collect();
        if parts.is_empty() {
            return;
        }
        let changes = parts.iter().flat_map(|p| {
            p.accepted.iter().map(|a| Change {
                cluster: &p.state.id,
                resource: &a.resource,
                name: &a.event.name,
                object: (a.event.kind != EventKind::Deleted).then_some(&*a.event.object),
            })
        });
        let revisions = parts.iter().map(|p| (&*p.state.id, p.view.revision));
        if let Err(e) = self.engine.persist(changes, revisions) {
            tracing::error!(error = %e, "cannot persist; the store accepts no more writes");
            self.failed = Some(e.to_string());
            for reply in parts.into_iter().flat_map(|p| p.accepted).filter_map(|a| a.reply) {
                let _ = reply.send(Err(CommitError::Engine(e.to_string())));
            }
            return;
        }
        parts.into_iter().for_each(Part::publish);
    }
}

impl Part {
    fn write(&mut self, write: Write, reply: Reply) {
        let Write { key, expect, object } = write;
        let current =
            self.view.resources.get(&key.resource).and_then(|r| r.get(&key.name)).cloned();
        let holds = match (expect, &current) {
            (Expect::Absent, None) => object.is_some(),
            (Expect::Revision(r), Some(c)) => c.revision == r,
            _ => false,
        };
        if !holds {
            // A writer that went away does not need to know.
            let _ = reply.send(Err(CommitError::Conflict(current)));
            return;
        }
        let revision = self.view.revision + 1;
        match (object, current) {
            (Some(new), current) => {
                let kind = if current.is_some() { EventKind::Modified } else { EventKind::Added };
                let object = Arc::new(new.commit(revision));
                self.accept(key.resource, key.name, kind, object, current, Some(reply));
            }
            (None, Some(old)) => {
                let last = Arc::new(old.at_revision(revision));
                self.accept(
                    key.resource,
                    key.name,
                    EventKind::Deleted,
                    last,
                    Some(old),
                    Some(reply),
                );
            }
            (None, None) => drop(reply.send(Err(CommitError::Conflict(None)))),
        }
    }

    fn expire(&mut self, now_seconds: u64) {
        let due: Vec<_> = {
            let expiries = self.state.expiries.lock();
            expiries
                .iter()
                .take_while(|(t, ..)| *t <= now_seconds)
                .take(MAX_BATCH)
                .cloned()
                .collect()
        };
        for (_, resource, name) in due {
            let current = self.view.resources.get(&resource).and_then(|r| r.get(&name)).cloned();
            if let Some(old) = current.filter(|o| o.expires_seconds <= now_seconds) {
                let last = Arc::new(old.at_revision(self.view.revision + 1));
                self.accept(resource, name, EventKind::Deleted, last, Some(old), None);
            }
        }
    }

    fn accept(
        &mut self,
        resource: Arc<str>,
        name: Name,
        kind: EventKind,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
        reply: Option<Reply>,
    ) {
        let revision = object.revision;
        let mut after = self.view.resources.get(&resource).cloned().unwrap_or_default();
        match kind {
            EventKind::Deleted => drop(after.remove_mut(&name)),
            _ => after.insert_mut(name.clone(), object.clone()),
        }
        self.view.revision = revision;
        self.view.resources.insert_mut(resource.clone(), after.clone());
        let (frame, binary_frame) = Default::default();
        let event =
            Arc::new(Event { revision, kind, name, object, previous, frame, binary_frame, after });
        self.accepted.push(Accepted { resource, event, reply });
    }

    /// Makes the batch visible: first to reads, then to watches, then to its writers.
    fn publish(self) {
        let mut by_resource: HashMap<Arc<str>, Vec<Arc<Event>>> = HashMap::new();
        {
            let mut expiries = self.state.expiries.lock();
            for a in &self.accepted {
                let entry =
                    |o: &Object| (o.expires_seconds, a.resource.clone(), a.event.name.clone());
                if let Some(old) = a.event.previous.as_deref().filter(|o| o.expires_seconds > 0) {
                    expiries.remove(&entry(old));
                }
                if a.event.kind != EventKind::Deleted && a.event.object.expires_seconds > 0 {
                    expiries.insert(entry(&a.event.object));
                }
                by_resource.entry(a.resource.clone()).or_default().push(a.event.clone());
            }
        }
        let revision = self.view.revision;
        // A log must exist before the view moves on, or its base would already hold the batch.
        let logs: Vec<_> =
            by_resource.into_iter().map(|(r, events)| (self.state.log(&r), events)).collect();
        // Logs hold the batch before the view does, so that a list at any revision that can be seen
        // is exact; watches see it after, by `settled`.
        for (log, events) in &logs {
            log.append(events);
        }
        self.state.publish(self.view);
        self.state.settled.store(revision, Ordering::Release);
        for (log, _) in &logs {
            log.announce(revision);
        }
        for a in self.accepted {
            if let Some(reply) = a.reply {
                let _ = reply.send(Ok(a.event.object.clone()));
            }
        }
    }
}
