//! `minValues`: the acceptable types of a node must differ enough, so that its launch does not hang on
//! few of them.

use crate::offering::{CAPACITY_TYPE, MinValues, Pool, PoolType, ZONE};
use coracle_scheduling::Resources;
use std::collections::BTreeSet;

/// For each type of a pool that wants variety, the types that hold all that it holds.
pub(super) fn substitutes(pool: &Pool) -> Vec<Vec<usize>> {
    if is_free(pool) {
        return Vec::new();
    }
    let none = Resources::default();
    let of = |t: &PoolType| {
        let holds = |u: &usize| t.allocatable.fits(&none, &pool.types[*u].allocatable);
        (0..pool.types.len()).filter(holds).collect()
    };
    pool.types.iter().map(of).collect()
}

/// Whether a pool takes nodes whatever their types are.
pub(super) fn is_free(pool: &Pool) -> bool {
    pool.min_values.is_empty() || pool.relax_min_values
}

/// Whether types are different enough for a pool. Looks at no more of them than it takes to say yes.
pub(super) fn is_enough(pool: &Pool, types: impl Iterator<Item = usize>) -> bool {
    let mut seen: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); pool.min_values.len()];
    for t in types.map(|t| &pool.types[t]) {
        for (seen, m) in seen.iter_mut().zip(&pool.min_values) {
            seen.extend(values(pool, t, &m.key));
        }
        if seen.iter().zip(&pool.min_values).all(|(seen, m)| seen.len() >= m.values) {
            return true;
        }
    }
    pool.min_values.is_empty()
}

/// What a set of types has too few values of, and how many it has.
pub(super) fn lacking<'p>(pool: &'p Pool, types: &[&PoolType]) -> Option<(&'p MinValues, usize)> {
    pool.min_values.iter().find_map(|m| {
        let values: BTreeSet<&str> = types.iter().flat_map(|t| values(pool, t, &m.key)).collect();
        (values.len() < m.values).then_some((m, values.len()))
    })
}

/// The values of a label that nodes of a type may have.
fn values<'p>(pool: &'p Pool, t: &'p PoolType, key: &str) -> Vec<&'p str> {
    match key {
        ZONE => t.offerings.iter().map(|o| &*o.zone).collect(),
        CAPACITY_TYPE => t.offerings.iter().map(|o| o.capacity_type).collect(),
        key => pool.label(t, key).into_iter().collect(),
    }
}

/// The first `most` of some options, cheapest first, with those moved up that bring the values which a
/// pool wants: indices, in order.
pub(super) fn choose(pool: &Pool, options: &[&PoolType], most: usize) -> Vec<usize> {
    let mut chosen: BTreeSet<usize> = BTreeSet::new();
    for m in &pool.min_values {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (i, t) in options.iter().enumerate() {
            if seen.len() >= m.values {
                break;
            }
            let before = seen.len();
            seen.extend(values(pool, t, &m.key));
            if seen.len() > before {
                chosen.insert(i);
            }
        }
    }
    let rest: Vec<usize> = (0..options.len()).filter(|i| !chosen.contains(i)).collect();
    let free = most.saturating_sub(chosen.len());
    chosen.extend(rest.into_iter().take(free));
    chosen.into_iter().take(most).collect()
}
