//! Watch streams: the registry's events as frames, with bookmarks and an end.

use crate::{
    Server, binary,
    body::{self, Body},
    negotiate::{Accept, Format, Shape},
    options::Query,
    shapes::{self, Table},
};
use bytes::{Bytes, BytesMut};
use coracle_meta::Status;
use coracle_registry::read::{Filter, List, ListOptions, Watching, too_old};
use coracle_schema::{Kind, protobuf};
use coracle_store::{EventKind, Object, RevisionError};
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use serde_json::{Value, json};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

/// Watches end between this and twice this, as upstream's minRequestTimeout.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a quiet watch tells its progress,
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// and how long before its end once more, so that the next watch need not go far back.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

struct Stream {
    server: Arc<Server>,
    kind: Arc<Kind>,
    accept: Accept,
    watch: coracle_store::Watch,
    filter: Filter,
    initial: Option<List>,
    bookmarks: bool,
    announce_end: bool,
    deadline: Instant,
    /// Set to the next bookmark, or to the deadline.
    timer: Pin<Box<Sleep>>,
    stopping: watch::Receiver<bool>,
    table_started: AtomicBool,
    ended: bool,
}

/// Starts a watch.
pub(crate) fn start(
    server: &Arc<Server>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    query: &Query,
    options: &ListOptions,
    accept: &Accept,
) -> Result<Response<Body>, Status> {
    let send_initial = query.send_initial_events();
    let initial = send_initial == Some(true);
    let mut options = options.clone();
    if send_initial == Some(false) && options.revision.is_none() {
        options.revision = Some(server.registry.store().revision());
    }
    if accept.format == Format::Yaml {
        let text = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        return Err(Status::new(406, "NotAcceptable", text));
    }
    let Watching { watch, filter, initial: objects } =
        server.registry.watch(kind, namespace, &options, initial)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let timeout = match query.timeout_seconds()? {
        Some(s) => Duration::from_secs(s),
        None => {
            MIN_TIMEOUT
                + Duration::from_secs(
                    u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * MIN_TIMEOUT.as_secs() / 256,
                )
        }
    };
    let now = Instant::now();
    let stream = Stream {
        server: server.clone(),
        kind: kind.clone(),
        accept: accept.clone(),
        watch,
        filter,
        initial: objects,
        bookmarks,
        announce_end: initial && bookmarks,
        deadline: now + timeout,
        timer: Box::pin(sleep_until(next_timer(now, now + timeout))),
        stopping: server.stopping(),
        table_started: AtomicBool::new(false),
        ended: false,
    };
    let pieces =
        futures::stream::unfold(stream, |mut s| async move { s.next().await.map(|b| (b, s)) });
    let mut response = Response::new(body::stream(pieces));
    let content_type = match (accept.format, accept.shape) {
        (Format::Protobuf, _) => "application/vnd.kubernetes.protobuf;stream=watch",
        (_, Shape::Table(_)) => "application/json;stream=watch;as=Table;v=v1;g=meta.k8s.io",
        _ => "application/json;stream=watch",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// When the next bookmark is due, or the end.
fn next_timer(now: Instant, deadline: Instant) -> Instant {
    match deadline.checked_sub(LAST_BOOKMARK).filter(|last| *last > now) {
        Some(last) => last.min(now + BOOKMARK_EVERY),
        None => deadline,
    }
}

fn type_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Added => "ADDED",
        EventKind::Modified => "MODIFIED",
        EventKind::Deleted => "DELETED",
    }
}

fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 32);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.freeze()
}

impl Stream {
    /// The next piece of the body, or `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(list) = self.initial.take() {
            let first = self.first(&list);
            if !first.is_empty() {
                return Some(first);
            }
        }
        loop {
            if self.ended || *self.stopping.borrow() {
                return None;
            }
            tokio::select! {
                biased;
                _ = self.stopping.changed() => return None,
                batch = self.watch.next() => match batch {
                    Ok(batch) => {
                        let piece = self.batch(&batch);
                        if !piece.is_empty() {
                            return Some(piece);
                        }
                    }
                    Err(e) => return Some(self.fail(e)),
                },
                () = &mut self.timer => {
                    if Instant::now() >= self.deadline {
                        return None;
                    }
                    self.timer.as_mut().reset(next_timer(Instant::now(), self.deadline));
                    let piece = self.progress();
                    if !piece.is_empty() {
                        return Some(piece);
                    }
                }
            }
        }
    }

    /// What has come, and a bookmark if the client asked for them.
    fn progress(&mut self) -> Bytes {
        match self.watch.poll() {
            Ok(batch) => {
                let mut piece = BytesMut::from(&self.batch(&batch)[..]);
                if self.bookmarks {
                    piece.extend_from_slice(&self.bookmark(batch.progress, false));
                }
                piece.freeze()
            }
            Err(e) => self.fail(e),
        }
    }

    fn fail(&mut self, e: RevisionError) -> Bytes {
        self.ended = true;
        let status = match e {
            RevisionError::Compacted(oldest) => too_old(0, oldest),
            RevisionError::Future(newest) => Status::future_revision(0, newest),
        };
        self.value("ERROR", &status.to_value())
    }

    fn first(&mut self, list: &List) -> Bytes {
        let mut out = BytesMut::new();
        for object in &list.items {
            out.extend_from_slice(&self.render(EventKind::Added, object));
        }
        if self.announce_end {
            out.extend_from_slice(&self.bookmark(list.revision, true));
        }
        out.freeze()
    }

    fn batch(&mut self, batch: &coracle_store::watch::Batch) -> Bytes {
        let plain = self.accept.shape == Shape::Object;
        let mut pieces: Vec<Bytes> = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let Some((kind, object)) = self.filter.event(event) else { continue };
            // Watchers that see the event as it is share its encoding.
            let shared = plain && kind == event.kind && Arc::ptr_eq(&object, &event.object);
            pieces.push(match self.accept.format {
                _ if !shared || !self.is_current(&object) => self.render(kind, &object),
                Format::Protobuf => {
                    event.binary_frame.get_or_init(|| self.render(kind, &object)).clone()
                }
                _ => event.frame.get_or_init(|| frame(type_name(kind), &object.bytes)).clone(),
            });
        }
        if pieces.len() == 1 {
            return pieces.swap_remove(0);
        }
        let mut out = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|p| out.extend_from_slice(p));
        out.freeze()
    }

    fn is_current(&self, object: &Object) -> bool {
        self.server
            .registry
            .present(&self.kind, object)
            .is_ok_and(|b| b.as_ptr() == object.bytes.as_ptr())
    }

    /// A frame of a whole object in the format of the stream.
    fn value(&self, kind: &str, v: &Value) -> Bytes {
        match self.accept.format {
            Format::Protobuf => match binary::sealed(v) {
                Ok(sealed) => protobuf::watch_frame(kind, &sealed).into(),
                // Nothing that is sent here lacks a protobuf form.
                Err(_) => Bytes::new(),
            },
            _ => frame(kind, v.to_string().as_bytes()),
        }
    }

    /// The same of JSON.
    fn text(&self, kind: &str, text: &str) -> Result<Bytes, Status> {
        match self.accept.format {
            Format::Protobuf => {
                let v: Value = serde_json::from_str(text).map_err(Status::internal)?;
                Ok(self.value(kind, &v))
            }
            _ => Ok(frame(kind, text.as_bytes())),
        }
    }

    fn render(&self, kind: EventKind, object: &Object) -> Bytes {
        let shown = self.shown(kind, object);
        shown.unwrap_or_else(|s| self.value("ERROR", &s.to_value()))
    }

    fn shown(&self, kind: EventKind, object: &Object) -> Result<Bytes, Status> {
        let registry = &self.server.registry;
        if (self.accept.shape, self.accept.format) == (Shape::Object, Format::Protobuf) {
            let sealed = binary::stored(registry, &self.kind, object)?;
            return Ok(protobuf::watch_frame(type_name(kind), &sealed).into());
        }
        let bytes = registry.present(&self.kind, object)?;
        let text = match self.accept.shape {
            Shape::Object => return Ok(frame(type_name(kind), &bytes)),
            Shape::Table(version) => {
                let definitions = !self.table_started.swap(true, Ordering::Relaxed);
                let (include, now) = (self.accept.include, registry.now());
                Table { kind: &self.kind, include, version, now }.of_one(&bytes, definitions)?
            }
            Shape::Partial(version) | Shape::PartialList(version) => {
                shapes::partial(&bytes, version)?
            }
        };
        self.text(type_name(kind), text.trim_end())
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let text = match self.accept.shape {
            Shape::Object => {
                let v = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": meta});
                v.to_string()
            }
            Shape::Partial(version) | Shape::PartialList(version) => {
                shapes::partial_of(&meta.to_string(), version)
            }
            Shape::Table(version) => {
                let object = shapes::partial_of(&meta.to_string(), version);
                format!(
                    "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"columnDefinitions\":[],\"rows\":[{{\"cells\":[],\"object\":{object}}}]}}",
                    version.api_version()
                )
            }
        };
        self.text("BOOKMARK", &text).unwrap_or_default()
    }
}
