//! A cloud that sells the catalogue's machines without having any. Same seed, same answers.

use crate::catalogue::{Arch, InstanceType, catalogue};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

mod fault;
mod settings;

pub use fault::{Fault, FaultKind};
pub use settings::Settings;

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
    /// Paid for already, whether it runs or not.
    Reserved,
}

impl CapacityType {
    /// The value of the label `karpenter.sh/capacity-type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
            Self::Reserved => "reserved",
        }
    }

    /// From the label's value.
    pub fn parse(s: &str) -> Option<Self> {
        [Self::Spot, Self::OnDemand, Self::Reserved].into_iter().find(|c| c.as_str() == s)
    }
}

impl fmt::Display for CapacityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Machines that are paid for already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityReservation {
    /// Name.
    pub id: String,
    /// Type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// How many.
    pub count: usize,
}

/// What to launch: the first of some offerings that can be had.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the claim.
    pub name: String,
    /// Type, zone and capacity type, in the order of preference.
    pub offerings: Vec<(&'static InstanceType, String, CapacityType)>,
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
    /// The reservation that it uses.
    pub reservation: Option<String>,
    /// Time until its node registers; `None` for never.
    pub boot: Option<Duration>,
}

/// A launch that worked.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Offerings that were preferred and could not be had.
    pub refused: Vec<(String, String, CapacityType)>,
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
    reservations: Mutex<Vec<CapacityReservation>>,
}

impl Simulated {
    /// A cloud with no machines yet.
    pub fn new(settings: Settings) -> Self {
        let types = catalogue().iter().map(|t| (t.name.as_str(), t)).collect();
        Self {
            settings,
            types,
            machines: Mutex::default(),
            faults: Mutex::default(),
            reservations: Mutex::default(),
        }
    }

    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The faults to show from now on.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        *self.faults.lock() = faults;
    }

    /// What is paid for already, from now on.
    pub fn set_reservations(&self, reservations: Vec<CapacityReservation>) {
        *self.reservations.lock() = reservations;
    }

    /// Reservations with how many machines of each do not run.
    pub fn reservations(&self) -> Vec<(CapacityReservation, usize)> {
        let machines = self.machines.lock();
        let used =
            |id: &str| machines.values().filter(|m| m.reservation.as_deref() == Some(id)).count();
        let all = self.reservations.lock().clone().into_iter();
        all.map(|r| (r.count.saturating_sub(used(&r.id)), r)).map(|(left, r)| (r, left)).collect()
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
            // Next to nothing, and still the less the smaller: as Karpenter counts.
            CapacityType::Reserved => return Some(t.usd_per_hour / 10_000_000.0),
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

    /// Launches the first offering that can be had. Asking again for the same name gives the
    /// same machine.
    ///
    /// # Errors
    /// When nothing can be had.
    pub fn launch(&self, request: &Launch) -> Result<Launched, LaunchError> {
        if let Some(m) = self.machines.lock().values().find(|m| m.name == request.name) {
            return Ok(Launched { machine: m.clone(), refused: Vec::new() });
        }
        let sold = request.offerings.iter().filter_map(|(t, zone, c)| {
            let price = self.price(t, zone, *c).filter(|_| self.zones().contains(zone))?;
            Some((price, *t, zone, *c))
        });
        let offers: Vec<(f64, &'static InstanceType, &String, CapacityType)> = sold.collect();
        if offers.is_empty() {
            return Err(LaunchError::NoSuchType);
        }
        let faults = self.faults.lock().clone();
        let reservations = self.reservations();
        let mut refused = Vec::new();
        for (price, t, zone, c) in offers {
            let hit = |k: fn(&FaultKind) -> bool| {
                faults.iter().find(|f| k(&f.kind) && f.hits(&t.name, zone, c))
            };
            let reservation = reservations
                .iter()
                .filter(|_| c == CapacityType::Reserved)
                .find(|(r, left)| *left > 0 && r.instance_type == t.name && r.zone == *zone)
                .map(|(r, _)| r.id.clone());
            let used_up = c == CapacityType::Reserved && reservation.is_none();
            if used_up || hit(|k| *k == FaultKind::NoCapacity).is_some() {
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
                reservation,
                boot,
            });
            self.machines.lock().insert(machine.provider_id.clone(), machine.clone());
            return Ok(Launched { machine, refused });
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
        reservation: Option<String>,
    ) -> Option<Arc<Machine>> {
        let t = self.instance_type(instance_type)?;
        let machine = Arc::new(Machine {
            provider_id: provider_id(zone, name),
            name: name.into(),
            instance_type: t,
            zone: zone.into(),
            capacity_type: c,
            usd_per_hour: self.price(t, zone, c)?,
            reservation,
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
        let types = types.iter().map(|t| cloud.instance_type(t).unwrap());
        let mut offerings = Vec::new();
        for t in types {
            for zone in cloud.zones() {
                offerings.extend(c.iter().map(|c| (t, zone.clone(), *c)));
            }
        }
        let price = |o: &(&InstanceType, String, CapacityType)| cloud.price(o.0, &o.1, o.2);
        offerings.sort_by(|a, b| price(a).unwrap_or(9e9).total_cmp(&price(b).unwrap_or(9e9)));
        Launch { name: "n".into(), offerings }
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
        let m = cloud.launch(&request(&["c6a.8xlarge", "c6a.large"], &both)).unwrap().machine;
        assert_eq!(
            (m.instance_type.name.as_str(), m.capacity_type),
            ("c6a.large", CapacityType::OnDemand)
        );
        assert_eq!(
            cloud.launch(&request(&["m5.large"], &both)).unwrap().machine.provider_id,
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
    fn reservations_are_used_up_and_given_back() {
        let cloud = Simulated::new(Settings::default());
        let reserved = CapacityReservation {
            id: "r".into(),
            instance_type: "c6a.large".into(),
            zone: "us-east-1b".into(),
            count: 1,
        };
        cloud.set_reservations(vec![reserved]);
        let all = [CapacityType::OnDemand, CapacityType::Reserved];
        let named = |name: &str, c: &[CapacityType]| Launch {
            name: name.into(),
            ..request(&["c6a.large"], c)
        };
        let first = cloud.launch(&named("a", &all)).unwrap().machine;
        assert_eq!((first.reservation.as_deref(), first.zone.as_str()), (Some("r"), "us-east-1b"));
        assert_eq!(
            cloud.launch(&named("b", &all)).unwrap().machine.capacity_type,
            CapacityType::OnDemand
        );
        assert!(matches!(cloud.launch(&named("c", &all[1..])), Err(LaunchError::NoCapacity(_))));
        cloud.terminate(&first.provider_id);
        assert_eq!(cloud.reservations()[0].1, 1);
    }
}
