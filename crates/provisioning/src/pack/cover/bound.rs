//! A lower bound of the price of any cover, from what items are worth.

use super::Problem;

/// Worths of items, scaled down until no bin can hold more than its price, price all items (Farley,
/// "A note on bounding a class of linear programming problems", 1990). `worth` may be anything that
/// is not negative: the duals of a nearly solved program give a bound that is nearly the best.
/// `counts` are the items that are covered.
pub(in super::super) fn lower_bound(p: Problem<'_>, worth: &[f64], counts: &[usize]) -> f64 {
    let worth: Vec<f64> = worth.iter().map(|y| y.max(0.0)).collect();
    let total: f64 = counts.iter().zip(&worth).map(|(n, y)| *n as f64 * y).sum();
    let rates = Rates::new(p, &worth, counts);
    let over = (0..p.bins.len()).map(|b| rates.at_most(b) / p.bins[b].price).fold(0.0, f64::max);
    if over > 0.0 { total / over } else { 0.0 }
}

struct Rates<'p> {
    p: Problem<'p>,
    worth: &'p [f64],
    counts: &'p [usize],
    /// Resources with items by what they are worth for it.
    order: Vec<(usize, Vec<usize>)>,
    /// Items of the first group that a bin takes one of.
    apart: Vec<usize>,
}

impl<'p> Rates<'p> {
    fn new(p: Problem<'p>, worth: &'p [f64], counts: &'p [usize]) -> Self {
        let width = p.items.first().map_or(0, |i| i.need.len());
        let (apart, items): (Vec<usize>, Vec<usize>) = (0..p.items.len())
            .filter(|i| counts[*i] > 0)
            .partition(|i| p.items[*i].apart == Some(0));
        let dims = (0..width).filter(|d| p.items.iter().any(|i| i.need[*d] > 0));
        let order = dims.map(|d| {
            let rate = |i: usize| worth[i] / p.items[i].need[d].max(1) as f64;
            let mut order = items.clone();
            order.sort_by(|a, b| rate(*b).total_cmp(&rate(*a)));
            (d, order)
        });
        let order = order.collect();
        Self { p, worth, counts, order, apart }
    }

    fn takes(&self, item: usize, bin: usize) -> bool {
        let (i, room) = (&self.p.items[item], &self.p.bins[bin].room);
        self.p.sets[i.set][bin] && i.need.iter().zip(room).all(|(n, r)| n <= r)
    }

    /// No filling of a bin is worth more: items may be cut, only one resource counts, and of what
    /// excludes each other only the first group does.
    fn at_most(&self, bin: usize) -> f64 {
        let rooms = |d: &usize, less: i64| (self.p.bins[bin].room[*d] - less).max(0) as f64;
        let mut best = f64::INFINITY;
        for (d, order) in &self.order {
            // What fits into a room, greedily, once; then read off for each of the group.
            let mut steps: Vec<(f64, f64)> = vec![(0.0, 0.0)];
            let (mut used, mut got) = (0.0, 0.0);
            for i in order.iter().filter(|i| self.takes(**i, bin)) {
                let item = &self.p.items[*i];
                let most = if item.apart.is_some() { 1 } else { item.per_bin };
                let n = self.counts[*i].min(most) as f64;
                used += n * item.need[*d].max(0) as f64;
                got += n * self.worth[*i];
                steps.push((used, got));
                if used >= rooms(d, 0) {
                    break;
                }
            }
            let in_room = |room: f64| {
                let k = steps.partition_point(|(u, _)| *u <= room);
                let (u, g) = steps[k - 1];
                let part = steps.get(k).map_or(0.0, |(u2, g2)| (g2 - g) * (room - u) / (u2 - u));
                g + part
            };
            let alone = in_room(rooms(d, 0));
            let with = self.apart.iter().filter(|i| self.takes(**i, bin));
            let with = with.map(|i| self.worth[*i] + in_room(rooms(d, self.p.items[*i].need[*d])));
            best = best.min(with.fold(alone, f64::max));
        }
        best
    }
}
