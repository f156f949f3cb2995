//! A map from names to places that clones share: each clone keeps what it changed since on top, so that
//! a what-if costs what it changes.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc};

#[derive(Clone, Debug)]
pub(super) struct Layered<K> {
    base: Arc<HashMap<K, usize>>,
    /// What differs from the base; `None` for what is gone.
    changed: HashMap<K, Option<usize>>,
}

impl<K> Default for Layered<K> {
    fn default() -> Self {
        Self { base: Arc::default(), changed: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Layered<K> {
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        match self.changed.get(key) {
            Some(changed) => *changed,
            None => self.base.get(key).copied(),
        }
    }

    pub(super) fn insert(&mut self, key: K, place: usize) {
        self.change(key, Some(place));
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized + ToOwned<Owned = K>>(
        &mut self,
        key: &Q,
    ) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        let was = self.get(key)?;
        self.change(key.to_owned(), None);
        Some(was)
    }

    fn change(&mut self, key: K, place: Option<usize>) {
        // Nobody else looks at the base, or so much differs that a copy of it pays.
        if self.changed.len() > self.base.len() / 4 + 64 {
            Arc::make_mut(&mut self.base);
        }
        let Some(base) = Arc::get_mut(&mut self.base) else {
            self.changed.insert(key, place);
            return;
        };
        for (key, place) in self.changed.drain().chain([(key, place)]) {
            match place {
                Some(place) => drop(base.insert(key, place)),
                None => drop(base.remove(&key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A clone and its origin go on as two maps of their own.
        #[test]
        fn clones_do_not_see_each_other(
            steps in proptest::collection::vec((proptest::bool::ANY, 0u8..40, proptest::option::of(0usize..9)), 0..400),
            split in 0usize..200,
        ) {
            let mut maps = [Layered::<String>::default(), Layered::default()];
            let mut plain = [HashMap::<String, usize>::new(), HashMap::new()];
            for (n, (which, key, place)) in steps.into_iter().enumerate() {
                if n == split {
                    maps[1] = maps[0].clone();
                    plain[1] = plain[0].clone();
                }
                let i = usize::from(which && n >= split);
                let key = format!("k{key}");
                match place {
                    Some(p) => {
                        maps[i].insert(key.clone(), p);
                        plain[i].insert(key, p);
                    }
                    None => prop_assert_eq!(maps[i].remove(key.as_str()), plain[i].remove(&key)),
                }
                for k in 0..40 {
                    let k = format!("k{k}");
                    for i in 0..2 {
                        prop_assert_eq!(maps[i].get(k.as_str()), plain[i].get(&k).copied());
                    }
                }
            }
        }
    }
}
