//! Filling one bin with the items that are worth most: a knapsack in several resources.
//!
//! Greedy by worth for room, under a few views of how scarce each resource is, then single items
//! are exchanged while that helps.

use super::{Filled, Problem};

/// Views of scarcity that are tried: after each, a resource that was left over counts less.
const VIEWS: usize = 3;
/// Exchanges that are tried on a filling.
const EXCHANGES: usize = 4;
/// Fillings of more items than this are tight enough as they are.
const EXCHANGED: usize = 16;

pub(super) struct Filler<'p> {
    p: Problem<'p>,
    /// Resources that some item takes.
    dims: Vec<usize>,
    /// Per item: worth for room in the view at hand.
    density: Vec<f64>,
    order: Vec<usize>,
    groups: usize,
}

/// A filling under way.
struct State {
    rest: Vec<i64>,
    counts: Vec<(usize, usize)>,
    apart: Vec<bool>,
    worth: f64,
}

impl Clone for State {
    fn clone(&self) -> Self {
        Self {
            rest: self.rest.clone(),
            counts: self.counts.clone(),
            apart: self.apart.clone(),
            worth: self.worth,
        }
    }

    /// Keeps what was allocated: this is most of what is done here.
    fn clone_from(&mut self, other: &Self) {
        self.rest.clone_from(&other.rest);
        self.counts.clone_from(&other.counts);
        self.apart.clone_from(&other.apart);
        self.worth = other.worth;
    }
}

impl<'p> Filler<'p> {
    pub(super) fn new(p: Problem<'p>) -> Self {
        let width = p.items.first().map_or(0, |i| i.need.len());
        let dims = (0..width).filter(|d| p.items.iter().any(|i| i.need[*d] > 0)).collect();
        let groups = p.items.iter().filter_map(|i| i.apart).max().map_or(0, |g| g + 1);
        Self { p, dims, density: vec![0.0; p.items.len()], order: vec![], groups }
    }

    /// Whether one of an item fits into what is left of a bin.
    fn fits(&self, item: usize, rest: &[i64]) -> bool {
        let need = &self.p.items[item].need;
        self.dims.iter().all(|d| need[*d] <= rest[*d])
    }

    /// How many of an item fit into what is left of a bin.
    fn room(&self, item: usize, rest: &[i64]) -> usize {
        if !self.fits(item, rest) {
            return 0;
        }
        let need = &self.p.items[item].need;
        let fit = self.dims.iter().filter(|d| need[**d] > 0).map(|d| rest[*d] / need[*d]);
        usize::try_from(fit.min().unwrap_or(i64::MAX)).unwrap_or(usize::MAX)
    }

    fn most(&self, item: usize, left: usize) -> usize {
        let i = &self.p.items[item];
        if i.apart.is_some() { left.min(1) } else { left.min(i.per_bin) }
    }

    fn takes(&self, item: usize, bin: usize) -> bool {
        self.p.sets[self.p.items[item].set][bin]
    }

    /// What items would be worth if each paid for its share of the bin that it shares best.
    pub(super) fn volumes(&self) -> Vec<f64> {
        let share = |item: usize, bin: usize| {
            let (need, room) = (&self.p.items[item].need, &self.p.bins[bin].room);
            let parts = self.dims.iter().map(|d| need[*d] as f64 / room[*d].max(1) as f64);
            let largest = parts.clone().fold(0.0, f64::max);
            // Between the mean of what is asked for and the most.
            (parts.sum::<f64>() / self.dims.len().max(1) as f64 + largest) / 2.0
        };
        let of = |item: usize| {
            let bins = (0..self.p.bins.len()).filter(|b| self.takes(item, *b));
            let price = |b: usize| self.p.bins[b].price * share(item, b);
            bins.map(price).fold(f64::INFINITY, f64::min)
        };
        (0..self.p.items.len()).map(of).map(|v| if v.is_finite() { v } else { 0.0 }).collect()
    }

    /// The filling of one item that costs least for each.
    pub(super) fn alone(&self, item: usize, left: usize) -> Option<Filled> {
        let mut best: Option<(f64, Filled)> = None;
        for (bin, b) in self.p.bins.iter().enumerate().filter(|(b, _)| self.takes(item, *b)) {
            let n = self.room(item, &b.room).min(self.most(item, left));
            let rate = b.price / n.max(1) as f64;
            if n > 0 && best.as_ref().is_none_or(|(r, _)| rate < *r) {
                best = Some((rate, Filled { bin, counts: vec![(item, n)] }));
            }
        }
        best.map(|(_, f)| f)
    }

    /// The filling of a bin that is worth most, and what it is worth.
    pub(super) fn best(
        &mut self,
        bin: usize,
        worth: &[f64],
        left: &[usize],
    ) -> Option<(Filled, f64)> {
        let all = self.all(bin, worth, left);
        all.into_iter().reduce(|a, b| if b.1 > a.1 { b } else { a })
    }

    /// Good fillings of a bin, one for each view, and what they are worth.
    pub(super) fn all(&mut self, bin: usize, worth: &[f64], left: &[usize]) -> Vec<(Filled, f64)> {
        let room = &self.p.bins[bin].room;
        let usable: Vec<usize> = (0..left.len())
            .filter(|i| left[*i] > 0 && worth[*i] > 0.0 && self.takes(*i, bin))
            .filter(|i| self.fits(*i, room))
            .collect();
        if usable.is_empty() {
            return vec![];
        }
        let mut scarce: Vec<f64> = vec![1.0; room.len()];
        let mut found: Vec<(Filled, f64)> = Vec::new();
        for _ in 0..VIEWS {
            for i in &usable {
                let need = &self.p.items[*i].need;
                let size = |d: &usize| scarce[*d] * need[*d] as f64 / room[*d].max(1) as f64;
                self.density[*i] = worth[*i] / self.dims.iter().map(size).sum::<f64>().max(1e-12);
            }
            self.order.clear();
            self.order.extend(&usable);
            let density = &self.density;
            self.order.sort_by(|a, b| density[*b].total_cmp(&density[*a]).then(a.cmp(b)));
            let mut s = self.empty(bin);
            self.pour(&mut s, worth, left, None);
            self.exchange(&mut s, worth, left);
            for d in &self.dims {
                let unused = s.rest[*d] as f64 / room[*d].max(1) as f64;
                scarce[*d] *= if unused > 0.05 { 0.4 } else { 1.3 };
            }
            s.counts.sort_unstable();
            if !s.counts.is_empty() && found.iter().all(|(f, _)| f.counts != s.counts) {
                found.push((Filled { bin, counts: s.counts }, s.worth));
            }
        }
        found
    }

    fn empty(&self, bin: usize) -> State {
        State {
            rest: self.p.bins[bin].room.clone(),
            counts: Vec::new(),
            apart: vec![false; self.groups],
            worth: 0.0,
        }
    }

    /// Adds items in order until nothing fits; one item may be left out.
    fn pour(&self, s: &mut State, worth: &[f64], left: &[usize], without: Option<usize>) {
        for i in &self.order {
            if Some(*i) == without || !self.fits(*i, &s.rest) {
                continue;
            }
            let apart = self.p.items[*i].apart;
            if apart.is_some_and(|g| s.apart[g]) {
                continue;
            }
            let have = s.counts.iter().find(|(x, _)| x == i).map_or(0, |(_, n)| *n);
            let n = self.room(*i, &s.rest).min(self.most(*i, left[*i]).saturating_sub(have));
            if n > 0 {
                self.add(s, *i, n, worth[*i]);
            }
        }
    }

    fn add(&self, s: &mut State, item: usize, n: usize, worth: f64) {
        for d in &self.dims {
            s.rest[*d] -= self.p.items[item].need[*d] * n as i64;
        }
        s.worth += worth * n as f64;
        match s.counts.iter_mut().find(|(x, _)| *x == item) {
            Some((_, have)) => *have += n,
            None => s.counts.push((item, n)),
        }
        if let Some(g) = self.p.items[item].apart {
            s.apart[g] = true;
        }
    }

    fn remove(&self, s: &mut State, item: usize, worth: f64) {
        for d in &self.dims {
            s.rest[*d] += self.p.items[item].need[*d];
        }
        s.worth -= worth;
        if let Some(at) = s.counts.iter().position(|(x, _)| *x == item) {
            s.counts[at].1 -= 1;
            if s.counts[at].1 == 0 {
                s.counts.remove(at);
            }
        }
        if let Some(g) = self.p.items[item].apart {
            s.apart[g] = false;
        }
    }

    /// Takes one item out and pours others into its room, where that is worth more.
    fn exchange(&self, s: &mut State, worth: &[f64], left: &[usize]) {
        if s.counts.len() > EXCHANGED {
            return;
        }
        let mut t = s.clone();
        for _ in 0..EXCHANGES {
            let mut better = false;
            for k in 0..s.counts.len() {
                let Some((item, _)) = s.counts.get(k).copied() else { break };
                t.clone_from(s);
                self.remove(&mut t, item, worth[item]);
                self.pour(&mut t, worth, left, Some(item));
                if t.worth > s.worth + 1e-9 {
                    std::mem::swap(s, &mut t);
                    better = true;
                }
            }
            if !better {
                return;
            }
        }
    }
}
