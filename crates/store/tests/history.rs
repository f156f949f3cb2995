//! Writers, lists and watches at once, on both engines, judged by the checker of histories.
//! `CORACLE_HISTORY_OPS` says how many writes are tried (`cargo xtask history`: a million).
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use coracle_store::{
    Cluster, CommitError, Encoded, EventKind, Expect, Header, Key, RevisionError, Store, Write,
    object::Name,
};
use coracle_testkit::{
    history::{self, Event, History, Kind, Listing, Object, Watch},
    random::Random,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

const WRITERS: u64 = 8;
const NAMES: u64 = 500;
/// History is compacted to this many revisions now and then.
const KEPT: u64 = 5000;

struct Run {
    cluster: Cluster,
    history: History,
    left: AtomicU64,
    value: AtomicU64,
    over: AtomicBool,
}

fn operations() -> u64 {
    std::env::var("CORACLE_HISTORY_OPS").map_or(30_000, |n| n.parse().unwrap())
}

fn resource() -> Arc<str> {
    "things".into()
}

fn value(o: &coracle_store::Object) -> u64 {
    let text = std::str::from_utf8(&o.bytes).unwrap();
    text.rsplit_once("\"v\":").unwrap().1.trim_end_matches('}').parse().unwrap()
}

fn encoded(v: u64) -> Encoded {
    let text = format!("{{\"metadata\":{{\"resourceVersion\":\"\"}},\"v\":{v}}}");
    Encoded::new(text.into_bytes(), 0, Header::default(), 0).unwrap()
}

impl Run {
    async fn writes(self: Arc<Self>, seed: u64) {
        let mut random = Random::new(seed);
        while self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
        {
            let name = format!("n{:03}", random.below(NAMES));
            let key = Key::new(&resource(), "ns", &name);
            let current = self.cluster.get(&key);
            let expect = current.as_ref().map_or(Expect::Absent, |o| Expect::Revision(o.revision));
            let v = self.value.fetch_add(1, Ordering::Relaxed);
            let deletes = current.is_some() && random.below(4) == 0;
            let object = (!deletes).then(|| encoded(v));
            match self.cluster.commit(Write { key, expect, object }).await {
                Ok(o) => self.history.write(history::Write {
                    revision: o.revision,
                    name,
                    object: (!deletes).then_some(Object { value: v, selected: true }),
                }),
                Err(CommitError::Conflict(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Pages at one revision while writers go on.
    async fn lists(self: Arc<Self>, seed: u64) {
        let mut random = Random::new(seed);
        while !self.over.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
            let revision = self.cluster.revision().saturating_sub(random.below(KEPT / 2));
            let mut items = std::collections::BTreeMap::new();
            let mut after: Option<Name> = None;
            let whole = loop {
                let Ok(page) = self.cluster.snapshot_at("things", revision) else { break false };
                let before = items.len();
                let from = after.take();
                for (n, o) in page.iter(None, from.as_ref()).take(97) {
                    items.insert(n.name.to_string(), value(o));
                    after = Some(n.clone());
                }
                if items.len() == before {
                    // Nothing came after the last page.
                    break true;
                }
                tokio::task::yield_now().await;
            };
            if whole {
                self.history.list(Listing { revision, how: "pages".into(), selects: false, items });
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// Watches for a while from somewhere in the past, again and again. `patient` ones stay.
    async fn watches(self: Arc<Self>, seed: u64, patient: bool) {
        let mut random = Random::new(seed);
        while !self.over.load(Ordering::Relaxed) {
            let back = if patient { 0 } else { random.below(KEPT) };
            let after = self.cluster.revision().saturating_sub(back);
            let Ok(mut watch) = self.cluster.watch("things", after) else {
                tokio::task::yield_now().await;
                continue;
            };
            let mut seen = Watch { after, until: after, selects: false, events: vec![] };
            let most = if patient { usize::MAX } else { 2000 };
            while seen.events.len() < most {
                match watch.poll() {
                    Ok(batch) => {
                        seen.until = batch.progress;
                        seen.events.extend(batch.events.iter().map(|e| told(e)));
                        if batch.events.is_empty() && self.over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    // Compaction was faster: what came before it still must be right.
                    Err(RevisionError::Compacted(_)) => break,
                    Err(e) => panic!("{e}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            self.history.watch(seen);
        }
    }

    async fn compacts(self: Arc<Self>) {
        while !self.over.load(Ordering::Relaxed) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            self.cluster.compact(self.cluster.revision().saturating_sub(KEPT));
        }
    }
}

fn told(e: &coracle_store::Event) -> Event {
    let (kind, object) = match e.kind {
        EventKind::Added => (Kind::Added, &e.object),
        EventKind::Modified => (Kind::Modified, &e.object),
        EventKind::Deleted => (Kind::Deleted, &e.object),
    };
    Event { revision: e.revision, kind, name: e.name.name.to_string(), value: value(object) }
}

fn prove(store: &Store, operations: u64) {
    let run = Arc::new(Run {
        cluster: store.cluster("c").unwrap(),
        history: History::default(),
        left: operations.into(),
        value: 0.into(),
        over: false.into(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let writers: Vec<_> = (0..WRITERS).map(|i| tokio::spawn(run.clone().writes(i))).collect();
        let mut others = vec![tokio::spawn(run.clone().compacts())];
        for i in 0..2 {
            others.push(tokio::spawn(run.clone().lists(100 + i)));
            others.push(tokio::spawn(run.clone().watches(200 + i, i == 0)));
            others.push(tokio::spawn(run.clone().watches(300 + i, false)));
        }
        for w in writers {
            w.await.unwrap();
        }
        run.over.store(true, Ordering::Relaxed);
        for o in others {
            o.await.unwrap();
        }
    });
    let proved = run.history.check().unwrap();
    println!("{proved:?}");
    let tried = usize::try_from(operations).unwrap();
    assert!(proved.writes > tried / 2 && proved.events > tried / 2, "{proved:?}");
    assert!(proved.lists > 10 && proved.watches > 4, "{proved:?}");
}

#[test]
fn memory_tells_one_history() {
    prove(&Store::in_memory(), operations());
}

#[test]
fn the_embedded_engine_tells_one_history() {
    let directory = tempfile::tempdir().unwrap();
    prove(&Store::open(directory.path()).unwrap(), operations() / 4);
}
