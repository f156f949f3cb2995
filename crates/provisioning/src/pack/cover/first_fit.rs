//! The simplest cover: bins of one kind, items by size, each into the first that has room. For few
//! items it may beat the rounding of a program, and it costs next to nothing.

use super::{Filled, Problem};

/// The cheapest such cover, if a bin takes all items.
pub(super) fn first_fit(p: Problem<'_>, counts: &[usize]) -> Option<Vec<(Filled, usize)>> {
    let mut order: Vec<usize> = (0..counts.len()).filter(|i| counts[*i] > 0).collect();
    order.sort_by(|a, b| p.items[*b].need.cmp(&p.items[*a].need).then(a.cmp(b)));
    let mut best: Option<(f64, Vec<(Filled, usize)>)> = None;
    for (bin, b) in p.bins.iter().enumerate() {
        let taken = order.iter().all(|i| p.sets[p.items[*i].set][bin]);
        let Some(filled) = taken.then(|| fill(p, counts, &order, bin)).flatten() else { continue };
        let cost = b.price * filled.len() as f64;
        if best.as_ref().is_none_or(|(c, _)| cost < *c) {
            best = Some((cost, filled.into_iter().map(|f| (f, 1)).collect()));
        }
    }
    best.map(|(_, filled)| filled)
}

fn fill(p: Problem<'_>, counts: &[usize], order: &[usize], bin: usize) -> Option<Vec<Filled>> {
    let mut open: Vec<(Vec<i64>, Filled)> = Vec::new();
    for i in order {
        let item = &p.items[*i];
        let fits = |rest: &[i64]| item.need.iter().zip(rest).all(|(n, r)| *n == 0 || n <= r);
        let free = |f: &Filled| {
            let apart = f
                .counts
                .iter()
                .any(|(x, _)| item.apart.is_some() && p.items[*x].apart == item.apart);
            let have = f.counts.iter().find(|(x, _)| x == i).map_or(0, |(_, n)| *n);
            !apart && have < item.per_bin
        };
        for _ in 0..counts[*i] {
            let at = match open.iter().position(|(rest, f)| fits(rest) && free(f)) {
                Some(at) => at,
                None => {
                    if !fits(&p.bins[bin].room) {
                        return None;
                    }
                    open.push((p.bins[bin].room.clone(), Filled { bin, counts: vec![] }));
                    open.len() - 1
                }
            };
            let (rest, f) = &mut open[at];
            rest.iter_mut().zip(&item.need).for_each(|(r, n)| *r -= n);
            match f.counts.iter_mut().find(|(x, _)| x == i) {
                Some((_, n)) => *n += 1,
                None => f.counts.push((*i, 1)),
            }
        }
    }
    Some(open.into_iter().map(|(_, f)| f).collect())
}
