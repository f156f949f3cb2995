//! A cloud that sells the catalogue's machines without having any. Same seed, same answers.

use crate::{
    CapacityReservation, CapacityType, Catalogue, Claimed, Cloud, CloudError, Ended, InstanceType,
    Launch, LaunchError, Launched, Machine, NodeClassKind, Notice, Priced, Resolved,
    families::{Listed, listed},
};
use futures::future::{BoxFuture, pending, ready};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

mod class;
mod fault;
mod settings;

pub use fault::{Fault, FaultKind};
pub use settings::Settings;

/// Region whose zones are sold.
pub const REGION: &str = "us-east-1";
/// Share of the on-demand price that spot costs: at least, and the width of the range.
const SPOT: (f64, f64) = (0.25, 0.20);

/// Its own node classes; it takes those of EC2 instead if its settings say so.
pub const CLASS: NodeClassKind = NodeClassKind {
    group: "coracle.dev",
    version: "v1",
    kind: "SimulatedNodeClass",
    plural: "simulatednodeclasses",
};

/// The simulated cloud.
#[derive(Debug)]
pub struct Simulated {
    settings: Settings,
    catalogue: Mutex<Arc<Catalogue>>,
    machines: Mutex<BTreeMap<String, Running>>,
    /// By the class that asks for them.
    faults: Mutex<BTreeMap<String, Vec<Fault>>>,
    reservations: Mutex<BTreeMap<String, Vec<CapacityReservation>>>,
}

/// A machine, and the time until its node registers; `None` for never.
#[derive(Clone, Debug)]
struct Running {
    machine: Arc<Machine>,
    boot: Option<Duration>,
}

impl Simulated {
    /// A cloud with no machines yet.
    pub fn new(settings: Settings) -> Self {
        let new = Self {
            settings,
            catalogue: Mutex::default(),
            machines: Mutex::default(),
            faults: Mutex::default(),
            reservations: Mutex::default(),
        };
        new.price();
        new
    }

    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a class asks for from now on.
    pub fn set_class(&self, name: &str, faults: Vec<Fault>, reserved: Vec<CapacityReservation>) {
        self.faults.lock().insert(name.to_owned(), faults);
        self.reservations.lock().insert(name.to_owned(), reserved);
        self.price();
    }

    fn all_faults(&self) -> Vec<Fault> {
        self.faults.lock().values().flatten().cloned().collect()
    }

    /// Makes the catalogue anew.
    fn price(&self) {
        let faults = self.all_faults();
        let zones: Vec<Arc<str>> =
            ('a'..='f').take(self.settings.zones).map(|c| format!("{REGION}{c}").into()).collect();
        let types = listed().iter().map(|t| self.sold(t, &zones, &faults));
        let new = Catalogue::new(zones.clone(), types);
        *self.catalogue.lock() = Arc::new(new);
    }

    /// What is sold, at the prices of now.
    pub fn all(&self) -> Arc<Catalogue> {
        self.catalogue.lock().clone()
    }

    /// A line of the price list as it is sold.
    fn sold(&self, t: &'static Listed, zones: &[Arc<str>], faults: &[Fault]) -> InstanceType {
        let mut offerings = Vec::new();
        for zone in zones {
            let spot = t.usd_per_hour * (SPOT.0 + SPOT.1 * self.fraction(&t.name, zone));
            let both = [(CapacityType::Spot, spot), (CapacityType::OnDemand, t.usd_per_hour)];
            for (c, base) in both.into_iter().filter(|(c, _)| *c != CapacityType::Spot || t.spot) {
                let factor: f64 = faults
                    .iter()
                    .filter(|f| f.hits(&t.name, zone, c))
                    .map(|f| if let FaultKind::Price(x) = f.kind { x } else { 1.0 })
                    .product();
                let usd_per_hour = (base * factor * 1e6).round() / 1e6;
                offerings.push(Priced { zone: zone.clone(), capacity_type: c, usd_per_hour });
            }
        }
        InstanceType {
            name: t.name.as_str().into(),
            labels: labels_of(t),
            capacity: t.capacity(),
            allocatable: t.allocatable(),
            usd_per_hour: t.usd_per_hour,
            offerings,
        }
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

    fn launch_now(&self, request: &Launch) -> Result<Launched, LaunchError> {
        if let Some(m) = self.machines.lock().values().find(|m| m.machine.name == request.name) {
            return Ok(Launched { machine: m.machine.clone(), refused: Vec::new() });
        }
        let catalogue = self.all();
        let mut offers = request.offerings.clone();
        offers.retain(|(t, zone, c)| {
            catalogue.zones().contains(zone)
                && catalogue.get(t).is_some_and(|t| t.price(zone, *c).is_some())
        });
        if offers.is_empty() {
            return Err(LaunchError::NoSuchType);
        }
        let faults = self.all_faults();
        let reservations = self.reservations();
        let mut refused = Vec::new();
        for (t, zone, c) in offers {
            let hit = |k: fn(&FaultKind) -> bool| {
                faults.iter().find(|f| k(&f.kind) && f.hits(&t, &zone, c))
            };
            let reservation = reservations
                .iter()
                .filter(|_| c == CapacityType::Reserved)
                .find(|(r, left)| *left > 0 && *r.instance_type == *t && *r.zone == *zone)
                .map(|(r, _)| r.id.clone());
            let used_up = c == CapacityType::Reserved && reservation.is_none();
            if used_up || hit(|k| *k == FaultKind::NoCapacity).is_some() {
                refused.push((t, zone, c));
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
            let machine = Machine {
                provider_id: provider_id(&zone, &request.name),
                name: request.name.clone(),
                uid: request.uid.clone(),
                instance_type: t,
                zone,
                capacity_type: c,
                reservation,
                image: None,
            };
            return Ok(Launched { machine: self.run(machine, boot), refused });
        }
        Err(LaunchError::NoCapacity(refused))
    }

    fn run(&self, machine: Machine, boot: Option<Duration>) -> Arc<Machine> {
        let (id, machine) = (machine.provider_id.clone(), Arc::new(machine));
        self.machines.lock().insert(id, Running { machine: machine.clone(), boot });
        machine
    }

    /// Takes over a machine that an earlier process launched, if its type is known.
    pub fn adopt(&self, mut machine: Machine) -> Option<Arc<Machine>> {
        self.all().get(&machine.instance_type)?;
        machine.provider_id = provider_id(&machine.zone, &machine.name);
        Some(self.run(machine, Some(self.settings.boot)))
    }

    /// Ends a machine. Returns whether there was one.
    pub fn end(&self, provider_id: &str) -> bool {
        self.machines.lock().remove(provider_id).is_some()
    }

    /// Time until the node of a machine registers, counted from its launch; `None` for never.
    pub fn boot(&self, provider_id: &str) -> Option<Duration> {
        self.machines.lock().get(provider_id)?.boot
    }

    /// All running machines.
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        self.machines.lock().values().map(|m| m.machine.clone()).collect()
    }
}

impl Cloud for Simulated {
    fn class_kind(&self) -> &'static NodeClassKind {
        self.settings.class
    }

    fn speed(&self) -> f64 {
        self.settings.speed
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), CloudError>> {
        Box::pin(ready(Ok(())))
    }

    fn resolve<'a>(&'a self, name: &'a str, class: &'a Value) -> BoxFuture<'a, Resolved> {
        self.set_class(name, class::faults(class), class::reservations(class));
        Box::pin(ready(Resolved::default()))
    }

    fn forget<'a>(&'a self, name: &'a str, _: &'a Value) -> BoxFuture<'a, Result<(), CloudError>> {
        self.faults.lock().remove(name);
        self.reservations.lock().remove(name);
        self.price();
        Box::pin(ready(Ok(())))
    }

    fn catalogue(&self, class: &str) -> Option<Arc<Catalogue>> {
        self.faults.lock().contains_key(class).then(|| self.all())
    }

    fn zones(&self) -> Vec<Arc<str>> {
        self.all().zones().to_vec()
    }

    fn reservations(&self) -> Vec<(CapacityReservation, usize)> {
        let machines = self.machines();
        let used =
            |id: &str| machines.iter().filter(|m| m.reservation.as_deref() == Some(id)).count();
        let all: Vec<_> = self.reservations.lock().values().flatten().cloned().collect();
        let all = all.into_iter();
        all.map(|r| (r.count.saturating_sub(used(&r.id)), r)).map(|(left, r)| (r, left)).collect()
    }

    fn launch<'a>(&'a self, request: &'a Launch) -> BoxFuture<'a, Result<Launched, LaunchError>> {
        Box::pin(ready(self.launch_now(request)))
    }

    fn terminate<'a>(
        &'a self,
        provider_id: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Ended, CloudError>> {
        self.end(provider_id);
        Box::pin(ready(Ok(Ended::Gone)))
    }

    fn machine(&self, provider_id: &str) -> Option<Arc<Machine>> {
        self.machines.lock().get(provider_id).map(|m| m.machine.clone())
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Machine>>, CloudError>> {
        Box::pin(ready(Ok(self.machines())))
    }

    /// Its notices are annotations of nodes.
    fn notices(&self) -> BoxFuture<'_, Result<Vec<Notice>, CloudError>> {
        Box::pin(pending())
    }

    fn acknowledge(&self, _: Vec<String>) -> BoxFuture<'_, Result<(), CloudError>> {
        Box::pin(ready(Ok(())))
    }

    fn drift(&self, _: &str, _: Claimed<'_>) -> Option<&'static str> {
        None
    }
}

fn provider_id(zone: &str, name: &str) -> String {
    format!("simulated:///{zone}/{name}")
}

/// Labels of the nodes of a type, beside zone, capacity type and pool: Karpenter's well-known ones.
fn labels(t: &Listed) -> BTreeMap<String, String> {
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
    l
}

/// The same, made once.
fn labels_of(t: &'static Listed) -> Arc<BTreeMap<String, String>> {
    static ALL: OnceLock<BTreeMap<&'static str, Arc<BTreeMap<String, String>>>> = OnceLock::new();
    let all = ALL
        .get_or_init(|| listed().iter().map(|t| (t.name.as_str(), Arc::new(labels(t)))).collect());
    all.get(t.name.as_str()).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offer;

    fn request(types: &[&str], c: &[CapacityType]) -> Launch {
        let all = Simulated::new(Settings::default()).all();
        let mut offerings: Vec<Offer> = Vec::new();
        for t in types {
            for zone in all.zones() {
                offerings.extend(c.iter().map(|c| ((*t).into(), zone.clone(), *c)));
            }
        }
        let price = |o: &Offer| all.get(&o.0).unwrap().price(&o.1, o.2);
        offerings.sort_by(|a, b| price(a).unwrap_or(9e9).total_cmp(&price(b).unwrap_or(9e9)));
        Launch {
            name: "n".into(),
            uid: String::new(),
            pool: String::new(),
            class: String::new(),
            offerings,
            claim: Value::Null,
        }
    }

    #[test]
    fn spot_prices_are_within_their_range_and_follow_the_seed() {
        let (a, b) = (
            Simulated::new(Settings::default()),
            Simulated::new(Settings { seed: 2, ..Settings::default() }),
        );
        let mut differ = 0;
        let (a, b) = (a.all(), b.all());
        for t in a.types() {
            for o in t.offerings.iter().filter(|o| o.capacity_type == CapacityType::Spot) {
                let p = o.usd_per_hour / t.usd_per_hour;
                assert!((0.249..=0.451).contains(&p), "{} {p}", t.name);
                let other = b.get(&t.name).unwrap().price(&o.zone, CapacityType::Spot);
                differ += usize::from(other != Some(o.usd_per_hour));
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
        cloud.set_class("c", vec![no_spot.clone()], vec![]);
        let m = cloud.launch_now(&request(&["c6a.8xlarge", "c6a.large"], &both)).unwrap().machine;
        assert_eq!((&*m.instance_type, m.capacity_type), ("c6a.large", CapacityType::OnDemand));
        assert_eq!(
            cloud.launch_now(&request(&["m5.large"], &both)).unwrap().machine.provider_id,
            m.provider_id
        );
        cloud.end(&m.provider_id);
        match cloud.launch_now(&request(&["c6a.large"], &both[1..])) {
            Err(LaunchError::NoCapacity(refused)) => assert_eq!(refused.len(), 3),
            other => panic!("{other:?}"),
        }
        let dear = Fault { kind: FaultKind::Price(2.0), capacity_type: None, ..no_spot };
        cloud.set_class("c", vec![dear], vec![]);
        let all = cloud.all();
        let t = all.get("c6a.large").unwrap();
        assert_eq!(t.price("us-east-1a", CapacityType::OnDemand), Some(t.usd_per_hour * 2.0));
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
        cloud.set_class("c", vec![], vec![reserved]);
        let all = [CapacityType::OnDemand, CapacityType::Reserved];
        let named = |name: &str, c: &[CapacityType]| Launch {
            name: name.into(),
            ..request(&["c6a.large"], c)
        };
        let first = cloud.launch_now(&named("a", &all)).unwrap().machine;
        assert_eq!((first.reservation.as_deref(), &*first.zone), (Some("r"), "us-east-1b"));
        assert_eq!(
            cloud.launch_now(&named("b", &all)).unwrap().machine.capacity_type,
            CapacityType::OnDemand
        );
        assert!(matches!(
            cloud.launch_now(&named("c", &all[1..])),
            Err(LaunchError::NoCapacity(_))
        ));
        cloud.end(&first.provider_id);
        assert_eq!(cloud.reservations()[0].1, 1);
    }
}
