//! Polishing: room that is left over in many bins is brought together in few, until those need a
//! cheaper bin or none.
//!
//! One bin after the other gives away what keeps it from a cheaper one: items go into the room of
//! others, or change places with smaller ones there. What does not lead to a cheaper bin is undone.

use super::{Filled, Problem};

/// Bins that one looks at for each item that it gives away: the ones with the most room.
const PARTNERS: usize = 160;
/// Rounds over all bins.
const ROUNDS: usize = 3;

#[derive(Clone)]
struct Full {
    bin: usize,
    counts: Vec<(usize, usize)>,
    rest: Vec<i64>,
}

struct Polish<'p> {
    p: Problem<'p>,
    dims: Vec<usize>,
    full: Vec<Full>,
    /// Bins by price.
    by_price: Vec<usize>,
    /// What all bins together have of each resource: room is compared in shares of it.
    scale: Vec<f64>,
}

/// A change that can be undone: an item left one bin for another, and perhaps one came back.
struct Move {
    to: usize,
    gives: usize,
    takes: Option<usize>,
}

/// Makes fillings cheaper where their items can be arranged better.
pub(super) fn polish(p: Problem<'_>, filled: Vec<(Filled, usize)>) -> Vec<(Filled, usize)> {
    let width = p.items.first().map_or(0, |i| i.need.len());
    let dims: Vec<usize> = (0..width).filter(|d| p.items.iter().any(|i| i.need[*d] > 0)).collect();
    let mut by_price: Vec<usize> = (0..p.bins.len()).collect();
    by_price.sort_by(|a, b| p.bins[*a].price.total_cmp(&p.bins[*b].price).then(a.cmp(b)));
    let mut full = Vec::new();
    for (f, copies) in filled {
        let mut rest = p.bins[f.bin].room.clone();
        for (i, n) in &f.counts {
            dims.iter().for_each(|d| rest[*d] -= p.items[*i].need[*d] * *n as i64);
        }
        full.extend((0..copies).map(|_| Full {
            bin: f.bin,
            counts: f.counts.clone(),
            rest: rest.clone(),
        }));
    }
    let scale =
        (0..width).map(|d| full.iter().map(|f| p.bins[f.bin].room[d] as f64).sum::<f64>().max(1.0));
    let mut polish = Polish { p, dims, by_price, scale: scale.collect(), full };
    for _ in 0..ROUNDS {
        if !polish.round() {
            break;
        }
    }
    polish.finish()
}

impl Polish<'_> {
    /// How much room is left, in shares.
    fn slack(&self, f: &Full) -> f64 {
        self.dims.iter().map(|d| f.rest[*d] as f64 / self.scale[*d]).fold(f64::INFINITY, f64::min)
    }

    fn fits(&self, bin: usize, f: &Full) -> bool {
        let room = &self.p.bins[bin].room;
        let have = &self.p.bins[f.bin].room;
        self.dims.iter().all(|d| room[*d] >= have[*d] - f.rest[*d])
            && f.counts.iter().all(|(i, _)| self.accepts(*i, bin))
    }

    fn accepts(&self, item: usize, bin: usize) -> bool {
        self.p.sets[self.p.items[item].set][bin]
    }

    /// Puts a filling into the cheapest bin that holds it.
    fn settle(&mut self, at: usize) -> bool {
        let f = &self.full[at];
        let price = self.p.bins[f.bin].price;
        let cheaper = self.by_price.iter().copied().take_while(|b| self.p.bins[*b].price < price);
        let Some(bin) = cheaper.into_iter().find(|b| self.fits(*b, f)) else { return false };
        for d in self.dims.clone() {
            let delta = self.p.bins[bin].room[d] - self.p.bins[self.full[at].bin].room[d];
            self.full[at].rest[d] += delta;
        }
        self.full[at].bin = bin;
        true
    }

    fn round(&mut self) -> bool {
        let mut better = false;
        for at in 0..self.full.len() {
            better |= self.settle(at);
        }
        // Those that need least to become cheaper give first.
        let mut order: Vec<(f64, usize)> = (0..self.full.len())
            .filter_map(|at| Some((self.over(at, self.next_bin(at)?), at)))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut partners: Vec<usize> = (0..self.full.len()).collect();
        for (given, (_, at)) in order.into_iter().enumerate() {
            if given % 48 == 0 {
                let slack: Vec<f64> = self.full.iter().map(|f| self.slack(f)).collect();
                partners.sort_by(|a, b| slack[*b].total_cmp(&slack[*a]).then(a.cmp(b)));
            }
            better |= self.give(at, &partners);
        }
        better
    }

    /// The next cheaper bin that accepts all items, whether or not they fit; bins that hold none of
    /// the load's resources are no aim.
    fn next_bin(&self, at: usize) -> Option<usize> {
        let f = &self.full[at];
        let price = self.p.bins[f.bin].price;
        let cheaper = self.by_price.iter().rev().copied();
        cheaper
            .filter(|b| self.p.bins[*b].price < price * (1.0 - 1e-9))
            .find(|b| f.counts.iter().all(|(i, _)| self.accepts(*i, *b)))
    }

    /// How much too large a load is for a bin, in shares.
    fn over(&self, at: usize, bin: usize) -> f64 {
        let f = &self.full[at];
        let (room, have) = (&self.p.bins[bin].room, &self.p.bins[f.bin].room);
        let over = |d: &usize| ((have[*d] - f.rest[*d] - room[*d]).max(0)) as f64 / self.scale[*d];
        self.dims.iter().map(over).sum()
    }

    /// Gives items away until a cheaper bin does. Returns whether that came about.
    fn give(&mut self, at: usize, partners: &[usize]) -> bool {
        let Some(aim) = self.next_bin(at) else { return false };
        let mut moves: Vec<Move> = Vec::new();
        for to in partners.iter().copied().take(PARTNERS).filter(|to| *to != at) {
            if self.full[to].counts.is_empty() || self.full[at].counts.is_empty() {
                continue;
            }
            let over = self.over(at, aim);
            if over <= 0.0 {
                break;
            }
            if let Some(m) = self.best_move(at, to, aim, over) {
                self.apply(at, &m);
                moves.push(m);
            }
        }
        if self.full[at].counts.is_empty() || self.settle(at) {
            return true;
        }
        for m in moves.into_iter().rev() {
            self.undo(at, &m);
        }
        false
    }

    /// The change with one partner that brings a bin nearest to its aim.
    fn best_move(&self, at: usize, to: usize, aim: usize, over: f64) -> Option<Move> {
        let (a, b) = (&self.full[at], &self.full[to]);
        let mut best: Option<(f64, Move)> = None;
        for (gives, _) in &a.counts {
            let takes = std::iter::once(None).chain(b.counts.iter().map(|(i, _)| Some(*i)));
            for takes in takes.filter(|t| *t != Some(*gives)) {
                if !self.possible(a, b, *gives, takes, aim) {
                    continue;
                }
                let left = self.over_after(a, aim, *gives, takes);
                if left < best.as_ref().map_or(over, |(l, _)| *l) * (1.0 - 1e-9) {
                    best = Some((left, Move { to, gives: *gives, takes }));
                }
            }
        }
        best.map(|(_, m)| m)
    }

    fn over_after(&self, a: &Full, aim: usize, gives: usize, takes: Option<usize>) -> f64 {
        let (room, have) = (&self.p.bins[aim].room, &self.p.bins[a.bin].room);
        let over = |d: &usize| {
            let back = takes.map_or(0, |t| self.p.items[t].need[*d]);
            let load = have[*d] - a.rest[*d] - self.p.items[gives].need[*d] + back;
            ((load - room[*d]).max(0)) as f64 / self.scale[*d]
        };
        self.dims.iter().map(over).sum()
    }

    fn possible(&self, a: &Full, b: &Full, gives: usize, takes: Option<usize>, aim: usize) -> bool {
        let (items, have) = (self.p.items, |f: &Full, i: usize| {
            f.counts.iter().find(|(x, _)| *x == i).map_or(0, |(_, n)| *n)
        });
        let alone = |f: &Full, i: usize, goes: Option<usize>| {
            items[i].apart.is_none_or(|g| {
                let same = |x: &usize| items[*x].apart == Some(g) && Some(*x) != goes;
                !f.counts.iter().any(|(x, _)| same(x))
            })
        };
        let back = takes.is_none_or(|t| {
            self.accepts(t, aim)
                && self.accepts(t, a.bin)
                && have(a, t) < items[t].per_bin
                && alone(a, t, Some(gives))
        });
        back && self.accepts(gives, b.bin)
            && have(b, gives) < items[gives].per_bin
            && alone(b, gives, takes)
            && self.dims.iter().all(|d| {
                let freed = takes.map_or(0, |t| items[t].need[*d]);
                b.rest[*d] + freed >= items[gives].need[*d]
            })
    }

    fn shift(&mut self, from: usize, to: usize, item: usize) {
        for k in 0..self.dims.len() {
            let d = self.dims[k];
            let need = self.p.items[item].need[d];
            self.full[from].rest[d] += need;
            self.full[to].rest[d] -= need;
        }
        let counts = &mut self.full[from].counts;
        if let Some(k) = counts.iter().position(|(i, _)| *i == item) {
            counts[k].1 -= 1;
            if counts[k].1 == 0 {
                counts.remove(k);
            }
        }
        let counts = &mut self.full[to].counts;
        match counts.iter_mut().find(|(i, _)| *i == item) {
            Some((_, n)) => *n += 1,
            None => counts.push((item, 1)),
        }
    }

    fn apply(&mut self, at: usize, m: &Move) {
        self.shift(at, m.to, m.gives);
        if let Some(t) = m.takes {
            self.shift(m.to, at, t);
        }
    }

    fn undo(&mut self, at: usize, m: &Move) {
        if let Some(t) = m.takes {
            self.shift(at, m.to, t);
        }
        self.shift(m.to, at, m.gives);
    }

    fn finish(self) -> Vec<(Filled, usize)> {
        let mut out: Vec<(Filled, usize)> = Vec::new();
        let mut index = std::collections::HashMap::new();
        for f in self.full {
            if f.counts.is_empty() {
                continue;
            }
            let mut counts = f.counts;
            counts.sort_unstable();
            let at = *index.entry((f.bin, counts.clone())).or_insert_with(|| {
                out.push((Filled { bin: f.bin, counts }, 0));
                out.len() - 1
            });
            out[at].1 += 1;
        }
        out
    }
}
