//! Values of expressions. Data is read in place: a value borrows from the JSON that it came from, and
//! only what an expression makes is its own.

use crate::types::{Field, ListKind, Object, Schema, Shape};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_meta::time;
use jiff::Timestamp;
use serde_json::Value;
use std::{
    borrow::Cow,
    cmp::Ordering,
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

pub(crate) use crate::opaque::Opaque;

/// A value.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// True or false.
    Bool(bool),
    /// 64-bit integer.
    Int(i64),
    /// 64-bit integer without sign.
    Uint(u64),
    /// Float.
    Double(f64),
    /// Text.
    String(Cow<'a, str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map or object.
    Map(Map<'a>),
    /// A value or none.
    Optional(Option<Arc<Val<'a>>>),
    /// A type, by name.
    Type(Cow<'static, str>),
    /// A value of a library's type.
    Opaque(Opaque),
}

/// A list: of data, or made.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Items in JSON, all of a schema.
    Data(&'a [Value], &'a Schema, &'a ListKind),
    /// Items that were made.
    Made(Arc<Vec<Val<'a>>>),
}

/// A map: of data, or made.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// A map in JSON, all values of a schema.
    Data(&'a serde_json::Map<String, Value>, &'a Schema),
    /// An object in JSON.
    Object(&'a serde_json::Map<String, Value>, &'a Object),
    /// Entries that were made.
    Made(Arc<BTreeMap<Key, Val<'a>>>),
}

/// A key of a map. Integers are one, whatever their sign.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// True or false.
    Bool(bool),
    /// A number.
    Int(i128),
    /// Text.
    String(Box<str>),
}

static ANY: LazyLock<Schema> = LazyLock::new(|| Schema::of(Shape::Any));
static NOTHING: Value = Value::Null;
static NO_FIELDS: LazyLock<serde_json::Map<String, Value>> = LazyLock::new(serde_json::Map::new);

impl<'a> Val<'a> {
    /// Text.
    pub fn text(s: impl Into<Cow<'a, str>>) -> Self {
        Self::String(s.into())
    }

    /// A list of values.
    pub fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(List::Made(Arc::new(items)))
    }

    /// An optional value that is there.
    pub fn some(v: Val<'a>) -> Self {
        Self::Optional(Some(Arc::new(v)))
    }

    /// Data of a schema. What does not fit its schema is read as what it is.
    pub fn of(v: &'a Value, schema: &'a Schema) -> Self {
        match (&schema.shape, v) {
            (_, Value::Null) => Self::Null,
            (_, Value::Bool(b)) => Self::Bool(*b),
            (Shape::Double, Value::Number(n)) => Self::Double(n.as_f64().unwrap_or(0.0)),
            (_, Value::Number(n)) => match n.as_i64() {
                Some(i) => Self::Int(i),
                None => Self::Double(n.as_f64().unwrap_or(0.0)),
            },
            (Shape::Timestamp, Value::String(s)) => {
                parse_time(s).map_or_else(|| Self::text(s.as_str()), Self::Timestamp)
            }
            (Shape::Duration, Value::String(s)) => time::parse_openapi_duration(s)
                .and_then(|d| i64::try_from(d.as_nanos()).ok())
                .map_or_else(|| Self::text(s.as_str()), Self::Duration),
            (Shape::Bytes, Value::String(s)) => match STANDARD.decode(s) {
                Ok(bytes) => Self::Bytes(bytes.into()),
                Err(_) => Self::text(s.as_str()),
            },
            (_, Value::String(s)) => Self::text(s.as_str()),
            (Shape::List(items, kind), Value::Array(a)) => Self::List(List::Data(a, items, kind)),
            (_, Value::Array(a)) => Self::List(List::Data(a, &ANY, &ListKind::Atomic)),
            (Shape::Map(values), Value::Object(m)) => Self::Map(Map::Data(m, values)),
            (Shape::Object(o), Value::Object(m)) => Self::Map(Map::Object(m, o)),
            (_, Value::Object(m)) => Self::Map(Map::Data(m, &ANY)),
        }
    }

    /// What an absent field reads as where absence means zero.
    pub(crate) fn zero(schema: &'a Schema) -> Self {
        match &schema.shape {
            Shape::Any => Self::of(&NOTHING, schema),
            Shape::Bool => Self::Bool(false),
            Shape::Int => Self::Int(0),
            Shape::Double => Self::Double(0.0),
            Shape::String | Shape::Timestamp | Shape::Bytes => Self::text(""),
            Shape::Duration => Self::Duration(0),
            Shape::List(items, kind) => Self::List(List::Data(&[], items, kind)),
            Shape::Map(values) => Self::Map(Map::Data(&NO_FIELDS, values)),
            Shape::Object(o) => Self::Map(Map::Object(&NO_FIELDS, o)),
        }
    }

    /// The name of its type, as `type()` has it.
    pub fn type_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Opaque(o) => o.type_name(),
        })
    }

    /// The key that this value is in a map.
    pub fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Bool(b) => Key::Bool(*b),
            Self::Int(i) => Key::Int((*i).into()),
            Self::Uint(u) => Key::Int((*u).into()),
            Self::Double(d) if d.fract() == 0.0 && d.abs() < 1e18 => Key::Int(*d as i128),
            Self::String(s) => Key::String(s.as_ref().into()),
            _ => return None,
        })
    }

    /// Characters, bytes, items or entries; 1 for what has no size.
    pub fn size(&self) -> u64 {
        let n = match self {
            Self::String(s) => s.chars().count(),
            Self::Bytes(b) => b.len(),
            Self::List(l) => l.len(),
            Self::Map(m) => m.len(),
            Self::Optional(Some(v)) => return v.size(),
            Self::Opaque(o) => return o.size(),
            _ => 1,
        };
        n as u64
    }

    /// Whether it is the zero value of its type.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(i) => *i == 0,
            Self::Uint(u) => *u == 0,
            Self::Double(d) => *d == 0.0,
            Self::Duration(d) => *d == 0,
            Self::String(s) => s.is_empty(),
            Self::Optional(o) => o.is_none(),
            Self::List(_) | Self::Map(_) | Self::Bytes(_) => self.size() == 0,
            _ => false,
        }
    }

    fn number(&self) -> Option<Number> {
        Some(match self {
            Self::Int(i) => Number::Int((*i).into()),
            Self::Uint(u) => Number::Int((*u).into()),
            Self::Double(d) => Number::Double(*d),
            _ => return None,
        })
    }

    /// Order of two values; `None` for values that have none.
    pub(crate) fn order(&self, other: &Val<'_>) -> Option<Ordering> {
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return a.order(&b);
        }
        match (self, other) {
            (Self::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Val::String(b)) => Some(a.as_ref().cmp(b.as_ref())),
            (Self::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Equality of the language: numbers by value, lists and maps by what is in them.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return a.order(&b) == Some(Ordering::Equal);
        }
        match (self, other) {
            (Self::Null, Val::Null) => true,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::String(a), Val::String(b)) => a.as_ref() == b.as_ref(),
            (Self::Bytes(a), Val::Bytes(b)) => a == b,
            (Self::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Self::Duration(a), Val::Duration(b)) => a == b,
            (Self::List(a), Val::List(b)) => a.equals(b),
            (Self::Map(a), Val::Map(b)) => a.equals(b),
            (Self::Optional(a), Val::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Self::Type(a), Val::Type(b)) => a == b,
            (Self::Opaque(a), Val::Opaque(b)) => a == b,
            _ => false,
        }
    }

    /// The value as JSON, for what a message shows.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(d) => (*d).into(),
            Self::String(s) => s.as_ref().into(),
            Self::Bytes(b) => STANDARD.encode(b).into(),
            Self::Timestamp(t) => time::rfc3339(*t).into(),
            Self::Duration(d) => crate::library::time::duration_text(*d).into(),
            Self::List(l) => (0..l.len()).filter_map(|i| l.get(i)).map(|v| v.to_json()).collect(),
            Self::Map(m) if m.is_absent() => Value::Null,
            Self::Map(m) => {
                let pairs = m.entries().into_iter().map(|(k, v)| (k.to_string(), v.to_json()));
                Value::Object(pairs.collect())
            }
            Self::Optional(o) => o.as_ref().map_or(Value::Null, |v| v.to_json()),
            Self::Type(t) => t.as_ref().into(),
            Self::Opaque(o) => o.to_string().into(),
        }
    }
}

/// RFC 3339, or a date as the format `date` has it.
fn parse_time(s: &str) -> Option<Timestamp> {
    time::parse_rfc3339(s).or_else(|| {
        let date: jiff::civil::Date = (s.len() == 10).then(|| s.parse().ok()).flatten()?;
        date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
    })
}

enum Number {
    Int(i128),
    Double(f64),
}

impl Number {
    fn order(&self, other: &Number) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(b) => b.fmt(f),
            Self::Int(i) => i.fmt(f),
            Self::String(s) => s.fmt(f),
        }
    }
}

impl Key {
    pub(crate) fn val<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(i) => match i64::try_from(*i) {
                Ok(i) => Val::Int(i),
                Err(_) => Val::Uint(u64::try_from(*i).unwrap_or(0)),
            },
            Self::String(s) => Val::text(s.to_string()),
        }
    }
}

impl<'a> List<'a> {
    /// How many items.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(a, ..) => a.len(),
            Self::Made(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index.
    pub fn get(&self, i: usize) -> Option<Val<'a>> {
        match self {
            Self::Data(a, schema, _) => a.get(i).map(|v| Val::of(v, schema)),
            Self::Made(v) => v.get(i).cloned(),
        }
    }

    /// All items.
    pub fn items(&self) -> Vec<Val<'a>> {
        (0..self.len()).filter_map(|i| self.get(i)).collect()
    }

    pub(crate) fn kind(&self) -> &ListKind {
        match self {
            Self::Data(_, _, kind) => kind,
            Self::Made(_) => &ListKind::Atomic,
        }
    }

    pub(crate) fn contains(&self, v: &Val<'_>) -> bool {
        (0..self.len()).any(|i| self.get(i).is_some_and(|x| x.equals(v)))
    }

    fn equals(&self, other: &List<'_>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match self.kind() {
            ListKind::Atomic => (0..self.len()).all(|i| match (self.get(i), other.get(i)) {
                (Some(a), Some(b)) => a.equals(&b),
                _ => false,
            }),
            // Sets and keyed lists are equal in any order.
            _ => self.items().iter().all(|v| other.contains(v)),
        }
    }

    /// Both lists. A set takes what is new; a keyed list takes over items of known keys.
    pub(crate) fn plus(self, other: List<'a>) -> List<'a> {
        let kind = self.kind().clone();
        let added = other.items();
        let mut items = match self {
            Self::Made(items) => items,
            data => Arc::new(data.items()),
        };
        let all = Arc::make_mut(&mut items);
        match kind {
            ListKind::Atomic => all.extend(added),
            ListKind::Set => {
                for v in added {
                    if !all.iter().any(|x| x.equals(&v)) {
                        all.push(v);
                    }
                }
            }
            ListKind::Map(keys) => {
                let id = |v: &Val<'_>| -> Vec<Option<Value>> {
                    let Val::Map(m) = v else { return vec![] };
                    keys.iter().map(|k| m.raw(k).map(|v| v.to_json())).collect()
                };
                for v in added {
                    match all.iter_mut().find(|x| id(x) == id(&v)) {
                        Some(place) => *place = v,
                        None => all.push(v),
                    }
                }
            }
        }
        List::Made(items)
    }
}

impl<'a> Map<'a> {
    /// Whether it stands for data that is not there.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Data(m, _) | Self::Object(m, _) => std::ptr::eq(*m, &*NO_FIELDS),
            Self::Made(_) => false,
        }
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(m, _) | Self::Object(m, _) => m.len(),
            Self::Made(m) => m.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<Val<'a>> {
        match (self, key) {
            (Self::Data(m, schema), Key::String(k)) => m.get(&**k).map(|v| Val::of(v, schema)),
            (Self::Object(..), Key::String(k)) => self.field(k),
            (Self::Made(m), k) => m.get(k).cloned(),
            _ => None,
        }
    }

    /// The value of a key of text, or the field of an escaped name.
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Data(m, schema) => m.get(name).map(|v| Val::of(v, schema)),
            Self::Object(m, o) => {
                let Field { json, schema } = o.field(name)?;
                m.get(&**json).map(|v| Val::of(v, schema))
            }
            Self::Made(m) => m.get(&Key::String(name.into())).cloned(),
        }
    }

    /// The value of a key in the data, by its own name.
    fn raw(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Object(m, _) => m.get(name).map(|v| Val::of(v, &ANY)),
            other => other.field(name),
        }
    }

    /// What an absent field of an object reads as where absence means zero.
    pub(crate) fn zero_field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Object(_, o) => o.field(name).map(|f| Val::zero(&f.schema)),
            _ => None,
        }
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Key> {
        let text = |m: &serde_json::Map<String, Value>| {
            m.keys().map(|k| Key::String(k.as_str().into())).collect()
        };
        match self {
            Self::Data(m, _) | Self::Object(m, _) => text(m),
            Self::Made(m) => m.keys().cloned().collect(),
        }
    }

    /// All entries.
    pub fn entries(&self) -> Vec<(Key, Val<'a>)> {
        let get = |k: Key| {
            let v = match (self, &k) {
                (Self::Object(m, o), Key::String(name)) => {
                    let schema = o.fields.values().find(|f| *f.json == **name);
                    m.get(&**name).map(|v| Val::of(v, schema.map_or(&*ANY, |f| &f.schema)))
                }
                _ => self.get(&k),
            };
            v.map(|v| (k, v))
        };
        self.keys().into_iter().filter_map(get).collect()
    }

    fn equals(&self, other: &Map<'_>) -> bool {
        self.len() == other.len()
            && self.entries().iter().all(|(k, v)| match (other, k) {
                (Map::Object(..), Key::String(name)) => {
                    other.raw(name).is_some_and(|o| v.equals(&o) || v.to_json() == o.to_json())
                }
                _ => other.get(k).is_some_and(|o| v.equals(&o)),
            })
    }
}
