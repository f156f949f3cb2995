//! NodePools, NodeClaims and node classes, as the provisioner reads them.

use crate::{
    Stop,
    informer::{GroupBy, Informer},
};
use coracle_clouds::NodeClassKind;
use coracle_provisioning::{
    MinValues,
    budget::{Budget, Window},
    offering::POOL,
    overlay::{Adjustment, Overlay},
    policy::Policy,
};
use coracle_scheduling::{Requirements, Values, node::Taint};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject},
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// `apiVersion` of pools and claims.
pub const API: &str = "karpenter.sh/v1";
/// `apiVersion` of overlays.
pub const OVERLAY_API: &str = "karpenter.sh/v1alpha1";
/// `apiVersion` of capacity buffers.
pub const BUFFER_API: &str = "autoscaling.x-k8s.io/v1beta1";
/// `apiVersion` of policies and decisions.
pub const CORACLE_API: &str = "coracle.dev/v1";
/// Finalizer of claims and nodes.
pub const FINALIZER: &str = "karpenter.sh/termination";
/// Taint of nodes that are about to go.
pub const DISRUPTED: &str = "karpenter.sh/disrupted";
/// Taint of nodes that have joined and are not set up yet.
pub const UNREGISTERED: &str = "karpenter.sh/unregistered";
/// Annotation that keeps pods and nodes from being moved.
pub const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
/// Annotation of claims with when their nodes go at the latest.
pub const TERMINATION: &str = "karpenter.sh/nodeclaim-termination-timestamp";
/// Annotation of claims with most that their machines may cost, in US dollars an hour.
pub const MAX_PRICE: &str = "coracle.dev/max-price-usd-per-hour";
/// Annotation of claims whose types are more alike than their pool asks for.
pub const MIN_VALUES_RELAXED: &str = "karpenter.sh/nodeclaim-min-values-relaxed";
/// Label of nodes with the reservation that they use.
pub const RESERVATION: &str = "coracle.dev/capacity-reservation-id";
/// Annotation on nodes with their price.
pub const PRICE: &str = "coracle.dev/price-usd-per-hour";

/// The watched kinds.
pub struct Watched {
    /// The kind of `classes`.
    pub class_kind: &'static NodeClassKind,
    /// NodePools.
    pub pools: Arc<Informer<DynamicObject>>,
    /// NodeClaims of the cloud, grouped by their machines.
    pub claims: Arc<Informer<DynamicObject>>,
    /// The cloud's node classes.
    pub classes: Arc<Informer<DynamicObject>>,
    /// NodeOverlays.
    pub overlays: Arc<Informer<DynamicObject>>,
    /// CapacityBuffers.
    pub buffers: Arc<Informer<DynamicObject>>,
    /// ProvisioningPolicies.
    pub policies: Arc<Informer<DynamicObject>>,
}

/// A kind, for a dynamic client: `api_version` is `group/version`, or `v1` for the core group.
pub fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: api_version.into(),
        kind: kind.into(),
        plural: plural.into(),
    }
}

impl Watched {
    /// Starts to watch.
    pub fn new(
        client: &Client,
        class_kind: &'static NodeClassKind,
        stop: &Stop,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let all = |r: ApiResource| Api::all_with(client.clone(), &r);
        let pools = all(resource(API, "NodePool", "nodepools"));
        let claims = all(resource(API, "NodeClaim", "nodeclaims"));
        let pools = Informer::start(pools, |_| (), None, stop, tasks);
        let keep = move |o: &DynamicObject| class_kind.is_of(&o.data["spec"]["nodeClassRef"]);
        let machine: GroupBy<DynamicObject> = |c| provider_id(c);
        let claims = Informer::start_of(claims, Box::new(keep), Some(machine), stop, tasks);
        let mut start = |r: ApiResource| Informer::start_if_served(all(r), stop, tasks);
        let class_api = format!("{}/{}", class_kind.group, class_kind.version);
        Arc::new(Self {
            class_kind,
            pools,
            claims,
            classes: start(resource(&class_api, class_kind.kind, class_kind.plural)),
            overlays: start(resource(OVERLAY_API, "NodeOverlay", "nodeoverlays")),
            buffers: start(resource(BUFFER_API, "CapacityBuffer", "capacitybuffers")),
            policies: start(resource(CORACLE_API, "ProvisioningPolicy", "provisioningpolicies")),
        })
    }

    /// The node class that a pool's or claim's reference names, if it is of the cloud's kind and there.
    pub fn class(&self, reference: &Value) -> Option<Arc<DynamicObject>> {
        let name = reference["name"].as_str().filter(|_| self.class_kind.is_of(reference))?;
        self.classes.get("", name)
    }

    /// Waits until everything has been listed once.
    pub async fn synced(&self) {
        tokio::join!(
            self.pools.synced(),
            self.claims.synced(),
            self.classes.synced(),
            self.overlays.synced(),
            self.buffers.synced(),
            self.policies.synced()
        );
    }
}

/// A NodePool's settings.
#[derive(Clone, Debug)]
pub struct NodePool {
    /// Name.
    pub name: String,
    /// Weight.
    pub weight: i32,
    /// The template's spec, as claims get it.
    pub template: Value,
    /// Labels of nodes.
    pub labels: BTreeMap<String, String>,
    /// Annotations of nodes.
    pub annotations: BTreeMap<String, String>,
    /// What nodes may be.
    pub requirements: Requirements,
    /// How different the types of each node must be.
    pub min_values: Vec<MinValues>,
    /// A fixed number of nodes; `None` for nodes as pods need them.
    pub replicas: Option<usize>,
    /// Taints of nodes.
    pub taints: Vec<Taint>,
    /// Limits.
    pub limits: BTreeMap<String, String>,
    /// Reference to the node class.
    pub class: Value,
    /// Whether under-used nodes are replaced, not only empty ones removed.
    pub underutilized: bool,
    /// Whether they are only where that saves at least half of the share that it disturbs.
    pub balanced: bool,
    /// Quiet time before a node is considered; `None` for never.
    pub consolidate_after: Option<Duration>,
    /// Budgets.
    pub budgets: Vec<Budget>,
}

pub(crate) fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn map(v: &Value) -> BTreeMap<String, String> {
    v.as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned)))
        .collect()
}

/// Reads requirements of a pool or claim.
pub fn requirements(list: &Value) -> Requirements {
    let mut r = Requirements::default();
    for e in list.as_array().into_iter().flatten() {
        let values: Vec<String> = e["values"].as_array().into_iter().flatten().map(text).collect();
        if let Some(v) = Values::parse(&text(&e["operator"]), &values) {
            r.add(&text(&e["key"]), v);
        }
    }
    r
}

/// Reads how many values of which labels requirements ask for.
fn min_values(list: &Value) -> Vec<MinValues> {
    let all = list.as_array().into_iter().flatten();
    let one = |e: &Value| {
        let values = e["minValues"].as_u64().and_then(|n| n.try_into().ok())?;
        Some(MinValues { key: text(&e["key"]).into(), values })
    };
    all.filter_map(one).collect()
}

fn window(v: &Value) -> Window {
    Window::new(
        v["schedule"].as_str().unwrap_or_default(),
        v["duration"].as_str().unwrap_or_default(),
    )
}

/// Reads a policy, with the names of the pools that it is for; none for all.
pub fn policy(o: &DynamicObject) -> (Vec<String>, Policy) {
    let spec = &o.data["spec"];
    let list = |f: &str| spec[f].as_array().cloned().unwrap_or_default();
    let pools = list("nodePools").iter().map(text).collect();
    let policy = Policy {
        min_savings: spec["minSavingsPercent"].as_f64().map(|p| p / 100.0),
        usd_per_eviction: spec["evictionCostUSD"].as_f64(),
        max_usd_per_hour: spec["maxUSDPerHour"].as_f64(),
        hibernate: list("hibernate").iter().map(window).collect(),
        disrupt_within: list("disruptWithin").iter().map(window).collect(),
    };
    (pools, policy)
}

/// Reads an overlay.
pub fn overlay(o: &DynamicObject) -> Overlay {
    let spec = &o.data["spec"];
    let capacity = map(&spec["capacity"]);
    let amount = |(k, v): (&String, &String)| {
        Some((k.as_str().into(), v.parse::<coracle_meta::Quantity>().ok()?.units_ceil()))
    };
    Overlay {
        name: o.metadata.name.clone().unwrap_or_default(),
        weight: spec["weight"].as_i64().and_then(|w| w.try_into().ok()).unwrap_or(0),
        requirements: requirements(&spec["requirements"]),
        price: Adjustment::parse(spec["price"].as_str(), spec["priceAdjustment"].as_str()),
        capacity: capacity.iter().filter_map(amount).collect(),
    }
}

pub(crate) fn taints(list: &Value) -> Vec<Taint> {
    let one = |t: &Value| Taint {
        key: text(&t["key"]),
        value: text(&t["value"]),
        effect: text(&t["effect"]),
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

/// Reads a Karpenter duration; `None` for `Never` or nonsense.
pub fn duration(v: &Value) -> Option<Duration> {
    let d = coracle_meta::time::parse_go_duration(v.as_str()?)?;
    Duration::try_from(d).ok()
}

impl NodePool {
    /// Reads a pool.
    pub fn read(o: &DynamicObject) -> Self {
        let (spec, template) = (&o.data["spec"], &o.data["spec"]["template"]);
        let disruption = &spec["disruption"];
        let labels = map(&template["metadata"]["labels"]);
        let mut all = requirements(&template["spec"]["requirements"]);
        for (k, v) in &labels {
            all.add(k, Values::of([v.as_str()]));
        }
        let budget = |b: &Value| Budget {
            nodes: text(&b["nodes"]),
            reasons: b["reasons"].as_array().into_iter().flatten().map(text).collect(),
            window: b["schedule"].is_string().then(|| window(b)),
        };
        Self {
            name: o.metadata.name.clone().unwrap_or_default(),
            weight: spec["weight"].as_i64().and_then(|w| w.try_into().ok()).unwrap_or(0),
            template: template["spec"].clone(),
            annotations: map(&template["metadata"]["annotations"]),
            requirements: all,
            min_values: min_values(&template["spec"]["requirements"]),
            replicas: spec["replicas"].as_u64().and_then(|n| n.try_into().ok()),
            taints: taints(&template["spec"]["taints"]),
            limits: map(&spec["limits"]),
            class: template["spec"]["nodeClassRef"].clone(),
            underutilized: disruption["consolidationPolicy"] != "WhenEmpty",
            balanced: disruption["consolidationPolicy"] == "Balanced",
            consolidate_after: if disruption["consolidateAfter"].is_null() {
                Some(Duration::ZERO)
            } else {
                duration(&disruption["consolidateAfter"])
            },
            budgets: disruption["budgets"].as_array().into_iter().flatten().map(budget).collect(),
            labels,
        }
    }
}

/// The machine of a claim; empty before its launch.
pub fn provider_id(claim: &DynamicObject) -> &str {
    claim.data["status"]["providerID"].as_str().unwrap_or_default()
}

/// The NodePool of a claim; empty for none.
pub fn pool_of(claim: &DynamicObject) -> &str {
    let label = claim.metadata.labels.as_ref().and_then(|l| l.get(POOL));
    label.map_or("", String::as_str)
}

/// The status of a condition of a claim, pool or class.
pub fn condition<'o>(o: &'o DynamicObject, kind: &str) -> Option<&'o Value> {
    o.data["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// Whether a condition is true.
pub fn is_true(o: &DynamicObject, kind: &str) -> bool {
    condition(o, kind).is_some_and(|c| c["status"] == "True")
}

/// Conditions with one set; `None` when it says that already.
pub fn with_condition(
    o: &DynamicObject,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: jiff::Timestamp,
) -> Option<Vec<Value>> {
    let mut all: Vec<Value> =
        o.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = if status { "True" } else { "False" };
    let old = all.iter().position(|c| c["type"] == kind);
    let since = match old.map(|i| all.remove(i)) {
        Some(c) if c["status"] == text && c["reason"] == reason && c["message"] == message => {
            return None;
        }
        Some(c) if c["status"] == text => c["lastTransitionTime"].clone(),
        _ => serde_json::json!(coracle_meta::time::rfc3339(now)),
    };
    all.push(serde_json::json!({"type": kind, "status": text, "reason": reason, "message": message, "lastTransitionTime": since,
        "observedGeneration": o.metadata.generation}));
    Some(all)
}
