//! What can be bought, as bins: a type of a pool, paid for in a way, less what daemons take.

use super::variety;
use crate::offering::{
    CAPACITY_TYPE, HOSTNAME, INSTANCE_TYPE, Offering, POOL, Pool, PoolType, RESERVED, Reservation,
    ZONE,
};
use coracle_scheduling::{Node, PodSpec, Requirements, Resources, predicates};
use std::{cell::OnceCell, collections::BTreeMap, sync::Arc};

/// A bin with where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Lot {
    /// Index of the pool.
    pub(super) pool: usize,
    /// Index of the type.
    pub(super) ty: usize,
    /// `spot` or `on-demand`.
    pub(super) capacity_type: &'static str,
    /// Price in its cheapest zone.
    pub(super) usd_per_hour: f64,
    /// Zones that it can be had in, as bits.
    pub(super) zones: u64,
    /// What daemons take.
    pub(super) overhead: Resources,
}

/// Pools, their bins, and the zones of both.
pub(super) struct Market<'m> {
    pub(super) pools: Vec<Pool>,
    daemons: &'m [Arc<PodSpec>],
    pub(super) zones: Vec<Arc<str>>,
    /// What daemons take, by pool and type: asked for only once something has to be bought.
    overheads: OnceCell<Vec<Vec<Resources>>>,
    /// By pool and type, the types that hold as much.
    substitutes: OnceCell<Vec<Vec<Vec<usize>>>>,
    /// How many machines of each reservation the plan starts.
    started: BTreeMap<Arc<str>, usize>,
}

/// Bins are thinned to steps of price of this much: the type is chosen again when the pods of a node
/// are known.
const STEP: f64 = 1.06;

impl<'m> Market<'m> {
    pub(super) fn new(pools: &[Pool], daemons: &'m [Arc<PodSpec>]) -> Self {
        let types = || pools.iter().flat_map(|p| p.types.iter());
        let mut zones: Vec<Arc<str>> =
            types().flat_map(|t| &t.offerings).map(|o| o.zone.clone()).collect();
        zones.extend(types().flat_map(|t| &t.reservations).map(|r| r.zone.clone()));
        zones.sort();
        zones.dedup();
        // One bit each.
        zones.truncate(64);
        Self {
            pools: pools.to_vec(),
            daemons,
            zones,
            overheads: OnceCell::new(),
            substitutes: OnceCell::new(),
            started: BTreeMap::new(),
        }
    }

    /// A machine of a reservation as a bin.
    pub(super) fn reserved_lot(&self, pool: usize, ty: usize, r: &Reservation) -> Lot {
        Lot {
            pool,
            ty,
            capacity_type: RESERVED,
            usd_per_hour: r.usd_per_hour,
            zones: self.zone_bit(&r.zone),
            overhead: self.overhead_of(pool, ty).clone(),
        }
    }

    /// Whether machines of a reservation are left.
    pub(super) fn has_left(&self, r: &Reservation) -> bool {
        self.started.get(&r.id).copied().unwrap_or(0) < r.left
    }

    /// Takes a machine of a reservation.
    pub(super) fn start(&mut self, r: &Reservation) {
        *self.started.entry(r.id.clone()).or_default() += 1;
    }

    /// What daemons take on a type of a pool.
    pub(super) fn overhead_of(&self, pool: usize, ty: usize) -> &Resources {
        let of = |pool: usize| {
            let types = self.pools[pool].types.iter();
            types.map(|t| self.overhead(pool, t)).collect::<Vec<_>>()
        };
        let all = self.overheads.get_or_init(|| (0..self.pools.len()).map(of).collect());
        &all[pool][ty]
    }

    /// Whether the types of a pool that hold what one holds, and that are accepted, are different enough.
    pub(super) fn is_varied(
        &self,
        pool: usize,
        ty: usize,
        accepted: impl Fn(&usize) -> bool,
    ) -> bool {
        if variety::is_free(&self.pools[pool]) {
            return true;
        }
        let all = || self.pools.iter().map(variety::substitutes).collect();
        let types = self.substitutes.get_or_init(all)[pool][ty].iter().copied();
        variety::is_enough(&self.pools[pool], types.filter(accepted))
    }

    pub(super) fn zone_bit(&self, zone: &str) -> u64 {
        self.zones.binary_search_by(|z| (**z).cmp(zone)).map_or(0, |i| 1 << i)
    }

    /// Zones that a set of requirements leaves.
    pub(super) fn zones_of(&self, r: &Requirements) -> u64 {
        let Some(v) = r.get(ZONE) else { return u64::MAX };
        self.zones.iter().filter(|z| v.accepts(Some(z))).map(|z| self.zone_bit(z)).sum()
    }

    /// The bins of all pools of a weight that have room for another node. Capacity types are told
    /// apart only if pods do.
    pub(super) fn lots(&self, weight: i32, by_capacity_type: bool) -> Vec<Lot> {
        let mut lots = Vec::new();
        for (pool, p) in self.pools.iter().enumerate().filter(|(_, p)| p.weight == weight) {
            let types = p.types.iter().enumerate();
            for (ty, t) in types.filter(|(_, t)| p.has_room(&t.capacity, t.usd_per_hour())) {
                let mut cheapest: BTreeMap<&'static str, (f64, u64)> = BTreeMap::new();
                for o in &t.offerings {
                    let kind = if by_capacity_type { o.capacity_type } else { "" };
                    let slot = cheapest.entry(kind).or_insert((f64::INFINITY, 0));
                    slot.0 = slot.0.min(o.usd_per_hour);
                    slot.1 |= self.zone_bit(&o.zone);
                }
                let overhead = self.overhead_of(pool, ty);
                for (capacity_type, (usd_per_hour, zones)) in cheapest {
                    let overhead = overhead.clone();
                    lots.push(Lot { pool, ty, capacity_type, usd_per_hour, zones, overhead });
                }
            }
        }
        lots
    }

    /// The least that a processor's worth costs in some zones.
    pub(super) fn rate_in(&self, zones: u64) -> f64 {
        let types = self.pools.iter().flat_map(|p| p.types.iter());
        let rate = |t: &PoolType| {
            let sold = t.offerings.iter().filter(|o| self.zone_bit(&o.zone) & zones != 0);
            let price = sold.map(|o| o.usd_per_hour).fold(f64::INFINITY, f64::min);
            price / super::value(&t.allocatable)
        };
        types.map(rate).fold(f64::INFINITY, f64::min)
    }

    /// Which of the bins are worth planning with: of those of a kind and a ratio of memory to
    /// processor one at each step of price, and the largest.
    pub(super) fn thin(&self, lots: &[Lot], kinds: &[usize]) -> Vec<usize> {
        let ratio = |l: &Lot| {
            let a = &self.ty(l).allocatable;
            // Families differ by memory for a processor: steps of a third of an octave.
            let gib = a.memory_bytes as f64 / (1u64 << 30) as f64;
            (3.0 * (gib / (a.cpu_milli.max(1) as f64 / 1000.0)).max(1e-3).log2()).round() as i64
        };
        let mut groups: BTreeMap<(usize, i64), Vec<usize>> = BTreeMap::new();
        for (i, l) in lots.iter().enumerate() {
            groups.entry((kinds[i], ratio(l))).or_default().push(i);
        }
        let mut kept = Vec::new();
        for mut group in groups.into_values() {
            let price = |i: &usize| lots[*i].usd_per_hour;
            group.sort_by(|a, b| price(a).total_cmp(&price(b)).then(a.cmp(b)));
            let mut last = 0.0;
            for (k, i) in group.iter().enumerate() {
                if price(i) >= last * STEP || k + 1 == group.len() {
                    last = price(i);
                    kept.push(*i);
                }
            }
        }
        kept.sort_unstable();
        kept
    }

    pub(super) fn ty(&self, lot: &Lot) -> &PoolType {
        &self.pools[lot.pool].types[lot.ty]
    }

    fn overhead(&self, pool: usize, t: &PoolType) -> Resources {
        let mut r = Resources::default();
        if self.daemons.is_empty() {
            return r;
        }
        let mut node = self.node(pool, t, t.offerings.first(), "");
        node.labels.remove(HOSTNAME);
        for d in self.daemons {
            if predicates::taints(d, &node).is_ok() && predicates::node_affinity(d, &node).is_ok() {
                r.add(&d.requests, 1);
            }
        }
        r
    }

    /// A node of a type, as it will be.
    pub(super) fn node(
        &self,
        pool: usize,
        t: &PoolType,
        offering: Option<&Offering>,
        name: &str,
    ) -> Node {
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

    /// Whether requirements leave a type of a pool, whatever the zone and the capacity type.
    pub(super) fn type_accepted(&self, pool: usize, t: &PoolType, r: &Requirements) -> bool {
        let p = &self.pools[pool];
        r.0.iter().all(|(k, v)| match &**k {
            ZONE | CAPACITY_TYPE | HOSTNAME => true,
            k => v.accepts(p.label(t, k)),
        })
    }

    /// Whether one of the alternatives leaves a bin, and enough that could take its place.
    pub(super) fn accepted(&self, lot: &Lot, alternatives: &[Requirements]) -> bool {
        let leaves = |ty: usize, r: &Requirements| {
            let paid = lot.capacity_type.is_empty()
                || r.get(CAPACITY_TYPE).is_none_or(|v| v.accepts(Some(lot.capacity_type)));
            let t = &self.pools[lot.pool].types[ty];
            paid && self.zones_of(r) & lot.zones != 0 && self.type_accepted(lot.pool, t, r)
        };
        alternatives.iter().any(|r| leaves(lot.ty, r))
            && self.is_varied(lot.pool, lot.ty, |ty| alternatives.iter().any(|r| leaves(*ty, r)))
    }

    /// The cheapest offering of a bin in a zone.
    pub(super) fn offering(&self, lot: &Lot, zones: u64) -> Option<&Offering> {
        let fits = |o: &&Offering| {
            self.zone_bit(&o.zone) & zones != 0
                && (lot.capacity_type.is_empty() || o.capacity_type == lot.capacity_type)
        };
        let all = self.ty(lot).offerings.iter().filter(fits);
        all.min_by(|a, b| a.usd_per_hour.total_cmp(&b.usd_per_hour).then(a.zone.cmp(&b.zone)))
    }
}

/// Whether a pod tolerates the taints of a pool.
pub(super) fn tolerates(pod: &PodSpec, pool: &Pool) -> bool {
    pool.taints
        .iter()
        .filter(|t| t.effect != "PreferNoSchedule")
        .all(|t| pod.tolerates(&t.key, &t.value, &t.effect))
}
