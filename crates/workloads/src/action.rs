//! What a controller wants done, as data.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// A kind that controllers write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// `group/version`, or `v1`.
    pub api_version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural.
    pub plural: &'static str,
}

const fn resource(api_version: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource { api_version, kind, plural }
}

/// Pods.
pub const PODS: Resource = resource("v1", "Pod", "pods");
/// Nodes.
pub const NODES: Resource = resource("v1", "Node", "nodes");
/// Namespaces.
pub const NAMESPACES: Resource = resource("v1", "Namespace", "namespaces");
/// Service accounts.
pub const SERVICE_ACCOUNTS: Resource = resource("v1", "ServiceAccount", "serviceaccounts");
/// Config maps.
pub const CONFIG_MAPS: Resource = resource("v1", "ConfigMap", "configmaps");
/// Persistent volume claims.
pub const CLAIMS: Resource = resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims");
/// Deployments.
pub const DEPLOYMENTS: Resource = resource("apps/v1", "Deployment", "deployments");
/// Replica sets.
pub const REPLICA_SETS: Resource = resource("apps/v1", "ReplicaSet", "replicasets");
/// Stateful sets.
pub const STATEFUL_SETS: Resource = resource("apps/v1", "StatefulSet", "statefulsets");
/// Daemon sets.
pub const DAEMON_SETS: Resource = resource("apps/v1", "DaemonSet", "daemonsets");
/// Controller revisions.
pub const REVISIONS: Resource = resource("apps/v1", "ControllerRevision", "controllerrevisions");
/// Jobs.
pub const JOBS: Resource = resource("batch/v1", "Job", "jobs");
/// Cron jobs.
pub const CRON_JOBS: Resource = resource("batch/v1", "CronJob", "cronjobs");
/// Pod disruption budgets.
pub const BUDGETS: Resource = resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets");

/// One request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create an object.
    Create {
        /// Its kind.
        resource: Resource,
        /// Its namespace, or empty.
        namespace: String,
        /// The object.
        object: Value,
    },
    /// Merge-patch an object.
    Patch {
        /// Its kind.
        resource: Resource,
        /// Its namespace, or empty.
        namespace: String,
        /// Its name.
        name: String,
        /// Subresource, or empty.
        subresource: &'static str,
        /// RFC 7386. A resourceVersion in it is a precondition.
        patch: Value,
    },
    /// Delete an object.
    Delete {
        /// Its kind.
        resource: Resource,
        /// Its namespace, or empty.
        namespace: String,
        /// Its name.
        name: String,
        /// Only if it has this UID.
        uid: String,
        /// Seconds of grace, if not the object's own.
        grace_seconds: Option<i64>,
        /// What becomes of dependents.
        propagation: &'static str,
    },
    /// Record an event about the object that is being reconciled.
    Event {
        /// `Normal` or `Warning`.
        kind: &'static str,
        /// Reason, in CamelCase.
        reason: &'static str,
        /// Message.
        message: String,
    },
}

/// What to do now, and when to look again if nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Requests, in order.
    pub actions: Vec<Action>,
    /// Look again after this long.
    pub again_after: Option<Duration>,
}

impl Decision {
    /// A decision to do these.
    pub fn of(actions: Vec<Action>) -> Self {
        Self { actions, again_after: None }
    }

    /// Look again at the latest after `d`.
    pub fn look_again(&mut self, d: Duration) {
        self.again_after = Some(self.again_after.map_or(d, |a| a.min(d)));
    }
}

impl Action {
    /// Creates a typed object.
    pub fn create(resource: Resource, namespace: &str, object: &impl Serialize) -> Self {
        let mut object = to_value(object);
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        Self::Create { resource, namespace: namespace.into(), object }
    }

    /// Merge-patches an object.
    pub fn patch(
        resource: Resource,
        meta: &ObjectMeta,
        subresource: &'static str,
        patch: Value,
    ) -> Self {
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        Self::Patch { resource, namespace, name, subresource, patch }
    }

    /// Deletes an object in the background.
    pub fn delete(resource: Resource, meta: &ObjectMeta) -> Self {
        Self::Delete {
            resource,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            grace_seconds: None,
            propagation: "Background",
        }
    }

    /// An ordinary event.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event { kind: "Normal", reason, message: message.into() }
    }

    /// A warning.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event { kind: "Warning", reason, message: message.into() }
    }
}

/// A typed object as JSON. Kubernetes' types always serialise.
pub fn to_value(v: &impl Serialize) -> Value {
    serde_json::to_value(v).unwrap_or_default()
}

/// The reference of a controller to what it made.
pub fn controller_ref(resource: Resource, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version.into(),
        kind: resource.kind.into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Patches the status when it differs from what is there; `null`s remove fields.
pub fn status_patch(
    resource: Resource,
    meta: &ObjectMeta,
    old: &impl Serialize,
    new: &Value,
) -> Option<Action> {
    let old = to_value(old);
    let mut patch = serde_json::Map::new();
    for (k, v) in new.as_object().into_iter().flatten() {
        if old.get(k).unwrap_or(&Value::Null) != v {
            patch.insert(k.clone(), v.clone());
        }
    }
    (!patch.is_empty()).then(|| Action::patch(resource, meta, "status", json!({"status": patch})))
}
