//! What a team wants of its nodes beyond what a NodePool can say: when they sleep, when they may be
//! disturbed, what they may cost, and what a move must earn.

use crate::budget::Window;
use jiff::Timestamp;

/// Wishes about the nodes of some NodePools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// A move must save at least this share of the price of what it replaces.
    pub min_savings: Option<f64>,
    /// What an eviction of a usual pod is charged with, in US dollars: a move should earn it in an hour.
    pub usd_per_eviction: Option<f64>,
    /// Most that all nodes of a pool may cost, in US dollars an hour.
    pub max_usd_per_hour: Option<f64>,
    /// When the pools have no nodes.
    pub hibernate: Vec<Window>,
    /// When nodes may be disturbed; empty for always.
    pub disrupt_within: Vec<Window>,
}

impl Policy {
    /// Takes another's wishes on: of two numbers the more careful one holds, windows of both do.
    pub fn join(&mut self, other: &Self) {
        let most = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        let least = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::min);
        self.min_savings = most(self.min_savings, other.min_savings);
        self.usd_per_eviction = most(self.usd_per_eviction, other.usd_per_eviction);
        self.max_usd_per_hour = least(self.max_usd_per_hour, other.max_usd_per_hour);
        self.hibernate.extend(other.hibernate.iter().cloned());
        self.disrupt_within.extend(other.disrupt_within.iter().cloned());
    }

    /// Whether the pools have no nodes now.
    pub fn sleeps(&self, now: Timestamp) -> bool {
        self.hibernate.iter().any(|w| w.is_active(now))
    }

    /// Whether nodes may be disturbed now.
    pub fn may_disrupt(&self, now: Timestamp) -> bool {
        self.disrupt_within.is_empty() || self.disrupt_within.iter().any(|w| w.is_active(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nights_and_windows() {
        let window = |schedule: &str, duration: &str| Window::new(schedule, duration);
        let at = |t: &str| t.parse::<Timestamp>().unwrap();
        let mut p = Policy {
            hibernate: vec![window("0 20 * * 1-5", "10h")],
            disrupt_within: vec![window("0 9 * * *", "1h")],
            min_savings: Some(0.1),
            ..Policy::default()
        };
        // A Wednesday.
        assert!(p.sleeps(at("2026-01-07T23:00:00Z")) && !p.sleeps(at("2026-01-07T12:00:00Z")));
        assert!(p.sleeps(at("2026-01-08T05:59:00Z")) && !p.sleeps(at("2026-01-08T06:01:00Z")));
        assert!(
            p.may_disrupt(at("2026-01-07T09:30:00Z")) && !p.may_disrupt(at("2026-01-07T10:30:00Z"))
        );
        p.join(&Policy {
            min_savings: Some(0.2),
            max_usd_per_hour: Some(3.0),
            ..Policy::default()
        });
        assert_eq!((p.min_savings, p.max_usd_per_hour), (Some(0.2), Some(3.0)));
        assert!(Policy::default().may_disrupt(at("2026-01-07T10:30:00Z")));
        // What cannot be read neither wakes nor disturbs.
        assert!(window("nonsense", "1h").is_malformed());
    }
}
