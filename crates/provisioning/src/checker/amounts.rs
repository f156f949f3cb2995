//! What pods ask for and nodes offer, in billionths of each resource's unit.

use coracle_meta::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// By resource name, in billionths.
pub(super) type Amounts = BTreeMap<String, i128>;

fn read(v: &Value) -> Amounts {
    let entries = v.as_object().into_iter().flatten();
    entries
        .filter_map(|(k, q)| {
            let text = q.as_str().map_or_else(|| q.to_string(), str::to_owned);
            Some((k.clone(), text.parse::<Quantity>().ok()?.nanos()))
        })
        .collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (k, n) in more {
        *total.entry(k.clone()).or_default() += n;
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (k, n) in other {
        let slot = total.entry(k.clone()).or_default();
        *slot = (*slot).max(*n);
    }
}

pub(super) fn allocatable(node: &Value) -> Amounts {
    read(&node["status"]["allocatable"])
}

/// The most that a pod needs at any moment: all containers and sidecars together, or an init
/// container beside the sidecars that started before it; then what the pod says as a whole, and its
/// overhead. One of `pods`.
pub(super) fn requests(pod: &Value) -> Amounts {
    let spec = &pod["spec"];
    let of = |c: &Value| read(&c["resources"]["requests"]);
    let each = |f: &str| spec[f].as_array().cloned().unwrap_or_default();
    let mut running = Amounts::new();
    each("containers").iter().for_each(|c| add(&mut running, &of(c)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in each("initContainers") {
        if c["restartPolicy"] == "Always" {
            add(&mut running, &of(&c));
            add(&mut sidecars, &of(&c));
            raise(&mut peak, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &of(&c));
            raise(&mut peak, &moment);
        }
    }
    raise(&mut running, &peak);
    running.extend(read(&spec["resources"]["requests"]));
    add(&mut running, &read(&spec["overhead"]));
    running.insert("pods".into(), 1_000_000_000);
    running
}
