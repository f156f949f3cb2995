//! What every cloud can do: [`Cloud`], and what is said to it and by it.

use crate::Catalogue;
use futures::future::BoxFuture;
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// How a machine is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapacityType {
    /// Cheaper, can be taken back.
    Spot,
    /// At the list price, stays.
    OnDemand,
    /// Paid for already, whether it runs or not.
    Reserved,
}

impl CapacityType {
    /// The value of the label `karpenter.sh/capacity-type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
            Self::Reserved => "reserved",
        }
    }

    /// From the label's value.
    pub fn parse(s: &str) -> Option<Self> {
        [Self::Spot, Self::OnDemand, Self::Reserved].into_iter().find(|c| c.as_str() == s)
    }
}

impl fmt::Display for CapacityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Machines that are paid for already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityReservation {
    /// Name.
    pub id: String,
    /// Type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// How many.
    pub count: usize,
}

/// The kind of a cloud's node classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeClassKind {
    /// API group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
}

/// The kind that Karpenter's manifests for AWS refer to.
pub const EC2_NODE_CLASS: NodeClassKind = NodeClassKind {
    group: "karpenter.k8s.aws",
    version: "v1",
    kind: "EC2NodeClass",
    plural: "ec2nodeclasses",
};

impl NodeClassKind {
    /// Whether a `nodeClassRef` is to this kind.
    pub fn is_of(&self, reference: &Value) -> bool {
        reference["group"] == self.group && reference["kind"] == self.kind
    }
}

/// An offering: type, zone and capacity type.
pub type Offer = (Arc<str>, Arc<str>, CapacityType);

/// What to launch: the first of some offerings that can be had.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the claim.
    pub name: String,
    /// UID of the claim: whatever happens, at most one machine is launched for it.
    pub uid: String,
    /// NodePool of the claim.
    pub pool: String,
    /// Name of the node class.
    pub class: String,
    /// What may be launched, in the order of preference.
    pub offerings: Vec<Offer>,
    /// The claim, whole: what a node has to know when it joins.
    pub claim: Value,
}

/// A running machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Its id, as nodes have it in `spec.providerID`.
    pub provider_id: String,
    /// Name of the claim that it was launched for.
    pub name: String,
    /// UID of that claim; empty if it is not known.
    pub uid: String,
    /// Type.
    pub instance_type: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Capacity type.
    pub capacity_type: CapacityType,
    /// The reservation that it uses.
    pub reservation: Option<String>,
    /// The image that it started from.
    pub image: Option<String>,
}

/// A launch that worked.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Offerings that were preferred and could not be had.
    pub refused: Vec<Offer>,
}

/// A claim, as drift is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Claimed<'c> {
    /// Its labels: those of its node.
    pub labels: &'c BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: &'c BTreeMap<String, String>,
    /// Its machine.
    pub provider_id: &'c str,
    /// The image that it started from.
    pub image: Option<&'c str>,
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LaunchError {
    /// Nothing that was asked for can be had now: these offerings were refused.
    #[error("insufficient capacity for all of the requested instance types ({} offerings)", .0.len())]
    NoCapacity(Vec<Offer>),
    /// Nothing that was asked for is sold here.
    #[error("no instance type of the catalogue meets the request")]
    NoSuchType,
    /// The node class cannot launch anything.
    #[error("the node class is not ready: {0}")]
    ClassNotReady(String),
    /// It may have worked or not: the same launch is to be asked for again.
    #[error("{0}")]
    Unsure(CloudError),
}

/// The cloud could not be asked, or did not do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{doing}: {code}: {message}")]
pub struct CloudError {
    /// What was being done.
    pub doing: String,
    /// The cloud's code for what went wrong.
    pub code: String,
    /// Its words.
    pub message: String,
}

/// What became of a machine that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is gone.
    Gone,
    /// It is going.
    Going,
}

/// A condition of a node class: type, whether it holds, reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCondition {
    /// Type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Reason, one word.
    pub reason: String,
    /// What to do about it, if it does not hold.
    pub message: String,
}

/// What a node class comes to.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Fields of its status.
    pub status: Value,
    /// Its conditions; it is ready if all of them hold.
    pub conditions: Vec<ClassCondition>,
    /// When it is to be looked at again.
    pub again: Option<Duration>,
}

/// What a cloud tells of a machine without being asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// What the cloud calls the notice, to be told that it was dealt with.
    pub handle: String,
    /// The machines that it is about.
    pub provider_ids: Vec<String>,
    /// Event's reason, such as `SpotInterrupted`.
    pub reason: &'static str,
    /// What is going to happen.
    pub message: String,
    /// Whether its node has to go; otherwise it is only told.
    pub leave: bool,
    /// Whether more of its offering is not to be had for now.
    pub scarce: bool,
}

/// Where machines are bought. Prices and machines are known without asking: implementations keep them
/// fresh, and every answer may be a moment old.
pub trait Cloud: Send + Sync + fmt::Debug {
    /// The kind of its node classes.
    fn class_kind(&self) -> &'static NodeClassKind;

    /// The finalizer of its node classes, if what they stand for has to be taken down.
    fn class_finalizer(&self) -> Option<&'static str> {
        None
    }

    /// How many times faster than real time its clock runs.
    fn speed(&self) -> f64 {
        1.0
    }

    /// Makes sure that all machines of the cluster are known, before anything is decided about them.
    fn ready(&self) -> BoxFuture<'_, Result<(), CloudError>>;

    /// Annotations that a node class and the claims made from it carry, so that drift can be told.
    fn stamps(&self, _class: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Finds what a node class asks for.
    fn resolve<'a>(&'a self, name: &'a str, class: &'a Value) -> BoxFuture<'a, Resolved>;

    /// Takes down what a node class stands for, when no machine needs it.
    fn forget<'a>(
        &'a self,
        name: &'a str,
        class: &'a Value,
    ) -> BoxFuture<'a, Result<(), CloudError>>;

    /// What machines of a node class may be; `None` for a class that is not resolved.
    fn catalogue(&self, class: &str) -> Option<Arc<Catalogue>>;

    /// Zones in which any machines may be.
    fn zones(&self) -> Vec<Arc<str>>;

    /// Reservations with how many machines of each do not run.
    fn reservations(&self) -> Vec<(CapacityReservation, usize)>;

    /// Launches the first offering that can be had. Asking again for the same claim gives the same
    /// machine.
    fn launch<'a>(&'a self, request: &'a Launch) -> BoxFuture<'a, Result<Launched, LaunchError>>;

    /// Ends the machine of a claim, whether its id is known or not.
    fn terminate<'a>(
        &'a self,
        provider_id: &'a str,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<Ended, CloudError>>;

    /// A machine by its id.
    fn machine(&self, provider_id: &str) -> Option<Arc<Machine>>;

    /// All machines of the cluster that run, as the cloud has them now.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Machine>>, CloudError>>;

    /// Waits for what the cloud has to tell; an empty list after some time without news.
    fn notices(&self) -> BoxFuture<'_, Result<Vec<Notice>, CloudError>>;

    /// Says that notices were dealt with, so that they are not told again.
    fn acknowledge(&self, handles: Vec<String>) -> BoxFuture<'_, Result<(), CloudError>>;

    /// Why a machine is not what its node class says any more, in Karpenter's words.
    fn drift(&self, class: &str, claim: Claimed<'_>) -> Option<&'static str>;
}
