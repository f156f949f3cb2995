//! ControllerRevisions: the history of templates that StatefulSets and DaemonSets keep.

use crate::{
    Action, Resource,
    action::{REVISIONS, controller_ref},
    pod,
};
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The label with which pods name their revision.
pub const LABEL: &str = "controller-revision-hash";

/// The revisions of an object, and which is current.
#[derive(Debug)]
pub struct History {
    /// Name of the revision of the wanted template.
    pub wanted: String,
    /// Its hash, the value of [`LABEL`].
    pub hash: String,
    /// What to create or change.
    pub actions: Vec<Action>,
}

fn data(template: &PodTemplateSpec) -> Value {
    let mut template = crate::action::to_value(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Finds or makes the revision of a template, and drops revisions beyond the limit that no pod
/// uses.
pub fn sync(
    owner: Resource,
    meta: &ObjectMeta,
    template: &PodTemplateSpec,
    revisions: &[Arc<ControllerRevision>],
    limit: i32,
    used: &[String],
) -> History {
    let mut sorted: Vec<_> = revisions.to_vec();
    sorted.sort_by_key(|r| r.revision);
    let wanted = data(template);
    let newest = sorted.last().and_then(|r| r.revision).unwrap_or(0);
    let name_of = |r: &ControllerRevision| r.metadata.name.clone().unwrap_or_default();
    let mut actions = Vec::new();
    let found = sorted.iter().rev().find(|r| r.data.0 == wanted);
    let (name, hash) = match found {
        Some(r) => {
            if r.revision.unwrap_or(0) < newest {
                // An old template that is wanted again becomes the newest revision.
                actions.push(Action::patch(
                    REVISIONS,
                    &r.metadata,
                    "",
                    json!({"revision": newest + 1}),
                ));
            }
            let label = r.metadata.labels.as_ref().and_then(|l| l.get(LABEL)).cloned();
            (name_of(r), label.unwrap_or_default())
        }
        None => {
            let hash = pod::template_hash(template, 0);
            let name = format!("{}-{hash}", meta.name.clone().unwrap_or_default());
            let labels = pod::with_label(
                template.metadata.as_ref().and_then(|m| m.labels.as_ref()),
                LABEL,
                &hash,
            );
            let object = json!({
                "metadata": {"name": name, "namespace": meta.namespace, "labels": labels, "ownerReferences": [controller_ref(owner, meta)]},
                "data": wanted, "revision": newest + 1,
            });
            actions.push(Action::create(
                REVISIONS,
                meta.namespace.as_deref().unwrap_or_default(),
                &object,
            ));
            (name, hash)
        }
    };
    let stale: Vec<_> = sorted
        .iter()
        .filter(|r| {
            name_of(r) != name
                && !used.contains(
                    &r.metadata
                        .labels
                        .as_ref()
                        .and_then(|l| l.get(LABEL))
                        .cloned()
                        .unwrap_or_default(),
                )
        })
        .collect();
    let excess = stale.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    actions.extend(stale[..excess].iter().map(|r| Action::delete(REVISIONS, &r.metadata)));
    History { wanted: name, hash, actions }
}
