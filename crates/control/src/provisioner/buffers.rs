//! Capacity buffers: room for pods that are not there yet. Each becomes pods of no priority that take
//! part in every plan, and that nobody else ever sees.

use super::Shared;
use crate::{
    Stop,
    api::{Error, path},
    informer::{Key, key},
    karpenter::{BUFFER_API, map, text, with_condition},
    queue::Queue,
};
use coracle_provisioning::buffer::Wanted;
use coracle_scheduling::{PodSpec, Profile, Snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

/// What a buffer refers to is looked at again this often.
const REFRESH: Duration = Duration::from_secs(30);
/// The only strategy that there is.
const ACTIVE: &str = "buffer.x-k8s.io/active-capacity";
/// Most chunks of one buffer: a typing error should not buy a data centre.
const MOST: usize = 10_000;

/// Pods that stand for the room of each buffer.
pub(super) type Room = BTreeMap<Key, Vec<Arc<PodSpec>>>;

pub(super) fn start(shared: &Arc<Shared>, stop: &Stop, tasks: &mut JoinSet<()>) {
    let queue: Arc<Queue<Key>> = Queue::new();
    let (q, s) = (queue.clone(), shared.clone());
    shared.karpenter.buffers.on_change(move |c| {
        match c.new {
            Some(o) if c.old.is_none_or(|old| old.data["spec"] != o.data["spec"]) => {
                q.add(key(&**o))
            }
            Some(_) => return,
            None => c.old.iter().for_each(|o| drop(s.room.lock().remove(&key(&***o)))),
        }
        s.wake_disruption.notify_one();
    });
    let shared = shared.clone();
    queue.work("capacity-buffers", 1, stop, tasks, move |k| {
        let shared = shared.clone();
        async move {
            shared.synced().await;
            let Some(o) = shared.karpenter.buffers.get(&k.0, &k.1) else { return Ok(None) };
            let before = shared.room.lock().get(&k).map_or(0, Vec::len);
            let found = shared.resolve(&o).await;
            shared.keep(&o, &found);
            if shared.room.lock().get(&k).map_or(0, Vec::len) != before {
                shared.wake_provision.notify_one();
                shared.wake_disruption.notify_one();
            }
            if let Err(Unresolved::Now(error)) = found {
                return Err(error);
            }
            shared.buffer_status(&o, &found).await?;
            Ok(Some(REFRESH))
        }
    });
}

/// Why a buffer comes to nothing.
enum Unresolved {
    /// It is wrong, or refers to what is not there.
    Wrong(String),
    /// The cluster did not answer.
    Now(Error),
}

impl From<String> for Unresolved {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// What a buffer comes to.
struct Resolved {
    chunks: usize,
    /// The shape of each.
    pod: Pod,
    /// Name and generation of the template, if it is one.
    template: Option<(String, i64)>,
}

impl Shared {
    /// All room that buffers keep.
    pub(super) fn room(&self) -> Vec<Arc<PodSpec>> {
        self.room.lock().values().flatten().cloned().collect()
    }

    /// Reads all buffers, for who asks what-if.
    pub(super) async fn resolve_buffers(&self) {
        for o in self.karpenter.buffers.all() {
            let found = self.resolve(&o).await;
            self.keep(&o, &found);
        }
    }

    fn keep(&self, o: &DynamicObject, found: &Result<Resolved, Unresolved>) {
        let k = key(o);
        if matches!(found, Err(Unresolved::Now(_))) {
            // The room stays as it was until somebody knows better.
            return;
        }
        let pods = found.iter().flat_map(|r| {
            let base = PodSpec::from_pod(&r.pod);
            (0..r.chunks).map(move |i| {
                let mut pod = base.clone();
                pod.key.name = format!("{}-{i}", pod.key.name);
                Arc::new(pod)
            })
        });
        let pods: Vec<_> = pods.collect();
        self.room.lock().insert(k, pods);
    }

    async fn resolve(&self, o: &DynamicObject) -> Result<Resolved, Unresolved> {
        let spec = &o.data["spec"];
        let (namespace, name) = key(o);
        if spec["provisioningStrategy"].as_str().is_some_and(|s| s != ACTIVE) {
            return Err(format!("spec.provisioningStrategy: only {ACTIVE} is known").into());
        }
        let get = async |api: &str, plural: &str, name: &str| {
            let at = path(api, plural, &namespace, name, "");
            self.writer.send("GET", &at, "application/json", &Value::Null).await.map_err(
                |e| match e.code() {
                    Some(404) => Unresolved::Wrong(e.to_string()),
                    _ => Unresolved::Now(e),
                },
            )
        };
        let (template, scale, observed) = if spec["podTemplateRef"].is_object() {
            let name = text(&spec["podTemplateRef"]["name"]);
            let t = get("v1", "podtemplates", &name).await?;
            let generation = t["metadata"]["generation"].as_i64().unwrap_or(0);
            (t["template"].clone(), 0, Some((name, generation)))
        } else if spec["scalableRef"].is_object() {
            let of = &spec["scalableRef"];
            let plural = match (of["apiGroup"].as_str(), of["kind"].as_str()) {
                (Some("apps"), Some("Deployment")) => "deployments",
                (Some("apps"), Some("StatefulSet")) => "statefulsets",
                (Some("apps"), Some("ReplicaSet")) => "replicasets",
                _ => return Err("spec.scalableRef: only Deployment, StatefulSet and ReplicaSet of apps are known".to_owned().into()),
            };
            let found = get("apps/v1", plural, &text(&of["name"])).await?;
            let replicas = found["spec"]["replicas"].as_u64().unwrap_or(1);
            (found["spec"]["template"].clone(), usize::try_from(replicas).unwrap_or(0), None)
        } else {
            return Err("spec: podTemplateRef or scalableRef must be set".to_owned().into());
        };
        let mut spec_of_pod = template["spec"].clone();
        // Whatever is real comes first.
        spec_of_pod["priority"] = json!(i32::MIN);
        let shape = json!({"metadata": {"name": format!("buffer-{name}"), "namespace": namespace, "labels": template["metadata"]["labels"]}, "spec": spec_of_pod});
        let pod: Pod = serde_json::from_value(shape)
            .map_err(|e| Unresolved::Wrong(format!("the pod template cannot be read: {e}")))?;
        let number = |f: &str| spec[f].as_u64().and_then(|n| n.try_into().ok());
        let limits = map(&spec["limits"]);
        let limit = |(k, v): (&String, &String)| {
            let q = v.parse::<coracle_meta::Quantity>().ok()?;
            Some((k.clone(), if k.ends_with("cpu") { q.millis_ceil() } else { q.units_ceil() }))
        };
        let wanted = Wanted {
            replicas: number("replicas"),
            percentage: number("percentage"),
            limits: limits.iter().filter_map(limit).collect(),
        };
        let chunks = wanted.chunks(scale, &PodSpec::from_pod(&pod).requests).min(MOST);
        Ok(Resolved { chunks, pod, template: observed })
    }

    async fn buffer_status(
        &self,
        o: &DynamicObject,
        found: &Result<Resolved, Unresolved>,
    ) -> Result<(), Error> {
        let (ok, reason, message) = match found {
            Ok(_) => (true, "Resolved", ""),
            Err(Unresolved::Wrong(why)) => (false, "NotResolved", why.as_str()),
            Err(Unresolved::Now(_)) => return Ok(()),
        };
        let conditions =
            with_condition(o, "ReadyForProvisioning", ok, reason, message, Timestamp::now());
        let replicas = found.as_ref().map_or(0, |r| r.chunks);
        if conditions.is_none() && o.data["status"]["replicas"] == replicas {
            return Ok(());
        }
        let mut status = json!({"replicas": replicas, "provisioningStrategy": ACTIVE});
        if let Some(all) = conditions {
            status["conditions"] = json!(all);
        }
        if let Ok(Resolved { template: Some((name, generation)), .. }) = found {
            status["podTemplateRef"] = json!({"name": name});
            status["podTemplateGeneration"] = json!(generation);
        }
        let (namespace, name) = key(o);
        let at = path(BUFFER_API, "capacitybuffers", &namespace, &name, "status");
        self.writer.patch(&at, &json!({"status": status})).await.map(drop)
    }
}

/// Puts pods that are not bound, or not there, onto nodes as the scheduler might. Returns them by node,
/// and how many found no place.
pub(super) fn occupy(
    snapshot: &mut Snapshot,
    pods: Vec<Arc<PodSpec>>,
) -> (HashMap<String, Vec<Arc<PodSpec>>>, usize) {
    let mut by_node: HashMap<String, Vec<Arc<PodSpec>>> = HashMap::new();
    let mut homeless = 0;
    for pod in pods {
        match snapshot.schedule(&pod, Profile::Pack) {
            Ok(node) => {
                snapshot.add_pod(pod.clone(), &node);
                by_node.entry(node).or_default().push(pod);
            }
            Err(_) => homeless += 1,
        }
    }
    (by_node, homeless)
}
