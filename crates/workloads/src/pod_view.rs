//! A pod as the controllers, the scheduler and the provisioner see it.
//!
//! A typed pod takes 10 to 15 KB, and a cluster's process keeps every one. A [`PodView`] keeps what
//! is read: a few fields of the status as plain values, and a specification that pods of one
//! template share ([`Templates`]).

use coracle_scheduling::{PodSpec, pod::PodClass};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec as ApiSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube_core::Resource;
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

/// What is read of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Pod")]
pub struct PodView {
    /// Metadata, without managed fields, what `kubectl apply` notes, and labels: pods of one template
    /// share those ([`PodView::labels`]).
    pub metadata: ObjectMeta,
    /// The specification without the node's name, volumes, environment, commands and probes.
    pub spec: Arc<ApiSpec>,
    /// What it asks of a node.
    pub asks: Arc<PodSpec>,
    /// The node that it is bound to, or empty.
    pub node_name: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`, or empty.
    pub phase: String,
    /// Since when it is ready: the condition's last transition.
    pub ready: Readiness,
    /// The scheduler found no node for it.
    pub unschedulable: bool,
    /// The most often restarted of its containers.
    pub restarts: i32,
    /// When the last of its containers ended.
    pub ended: Option<Timestamp>,
    /// When its node took it.
    pub started: Option<Timestamp>,
}

/// The condition `Ready`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// False, unknown or not there.
    #[default]
    No,
    /// True since then, as far as the condition says.
    Since(Option<Timestamp>),
}

impl PodView {
    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.asks.labels
    }
}

impl From<Pod> for PodView {
    fn from(pod: Pod) -> Self {
        let mut metadata = pod.metadata;
        metadata.managed_fields = None;
        if let Some(a) = &mut metadata.annotations {
            a.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        let mut spec = pod.spec.unwrap_or_default();
        let asks = Arc::new(PodSpec::read(&metadata, &spec));
        metadata.labels = None;
        let node_name = spec.node_name.take().unwrap_or_default();
        trim(&mut spec);
        let status = pod.status.unwrap_or_default();
        let conditions = status.conditions.as_deref().unwrap_or_default();
        Self {
            ready: readiness(conditions),
            unschedulable: conditions.iter().any(|c| {
                c.type_ == "PodScheduled"
                    && c.status == "False"
                    && c.reason.as_deref() == Some("Unschedulable")
            }),
            restarts: containers(&status).map(|c| c.restart_count).max().unwrap_or(0),
            ended: containers(&status)
                .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
                .map(|t| t.0)
                .max(),
            started: status.start_time.as_ref().map(|t| t.0),
            phase: status.phase.unwrap_or_default(),
            metadata,
            spec: Arc::new(spec),
            asks,
            node_name,
        }
    }
}

fn readiness(conditions: &[PodCondition]) -> Readiness {
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True");
    ready.map_or(Readiness::No, |c| Readiness::Since(c.last_transition_time.as_ref().map(|t| t.0)))
}

fn containers(
    status: &PodStatus,
) -> impl Iterator<Item = &k8s_openapi::api::core::v1::ContainerStatus> {
    status.container_statuses.iter().flatten()
}

/// What nothing reads, and what differs between pods of one template.
fn trim(spec: &mut ApiSpec) {
    spec.volumes = None;
    spec.hostname = None;
    let container = |c: &mut Container| {
        *c = Container {
            name: std::mem::take(&mut c.name),
            image: c.image.take(),
            restart_policy: c.restart_policy.take(),
            ..Container::default()
        };
    };
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(container);
}

impl Resource for PodView {
    type DynamicType = ();
    type Scope = <Pod as Resource>::Scope;

    fn kind(dt: &()) -> Cow<'_, str> {
        Pod::kind(dt)
    }
    fn group(dt: &()) -> Cow<'_, str> {
        Pod::group(dt)
    }
    fn version(dt: &()) -> Cow<'_, str> {
        Pod::version(dt)
    }
    fn plural(dt: &()) -> Cow<'_, str> {
        Pod::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Specifications and classes that are in use, by the class's hash.
#[derive(Debug, Default)]
pub struct Templates {
    known: HashMap<u64, Vec<Template>>,
    /// How many may be known before those that no pod uses any more are forgotten.
    limit: usize,
}

#[derive(Debug)]
struct Template {
    spec: Weak<ApiSpec>,
    class: Weak<PodClass>,
}

/// Pods of one class whose specifications differ in more ways than this share no further.
const VARIANTS: usize = 8;

impl Templates {
    /// Lets a pod share the specification and the class of an equal one.
    pub fn share(&mut self, pod: &mut PodView) {
        let variants = self.known.entry(pod.asks.class_id).or_default();
        let equal = variants.iter().find_map(|t| {
            let (spec, class) = (t.spec.upgrade()?, t.class.upgrade()?);
            (spec == pod.spec && class == pod.asks.class).then_some((spec, class))
        });
        if let Some((spec, class)) = equal {
            pod.spec = spec;
            Arc::make_mut(&mut pod.asks).class = class;
            return;
        }
        variants.retain(|t| t.spec.strong_count() > 0);
        if variants.len() < VARIANTS {
            let (spec, class) = (Arc::downgrade(&pod.spec), Arc::downgrade(&pod.asks.class));
            variants.push(Template { spec, class });
        }
        if self.known.len() > self.limit {
            self.known.retain(|_, v| v.iter().any(|t| t.spec.strong_count() > 0));
            self.limit = (2 * self.known.len()).max(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(name: &str, image: &str) -> PodView {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"a": "b"}, "managedFields": [{"manager": "m"}]},
            "spec": {"nodeName": format!("on-{name}"), "containers": [{"name": "c", "image": image, "args": ["x"],
                "resources": {"requests": {"cpu": "250m"}}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_read_is_kept() {
        let p = view("p", "i");
        assert_eq!((p.node_name.as_str(), p.phase.as_str(), p.restarts), ("on-p", "Running", 3));
        assert_eq!(p.ready, Readiness::Since(Some("2026-01-01T00:00:05Z".parse().unwrap())));
        assert_eq!((p.asks.requests.cpu_milli, p.labels()["a"].as_str()), (250, "b"));
        assert!(p.metadata.managed_fields.is_none() && !p.unschedulable && p.ended.is_none());
    }

    #[test]
    fn pods_of_a_template_share_it() {
        let mut templates = Templates::default();
        let [mut a, mut b, mut c] = [view("a", "i"), view("b", "i"), view("c", "other")];
        [&mut a, &mut b, &mut c].into_iter().for_each(|p| templates.share(p));
        assert!(Arc::ptr_eq(&a.spec, &b.spec) && Arc::ptr_eq(&a.asks.class, &b.asks.class));
        assert!(!Arc::ptr_eq(&a.spec, &c.spec));
        assert_eq!((a.asks.key.name.as_str(), b.asks.key.name.as_str()), ("a", "b"));
    }

    #[test]
    fn what_no_pod_uses_is_forgotten() {
        let mut templates = Templates::default();
        for i in 0..5000 {
            let mut p = view("p", "i");
            let labels = Some([("n".to_owned(), i.to_string())].into());
            let metadata = ObjectMeta { labels, ..p.metadata.clone() };
            p.asks = Arc::new(PodSpec::read(&metadata, &p.spec));
            templates.share(&mut p);
        }
        assert!(templates.known.len() <= 1025);
    }
}
