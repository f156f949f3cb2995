//! A served kind: one row of the table that the generic handlers work from.

use crate::{
    columns::Column,
    types::{Arena, Slot},
};
use coracle_meta::{GroupResource, Gvk, name::NameRule};
use std::sync::{Arc, LazyLock};

/// Whether objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One name space for the whole cluster.
    Cluster,
    /// Names are unique within a namespace.
    Namespaced,
}

/// A subresource such as `status` or `scale`.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Path segment.
    pub name: String,
    /// Group of the kind that it exchanges; empty with an empty version for the parent's.
    pub group: String,
    /// Version of the kind that it exchanges.
    pub version: String,
    /// The kind that it exchanges.
    pub kind: String,
    /// Verbs that it serves.
    pub verbs: Vec<String>,
}

/// Where a custom resource keeps what `scale` reads and writes, as dotted paths.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// Desired replicas, under `spec`.
    pub spec_replicas: String,
    /// Observed replicas, under `status`.
    pub status_replicas: String,
    /// Label selector in text form, if any.
    pub selector: Option<String>,
}

/// Definitions, and which of them an object follows.
pub type Structure = (Arc<Arena>, Slot);
/// A structure that is made when it is first needed: most custom kinds of a cluster lie idle, and
/// a large schema takes a megabyte.
pub type Lazy = LazyLock<Structure, Box<dyn FnOnce() -> Structure + Send + Sync>>;

/// Gives the schema of a custom kind as its definition has it. It is read anew each time: it is only
/// needed for OpenAPI documents, and may be large.
pub struct Published(pub Box<dyn Fn() -> serde_json::Value + Send + Sync>);

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Published")
    }
}

/// What a CustomResourceDefinition says of all versions of its kind.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The version that objects are stored at.
    pub storage_version: String,
    /// `spec.conversion.webhook`, when versions are converted by a webhook.
    pub webhook: Option<serde_json::Value>,
    /// Whether requests for this version are answered.
    pub served: bool,
    /// Whether the definition is being deleted: nothing can be created any more.
    pub terminating: bool,
    /// When the definition last changed: objects that were written later follow it.
    pub revision: u64,
}

/// A kind at one version, with everything that the generic handlers need to know of it.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs of the main resource.
    pub verbs: Vec<String>,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Categories for kubectl, such as `all`.
    pub categories: Vec<String>,
    /// Fields that field selectors may name, besides metadata.name and metadata.namespace.
    pub selectable_fields: Vec<String>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Rule for names.
    pub name_rule: NameRule,
    /// Objects vanish after this long (events).
    pub ttl_seconds: Option<u32>,
    /// Whether `metadata.generation` counts changes of the spec.
    pub generation: bool,
    /// Whether a deletion answers with the object, and not with a `Status`.
    pub returns_deleted: bool,
    /// Whether deletion without a propagation policy orphans dependents.
    pub orphan_default: bool,
    /// Paths of the scale subresource of custom resources.
    pub scale: Option<ScalePaths>,
    /// Printer columns.
    pub columns: Vec<Column>,
    /// Structure of an object: see [`Kind::arena`] and [`Kind::root`].
    pub structure: Lazy,
    /// Whether it comes from a CustomResourceDefinition.
    pub custom: bool,
    /// What its CustomResourceDefinition says of all its versions.
    pub definition: Option<Definition>,
    /// The schema to publish of a custom kind.
    pub published: Option<Published>,
    /// Warning that every request gets (deprecated versions).
    pub warning: Option<String>,
}

impl Kind {
    /// Definitions of its objects.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.structure.0
    }

    /// Where its objects begin in the definitions.
    pub fn root(&self) -> &Slot {
        &self.structure.1
    }

    /// Verbs as discovery tells them.
    pub fn shown_verbs(&self) -> Vec<&str> {
        let going = self.definition.as_ref().is_some_and(|d| d.terminating);
        let shown = |v: &&str| !going || !["create", "patch", "update"].contains(v);
        self.verbs.iter().map(String::as_str).filter(shown).collect()
    }

    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        coracle_meta::gvk::api_version(&self.group, &self.version)
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }

    /// Group and plural.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.plural)
    }

    /// Whether objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subresource with a name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether status is written apart from the rest.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether the kind can be stored and listed; review kinds can only be created.
    pub fn stored(&self) -> bool {
        self.verbs.iter().any(|v| v == "list")
    }
}
