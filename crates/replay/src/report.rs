//! What a replay found.

use crate::{Settings, ideal::Ideal};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// The cluster at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Second of the day.
    pub second: u64,
    /// Nodes.
    pub nodes: usize,
    /// Those of them that are spot.
    pub spot: usize,
    /// Pods.
    pub pods: usize,
    /// Those of them that wait.
    pub pending: usize,
    /// What the nodes cost.
    pub usd_per_hour: f64,
    /// What the pods' volume costs at the best rate of the market: no nodes cost less.
    pub bound_usd_per_hour: f64,
}

/// Seconds that pods waited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many pods.
    pub count: usize,
    /// Half of them at most this.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// All but one in a hundred.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// Pods that had to move, by why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PodsMoved {
    /// Spot machines were taken back.
    pub interrupted: usize,
    /// Nodes were consolidated.
    pub consolidated: usize,
}

/// A day.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// Hours.
    pub hours: u64,
    /// What the day cost.
    pub usd: f64,
    /// What the volume of its pods costs at the best rates.
    pub bound_usd: f64,
    /// Hour by hour, what a plan from nothing would have cost.
    pub ideals: Vec<Ideal>,
    /// Machines that were launched.
    pub launched: usize,
    /// Nodes that were given up empty.
    pub emptied: usize,
    /// Nodes that were given up for others.
    pub consolidated: usize,
    /// Spot machines that were taken back.
    pub interrupted: usize,
    /// Plans that were made, and searches for a consolidation.
    pub plans: usize,
    /// As `plans`.
    pub searches: usize,
    /// Pods that had to move.
    pub pods_moved: PodsMoved,
    /// Seconds that pods waited for their first node, from creation to running.
    pub waited: Percentiles,
    /// Seconds that pods waited that had to move.
    pub waited_again: Percentiles,
    /// How many pods were moved how often.
    pub moved: BTreeMap<u32, usize>,
    /// The day.
    pub samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn new(s: &Settings) -> Self {
        Self {
            seed: s.seed,
            hours: s.hours,
            usd: 0.0,
            bound_usd: 0.0,
            ideals: Vec::new(),
            launched: 0,
            emptied: 0,
            consolidated: 0,
            interrupted: 0,
            plans: 0,
            searches: 0,
            pods_moved: PodsMoved::default(),
            waited: Percentiles::default(),
            waited_again: Percentiles::default(),
            moved: BTreeMap::new(),
            samples: Vec::new(),
        }
    }

    /// How much more the nodes cost than plans from nothing would have, as a share.
    pub fn above_planned(&self) -> f64 {
        let sum = |f: fn(&Ideal) -> f64| self.ideals.iter().map(f).sum::<f64>();
        let planned = sum(|i| i.planned_usd_per_hour);
        if planned > 0.0 { sum(|i| i.usd_per_hour) / planned - 1.0 } else { 0.0 }
    }

    /// Pods that there were, and how often one was moved on average.
    pub fn moves_per_pod(&self) -> (usize, f64) {
        let pods: usize = self.moved.values().sum();
        let moves: f64 = self.moved.iter().map(|(n, pods)| f64::from(*n) * *pods as f64).sum();
        (pods, if pods > 0 { moves / pods as f64 } else { 0.0 })
    }
}

pub(crate) fn percentiles(seconds: &mut [u64]) -> Percentiles {
    seconds.sort_unstable();
    let at = |share: f64| {
        let i = (seconds.len() as f64 * share).ceil() as usize;
        seconds.get(i.saturating_sub(1)).copied().unwrap_or(0)
    };
    Percentiles { count: seconds.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = |g: fn(&Sample) -> usize| self.samples.iter().map(g).max().unwrap_or(0);
        let least = |g: fn(&Sample) -> usize| self.samples.iter().map(g).min().unwrap_or(0);
        let (pods, moves) = self.moves_per_pod();
        writeln!(f, "{} hours, seed {}", self.hours, self.seed)?;
        writeln!(
            f,
            "  load     {} to {} pods on {} to {} nodes; {pods} pods in all",
            least(|s| s.pods),
            most(|s| s.pods),
            least(|s| s.nodes),
            most(|s| s.nodes)
        )?;
        writeln!(
            f,
            "  cost     ${:.2}; {:.1} % above plans from nothing, hour by hour; volume at the best rates ${:.2}",
            self.usd,
            100.0 * self.above_planned(),
            self.bound_usd
        )?;
        writeln!(
            f,
            "  nodes    {} launched, {} given up empty, {} for others, {} taken back",
            self.launched, self.emptied, self.consolidated, self.interrupted
        )?;
        writeln!(
            f,
            "  moved    {} pods by consolidation, {} by interruption: {moves:.3} times a pod; {} never",
            self.pods_moved.consolidated,
            self.pods_moved.interrupted,
            self.moved.get(&0).copied().unwrap_or(0)
        )?;
        for (what, w) in [("pending", &self.waited), ("again", &self.waited_again)] {
            writeln!(
                f,
                "  {what:<8} {} s half of the pods, {} s 90 %, {} s 99 %, {} s the longest",
                w.p50, w.p90, w.p99, w.max
            )?;
        }
        writeln!(f, "  made     {} plans, {} searches", self.plans, self.searches)
    }
}
