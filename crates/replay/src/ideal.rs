//! What the same pods would cost on nodes that were bought for them at that moment, all at once and with
//! no past: the nearest to a best case that can be computed.

use coracle_provisioning::{Pool, pack};
use coracle_scheduling::{PodSpec, Snapshot};
use serde::Serialize;
use std::{num::NonZero, sync::Arc};

/// A moment of the day.
pub(crate) struct Moment {
    pub(crate) second: u64,
    pub(crate) pool: Pool,
    pub(crate) pods: Vec<Arc<PodSpec>>,
    pub(crate) usd_per_hour: f64,
}

/// A moment's price beside that of a plan from nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ideal {
    /// Second of the day.
    pub second: u64,
    /// What the nodes cost that were there.
    pub usd_per_hour: f64,
    /// What nodes would have cost that were planned anew.
    pub planned_usd_per_hour: f64,
    /// No nodes could have cost less, as that plan proves.
    pub bound_usd_per_hour: f64,
}

/// Plans each moment from nothing, on all processors.
pub(crate) fn ideals(moments: &[Moment], daemons: &[Arc<PodSpec>]) -> Vec<Ideal> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = moments.len().div_ceil(threads).max(1);
    std::thread::scope(|s| {
        let parts: Vec<_> = moments
            .chunks(share)
            .map(|part| s.spawn(move || part.iter().map(|m| ideal(m, daemons)).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|p| p.join().unwrap_or_default()).collect()
    })
}

fn ideal(m: &Moment, daemons: &[Arc<PodSpec>]) -> Ideal {
    let pools = std::slice::from_ref(&m.pool);
    let plan = pack::pack(&mut Snapshot::default(), &m.pods, pools, daemons);
    Ideal {
        second: m.second,
        usd_per_hour: m.usd_per_hour,
        planned_usd_per_hour: plan.usd_per_hour,
        bound_usd_per_hour: plan.lower_bound_usd_per_hour,
    }
}
