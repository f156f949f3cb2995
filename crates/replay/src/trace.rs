//! The load of a day: services and jobs, made from a seed.
//!
//! Nine tenths of the pods at the peak are of services: sizes follow a long tail (a few with hundreds of
//! replicas, most with a few), replicas follow the daylight between 55 and 100 % of the peak, and each
//! service is rolled out anew once or twice a day. One service in five is spread over zones, one in
//! twenty over nodes. The rest are jobs: they come all day and twice as often at night, have 1 to 50
//! pods, run for minutes to an hour, and one in three must not be disturbed.

use crate::random::Random;
use coracle_scheduling::PodSpec;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

/// Pods for each node of the cluster's size: about what the cheapest nodes of a large catalogue hold.
const PODS_A_NODE: f64 = 9.0;
/// Share of the pods at the peak that are of services.
const SERVICES: f64 = 0.9;
/// Processor sizes of pods in thousandths, and gibibytes of memory for each processor.
const CPU_MILLI: [i64; 8] = [100, 250, 250, 500, 500, 1000, 1500, 2000];
const GIB_A_CPU: [f64; 6] = [1.0, 2.0, 2.0, 4.0, 4.0, 8.0];

/// Pods that are alike and should run all the time.
#[derive(Clone, Debug)]
pub struct Service {
    /// What each of its pods asks for; the name is that of the service.
    pub pod: Arc<PodSpec>,
    /// Most replicas of the day.
    pub peak: f64,
    /// When its day begins, in hours later than others'.
    pub phase_hours: f64,
    /// Seconds at which all of its pods are replaced.
    pub rollouts: Vec<u64>,
}

/// Pods that end.
#[derive(Clone, Debug)]
pub struct Job {
    /// When it comes, in seconds.
    pub at: u64,
    /// What each of its pods asks for.
    pub pod: Arc<PodSpec>,
    /// How many.
    pub pods: usize,
    /// How long each runs, in seconds.
    pub seconds: u64,
    /// Whether they must not be disturbed.
    pub kept: bool,
}

/// The load of a day.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Services.
    pub services: Vec<Service>,
    /// Jobs, by when they come.
    pub jobs: Vec<Job>,
}

impl Service {
    /// Replicas at a time of the day.
    pub fn replicas(&self, second: u64) -> usize {
        let hour = second as f64 / 3600.0 - self.phase_hours;
        let light = 0.5 - 0.5 * ((hour - 4.0) * std::f64::consts::TAU / 24.0).cos();
        (self.peak * (0.55 + 0.45 * light)).round().max(1.0) as usize
    }
}

fn pod(name: &str, cpu_milli: i64, memory_mib: i64, rules: &Value) -> Arc<PodSpec> {
    let mut v = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{cpu_milli}m"), "memory": format!("{memory_mib}Mi")}}}]},
    });
    if !rules.is_null() {
        v["spec"]["topologySpreadConstraints"] = json!([rules]);
    }
    // What was just written reads.
    Arc::new(PodSpec::from_pod(&serde_json::from_value::<Pod>(v).unwrap_or_default()))
}

/// Most people ask for round amounts; one in five measured.
fn shape(r: &mut Random) -> (i64, i64) {
    let cpu = *r.pick(&CPU_MILLI);
    let odd = if r.unit() < 0.2 { r.within(0.7, 1.3) } else { 1.0 };
    let memory = (cpu as f64 * r.pick(&GIB_A_CPU) * odd * 1.024) as i64;
    (cpu, memory.max(64))
}

impl Trace {
    /// The load of a cluster that has about `nodes` nodes at its peak.
    pub fn new(seed: u64, nodes: usize, hours: u64) -> Self {
        let mut r = Random::new(seed);
        let target = nodes as f64 * PODS_A_NODE;
        let mut services = Vec::new();
        let mut pods = 0.0;
        while pods < target * SERVICES {
            // A long tail: 1 / x, cut at both ends.
            let most = (target / 40.0).max(4.0);
            let peak = most.powf(r.unit()).max(2.0).round();
            let name = format!("service-{}", services.len());
            let (cpu, memory) = shape(&mut r);
            let kind = r.unit();
            let rule = |key: &str, skew: u32| json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": name}}});
            let rules = match kind {
                k if k < 0.2 => rule("topology.kubernetes.io/zone", 1),
                k if k < 0.25 && peak <= 30.0 => rule("kubernetes.io/hostname", 1),
                _ => Value::Null,
            };
            let count = if r.unit() < 0.4 { 2 } else { 1 };
            let rollouts = (0..count).map(|_| r.next() % (hours * 3600)).collect();
            let pod = pod(&name, cpu, memory, &rules);
            services.push(Service { pod, peak, phase_hours: r.within(-2.0, 2.0), rollouts });
            pods += peak;
        }
        Self { services, jobs: jobs(&mut r, target * (1.0 - SERVICES), hours) }
    }
}

/// Jobs whose pods are about `running` at a time.
fn jobs(r: &mut Random, running: f64, hours: u64) -> Vec<Job> {
    let (mean_pods, mean_seconds) = (12.0, 900.0);
    let mut jobs = Vec::new();
    let mut at = 0.0;
    loop {
        let hour = (at / 3600.0) % 24.0;
        let night = if hour < 6.0 { 2.0 } else { 0.8 };
        at += r.exponential(night * running / (mean_pods * mean_seconds));
        if at >= (hours * 3600) as f64 {
            return jobs;
        }
        let pods = 50f64.powf(r.unit()).round() as usize;
        let seconds = (120.0 * 30f64.powf(r.unit())) as u64;
        let (cpu, memory) = shape(r);
        let kept = r.unit() < 1.0 / 3.0;
        let pod = pod(&format!("job-{}", jobs.len()), cpu * 2, memory * 2, &Value::Null);
        jobs.push(Job { at: at as u64, pod, pods, seconds, kept });
    }
}
