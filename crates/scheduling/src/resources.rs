//! Amounts of resources: a fixed vector for what every node has, a short list for the rest.

use coracle_meta::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::{collections::BTreeMap, sync::Arc};

/// Amounts. Processor in thousandths, memory and ephemeral storage in bytes, pods in ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of ephemeral storage.
    pub ephemeral_bytes: i64,
    /// Number of pods.
    pub pods: i64,
    /// Everything else, sorted by name.
    pub extended: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a list such as `status.allocatable`. Amounts that cannot be read count as none.
    pub fn from_list(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut r = Self::default();
        for (name, q) in list.into_iter().flatten() {
            let Ok(q) = q.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => r.cpu_milli = q.millis_ceil(),
                "memory" => r.memory_bytes = q.units_ceil(),
                "ephemeral-storage" => r.ephemeral_bytes = q.units_ceil(),
                "pods" => r.pods = q.units_ceil(),
                // The map is sorted, so the list is.
                _ => r.extended.push((name.as_str().into(), q.units_ceil())),
            }
        }
        r
    }

    /// As a list such as `spec.resources.requests`.
    pub fn to_list(&self) -> BTreeMap<String, String> {
        let mut list = BTreeMap::new();
        let mut put = |name: &str, q: Quantity| {
            if q.nanos() != 0 {
                list.insert(name.to_owned(), q.to_string());
            }
        };
        put("cpu", Quantity::from_millis(self.cpu_milli));
        put("memory", Quantity::from_bytes(self.memory_bytes));
        put("ephemeral-storage", Quantity::from_bytes(self.ephemeral_bytes));
        put("pods", Quantity::from_units(self.pods));
        for (name, n) in &self.extended {
            put(name, Quantity::from_units(*n));
        }
        list
    }

    /// The amount of a named extended resource.
    pub fn extended(&self, name: &str) -> i64 {
        self.extended.iter().find(|(n, _)| &**n == name).map_or(0, |(_, v)| *v)
    }

    /// Adds another amount, or takes it away with `sign` -1.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu_milli += sign * other.cpu_milli;
        self.memory_bytes += sign * other.memory_bytes;
        self.ephemeral_bytes += sign * other.ephemeral_bytes;
        self.pods += sign * other.pods;
        for (name, n) in &other.extended {
            match self.extended.binary_search_by(|(m, _)| m.cmp(name)) {
                Ok(i) => self.extended[i].1 += sign * n,
                Err(i) => self.extended.insert(i, (name.clone(), sign * n)),
            }
        }
    }

    /// The larger of each amount.
    pub fn raise_to(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.ephemeral_bytes = self.ephemeral_bytes.max(other.ephemeral_bytes);
        self.pods = self.pods.max(other.pods);
        for (name, n) in &other.extended {
            match self.extended.binary_search_by(|(m, _)| m.cmp(name)) {
                Ok(i) => self.extended[i].1 = self.extended[i].1.max(*n),
                Err(i) => self.extended.insert(i, (name.clone(), *n)),
            }
        }
    }

    /// Whether `self` fits into what is left of `total` beside `used`.
    pub fn fits(&self, used: &Self, total: &Self) -> bool {
        let fits = |need: i64, used: i64, total: i64| need == 0 || used + need <= total;
        fits(self.cpu_milli, used.cpu_milli, total.cpu_milli)
            && fits(self.memory_bytes, used.memory_bytes, total.memory_bytes)
            && fits(self.ephemeral_bytes, used.ephemeral_bytes, total.ephemeral_bytes)
            && fits(self.pods, used.pods, total.pods)
            && self
                .extended
                .iter()
                .all(|(n, need)| fits(*need, used.extended(n), total.extended(n)))
    }

    /// Names of the resources that do not fit, as upstream words them.
    pub fn lacking(&self, used: &Self, total: &Self) -> Vec<String> {
        let mut out = Vec::new();
        let mut check = |name: &str, need: i64, used: i64, total: i64| {
            if need > 0 && used + need > total {
                out.push(if name == "pods" {
                    "Too many pods".into()
                } else {
                    format!("Insufficient {name}")
                });
            }
        };
        check("pods", self.pods, used.pods, total.pods);
        check("cpu", self.cpu_milli, used.cpu_milli, total.cpu_milli);
        check("memory", self.memory_bytes, used.memory_bytes, total.memory_bytes);
        check(
            "ephemeral-storage",
            self.ephemeral_bytes,
            used.ephemeral_bytes,
            total.ephemeral_bytes,
        );
        for (name, need) in &self.extended {
            check(name, *need, used.extended(name), total.extended(name));
        }
        out
    }
}
