//! JSON as the API reads it: duplicate keys are found and named, numbers keep being integers,
//! depth is bounded.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{cell::RefCell, fmt};

/// A decoded document and the paths of the keys that occurred twice (the last one wins).
#[derive(Debug)]
pub struct Decoded {
    /// The document.
    pub value: Value,
    /// Paths such as `spec.replicas` of keys that were given more than once.
    pub duplicates: Vec<String>,
}

/// Reads one JSON document. Nesting deeper than 128 levels is refused.
pub fn decode(bytes: &[u8]) -> Result<Decoded, serde_json::Error> {
    let state = State::default();
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&state).deserialize(&mut de)?;
    de.end()?;
    Ok(Decoded { value, duplicates: state.duplicates.into_inner() })
}

/// Reads one document from any self-describing format (YAML, for one) the same way.
pub fn decode_from<'de, D: Deserializer<'de>>(d: D) -> Result<Decoded, D::Error> {
    let state = State::default();
    let value = Seed(&state).deserialize(d)?;
    Ok(Decoded { value, duplicates: state.duplicates.into_inner() })
}

#[derive(Default)]
struct State {
    path: RefCell<Vec<String>>,
    duplicates: RefCell<Vec<String>>,
}

impl State {
    fn duplicate(&self, key: &str) {
        let mut text = String::new();
        for step in self.path.borrow().iter().map(String::as_str).chain([key]) {
            if !text.is_empty() && !step.starts_with('[') {
                text.push('.');
            }
            text.push_str(step);
        }
        self.duplicates.borrow_mut().push(text);
    }
}

#[derive(Clone, Copy)]
struct Seed<'s>(&'s State);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.path.borrow_mut().push(format!("[{}]", items.len()));
            let item = seq.next_element_seed(self);
            self.0.path.borrow_mut().pop();
            match item? {
                Some(v) => items.push(v),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if self.0.path.borrow().len() > 512 {
                return Err(A::Error::custom("nesting is too deep"));
            }
            if map.contains_key(&key) {
                self.0.duplicate(&key);
            }
            self.0.path.borrow_mut().push(key);
            let value = access.next_value_seed(self);
            let key = self.0.path.borrow_mut().pop().unwrap_or_default();
            map.insert(key, value?);
        }
        Ok(Value::Object(map))
    }
}

/// Follows a dotted path; no lists.
pub fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |v, step| v.get(step))
}

/// The text at a dotted path, or the empty string.
pub fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    get(value, path).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_duplicates_with_their_paths() {
        let d = decode(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#).unwrap();
        assert_eq!(d.duplicates, ["b[0].c", "a"]);
        assert_eq!(d.value, serde_json::json!({"a":3,"b":[{"c":2}]}));
    }

    #[test]
    fn refuses_what_is_not_json() {
        for bad in [&b"{"[..], b"", b"{}{}", b"{\"a\":nan}", b"\xff", b"{\"a\":1,}"] {
            assert!(decode(bad).is_err());
        }
        assert!(decode("[".repeat(100_000).as_bytes()).is_err());
    }
}
