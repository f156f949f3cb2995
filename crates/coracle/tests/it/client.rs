//! kube-rs's own client: watch and reflector, initial events, bookmarks, 410.

use crate::{cluster::Cluster, durability::client};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::json;
use std::time::Duration;

fn map(name: &str, label: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"l": label}}})).unwrap()
}

#[test]
fn watches_and_reflectors_see_everything_in_order() {
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let api: Api<ConfigMap> =
            Api::namespaced(client(&cluster.kubeconfig()).await, "kube-node-lease");
        let (store, writer) = reflector::store();
        // Both ways of listing first: a list and a watch, and a watch that begins with a list.
        let stream =
            reflector(writer, watcher(api.clone(), watcher::Config::default().streaming_lists()))
                .applied_objects();
        tokio::spawn(async move { stream.for_each(|_| async {}).await });
        store.wait_until_ready().await.unwrap();
        let first = api.create(&PostParams::default(), &map("m0", "a")).await.unwrap();
        let mut from = api
            .watch(
                &WatchParams::default().labels("l=a"),
                first.resource_version().as_deref().unwrap(),
            )
            .await
            .unwrap()
            .boxed();
        for i in 1..300 {
            api.create(&PostParams::default(), &map(&format!("m{i}"), "a")).await.unwrap();
        }
        // Leaving the selection is a deletion to those who look through it.
        api.patch(
            "m1",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"labels": {"l": "b"}}})),
        )
        .await
        .unwrap();
        api.delete("m2", &DeleteParams::default()).await.unwrap();
        let mut seen: Vec<(String, String, u64)> = Vec::new();
        while seen.len() < 301 {
            let event = tokio::time::timeout(Duration::from_secs(20), from.try_next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let (kind, o) = match event {
                WatchEvent::Added(o) => ("added", o),
                WatchEvent::Modified(o) => ("modified", o),
                WatchEvent::Deleted(o) => ("deleted", o),
                other => panic!("{other:?}"),
            };
            seen.push((kind.into(), o.name_any(), o.resource_version().unwrap().parse().unwrap()));
        }
        let names: Vec<String> = seen[..299].iter().map(|(_, n, _)| n.clone()).collect();
        assert_eq!(names, (1..300).map(|i| format!("m{i}")).collect::<Vec<_>>());
        let end: Vec<(&str, &str)> =
            seen[299..].iter().map(|(k, n, _)| (k.as_str(), n.as_str())).collect();
        assert_eq!(end, [("deleted", "m1"), ("deleted", "m2")]);
        assert!(seen.windows(2).all(|w| w[0].2 < w[1].2), "revisions grow");
        cluster.eventually("the reflector has caught up", || {
            (store.state().iter().filter(|m| m.name_any().starts_with('m')).count() == 299)
                .then_some(())
        });
    });
}

/// So that the next watch can begin where this one ended, though nothing happened to its objects.
#[test]
fn a_watch_tells_its_progress_before_it_ends() {
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let api: Api<ConfigMap> =
            Api::namespaced(client(&cluster.kubeconfig()).await, "kube-node-lease");
        let nothing = WatchParams::default().labels("l=none").timeout(3);
        let stream = api.watch(&nothing, "1").await.unwrap().boxed();
        let newest = api.create(&PostParams::default(), &map("m", "a")).await.unwrap();
        let events: Vec<_> = stream.try_collect().await.unwrap();
        let [WatchEvent::Bookmark(b)] = events.as_slice() else { panic!("{events:?}") };
        let number = |r: &str| r.parse::<u64>().unwrap();
        assert!(
            number(&b.metadata.resource_version) >= number(&newest.resource_version().unwrap())
        );
    });
}
