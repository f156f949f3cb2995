//! A record of what writers, lists and watches saw, and the proof that they saw one history.
//!
//! What is proved of a record: no two writes have one revision; every write fits the state that the
//! writes before it left; every list is the state at its revision; every watch got each event after
//! its start up to its progress, once, in order, and nothing else, as its selection sees it.

use parking_lot::Mutex;
use std::collections::BTreeMap;

/// An acknowledged write of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its revision.
    pub revision: u64,
    /// The object's name.
    pub name: String,
    /// The object after it; `None` for a deletion.
    pub object: Option<Object>,
}

/// As much of an object as is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Unique to the write.
    pub value: u64,
    /// Whether selections select it.
    pub selected: bool,
}

/// A list.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The revision that it says it is at.
    pub revision: u64,
    /// How it was asked for, to name it in an error.
    pub how: String,
    /// Whether it asked for selected objects only.
    pub selects: bool,
    /// Values by name.
    pub items: BTreeMap<String, u64>,
}

/// What an event says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It came, or came into the selection.
    Added,
    /// It changed.
    Modified,
    /// It went, or went out of the selection.
    Deleted,
}

/// An event as a watch got it. The value of a deletion is the last one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Revision.
    pub revision: u64,
    /// What happened.
    pub kind: Kind,
    /// To which object.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// A watch from its start to its end.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Events after this revision were asked for.
    pub after: u64,
    /// All events up to this revision should have come.
    pub until: u64,
    /// Whether it asked for selected objects only.
    pub selects: bool,
    /// What came.
    pub events: Vec<Event>,
}

/// A record that many tasks add to.
#[derive(Debug, Default)]
pub struct History {
    writes: Mutex<Vec<Write>>,
    lists: Mutex<Vec<Listing>>,
    watches: Mutex<Vec<Watch>>,
}

/// How much was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proved {
    /// Writes.
    pub writes: usize,
    /// Lists.
    pub lists: usize,
    /// Watches.
    pub watches: usize,
    /// Events of all watches.
    pub events: usize,
}

impl History {
    /// Adds a write.
    pub fn write(&self, w: Write) {
        self.writes.lock().push(w);
    }

    /// Adds a list.
    pub fn list(&self, l: Listing) {
        self.lists.lock().push(l);
    }

    /// Adds a watch.
    pub fn watch(&self, w: Watch) {
        self.watches.lock().push(w);
    }

    /// Proves the record, or says what is wrong with it.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<Proved, String> {
        let mut writes = self.writes.lock().clone();
        let (mut lists, watches) = (self.lists.lock().clone(), self.watches.lock().clone());
        writes.sort_by_key(|w| w.revision);
        lists.sort_by_key(|l| l.revision);
        let before = sweep(&writes, &lists)?;
        for w in &watches {
            check_watch(&writes, &before, w)?;
        }
        let events = watches.iter().map(|w| w.events.len()).sum();
        Ok(Proved { writes: writes.len(), lists: lists.len(), watches: watches.len(), events })
    }
}

/// Goes through all writes in order. Returns each write's object before it.
fn sweep(writes: &[Write], lists: &[Listing]) -> Result<Vec<Option<Object>>, String> {
    let mut state: BTreeMap<&str, Object> = BTreeMap::new();
    let mut before = Vec::with_capacity(writes.len());
    let mut lists = lists.iter().peekable();
    let mut last = 0;
    for w in writes {
        if w.revision <= last {
            return Err(format!("revision {} was given twice", w.revision));
        }
        last = w.revision;
        while let Some(l) = lists.next_if(|l| l.revision < w.revision) {
            check_list(&state, l)?;
        }
        let old = match w.object {
            Some(o) => state.insert(&w.name, o),
            None => match state.remove(&*w.name) {
                Some(old) => Some(old),
                None => return Err(format!("{} was deleted twice at {}", w.name, w.revision)),
            },
        };
        before.push(old);
    }
    lists.try_for_each(|l| check_list(&state, l))?;
    Ok(before)
}

fn check_list(state: &BTreeMap<&str, Object>, l: &Listing) -> Result<(), String> {
    let want: BTreeMap<&str, u64> = state
        .iter()
        .filter(|(_, o)| !l.selects || o.selected)
        .map(|(name, o)| (*name, o.value))
        .collect();
    let got: BTreeMap<&str, u64> = l.items.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    if got == want {
        return Ok(());
    }
    let differs = want
        .iter()
        .find(|(n, v)| got.get(*n) != Some(v))
        .or_else(|| got.iter().find(|(n, v)| want.get(*n) != Some(v)));
    Err(format!(
        "the list at {} ({}) is not the state then: see {differs:?}; it has {} of {}",
        l.revision,
        l.how,
        got.len(),
        want.len()
    ))
}

fn check_watch(writes: &[Write], before: &[Option<Object>], w: &Watch) -> Result<(), String> {
    let from = writes.partition_point(|x| x.revision <= w.after);
    let to = writes.partition_point(|x| x.revision <= w.until);
    let mut got = w.events.iter();
    for (write, old) in writes[from..to].iter().zip(&before[from..to]) {
        let seen = |o: &Option<Object>| o.filter(|o| !w.selects || o.selected);
        let (kind, value) = match (seen(old), seen(&write.object)) {
            (None, None) => continue,
            (None, Some(new)) => (Kind::Added, new.value),
            (Some(_), Some(new)) => (Kind::Modified, new.value),
            (Some(old), None) => (Kind::Deleted, old.value),
        };
        let want = Event { revision: write.revision, kind, name: write.name.clone(), value };
        let next = got.next();
        if next != Some(&want) {
            return Err(format!(
                "a watch from {} to {} should have seen {want:?} and saw {next:?}",
                w.after, w.until
            ));
        }
    }
    match got.next() {
        Some(e) => Err(format!("a watch from {} to {} saw {e:?} too", w.after, w.until)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let h = History::default();
        let object = |value, selected| Some(Object { value, selected });
        for (revision, name, object) in [
            (5, "a", object(1, true)),
            (7, "b", object(2, false)),
            (8, "a", object(3, false)),
            (9, "b", None),
            (12, "a", object(4, true)),
        ] {
            h.write(Write { revision, name: name.into(), object });
        }
        h
    }

    fn event(revision: u64, kind: Kind, name: &str, value: u64) -> Event {
        Event { revision, kind, name: name.into(), value }
    }

    #[test]
    fn what_is_true_is_proved() {
        let h = history();
        h.list(Listing {
            revision: 8,
            how: String::new(),
            selects: false,
            items: [("a".into(), 3), ("b".into(), 2)].into(),
        });
        h.list(Listing {
            revision: 30,
            how: String::new(),
            selects: true,
            items: [("a".into(), 4)].into(),
        });
        let events = vec![event(8, Kind::Deleted, "a", 1), event(12, Kind::Added, "a", 4)];
        h.watch(Watch { after: 5, until: 20, selects: true, events });
        let events = vec![event(9, Kind::Deleted, "b", 2)];
        h.watch(Watch { after: 8, until: 11, selects: false, events });
        let proved = Proved { writes: 5, lists: 2, watches: 2, events: 3 };
        assert_eq!(h.check(), Ok(proved));
    }

    #[test]
    fn what_is_wrong_is_found() {
        let wrong_list = |revision, items: &[(&str, u64)]| {
            let h = history();
            let items = items.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
            h.list(Listing { revision, how: String::new(), selects: false, items });
            h.check().unwrap_err()
        };
        assert!(wrong_list(8, &[("a", 3)]).contains("list at 8"));
        assert!(wrong_list(7, &[("a", 3), ("b", 2)]).contains("list at 7"));
        let wrong_watch = |events: Vec<Event>| {
            let h = history();
            h.watch(Watch { after: 7, until: 12, selects: false, events });
            h.check().unwrap_err()
        };
        let [a, b, c] =
            [(8, Kind::Modified, "a", 3), (9, Kind::Deleted, "b", 2), (12, Kind::Modified, "a", 4)]
                .map(|(r, k, n, v)| event(r, k, n, v));
        assert!(wrong_watch(vec![a.clone(), c.clone()]).contains("should have seen"), "lost");
        assert!(
            wrong_watch(vec![a.clone(), b.clone(), b.clone(), c.clone()]).contains("should"),
            "twice"
        );
        assert!(wrong_watch(vec![b.clone(), a.clone(), c.clone()]).contains("should"), "order");
        assert!(wrong_watch(vec![a, b, c.clone(), c]).contains("too"), "more");
        let h = history();
        h.write(Write { revision: 9, name: "c".into(), object: None });
        assert!(h.check().unwrap_err().contains("twice"));
    }
}
