//! Pods that wait for a place in a filling: zones are chosen for fillings, and pods drawn for nodes so
//! that no rule about the names of nodes keeps them apart.

use super::{cover::Filled, demand::Class};
use crate::offering::HOSTNAME;
use coracle_scheduling::{PodSpec, Snapshot};
use std::sync::Arc;

/// Pods of one item that are looked at for one that no rule keeps from a node.
const DRAWS: usize = 64;

/// A filling that a node is made of, in some of these zones.
pub(super) struct Choice {
    pub(super) bin: usize,
    pub(super) zones: u64,
    pub(super) counts: Vec<(usize, usize)>,
}

/// Pods that are not drawn yet.
pub(super) struct Stock {
    pub(super) classes: Vec<Class>,
    /// Classes of each item.
    of_item: Vec<Vec<usize>>,
}

impl Stock {
    pub(super) fn new(classes: Vec<Class>, of_class: &[usize], items: usize) -> Self {
        let mut of_item = vec![Vec::new(); items];
        for (c, i) in of_class.iter().enumerate() {
            of_item[*i].push(c);
        }
        // Pods with the fewest zones are drawn first.
        for list in &mut of_item {
            list.sort_by_key(|c| classes[*c].zones.count_ones());
        }
        Self { classes, of_item }
    }

    /// Zones for the fillings: those that pods are bound to are used up one after the other, so that
    /// pods without such a rule fill what is left.
    pub(super) fn deal(
        &self,
        zones: usize,
        sold_in: impl Fn(usize) -> u64,
        filled: Vec<(Filled, usize)>,
    ) -> Vec<Choice> {
        // Pods of each item that must go to a zone, and that may.
        let mut must = vec![vec![0_usize; self.of_item.len()]; zones];
        let mut may = vec![vec![0_usize; self.of_item.len()]; zones];
        for (item, list) in self.of_item.iter().enumerate() {
            for c in list.iter().map(|c| &self.classes[*c]) {
                for z in (0..zones).filter(|z| c.zones & (1 << z) != 0) {
                    let kind = if c.zones.count_ones() == 1 { &mut must } else { &mut may };
                    kind[z][item] += c.pods.len();
                }
            }
        }
        let mut order: Vec<usize> = (0..zones).collect();
        let total = |z: &usize| must[*z].iter().sum::<usize>();
        order.sort_by_key(|z| (total(z), *z));
        let mut filled = filled;
        let mut out = Vec::new();
        for z in order {
            loop {
                let score = |f: &Filled| {
                    let all: usize = f.counts.iter().map(|(_, n)| n).sum();
                    let here: usize = f.counts.iter().map(|(i, n)| (*n).min(must[z][*i])).sum();
                    let fits = f.counts.iter().all(|(i, n)| must[z][*i] + may[z][*i] >= *n);
                    if fits { here * 1000 / all.max(1) } else { 0 }
                };
                let sold = |f: &Filled| sold_in(f.bin) & (1 << z) != 0;
                let best = filled
                    .iter()
                    .enumerate()
                    .filter(|(_, (f, copies))| *copies > 0 && sold(f))
                    .map(|(k, (f, _))| (score(f), k))
                    .max_by_key(|(s, k)| (*s, std::cmp::Reverse(*k)));
                let Some((_, k)) = best.filter(|(s, _)| *s > 0) else { break };
                filled[k].1 -= 1;
                let counts = filled[k].0.counts.clone();
                for (i, n) in &counts {
                    let bound = (*n).min(must[z][*i]);
                    must[z][*i] -= bound;
                    for all in &mut may {
                        all[*i] = all[*i].saturating_sub(n - bound);
                    }
                }
                out.push(Choice { bin: filled[k].0.bin, zones: 1 << z, counts });
            }
        }
        for (f, copies) in filled {
            let counts = f.counts;
            out.extend((0..copies).map(|_| Choice {
                bin: f.bin,
                zones: u64::MAX,
                counts: counts.clone(),
            }));
        }
        out
    }

    /// Takes pods for a node in a zone.
    pub(super) fn draw(
        &mut self,
        snapshot: &Snapshot,
        zone: u64,
        counts: &[(usize, usize)],
    ) -> Vec<(usize, usize, Arc<PodSpec>)> {
        let mut drawn: Vec<(usize, usize, Arc<PodSpec>)> = Vec::new();
        for (item, n) in counts {
            let mut wanted = *n;
            // A second look takes what rules may keep away: the binding tells.
            for picky in [true, false] {
                let mut looked = 0;
                for k in 0..self.of_item[*item].len() {
                    let c = self.of_item[*item][k];
                    let class = &mut self.classes[c];
                    if class.zones & zone == 0 {
                        continue;
                    }
                    while wanted > 0 {
                        let Some((turn, p)) = class.pods.last() else { break };
                        looked += usize::from(picky);
                        if picky && looked < DRAWS && collides(snapshot, *turn, p, &drawn) {
                            break;
                        }
                        let Some((turn, p)) = class.pods.pop() else { break };
                        drawn.push((turn, c, p));
                        wanted -= 1;
                    }
                }
            }
        }
        drawn
    }

    pub(super) fn rest(&self) -> Vec<Arc<PodSpec>> {
        self.classes.iter().flat_map(|c| c.pods.iter().map(|(_, p)| p.clone())).collect()
    }
}

/// Whether rules about nodes' names keep a pod from the pods of a new node.
fn collides(
    s: &Snapshot,
    turn: usize,
    p: &PodSpec,
    drawn: &[(usize, usize, Arc<PodSpec>)],
) -> bool {
    let others = || drawn.iter().map(|(_, _, q)| &**q);
    // Pods with rules are bound before those without.
    let early = |turn: usize, q: &PodSpec| turn != usize::MAX || rules_about_names(q);
    let repels = |a: &PodSpec, b: &PodSpec| {
        a.anti_affinity.iter().any(|t| &*t.key == HOSTNAME && s.selects(&t.pods, b))
    };
    let crowded = |a: &PodSpec, with: Option<&PodSpec>| {
        let mut own = a.spread.iter().filter(|r| r.required && &*r.key == HOSTNAME);
        own.any(|r| {
            let counts =
                |t: usize, q: &PodSpec| q.key != a.key && early(t, q) && s.selects(&r.pods, q);
            let before = drawn.iter().filter(|(t, _, q)| counts(*t, q)).count()
                + usize::from(with.is_some_and(|q| counts(turn, q)));
            before as i64 + i64::from(s.selects(&r.pods, a)) > r.max_skew
        })
    };
    let ruled = rules_about_names(p);
    others().any(|q| (ruled && repels(p, q)) || (rules_about_names(q) && repels(q, p)))
        || (ruled && (crowded(p, None) || others().any(|q| crowded(q, Some(p)))))
}

/// Whether a pod has rules about which other pods its node may have.
pub(super) fn rules_about_names(p: &PodSpec) -> bool {
    p.spread.iter().any(|s| s.required && &*s.key == HOSTNAME)
        || p.affinity.iter().chain(&p.anti_affinity).any(|a| &*a.key == HOSTNAME)
}
