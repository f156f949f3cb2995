//! Where and for which cluster machines are bought, from the command line's text.

use std::str::FromStr;

/// Part of the nominal memory that the hypervisor takes, as Karpenter assumes.
const MEMORY_OVERHEAD: f64 = 0.075;

/// The value of `--cloud ec2:key=value,...`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of the cluster: machines are tagged with it, and only those are ours.
    pub cluster: String,
    /// Region.
    pub region: String,
    /// Name of the SQS queue that interruptions are told through.
    pub queue: Option<String>,
    /// One address for all services of the cloud, for VPC endpoints and tests.
    pub endpoint: Option<String>,
    /// Part of the nominal memory that the hypervisor takes.
    pub memory_overhead: f64,
    /// How many times faster than real time everything about nodes is counted: for emulators.
    pub speed: f64,
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        if name != "ec2" {
            return Err(format!("unknown cloud {name:?}: this build has simulated and ec2"));
        }
        let mut s = Self {
            cluster: String::new(),
            region: String::new(),
            queue: None,
            endpoint: None,
            memory_overhead: MEMORY_OVERHEAD,
            speed: 1.0,
        };
        for option in options.split(',').filter(|o| !o.is_empty()) {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| format!("{option:?} is no key=value of the cloud ec2"))?;
            match key {
                "cluster" => s.cluster = value.to_owned(),
                "region" => s.region = value.to_owned(),
                "queue" => s.queue = Some(value.to_owned()),
                "endpoint" => s.endpoint = Some(value.trim_end_matches('/').to_owned()),
                "memory-overhead" => {
                    s.memory_overhead =
                        value.parse().ok().filter(|v| (0.0..0.5).contains(v)).ok_or_else(|| {
                            format!("{value:?} is no part from 0 to 0.5 for {key} of the cloud ec2")
                        })?;
                }
                "speed" => {
                    s.speed = value
                        .parse()
                        .ok()
                        .filter(|v| (1.0..=1000.0).contains(v))
                        .ok_or_else(|| {
                            format!(
                                "{value:?} is no number from 1 to 1000 for {key} of the cloud ec2"
                            )
                        })?;
                }
                _ => {
                    return Err(format!(
                        "unknown key {key:?} of the cloud ec2; it has cluster, region, queue, endpoint, memory-overhead, speed"
                    ));
                }
            }
        }
        for (key, value) in [("cluster", &s.cluster), ("region", &s.region)] {
            if value.is_empty() {
                return Err(format!(
                    "the cloud ec2 needs {key}=..., as in ec2:cluster=demo,region=us-east-1"
                ));
            }
        }
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read() {
        let s: Settings =
            "ec2:cluster=demo,region=eu-central-1,queue=q,endpoint=http://127.0.0.1:5000/"
                .parse()
                .unwrap();
        assert_eq!((s.cluster.as_str(), s.region.as_str()), ("demo", "eu-central-1"));
        assert_eq!(s.endpoint.as_deref(), Some("http://127.0.0.1:5000"));
        for (bad, word) in [
            ("ec2", "cluster="),
            ("ec2:cluster=a", "region="),
            ("ec2:cluster=a,region=b,zones=3", "zones"),
            ("ec2:cluster=a,region=b,memory-overhead=2", "memory-overhead"),
        ] {
            let error = bad.parse::<Settings>().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
