//! Covering: which bins, filled how, cost least for all items.
//!
//! The linear program over all fillings of all bins, with fillings made on demand where the duals
//! say that they pay (Gilmore and Gomory, "A linear programming approach to the cutting-stock
//! problem", 1961), then rounded by diving: whole copies are taken, and what is left is solved
//! again. The duals also prove that nothing can cost much less (Farley, 1990).
//!
//! Numbers only: no pods, no labels. Deterministic: ties are broken by index.

mod bound;
mod fill;
mod first_fit;
mod polish;
mod simplex;

pub(super) use bound::lower_bound;
use fill::Filler;
use simplex::Simplex;

/// Items that are alike.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// What one takes of each resource.
    pub(super) need: Vec<i64>,
    /// How many there are.
    pub(super) count: usize,
    /// Most of them in one bin.
    pub(super) per_bin: usize,
    /// Of the items of a group one bin takes one.
    pub(super) apart: Option<usize>,
    /// Which set of bins it may go to.
    pub(super) set: usize,
}

/// Something to fill.
#[derive(Clone, Debug)]
pub(super) struct Bin {
    /// What it has of each resource.
    pub(super) room: Vec<i64>,
    /// What it costs.
    pub(super) price: f64,
}

/// A bin with how many of each item are in it: a column of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filled {
    /// Index of the bin.
    pub(super) bin: usize,
    /// Item and how many, by item.
    pub(super) counts: Vec<(usize, usize)>,
}

/// Bins for all items that fit any.
#[derive(Debug)]
pub(super) struct Cover {
    /// Fillings with how often each is wanted.
    pub(super) filled: Vec<(Filled, usize)>,
    /// What each item is worth where all cost least.
    pub(super) worth: Vec<f64>,
    /// How many of each item are covered: none of those that fit no bin.
    pub(super) counts: Vec<usize>,
}

/// What is given: items, bins, and the sets of bins that items may go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem<'p> {
    pub(super) items: &'p [Item],
    pub(super) bins: &'p [Bin],
    pub(super) sets: &'p [Vec<bool>],
}

/// Rounds of making fillings for one program.
const SWEEPS: usize = 80;
/// Few items are not worth so many: rounding costs more than the program saves.
const PODS_A_SWEEP: usize = 12;
/// Bins that are filled in each round, and how often the others are.
const PROMISING: usize = 8;
const EVERY: usize = 12;
/// A filling must pay this much better than the program's own to be worth a column.
const WORTH: f64 = 1.0 + 1e-3;
/// With so few items the simplest cover is tried too.
const FEW: usize = 400;
/// Rounds of diving before the rest is filled greedily.
const DIVES: usize = 40;

/// Covers all items that fit any bin.
pub(super) fn cover(p: Problem<'_>) -> Cover {
    let mut left: Vec<usize> = p.items.iter().map(|i| i.count).collect();
    let mut filler = Filler::new(p);
    for (i, n) in left.iter_mut().enumerate() {
        if filler.alone(i, *n).is_none() {
            *n = 0;
        }
    }
    let mut out = Cover {
        counts: left.clone(),
        // Nothing is worth anything until a program is solved: one entry per item all the same.
        worth: vec![0.0; p.items.len()],
        filled: Vec::new(),
    };
    let mut columns: Vec<Filled> = Vec::new();
    let mut duals = vec![0.0; p.items.len()];
    for dive in 0..DIVES {
        if left.iter().all(|n| *n == 0) {
            break;
        }
        let sweeps = match dive {
            0 => (left.iter().sum::<usize>() / PODS_A_SWEEP).clamp(2, SWEEPS),
            _ => 2,
        };
        let solved = solve(p, &mut filler, &left, &mut columns, sweeps);
        duals = solved.duals;
        if dive == 0 {
            out.worth.clone_from(&duals);
        }
        if !take_whole(&solved.used, &mut left, &mut out.filled) {
            break;
        }
    }
    finish(p, &mut filler, &duals, &mut left, &mut out.filled);
    out.filled = polish::polish(p, out.filled);
    if out.counts.iter().sum::<usize>() <= FEW {
        if let Some(simple) = first_fit::first_fit(p, &out.counts) {
            let simple = polish::polish(p, simple);
            if price(p, &simple) < price(p, &out.filled) - 1e-9 {
                out.filled = simple;
            }
        }
    }
    out
}

fn price(p: Problem<'_>, filled: &[(Filled, usize)]) -> f64 {
    filled.iter().map(|(f, n)| p.bins[f.bin].price * *n as f64).sum()
}

/// Bins that are looked at for each filling of a first cover.
const WINDOW: usize = 8;

/// A first cover: fillings one after the other, so that together they have all items. Different
/// enough to tell what each item is worth.
fn one_by_one(p: Problem<'_>, filler: &mut Filler<'_>, left: &[usize]) -> Vec<Filled> {
    let worth: Vec<f64> = filler.volumes();
    let mut left = left.to_vec();
    let mut out = Vec::new();
    let (mut from, mut good) = (0, 0);
    while left.iter().any(|n| *n > 0) {
        let mut best: Option<(f64, Filled)> = None;
        let window = (from..from + WINDOW).map(|b| b % p.bins.len()).chain([good]);
        for bin in window {
            let Some((f, w)) = filler.best(bin, &worth, &left) else { continue };
            let rate = p.bins[bin].price / w;
            if best.as_ref().is_none_or(|(r, _)| rate < *r) {
                best = Some((rate, f));
            }
        }
        from += WINDOW;
        let Some((_, f)) = best else {
            // Nothing in the window takes what is left.
            if from > 2 * p.bins.len() * WINDOW {
                break;
            }
            continue;
        };
        good = f.bin;
        let copies = f.counts.iter().map(|(i, n)| left[*i] / n).min().unwrap_or(1).max(1);
        f.counts.iter().for_each(|(i, n)| left[*i] -= n * copies);
        out.push(f);
        if out.len() > 4 * left.len() + 64 {
            break;
        }
    }
    out
}

struct Solved {
    /// Fillings of the solution, with how much of each.
    used: Vec<(Filled, f64)>,
    duals: Vec<f64>,
}

/// Solves the program for what is left, adding columns to those that are known.
fn solve(
    p: Problem<'_>,
    filler: &mut Filler<'_>,
    left: &[usize],
    columns: &mut Vec<Filled>,
    sweeps: usize,
) -> Solved {
    let rows: Vec<usize> = (0..left.len()).filter(|i| left[*i] > 0).collect();
    let start: Vec<Filled> = rows.iter().filter_map(|i| filler.alone(*i, left[*i])).collect();
    let mut lp = Simplex::new(&rows, left, &start, p.bins);
    // What was made for more items is of no use any more.
    columns.retain(|c| c.counts.iter().all(|(i, n)| left[*i] >= *n));
    if columns.is_empty() {
        columns.extend(one_by_one(p, filler, left));
    }
    lp.improve(columns, p.bins);
    // The duals of a program with few columns are far off: fillings are sought in between those
    // and where they were sought before (Wentges, 1997), from shares of volume at first.
    let mut center = filler.volumes();
    let mut trust = 0.7;
    // The best that each bin's fillings were worth for its price: bins that are far off are looked at
    // less often.
    let mut promise = vec![f64::INFINITY; p.bins.len()];
    for sweep in 0..sweeps {
        let duals = lp.duals(left.len());
        let between = |(c, y): (&f64, &f64)| trust * c + (1.0 - trust) * y;
        let sought: Vec<f64> = center.iter().zip(&duals).map(between).collect();
        let mut fresh: Vec<Filled> = Vec::new();
        let mut order: Vec<usize> = (0..p.bins.len()).collect();
        order.sort_by(|a, b| promise[*b].total_cmp(&promise[*a]).then(a.cmp(b)));
        let late = order.split_off(order.len().min(PROMISING));
        let turn = late.into_iter().filter(|b| b % EVERY == sweep % EVERY);
        for bin in order.into_iter().chain(turn) {
            promise[bin] = 0.0;
            for (filled, _) in filler.all(bin, &sought, left) {
                let worth: f64 = filled.counts.iter().map(|(i, n)| duals[*i] * *n as f64).sum();
                promise[bin] = promise[bin].max(worth / p.bins[bin].price);
                if worth > p.bins[bin].price * WORTH {
                    fresh.push(filled);
                }
            }
        }
        if fresh.is_empty() {
            if trust == 0.0 {
                break;
            }
            trust = if trust > 0.2 { trust * 0.5 } else { 0.0 };
            continue;
        }
        center = sought;
        columns.extend(fresh);
        lp.improve(columns, p.bins);
    }
    let duals = lp.duals(left.len());
    Solved { used: lp.solution(), duals }
}

/// Takes whole copies, or the fillings that are nearest to one. Returns whether any was taken.
fn take_whole(used: &[(Filled, f64)], left: &mut [usize], out: &mut Vec<(Filled, usize)>) -> bool {
    let mut any = false;
    let mut take = |f: &Filled, copies: usize, left: &mut [usize]| {
        let fits = f.counts.iter().map(|(i, n)| left[*i] / n).min().unwrap_or(0).min(copies);
        if fits > 0 {
            f.counts.iter().for_each(|(i, n)| left[*i] -= n * fits);
            out.push((f.clone(), fits));
            any = true;
        }
    };
    for (f, x) in used {
        take(f, (x + 1e-6).floor() as usize, left);
    }
    let part = |x: f64| x - (x + 1e-6).floor();
    let mut order: Vec<&(Filled, f64)> = used.iter().filter(|(_, x)| part(*x) > 1e-6).collect();
    order.sort_by(|a, b| part(b.1).total_cmp(&part(a.1)));
    // The most of what is nearest to whole: the rest is decided anew. Few items are not worth many
    // such rounds.
    let near_enough = if left.iter().sum::<usize>() < FEW { 0.5 } else { 0.75 };
    let near = order.iter().filter(|(_, x)| part(*x) > near_enough).count().max(1);
    for (f, _) in order.into_iter().take(near) {
        take(f, 1, left);
    }
    any
}

/// Fills the rest one bin after the other, always the one that pays least for its worth.
fn finish(
    p: Problem<'_>,
    filler: &mut Filler<'_>,
    duals: &[f64],
    left: &mut [usize],
    out: &mut Vec<(Filled, usize)>,
) {
    // An item that the program saw no worth in still has to go somewhere.
    let duals: Vec<f64> = duals.iter().map(|y| y.max(1e-9)).collect();
    while left.iter().any(|n| *n > 0) {
        let whole: f64 = left.iter().zip(&duals).map(|(n, y)| *n as f64 * y).sum();
        let mut best: Option<(f64, Filled)> = None;
        for bin in 0..p.bins.len() {
            let Some((filled, worth)) = filler.best(bin, &duals, left) else { continue };
            // The cheapest bin that takes all that is left ends it.
            let price = p.bins[bin].price;
            let rate = if worth >= whole * (1.0 - 1e-9) { price / whole } else { price / worth };
            if best.as_ref().is_none_or(|(r, _)| rate < *r - 1e-12) {
                best = Some((rate, filled));
            }
        }
        let Some((_, f)) = best else { return };
        f.counts.iter().for_each(|(i, n)| left[*i] -= n);
        out.push((f, 1));
    }
}
