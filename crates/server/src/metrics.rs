//! `/metrics` in Prometheus' text form, with upstream's names and labels: dashboards and alerts of
//! kube-apiserver (kubernetes-mixin) read it as they are.

use crate::request::RequestInfo;
use coracle_schema::Minor;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Upper bounds of the latency buckets, in seconds. The histogram of the service level has all but
/// the first two.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
const SLI_FROM: usize = 2;

/// What the server counts.
#[derive(Debug)]
pub struct Metrics {
    requests: Mutex<BTreeMap<String, Series>>,
    /// Requests under way: those that read, and those that write.
    inflight: [AtomicI64; 2],
    /// Seconds since 1970.
    started: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            requests: Mutex::default(),
            inflight: Default::default(),
            started: started.as_secs_f64(),
        }
    }
}

/// Requests of one kind: how they ended, and how long they took.
#[derive(Debug, Default)]
struct Series {
    codes: BTreeMap<u16, u64>,
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// A request under way; counted until it is dropped.
pub(crate) struct Underway<'m>(&'m AtomicI64);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The verb as upstream's labels have it: mostly the method.
fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" | "deletecollection" => "DELETE",
        "list" => "LIST",
        "watch" => "WATCH",
        "get" | "head" => "GET",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        i if !i.is_resource() => "",
        i if !i.name.is_empty() || i.verb == "create" => "resource",
        i if !i.namespace.is_empty() => "namespace",
        _ => "cluster",
    }
}

impl Metrics {
    pub(crate) fn begin(&self, info: &RequestInfo) -> Underway<'_> {
        let reads = ["get", "list", "watch", "head"].contains(&info.verb.as_str());
        let counter = &self.inflight[usize::from(!reads)];
        counter.fetch_add(1, Ordering::Relaxed);
        Underway(counter)
    }

    pub(crate) fn observe(&self, info: &RequestInfo, code: u16, took: Duration) {
        // Paths that are no resources share one series: a client cannot make the map grow.
        let known = info.is_resource() && code != 404 && code != 403;
        let pick = |s| if known { s } else { "" };
        let labels = format!(
            "component=\"apiserver\",dry_run=\"\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            pick(&info.group),
            pick(&info.resource),
            if known { scope(info) } else { "" },
            pick(&info.subresource),
            verb(info),
            pick(&info.version),
        );
        let mut requests = self.requests.lock();
        let series = requests.entry(labels).or_default();
        *series.codes.entry(code).or_default() += 1;
        series.count += 1;
        // A watch's latency is the time until it starts.
        let seconds = took.as_secs_f64();
        series.seconds += seconds;
        for (bound, n) in BUCKETS.iter().zip(&mut series.buckets) {
            *n += u64::from(seconds <= *bound);
        }
    }

    /// All metrics; `objects` has how many there are of each group and resource.
    pub(crate) fn render(&self, minor: Minor, objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        let requests = self.requests.lock();
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "[STABLE] Counter of apiserver requests.",
        );
        for (labels, s) in requests.iter() {
            for (code, n) in &s.codes {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{labels}}} {n}");
            }
        }
        for (name, from, what) in [
            ("apiserver_request_duration_seconds", 0, "[STABLE] Response latency in seconds."),
            (
                "apiserver_request_sli_duration_seconds",
                SLI_FROM,
                "[ALPHA] Response latency in seconds, without what others cause.",
            ),
        ] {
            head(&mut out, name, "histogram", what);
            for (labels, s) in requests.iter() {
                s.histogram(&mut out, name, labels, from);
            }
        }
        drop(requests);
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "[STABLE] Requests under way.",
        );
        for (kind, n) in ["readOnly", "mutating"].iter().zip(&self.inflight) {
            let n = n.load(Ordering::Relaxed);
            let _ =
                writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {n}");
        }
        stored(&mut out, objects);
        self.process(&mut out, minor);
        out
    }

    fn process(&self, out: &mut String, minor: Minor) {
        head(out, "kubernetes_build_info", "gauge", "[BETA] What is served.");
        let version = minor.git_version();
        let (major, minor) = version.trim_start_matches('v').split_once('.').unwrap_or(("1", ""));
        let minor = minor.split('.').next().unwrap_or_default();
        let _ = writeln!(
            out,
            "kubernetes_build_info{{git_version=\"{version}\",major=\"{major}\",minor=\"{minor}\"}} 1"
        );
        head(out, "process_start_time_seconds", "gauge", "Start since 1970 in seconds.");
        let _ = writeln!(out, "process_start_time_seconds {}", self.started);
        // The kernel's own words about this process; elsewhere than on Linux there are none.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|r| r.trim().trim_end_matches(" kB").parse::<u64>().ok());
        if let Some(kib) = kib {
            head(out, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.");
            let _ = writeln!(out, "process_resident_memory_bytes {}", kib * 1024);
        }
    }
}

impl Series {
    fn histogram(&self, out: &mut String, name: &str, labels: &str, from: usize) {
        for (bound, n) in BUCKETS.iter().zip(self.buckets).skip(from) {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {n}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.seconds);
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", self.count);
    }
}

/// How many objects there are, under today's name and the one that older dashboards ask for.
fn stored(out: &mut String, objects: &[(String, usize)]) {
    head(out, "apiserver_resource_objects", "gauge", "[ALPHA] Number of stored objects.");
    for (key, n) in objects {
        let (group, resource) = key.split_once('/').unwrap_or(("", key));
        let _ = writeln!(
            out,
            "apiserver_resource_objects{{group=\"{group}\",resource=\"{resource}\"}} {n}"
        );
    }
    head(out, "apiserver_storage_objects", "gauge", "[STABLE] Number of stored objects.");
    for (key, n) in objects {
        let resource = match key.split_once('/') {
            Some(("", resource)) => resource.to_owned(),
            Some((group, resource)) => format!("{resource}.{group}"),
            None => key.clone(),
        };
        let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {n}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, what: &str) {
    let _ = writeln!(out, "# HELP {name} {what}\n# TYPE {name} {kind}");
}
