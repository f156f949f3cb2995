//! The market of a day: prices of spot capacity move by the hour, and some of it runs out for a while.

use crate::random::of_words;
use coracle_provisioning::{Offering, Pool, PoolType};
use std::sync::Arc;

/// Share of the families that run out of spot capacity in a zone once a day.
const DROUGHTS: f64 = 0.04;
/// How often an hour takes back a spot machine.
const INTERRUPTIONS_AN_HOUR: f64 = 0.003;
/// How much more often where capacity runs out.
const IN_DROUGHT: f64 = 60.0;

/// The weather of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The seed.
    pub seed: u64,
}

fn family(ty: &str) -> &str {
    ty.split('.').next().unwrap_or(ty)
}

impl Weather {
    /// Whether a type's spot capacity is out in a zone.
    pub fn is_out(self, ty: &str, zone: &str, hour: u64) -> bool {
        let words = [family(ty), zone];
        if of_words(self.seed ^ 1, &words) >= DROUGHTS {
            return false;
        }
        let from = (of_words(self.seed ^ 2, &words) * 22.0) as u64;
        let hours = 1 + (of_words(self.seed ^ 3, &words) * 3.0) as u64;
        (from..from + hours).contains(&(hour % 24))
    }

    /// What the spot price is multiplied with.
    fn factor(self, ty: &str, zone: &str, hour: u64) -> f64 {
        let words = [family(ty), zone];
        let turn = std::f64::consts::TAU;
        let wave = |k: u64, hours: f64| {
            let phase = of_words(self.seed ^ (10 + k), &words) * turn;
            (hour as f64 / hours * turn + phase).sin()
        };
        1.0 + 0.12 * wave(0, 24.0) + 0.06 * wave(1, 7.0)
    }

    /// The chance that a spot machine is taken back within some seconds.
    pub fn interruption(self, ty: &str, zone: &str, hour: u64, seconds: u64) -> f64 {
        let scarce = if self.is_out(ty, zone, hour) { IN_DROUGHT } else { 1.0 };
        INTERRUPTIONS_AN_HOUR * scarce * seconds as f64 / 3600.0
    }

    /// A pool at the prices of an hour, without what is out.
    pub fn at(self, pool: &Pool, hour: u64) -> Pool {
        let offering = |t: &PoolType, o: &Offering| {
            if o.capacity_type != "spot" {
                return Some(o.clone());
            }
            let factor = self.factor(&t.name, &o.zone, hour);
            (!self.is_out(&t.name, &o.zone, hour))
                .then(|| Offering { usd_per_hour: o.usd_per_hour * factor, ..o.clone() })
        };
        let mut types: Vec<PoolType> = Vec::new();
        for t in pool.types.iter() {
            let mut offerings: Vec<Offering> =
                t.offerings.iter().filter_map(|o| offering(t, o)).collect();
            offerings.sort_by(|a, b| {
                a.usd_per_hour.total_cmp(&b.usd_per_hour).then_with(|| a.zone.cmp(&b.zone))
            });
            if !offerings.is_empty() {
                types.push(PoolType { offerings, ..t.clone() });
            }
        }
        types.sort_by(|a, b| {
            a.usd_per_hour().total_cmp(&b.usd_per_hour()).then_with(|| a.name.cmp(&b.name))
        });
        Pool { types: Arc::new(types), ..pool.clone() }
    }
}
