//! A work queue: a key waits once, is worked on by one worker at a time, and comes back after
//! failures with growing delays.

use crate::{Stop, stopped};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::Future,
    hash::Hash,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

/// First and longest delay after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));

struct Inner<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    working: HashSet<K>,
    again: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

/// Keys of objects to look at.
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    wake: Notify,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Queue<K> {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        let inner = Inner {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        };
        Arc::new(Self { inner: Mutex::new(inner), wake: Notify::new() })
    }

    /// Adds a key, unless it waits already.
    pub fn add(&self, k: K) {
        self.inner.lock().add(k);
        self.wake.notify_one();
    }

    /// Adds a key after a delay. The earliest of several delays counts.
    pub fn add_after(&self, k: K, delay: Duration) {
        let at = Instant::now() + delay;
        let mut inner = self.inner.lock();
        if let Some(due) = inner.due.get(&k).copied() {
            if due.0 <= at {
                return;
            }
            inner.delayed.remove(&due);
        }
        inner.sequence += 1;
        let place = (at, inner.sequence);
        inner.delayed.insert(place, k.clone());
        inner.due.insert(k, place);
        drop(inner);
        self.wake.notify_one();
    }

    async fn next(&self) -> K {
        loop {
            let wait = {
                let mut inner = self.inner.lock();
                inner.promote(Instant::now());
                if let Some(k) = inner.ready.pop_front() {
                    inner.waiting.remove(&k);
                    inner.working.insert(k.clone());
                    if !inner.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return k;
                }
                inner.delayed.keys().next().map(|(at, _)| *at)
            };
            match wait {
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    fn done(&self, k: &K, failed: bool) {
        let mut inner = self.inner.lock();
        inner.working.remove(k);
        let delay = if failed {
            let n = inner.failures.entry(k.clone()).or_default();
            *n += 1;
            Some((BACKOFF.0 * 2u32.saturating_pow((*n - 1).min(16))).min(BACKOFF.1))
        } else {
            inner.failures.remove(k);
            None
        };
        if inner.again.remove(k) && !failed {
            inner.add(k.clone());
        }
        drop(inner);
        if let Some(d) = delay {
            self.add_after(k.clone(), d);
        }
        self.wake.notify_one();
    }

    /// Works on keys until it is time to stop. `work` returns when to look at the key again, or an
    /// error that is logged and tried again.
    pub fn work<F, W>(
        self: &Arc<Self>,
        name: &'static str,
        workers: usize,
        stop: &Stop,
        tasks: &mut JoinSet<()>,
        work: W,
    ) where
        W: Fn(K) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Option<Duration>, crate::api::Error>> + Send,
        K: std::fmt::Debug,
    {
        let work = Arc::new(work);
        for _ in 0..workers {
            let (queue, work, mut stop) = (self.clone(), work.clone(), stop.clone());
            tasks.spawn(async move {
                loop {
                    let k = tokio::select! {
                        () = stopped(&mut stop) => return,
                        k = queue.next() => k,
                    };
                    let result = tokio::select! {
                        () = stopped(&mut stop) => return,
                        r = work(k.clone()) => r,
                    };
                    match result {
                        Ok(again) => {
                            queue.done(&k, false);
                            if let Some(d) = again {
                                queue.add_after(k, d);
                            }
                        }
                        Err(error) => {
                            if error.is_conflict() {
                                tracing::debug!(part = name, key = ?k, %error, "trying again");
                            } else {
                                tracing::warn!(part = name, key = ?k, %error, "trying again");
                            }
                            queue.done(&k, true);
                        }
                    }
                }
            });
        }
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn add(&mut self, k: K) {
        if self.working.contains(&k) {
            self.again.insert(k);
        } else if self.waiting.insert(k.clone()) {
            self.ready.push_back(k);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some((place, _)) =
            self.delayed.first_key_value().filter(|((at, _), _)| *at <= now)
        {
            let place = *place;
            if let Some(k) = self.delayed.remove(&place) {
                self.due.remove(&k);
                self.add(k);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_wait_once_and_come_back_when_they_changed_meanwhile() {
        let q = Queue::new();
        q.add("a");
        q.add("a");
        assert_eq!(q.next().await, "a");
        q.add("a");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), q.next()).await.is_err(),
            "one worker a key"
        );
        q.done(&"a", false);
        assert_eq!(q.next().await, "a");
        q.done(&"a", false);
        assert!(tokio::time::timeout(Duration::from_secs(1), q.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_and_later() {
        let q = Queue::new();
        let start = Instant::now();
        q.add("a");
        let mut times = Vec::new();
        for _ in 0..4 {
            q.next().await;
            times.push(start.elapsed().as_millis());
            q.done(&"a", true);
        }
        assert_eq!(times, [0, 20, 60, 140]);
        q.add_after("b", Duration::from_secs(9));
        q.add_after("b", Duration::from_millis(1));
        assert_eq!(q.next().await, "b");
    }
}
