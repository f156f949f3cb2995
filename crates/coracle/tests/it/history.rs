//! Writers, lists and watches at once through the API, judged by the checker of histories: no event
//! lost, none twice, one order for all, each list the state at its revision.
//! `CORACLE_HISTORY_OPS` says how many writes are tried (`cargo xtask history`: a million).

use crate::{cluster::Cluster, durability::client};
use coracle_testkit::{
    history::{Event, History, Kind, Listing, Object, Watch, Write},
    random::Random,
};
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

const MAPS: &str = "/api/v1/namespaces/history/configmaps";
const WRITERS: u64 = 8;
const NAMES: u64 = 200;

struct Run {
    client: Client,
    history: History,
    left: AtomicU64,
    value: AtomicU64,
    newest: AtomicU64,
    over: AtomicBool,
}

/// The objects of the history, or the selected ones among them.
fn selector(selects: bool) -> &'static str {
    if selects { "&labelSelector=selected%3Dtrue" } else { "&labelSelector=selected" }
}

fn revision(v: &Value) -> u64 {
    v["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn value(v: &Value) -> u64 {
    v["data"]["v"].as_str().unwrap().parse().unwrap()
}

impl Run {
    /// An answer and its status.
    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let content =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let response = self.client.send(request.body(bytes.into()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// Notes a write by the object that answered it.
    fn note(&self, answer: &Value) {
        let meta = &answer["metadata"];
        let gone = meta["deletionTimestamp"].is_string() && meta["finalizers"].is_null();
        let object =
            Object { value: value(answer), selected: meta["labels"]["selected"] == "true" };
        self.newest.fetch_max(revision(answer), Ordering::Relaxed);
        self.history.write(Write {
            revision: revision(answer),
            name: meta["name"].as_str().unwrap().to_owned(),
            object: (!gone).then_some(object),
        });
    }

    /// One request that may find that others were faster. Returns the object if it was written.
    async fn attempt(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        match self.send(method, path, Some(body)).await {
            (200 | 201, answer) => {
                self.note(&answer);
                Some(answer)
            }
            (404 | 409, _) => None,
            (other, answer) => panic!("{method} {path}: {other}: {answer}"),
        }
    }

    /// Creates, replaces, patches and deletes, and moves objects in and out of the selection.
    async fn writes(self: Arc<Self>, seed: u64) {
        let mut random = Random::new(seed);
        let one_less = |n: u64| n.checked_sub(1);
        while self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            let name = format!("n{:03}", random.below(NAMES));
            let path = format!("{MAPS}/{name}");
            let fresh = self.value.fetch_add(1, Ordering::Relaxed).to_string();
            let selected = random.below(3) > 0;
            let mut v = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "labels": {"selected": selected.to_string()}},
                "data": {"v": fresh}});
            match random.below(8) {
                0 | 1 => drop(self.attempt("POST", MAPS, &v).await),
                2 | 3 => {
                    let (status, current) = self.send("GET", &path, None).await;
                    if status == 200 {
                        v["metadata"]["resourceVersion"] =
                            current["metadata"]["resourceVersion"].clone();
                        self.attempt("PUT", &path, &v).await;
                    }
                }
                4 | 5 => drop(self.deletes(&path, &fresh).await),
                _ => drop(self.attempt("PATCH", &path, &v).await),
            }
        }
    }

    /// Deletes in steps that each tell their revision: a plain deletion answers with a Status that
    /// has none. Every step fails if somebody wrote in between.
    async fn deletes(&self, path: &str, fresh: &str) -> Option<()> {
        let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}, "data": {"v": fresh}});
        let held = self.attempt("PATCH", path, &hold).await?;
        let at = |v: &Value| v["metadata"]["resourceVersion"].clone();
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": at(&held)}});
        // Who was deleted already is not marked again: that would be no write.
        let waiting = match held["metadata"]["deletionTimestamp"].is_string() {
            true => held,
            false => self.attempt("DELETE", path, &options).await?,
        };
        let release = json!({"metadata": {"finalizers": null, "resourceVersion": at(&waiting)}});
        self.attempt("PATCH", path, &release).await.map(drop)
    }

    async fn lists(self: Arc<Self>, seed: u64) {
        let mut random = Random::new(seed);
        while !self.over.load(Ordering::Relaxed) {
            let selects = random.below(2) == 0;
            let mut path = match random.below(4) {
                0 => format!("{MAPS}?limit=37"),
                1 => {
                    let recent =
                        self.newest.load(Ordering::Relaxed).saturating_sub(random.below(200));
                    format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={}", recent.max(1))
                }
                2 => format!("{MAPS}?resourceVersion=0"),
                _ => format!("{MAPS}?"),
            };
            path += selector(selects);
            let first = path.clone();
            let mut items = BTreeMap::new();
            let mut at = None;
            loop {
                let (status, page) = self.send("GET", &path, None).await;
                assert_eq!(status, 200, "{path}: {page}");
                // All pages are at one revision.
                assert_eq!(*at.get_or_insert(revision(&page)), revision(&page), "{path}");
                for v in page["items"].as_array().unwrap() {
                    items.insert(v["metadata"]["name"].as_str().unwrap().to_owned(), value(v));
                }
                match page["metadata"]["continue"].as_str().filter(|t| !t.is_empty()) {
                    Some(token) => path = format!("{first}&continue={token}"),
                    None => break,
                }
            }
            self.history.list(Listing { revision: at.unwrap(), how: first, selects, items });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn watches(self: Arc<Self>, seed: u64, patient: bool) {
        let mut random = Random::new(seed);
        while !self.over.load(Ordering::Relaxed) {
            let selects = random.below(2) == 0;
            let streams = random.below(2) == 0;
            let after =
                self.newest.load(Ordering::Relaxed).saturating_sub(random.below(300)).max(1);
            let mut path = format!("{MAPS}?watch=1&allowWatchBookmarks=true");
            path += &match streams {
                true => "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
                false => format!("&resourceVersion={after}"),
            };
            path += selector(selects);
            let request = Request::get(&path).body(vec![].into()).unwrap();
            let mut body = self.client.send(request).await.unwrap().into_body();
            // Until the bookmark that ends them, events of a streamed list are the list.
            let mut initial = streams.then(BTreeMap::new);
            let mut seen = Watch { after, until: after, selects, events: vec![] };
            let most = if patient { usize::MAX } else { 500 };
            let (mut rest, mut idle) = (Vec::new(), false);
            while seen.events.len() < most && !idle {
                let next = tokio::time::timeout(Duration::from_millis(200), body.frame()).await;
                let Ok(frame) = next else {
                    idle = self.over.load(Ordering::Relaxed);
                    continue;
                };
                rest.extend_from_slice(
                    &frame.expect("the watch goes on").unwrap().into_data().unwrap(),
                );
                while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    let line: Value = serde_json::from_slice(&rest[..end]).unwrap();
                    rest.drain(..=end);
                    self.event(&line, &mut initial, &mut seen);
                }
            }
            if initial.is_none() {
                self.history.watch(seen);
            }
        }
    }

    fn event(&self, line: &Value, initial: &mut Option<BTreeMap<String, u64>>, seen: &mut Watch) {
        let o = &line["object"];
        let name = || o["metadata"]["name"].as_str().unwrap().to_owned();
        let kind = match line["type"].as_str().unwrap() {
            "BOOKMARK" => {
                if let Some(items) = initial.take() {
                    assert_eq!(o["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
                    let (revision, selects) = (revision(o), seen.selects);
                    self.history.list(Listing { revision, how: "a watch".into(), selects, items });
                    seen.after = revision;
                }
                seen.until = revision(o);
                return;
            }
            "ADDED" => Kind::Added,
            "MODIFIED" => Kind::Modified,
            "DELETED" => Kind::Deleted,
            other => panic!("{other}: {line}"),
        };
        if let Some(items) = initial {
            assert_eq!(kind, Kind::Added);
            items.insert(name(), value(o));
            return;
        }
        seen.until = revision(o);
        seen.events.push(Event { revision: revision(o), kind, name: name(), value: value(o) });
    }
}

#[test]
fn lists_and_watches_tell_one_history() {
    let operations: u64 = std::env::var("CORACLE_HISTORY_OPS").map_or(6000, |n| n.parse().unwrap());
    let c = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    c.kubectl(&["create", "namespace", "history"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let proved = runtime.block_on(async {
        let run = Arc::new(Run {
            client: client(&c.kubeconfig()).await,
            history: History::default(),
            left: operations.into(),
            value: 1.into(),
            newest: 0.into(),
            over: false.into(),
        });
        let (_, empty) = run.send("GET", MAPS, None).await;
        run.newest.store(revision(&empty), Ordering::Relaxed);
        let writers: Vec<_> = (0..WRITERS).map(|i| tokio::spawn(run.clone().writes(i))).collect();
        let others: Vec<_> = (0..2)
            .flat_map(|i| {
                [
                    tokio::spawn(run.clone().lists(100 + i)),
                    tokio::spawn(run.clone().watches(200 + i, true)),
                    tokio::spawn(run.clone().watches(300 + i, false)),
                ]
            })
            .collect();
        for w in writers {
            w.await.unwrap();
        }
        run.over.store(true, Ordering::Relaxed);
        for o in others {
            o.await.unwrap();
        }
        run.history.check()
    });
    let proved = proved.unwrap();
    println!("{proved:?}");
    let tried = usize::try_from(operations).unwrap();
    assert!(proved.writes > tried / 3 && proved.events > tried / 3, "{proved:?}");
    assert!(proved.lists > 10 && proved.watches > 4, "{proved:?}");
}
