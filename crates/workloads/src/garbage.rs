//! The garbage collector's graph: who owns whom, and what to do with an object whose owners are
//! gone or going.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// An owner as a dependent names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// UID of the owner.
    pub uid: String,
    /// The owner waits for this dependent in a foreground deletion.
    pub blocks: bool,
}

/// An object, as far as garbage collection looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Where it is: `group/version`, plural; one for all objects of a kind.
    pub resource: Arc<(String, String)>,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Owners.
    pub owners: Vec<Owner>,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Delete it; its own dependents follow in the background or go first.
    Delete {
        /// `Background` or `Foreground`.
        propagation: &'static str,
    },
    /// Forget owners that are gone, because others are still there.
    DropOwners(Vec<String>),
    /// Its dependents are orphaned: take it from their owners, then take the finalizer off.
    OrphanDependents(Vec<String>),
    /// Everything that it waited for is gone: take this finalizer off.
    Finish(&'static str),
}

/// Finalizer of orphaning deletions.
pub const ORPHAN: &str = "orphan";
/// Finalizer of foreground deletions.
pub const FOREGROUND: &str = "foregroundDeletion";

/// All objects and their dependents.
#[derive(Debug, Default)]
pub struct Graph {
    items: BTreeMap<String, Item>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Adds or changes an object. Returns the UIDs that need a look.
    pub fn set(&mut self, item: Item) -> Vec<String> {
        let mut look = vec![item.uid.clone()];
        if let Some(old) = self.items.get(&item.uid) {
            for o in &old.owners {
                if let Some(d) = self.dependents.get_mut(&o.uid) {
                    d.remove(&item.uid);
                }
                look.push(o.uid.clone());
            }
        }
        for o in &item.owners {
            self.dependents.entry(o.uid.clone()).or_default().insert(item.uid.clone());
        }
        if item.deleting {
            look.extend(self.dependents.get(&item.uid).into_iter().flatten().cloned());
        }
        self.items.insert(item.uid.clone(), item);
        look
    }

    /// Removes an object. Returns the UIDs that need a look.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.remove(uid) else { return vec![] };
        let mut look: Vec<String> =
            self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for o in &item.owners {
            if let Some(d) = self.dependents.get_mut(&o.uid) {
                d.remove(uid);
                if d.is_empty() {
                    self.dependents.remove(&o.uid);
                }
            }
            look.push(o.uid.clone());
        }
        look
    }

    /// Objects with an owner of a group and version that is not here: once all objects of that are
    /// known, such an owner is gone, or about to be heard of.
    pub fn unresolved(&self, api_version: &str) -> Vec<String> {
        let lost = |o: &Owner| o.api_version == api_version && !self.items.contains_key(&o.uid);
        let items = self.items.values().filter(|i| i.owners.iter().any(lost));
        items.map(|i| i.uid.clone()).collect()
    }

    /// An object.
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// Objects that name an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Item> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.items.get(d))
    }

    /// What to do with an object. `exists` tells whether an owner that the graph does not know is
    /// there after all.
    pub fn verdict(&self, uid: &str, exists: impl Fn(&Owner, &str) -> bool) -> Verdict {
        let Some(item) = self.items.get(uid) else { return Verdict::Keep };
        if item.deleting {
            return self.deleting_verdict(item);
        }
        if item.owners.is_empty() {
            return Verdict::Keep;
        }
        let (mut solid, mut waiting, mut gone) = (0, 0, Vec::new());
        for o in &item.owners {
            match self.items.get(&o.uid) {
                // An owner in another namespace is none.
                Some(owner) if !owner.namespace.is_empty() && owner.namespace != item.namespace => {
                    gone.push(o.uid.clone())
                }
                Some(owner)
                    if owner.deleting && owner.finalizers.iter().any(|f| f == FOREGROUND) =>
                {
                    waiting += 1
                }
                Some(_) => solid += 1,
                None if exists(o, &item.namespace) => solid += 1,
                None => gone.push(o.uid.clone()),
            }
        }
        if solid > 0 {
            return if gone.is_empty() { Verdict::Keep } else { Verdict::DropOwners(gone) };
        }
        let propagation = if waiting > 0 && self.dependents(uid).next().is_some() {
            "Foreground"
        } else {
            "Background"
        };
        Verdict::Delete { propagation }
    }

    fn deleting_verdict(&self, item: &Item) -> Verdict {
        let has = |f: &str| item.finalizers.iter().any(|x| x == f);
        if has(ORPHAN) {
            let dependents: Vec<String> =
                self.dependents(&item.uid).map(|d| d.uid.clone()).collect();
            return if dependents.is_empty() {
                Verdict::Finish(ORPHAN)
            } else {
                Verdict::OrphanDependents(dependents)
            };
        }
        if has(FOREGROUND) {
            let blocking = self
                .dependents(&item.uid)
                .any(|d| d.owners.iter().any(|o| o.uid == item.uid && o.blocks));
            return if blocking { Verdict::Keep } else { Verdict::Finish(FOREGROUND) };
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(uid: &str, owners: &[&str]) -> Item {
        let owner = |u: &&str| Owner {
            api_version: "v1".into(),
            kind: "X".into(),
            name: (*u).into(),
            uid: (*u).into(),
            blocks: true,
        };
        Item {
            uid: uid.into(),
            name: uid.into(),
            owners: owners.iter().map(owner).collect(),
            ..Item::default()
        }
    }

    #[test]
    fn owners_that_were_never_seen_are_looked_for() {
        let mut g = Graph::default();
        g.set(item("b", &["a"]));
        assert_eq!(g.unresolved("v1"), ["b"]);
        assert!(g.unresolved("apps/v1").is_empty());
        g.set(item("a", &[]));
        assert!(g.unresolved("v1").is_empty());
    }

    #[test]
    fn dependents_follow_their_owners() {
        let mut g = Graph::default();
        g.set(item("a", &[]));
        g.set(item("b", &["a"]));
        assert_eq!(g.verdict("b", |_, _| false), Verdict::Keep);
        assert_eq!(g.remove("a"), ["b"]);
        assert_eq!(g.verdict("b", |_, _| true), Verdict::Keep);
        assert_eq!(g.verdict("b", |_, _| false), Verdict::Delete { propagation: "Background" });
        g.set(item("c", &[]));
        g.set(item("b", &["a", "c"]));
        assert_eq!(g.verdict("b", |_, _| false), Verdict::DropOwners(vec!["a".into()]));
    }

    #[test]
    fn foreground_waits_and_orphaning_lets_go() {
        let mut g = Graph::default();
        g.set(item("b", &["a"]));
        g.set(Item { deleting: true, finalizers: vec![FOREGROUND.into()], ..item("a", &[]) });
        assert_eq!(g.verdict("a", |_, _| false), Verdict::Keep);
        assert_eq!(g.verdict("b", |_, _| false), Verdict::Delete { propagation: "Background" });
        g.remove("b");
        assert_eq!(g.verdict("a", |_, _| false), Verdict::Finish(FOREGROUND));
        g.set(item("b", &["a"]));
        g.set(Item { deleting: true, finalizers: vec![ORPHAN.into()], ..item("a", &[]) });
        assert_eq!(g.verdict("a", |_, _| false), Verdict::OrphanDependents(vec!["b".into()]));
        g.set(item("b", &[]));
        assert_eq!(g.verdict("a", |_, _| false), Verdict::Finish(ORPHAN));
    }
}
