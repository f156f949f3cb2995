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
    /// Resources that some item takes.
    dims: Vec<usize>,
    /// Items of the first group that a bin takes one of, and all others.
    apart: Vec<usize>,
    others: Vec<usize>,
}

/// Shares of the first two resources, and of another one, in a measure of size.
const MIXES: [(f64, f64, f64); 6] = [
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.5, 0.5, 0.0),
    (0.3, 0.7, 0.0),
    (0.7, 0.3, 0.0),
    (0.25, 0.25, 0.5),
];

impl<'p> Rates<'p> {
    fn new(p: Problem<'p>, worth: &'p [f64], counts: &'p [usize]) -> Self {
        let width = p.items.first().map_or(0, |i| i.need.len());
        let there = (0..p.items.len()).filter(|i| counts[*i] > 0 && worth[*i] > 0.0);
        let (apart, others) = there.partition(|i| p.items[*i].apart == Some(0));
        let dims = (0..width).filter(|d| p.items.iter().any(|i| i.need[*d] > 0)).collect();
        Self { p, worth, counts, dims, apart, others }
    }

    fn takes(&self, item: usize, bin: usize) -> bool {
        let (i, room) = (&self.p.items[item], &self.p.bins[bin].room);
        self.p.sets[i.set][bin] && i.need.iter().zip(room).all(|(n, r)| n <= r)
    }

    /// No filling of a bin is worth more: items may be cut, of all resources only a mix counts, and of
    /// what excludes each other only the first group does.
    fn at_most(&self, bin: usize) -> f64 {
        let room = &self.p.bins[bin].room;
        let usable: Vec<usize> =
            self.others.iter().copied().filter(|i| self.takes(*i, bin)).collect();
        let apart: Vec<usize> =
            self.apart.iter().copied().filter(|i| self.takes(*i, bin)).collect();
        let named = self.dims.iter().copied().filter(|d| *d > 3 && room[*d] > 0);
        let mut best = f64::INFINITY;
        for (first, second, third) in MIXES {
            // Without a third resource such a mix is one of the others.
            let thirds: Vec<usize> = if third > 0.0 { named.clone().collect() } else { vec![0] };
            for d in thirds {
                let size = |i: usize| {
                    let share = |d: usize, w: f64| {
                        w * self.p.items[i].need[d].max(0) as f64 / room[d].max(1) as f64
                    };
                    share(0, first) + share(1, second) + share(d, third)
                };
                best = best.min(self.relaxed(&usable, &apart, size));
            }
        }
        best
    }

    /// The most that fits into a room of 1, by a measure of size, with at most one of some items.
    fn relaxed(&self, usable: &[usize], apart: &[usize], size: impl Fn(usize) -> f64) -> f64 {
        let mut order: Vec<(f64, f64, usize)> =
            usable.iter().map(|i| (self.worth[*i] / size(*i).max(1e-12), size(*i), *i)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
        // What fits, greedily, once; then read off beside each of the group.
        let mut steps: Vec<(f64, f64)> = vec![(0.0, 0.0)];
        let (mut used, mut got) = (0.0, 0.0);
        for (_, size, i) in order {
            let item = &self.p.items[i];
            let most = if item.apart.is_some() { 1 } else { item.per_bin };
            let n = self.counts[i].min(most) as f64;
            used += n * size;
            got += n * self.worth[i];
            steps.push((used, got));
            if used >= 1.0 {
                break;
            }
        }
        let in_room = |room: f64| {
            let k = steps.partition_point(|(u, _)| *u <= room).max(1);
            let (u, g) = steps[k - 1];
            let part = steps.get(k).map_or(0.0, |(u2, g2)| (g2 - g) * (room - u) / (u2 - u));
            g + part
        };
        let with = apart.iter().map(|i| self.worth[*i] + in_room((1.0 - size(*i)).max(0.0)));
        with.fold(in_room(1.0), f64::max)
    }
}
