//! `/metrics` in Prometheus' text form, with upstream's names.

use crate::request::RequestInfo;
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What the server counts.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<[String; 5], Series>>,
}

#[derive(Debug, Default)]
struct Series {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

impl Metrics {
    pub(crate) fn observe(&self, info: &RequestInfo, code: u16, took: Duration) {
        // Paths that are no resources share one series: a client cannot make the map grow.
        let known = info.is_resource() && code != 404 && code != 403;
        let pick = |s: &str| if known { s.to_owned() } else { String::new() };
        let verb =
            if known || info.verb.len() <= 8 { info.verb.to_uppercase() } else { "OTHER".into() };
        let key =
            [verb, pick(&info.group), pick(&info.version), pick(&info.resource), code.to_string()];
        let mut requests = self.requests.lock();
        let series = requests.entry(key).or_default();
        series.count += 1;
        // A watch's latency is the time until it starts.
        series.seconds += took.as_secs_f64();
        for (bound, n) in BUCKETS.iter().zip(&mut series.buckets) {
            *n += u64::from(took.as_secs_f64() <= *bound);
        }
    }

    pub(crate) fn render(&self, objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = out.write_fmt(text);
            out.push('\n');
        };
        line(format_args!("# TYPE apiserver_request_total counter"));
        let requests = self.requests.lock();
        for ([verb, group, version, resource, code], s) in requests.iter() {
            let labels = format!(
                "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",code=\"{code}\""
            );
            line(format_args!("apiserver_request_total{{{labels}}} {}", s.count));
        }
        line(format_args!("# TYPE apiserver_request_duration_seconds histogram"));
        for ([verb, group, version, resource, code], s) in requests.iter() {
            let labels = format!(
                "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",code=\"{code}\""
            );
            for (bound, n) in BUCKETS.iter().zip(s.buckets) {
                line(format_args!(
                    "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {n}"
                ));
            }
            line(format_args!(
                "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}",
                s.count
            ));
            line(format_args!("apiserver_request_duration_seconds_sum{{{labels}}} {}", s.seconds));
            line(format_args!("apiserver_request_duration_seconds_count{{{labels}}} {}", s.count));
        }
        line(format_args!("# TYPE apiserver_storage_objects gauge"));
        for (resource, n) in objects {
            line(format_args!("apiserver_storage_objects{{resource=\"{resource}\"}} {n}"));
        }
        out
    }
}
