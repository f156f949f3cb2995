//! Reservations and the variety of types.

use super::*;
use crate::{MinValues, Reservation};

/// A pool with some machines of a type paid for already.
pub(super) fn reserve(mut pool: Pool, ty: &str, zone: &str, left: usize) -> Pool {
    for t in Arc::make_mut(&mut pool.types).iter_mut().filter(|t| &*t.name == ty) {
        t.reservations.push(Reservation {
            id: "r".into(),
            zone: zone.into(),
            left,
            usd_per_hour: 1e-6,
        });
    }
    pool
}

/// How many new nodes are of a reservation.
pub(super) fn reserved(plan: &Plan) -> usize {
    plan.new_nodes.iter().filter(|n| n.reservation.is_some()).count()
}

#[test]
fn what_is_paid_for_is_used_first_and_no_more_than_there_is() {
    let pods: Vec<_> = (0..40).map(|i| pod(&format!("p{i}"), 1000, 2048, &json!({})).1).collect();
    let pools = [reserve(pool("p", &SIZES, &ZONES), "m8", "z2", 3)];
    let plan = pack(&mut Snapshot::default(), &pods, &pools, &[]);
    let own: Vec<&NewNode> = plan.new_nodes.iter().filter(|n| n.reservation.is_some()).collect();
    assert_eq!(own.len(), 3);
    for n in own {
        assert_eq!((n.pods.len(), n.types.len(), n.offering.capacity_type), (8, 1, "reserved"));
        assert_eq!(n.zones, BTreeSet::from(["z2".into()]));
    }
    assert!(
        plan.lower_bound_usd_per_hour > 0.0 && plan.lower_bound_usd_per_hour <= plan.usd_per_hour
    );
    // Where all is paid for, nothing is bought.
    let plan = pack(&mut Snapshot::default(), &pods[..20], &pools, &[]);
    assert_eq!((reserved(&plan), plan.new_nodes.len()), (3, 3));
    // Pods that want something else do not get it.
    let spot = json!({"spec": {"nodeSelector": {"karpenter.sh/capacity-type": "spot"}}});
    let picky = [pod("a", 1000, 512, &spot).1];
    let plan = pack(&mut Snapshot::default(), &picky, &pools, &[]);
    assert_eq!((reserved(&plan), plan.new_nodes.len()), (0, 1));
    let only = json!({"spec": {"nodeSelector": {"karpenter.sh/capacity-type": "reserved"}}});
    let all: Vec<_> = (0..30).map(|i| pod(&format!("r{i}"), 1000, 512, &only).1).collect();
    let plan = pack(&mut Snapshot::default(), &all, &pools, &[]);
    assert_eq!((reserved(&plan), plan.unschedulable.len()), (3, 6));
}

#[test]
fn types_differ_as_much_as_the_pool_asks() {
    let wants = |values: usize, relax: bool| {
        let mut p = pool("p", &SIZES, &ZONES);
        p.min_values = vec![MinValues { key: "family".into(), values }];
        p.relax_min_values = relax;
        p
    };
    let lean: Vec<_> = (0..9).map(|i| pod(&format!("p{i}"), 3000, 512, &json!({})).1).collect();
    let plan = pack(&mut Snapshot::default(), &lean, &[wants(3, false)], &[]);
    assert!(plan.unschedulable.is_empty());
    // What only one family holds cannot be varied.
    let fat = [pod("fat", 8000, 100 * 1024, &json!({})).1];
    let plan = pack(&mut Snapshot::default(), &fat, &[wants(2, false)], &[]);
    let why = &plan.unschedulable[&fat[0].key];
    assert!(why.contains("minValues"), "{why}");
    let plan = pack(&mut Snapshot::default(), &fat, &[wants(2, true)], &[]);
    assert!(plan.new_nodes[0].min_values_relaxed);
    // Pods that leave no choice.
    let one = [pod("one", 1000, 512, &json!({"spec": {"nodeSelector": {"family": "c"}}})).1];
    let plan = pack(&mut Snapshot::default(), &one, &[wants(2, false)], &[]);
    let why = &plan.unschedulable[&one[0].key];
    assert!(why.contains("minValues of family asks for 2 different values"), "{why}");
}
