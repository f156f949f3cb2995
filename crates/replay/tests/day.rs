//! A small cluster's day: the same seed gives the same day, and the books balance.

use coracle_provisioning::{Offering, Pool, PoolType, budget::Budget};
use coracle_replay::{Report, Settings, picture, replay};
use coracle_scheduling::Resources;
use std::{collections::BTreeMap, sync::Arc};

fn pool() -> Pool {
    let mut types = Vec::new();
    for (family, gib, rate) in [("c", 2, 0.040), ("m", 4, 0.048), ("r", 8, 0.063)] {
        for cpu in [1, 2, 4, 8, 16, 32] {
            let r = Resources {
                cpu_milli: cpu * 1000,
                memory_bytes: (cpu * gib) << 30,
                ephemeral_bytes: 20 << 30,
                pods: 110,
                extended: vec![],
            };
            let mut offerings = Vec::new();
            for zone in ["a", "b", "c"] {
                for (capacity_type, share) in [("spot", 0.35), ("on-demand", 1.0)] {
                    let usd_per_hour = rate * cpu as f64 * share;
                    offerings.push(Offering { zone: zone.into(), capacity_type, usd_per_hour });
                }
            }
            types.push(PoolType {
                name: format!("{family}5.{cpu}").into(),
                labels: Arc::new(BTreeMap::from([("family".to_owned(), family.to_owned())])),
                allocatable: r.clone(),
                capacity: r,
                offerings,
                ..PoolType::default()
            });
        }
    }
    Pool { name: "p".into(), types: Arc::new(types), ..Pool::default() }
}

fn day(seed: u64, change: impl FnOnce(&mut Settings)) -> Report {
    let mut settings = Settings { seed, nodes: 12, hours: 6, ..Settings::default() };
    change(&mut settings);
    replay(&settings, &pool(), vec![])
}

#[test]
fn the_same_seed_gives_the_same_day() {
    let (a, b) = (day(7, |_| ()), day(7, |_| ()));
    assert_eq!(a, b);
    assert_ne!(a.usd, day(8, |_| ()).usd);
    assert_eq!(a.samples.len(), 36);
    assert_eq!(a.ideals.len(), 6);
    assert!(a.launched > 10 && a.usd > 0.0);
    // Nothing costs less than the bound, nothing waits for ever, every pod is accounted for.
    assert!(a.samples.iter().all(|s| s.usd_per_hour + 1e-9 >= s.bound_usd_per_hour));
    assert!(a.ideals.iter().all(|i| i.planned_usd_per_hour + 1e-9 >= i.bound_usd_per_hour));
    let tick = coracle_replay::run::TICK;
    assert!(a.waited.max <= 40 + 2 + 2 * tick, "{:?}", a.waited);
    let moves: usize = a.moved.iter().map(|(n, pods)| *n as usize * pods).sum();
    assert_eq!(moves, a.pods_moved.consolidated + a.pods_moved.interrupted);
    let drawn = picture::svg(&a);
    assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n") && drawn.contains("paid"));
}

#[test]
fn settings_matter() {
    let still =
        day(7, |s| s.budgets = vec![Budget { nodes: "0".into(), reasons: vec![], window: None }]);
    assert_eq!((still.consolidated, still.emptied, still.pods_moved.consolidated), (0, 0, 0));
    let usual = day(7, |_| ());
    assert!(usual.consolidated > 0 && usual.usd < still.usd, "{} {}", usual.usd, still.usd);
    let empty_only = day(7, |s| s.underutilized = false);
    assert!(empty_only.consolidated == 0 && empty_only.emptied > 0);
}
