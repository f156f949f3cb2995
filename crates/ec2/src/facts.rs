//! What the cloud says of its instance types, and what nodes of them have and offer.

use crate::{
    class::{Kubelet, Spec},
    wire::{items, number, text},
};
use coracle_clouds::{CapacityType, InstanceType, Priced, families::reserved_cpu_milli};
use coracle_meta::Quantity;
use coracle_scheduling::Resources;
use roxmltree::Node;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
/// Memory that the kubelet keeps free before it evicts.
const EVICTION_BYTES: i64 = 100 * MIB;
/// Root disk of nodes that say nothing.
const ROOT_BYTES: i64 = 20 * GIB;
/// Pods of a node whose network is not counted.
const MAX_PODS: i64 = 110;

/// GPUs or accelerators of a type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) maker: String,
    pub(crate) count: i64,
    pub(crate) memory_mib: i64,
}

/// An instance type as the cloud describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) name: Arc<str>,
    pub(crate) arch: &'static str,
    pub(crate) maker: String,
    pub(crate) vcpus: i64,
    pub(crate) memory_mib: i64,
    pub(crate) clock_mhz: i64,
    pub(crate) hypervisor: String,
    pub(crate) bare_metal: bool,
    pub(crate) spot: bool,
    pub(crate) enis: i64,
    pub(crate) addresses_per_eni: i64,
    pub(crate) network_mbps: i64,
    pub(crate) ebs_mbps: i64,
    pub(crate) encrypts: bool,
    pub(crate) nvme_gb: i64,
    pub(crate) efas: i64,
    pub(crate) gpu: Option<Device>,
    pub(crate) accelerator: Option<Device>,
}

fn device(n: Node<'_, '_>, list: &str) -> Option<Device> {
    let d = items(n, list).next()?;
    Some(Device {
        name: text(d, "name").to_lowercase().replace(' ', "-"),
        maker: text(d, "manufacturer").to_lowercase(),
        count: number(d, "count") as i64,
        memory_mib: number(d, "memoryInfo/sizeInMiB") as i64,
    })
}

impl Facts {
    /// Reads an item of DescribeInstanceTypes; `None` for what runs no Linux nodes.
    pub(crate) fn read(n: Node<'_, '_>) -> Option<Self> {
        let words = |list: &str| -> Vec<&str> { items(n, list).filter_map(|i| i.text()).collect() };
        let arch = words("processorInfo/supportedArchitectures");
        let arch = ["x86_64", "arm64"].into_iter().find(|a| arch.contains(a))?;
        if !words("supportedVirtualizationTypes").contains(&"hvm") {
            return None;
        }
        let cards = items(n, "networkInfo/networkCards");
        let gbps: f64 = cards.map(|c| number(c, "baselineBandwidthInGbps")).sum();
        Some(Self {
            name: Some(text(n, "instanceType")).filter(|t| t.contains('.'))?.into(),
            arch: if arch == "arm64" { "arm64" } else { "amd64" },
            maker: text(n, "processorInfo/manufacturer").to_lowercase(),
            vcpus: number(n, "vCpuInfo/defaultVCpus") as i64,
            memory_mib: number(n, "memoryInfo/sizeInMiB") as i64,
            clock_mhz: (number(n, "processorInfo/sustainedClockSpeedInGhz") * 1000.0) as i64,
            hypervisor: text(n, "hypervisor").to_owned(),
            bare_metal: text(n, "bareMetal") == "true",
            spot: words("supportedUsageClasses").contains(&"spot"),
            enis: number(n, "networkInfo/maximumNetworkInterfaces") as i64,
            addresses_per_eni: number(n, "networkInfo/ipv4AddressesPerInterface") as i64,
            network_mbps: (gbps * 1000.0) as i64,
            ebs_mbps: number(n, "ebsInfo/ebsOptimizedInfo/maximumBandwidthInMbps") as i64,
            encrypts: text(n, "networkInfo/encryptionInTransitSupported") == "true",
            nvme_gb: number(n, "instanceStorageInfo/totalSizeInGB") as i64,
            efas: number(n, "networkInfo/efaInfo/maximumEfaInterfaces") as i64,
            gpu: device(n, "gpuInfo/gpus"),
            accelerator: device(n, "neuronInfo/neuronDevices")
                .or_else(|| device(n, "inferenceAcceleratorInfo/accelerators"))
                .or_else(|| device(n, "mediaAcceleratorInfo/accelerators")),
        })
        .filter(|f| f.vcpus > 0 && f.memory_mib > 0)
    }

    /// Karpenter's well-known labels of the type's nodes.
    pub(crate) fn labels(&self, region: &str) -> BTreeMap<String, String> {
        let (family, size) = self.name.split_once('.').unwrap_or((&self.name, ""));
        let category: String = family.chars().take_while(char::is_ascii_alphabetic).collect();
        let generation = family.chars().skip(category.len()).take_while(char::is_ascii_digit);
        let generation: String = generation.collect();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |k: &str, v: String| drop(all.insert(k.into(), v));
        put("node.kubernetes.io/instance-type", self.name.to_string());
        put("kubernetes.io/arch", self.arch.into());
        put("kubernetes.io/os", "linux".into());
        put("topology.kubernetes.io/region", region.into());
        let mut own = |k: &str, v: String| put(&format!("karpenter.k8s.aws/instance-{k}"), v);
        own("family", family.into());
        own("size", size.into());
        own("category", category);
        if !generation.is_empty() {
            own("generation", generation);
        }
        own("cpu", self.vcpus.to_string());
        own("memory", self.memory_mib.to_string());
        own("encryption-in-transit-supported", self.encrypts.to_string());
        for (key, value) in [("cpu-manufacturer", &self.maker), ("hypervisor", &self.hypervisor)] {
            if !value.is_empty() {
                own(key, value.clone());
            }
        }
        for (key, n) in [
            ("cpu-sustained-clock-speed-mhz", self.clock_mhz),
            ("network-bandwidth", self.network_mbps),
            ("ebs-bandwidth", self.ebs_mbps),
            ("local-nvme", self.nvme_gb),
        ] {
            if n > 0 {
                own(key, n.to_string());
            }
        }
        for (prefix, d) in [("gpu", &self.gpu), ("accelerator", &self.accelerator)] {
            let Some(d) = d else { continue };
            own(&format!("{prefix}-name"), d.name.clone());
            own(&format!("{prefix}-manufacturer"), d.maker.clone());
            own(&format!("{prefix}-count"), d.count.to_string());
            if prefix == "gpu" {
                own("gpu-memory", d.memory_mib.to_string());
            }
        }
        all
    }

    /// Pods that addresses of the machine's network interfaces suffice for.
    fn pods_by_network(&self) -> i64 {
        match self.enis * (self.addresses_per_eni - 1) + 2 {
            n if self.enis > 0 && self.addresses_per_eni > 1 => n,
            _ => MAX_PODS,
        }
    }

    fn max_pods(&self, k: &Kubelet, bottlerocket: bool) -> i64 {
        let most = k.max_pods.unwrap_or_else(|| self.pods_by_network());
        match k.pods_per_core.filter(|n| *n > 0 && !bottlerocket) {
            Some(n) => most.min(n * self.vcpus),
            None => most,
        }
    }

    /// What a machine of a node class has.
    fn capacity(&self, spec: &Spec, memory_overhead: f64) -> Resources {
        let nominal = self.memory_mib - if self.arch == "arm64" { 64 } else { 0 };
        let overhead = (self.memory_mib as f64 * memory_overhead).ceil() as i64;
        let raid = spec.instance_store_policy.as_deref() == Some("RAID0") && self.nvme_gb > 0;
        let mut r = Resources {
            cpu_milli: self.vcpus * 1000,
            memory_bytes: (nominal - overhead).max(0) * MIB,
            ephemeral_bytes: if raid {
                self.nvme_gb * 1_000_000_000
            } else {
                spec.root_bytes().unwrap_or(ROOT_BYTES)
            },
            pods: self.max_pods(&spec.kubelet, spec.family() == "bottlerocket"),
            extended: Vec::new(),
        };
        if let Some(d) = &self.accelerator {
            let name =
                if d.maker == "habana" { "habana.ai/gaudi" } else { "aws.amazon.com/neuron" };
            r.extended.push((name.into(), d.count));
        }
        if let Some(d) = &self.gpu {
            let name = match d.maker.as_str() {
                "amd" => "amd.com/gpu",
                "habana" => "habana.ai/gaudi",
                _ => "nvidia.com/gpu",
            };
            r.extended.push((name.into(), d.count));
        }
        if self.efas > 0 {
            r.extended.push(("vpc.amazonaws.com/efa".into(), self.efas));
        }
        r.extended.sort();
        r
    }

    /// What pods may use: capacity less what the kubelet, the system and eviction keep.
    fn allocatable(&self, spec: &Spec, capacity: &Resources) -> Resources {
        let k = &spec.kubelet;
        let amount = |list: &BTreeMap<String, String>, name: &str| {
            list.get(name).and_then(|q| q.parse::<Quantity>().ok())
        };
        let bytes = |list: &BTreeMap<String, String>, name: &str| {
            amount(list, name).map(|q| q.units_ceil())
        };
        let cpu = |list: &BTreeMap<String, String>| amount(list, "cpu").map(|q| q.millis_ceil());
        let threshold = |name: &str, of: i64| {
            let text = k.eviction_hard.get(name)?;
            match text.strip_suffix('%') {
                Some(p) => Some((of as f64 * p.parse::<f64>().ok()? / 100.0).ceil() as i64),
                None => Some(text.parse::<Quantity>().ok()?.units_ceil()),
            }
        };
        let mut r = capacity.clone();
        r.cpu_milli -= cpu(&k.kube_reserved).unwrap_or_else(|| reserved_cpu_milli(self.vcpus));
        r.cpu_milli -= cpu(&k.system_reserved).unwrap_or(0);
        let own = (11 * self.pods_by_network() + 255) * MIB;
        r.memory_bytes -= bytes(&k.kube_reserved, "memory").unwrap_or(own);
        r.memory_bytes -= bytes(&k.system_reserved, "memory").unwrap_or(0);
        r.memory_bytes -=
            threshold("memory.available", capacity.memory_bytes).unwrap_or(EVICTION_BYTES);
        r.ephemeral_bytes -= bytes(&k.kube_reserved, "ephemeral-storage").unwrap_or(GIB);
        r.ephemeral_bytes -= bytes(&k.system_reserved, "ephemeral-storage").unwrap_or(0);
        r.ephemeral_bytes -= threshold("nodefs.available", capacity.ephemeral_bytes)
            .unwrap_or(capacity.ephemeral_bytes / 10);
        for amount in [&mut r.cpu_milli, &mut r.memory_bytes, &mut r.ephemeral_bytes] {
            *amount = (*amount).max(0);
        }
        r
    }

    /// The type as nodes of a class have it; `None` if it is sold nowhere that the class may be.
    pub(crate) fn sold(
        &self,
        spec: &Spec,
        region: &str,
        zones: &[Arc<str>],
        prices: &Prices,
        memory_overhead: f64,
    ) -> Option<InstanceType> {
        let on_demand = *prices.on_demand.get(&self.name)?;
        let mut offerings = Vec::new();
        for zone in zones.iter().filter(|z| prices.is_offered(&self.name, z)) {
            let mut put = |capacity_type, usd_per_hour| {
                offerings.push(Priced { zone: zone.clone(), capacity_type, usd_per_hour });
            };
            put(CapacityType::OnDemand, on_demand);
            let spot = prices.spot.get(&(self.name.clone(), zone.clone()));
            if let (true, Some(usd)) = (self.spot, spot) {
                put(CapacityType::Spot, *usd);
            }
        }
        let capacity = self.capacity(spec, memory_overhead);
        (!offerings.is_empty()).then(|| InstanceType {
            name: self.name.clone(),
            labels: Arc::new(self.labels(region)),
            allocatable: self.allocatable(spec, &capacity),
            capacity,
            usd_per_hour: on_demand,
            offerings,
        })
    }
}

/// What types cost, and where they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prices {
    /// US dollars an hour.
    pub(crate) on_demand: HashMap<Arc<str>, f64>,
    /// The same by type and zone.
    pub(crate) spot: HashMap<(Arc<str>, Arc<str>), f64>,
    /// Types by zone.
    pub(crate) offered: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl Prices {
    fn is_offered(&self, name: &str, zone: &str) -> bool {
        // Sorted by the discovery.
        self.offered.get(zone).is_some_and(|all| all.binary_search_by(|t| (**t).cmp(name)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DESCRIBED: &str = "<r><instanceType>g4dn.xlarge</instanceType>
        <supportedUsageClasses><item>on-demand</item><item>spot</item></supportedUsageClasses>
        <supportedVirtualizationTypes><item>hvm</item></supportedVirtualizationTypes>
        <hypervisor>nitro</hypervisor>
        <processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures><sustainedClockSpeedInGhz>2.5</sustainedClockSpeedInGhz><manufacturer>Intel</manufacturer></processorInfo>
        <vCpuInfo><defaultVCpus>4</defaultVCpus></vCpuInfo><memoryInfo><sizeInMiB>16384</sizeInMiB></memoryInfo>
        <instanceStorageInfo><totalSizeInGB>125</totalSizeInGB></instanceStorageInfo>
        <networkInfo><maximumNetworkInterfaces>3</maximumNetworkInterfaces><ipv4AddressesPerInterface>10</ipv4AddressesPerInterface></networkInfo>
        <gpuInfo><gpus><item><name>T4</name><manufacturer>NVIDIA</manufacturer><count>1</count><memoryInfo><sizeInMiB>16384</sizeInMiB></memoryInfo></item></gpus></gpuInfo></r>";

    fn facts() -> Facts {
        let xml = roxmltree::Document::parse(DESCRIBED).unwrap();
        Facts::read(xml.root_element()).unwrap()
    }

    fn prices() -> Prices {
        let (t, zone): (Arc<str>, Arc<str>) = ("g4dn.xlarge".into(), "us-east-1a".into());
        Prices {
            on_demand: [(t.clone(), 0.526)].into(),
            spot: [((t.clone(), zone.clone()), 0.2)].into(),
            offered: [(zone, vec![t])].into(),
        }
    }

    #[test]
    fn a_type_is_as_karpenter_counts_it() {
        let zones: Vec<Arc<str>> = vec!["us-east-1a".into(), "us-east-1b".into()];
        let spec = Spec::read(&json!({})).unwrap();
        let t = facts().sold(&spec, "us-east-1", &zones, &prices(), 0.075).unwrap();
        assert_eq!(t.capacity.memory_bytes, (16384 - 1229) * MIB);
        assert_eq!(t.capacity.pods, 29);
        assert_eq!(t.allocatable.cpu_milli, 3920);
        assert_eq!(t.allocatable.memory_bytes, (16384 - 1229 - 11 * 29 - 255 - 100) * MIB);
        assert_eq!(t.capacity.extended, [("nvidia.com/gpu".into(), 1)]);
        assert_eq!(t.labels["karpenter.k8s.aws/instance-gpu-name"], "t4");
        assert_eq!(t.labels["karpenter.k8s.aws/instance-category"], "g");
        assert_eq!(t.labels["karpenter.k8s.aws/instance-generation"], "4");
        assert_eq!(t.labels["karpenter.k8s.aws/instance-local-nvme"], "125");
        assert_eq!(t.offerings.len(), 2, "the second zone does not have it");
        assert_eq!(t.price("us-east-1a", CapacityType::Spot), Some(0.2));
    }

    #[test]
    fn a_class_changes_what_nodes_offer() {
        let spec = Spec::read(&json!({
            "kubelet": {"maxPods": 50, "podsPerCore": 10, "kubeReserved": {"cpu": "200m", "memory": "1Gi"},
                "systemReserved": {"cpu": "100m"}, "evictionHard": {"memory.available": "5%", "nodefs.available": "1Gi"}},
            "instanceStorePolicy": "RAID0",
        })).unwrap();
        let f = facts();
        let capacity = f.capacity(&spec, 0.0);
        assert_eq!((capacity.pods, capacity.ephemeral_bytes), (40, 125_000_000_000));
        let r = f.allocatable(&spec, &capacity);
        assert_eq!(r.cpu_milli, 3700);
        assert_eq!(r.memory_bytes, 16384 * MIB - GIB - (16384.0 * 0.05 * MIB as f64).ceil() as i64);
        assert_eq!(r.ephemeral_bytes, 125_000_000_000 - 2 * GIB);
    }
}
