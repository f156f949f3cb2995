//! What the provisioner counts, in Prometheus' text form and under Karpenter's names, so that its
//! dashboards and alerts read it as they are.

use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt::Write, time::Duration};

/// Upper bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Counters and histograms, with what they mean.
const SERIES: [(&str, &str, &str); 10] = [
    (
        "karpenter_nodeclaims_created_total",
        "counter",
        "NodeClaims that were created, by NodePool and reason.",
    ),
    (
        "karpenter_nodeclaims_disrupted_total",
        "counter",
        "NodeClaims that were disrupted, by NodePool and reason.",
    ),
    ("karpenter_nodeclaims_terminated_total", "counter", "NodeClaims that ended, by NodePool."),
    ("karpenter_nodes_created_total", "counter", "Nodes that joined, by NodePool."),
    ("karpenter_nodes_terminated_total", "counter", "Nodes that ended, by NodePool."),
    (
        "karpenter_pods_eviction_requests_total",
        "counter",
        "Evictions that were asked for, by the answer's code.",
    ),
    (
        "karpenter_cloudprovider_errors_total",
        "counter",
        "Launches that the cloud refused, by error.",
    ),
    (
        "karpenter_voluntary_disruption_decisions_total",
        "counter",
        "Disruptions that were decided, by decision and reason.",
    ),
    (
        "karpenter_scheduler_scheduling_duration_seconds",
        "histogram",
        "Time that planning for waiting pods took.",
    ),
    (
        "karpenter_voluntary_disruption_decision_evaluation_duration_seconds",
        "histogram",
        "Time that a search for a disruption took.",
    ),
];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counters: Mutex<BTreeMap<(&'static str, String), u64>>,
    histograms: Mutex<BTreeMap<(&'static str, String), Histogram>>,
}

/// A value at the moment of the question.
pub(crate) struct Gauge {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) labels: String,
    pub(crate) value: f64,
}

/// Labels as they are written.
pub(crate) fn labels(all: &[(&str, &str)]) -> String {
    let one = |(k, v): &(&str, &str)| {
        format!("{k}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    };
    all.iter().map(one).collect::<Vec<_>>().join(",")
}

impl Metrics {
    /// Counts one more. Labels are those of kinds of things, never of single ones: the map stays small.
    pub(crate) fn count(&self, name: &'static str, of: &[(&str, &str)]) {
        *self.counters.lock().entry((name, labels(of))).or_default() += 1;
    }

    /// Notes how long something took.
    pub(crate) fn observe(&self, name: &'static str, took: Duration) {
        let mut all = self.histograms.lock();
        let h = all.entry((name, String::new())).or_default();
        let seconds = took.as_secs_f64();
        h.count += 1;
        h.seconds += seconds;
        for (bound, n) in BUCKETS.iter().zip(&mut h.buckets) {
            *n += u64::from(seconds <= *bound);
        }
    }

    /// All of it, with some gauges.
    pub(crate) fn render(&self, gauges: &[Gauge]) -> String {
        let mut out = String::new();
        let (counters, histograms) = (self.counters.lock(), self.histograms.lock());
        // Writing into a String cannot fail.
        for (name, kind, help) in SERIES {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for ((_, labels), n) in counters.iter().filter(|((of, _), _)| *of == name) {
                let _ = writeln!(out, "{name}{{{labels}}} {n}");
            }
            for (_, h) in histograms.iter().filter(|((of, _), _)| *of == name) {
                for (bound, n) in BUCKETS.iter().zip(h.buckets) {
                    let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {n}");
                }
                let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", h.count);
                let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", h.seconds, h.count);
            }
        }
        let mut last = "";
        for g in gauges {
            if g.name != last {
                let _ = writeln!(out, "# HELP {} {}\n# TYPE {} gauge", g.name, g.help, g.name);
                last = g.name;
            }
            let _ = writeln!(out, "{}{{{}}} {}", g.name, g.labels, g.value);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form() {
        let m = Metrics::default();
        m.count("karpenter_nodes_created_total", &[("nodepool", "a\"b")]);
        m.count("karpenter_nodes_created_total", &[("nodepool", "a\"b")]);
        m.observe("karpenter_scheduler_scheduling_duration_seconds", Duration::from_millis(30));
        let gauge =
            Gauge { name: "karpenter_x", help: "X.", labels: labels(&[("r", "cpu")]), value: 1.5 };
        let text = m.render(&[gauge]);
        for line in [
            "karpenter_nodes_created_total{nodepool=\"a\\\"b\"} 2",
            "karpenter_scheduler_scheduling_duration_seconds_bucket{le=\"0.025\"} 0",
            "karpenter_scheduler_scheduling_duration_seconds_bucket{le=\"0.05\"} 1",
            "karpenter_scheduler_scheduling_duration_seconds_count 1",
            "# TYPE karpenter_x gauge",
            "karpenter_x{r=\"cpu\"} 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
