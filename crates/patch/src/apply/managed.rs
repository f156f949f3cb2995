//! `metadata.managedFields`: who owns which fields, and since when.

use super::field_set::FieldSet;
use serde_json::{Map, Value, json};
use std::{cmp::Ordering, collections::BTreeMap};

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// It applied a configuration: what it no longer says goes away.
    Apply,
    /// It created, updated or patched.
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who owns fields. Someone who applies has one entry whatever the version; someone who updates has
/// one for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Manager {
    /// How it came to its fields.
    pub operation: Operation,
    /// Its name.
    pub name: String,
    /// The version of its updates; empty for Apply.
    pub api_version: String,
    /// The subresource that it wrote through, or empty.
    pub subresource: String,
}

impl Manager {
    /// A manager at a version.
    pub fn new(operation: Operation, name: &str, api_version: &str, subresource: &str) -> Self {
        let api_version = match operation {
            Operation::Apply => String::new(),
            Operation::Update => api_version.to_owned(),
        };
        let (name, subresource) = (name.to_owned(), subresource.to_owned());
        Self { operation, name, api_version, subresource }
    }
}

impl std::fmt::Display for Manager {
    /// As upstream names it in conflicts.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.api_version),
        }
    }
}

/// What a manager owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// The fields.
    pub fields: FieldSet,
    /// The version that they are named at.
    pub api_version: String,
    /// When they were last changed, RFC 3339.
    pub time: Option<String>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed(pub BTreeMap<Manager, Owned>);

/// Most entries of updates; the oldest are merged into one beyond that.
const MAX_UPDATERS: usize = 10;
/// The name of the merged entry.
const ANCIENT: &str = "ancient-changes";

impl Managed {
    /// From `metadata.managedFields`.
    ///
    /// # Errors
    /// Names what is wrong with an entry.
    pub fn read(entries: &Value) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (i, e) in entries.as_array().into_iter().flatten().enumerate() {
            let bad = |what: &str| format!("metadata.managedFields[{i}]: {what}");
            let text = |f: &str| e[f].as_str().unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                other => return Err(bad(&format!("invalid operation {other:?}"))),
            };
            if !matches!(text("fieldsType"), "FieldsV1") {
                return Err(bad("fieldsType must be `FieldsV1`"));
            }
            let fields = match &e["fieldsV1"] {
                Value::Null => FieldSet::default(),
                v => FieldSet::from_json(v).ok_or_else(|| bad("fieldsV1 is malformed"))?,
            };
            let manager =
                Manager::new(operation, text("manager"), text("apiVersion"), text("subresource"));
            let owned = Owned {
                fields,
                api_version: text("apiVersion").to_owned(),
                time: e["time"].as_str().map(str::to_owned),
            };
            all.insert(manager, owned);
        }
        Ok(Self(all))
    }

    /// As `metadata.managedFields`, in upstream's order; null when there is none.
    pub fn write(&self) -> Value {
        let mut entries: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let rest = |m: &'_ Manager, o: &'_ Owned| {
                (m.name.clone(), o.api_version.clone(), m.subresource.clone())
            };
            (a.operation, &x.time)
                .cmp(&(b.operation, &y.time))
                .then_with(|| rest(a, x).cmp(&rest(b, y)))
        });
        let entry = |(m, o): (&Manager, &Owned)| {
            let mut e = Map::new();
            e.insert("manager".into(), json!(m.name));
            e.insert("operation".into(), json!(m.operation.text()));
            e.insert("apiVersion".into(), json!(o.api_version));
            if let Some(t) = &o.time {
                e.insert("time".into(), json!(t));
            }
            e.insert("fieldsType".into(), json!("FieldsV1"));
            e.insert("fieldsV1".into(), o.fields.to_json());
            if !m.subresource.is_empty() {
                e.insert("subresource".into(), json!(m.subresource));
            }
            Value::Object(e)
        };
        match entries.is_empty() {
            true => Value::Null,
            false => Value::Array(entries.into_iter().map(entry).collect()),
        }
    }

    /// Merges the oldest updates of a version once there are too many.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Manager)> = self
            .0
            .iter()
            .filter(|(m, _)| m.operation == Operation::Update)
            .map(|(m, o)| (o.time.clone(), m.clone()))
            .collect();
        updaters.sort();
        let mut left = updaters.len();
        let mut first: BTreeMap<String, Manager> = BTreeMap::new();
        for (time, manager) in updaters {
            if left.cmp(&MAX_UPDATERS) != Ordering::Greater {
                return;
            }
            let version = manager.api_version.clone();
            let Some(older) = first.get(&version) else {
                first.insert(version, manager);
                continue;
            };
            let bucket = Manager::new(Operation::Update, ANCIENT, &version, "");
            if !self.0.contains_key(&bucket) {
                if let Some(owned) = self.0.remove(older) {
                    self.0.insert(bucket.clone(), owned);
                }
            }
            let Some(owned) = self.0.remove(&manager) else { continue };
            let ancient = self.0.entry(bucket).or_default();
            ancient.fields = std::mem::take(&mut ancient.fields).union(&owned.fields);
            ancient.api_version = version;
            ancient.time = time;
            left -= 1;
        }
    }
}
