//! Sending actions to the API server.

use coracle_meta::time::rfc3339;
use coracle_workloads::{Action, Resource};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use serde_json::{Value, json};

/// Why a part could not do what it wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("{what}: {}", message(.source))]
    Api {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// A request could not be made.
    #[error("{0}")]
    Request(String),
}

/// What the server said, without the rest of its Status.
fn message(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(s) => s.message.clone(),
        e => e.to_string(),
    }
}

impl Error {
    /// The HTTP status, if the server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(s) => Some(s.code),
                _ => None,
            },
            Self::Request(_) => None,
        }
    }

    /// Whether nothing can be created because the namespace is being deleted.
    pub fn is_namespace_going(&self) -> bool {
        self.code() == Some(403) && self.to_string().contains("is being terminated")
    }

    /// Whether somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }
}

/// Writes for one part, as itself.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    component: &'static str,
}

/// The newest revisions that a set of writes made, so that the writer can wait to see them.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Newest revision of pods.
    pub pods: u64,
    /// Newest revision of anything else, with its kind.
    pub others: Vec<(Resource, u64)>,
}

/// The path of a collection or an object.
pub fn path(
    api_version: &str,
    plural: &str,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> String {
    let root = if api_version.contains('/') { "apis" } else { "api" };
    let mut p = format!("/{root}/{api_version}");
    if !namespace.is_empty() {
        p += &format!("/namespaces/{namespace}");
    }
    p += &format!("/{plural}");
    for part in [name, subresource].iter().filter(|s| !s.is_empty()) {
        p += &format!("/{}", part.replace('%', "%25").replace('/', "%2F"));
    }
    p
}

impl Writer {
    /// Writes with a client; events name the component.
    pub fn new(client: &Client, component: &'static str) -> Self {
        Self { client: client.clone(), component }
    }

    /// The program of upstream that does a component's work: whose fields it writes.
    fn program(&self) -> &'static str {
        match self.component {
            "default-scheduler" => "kube-scheduler",
            "kubelet" | "karpenter" => self.component,
            _ => "kube-controller-manager",
        }
    }

    /// The client below.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends one request.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let bytes = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("user-agent", self.program())
            .body(bytes);
        let request = request.map_err(|e| Error::Request(e.to_string()))?;
        let what = || format!("{method} {path}");
        self.client
            .request::<Value>(request)
            .await
            .map_err(|e| Error::Api { what: what(), source: Box::new(e) })
    }

    /// Merge-patches.
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Value, Error> {
        self.send("PATCH", path, "application/merge-patch+json", patch).await
    }

    /// Does what a decision says. Objects that are gone or there already are fine: the next look
    /// will tell.
    pub async fn act(
        &self,
        about: &ObjectMeta,
        about_kind: Resource,
        actions: Vec<Action>,
    ) -> Result<Written, Error> {
        let mut written = Written::default();
        for action in actions {
            let result = self.one(about, about_kind, &action).await;
            let (resource, value) = match (result, &action) {
                (
                    Ok(v),
                    Action::Create { resource, .. }
                    | Action::Patch { resource, .. }
                    | Action::Delete { resource, .. },
                ) => (*resource, v),
                (Ok(_), Action::Event { .. }) => continue,
                (Err(e), Action::Event { .. }) => {
                    tracing::debug!(error = %e, "an event was lost");
                    continue;
                }
                (Err(e), Action::Delete { .. } | Action::Patch { .. }) if e.code() == Some(404) => {
                    continue;
                }
                (Err(e), Action::Create { .. }) if e.is_conflict() || e.is_namespace_going() => {
                    continue;
                }
                (Err(e), Action::Create { .. }) => {
                    self.refused(about, about_kind, &action, &e).await;
                    return Err(e);
                }
                (Err(e), _) => return Err(e),
            };
            let revision = value["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|r| r.parse().ok())
                .unwrap_or(0);
            if resource == coracle_workloads::action::PODS {
                written.pods = written.pods.max(revision);
            } else {
                written.others.push((resource, revision));
            }
        }
        Ok(written)
    }

    async fn refused(&self, about: &ObjectMeta, kind: Resource, action: &Action, error: &Error) {
        let Action::Create { resource, .. } = action else { return };
        let message = format!("Error creating: {error}");
        tracing::debug!(kind = resource.kind, %error, "a creation was refused");
        self.event(about, kind, "Warning", "FailedCreate", &message).await;
    }

    async fn one(
        &self,
        about: &ObjectMeta,
        about_kind: Resource,
        action: &Action,
    ) -> Result<Value, Error> {
        match action {
            Action::Create { resource, namespace, object } => {
                let v = self
                    .send(
                        "POST",
                        &path(resource.api_version, resource.plural, namespace, "", ""),
                        "application/json",
                        object,
                    )
                    .await?;
                if *resource == coracle_workloads::action::PODS {
                    let name = v["metadata"]["name"].as_str().unwrap_or_default();
                    self.event(
                        about,
                        about_kind,
                        "Normal",
                        "SuccessfulCreate",
                        &format!("Created pod: {name}"),
                    )
                    .await;
                }
                Ok(v)
            }
            Action::Patch { resource, namespace, name, subresource, patch } => {
                self.patch(
                    &path(resource.api_version, resource.plural, namespace, name, subresource),
                    patch,
                )
                .await
            }
            Action::Delete { resource, namespace, name, uid, grace_seconds, propagation } => {
                let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation, "preconditions": {"uid": uid}});
                if let Some(g) = grace_seconds {
                    options["gracePeriodSeconds"] = json!(g);
                }
                let v = self
                    .send(
                        "DELETE",
                        &path(resource.api_version, resource.plural, namespace, name, ""),
                        "application/json",
                        &options,
                    )
                    .await?;
                if *resource == coracle_workloads::action::PODS
                    && about.name.as_deref() != Some(name)
                {
                    self.event(
                        about,
                        about_kind,
                        "Normal",
                        "SuccessfulDelete",
                        &format!("Deleted pod: {name}"),
                    )
                    .await;
                }
                Ok(v)
            }
            Action::Event { kind, reason, message } => {
                self.event(about, about_kind, kind, reason, message).await;
                Ok(Value::Null)
            }
        }
    }

    /// Records an event. One that says the same of the same object is counted up.
    pub async fn event(
        &self,
        about: &ObjectMeta,
        kind: Resource,
        event_type: &str,
        reason: &str,
        message: &str,
    ) {
        let (name, uid) =
            (about.name.clone().unwrap_or_default(), about.uid.clone().unwrap_or_default());
        if name.is_empty() {
            return; // About nothing in particular.
        }
        let namespace =
            about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let hash = coracle_workloads::pod::template_hash(
            &json!([uid, kind.kind, event_type, reason, message, self.component]),
            0,
        );
        let event_name = format!("{name}.{hash}");
        let now = rfc3339(Timestamp::now());
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": event_name, "namespace": namespace},
            "involvedObject": {"apiVersion": kind.api_version, "kind": kind.kind, "name": name, "namespace": about.namespace, "uid": uid, "resourceVersion": about.resource_version},
            "reason": reason, "message": message, "type": event_type, "count": 1,
            "source": {"component": self.component}, "reportingComponent": self.component, "reportingInstance": "",
            "firstTimestamp": now, "lastTimestamp": now,
        });
        let created = self
            .send("POST", &path("v1", "events", &namespace, "", ""), "application/json", &event)
            .await;
        if created.is_err_and(|e| e.is_conflict()) {
            let at = path("v1", "events", &namespace, &event_name, "");
            let request = Request::builder().uri(&at).body(vec![]);
            let Ok(request) = request else { return };
            // Events may be read by whoever may write them only in part; without it the count stays.
            let count = self
                .client
                .request::<Value>(request)
                .await
                .ok()
                .and_then(|e| e["count"].as_i64())
                .unwrap_or(1);
            let _ = self.patch(&at, &json!({"count": count + 1, "lastTimestamp": now})).await;
        }
    }
}
