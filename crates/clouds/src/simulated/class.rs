//! What a SimulatedNodeClass asks for: faults to show, and machines that are paid for already.

use super::{Fault, FaultKind};
use crate::{CapacityReservation, CapacityType};
use coracle_meta::time::parse_go_duration;
use serde_json::Value;
use std::time::Duration;

/// How late nodes of a slow boot are that say nothing else.
const SLOW: Duration = Duration::from_secs(60);

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn text(v: &Value) -> Option<String> {
    v.as_str().map(str::to_owned)
}

/// The faults of a class.
pub(super) fn faults(class: &Value) -> Vec<Fault> {
    let delay = |v: &Value| Duration::try_from(parse_go_duration(v.as_str()?)?).ok();
    let read = |f: &Value| {
        let kind = match f["type"].as_str()? {
            "NoCapacity" => FaultKind::NoCapacity,
            "NeverRegisters" => FaultKind::NeverRegisters,
            "SlowBoot" => FaultKind::SlowBoot(delay(&f["delay"]).unwrap_or(SLOW)),
            "Price" => FaultKind::Price(f["factor"].as_f64().unwrap_or(1.0)),
            _ => return None,
        };
        Some(Fault {
            kind,
            instance_type: text(&f["instanceType"]),
            zone: text(&f["zone"]),
            capacity_type: f["capacityType"].as_str().and_then(CapacityType::parse),
        })
    };
    list(&class["spec"]["faults"]).filter_map(read).collect()
}

/// The reservations of a class.
pub(super) fn reservations(class: &Value) -> Vec<CapacityReservation> {
    let read = |r: &Value| CapacityReservation {
        id: text(&r["id"]).unwrap_or_default(),
        instance_type: text(&r["instanceType"]).unwrap_or_default(),
        zone: text(&r["zone"]).unwrap_or_default(),
        count: r["count"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0),
    };
    list(&class["spec"]["capacityReservations"]).map(read).collect()
}
