//! Disruption budgets: how many nodes of a pool may go at once.

use coracle_meta::{cron::Schedule, time::parse_go_duration};
use jiff::{Timestamp, tz::TimeZone};

/// A time that comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it begins: a cron schedule (UTC).
    pub schedule: String,
    /// How long it stays, such as `8h`.
    pub duration: String,
}

impl Window {
    /// A window.
    pub fn new(schedule: &str, duration: &str) -> Self {
        Self { schedule: schedule.into(), duration: duration.into() }
    }

    fn parts(&self) -> Option<(Schedule, i64)> {
        let schedule = Schedule::parse(&self.schedule).ok()?;
        Some((schedule, parse_go_duration(&self.duration)?.as_secs()))
    }

    /// Whether its schedule or duration cannot be read.
    pub fn is_malformed(&self) -> bool {
        self.parts().is_none()
    }

    /// Whether its schedule fired within its duration before `now`. One that is malformed is never.
    pub fn is_active(&self, now: Timestamp) -> bool {
        let Some((schedule, seconds)) = self.parts() else { return false };
        let Ok(from) = Timestamp::from_second(now.as_second() - seconds) else { return false };
        schedule.next(from, &TimeZone::UTC).is_some_and(|t| t <= now)
    }
}

/// One budget of a NodePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// `N` or `N%`.
    pub nodes: String,
    /// Reasons that it holds for; empty for all.
    pub reasons: Vec<String>,
    /// When it holds; `None` for always.
    pub window: Option<Window>,
}

impl Budget {
    /// How many of `total` nodes it allows; percentages round up, a malformed budget allows none.
    fn allows(&self, total: usize) -> usize {
        match self.nodes.strip_suffix('%') {
            Some(p) => p.parse::<usize>().map_or(0, |p| (total * p).div_ceil(100)),
            None => self.nodes.parse().unwrap_or(0),
        }
    }

    /// Whether it is active. One that is malformed counts, and so closes rather than opens.
    fn is_active(&self, now: Timestamp) -> bool {
        self.window.as_ref().is_none_or(|w| w.is_malformed() || w.is_active(now))
    }
}

/// How many more nodes may be disrupted for a reason, of `total`, `disrupted` of which are not
/// ready or going already.
pub fn allowed(
    budgets: &[Budget],
    reason: &str,
    total: usize,
    disrupted: usize,
    now: Timestamp,
) -> usize {
    let matching =
        budgets.iter().filter(|b| b.reasons.is_empty() || b.reasons.iter().any(|r| r == reason));
    let least = matching.filter(|b| b.is_active(now)).map(|b| b.allows(total)).min();
    least.unwrap_or(total).saturating_sub(disrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(nodes: &str, reasons: &[&str], window: Option<(&str, &str)>) -> Budget {
        Budget {
            nodes: nodes.into(),
            reasons: reasons.iter().map(|r| (*r).into()).collect(),
            window: window.map(|(a, b)| Window::new(a, b)),
        }
    }

    #[test]
    fn the_smallest_active_budget_holds() {
        let night: Timestamp = "2026-01-01T01:30:00Z".parse().unwrap();
        let day: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let all =
            [budget("10%", &[], None), budget("0", &["Underutilized"], Some(("0 1 * * *", "1h")))];
        assert_eq!(allowed(&all, "Underutilized", 15, 0, day), 2);
        assert_eq!(allowed(&all, "Underutilized", 15, 1, day), 1);
        assert_eq!(allowed(&all, "Underutilized", 15, 0, night), 0);
        assert_eq!(allowed(&all, "Empty", 15, 0, night), 2);
        assert_eq!(allowed(&[], "Empty", 3, 0, day), 3);
    }
}
