//! How the simulated cloud behaves, from the command line's text.

use super::CLASS;
use crate::{EC2_NODE_CLASS, NodeClassKind};
use std::{str::FromStr, time::Duration};

/// How the cloud behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Seed of prices.
    pub seed: u64,
    /// How many times faster than real time the cloud's clock runs.
    pub speed: f64,
    /// Time from launch to registration.
    pub boot: Duration,
    /// Time from binding to a running pod.
    pub pod_start: Duration,
    /// How many zones are sold.
    pub zones: usize,
    /// Time between the notice of an interruption and the end of the machine.
    pub notice: Duration,
    /// The kind of its node classes.
    pub class: &'static NodeClassKind,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            speed: 1.0,
            boot: Duration::from_secs(2),
            pod_start: Duration::from_secs(1),
            zones: 3,
            notice: Duration::from_secs(120),
            class: &CLASS,
        }
    }
}

impl Settings {
    /// A duration of the cloud's clock in real time.
    pub fn real(&self, d: Duration) -> Duration {
        d.div_f64(self.speed)
    }
}

/// Reads `simulated` or `simulated:key=value,...`.
impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        if name != "simulated" {
            return Err(format!("unknown cloud {name:?}: this build has simulated and ec2"));
        }
        let mut s = Self::default();
        for option in options.split(',').filter(|o| !o.is_empty()) {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| format!("{option:?} is no key=value of the simulated cloud"))?;
            let bad =
                |what: &str| format!("{value:?} is no {what} for {key} of the simulated cloud");
            let duration = || seconds(value).ok_or_else(|| bad("duration such as 2s or 500ms"));
            match key {
                "seed" => s.seed = value.parse().map_err(|_| bad("number"))?,
                "speed" => {
                    s.speed = value
                        .parse()
                        .ok()
                        .filter(|v| *v > 0.0 && *v <= 10_000.0)
                        .ok_or_else(|| bad("number above 0"))?
                }
                "boot" => s.boot = duration()?,
                "pod-start" => s.pod_start = duration()?,
                "notice" => s.notice = duration()?,
                "nodeclass" => {
                    let known = [&CLASS, &EC2_NODE_CLASS];
                    s.class = known
                        .into_iter()
                        .find(|k| k.kind == value)
                        .ok_or_else(|| bad("kind (SimulatedNodeClass or EC2NodeClass)"))?;
                }
                "zones" => {
                    s.zones = value
                        .parse()
                        .ok()
                        .filter(|z| (1..=6).contains(z))
                        .ok_or_else(|| bad("number from 1 to 6"))?
                }
                _ => {
                    return Err(format!(
                        "unknown key {key:?} of the simulated cloud; it has seed, speed, boot, pod-start, notice, zones"
                    ));
                }
            }
        }
        Ok(s)
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(n) => (n, 0.001),
        None => match text.strip_suffix('m') {
            Some(n) => (n, 60.0),
            None => (text.strip_suffix('s').unwrap_or(text), 1.0),
        },
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read() {
        let s: Settings =
            "simulated:seed=7,speed=60,boot=500ms,zones=2,nodeclass=EC2NodeClass".parse().unwrap();
        assert_eq!((s.seed, s.zones, s.boot), (7, 2, Duration::from_millis(500)));
        assert_eq!(s.real(Duration::from_secs(60)), Duration::from_secs(1));
        for bad in [
            "aws",
            "simulated:x=1",
            "simulated:speed=0",
            "simulated:boot",
            "simulated:zones=9",
            "simulated:nodeclass=X",
        ] {
            assert!(bad.parse::<Settings>().is_err(), "{bad}");
        }
    }
}
