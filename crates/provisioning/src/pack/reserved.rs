//! Machines that are paid for already are filled before any is bought: they cost next to nothing more.

use super::{bought::Bought, market::Market};
use crate::offering::{Offering, RESERVED};
use coracle_scheduling::{PodSpec, Snapshot};
use std::{collections::HashSet, sync::Arc};

/// Fills what the pools of a weight have reserved, one machine after the other, with pods in their
/// order. What fits none is left.
pub(super) fn use_up(
    snapshot: &mut Snapshot,
    market: &mut Market<'_>,
    weight: i32,
    left: &mut Vec<Arc<PodSpec>>,
    bought: &mut Bought,
) {
    for pool in 0..market.pools.len() {
        if market.pools[pool].weight != weight {
            continue;
        }
        let types = market.pools[pool].types.clone();
        // The large ones first: they take what small ones cannot.
        let mut order: Vec<usize> =
            (0..types.len()).filter(|t| !types[*t].reservations.is_empty()).collect();
        order.sort_by(|a, b| {
            super::value(&types[*b].allocatable).total_cmp(&super::value(&types[*a].allocatable))
        });
        for ty in order {
            for r in 0..types[ty].reservations.len() {
                while !left.is_empty() && fill_one(snapshot, market, (pool, ty, r), left, bought) {}
            }
        }
    }
}

/// Starts one more machine of a reservation, if there is one and it takes any pod.
fn fill_one(
    snapshot: &mut Snapshot,
    market: &mut Market<'_>,
    (pool, ty, r): (usize, usize, usize),
    left: &mut Vec<Arc<PodSpec>>,
    bought: &mut Bought,
) -> bool {
    let types = market.pools[pool].types.clone();
    let (t, reservation) = (&types[ty], &types[ty].reservations[r]);
    if !market.has_left(reservation)
        || !market.pools[pool].has_room(&t.capacity, reservation.usd_per_hour)
    {
        return false;
    }
    let offering = Offering {
        zone: reservation.zone.clone(),
        capacity_type: RESERVED,
        usd_per_hour: reservation.usd_per_hour,
    };
    let lot = market.reserved_lot(pool, ty, reservation);
    let at = bought.open(snapshot, market, &lot, &offering);
    bought.reserve(at, reservation.id.clone());
    let mut refused: HashSet<u64> = HashSet::new();
    let before = left.len();
    left.retain(|pod| {
        let known = refused.contains(&pod.class_id) && !pod.is_topology_bound();
        let wish = || Arc::new(pod.node_requirements());
        let stays = known || !bought.bind(snapshot, market, pod, wish(), at);
        if stays {
            refused.insert(pod.class_id);
        }
        stays
    });
    if left.len() == before {
        bought.close(snapshot, at);
        return false;
    }
    market.pools[pool].take_room(&t.capacity, offering.usd_per_hour);
    market.start(reservation);
    true
}
