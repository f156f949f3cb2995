//! From fillings to nodes: zones are chosen, pods drawn, and each pod is bound in turn under the
//! scheduler's own rules. At the end every node's type is chosen again, for what is really on it.

use super::{
    NewNode, Plan,
    cover::{self, Bin, Filled, Item, Problem},
    demand::{Apart, Class, tells_capacity_types},
    market::{Lot, Market, tolerates},
};
use crate::offering::{CAPACITY_TYPE, HOSTNAME, Offering, ZONE};
use coracle_scheduling::{
    PodSpec, Profile, Requirements, Resources, Snapshot,
    pod::{PodKey, Toleration},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Most types that a new node names as alternatives, as Karpenter's provider.
const MAX_TYPES: usize = 60;
/// Pods of one item that are looked at for one that no rule keeps from a node.
const DRAWS: usize = 64;

/// Nodes that were bought so far.
#[derive(Default)]
pub(super) struct Bought {
    nodes: Vec<Node>,
    by_name: HashMap<String, usize>,
    order: Vec<(PodKey, usize)>,
    existing: BTreeMap<PodKey, String>,
    /// Distinct wishes of pods about their nodes.
    wishes: HashMap<Arc<Vec<Requirements>>, usize>,
}

struct Node {
    name: String,
    lot: Lot,
    pods: usize,
    asked: Resources,
    wishes: BTreeMap<usize, Arc<Vec<Requirements>>>,
    /// Zones that it may be in.
    zones: u64,
}

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
    let (mut all_items, mut worth, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut turns: Vec<(usize, bool, Arc<PodSpec>, usize)> = Vec::new();
    left.clear();
    let classes: Vec<(Class, usize)> = classes.into_iter().zip(sets.of_class.clone()).collect();
    for (zones, classes) in by_zones(market, classes, together) {
        let sold = sets.kept.iter().copied();
        let sold = sold.filter_map(|k| Some((k, market.offering(&lots[k], zones)?.usd_per_hour)));
        let sold: Vec<(usize, f64)> = sold.collect();
        let bins: Vec<Bin> =
            sold.iter().map(|(k, price)| bin(market, &dims, &lots[*k], *price)).collect();
        let masks: Vec<Vec<bool>> =
            sets.masks.iter().map(|m| sold.iter().map(|(k, _)| m[*k]).collect()).collect();
        let (items, of_class) = items(&classes, &dims);
        let cover = cover::cover(Problem { items: &items, bins: &bins, sets: &masks });
        let classes: Vec<Class> = classes.into_iter().map(|(c, _)| c).collect();
        let mut stock = Stock::new(classes, &of_class, items.len());
        all_items.extend(items);
        worth.extend(cover.worth);
        counts.extend(cover.counts);
        let sold_in = |bin: usize| lots[sold[bin].0].zones & zones;
        for choice in stock.deal(market.zones.len(), sold_in, cover.filled) {
            let lot = &lots[sold[choice.bin].0];
            let choice = Choice { zones: choice.zones & zones, ..choice };
            fill_node(snapshot, market, lot, &choice, &mut stock, bought, &mut turns);
        }
        left.extend(stock.rest());
    }
    turns.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    for (_, _, pod, at) in turns {
        if !bought.bind(snapshot, pod.clone(), at) {
            left.push(pod);
        }
    }
    // What a rule kept from its node may fit another.
    left.retain(|p| !bought.bind_anywhere(snapshot, p));
    worth.resize(all_items.len(), 0.0);
    let all = Problem { items: &all_items, bins: &all_bins, sets: &sets.masks };
    cover::lower_bound(all, &worth, &counts)
}

fn bin(market: &Market<'_>, dims: &Dimensions, lot: &Lot, price: f64) -> Bin {
    let mut room = market.ty(lot).allocatable.clone();
    room.add(&lot.overhead, -1);
    Bin { room: dims.vector(&room), price }
}

/// Opens a node for a filling and draws its pods; when they are bound is left to their turns.
fn fill_node(
    snapshot: &mut Snapshot,
    market: &mut Market<'_>,
    lot: &Lot,
    choice: &Choice,
    stock: &mut Stock,
    bought: &mut Bought,
    turns: &mut Vec<(usize, bool, Arc<PodSpec>, usize)>,
) {
    let capacity = market.ty(lot).capacity.clone();
    if !market.pools[lot.pool].has_room(&capacity) {
        return;
    }
    let Some(offering) = market.offering(lot, choice.zones).cloned() else { return };
    let zone = market.zone_bit(&offering.zone);
    let drawn = stock.draw(snapshot, zone, &choice.counts);
    if drawn.is_empty() {
        return;
    }
    market.pools[lot.pool].take_room(&capacity);
    let at = bought.open(snapshot, market, lot, &offering);
    for (turn, class, pod) in drawn {
        bought.wish(at, stock.classes[class].alternatives.clone());
        turns.push((turn, !rules_about_names(&pod), pod, at));
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
            let here = |r: &Requirements| {
                r.get(ZONE).is_some_and(|v| v.accepts(Some(&market.zones[z])))
            };
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
    if bought.bind_anywhere(snapshot, pod) {
        return true;
    }
    let alternatives = pod.node_requirements();
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
        let at = bought.open(snapshot, market, &lot, &offering);
        if bought.bind(snapshot, pod.clone(), at) {
            let capacity = market.ty(&lot).capacity.clone();
            market.pools[lot.pool].take_room(&capacity);
            bought.wish(at, Arc::new(alternatives));
            return true;
        }
        bought.close(snapshot, at);
    }
    false
}

fn rules_about_names(p: &PodSpec) -> bool {
    p.spread.iter().any(|s| s.required && &*s.key == HOSTNAME)
        || p.affinity.iter().chain(&p.anti_affinity).any(|a| &*a.key == HOSTNAME)
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

/// Items, and the item of each class.
fn items(classes: &[(Class, usize)], dims: &Dimensions) -> (Vec<Item>, Vec<usize>) {
    let mut groups: HashMap<&Apart, usize> = HashMap::new();
    let mut index: HashMap<(Vec<i64>, usize, Option<usize>, usize), usize> = HashMap::new();
    let (mut items, mut of_class) = (Vec::<Item>::new(), Vec::new());
    for (c, set) in classes {
        let apart = c.apart.as_ref().map(|a| {
            let next = groups.len();
            *groups.entry(a).or_insert(next)
        });
        let need = dims.vector(&c.spec.requests);
        let i = *index.entry((need.clone(), *set, apart, c.per_node)).or_insert_with(|| {
            items.push(Item { need, count: 0, per_bin: c.per_node, apart, set: *set });
            items.len() - 1
        });
        items[i].count += c.pods.len();
        of_class.push(i);
    }
    (items, of_class)
}

/// A filling that a node is made of, in some of these zones.
struct Choice {
    bin: usize,
    zones: u64,
    counts: Vec<(usize, usize)>,
}

/// Pods that are not drawn yet.
struct Stock {
    classes: Vec<Class>,
    /// Classes of each item.
    of_item: Vec<Vec<usize>>,
}

impl Stock {
    fn new(classes: Vec<Class>, of_class: &[usize], items: usize) -> Self {
        let mut of_item = vec![Vec::new(); items];
        for (c, i) in of_class.iter().enumerate() {
            of_item[*i].push(c);
        }
        // Pods with the fewest zones are drawn first.
        for list in &mut of_item {
            list.sort_by_key(|c| classes[*c].zones.count_ones());
        }
        Self { classes, of_item }
    }

    /// Zones for the fillings: those that pods are bound to are used up one after the other, so that
    /// pods without such a rule fill what is left.
    fn deal(
        &self,
        zones: usize,
        sold_in: impl Fn(usize) -> u64,
        filled: Vec<(Filled, usize)>,
    ) -> Vec<Choice> {
        // Pods of each item that must go to a zone, and that may.
        let mut must = vec![vec![0_usize; self.of_item.len()]; zones];
        let mut may = vec![vec![0_usize; self.of_item.len()]; zones];
        for (item, list) in self.of_item.iter().enumerate() {
            for c in list.iter().map(|c| &self.classes[*c]) {
                for z in (0..zones).filter(|z| c.zones & (1 << z) != 0) {
                    let kind = if c.zones.count_ones() == 1 { &mut must } else { &mut may };
                    kind[z][item] += c.pods.len();
                }
            }
        }
        let mut order: Vec<usize> = (0..zones).collect();
        let total = |z: &usize| must[*z].iter().sum::<usize>();
        order.sort_by_key(|z| (total(z), *z));
        let mut filled = filled;
        let mut out = Vec::new();
        for z in order {
            loop {
                let score = |f: &Filled| {
                    let all: usize = f.counts.iter().map(|(_, n)| n).sum();
                    let here: usize = f.counts.iter().map(|(i, n)| (*n).min(must[z][*i])).sum();
                    let fits = f.counts.iter().all(|(i, n)| must[z][*i] + may[z][*i] >= *n);
                    if fits { here * 1000 / all.max(1) } else { 0 }
                };
                let sold = |f: &Filled| sold_in(f.bin) & (1 << z) != 0;
                let best = filled
                    .iter()
                    .enumerate()
                    .filter(|(_, (f, copies))| *copies > 0 && sold(f))
                    .map(|(k, (f, _))| (score(f), k))
                    .max_by_key(|(s, k)| (*s, std::cmp::Reverse(*k)));
                let Some((_, k)) = best.filter(|(s, _)| *s > 0) else { break };
                filled[k].1 -= 1;
                let counts = filled[k].0.counts.clone();
                for (i, n) in &counts {
                    let bound = (*n).min(must[z][*i]);
                    must[z][*i] -= bound;
                    for all in &mut may {
                        all[*i] = all[*i].saturating_sub(n - bound);
                    }
                }
                out.push(Choice { bin: filled[k].0.bin, zones: 1 << z, counts });
            }
        }
        for (f, copies) in filled {
            let counts = f.counts;
            out.extend((0..copies).map(|_| Choice { bin: f.bin, zones: u64::MAX, counts: counts.clone() }));
        }
        out
    }

    /// Takes pods for a node in a zone.
    fn draw(
        &mut self,
        snapshot: &Snapshot,
        zone: u64,
        counts: &[(usize, usize)],
    ) -> Vec<(usize, usize, Arc<PodSpec>)> {
        let mut drawn: Vec<(usize, usize, Arc<PodSpec>)> = Vec::new();
        for (item, n) in counts {
            let mut wanted = *n;
            // A second look takes what rules may keep away: the binding tells.
            for picky in [true, false] {
                let mut looked = 0;
                for k in 0..self.of_item[*item].len() {
                    let c = self.of_item[*item][k];
                    let class = &mut self.classes[c];
                    if class.zones & zone == 0 {
                        continue;
                    }
                    while wanted > 0 {
                        let Some((turn, p)) = class.pods.last() else { break };
                        looked += usize::from(picky);
                        if picky && looked < DRAWS && collides(snapshot, *turn, p, &drawn) {
                            break;
                        }
                        let Some((turn, p)) = class.pods.pop() else { break };
                        drawn.push((turn, c, p));
                        wanted -= 1;
                    }
                }
            }
        }
        drawn
    }

    fn rest(&self) -> Vec<Arc<PodSpec>> {
        self.classes.iter().flat_map(|c| c.pods.iter().map(|(_, p)| p.clone())).collect()
    }
}

/// Whether rules about nodes' names keep a pod from the pods of a new node.
fn collides(
    s: &Snapshot,
    turn: usize,
    p: &PodSpec,
    drawn: &[(usize, usize, Arc<PodSpec>)],
) -> bool {
    let others = || drawn.iter().map(|(_, _, q)| &**q);
    // Pods with rules are bound before those without.
    let early = |turn: usize, q: &PodSpec| turn != usize::MAX || rules_about_names(q);
    let repels = |a: &PodSpec, b: &PodSpec| {
        a.anti_affinity.iter().any(|t| &*t.key == HOSTNAME && s.selects(&t.pods, b))
    };
    let crowded = |a: &PodSpec, with: Option<&PodSpec>| {
        let mut own = a.spread.iter().filter(|r| r.required && &*r.key == HOSTNAME);
        own.any(|r| {
            let counts = |t: usize, q: &PodSpec| {
                q.key != a.key && early(t, q) && s.selects(&r.pods, q)
            };
            let before = drawn.iter().filter(|(t, _, q)| counts(*t, q)).count()
                + usize::from(with.is_some_and(|q| counts(turn, q)));
            before as i64 + i64::from(s.selects(&r.pods, a)) > r.max_skew
        })
    };
    let ruled = rules_about_names(p);
    others().any(|q| (ruled && repels(p, q)) || (rules_about_names(q) && repels(q, p)))
        || (ruled && (crowded(p, None) || others().any(|q| crowded(q, Some(p)))))
}

impl Bought {
    fn open(
        &mut self,
        snapshot: &mut Snapshot,
        market: &Market<'_>,
        lot: &Lot,
        offering: &Offering,
    ) -> usize {
        let name = format!("new-{}", self.nodes.len() + 1);
        let mut node = market.node(lot.pool, market.ty(lot), Some(offering), &name);
        node.used = lot.overhead.clone();
        snapshot.set_node(node);
        self.by_name.insert(name.clone(), self.nodes.len());
        self.nodes.push(Node {
            name,
            lot: lot.clone(),
            pods: 0,
            asked: Resources::default(),
            wishes: BTreeMap::new(),
            zones: market.zone_bit(&offering.zone),
        });
        self.nodes.len() - 1
    }

    /// The newest node did not do.
    fn close(&mut self, snapshot: &mut Snapshot, at: usize) {
        let node = self.nodes.remove(at);
        self.by_name.remove(&node.name);
        snapshot.remove_node(&node.name);
    }

    fn wish(&mut self, at: usize, alternatives: Arc<Vec<Requirements>>) {
        let next = self.wishes.len();
        let id = *self.wishes.entry(alternatives.clone()).or_insert(next);
        self.nodes[at].wishes.entry(id).or_insert(alternatives);
    }

    fn bind(&mut self, snapshot: &mut Snapshot, pod: Arc<PodSpec>, at: usize) -> bool {
        if snapshot.fits(&pod, &self.nodes[at].name).is_err() {
            return false;
        }
        self.take(&pod, at);
        snapshot.add_pod(pod, &self.nodes[at].name);
        true
    }

    fn take(&mut self, pod: &PodSpec, at: usize) {
        let node = &mut self.nodes[at];
        node.asked.add(&pod.requests, 1);
        node.pods += 1;
        self.order.push((pod.key.clone(), at));
    }

    fn bind_anywhere(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodSpec>) -> bool {
        let Ok(name) = snapshot.schedule(pod, Profile::Pack) else { return false };
        match self.by_name.get(&name).copied() {
            Some(at) => {
                self.wish(at, Arc::new(pod.node_requirements()));
                self.take(pod, at);
            }
            None => drop(self.existing.insert(pod.key.clone(), name.clone())),
        }
        snapshot.add_pod(pod.clone(), &name);
        true
    }

    /// Chooses the type of each node for what is on it, and tells the plan.
    pub(super) fn finish(self, snapshot: &mut Snapshot, market: &Market<'_>, plan: &mut Plan) {
        let mut number = vec![usize::MAX; self.nodes.len()];
        let mut pods: Vec<Vec<PodKey>> = vec![Vec::new(); self.nodes.len()];
        for (key, at) in &self.order {
            pods[*at].push(key.clone());
        }
        let mut shelves: HashMap<(usize, Vec<usize>, u64), Vec<Shelf>> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.pods == 0 {
                snapshot.remove_node(&node.name);
                continue;
            }
            let bound = snapshot
                .node(&node.name)
                .is_some_and(|n| n.pods.values().any(|p| p.is_topology_bound()));
            let zones = if bound { node.zones } else { u64::MAX };
            let key = (node.lot.pool, node.wishes.keys().copied().collect(), zones);
            let shelf = shelves
                .entry(key)
                .or_insert_with(|| shelf(market, node.lot.pool, &node.wishes, zones));
            number[at] = plan.new_nodes.len();
            let new = name_types(market, node, shelf, std::mem::take(&mut pods[at]));
            plan.new_nodes.push(new);
        }
        plan.existing.extend(self.existing);
        plan.order = self.order.into_iter().map(|(k, at)| (k, number[at])).collect();
    }
}

/// A type with its cheapest offering that suits some pods.
struct Shelf {
    ty: usize,
    offering: Offering,
    zones: BTreeSet<Arc<str>>,
    capacity_types: BTreeSet<&'static str>,
}

/// Types of a pool that all wishes accept, cheapest first.
fn shelf(
    market: &Market<'_>,
    pool: usize,
    wishes: &BTreeMap<usize, Arc<Vec<Requirements>>>,
    zones: u64,
) -> Vec<Shelf> {
    let mut out = Vec::new();
    for (ty, t) in market.pools[pool].types.iter().enumerate() {
        let suits = |o: &&Offering| {
            zones & market.zone_bit(&o.zone) != 0
                && wishes.values().all(|w| {
                    w.iter().any(|r| {
                        r.get(ZONE).is_none_or(|v| v.accepts(Some(&o.zone)))
                            && r.get(CAPACITY_TYPE).is_none_or(|v| v.accepts(Some(o.capacity_type)))
                            && market.type_accepted(pool, t, r)
                    })
                })
        };
        let all: Vec<&Offering> = t.offerings.iter().filter(suits).collect();
        let cheapest = all.iter().min_by(|a, b| a.usd_per_hour.total_cmp(&b.usd_per_hour));
        let Some(offering) = cheapest.map(|o| (**o).clone()) else { continue };
        out.push(Shelf {
            ty,
            offering,
            zones: all.iter().map(|o| o.zone.clone()).collect(),
            capacity_types: all.iter().map(|o| o.capacity_type).collect(),
        });
    }
    let name = |s: &Shelf| market.pools[pool].types[s.ty].name.clone();
    out.sort_by(|a, b| {
        let by_price = a.offering.usd_per_hour.total_cmp(&b.offering.usd_per_hour);
        by_price.then_with(|| name(a).cmp(&name(b)))
    });
    out
}

/// Names the types, zones and capacity types that would do as well, cheapest first.
fn name_types(market: &Market<'_>, node: &Node, shelf: &[Shelf], pods: Vec<PodKey>) -> NewNode {
    let pool = &market.pools[node.lot.pool];
    let fits = |s: &&Shelf| {
        let t = &pool.types[s.ty];
        s.ty == node.lot.ty
            || node.asked.fits(market.overhead_of(node.lot.pool, s.ty), &t.allocatable)
    };
    let options: Vec<&Shelf> = shelf.iter().filter(fits).take(MAX_TYPES).collect();
    let mut requests = node.asked.clone();
    let Some(first) = options.first() else {
        requests.add(&node.lot.overhead, 1);
        return fallback(market, node, pods, requests);
    };
    let t = &pool.types[first.ty];
    requests.add(market.overhead_of(node.lot.pool, first.ty), 1);
    let share = |part: i64, whole: i64| 100.0 * part as f64 / whole.max(1) as f64;
    let next = options.iter().find(|s| s.offering.usd_per_hour > first.offering.usd_per_hour);
    let why = format!(
        "{} for ${:.4}/h is the cheapest that holds {} pods: {:.0} % of its processors and {:.0} % of its memory are asked for{}",
        t.name,
        first.offering.usd_per_hour,
        pods.len(),
        share(requests.cpu_milli, t.allocatable.cpu_milli),
        share(requests.memory_bytes, t.allocatable.memory_bytes),
        next.map_or_else(String::new, |n| format!(
            "; next is {} for ${:.4}/h",
            pool.types[n.ty].name, n.offering.usd_per_hour
        )),
    );
    NewNode {
        pool: pool.name.clone(),
        types: options.iter().map(|s| pool.types[s.ty].name.clone()).collect(),
        zones: options.iter().flat_map(|s| s.zones.iter().cloned()).collect(),
        capacity_types: options.iter().flat_map(|s| s.capacity_types.iter().copied()).collect(),
        offering: first.offering.clone(),
        pods,
        requests,
        why,
    }
}

/// The type that was planned with, where no wish list has it: it holds the pods all the same.
fn fallback(market: &Market<'_>, node: &Node, pods: Vec<PodKey>, requests: Resources) -> NewNode {
    let t = market.ty(&node.lot);
    let offering = market.offering(&node.lot, node.zones).or_else(|| t.offerings.first());
    let offering = offering.cloned().unwrap_or(Offering {
        zone: "".into(),
        capacity_type: "on-demand",
        usd_per_hour: node.lot.usd_per_hour,
    });
    NewNode {
        pool: market.pools[node.lot.pool].name.clone(),
        types: vec![t.name.clone()],
        zones: BTreeSet::from([offering.zone.clone()]),
        capacity_types: BTreeSet::from([offering.capacity_type]),
        why: format!("{} for ${:.4}/h", t.name, offering.usd_per_hour),
        offering,
        pods,
        requests,
    }
}
