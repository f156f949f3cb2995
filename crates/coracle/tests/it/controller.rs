//! A controller as people write them with kube-rs: a derived definition, server-side apply, owned
//! objects, status, finalizer.

use crate::{cluster::Cluster, durability::client};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{
        Controller,
        conditions::is_crd_established,
        controller::Action,
        finalizer::{Event, finalizer},
        wait::await_condition,
        watcher,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "press.example.com",
    version = "v1",
    kind = "Page",
    namespaced,
    status = "PageStatus",
    shortname = "pg",
    printcolumn = r#"{"name": "Title", "type": "string", "jsonPath": ".spec.title"}"#,
    validation = "self.spec.title != 'forbidden'"
)]
struct PageSpec {
    /// What stands on top.
    #[schemars(length(min = 1, max = 20))]
    title: String,
    /// How often it is printed.
    #[serde(default = "one")]
    copies: u32,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct PageStatus {
    printed: u32,
    generation: i64,
}

struct Context {
    client: Client,
    cleaned: AtomicUsize,
}

type Error = kube::runtime::finalizer::Error<kube::Error>;

async fn reconcile(page: Arc<Page>, context: Arc<Context>) -> Result<Action, Error> {
    let pages = Api::<Page>::namespaced(context.client.clone(), "default");
    finalizer(&pages, "press.example.com/clean", page, |event| async {
        match event {
            Event::Apply(page) => print(&context.client, &page).await,
            Event::Cleanup(_) => {
                context.cleaned.fetch_add(1, Ordering::SeqCst);
                Ok(Action::await_change())
            }
        }
    })
    .await
}

async fn print(client: &Client, page: &Page) -> Result<Action, kube::Error> {
    let by = PatchParams::apply("press").force();
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": page.name_any(), "ownerReferences": [page.controller_owner_ref(&())]},
        "data": {"title": page.spec.title, "copies": page.spec.copies.to_string()}});
    maps.patch(&page.name_any(), &by, &Patch::Apply(map)).await?;
    let pages = Api::<Page>::namespaced(client.clone(), "default");
    let status = json!({"apiVersion": "press.example.com/v1", "kind": "Page",
        "status": {"printed": page.spec.copies, "generation": page.meta().generation}});
    pages.patch_status(&page.name_any(), &by, &Patch::Apply(status)).await?;
    Ok(Action::await_change())
}

async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = check().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not happen: {what}");
}

#[test]
fn a_derived_definition_has_its_controller() {
    let cluster = Cluster::start(&["--no-default-nodepool", "--in-memory"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(&cluster.kubeconfig()).await;
        let definitions = Api::<CustomResourceDefinition>::all(client.clone());
        let by = PatchParams::apply("press").force();
        definitions
            .patch("pages.press.example.com", &by, &Patch::Apply(Page::crd()))
            .await
            .unwrap();
        let established =
            await_condition(definitions, "pages.press.example.com", is_crd_established());
        tokio::time::timeout(Duration::from_secs(20), established).await.unwrap().unwrap();

        let pages = Api::<Page>::namespaced(client.clone(), "default");
        let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
        let context = Arc::new(Context { client: client.clone(), cleaned: AtomicUsize::new(0) });
        let controller = Controller::new(pages.clone(), watcher::Config::default())
            .owns(maps.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), context.clone());
        let running = tokio::spawn(controller.for_each(|done| async move {
            if let Err(error) = done {
                println!("{error:?}");
            }
        }));

        // The schema's limits and rules hold.
        let page = |title: &str| Page::new("front", PageSpec { title: title.into(), copies: 3 });
        for (title, why) in
            [("", "at least 1 chars long"), ("forbidden", "failed rule: self.spec.title")]
        {
            let error = pages.create(&PostParams::default(), &page(title)).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        pages.create(&PostParams::default(), &page("News")).await.unwrap();
        let title = |wanted: &'static str| {
            let maps = maps.clone();
            async move || {
                let map = maps.get_opt("front").await.unwrap()?;
                (map.data?.get("title")? == wanted).then_some(())
            }
        };
        eventually("the map of a page", title("News")).await;
        let settled = async |generation: i64| {
            eventually("the status of a generation", async || {
                let status = pages.get_status("front").await.unwrap().status?;
                (status.generation == generation && status.printed == 3).then_some(())
            })
            .await;
        };
        settled(1).await;
        let merge = PatchParams::default();
        pages
            .patch("front", &merge, &Patch::Merge(json!({"spec": {"title": "Late news"}})))
            .await
            .unwrap();
        eventually("the changed map", title("Late news")).await;
        settled(2).await;
        // What it owns comes back, and goes with it.
        maps.delete("front", &DeleteParams::default()).await.unwrap();
        eventually("the map again", title("Late news")).await;
        pages.delete("front", &DeleteParams::default()).await.unwrap();
        eventually("the page is gone", async || {
            pages.get_opt("front").await.unwrap().is_none().then_some(())
        })
        .await;
        assert_eq!(context.cleaned.load(Ordering::SeqCst), 1);
        eventually("its map is gone", async || {
            maps.get_opt("front").await.unwrap().is_none().then_some(())
        })
        .await;
        running.abort();
    });
    let columns = cluster.kubectl(&[
        "get",
        "crd",
        "pages.press.example.com",
        "-o",
        "jsonpath={.spec.names.shortNames}",
    ]);
    assert_eq!(columns, "[\"pg\"]");
}
