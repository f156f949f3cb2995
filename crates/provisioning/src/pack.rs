//! Packing: the cheapest set of nodes that fits the pods.
//!
//! Pods go to existing nodes first. The rest is grouped into classes of equal pods, zones are
//! dealt out to classes that must spread over them, and then nodes are bought one after the other:
//! always the offering that pays least for the value of what it would be filled with. The value of
//! a pod is its processor and memory at the market's usual ratio, so the choice looks at shape and
//! price together; the last node is the cheapest that fits what is left.

use crate::offering::{
    CAPACITY_TYPE, HOSTNAME, INSTANCE_TYPE, Offering, POOL, Pool, PoolType, ZONE,
};
use coracle_scheduling::{
    Node, PodSpec, Profile, Requirements, Resources, Snapshot, Values, pod::PodKey, predicates,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Bytes of memory that cost about as much as a processor.
const BYTES_PER_CPU: f64 = 10.0 * (1u64 << 30) as f64;
/// A unit of an extended resource (a GPU) in processors: it decides the price of its machine.
const CPUS_PER_EXTENDED: f64 = 30.0;
/// What a pod that asks for nothing counts as, in processors.
const MIN_VALUE: f64 = 0.01;
/// Most types that a new node names as alternatives, as Karpenter's provider.
const MAX_TYPES: usize = 60;

/// A node to buy.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Pool that buys it.
    pub pool: String,
    /// Acceptable types, cheapest first; the first is what the plan counts with.
    pub types: Vec<Arc<str>>,
    /// Acceptable zones.
    pub zones: BTreeSet<Arc<str>>,
    /// Acceptable capacity types.
    pub capacity_types: BTreeSet<&'static str>,
    /// The offering that the plan counts with.
    pub offering: Offering,
    /// Pods for it.
    pub pods: Vec<PodKey>,
    /// What its pods and daemons ask for.
    pub requests: Resources,
    /// Why this one: the runner-up and what it would have cost.
    pub why: String,
}

/// What to buy and what goes where.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Nodes to buy.
    pub new_nodes: Vec<NewNode>,
    /// Pods that fit on nodes that are there.
    pub existing: BTreeMap<PodKey, String>,
    /// Pods that nothing fits, and why.
    pub unschedulable: BTreeMap<PodKey, String>,
    /// Price of the new nodes.
    pub usd_per_hour: f64,
    /// No set of nodes for the same pods can cost less.
    pub lower_bound_usd_per_hour: f64,
}

impl Plan {
    /// Pods for new nodes with the index of their node, in an order in which each fits when it is
    /// bound.
    pub fn bindings(&self) -> impl Iterator<Item = (&PodKey, usize)> {
        self.new_nodes.iter().enumerate().flat_map(|(i, n)| n.pods.iter().map(move |p| (p, i)))
    }
}

fn value(r: &Resources) -> f64 {
    let extended: i64 = r.extended.iter().map(|(_, n)| n).sum();
    let size = r.cpu_milli as f64 / 1000.0
        + r.memory_bytes as f64 / BYTES_PER_CPU
        + extended as f64 * CPUS_PER_EXTENDED;
    // A pod that asks for nothing still wants a place.
    size.max(MIN_VALUE * r.pods.max(0) as f64)
}

/// Pods that are alike.
#[derive(Clone)]
struct Class {
    spec: Arc<PodSpec>,
    pods: Vec<Arc<PodSpec>>,
    /// What its nodes must be, one for each alternative.
    alternatives: Vec<Requirements>,
    /// Most of them on one node.
    per_node: usize,
    /// What is checked when one is put on a node: without rules that the dealing of zones has met.
    check: Arc<PodSpec>,
}

/// Plans for pending pods. `daemons` are pods that every new node runs if it takes them.
pub fn pack(
    snapshot: &mut Snapshot,
    pods: &[Arc<PodSpec>],
    pools: &[Pool],
    daemons: &[Arc<PodSpec>],
) -> Plan {
    let mut plan = Plan::default();
    let mut sorted: Vec<Arc<PodSpec>> = pods.to_vec();
    sorted.sort_by(|a, b| {
        let size = |p: &PodSpec| value(&p.requests);
        b.priority
            .cmp(&a.priority)
            .then(size(b).total_cmp(&size(a)))
            .then_with(|| (a.class_id, &a.key).cmp(&(b.class_id, &b.key)))
    });
    let mut refused: HashSet<u64> = HashSet::new();
    let mut rest = Vec::new();
    for pod in sorted {
        // What refused one pod refuses its equals, unless it matters where the others went.
        let known = refused.contains(&pod.class_id) && !pod.is_topology_bound();
        match if known { None } else { snapshot.schedule(&pod, Profile::Pack).ok() } {
            Some(node) => {
                snapshot.add_pod(pod.clone(), &node);
                plan.existing.insert(pod.key.clone(), node);
            }
            None => {
                refused.insert(pod.class_id);
                rest.push(pod);
            }
        }
    }
    if rest.is_empty() {
        return plan;
    }
    let mut buyer =
        Buyer { snapshot, pools: pools.to_vec(), daemons, overhead: HashMap::new(), bought: 0 };
    plan.lower_bound_usd_per_hour = buyer.lower_bound(&rest);
    let mut classes = buyer.classes(rest);
    let mut weights: Vec<i32> = pools.iter().map(|p| p.weight).collect();
    weights.sort_unstable();
    weights.dedup();
    for weight in weights.into_iter().rev() {
        buyer.buy_all(weight, &mut classes, &mut plan);
    }
    for class in classes {
        let why = buyer.explain(&class);
        plan.unschedulable.extend(class.pods.iter().map(|p| (p.key.clone(), why.clone())));
    }
    plan.usd_per_hour = plan.new_nodes.iter().map(|n| n.offering.usd_per_hour).sum();
    plan
}

struct Buyer<'a> {
    snapshot: &'a mut Snapshot,
    pools: Vec<Pool>,
    daemons: &'a [Arc<PodSpec>],
    /// What daemons take on a type of a pool.
    overhead: HashMap<(usize, usize), Resources>,
    bought: usize,
}

/// An offering, filled.
struct Fill {
    pool: usize,
    ty: usize,
    offering: Offering,
    /// How many of each class.
    counts: Vec<(usize, usize)>,
    /// Price for the value.
    rate: f64,
}

impl Buyer<'_> {
    /// Groups pods, and deals out zones to those that must spread over them.
    fn classes(&self, pods: Vec<Arc<PodSpec>>) -> Vec<Class> {
        let mut order: Vec<u64> = Vec::new();
        let mut groups: HashMap<u64, Vec<Arc<PodSpec>>> = HashMap::new();
        for p in pods {
            let group = groups.entry(p.class_id).or_default();
            if group.is_empty() {
                order.push(p.class_id);
            }
            group.push(p);
        }
        let mut classes = Vec::new();
        for id in order {
            let pods = groups.remove(&id).unwrap_or_default();
            let Some(spec) = pods.first().cloned() else { continue };
            let class = Class {
                per_node: per_node(&spec, self.snapshot),
                alternatives: spec.node_requirements(),
                check: spec.clone(),
                spec,
                pods,
            };
            classes.extend(self.deal_zones(class));
        }
        classes
    }

    fn zones_for(&self, class: &Class) -> Vec<Arc<str>> {
        let mut zones = BTreeSet::new();
        for pool in &self.pools {
            for t in pool.types.iter() {
                zones.extend(t.offerings.iter().map(|o| o.zone.clone()));
            }
        }
        let accepts = |z: &Arc<str>| {
            class.alternatives.iter().any(|r| r.get(ZONE).is_none_or(|v| v.accepts(Some(z))))
        };
        zones.into_iter().filter(accepts).collect()
    }

    /// Splits a class by zone where its rules bind it to zones.
    fn deal_zones(&self, class: Class) -> Vec<Class> {
        let spec = &class.spec;
        let spreads = spec.spread.iter().find(|s| &*s.key == ZONE);
        let apart = spec
            .anti_affinity
            .iter()
            .any(|a| &*a.key == ZONE && self.snapshot.selects(&a.pods, spec));
        let together = spec.affinity.iter().find(|a| &*a.key == ZONE);
        if spreads.is_none() && !apart && together.is_none() {
            return vec![class];
        }
        let zones = self.zones_for(&class);
        let counted = spreads.map(|s| &s.pods).or(together.map(|a| &a.pods));
        // Pods that count already, by zone.
        let mut counts: BTreeMap<Arc<str>, usize> = zones.iter().map(|z| (z.clone(), 0)).collect();
        for node in self.snapshot.nodes() {
            let Some(n) = node.labels.get(ZONE).and_then(|z| counts.get_mut(z.as_str())) else {
                continue;
            };
            *n += node
                .pods
                .values()
                .filter(|p| counted.is_some_and(|s| self.snapshot.selects(s, p)))
                .count();
        }
        let mut dealt: BTreeMap<Arc<str>, Vec<Arc<PodSpec>>> = BTreeMap::new();
        let home = counts
            .iter()
            .max_by_key(|(z, n)| (**n, std::cmp::Reverse((*z).clone())))
            .map(|(z, _)| z.clone());
        let mut left = Vec::new();
        for p in &class.pods {
            let least = counts
                .iter()
                .filter(|(z, _)| !apart || !dealt.contains_key(*z))
                .min_by_key(|(z, n)| (**n, (*z).clone()))
                .map(|(z, _)| z.clone());
            let zone = if together.is_some() && spreads.is_none() && !apart {
                home.clone()
            } else {
                least
            };
            match zone {
                Some(z) => {
                    *counts.entry(z.clone()).or_default() += 1;
                    dealt.entry(z).or_default().push(p.clone());
                }
                None => left.push(p.clone()),
            }
        }
        let mut classes: Vec<Class> = dealt
            .into_iter()
            .map(|(zone, pods)| {
                let mut c = Class { pods, ..class.clone() };
                c.alternatives.iter_mut().for_each(|r| r.add(ZONE, Values::of([zone.clone()])));
                let namespace = c.check.key.namespace.clone();
                let check = Arc::make_mut(&mut Arc::make_mut(&mut c.check).class);
                check.spread.retain(|s| &*s.key != ZONE);
                check.affinity.retain(|a| &*a.key != ZONE);
                check.anti_affinity.retain(|a| &*a.key != ZONE);
                check.classify(&namespace);
                c
            })
            .collect();
        if !left.is_empty() {
            classes.push(Class { pods: left, ..class });
        }
        classes
    }

    /// Buys nodes from the pools of a weight until they fit no more.
    fn buy_all(&mut self, weight: i32, classes: &mut Vec<Class>, plan: &mut Plan) {
        let mut useless: HashSet<(usize, u64)> = HashSet::new();
        while !classes.is_empty() {
            let Some((fill, why)) = self.best(weight, classes, &useless) else { return };
            let placed = self.buy(&fill, why, classes, plan);
            if placed == 0 {
                // The rules between pods refused what the numbers allowed: try without that class.
                for (c, _) in &fill.counts {
                    useless.insert((fill.pool, classes[*c].spec.class_id));
                }
            }
            classes.retain(|c| !c.pods.is_empty());
        }
    }

    /// The offering that pays least for what it would be filled with.
    fn best(
        &mut self,
        weight: i32,
        classes: &[Class],
        useless: &HashSet<(usize, u64)>,
    ) -> Option<(Fill, String)> {
        let (mut best, mut second): (Option<Fill>, Option<(f64, String)>) = (None, None);
        for pool in 0..self.pools.len() {
            if self.pools[pool].weight != weight {
                continue;
            }
            let types = self.pools[pool].types.clone();
            let usable: Vec<usize> = (0..classes.len())
                .filter(|c| {
                    !useless.contains(&(pool, classes[*c].spec.class_id))
                        && tolerates(&classes[*c].spec, &self.pools[pool])
                })
                .collect();
            let zone_bound = usable.iter().any(|c| {
                classes[*c]
                    .alternatives
                    .iter()
                    .any(|r| r.get(ZONE).is_some() || r.get(CAPACITY_TYPE).is_some())
            });
            for (ty, t) in types.iter().enumerate() {
                if !self.pools[pool].has_room(&t.capacity) {
                    continue;
                }
                let acceptable: Vec<usize> = usable
                    .iter()
                    .copied()
                    .filter(|c| self.accepts(&classes[*c], pool, t))
                    .collect();
                if acceptable.is_empty() {
                    continue;
                }
                let offerings = if zone_bound {
                    &t.offerings[..]
                } else {
                    &t.offerings[..t.offerings.len().min(1)]
                };
                for offering in offerings {
                    let Some(fill) = self.fill(pool, ty, t, offering, classes, &acceptable) else {
                        continue;
                    };
                    if best.as_ref().is_none_or(|b| fill.rate < b.rate) {
                        second = best
                            .take()
                            .map(|b| (b.rate, self.pools[b.pool].types[b.ty].name.to_string()))
                            .or(second);
                        best = Some(fill);
                    } else if second.as_ref().is_none_or(|(r, _)| fill.rate < *r) {
                        second = Some((fill.rate, t.name.to_string()));
                    }
                }
            }
        }
        let best = best?;
        let name = &self.pools[best.pool].types[best.ty].name;
        let why = match second {
            Some((rate, other)) if other != **name => format!(
                "{name} pays ${:.4}/h for each processor's worth of these pods; next is {other} at ${rate:.4}/h",
                best.rate
            ),
            _ => {
                format!("{name} pays ${:.4}/h for each processor's worth of these pods", best.rate)
            }
        };
        Some((best, why))
    }

    /// Whether a class may run on a type of a pool, whatever the zone.
    fn accepts(&self, class: &Class, pool: usize, t: &PoolType) -> bool {
        let labels = &self.pools[pool].labels;
        class.alternatives.iter().any(|r| {
            r.0.iter().all(|(k, v)| match &**k {
                ZONE | CAPACITY_TYPE | HOSTNAME => true,
                POOL => v.accepts(Some(&self.pools[pool].name)),
                k => v.accepts(t.labels.get(k).or_else(|| labels.get(k)).map(String::as_str)),
            })
        })
    }

    fn overhead(&mut self, pool: usize, ty: usize, t: &PoolType) -> Resources {
        if let Some(r) = self.overhead.get(&(pool, ty)) {
            return r.clone();
        }
        let mut node = self.node(pool, t, t.offerings.first(), "");
        node.labels.remove(HOSTNAME);
        let mut r = Resources::default();
        for d in self.daemons {
            if predicates::taints(d, &node).is_ok() && predicates::node_affinity(d, &node).is_ok() {
                r.add(&d.requests, 1);
            }
        }
        self.overhead.insert((pool, ty), r.clone());
        r
    }

    /// Fills an offering by arithmetic.
    fn fill(
        &mut self,
        pool: usize,
        ty: usize,
        t: &PoolType,
        offering: &Offering,
        classes: &[Class],
        acceptable: &[usize],
    ) -> Option<Fill> {
        let mut used = self.overhead(pool, ty, t);
        let mut counts = Vec::new();
        let mut worth = 0.0;
        for c in acceptable {
            let class = &classes[*c];
            let offered = |k: &str| {
                if k == ZONE { Some(&*offering.zone) } else { Some(offering.capacity_type) }
            };
            let ok = class.alternatives.iter().any(|r| {
                [ZONE, CAPACITY_TYPE].iter().all(|k| r.get(k).is_none_or(|v| v.accepts(offered(k))))
            });
            if !ok {
                continue;
            }
            let n = how_many(&class.spec.requests, &used, &t.allocatable)
                .min(class.pods.len())
                .min(class.per_node);
            if n > 0 {
                let mut all = class.spec.requests.clone();
                scale(&mut all, n);
                used.add(&all, 1);
                worth += value(&class.spec.requests) * n as f64;
                counts.push((*c, n));
            }
        }
        (worth > 0.0).then(|| Fill {
            pool,
            ty,
            offering: offering.clone(),
            counts,
            rate: offering.usd_per_hour / worth,
        })
    }

    fn node(&self, pool: usize, t: &PoolType, offering: Option<&Offering>, name: &str) -> Node {
        let p = &self.pools[pool];
        let mut labels = (*t.labels).clone();
        labels.extend(p.labels.clone());
        labels.insert(POOL.into(), p.name.clone());
        labels.insert(HOSTNAME.into(), name.into());
        labels.insert(INSTANCE_TYPE.into(), t.name.to_string());
        if let Some(o) = offering {
            labels.insert(ZONE.into(), o.zone.to_string());
            labels.insert(CAPACITY_TYPE.into(), o.capacity_type.into());
        }
        Node {
            name: name.into(),
            labels,
            taints: p.taints.clone(),
            allocatable: t.allocatable.clone(),
            ..Node::default()
        }
    }

    /// Buys a filled offering, as often as the same filling is wanted again.
    fn buy(&mut self, fill: &Fill, why: String, classes: &mut [Class], plan: &mut Plan) -> usize {
        let t = self.pools[fill.pool].types[fill.ty].clone();
        let plain = fill.counts.iter().all(|(c, _)| !classes[*c].spec.is_topology_bound());
        let repeats =
            fill.counts.iter().map(|(c, n)| classes[*c].pods.len() / n).min().unwrap_or(1).max(1);
        let repeats = if plain { repeats } else { 1 };
        let mut total = 0;
        for _ in 0..repeats {
            if !self.pools[fill.pool].has_room(&t.capacity) {
                break;
            }
            self.bought += 1;
            let name = format!("new-{}", self.bought);
            let mut node = self.node(fill.pool, &t, Some(&fill.offering), &name);
            let overhead = self.overhead(fill.pool, fill.ty, &t);
            node.used = overhead.clone();
            self.snapshot.set_node(node);
            let (mut keys, mut requests, mut asked) = (Vec::new(), overhead, Vec::new());
            for (c, n) in &fill.counts {
                let class = &mut classes[*c];
                let mut later = Vec::new();
                for _ in 0..*n {
                    let Some(pod) = class.pods.pop() else { break };
                    if self.snapshot.fits(&class.check, &name).is_ok() {
                        requests.add(&pod.requests, 1);
                        keys.push(pod.key.clone());
                        self.snapshot.add_pod(pod, &name);
                    } else {
                        later.push(pod);
                    }
                }
                asked.push(class.alternatives.clone());
                class.pods.extend(later);
            }
            if keys.is_empty() {
                self.snapshot.remove_node(&name);
                return total;
            }
            total += keys.len();
            let new = self.new_node(fill, &t, keys, requests, &asked, why.clone());
            self.pools[fill.pool].take_room(&t.capacity);
            plan.new_nodes.push(new);
        }
        total
    }

    /// Names the types, zones and capacity types that would do as well, cheapest first.
    fn new_node(
        &self,
        fill: &Fill,
        t: &PoolType,
        pods: Vec<PodKey>,
        requests: Resources,
        asked: &[Vec<Requirements>],
        why: String,
    ) -> NewNode {
        let pool = &self.pools[fill.pool];
        let offering_ok = |o: &Offering| {
            asked.iter().all(|alternatives| {
                alternatives.iter().any(|r| {
                    r.get(ZONE).is_none_or(|v| v.accepts(Some(&o.zone)))
                        && r.get(CAPACITY_TYPE).is_none_or(|v| v.accepts(Some(o.capacity_type)))
                })
            })
        };
        // Pods that are bound to each other stay in the zone that the plan chose for them.
        let bound = pods.iter().any(|k| {
            self.snapshot
                .node_of(k)
                .and_then(|n| n.pods.get(k))
                .is_some_and(|p| p.is_topology_bound())
        });
        let zone_ok = |o: &Offering| !bound || o.zone == fill.offering.zone;
        let type_ok = |x: &PoolType| {
            asked.iter().all(|alternatives| {
                alternatives.iter().any(|r| {
                    r.0.iter().all(|(k, v)| {
                        matches!(&**k, ZONE | CAPACITY_TYPE | HOSTNAME | POOL)
                            || v.accepts(
                                x.labels
                                    .get(&**k)
                                    .or_else(|| pool.labels.get(&**k))
                                    .map(String::as_str),
                            )
                    })
                })
            })
        };
        let mut options: Vec<(f64, &PoolType, &Offering)> = Vec::new();
        for x in pool.types.iter().filter(|x| {
            x.name == t.name
                || (requests.fits(&Resources::default(), &x.allocatable)
                    && type_ok(x)
                    && pool.has_room(&x.capacity))
        }) {
            if let Some(o) = x.offerings.iter().find(|o| offering_ok(o) && zone_ok(o)) {
                options.push((o.usd_per_hour, x, o));
            }
        }
        options.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.name.cmp(&b.1.name)));
        options.truncate(MAX_TYPES);
        let types: Vec<Arc<str>> = options.iter().map(|(_, x, _)| x.name.clone()).collect();
        let mut zones = BTreeSet::new();
        let mut capacity_types = BTreeSet::new();
        for o in options
            .iter()
            .flat_map(|(_, x, _)| &x.offerings)
            .filter(|o| offering_ok(o) && zone_ok(o))
        {
            zones.insert(o.zone.clone());
            capacity_types.insert(o.capacity_type);
        }
        let offering =
            options.first().map_or_else(|| fill.offering.clone(), |(_, _, o)| (*o).clone());
        NewNode {
            pool: pool.name.clone(),
            types,
            zones,
            capacity_types,
            offering,
            pods,
            requests,
            why,
        }
    }

    /// No cheaper than this: every offering's price for a processor's worth, times all the worth.
    fn lower_bound(&self, pods: &[Arc<PodSpec>]) -> f64 {
        let worth: f64 = pods.iter().map(|p| value(&p.requests)).sum();
        let all = self.pools.iter().flat_map(|p| p.types.iter());
        let rate = all
            .filter_map(|t| Some(t.offerings.first()?.usd_per_hour / value(&t.allocatable)))
            .fold(f64::INFINITY, f64::min);
        if rate.is_finite() { worth * rate } else { 0.0 }
    }

    /// Why nothing fits a class.
    fn explain(&self, class: &Class) -> String {
        if self.pools.is_empty() {
            return "no NodePool is ready".into();
        }
        let mut reasons = Vec::new();
        for (i, pool) in self.pools.iter().enumerate() {
            let reason = if !tolerates(&class.spec, pool) {
                "its taints are not tolerated"
            } else if pool.types.is_empty() {
                "no instance type meets its requirements"
            } else if !pool.types.iter().any(|t| self.accepts(class, i, t)) {
                "no instance type meets the pod's node selector and affinity"
            } else if !pool.types.iter().any(|t| {
                self.accepts(class, i, t)
                    && class.spec.requests.fits(&Resources::default(), &t.allocatable)
            }) {
                "no instance type is large enough"
            } else if !pool.types.iter().any(|t| pool.has_room(&t.capacity)) {
                "its limits are reached"
            } else {
                "no offering meets all of the pod's rules"
            };
            reasons.push(format!("NodePool {}: {reason}", pool.name));
        }
        reasons.join("; ")
    }
}

fn tolerates(pod: &PodSpec, pool: &Pool) -> bool {
    pool.taints
        .iter()
        .filter(|t| t.effect != "PreferNoSchedule")
        .all(|t| pod.tolerates(&t.key, &t.value, &t.effect))
}

/// Most pods of a class on one node, by its rules about node names.
fn per_node(spec: &PodSpec, snapshot: &Snapshot) -> usize {
    let own = |a: &coracle_scheduling::pod::Affinity| {
        &*a.key == HOSTNAME && snapshot.selects(&a.pods, spec)
    };
    if spec.anti_affinity.iter().any(own) || !spec.host_ports.is_empty() {
        return 1;
    }
    let skews = spec
        .spread
        .iter()
        .filter(|s| &*s.key == HOSTNAME && s.required && snapshot.selects(&s.pods, spec));
    skews.map(|s| usize::try_from(s.max_skew).unwrap_or(1)).min().unwrap_or(usize::MAX)
}

fn how_many(one: &Resources, used: &Resources, total: &Resources) -> usize {
    let fit = |need: i64, used: i64, total: i64| {
        if need <= 0 { i64::MAX } else { ((total - used) / need).max(0) }
    };
    let mut n = fit(one.cpu_milli, used.cpu_milli, total.cpu_milli)
        .min(fit(one.memory_bytes, used.memory_bytes, total.memory_bytes))
        .min(fit(one.ephemeral_bytes, used.ephemeral_bytes, total.ephemeral_bytes))
        .min(fit(one.pods, used.pods, total.pods));
    for (name, need) in &one.extended {
        n = n.min(fit(*need, used.extended(name), total.extended(name)));
    }
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn scale(r: &mut Resources, n: usize) {
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    r.cpu_milli *= n;
    r.memory_bytes *= n;
    r.ephemeral_bytes *= n;
    r.pods *= n;
    r.extended.iter_mut().for_each(|(_, v)| *v *= n);
}

#[cfg(test)]
mod tests;
