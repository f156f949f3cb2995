//! The price list: instance types of a large public cloud's `us-east-1` with their on-demand prices, from
//! a table of the project's own making with a row a family. The simulated cloud sells them; where a real
//! one does not tell its prices, these stand in.
//!
//! What a machine keeps for itself follows the formulas that the cloud and its image document
//! (processor by steps, memory by the number of pods, 7.5 % for the hypervisor).

use coracle_scheduling::Resources;
use std::{fmt, sync::OnceLock};

const FAMILIES: &str = include_str!("../data/families.tsv");
const MIB: i64 = 1 << 20;
/// Part of the nominal memory that the hypervisor and the firmware take.
const VM_OVERHEAD: f64 = 0.075;
/// Memory that eviction keeps free.
const EVICTION_MIB: i64 = 100;

/// Processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// One line of the list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Name, such as `c6a.8xlarge`.
    pub name: String,
    /// Family, such as `c6a`.
    pub family: &'static str,
    /// Size, such as `8xlarge`.
    pub size: &'static str,
    /// Architecture.
    pub arch: Arch,
    /// Maker of the processor.
    pub maker: &'static str,
    /// Processors.
    pub vcpus: i64,
    /// Nominal memory.
    pub memory_mib: i64,
    /// Number of GPUs.
    pub gpus: i64,
    /// Name and maker of the GPUs.
    pub gpu: Option<(&'static str, &'static str)>,
    /// Local disk.
    pub local_disk_gb: i64,
    /// Whether spot capacity is sold.
    pub spot: bool,
    /// On-demand price.
    pub usd_per_hour: f64,
}

/// All lines, by family and size.
pub fn listed() -> &'static [Listed] {
    static ALL: OnceLock<Vec<Listed>> = OnceLock::new();
    ALL.get_or_init(|| FAMILIES.lines().filter(|l| !l.starts_with('#')).flat_map(family).collect())
}

/// Expands a row of the table. A malformed row is a mistake of this crate, found by its tests.
fn family(line: &'static str) -> Vec<Listed> {
    let bad = || panic!("families.tsv: bad row {line:?}");
    let [family, arch, maker, memory, price, gpu, disk, spot, sizes] =
        line.split('\t').collect::<Vec<_>>()[..]
    else {
        bad()
    };
    let number = |s: &str| s.parse::<f64>().unwrap_or_else(|_| bad());
    let (memory, price, disk) = (number(memory), number(price), number(disk));
    let one = |token: &'static str| {
        let (size, explicit) = token.split_once('=').unwrap_or((token, ""));
        let (vcpus, memory_mib, usd_per_hour, gpus) =
            match explicit.split('/').collect::<Vec<_>>()[..] {
                [v, m, p, g] => (number(v), number(m), number(p), number(g)),
                _ => {
                    let v = vcpus_of(size).unwrap_or_else(|| bad());
                    (v, (v * memory).floor(), v * price, 0.0)
                }
            };
        Listed {
            name: format!("{family}.{size}"),
            family,
            size,
            arch: if arch == "arm64" { Arch::Arm64 } else { Arch::Amd64 },
            maker,
            vcpus: vcpus as i64,
            memory_mib: memory_mib as i64,
            gpus: gpus as i64,
            gpu: gpu.split_once(':'),
            local_disk_gb: (vcpus * disk) as i64,
            spot: spot == "yes",
            usd_per_hour: (usd_per_hour * 1e6).round() / 1e6,
        }
    };
    sizes.split(' ').map(one).collect()
}

fn vcpus_of(size: &str) -> Option<f64> {
    match size {
        "medium" => Some(1.0),
        "large" => Some(2.0),
        "xlarge" => Some(4.0),
        s => Some(s.strip_suffix("xlarge")?.parse::<f64>().ok()? * 4.0),
    }
}

impl Listed {
    /// How many pods the network of such a machine carries.
    pub fn max_pods(&self) -> i64 {
        match self.vcpus {
            _ if ["nano", "micro"].contains(&self.size) => 4,
            _ if self.size == "small" => 11,
            ..=1 => 8,
            _ if self.size == "medium" => 17,
            2..=3 => 29,
            4..=11 => 58,
            12..=63 => 234,
            _ => 737,
        }
    }

    /// What the machine has.
    pub fn capacity(&self) -> Resources {
        let memory = self.memory_mib - (self.memory_mib as f64 * VM_OVERHEAD).ceil() as i64;
        let mut r = Resources {
            cpu_milli: self.vcpus * 1000,
            memory_bytes: memory * MIB,
            ephemeral_bytes: 20 * 1024 * MIB,
            pods: self.max_pods(),
            extended: vec![],
        };
        if let (Some((_, maker)), true) = (self.gpu, self.gpus > 0) {
            let name = if maker == "amd" { "amd.com/gpu" } else { "nvidia.com/gpu" };
            r.extended.push((name.into(), self.gpus));
        }
        r
    }

    /// What pods may use: capacity less what the kubelet, the system and eviction keep.
    pub fn allocatable(&self) -> Resources {
        let mut r = self.capacity();
        r.cpu_milli -= reserved_cpu_milli(self.vcpus);
        r.memory_bytes -= (11 * self.max_pods() + 255 + EVICTION_MIB) * MIB;
        r.memory_bytes = r.memory_bytes.max(0);
        r.ephemeral_bytes -= r.ephemeral_bytes / 10 + 1024 * MIB;
        r
    }
}

/// What the kubelet and the system keep of processors, in thousandths: 6 % of the first, 1 % of the second,
/// 0.5 % of the next two, 0.25 % of the rest.
pub fn reserved_cpu_milli(vcpus: i64) -> i64 {
    let tenths = match vcpus {
        ..=0 => 0,
        1 => 600,
        2 => 700,
        n @ 3..=4 => 700 + 50 * (n - 2),
        n => 800 + 25 * (n - 4),
    };
    (tenths + 9) / 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashMap};

    #[test]
    fn there_is_enough_to_choose_from() {
        let all = listed();
        let families: BTreeSet<_> = all.iter().map(|t| t.family).collect();
        let names: BTreeSet<_> = all.iter().map(|t| &t.name).collect();
        assert!(families.len() >= 100 && all.len() >= 800, "{} {}", families.len(), all.len());
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|t| t.usd_per_hour > 0.0 && t.allocatable().cpu_milli > 0));
    }

    #[test]
    fn the_machine_of_the_demonstration() {
        let t = listed().iter().find(|t| t.name == "c6a.8xlarge").unwrap();
        assert_eq!((t.vcpus, t.memory_mib, t.max_pods()), (32, 65536, 234));
        assert_eq!(t.usd_per_hour, 1.224);
        assert_eq!(t.allocatable().cpu_milli, 31_850);
    }

    /// Holds every type that the table names against the reference list, where it is there.
    #[test]
    fn the_table_agrees_with_the_price_list() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/data/ec2-us-east-1.csv");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: {} is not there", path.display());
            return;
        };
        let rows: HashMap<&str, Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|l| l.split(',').collect::<Vec<_>>())
            .map(|r| (r[0], r))
            .collect();
        for t in listed() {
            let r = rows
                .get(t.name.as_str())
                .unwrap_or_else(|| panic!("{} is not in the list", t.name));
            let int = |i: usize| r[i].parse::<i64>().unwrap();
            assert_eq!((t.vcpus, t.memory_mib, t.gpus), (int(1), int(2), int(4)), "{}", t.name);
            assert_eq!(t.arch.to_string(), r[3], "{}", t.name);
            let price: f64 = r[11].parse().unwrap();
            assert!(
                (t.usd_per_hour - price).abs() <= price * 0.01,
                "{}: {} is not {price}",
                t.name,
                t.usd_per_hour
            );
        }
    }
}
