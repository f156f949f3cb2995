//! A cloud that sells the catalogue's machines without having any. Same seed, same answers.

use crate::catalogue::{Arch, InstanceType, catalogue};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// Region whose zones are sold.
pub const REGION: &str = "us-east-1";
/// Share of the on-demand price that spot costs: at least, and the width of the range.
const SPOT: (f64, f64) = (0.25, 0.20);

/// How a machine is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapacityType {
    /// Cheaper, can be taken back.
    Spot,
    /// At the list price, stays.
    OnDemand,
}

impl CapacityType {
    /// The value of the label `karpenter.sh/capacity-type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        }
    }

    /// From the label's value.
    pub fn parse(s: &str) -> Option<Self> {
        [Self::Spot, Self::OnDemand].into_iter().find(|c| c.as_str() == s)
    }
}

impl fmt::Display for CapacityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
            return Err(format!("unknown cloud {name:?}: this build has simulated"));
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

/// A fault to show, and to which launches. Absent filters mean all.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Only this type.
    pub instance_type: Option<String>,
    /// Only this zone.
    pub zone: Option<String>,
    /// Only this capacity type.
    pub capacity_type: Option<CapacityType>,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// Launches fail.
    NoCapacity,
    /// The machine runs, its node never appears.
    NeverRegisters,
    /// Registration takes this long.
    SlowBoot(Duration),
    /// Prices are multiplied.
    Price(f64),
}

impl Fault {
    fn hits(&self, t: &str, zone: &str, c: CapacityType) -> bool {
        self.instance_type.as_deref().is_none_or(|x| x == t)
            && self.zone.as_deref().is_none_or(|x| x == zone)
            && self.capacity_type.is_none_or(|x| x == c)
    }
}

/// What to launch: the cheapest of these that can be had.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the claim.
    pub name: String,
    /// Acceptable types.
    pub types: Vec<String>,
    /// Acceptable zones.
    pub zones: Vec<String>,
    /// Acceptable capacity types.
    pub capacity_types: Vec<CapacityType>,
}

/// A running machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `simulated:///ZONE/ID`.
    pub provider_id: String,
    /// Name of the claim that it was launched for, and of its node.
    pub name: String,
    /// Type.
    pub instance_type: &'static InstanceType,
    /// Zone.
    pub zone: String,
    /// Capacity type.
    pub capacity_type: CapacityType,
    /// Price when it was launched.
    pub usd_per_hour: f64,
    /// Time until its node registers; `None` for never.
    pub boot: Option<Duration>,
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LaunchError {
    /// Nothing that was asked for can be had now: these offerings were refused.
    #[error("insufficient capacity for all of the requested instance types ({} offerings)", .0.len())]
    NoCapacity(Vec<(String, String, CapacityType)>),
    /// Nothing that was asked for is sold here.
    #[error("no instance type of the catalogue meets the request")]
    NoSuchType,
}

/// The simulated cloud.
#[derive(Debug)]
pub struct Simulated {
    settings: Settings,
    types: HashMap<&'static str, &'static InstanceType>,
    machines: Mutex<BTreeMap<String, Arc<Machine>>>,
    faults: Mutex<Vec<Fault>>,
}

impl Simulated {
    /// A cloud with no machines yet.
    pub fn new(settings: Settings) -> Self {
        let types = catalogue().iter().map(|t| (t.name.as_str(), t)).collect();
        Self { settings, types, machines: Mutex::default(), faults: Mutex::default() }
    }

    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The faults to show from now on.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        *self.faults.lock() = faults;
    }

    /// Names of the zones.
    pub fn zones(&self) -> Vec<String> {
        ('a'..='f').take(self.settings.zones).map(|c| format!("{REGION}{c}")).collect()
    }

    /// A type by its name.
    pub fn instance_type(&self, name: &str) -> Option<&'static InstanceType> {
        self.types.get(name).copied()
    }

    /// The price of an offering now, if it is sold.
    pub fn price(&self, t: &InstanceType, zone: &str, c: CapacityType) -> Option<f64> {
        let base = match c {
            CapacityType::OnDemand => t.usd_per_hour,
            CapacityType::Spot if t.spot => {
                t.usd_per_hour * (SPOT.0 + SPOT.1 * self.fraction(&t.name, zone))
            }
            CapacityType::Spot => return None,
        };
        let faults = self.faults.lock();
        let factor: f64 = faults
            .iter()
            .filter(|f| f.hits(&t.name, zone, c))
            .map(|f| if let FaultKind::Price(x) = f.kind { x } else { 1.0 })
            .product();
        Some((base * factor * 1e6).round() / 1e6)
    }

    /// A number from 0 to 1 that only seed, type and zone decide.
    fn fraction(&self, name: &str, zone: &str) -> f64 {
        let mut h: u64 =
            0xcbf2_9ce4_8422_2325 ^ self.settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for b in name.bytes().chain(zone.bytes()) {
            h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
        h ^= h >> 29;
        h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (h >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Launches the cheapest offering that can be had. Asking again for the same name gives the
    /// same machine.
    ///
    /// # Errors
    /// When nothing can be had.
    pub fn launch(&self, request: &Launch) -> Result<Arc<Machine>, LaunchError> {
        if let Some(m) = self.machines.lock().values().find(|m| m.name == request.name) {
            return Ok(m.clone());
        }
        let mut offers: Vec<(f64, &'static InstanceType, &String, CapacityType)> = Vec::new();
        for t in request.types.iter().filter_map(|n| self.instance_type(n)) {
            for zone in request.zones.iter().filter(|z| self.zones().contains(z)) {
                let prices = request
                    .capacity_types
                    .iter()
                    .filter_map(|c| Some((self.price(t, zone, *c)?, t, zone, *c)));
                offers.extend(prices);
            }
        }
        if offers.is_empty() {
            return Err(LaunchError::NoSuchType);
        }
        offers.sort_by(|a, b| {
            a.0.total_cmp(&b.0).then_with(|| (&a.1.name, a.2, a.3).cmp(&(&b.1.name, b.2, b.3)))
        });
        let faults = self.faults.lock().clone();
        let mut refused = Vec::new();
        for (price, t, zone, c) in offers {
            let hit = |k: fn(&FaultKind) -> bool| {
                faults.iter().find(|f| k(&f.kind) && f.hits(&t.name, zone, c))
            };
            if hit(|k| *k == FaultKind::NoCapacity).is_some() {
                refused.push((t.name.clone(), zone.clone(), c));
                continue;
            }
            let boot = match (
                hit(|k| *k == FaultKind::NeverRegisters),
                hit(|k| matches!(k, FaultKind::SlowBoot(_))),
            ) {
                (Some(_), _) => None,
                (None, Some(Fault { kind: FaultKind::SlowBoot(d), .. })) => Some(*d),
                _ => Some(self.settings.boot),
            };
            let machine = Arc::new(Machine {
                provider_id: provider_id(zone, &request.name),
                name: request.name.clone(),
                instance_type: t,
                zone: zone.clone(),
                capacity_type: c,
                usd_per_hour: price,
                boot,
            });
            self.machines.lock().insert(machine.provider_id.clone(), machine.clone());
            return Ok(machine);
        }
        Err(LaunchError::NoCapacity(refused))
    }

    /// Takes over a machine that an earlier process launched.
    pub fn adopt(
        &self,
        name: &str,
        instance_type: &str,
        zone: &str,
        c: CapacityType,
    ) -> Option<Arc<Machine>> {
        let t = self.instance_type(instance_type)?;
        let machine = Arc::new(Machine {
            provider_id: provider_id(zone, name),
            name: name.into(),
            instance_type: t,
            zone: zone.into(),
            capacity_type: c,
            usd_per_hour: self.price(t, zone, c)?,
            boot: Some(self.settings.boot),
        });
        self.machines.lock().insert(machine.provider_id.clone(), machine.clone());
        Some(machine)
    }

    /// Ends a machine. Returns whether there was one.
    pub fn terminate(&self, provider_id: &str) -> bool {
        self.machines.lock().remove(provider_id).is_some()
    }

    /// A machine by its id.
    pub fn machine(&self, provider_id: &str) -> Option<Arc<Machine>> {
        self.machines.lock().get(provider_id).cloned()
    }

    /// All running machines.
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        self.machines.lock().values().cloned().collect()
    }
}

fn provider_id(zone: &str, name: &str) -> String {
    format!("simulated:///{zone}/{name}")
}

/// Labels of the nodes of a type, beside zone, capacity type and pool: Karpenter's well-known ones.
pub fn labels(t: &InstanceType) -> BTreeMap<String, String> {
    let mut l: BTreeMap<String, String> = BTreeMap::new();
    let mut put = |k: &str, v: String| drop(l.insert(k.into(), v));
    let category: String = t.family.chars().take_while(char::is_ascii_alphabetic).collect();
    let generation: String = t
        .family
        .chars()
        .skip_while(char::is_ascii_alphabetic)
        .take_while(char::is_ascii_digit)
        .collect();
    put("node.kubernetes.io/instance-type", t.name.clone());
    put("kubernetes.io/arch", t.arch.to_string());
    put("kubernetes.io/os", "linux".into());
    put("topology.kubernetes.io/region", REGION.into());
    put("karpenter.k8s.aws/instance-family", t.family.into());
    put("karpenter.k8s.aws/instance-size", t.size.into());
    put("karpenter.k8s.aws/instance-category", category);
    put("karpenter.k8s.aws/instance-generation", generation);
    put("karpenter.k8s.aws/instance-cpu", t.vcpus.to_string());
    put("karpenter.k8s.aws/instance-memory", t.memory_mib.to_string());
    put("karpenter.k8s.aws/instance-cpu-manufacturer", t.maker.into());
    if let (Some((name, maker)), true) = (t.gpu, t.gpus > 0) {
        put("karpenter.k8s.aws/instance-gpu-name", name.into());
        put("karpenter.k8s.aws/instance-gpu-manufacturer", maker.into());
        put("karpenter.k8s.aws/instance-gpu-count", t.gpus.to_string());
    }
    if t.local_disk_gb > 0 {
        put("karpenter.k8s.aws/instance-local-nvme", t.local_disk_gb.to_string());
    }
    debug_assert!(matches!(t.arch, Arch::Amd64 | Arch::Arm64));
    l
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(types: &[&str], c: &[CapacityType]) -> Launch {
        let cloud = Simulated::new(Settings::default());
        Launch {
            name: "n".into(),
            types: types.iter().map(|t| (*t).into()).collect(),
            zones: cloud.zones(),
            capacity_types: c.to_vec(),
        }
    }

    #[test]
    fn spot_prices_are_within_their_range_and_follow_the_seed() {
        let (a, b) = (
            Simulated::new(Settings::default()),
            Simulated::new(Settings { seed: 2, ..Settings::default() }),
        );
        let mut differ = 0;
        for t in catalogue().iter().filter(|t| t.spot) {
            for z in a.zones() {
                let p = a.price(t, &z, CapacityType::Spot).unwrap() / t.usd_per_hour;
                assert!((0.249..=0.451).contains(&p), "{} {p}", t.name);
                differ += usize::from(
                    a.price(t, &z, CapacityType::Spot) != b.price(t, &z, CapacityType::Spot),
                );
            }
        }
        assert!(differ > 1000);
    }

    #[test]
    fn the_cheapest_that_can_be_had_is_launched() {
        let cloud = Simulated::new(Settings::default());
        let both = [CapacityType::OnDemand, CapacityType::Spot];
        let no_spot = Fault {
            kind: FaultKind::NoCapacity,
            instance_type: None,
            zone: None,
            capacity_type: Some(CapacityType::Spot),
        };
        cloud.set_faults(vec![no_spot.clone()]);
        let m = cloud.launch(&request(&["c6a.8xlarge", "c6a.large"], &both)).unwrap();
        assert_eq!(
            (m.instance_type.name.as_str(), m.capacity_type),
            ("c6a.large", CapacityType::OnDemand)
        );
        assert_eq!(
            cloud.launch(&request(&["m5.large"], &both)).unwrap().provider_id,
            m.provider_id
        );
        cloud.terminate(&m.provider_id);
        match cloud.launch(&request(&["c6a.large"], &both[1..])) {
            Err(LaunchError::NoCapacity(refused)) => assert_eq!(refused.len(), 3),
            other => panic!("{other:?}"),
        }
        cloud.set_faults(vec![Fault {
            kind: FaultKind::Price(2.0),
            instance_type: None,
            zone: None,
            capacity_type: None,
        }]);
        let t = cloud.instance_type("c6a.large").unwrap();
        assert_eq!(
            cloud.price(t, "us-east-1a", CapacityType::OnDemand),
            Some(t.usd_per_hour * 2.0)
        );
    }

    #[test]
    fn settings_read() {
        let s: Settings = "simulated:seed=7,speed=60,boot=500ms,zones=2".parse().unwrap();
        assert_eq!((s.seed, s.zones, s.boot), (7, 2, Duration::from_millis(500)));
        assert_eq!(s.real(Duration::from_secs(60)), Duration::from_secs(1));
        for bad in
            ["aws", "simulated:x=1", "simulated:speed=0", "simulated:boot", "simulated:zones=9"]
        {
            assert!(bad.parse::<Settings>().is_err(), "{bad}");
        }
    }
}
