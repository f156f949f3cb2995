//! Draining a node: which of its pods go next, and how.

use std::time::Duration;

/// A pod that has to leave a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its priority class is one of the system's.
    pub critical: bool,
    /// A daemon set owns it.
    pub daemon: bool,
    /// It is being deleted already.
    pub deleting: bool,
    /// An annotation asks not to disrupt it.
    pub kept: bool,
    /// How long it may take to end.
    pub grace: Duration,
}

/// What to do with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Wait,
    /// Ask for its eviction, which budgets may refuse.
    Evict,
    /// Delete it, whatever budgets say, with this much time to end.
    Delete(Duration),
}

/// A step for each pod. They go in groups, one after the other: usual pods, daemons, critical pods,
/// critical daemons. With a deadline (`left` is the time until it) a pod that would not end in time
/// otherwise is deleted, so that its own grace ends with the deadline.
pub fn steps(pods: &[Leaving], left: Option<Duration>) -> Vec<Step> {
    let group = |p: &Leaving| (p.critical, p.daemon);
    let first = pods.iter().map(group).min();
    let step = |p: &Leaving| match left {
        _ if p.deleting => Step::Wait,
        Some(left) if left <= p.grace => Step::Delete(left.min(p.grace)),
        _ if p.kept || Some(group(p)) != first => Step::Wait,
        _ => Step::Evict,
    };
    pods.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_go_in_turn_and_deadlines_hold() {
        let secs = Duration::from_secs;
        let usual = Leaving {
            critical: false,
            daemon: false,
            deleting: false,
            kept: false,
            grace: secs(30),
        };
        let daemon = Leaving { daemon: true, ..usual };
        let critical = Leaving { critical: true, grace: secs(90), ..usual };
        let kept = Leaving { kept: true, ..usual };
        let going = Leaving { deleting: true, ..usual };
        assert_eq!(
            steps(&[daemon, usual, critical, kept, going], None),
            [Step::Wait, Step::Evict, Step::Wait, Step::Wait, Step::Wait]
        );
        assert_eq!(steps(&[critical, daemon], None), [Step::Wait, Step::Evict]);
        assert_eq!(
            steps(&[kept, critical, usual], Some(secs(60))),
            [Step::Wait, Step::Delete(secs(60)), Step::Evict]
        );
        assert_eq!(steps(&[kept, going], Some(secs(20))), [Step::Delete(secs(20)), Step::Wait]);
    }
}
