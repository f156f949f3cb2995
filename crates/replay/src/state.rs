//! The cluster of a replay: nodes with what they cost, pods with where they are and why they wait.

use coracle_provisioning::{
    NewNode, Pool, PoolType,
    offering::{CAPACITY_TYPE, HOSTNAME, INSTANCE_TYPE, POOL, ZONE},
};
use coracle_scheduling::{Node, PodSpec, Profile, Snapshot, pod::PodKey};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Seconds from binding to running.
const POD_START: u64 = 2;

/// A machine.
pub(crate) struct Machine {
    pub(crate) ty: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) capacity_type: &'static str,
    pub(crate) usd_per_hour: f64,
    /// When its node takes part.
    pub(crate) ready_at: u64,
    /// When a pod last came or went.
    pub(crate) touched: u64,
    /// It goes: no pods come any more.
    pub(crate) going: bool,
}

/// Whose a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The service of this number.
    Service(usize),
    /// A job whose pods run for some seconds.
    Job { seconds: u64, kept: bool },
}

/// A pod.
pub(crate) struct PodState {
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) owner: Owner,
    /// Since when it waits, or waited.
    pub(crate) since: u64,
    /// It waits because its node went.
    pub(crate) moved: bool,
    pub(crate) node: Option<String>,
    /// When a job's pod that runs ends.
    ends: Option<u64>,
    pub(crate) disruptions: u32,
}

/// The cluster.
pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) pods: BTreeMap<u64, PodState>,
    pub(crate) pending: BTreeSet<u64>,
    by_key: HashMap<PodKey, u64>,
    /// When pods of jobs end.
    pub(crate) ends: BTreeSet<(u64, u64)>,
    next_pod: u64,
    next_node: u64,
    pub(crate) daemons: Vec<Arc<PodSpec>>,
    /// Seconds that pods waited for their first node, and for another.
    pub(crate) waited: Vec<u64>,
    pub(crate) waited_again: Vec<u64>,
    /// Pods that ended, by how often they were moved.
    pub(crate) moved: BTreeMap<u32, usize>,
}

impl State {
    pub(crate) fn new(zones: &[Arc<str>], daemons: Vec<Arc<PodSpec>>) -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.set_domains(BTreeMap::from([(ZONE.into(), zones.to_vec())]));
        Self {
            snapshot,
            machines: BTreeMap::new(),
            pods: BTreeMap::new(),
            pending: BTreeSet::new(),
            by_key: HashMap::new(),
            ends: BTreeSet::new(),
            next_pod: 0,
            next_node: 0,
            daemons,
            waited: Vec::new(),
            waited_again: Vec::new(),
            moved: BTreeMap::new(),
        }
    }

    /// A pod comes.
    pub(crate) fn create(&mut self, like: &Arc<PodSpec>, owner: Owner, now: u64) -> u64 {
        let id = self.next_pod;
        self.next_pod += 1;
        let mut spec = (**like).clone();
        spec.key.name = format!("{}-{id}", like.key.name);
        self.by_key.insert(spec.key.clone(), id);
        let spec = Arc::new(spec);
        self.pods.insert(
            id,
            PodState {
                spec,
                owner,
                since: now,
                moved: false,
                node: None,
                ends: None,
                disruptions: 0,
            },
        );
        self.pending.insert(id);
        id
    }

    /// A pod ends.
    pub(crate) fn delete(&mut self, id: u64, now: u64) {
        let Some(p) = self.pods.remove(&id) else { return };
        self.pending.remove(&id);
        self.by_key.remove(&p.spec.key);
        *self.moved.entry(p.disruptions).or_default() += 1;
        if let Some(node) = p.node {
            self.snapshot.remove_pod(&p.spec.key);
            self.touch(&node, now);
        }
    }

    fn touch(&mut self, node: &str, now: u64) {
        if let Some(m) = self.machines.get_mut(node) {
            m.touched = now;
        }
    }

    /// A pod gets a node.
    pub(crate) fn bind(&mut self, key: &PodKey, node: &str, now: u64) {
        let (Some(id), Some(machine)) = (self.by_key.get(key).copied(), self.machines.get(node))
        else {
            return;
        };
        let starts = machine.ready_at.max(now) + POD_START;
        let Some(p) = self.pods.get_mut(&id) else { return };
        let waited = starts - p.since;
        if p.moved {
            self.waited_again.push(waited)
        } else {
            self.waited.push(waited)
        }
        p.node = Some(node.to_owned());
        self.snapshot.add_pod(p.spec.clone(), node);
        if let Owner::Job { seconds, .. } = p.owner {
            p.ends = Some(starts + seconds);
            self.ends.insert((starts + seconds, id));
        }
        self.pending.remove(&id);
        self.touch(node, now);
    }

    /// What waits and fits a node gets it. Returns what is left.
    pub(crate) fn schedule(&mut self, now: u64) -> Vec<Arc<PodSpec>> {
        let mut refused: HashSet<u64> = HashSet::new();
        let waiting: Vec<Arc<PodSpec>> =
            self.pending.iter().map(|id| self.pods[id].spec.clone()).collect();
        let mut left = Vec::new();
        for p in waiting {
            let known = refused.contains(&p.class_id) && !p.is_topology_bound();
            match if known { None } else { self.snapshot.schedule(&p, Profile::Pack).ok() } {
                Some(node) => self.bind(&p.key, &node, now),
                None => {
                    refused.insert(p.class_id);
                    left.push(p);
                }
            }
        }
        left
    }

    /// A machine is launched: the cheapest that will do. Returns its name.
    pub(crate) fn launch(
        &mut self,
        pool: &Pool,
        new: &NewNode,
        now: u64,
        boot: u64,
    ) -> Option<String> {
        let will_do = |t: &&PoolType| new.types.contains(&t.name);
        let offers = pool.types.iter().filter(will_do).flat_map(|t| {
            let sold = t.offerings.iter().filter(|o| {
                new.zones.contains(&o.zone) && new.capacity_types.contains(o.capacity_type)
            });
            sold.map(move |o| (t, o))
        });
        let (t, o) = offers.min_by(|a, b| a.1.usd_per_hour.total_cmp(&b.1.usd_per_hour))?;
        let name = format!("node-{}", self.next_node);
        self.next_node += 1;
        let mut labels = (*t.labels).clone();
        labels.extend(pool.labels.clone());
        labels.extend([
            (POOL.to_owned(), pool.name.clone()),
            (HOSTNAME.into(), name.clone()),
            (INSTANCE_TYPE.into(), t.name.to_string()),
            (ZONE.into(), o.zone.to_string()),
            (CAPACITY_TYPE.into(), o.capacity_type.to_owned()),
        ]);
        self.snapshot.set_node(Node {
            name: name.clone(),
            labels,
            taints: pool.taints.clone(),
            allocatable: t.allocatable.clone(),
            ..Node::default()
        });
        for d in &self.daemons {
            let mut own = (**d).clone();
            own.key.name = format!("{}-{name}", d.key.name);
            self.snapshot.add_pod(Arc::new(own), &name);
        }
        let machine = Machine {
            ty: t.name.clone(),
            zone: o.zone.clone(),
            capacity_type: o.capacity_type,
            usd_per_hour: o.usd_per_hour,
            ready_at: now + boot,
            touched: now,
            going: false,
        };
        self.machines.insert(name.clone(), machine);
        Some(name)
    }

    /// No pods come to a node any more.
    pub(crate) fn cordon(&mut self, name: &str) {
        if let Some(m) = self.machines.get_mut(name) {
            m.going = true;
        }
        if let Some(node) = self.snapshot.node(name).cloned() {
            self.snapshot.set_node(Node { unschedulable: true, ..node });
        }
    }

    /// A node goes, and its pods wait for another.
    pub(crate) fn remove(&mut self, name: &str, now: u64) {
        self.machines.remove(name);
        let Some(node) = self.snapshot.remove_node(name) else { return };
        for key in node.pods.keys() {
            let Some(id) = self.by_key.get(key).copied() else { continue };
            let Some(p) = self.pods.get_mut(&id) else { continue };
            p.node = None;
            p.since = now;
            p.moved = true;
            p.disruptions += 1;
            self.pending.insert(id);
            // A job's pod begins anew.
            if let Some(at) = p.ends.take() {
                self.ends.remove(&(at, id));
            }
        }
    }

    /// Pods of services and jobs on a node.
    pub(crate) fn on(&self, name: &str) -> Vec<&PodState> {
        let node = self.snapshot.node(name);
        let keys = node.into_iter().flat_map(|n| n.pods.keys());
        keys.filter_map(|k| self.pods.get(self.by_key.get(k)?)).collect()
    }

    /// What all machines cost.
    pub(crate) fn usd_per_hour(&self) -> f64 {
        self.machines.values().map(|m| m.usd_per_hour).sum()
    }

    /// Machines get the prices of a market; one that is no longer sold keeps its last.
    pub(crate) fn reprice(&mut self, pool: &Pool) {
        let mut prices: HashMap<(&str, &str, &str), f64> = HashMap::new();
        for t in pool.types.iter() {
            prices.extend(
                t.offerings.iter().map(|o| ((&*t.name, &*o.zone, o.capacity_type), o.usd_per_hour)),
            );
        }
        for m in self.machines.values_mut() {
            if let Some(p) = prices.get(&(&*m.ty, &*m.zone, m.capacity_type)) {
                m.usd_per_hour = *p;
            }
        }
    }
}
