//! From classes of pods to nodes: what can be bought becomes bins, classes become items, fillings
//! become nodes, and pods are bound to them one by one.

use super::{
    bought::Bought,
    cover::{self, Bin, Item, Problem},
    demand::{Apart, Class, tells_capacity_types},
    market::{Lot, Market, tolerates},
    stock::{Choice, Stock, rules_about_names},
};
use crate::offering::{Offering, ZONE};
use coracle_scheduling::{PodSpec, Requirements, Resources, Snapshot, pod::Toleration};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Resources by index: the four that all nodes have, then those that pods name.
struct Dimensions(Vec<Arc<str>>);

impl Dimensions {
    fn of(classes: &[Class]) -> Self {
        let named = classes.iter().flat_map(|c| c.spec.requests.extended.iter());
        Self(named.map(|(n, _)| n.clone()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn vector(&self, r: &Resources) -> Vec<i64> {
        let mut v = vec![r.cpu_milli, r.memory_bytes, r.ephemeral_bytes, r.pods];
        v.extend(self.0.iter().map(|n| r.extended(n)));
        v
    }
}

/// Buys nodes of a weight for classes of pods; `together` lets pods of several zones share one plan,
/// which is better while many pods may go anywhere. What cannot be placed is left; returns a lower bound
/// of the price.
pub(super) fn buy(
    snapshot: &mut Snapshot,
    market: &mut Market<'_>,
    weight: i32,
    classes: Vec<Class>,
    together: bool,
    left: &mut Vec<Arc<PodSpec>>,
    bought: &mut Bought,
) -> f64 {
    let lots = market.lots(weight, tells_capacity_types(&classes));
    let dims = Dimensions::of(&classes);
    let sets = acceptable(market, &classes, &lots);
    let all_bins: Vec<Bin> = lots.iter().map(|l| bin(market, &dims, l, l.usd_per_hour)).collect();
    let mut groups = 0;
    let (mut all_items, mut worth, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut turns: Vec<Turn> = Vec::new();
    left.clear();
    let classes: Vec<(Class, usize)> = classes.into_iter().zip(sets.of_class.clone()).collect();
    for (zones, classes) in by_zones(market, classes, together) {
        let sold = sets.kept.iter().copied();
        let sold = sold.filter_map(|k| Some((k, market.offering(&lots[k], zones)?.usd_per_hour)));
        let sold: Vec<(usize, f64)> = sold.collect();
        // Of nodes that cost the same the fewer are better: each counts for a little more than its price.
        let least = sold.iter().map(|(_, price)| *price).fold(f64::INFINITY, f64::min);
        let each =
            |(k, price): &(usize, f64)| bin(market, &dims, &lots[*k], price + least * FEWER_NODES);
        let bins: Vec<Bin> = sold.iter().map(each).collect();
        let masks: Vec<Vec<bool>> =
            sets.masks.iter().map(|m| sold.iter().map(|(k, _)| m[*k]).collect()).collect();
        let (exact, of_exact) = grouped(&classes, &dims, |need| need);
        let (items, of_class) = few(&classes, &dims, &exact, &of_exact);
        let cover = cover::cover(Problem { items: &items, bins: &bins, sets: &masks });
        let classes: Vec<Class> = classes.into_iter().map(|(c, _)| c).collect();
        let mut stock = Stock::new(classes, &of_class, items.len());
        // The groups of each plan are numbered on their own.
        let shift: usize = groups;
        groups += exact.iter().filter_map(|i| i.apart).max().map_or(0, |g| g + 1);
        // What the plan's items are worth proves a bound for the exact ones as well.
        let mut planned_as = vec![0; exact.len()];
        of_exact.iter().zip(&of_class).for_each(|(e, p)| planned_as[*e] = *p);
        worth.extend(planned_as.iter().map(|p| cover.worth[*p]));
        let covered = exact.iter().zip(&planned_as);
        counts.extend(covered.map(|(e, p)| if cover.counts[*p] > 0 { e.count } else { 0 }));
        all_items
            .extend(exact.into_iter().map(|i| Item { apart: i.apart.map(|a| a + shift), ..i }));
        let sold_in = |bin: usize| lots[sold[bin].0].zones & zones;
        for choice in stock.deal(market.zones.len(), sold_in, cover.filled) {
            let lot = &lots[sold[choice.bin].0];
            let choice = Choice { zones: choice.zones & zones, ..choice };
            fill_node(snapshot, market, lot, &choice, &mut stock, bought, &mut turns);
        }
        left.extend(stock.rest());
    }
    turns.sort_by_key(|t| (t.turn, t.free));
    for t in turns {
        if !bought.bind(snapshot, market, &t.pod, t.wish, t.at) {
            left.push(t.pod);
        }
    }
    // What a rule kept from its node may fit another.
    left.retain(|p| !bought.bind_anywhere(snapshot, market, p));
    let all = Problem { items: &all_items, bins: &all_bins, sets: &sets.masks };
    cover::lower_bound(all, &worth, &counts)
}

fn bin(market: &Market<'_>, dims: &Dimensions, lot: &Lot, price: f64) -> Bin {
    let mut room = market.ty(lot).allocatable.clone();
    room.add(&lot.overhead, -1);
    Bin { room: dims.vector(&room), price }
}

/// A pod that is to be bound to a new node.
struct Turn {
    /// When, among those whose zone matters.
    turn: usize,
    /// Whether it has no rules about which pods its node has: those that have are bound before.
    free: bool,
    pod: Arc<PodSpec>,
    /// What its node must be.
    wish: Arc<Vec<Requirements>>,
    at: usize,
}

/// Opens a node for a filling and draws its pods; when they are bound is left to their turns.
fn fill_node(
    snapshot: &mut Snapshot,
    market: &mut Market<'_>,
    lot: &Lot,
    choice: &Choice,
    stock: &mut Stock,
    bought: &mut Bought,
    turns: &mut Vec<Turn>,
) {
    let capacity = market.ty(lot).capacity.clone();
    let Some(offering) = market.offering(lot, choice.zones).cloned() else { return };
    if !market.pools[lot.pool].has_room(&capacity, offering.usd_per_hour) {
        return;
    }
    let zone = market.zone_bit(&offering.zone);
    let drawn = stock.draw(snapshot, zone, &choice.counts);
    if drawn.is_empty() {
        return;
    }
    market.pools[lot.pool].take_room(&capacity, offering.usd_per_hour);
    let at = bought.open(snapshot, market, lot, &offering);
    for (turn, class, pod) in drawn {
        let wish = stock.classes[class].alternatives.clone();
        turns.push(Turn { turn, free: !rules_about_names(&pod), pod, wish, at });
    }
}

/// Classes by the zones that their nodes are sought in. Those that are bound to one zone share its
/// nodes; the others go where they pay least, or like it best, or most pods are.
fn by_zones(
    market: &Market<'_>,
    classes: Vec<(Class, usize)>,
    together: bool,
) -> BTreeMap<u64, Vec<(Class, usize)>> {
    let count = market.zones.len();
    let volume = |c: &Class| (super::value(&c.spec.requests) * c.pods.len() as f64 * 1e3) as i64;
    let mut load = vec![0_i64; count];
    for (c, _) in classes.iter().filter(|(c, _)| c.zones.count_ones() == 1) {
        if let Some(z) = load.get_mut(c.zones.trailing_zeros() as usize) {
            *z += volume(c);
        }
    }
    let bound: i64 = load.iter().sum();
    let free: i64 = classes.iter().map(|(c, _)| volume(c)).sum::<i64>() - bound;
    // Enough pods go anywhere to fill what those leave that do not: one plan for all of them.
    if together && bound > 0 && free >= bound {
        return BTreeMap::from([(u64::MAX, classes)]);
    }
    let rates: Vec<f64> = (0..count).map(|z| market.rate_in(1 << z)).collect();
    let mut out: BTreeMap<u64, Vec<(Class, usize)>> = BTreeMap::new();
    for (c, set) in classes {
        let likes = |z: usize| -> i64 {
            let here =
                |r: &Requirements| r.get(ZONE).is_some_and(|v| v.accepts(Some(&market.zones[z])));
            c.spec.preferred_nodes.iter().filter(|(_, r)| here(r)).map(|(w, _)| w).sum()
        };
        let open: Vec<usize> = (0..count).filter(|z| c.zones & (1 << z) != 0).collect();
        let most = open.iter().map(|z| likes(*z)).max().unwrap_or(0);
        let liked = open.iter().copied().filter(|z| likes(*z) == most);
        let zones = if bound > 0 {
            let cheap = |z: &usize| (rates[*z] * 1e4).round() as i64;
            liked.min_by_key(|z| (cheap(z), -load[*z], *z)).map_or(c.zones, |z| 1 << z)
        } else {
            liked.map(|z| 1 << z).sum()
        };
        out.entry(zones).or_default().push((c, set));
    }
    out
}

/// A place for one pod: on any node, or on the cheapest new one that its rules let it have.
pub(super) fn buy_one(
    snapshot: &mut Snapshot,
    market: &mut Market<'_>,
    weight: i32,
    pod: &Arc<PodSpec>,
    bought: &mut Bought,
) -> bool {
    if bought.bind_anywhere(snapshot, market, pod) {
        return true;
    }
    let alternatives = Arc::new(pod.node_requirements());
    let mut lots = market.lots(weight, true);
    lots.retain(|l| {
        let mut asked = pod.requests.clone();
        asked.add(&l.overhead, 1);
        tolerates(pod, &market.pools[l.pool])
            && asked.fits(&Resources::default(), &market.ty(l).allocatable)
            && market.accepted(l, &alternatives)
    });
    let mut offers: Vec<(Offering, Lot)> = Vec::new();
    // For each zone the cheapest: rules between pods look at no more of a node than that.
    for zone in &market.zones {
        let bit = market.zone_bit(zone);
        let here = lots.iter().filter_map(|l| Some((market.offering(l, bit)?.clone(), l.clone())));
        offers.extend(here.min_by(|a, b| a.0.usd_per_hour.total_cmp(&b.0.usd_per_hour)));
    }
    offers.sort_by(|a, b| a.0.usd_per_hour.total_cmp(&b.0.usd_per_hour));
    for (offering, lot) in offers {
        let capacity = market.ty(&lot).capacity.clone();
        if !market.pools[lot.pool].has_room(&capacity, offering.usd_per_hour) {
            continue;
        }
        let at = bought.open(snapshot, market, &lot, &offering);
        if bought.bind(snapshot, market, pod, alternatives.clone(), at) {
            market.pools[lot.pool].take_room(&capacity, offering.usd_per_hour);
            return true;
        }
        bought.close(snapshot, at);
    }
    false
}

/// Sets of bins, the set of each class, and the bins that are worth planning with.
struct Sets {
    masks: Vec<Vec<bool>>,
    of_class: Vec<usize>,
    kept: Vec<usize>,
}

/// Which bins each class may go to.
fn acceptable(market: &Market<'_>, classes: &[Class], lots: &[Lot]) -> Sets {
    let mut known: HashMap<(&[Requirements], &[Toleration]), usize> = HashMap::new();
    let mut masks: Vec<Vec<bool>> = Vec::new();
    let mut of_class = Vec::new();
    for c in classes {
        let key = (&c.alternatives[..], &c.spec.tolerations[..]);
        let set = *known.entry(key).or_insert_with(|| {
            let pools: Vec<bool> = market.pools.iter().map(|p| tolerates(&c.spec, p)).collect();
            let takes = |l: &Lot| pools[l.pool] && market.accepted(l, &c.alternatives);
            masks.push(lots.iter().map(takes).collect());
            masks.len() - 1
        });
        of_class.push(set);
    }
    // Bins that all sets agree about are alike.
    let mut alike: HashMap<Vec<bool>, usize> = HashMap::new();
    let kinds: Vec<usize> = (0..lots.len())
        .map(|l| {
            let column: Vec<bool> = masks.iter().map(|m| m[l]).collect();
            let next = alike.len();
            *alike.entry(column).or_insert(next)
        })
        .collect();
    let kept = market.thin(lots, &kinds);
    Sets { masks, of_class, kept }
}

/// What a node counts for beside its price, as a share of the cheapest one's.
const FEWER_NODES: f64 = 0.01;
/// Most items that are planned with as they are: the program grows with their square.
const MAX_ITEMS: usize = 400;
/// Steps to which amounts are rounded up, one after the other, until there are few enough items.
const ROUNDING: [f64; 5] = [1.02, 1.04, 1.08, 1.16, 1.3];

/// Items to plan with and the item of each class: pods of very many sizes are planned with as if they
/// were of fewer, a little larger.
fn few(
    classes: &[(Class, usize)],
    dims: &Dimensions,
    exact: &[Item],
    of_exact: &[usize],
) -> (Vec<Item>, Vec<usize>) {
    let mut few = (exact.to_vec(), of_exact.to_vec());
    for step in ROUNDING {
        if few.0.len() <= MAX_ITEMS {
            break;
        }
        few = grouped(classes, dims, |mut need| {
            // Processor and memory: what pods differ in.
            need.iter_mut().take(2).for_each(|n| *n = rounded_up(*n, step));
            need
        });
    }
    few
}

/// The next power of a step.
fn rounded_up(n: i64, step: f64) -> i64 {
    if n <= 1 {
        return n;
    }
    let power = ((n as f64).ln() / step.ln()).ceil();
    (step.powf(power).ceil() as i64).max(n)
}

/// Classes that are alike for planning: items, and the item of each class.
fn grouped(
    classes: &[(Class, usize)],
    dims: &Dimensions,
    round: impl Fn(Vec<i64>) -> Vec<i64>,
) -> (Vec<Item>, Vec<usize>) {
    let mut groups: HashMap<&Apart, usize> = HashMap::new();
    let mut index: HashMap<(Vec<i64>, usize, Option<usize>, usize), usize> = HashMap::new();
    let (mut items, mut of_class) = (Vec::<Item>::new(), Vec::new());
    for (c, set) in classes {
        let apart = c.apart.as_ref().map(|a| {
            let next = groups.len();
            *groups.entry(a).or_insert(next)
        });
        let need = round(dims.vector(&c.spec.requests));
        let i = *index.entry((need.clone(), *set, apart, c.per_node)).or_insert_with(|| {
            items.push(Item { need, count: 0, per_bin: c.per_node, apart, set: *set });
            items.len() - 1
        });
        items[i].count += c.pods.len();
        of_class.push(i);
    }
    (items, of_class)
}
