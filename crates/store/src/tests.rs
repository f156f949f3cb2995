//! A model test: random writes against a plain map, with lists at every revision and watches from
//! every revision.

use crate::{object::Name, *};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn encoded(text: &str) -> Encoded {
    let json = format!("{{\"metadata\":{{\"resourceVersion\":\"\"}},\"v\":\"{text}\"}}");
    Encoded::new(json.into_bytes(), 0, Header::default(), 0).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn key(name: &str) -> Key {
    Key::new(&Arc::from("pods"), "ns", name)
}

type Model = BTreeMap<String, u64>;

fn names(s: &Snapshot) -> Model {
    s.iter(None, None).map(|(n, o)| (n.name.to_string(), o.revision)).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8),
    Delete(u8),
    Compact,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![6 => (0u8..6).prop_map(Op::Put), 3 => (0u8..6).prop_map(Op::Delete), 1 => Just(Op::Compact)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_plain_map(ops in proptest::collection::vec(op(), 1..60)) {
        runtime().block_on(async {
            let store = Store::in_memory();
            let cluster = store.cluster("c").unwrap();
            let mut history: Vec<(u64, Model)> = vec![(cluster.revision(), Model::new())];
            let mut compacted = cluster.revision();
            let mut early = cluster.watch("pods", compacted).unwrap();
            let mut seen = Model::new();
            for op in ops {
                let mut model = history.last().unwrap().1.clone();
                match op {
                    Op::Put(n) => {
                        let name = n.to_string();
                        let expect = model.get(&name).map_or(Expect::Absent, |r| Expect::Revision(*r));
                        let o = cluster.commit(Write { key: key(&name), expect, object: Some(encoded(&name)) }).await.unwrap();
                        assert!(String::from_utf8_lossy(&o.bytes).contains(&format!("\"resourceVersion\":\"{}\"", o.revision)));
                        model.insert(name, o.revision);
                        history.push((o.revision, model));
                    }
                    Op::Delete(n) => {
                        let name = n.to_string();
                        let expect = model.get(&name).map_or(Expect::Revision(0), |r| Expect::Revision(*r));
                        let result = cluster.commit(Write { key: key(&name), expect, object: None }).await;
                        assert_eq!(result.is_ok(), model.remove(&name).is_some());
                        if let Ok(o) = result {
                            history.push((o.revision, model));
                        }
                    }
                    Op::Compact => {
                        // A watch that keeps up is not hurt by compaction.
                        for e in early.poll().unwrap().events {
                            apply(&mut seen, &e);
                        }
                        compacted = cluster.revision();
                        cluster.compact(compacted);
                    }
                }
            }
            let (newest, model) = history.last().unwrap().clone();
            assert_eq!(cluster.revision(), newest);
            assert_eq!(names(&cluster.snapshot("pods")), model);
            for e in early.poll().unwrap().events {
                apply(&mut seen, &e);
            }
            assert_eq!(seen, model);
            for (revision, at) in &history {
                let list = cluster.snapshot_at("pods", *revision);
                let watch = cluster.watch("pods", *revision);
                if *revision < compacted {
                    assert_eq!(list.err(), Some(RevisionError::Compacted(compacted)));
                    assert_eq!(watch.err(), Some(RevisionError::Compacted(compacted)));
                    continue;
                }
                assert_eq!(&names(&list.unwrap()), at);
                let mut state = at.clone();
                let batch = watch.unwrap().poll().unwrap();
                assert!(batch.events.windows(2).all(|w| w[0].revision < w[1].revision));
                batch.events.iter().for_each(|e| apply(&mut state, e));
                assert_eq!(&state, &model);
                assert_eq!(batch.progress, newest);
            }
        });
    }
}

fn apply(model: &mut Model, e: &Event) {
    let text = String::from_utf8_lossy(&e.object.bytes).into_owned();
    let name = text.rsplit('"').nth(1).unwrap().to_owned();
    match e.kind {
        EventKind::Added => assert!(model.insert(name, e.revision).is_none()),
        EventKind::Modified => assert!(model.insert(name, e.revision).is_some()),
        EventKind::Deleted => assert!(model.remove(&name).is_some()),
    }
}

#[test]
fn conflicts_write_nothing() {
    runtime().block_on(async {
        let cluster = Store::in_memory().cluster("c").unwrap();
        let put = |expect| Write { key: key("a"), expect, object: Some(encoded("a")) };
        let a = cluster.commit(put(Expect::Absent)).await.unwrap();
        for expect in [Expect::Absent, Expect::Revision(a.revision + 1)] {
            match cluster.commit(put(expect)).await {
                Err(CommitError::Conflict(Some(c))) => assert_eq!(c.revision, a.revision),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(cluster.revision(), a.revision);
    });
}

#[test]
fn a_reopened_store_has_everything_and_goes_on_after_its_last_revision() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (mut revision, mut a) = (0, 0);
        for round in 0..3 {
            let store = Store::open(dir.path()).unwrap();
            assert!(matches!(Store::open(dir.path()), Err(OpenError::InUse)));
            let cluster = store.cluster("c").unwrap();
            assert!(cluster.revision() >= revision);
            let expect = if round == 0 { Expect::Absent } else { Expect::Revision(a) };
            a = cluster
                .commit(Write { key: key("a"), expect, object: Some(encoded("a")) })
                .await
                .unwrap()
                .revision;
            let b = key(&format!("b{round}"));
            cluster
                .commit(Write {
                    key: b.clone(),
                    expect: Expect::Absent,
                    object: Some(encoded("b")),
                })
                .await
                .unwrap();
            assert_eq!(cluster.snapshot("pods").len(), round + 2);
            let gone = cluster.get(&b).unwrap();
            assert_eq!(gone.header(|_| Header::default()).label("x"), None);
            revision = cluster.revision();
            assert!(store.cluster("other").unwrap().snapshot("pods").is_empty());
            // The committer owns the engine too; let it go before opening again.
            drop((store, cluster));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
}

#[test]
fn expired_objects_go_away_with_an_event() {
    runtime().block_on(async {
        let cluster = Store::in_memory().cluster("c").unwrap();
        let json = b"{\"resourceVersion\":\"\",\"v\":\"a\"}".to_vec();
        let object = Encoded::new(json, 0, Header::default(), 100);
        let a =
            cluster.commit(Write { key: key("a"), expect: Expect::Absent, object }).await.unwrap();
        let mut watch = cluster.watch("pods", a.revision).unwrap();
        cluster.expire(99).await;
        cluster.expire(100).await;
        let batch = watch.next().await.unwrap();
        assert_eq!((batch.events.len(), batch.events[0].kind), (1, EventKind::Deleted));
        assert!(cluster.snapshot("pods").is_empty());
    });
}

#[test]
fn pages_go_on_after_a_name() {
    runtime().block_on(async {
        let cluster = Store::in_memory().cluster("c").unwrap();
        for (ns, n) in [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")] {
            let key = Key::new(&Arc::from("pods"), ns, n);
            cluster
                .commit(Write { key, expect: Expect::Absent, object: Some(encoded(n)) })
                .await
                .unwrap();
        }
        let s = cluster.snapshot("pods");
        let list = |ns, after: Option<&Name>| {
            s.iter(ns, after)
                .map(|(n, _)| format!("{}/{}", n.namespace, n.name))
                .collect::<Vec<_>>()
        };
        assert_eq!(list(Some("a"), None), ["a/1", "a/2"]);
        let after = Name { namespace: "a".into(), name: "2".into() };
        assert_eq!(list(None, Some(&after)), ["b/1", "c/1"]);
        assert!(list(Some("a"), Some(&after)).is_empty());
    });
}
