//! What is asked for: pods by class, classes by what they take of a node and where they may go, and
//! the zones that rules between pods give them.

use super::market::Market;
use crate::offering::{CAPACITY_TYPE, HOSTNAME, ZONE};
use coracle_scheduling::{
    Node, PodSpec, Requirements, Resources, Snapshot,
    pod::{Affinity, PodSelection},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Pods of one class that may go to the same zones.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// One of them.
    pub(super) spec: Arc<PodSpec>,
    /// What its nodes must be, one for each alternative.
    pub(super) alternatives: Arc<Vec<Requirements>>,
    /// Zones that they may go to, as bits of the market.
    pub(super) zones: u64,
    /// Most of them on one node.
    pub(super) per_node: usize,
    /// Those that one node takes one of, whatever their class.
    pub(super) apart: Option<Apart>,
    /// Pods, with when they are bound among those whose zone matters.
    pub(super) pods: Vec<(usize, Arc<PodSpec>)>,
}

/// Why pods exclude each other from a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Apart {
    /// They repel pods that they are among.
    Selected(PodSelection),
    /// They want the same ports of the host.
    Ports(Vec<(String, String, i32)>),
}

/// Groups pods by class, in their order, and gives zones to those whose rules ask for it.
pub(super) fn classes(
    snapshot: &Snapshot,
    market: &Market<'_>,
    pods: &[Arc<PodSpec>],
) -> Vec<Class> {
    let mut index: HashMap<u64, usize> = HashMap::new();
    let mut groups: Vec<Vec<Arc<PodSpec>>> = Vec::new();
    for p in pods {
        let i = *index.entry(p.class_id).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[i].push(p.clone());
    }
    let mut zoning = Zoning::new(snapshot, market);
    let mut out = Vec::new();
    let mut turn = 0;
    for pods in groups {
        let Some(spec) = pods.first().cloned() else { continue };
        let alternatives = spec.node_requirements();
        let zones = alternatives.iter().fold(0, |all, r| all | market.zones_of(r));
        let class = Class {
            zones,
            per_node: per_node(&spec, snapshot),
            apart: apart(&spec, snapshot),
            alternatives: Arc::new(alternatives),
            spec,
            pods: Vec::new(),
        };
        if !zoning.concerns(&class.spec) {
            let pods = pods.into_iter().map(|p| (usize::MAX, p)).collect();
            out.push(Class { pods, ..class });
            continue;
        }
        let mut dealt: BTreeMap<u64, Vec<(usize, Arc<PodSpec>)>> = BTreeMap::new();
        for p in pods {
            turn += 1;
            // Where no zone is left the rules are looked at again, pod by pod, when nodes are there.
            let zone = zoning.choose(&p, zones).unwrap_or(zones);
            dealt.entry(zone).or_default().push((turn, p));
        }
        out.extend(dealt.into_iter().map(|(zones, pods)| Class { zones, pods, ..class.clone() }));
    }
    out
}

/// Zones as if each were one boundless node.
struct Zoning<'z> {
    market: &'z Market<'z>,
    snapshot: Snapshot,
    /// How much is in each zone: what wants to be together goes where most is.
    load: Vec<i64>,
    /// Classes without their rules about nodes.
    bare: HashMap<u64, Arc<coracle_scheduling::pod::PodClass>>,
}

impl<'z> Zoning<'z> {
    fn new(snapshot: &Snapshot, market: &'z Market<'z>) -> Self {
        let mut snapshot = snapshot.clone();
        let most = i64::MAX / 4;
        let boundless = Resources {
            cpu_milli: most,
            memory_bytes: most,
            ephemeral_bytes: most,
            pods: most,
            extended: vec![],
        };
        for zone in &market.zones {
            let name = format!("zone {zone}");
            let labels = BTreeMap::from([
                (ZONE.to_owned(), zone.to_string()),
                (HOSTNAME.to_owned(), name.clone()),
            ]);
            snapshot.set_node(Node {
                name,
                labels,
                allocatable: boundless.clone(),
                ..Node::default()
            });
        }
        Self { market, snapshot, load: vec![0; market.zones.len()], bare: HashMap::new() }
    }

    /// Whether a pod's rules are about zones.
    fn concerns(&self, p: &PodSpec) -> bool {
        p.spread.iter().any(|s| s.required && &*s.key == ZONE)
            || p.affinity.iter().chain(&p.anti_affinity).any(|a| &*a.key == ZONE)
    }

    /// A pod with only its rules about zones.
    fn bare(&mut self, p: &PodSpec) -> Arc<PodSpec> {
        let class = self.bare.entry(p.class_id).or_insert_with(|| {
            let mut class = (*p.class).clone();
            class.requests = Resources { pods: 1, ..Resources::default() };
            class.node_selector.clear();
            class.node_terms.clear();
            class.host_ports.clear();
            class.preferred_pods.clear();
            class.spread.retain(|s| s.required && &*s.key == ZONE);
            class.affinity.retain(|a| &*a.key == ZONE);
            class.anti_affinity.retain(|a| &*a.key == ZONE);
            class.classify(&p.key.namespace);
            Arc::new(class)
        });
        Arc::new(PodSpec { class: class.clone(), ..p.clone() })
    }

    /// Puts a pod into the zone that suits its rules best; `None` when none does.
    fn choose(&mut self, p: &PodSpec, zones: u64) -> Option<u64> {
        let bare = self.bare(p);
        let together = !bare.affinity.is_empty();
        let mut best: Option<(i64, usize)> = None;
        for (i, zone) in self.market.zones.iter().enumerate() {
            if zones & (1 << i) == 0 || self.snapshot.fits(&bare, &format!("zone {zone}")).is_err()
            {
                continue;
            }
            // Spread evens out; what may begin anywhere begins where most is already.
            let rank = if together { -self.load[i] } else { self.load[i] };
            if best.is_none_or(|(r, _)| rank < r) {
                best = Some((rank, i));
            }
        }
        let (_, i) = best?;
        self.load[i] += 1;
        self.snapshot.add_pod(bare, &format!("zone {}", self.market.zones[i]));
        Some(1 << i)
    }
}

fn on_nodes<'p>(p: &'p PodSpec, s: &'p Snapshot) -> impl Iterator<Item = &'p Affinity> {
    p.anti_affinity.iter().filter(|a| &*a.key == HOSTNAME && s.selects(&a.pods, p))
}

fn apart(p: &PodSpec, s: &Snapshot) -> Option<Apart> {
    let repels = on_nodes(p, s).next().map(|a| Apart::Selected(a.pods.clone()));
    repels.or_else(|| (!p.host_ports.is_empty()).then(|| Apart::Ports(p.host_ports.clone())))
}

/// Most pods of a class on one node, by its spread over nodes.
fn per_node(p: &PodSpec, s: &Snapshot) -> usize {
    let own = p.spread.iter().filter(|r| r.required && &*r.key == HOSTNAME);
    let own = own.filter(|r| s.selects(&r.pods, p));
    own.map(|r| usize::try_from(r.max_skew).unwrap_or(1)).min().unwrap_or(usize::MAX)
}

/// Whether some pods tell capacity types apart.
pub(super) fn tells_capacity_types(classes: &[Class]) -> bool {
    classes.iter().flat_map(|c| c.alternatives.iter()).any(|r| r.get(CAPACITY_TYPE).is_some())
}
