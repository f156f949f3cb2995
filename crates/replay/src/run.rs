//! The replay: tick by tick, the trace happens and the cores decide.

use crate::{
    ideal::{Moment, ideals},
    random::Random,
    report::{Report, Sample, percentiles},
    state::{Owner, State},
    trace::Trace,
    weather::Weather,
};
use coracle_provisioning::{
    Candidate, Command, Pool, Terms,
    budget::{self, Budget},
    consolidate, pack,
};
use coracle_scheduling::PodSpec;
use jiff::Timestamp;
use std::sync::Arc;

/// Seconds of a tick: what comes within one is planned together.
pub const TICK: u64 = 10;
/// Seconds between samples of the report.
const SAMPLE: u64 = 600;
/// Replicas follow the load this often, each service at its own second.
const SCALE: u64 = 300;
/// A rollout takes this long.
const ROLLOUT: u64 = 600;
/// A service's pods that one tick replaces at most, in parts of all.
const ROLLOUT_TICKS: usize = (ROLLOUT / TICK) as usize;
/// Midnight of a Monday: budgets have schedules.
const START: i64 = 1_767_571_200;

/// What is replayed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seed of the trace and of the weather.
    pub seed: u64,
    /// Nodes that the cluster has at its peak, about.
    pub nodes: usize,
    /// Hours.
    pub hours: u64,
    /// Seconds from the launch of a machine to its node.
    pub boot_seconds: u64,
    /// Seconds between searches for a consolidation.
    pub consolidate_every_seconds: u64,
    /// Nodes that a search looks at: those that waste most.
    pub candidates: usize,
    /// Seconds without a change before a node is considered.
    pub consolidate_after_seconds: u64,
    /// Whether nodes with pods are moved at all.
    pub underutilized: bool,
    /// Budgets of the pool.
    pub budgets: Vec<Budget>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 1000,
            hours: 24,
            boot_seconds: 40,
            consolidate_every_seconds: 600,
            candidates: 40,
            consolidate_after_seconds: 60,
            underutilized: true,
            budgets: vec![Budget { nodes: "10%".into(), reasons: vec![], window: None }],
        }
    }
}

/// A command that waits for its new nodes.
struct Running {
    remove: Vec<String>,
    ready_at: u64,
}

struct Replay<'s> {
    settings: &'s Settings,
    trace: Trace,
    weather: Weather,
    base: &'s Pool,
    market: Pool,
    state: State,
    random: Random,
    /// Pods of each service, oldest first.
    services: Vec<Vec<u64>>,
    /// Pods of a service that are to be replaced, and how many a tick.
    rollouts: Vec<(usize, Vec<u64>, usize)>,
    next_job: usize,
    running: Option<Running>,
    report: Report,
    moments: Vec<Moment>,
}

/// Replays a day of a pool whose types have their list prices.
pub fn replay(settings: &Settings, pool: &Pool, daemons: Vec<Arc<PodSpec>>) -> Report {
    let weather = Weather { seed: settings.seed };
    let offerings = pool.types.iter().flat_map(|t| &t.offerings);
    let mut zones: Vec<Arc<str>> = offerings.map(|o| o.zone.clone()).collect();
    zones.sort();
    zones.dedup();
    let trace = Trace::new(settings.seed, settings.nodes, settings.hours);
    let mut r = Replay {
        services: vec![Vec::new(); trace.services.len()],
        trace,
        weather,
        market: weather.at(pool, 0),
        base: pool,
        state: State::new(&zones, daemons),
        random: Random::new(settings.seed ^ 0x5eed),
        rollouts: Vec::new(),
        next_job: 0,
        running: None,
        report: Report::new(settings),
        moments: Vec::new(),
        settings,
    };
    for tick in 0..settings.hours * 3600 / TICK {
        r.tick(tick * TICK);
    }
    r.finish()
}

impl Replay<'_> {
    fn tick(&mut self, now: u64) {
        if now.is_multiple_of(3600) {
            self.market = self.weather.at(self.base, now / 3600);
            self.state.reprice(&self.market);
        }
        self.load(now);
        self.interrupt(now);
        self.advance(now);
        self.provision(now);
        if now.is_multiple_of(60) {
            self.give_up_empty(now);
        }
        if self.settings.underutilized
            && now.is_multiple_of(self.settings.consolidate_every_seconds)
        {
            self.consolidate(now);
        }
        let usd = self.state.usd_per_hour();
        self.report.usd += usd * TICK as f64 / 3600.0;
        if now.is_multiple_of(SAMPLE) {
            self.sample(now, usd);
        }
        if now % 3600 == 1800 {
            let pods = self.state.pods.values().map(|p| p.spec.clone()).collect();
            self.moments.push(Moment {
                second: now,
                pool: self.market.clone(),
                pods,
                usd_per_hour: usd,
            });
        }
    }

    /// What the trace says happens now.
    fn load(&mut self, now: u64) {
        let ended: Vec<(u64, u64)> = self.state.ends.range(..=(now, u64::MAX)).copied().collect();
        for (at, id) in ended {
            self.state.ends.remove(&(at, id));
            self.state.delete(id, now);
        }
        for i in 0..self.trace.services.len() {
            // The day begins with what the first hour wants.
            let turn = now == 0 || (now / TICK + i as u64).is_multiple_of(SCALE / TICK);
            if turn {
                self.scale(i, now);
            }
            let due = self.trace.services[i].rollouts.iter().any(|t| (now..now + TICK).contains(t));
            if due {
                let old = self.services[i].clone();
                let each = old.len().div_ceil(ROLLOUT_TICKS);
                self.rollouts.push((i, old, each));
            }
        }
        let mut rollouts = std::mem::take(&mut self.rollouts);
        for (i, old, each) in &mut rollouts {
            for id in old.drain(..(*each).min(old.len())) {
                if let Some(at) = self.services[*i].iter().position(|p| *p == id) {
                    self.services[*i].remove(at);
                    self.state.delete(id, now);
                    self.add(*i, now);
                }
            }
        }
        rollouts.retain(|(_, old, _)| !old.is_empty());
        self.rollouts = rollouts;
        while self.trace.jobs.get(self.next_job).is_some_and(|j| j.at < now + TICK) {
            let job = self.trace.jobs[self.next_job].clone();
            self.next_job += 1;
            let owner = Owner::Job { seconds: job.seconds, kept: job.kept };
            for _ in 0..job.pods {
                self.state.create(&job.pod, owner, now);
            }
        }
    }

    fn add(&mut self, service: usize, now: u64) {
        let pod = self.trace.services[service].pod.clone();
        let id = self.state.create(&pod, Owner::Service(service), now);
        self.services[service].push(id);
    }

    fn scale(&mut self, service: usize, now: u64) {
        let wanted = self.trace.services[service].replicas(now);
        while self.services[service].len() < wanted {
            self.add(service, now);
        }
        while self.services[service].len() > wanted {
            // The newest goes first, as of a replica set's equals.
            if let Some(id) = self.services[service].pop() {
                self.state.delete(id, now);
            }
        }
    }

    /// Spot machines that are taken back.
    fn interrupt(&mut self, now: u64) {
        let mut taken = Vec::new();
        for (name, m) in &self.state.machines {
            if m.capacity_type == "spot" && m.ready_at <= now {
                let chance = self.weather.interruption(&m.ty, &m.zone, now / 3600, TICK);
                if self.random.unit() < chance {
                    taken.push(name.clone());
                }
            }
        }
        for name in taken {
            self.report.interrupted += 1;
            self.report.pods_moved.interrupted += self.state.on(&name).len();
            self.state.remove(&name, now);
        }
    }

    /// A command whose new nodes are there: the old ones go.
    fn advance(&mut self, now: u64) {
        if self.running.as_ref().is_none_or(|r| r.ready_at > now) {
            return;
        }
        let Some(r) = self.running.take() else { return };
        for name in r
            .remove
            .iter()
            .filter(|n| self.state.machines.contains_key(*n))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.report.consolidated += 1;
            self.report.pods_moved.consolidated += self.state.on(&name).len();
            self.state.remove(&name, now);
        }
    }

    /// Pods get nodes: those that are there, then new ones.
    fn provision(&mut self, now: u64) {
        let left = self.state.schedule(now);
        if left.is_empty() {
            return;
        }
        let mut snapshot = self.state.snapshot.clone();
        let pools = std::slice::from_ref(&self.market);
        let plan = pack::pack(&mut snapshot, &left, pools, &self.state.daemons);
        self.report.plans += 1;
        let names: Vec<Option<String>> =
            plan.new_nodes.iter().map(|n| self.launch(n, now)).collect();
        for (key, place) in plan.bindings() {
            match place {
                coracle_provisioning::Place::Existing(node) => self.state.bind(key, node, now),
                coracle_provisioning::Place::New(i) => {
                    if let Some(node) = &names[i] {
                        self.state.bind(key, node, now);
                    }
                }
            }
        }
    }

    fn launch(&mut self, new: &coracle_provisioning::NewNode, now: u64) -> Option<String> {
        let name = self.state.launch(&self.market, new, now, self.settings.boot_seconds);
        self.report.launched += usize::from(name.is_some());
        name
    }

    /// Nodes that may be looked at.
    fn candidates(&self, now: u64) -> Vec<Candidate> {
        let quiet = self.settings.consolidate_after_seconds;
        let mut all = Vec::new();
        for (name, m) in &self.state.machines {
            if m.going || m.ready_at > now || now.saturating_sub(m.touched) < quiet {
                continue;
            }
            let pods = self.state.on(name);
            if pods.iter().any(|p| matches!(p.owner, Owner::Job { kept: true, .. })) {
                continue;
            }
            all.push(Candidate {
                node: name.clone(),
                pool: self.market.name.clone(),
                usd_per_hour: m.usd_per_hour,
                disruption: pods.len() as f64,
                pods: pods.iter().map(|p| p.spec.clone()).collect(),
            });
        }
        all
    }

    fn allowed(&self, reason: &str, now: u64) -> usize {
        let ready = self.state.machines.values().filter(|m| m.ready_at <= now);
        let total = ready.clone().count();
        let going = ready.filter(|m| m.going).count();
        let at =
            Timestamp::from_second(START + i64::try_from(now).unwrap_or(0)).unwrap_or_default();
        budget::allowed(&self.settings.budgets, reason, total, going, at)
    }

    fn give_up_empty(&mut self, now: u64) {
        let allowed = self.allowed("Empty", now);
        for name in consolidate::empty(&self.candidates(now), |_| allowed) {
            self.report.emptied += 1;
            self.state.remove(&name, now);
        }
    }

    fn consolidate(&mut self, now: u64) {
        if self.running.is_some() || !self.state.pending.is_empty() {
            return;
        }
        let budget = self.allowed("Underutilized", now);
        let mut all = self.candidates(now);
        all.retain(|c| !c.pods.is_empty());
        // What wastes most, for a search that is quick.
        let waste = |c: &Candidate| {
            let fill =
                self.state.snapshot.node(&c.node).map_or(0.0, coracle_scheduling::Node::fill);
            c.usd_per_hour * (1.0 - fill)
        };
        all.sort_by(|a, b| waste(b).total_cmp(&waste(a)).then_with(|| a.node.cmp(&b.node)));
        all.truncate(self.settings.candidates);
        let pools = std::slice::from_ref(&self.market);
        let terms = Terms { budget, ..Terms::default() };
        self.report.searches += 1;
        let found =
            consolidate::search(&self.state.snapshot, &all, pools, &self.state.daemons, |_| terms);
        if let Some(command) = found {
            self.begin(&command, now);
        }
    }

    fn begin(&mut self, command: &Command, now: u64) {
        let launched = command.plan.new_nodes.iter().filter_map(|n| self.launch(n, now)).count();
        if launched < command.plan.new_nodes.len() {
            return;
        }
        command.remove.iter().for_each(|n| self.state.cordon(n));
        let boot = if launched > 0 { self.settings.boot_seconds } else { 0 };
        self.running = Some(Running { remove: command.remove.clone(), ready_at: now + boot });
    }

    fn sample(&mut self, now: u64, usd_per_hour: f64) {
        let specs: Vec<&PodSpec> = self.state.pods.values().map(|p| &*p.spec).collect();
        let bound = pack::volume_bound(std::slice::from_ref(&self.market), &specs);
        let spot = self.state.machines.values().filter(|m| m.capacity_type == "spot").count();
        self.report.samples.push(Sample {
            second: now,
            nodes: self.state.machines.len(),
            spot,
            pods: self.state.pods.len(),
            pending: self.state.pending.len(),
            usd_per_hour,
            bound_usd_per_hour: bound,
        });
        self.report.bound_usd += bound * SAMPLE as f64 / 3600.0;
    }

    fn finish(mut self) -> Report {
        for p in self.state.pods.values() {
            *self.state.moved.entry(p.disruptions).or_default() += 1;
        }
        self.report.ideals = ideals(&self.moments, &self.state.daemons);
        self.report.waited = percentiles(&mut self.state.waited);
        self.report.waited_again = percentiles(&mut self.state.waited_again);
        self.report.moved = self.state.moved;
        self.report
    }
}
