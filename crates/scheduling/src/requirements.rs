//! Sets of acceptable label values, and their algebra: what a NodePool allows, narrowed by what a
//! pod asks for, matched with what an offering has.

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Acceptable values of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Values {
    /// The listed values are the only ones (false) or the only ones that are out (true).
    pub complement: bool,
    /// Listed values.
    pub listed: BTreeSet<Arc<str>>,
    /// The label may be absent.
    pub absent_ok: bool,
    /// Integers must be above this.
    pub above: Option<i64>,
    /// Integers must be below this.
    pub below: Option<i64>,
}

impl Values {
    /// Everything, present or absent.
    pub fn any() -> Self {
        Self {
            complement: true,
            listed: BTreeSet::new(),
            absent_ok: true,
            above: None,
            below: None,
        }
    }

    /// Exactly these.
    pub fn of(values: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        Self {
            complement: false,
            listed: values.into_iter().map(Into::into).collect(),
            absent_ok: false,
            above: None,
            below: None,
        }
    }

    /// Reads an operator with its values. `Gte` and `Lte` are Karpenter's.
    pub fn parse(operator: &str, values: &[String]) -> Option<Self> {
        let number = || values.first()?.parse::<i64>().ok();
        let present = Self { absent_ok: false, ..Self::any() };
        Some(match operator {
            "In" => Self::of(values.iter().map(String::as_str)),
            "NotIn" => {
                Self { listed: values.iter().map(|v| v.as_str().into()).collect(), ..Self::any() }
            }
            "Exists" => present,
            "DoesNotExist" => Self {
                complement: false,
                listed: BTreeSet::new(),
                absent_ok: true,
                above: None,
                below: None,
            },
            "Gt" => Self { above: Some(number()?), ..present },
            "Gte" => Self { above: Some(number()? - 1), ..present },
            "Lt" => Self { below: Some(number()?), ..present },
            "Lte" => Self { below: Some(number()? + 1), ..present },
            _ => return None,
        })
    }

    fn in_bounds(&self, v: &str) -> bool {
        if self.above.is_none() && self.below.is_none() {
            return true;
        }
        v.parse::<i64>()
            .is_ok_and(|n| self.above.is_none_or(|a| n > a) && self.below.is_none_or(|b| n < b))
    }

    /// Whether a label with this value (or without one) is acceptable.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        match value {
            None => self.absent_ok,
            Some(v) => self.listed.contains(v) != self.complement && self.in_bounds(v),
        }
    }

    /// Values acceptable to both.
    pub fn intersect(&self, other: &Self) -> Self {
        let above = self.above.max(other.above);
        let below = match (self.below, other.below) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let absent_ok = self.absent_ok && other.absent_ok;
        let (complement, listed) = match (self.complement, other.complement) {
            (true, true) => (true, self.listed.union(&other.listed).cloned().collect()),
            (true, false) => (false, other.listed.difference(&self.listed).cloned().collect()),
            (false, true) => (false, self.listed.difference(&other.listed).cloned().collect()),
            (false, false) => (false, self.listed.intersection(&other.listed).cloned().collect()),
        };
        let mut v = Self { complement, listed, absent_ok, above, below };
        if !v.complement {
            let kept = std::mem::take(&mut v.listed);
            v.listed = kept.into_iter().filter(|s| v.in_bounds(s)).collect();
        }
        v
    }

    /// Whether nothing is acceptable.
    pub fn is_empty(&self) -> bool {
        let bounds_cross = matches!((self.above, self.below), (Some(a), Some(b)) if a + 1 >= b);
        !self.absent_ok && ((!self.complement && self.listed.is_empty()) || bounds_cross)
    }

    /// The only acceptable value, if there is exactly one.
    pub fn single(&self) -> Option<&Arc<str>> {
        if self.complement || self.listed.len() != 1 { None } else { self.listed.first() }
    }

    /// Operator and values, as a requirement of an object.
    pub fn to_operator(&self) -> (&'static str, Vec<String>) {
        let values = self.listed.iter().map(ToString::to_string).collect();
        match (self.complement, self.listed.is_empty()) {
            _ if self.above.is_some() => ("Gt", vec![self.above.unwrap_or(0).to_string()]),
            _ if self.below.is_some() => ("Lt", vec![self.below.unwrap_or(0).to_string()]),
            (true, true) => ("Exists", vec![]),
            (true, false) => ("NotIn", values),
            (false, true) => ("DoesNotExist", vec![]),
            (false, false) => ("In", values),
        }
    }
}

/// Requirements on labels; all of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirements(pub BTreeMap<Arc<str>, Values>);

impl Requirements {
    /// One term of a node selector. `None` when an operator is unknown.
    pub fn from_term(expressions: &[NodeSelectorRequirement]) -> Option<Self> {
        let mut r = Self::default();
        for e in expressions {
            r.add(&e.key, Values::parse(&e.operator, e.values.as_deref().unwrap_or_default())?);
        }
        Some(r)
    }

    /// Narrows a label.
    pub fn add(&mut self, key: &str, values: Values) {
        match self.0.get_mut(key) {
            Some(v) => *v = v.intersect(&values),
            None => drop(self.0.insert(key.into(), values)),
        }
    }

    /// Narrows by all of another's.
    pub fn narrow(&mut self, other: &Self) {
        for (k, v) in &other.0 {
            self.add(k, v.clone());
        }
    }

    /// What is acceptable for a label.
    pub fn get(&self, key: &str) -> Option<&Values> {
        self.0.get(key)
    }

    /// Whether some label has no acceptable value left.
    pub fn is_contradictory(&self) -> bool {
        self.0.values().any(Values::is_empty)
    }

    /// Whether a node's labels meet all of them.
    pub fn accepts(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(k, v)| v.accepts(labels.get(&**k).map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Values> {
        let op = prop_oneof![
            Just("In"),
            Just("NotIn"),
            Just("Exists"),
            Just("DoesNotExist"),
            Just("Gt"),
            Just("Lt"),
            Just("Gte"),
            Just("Lte")
        ];
        (op, proptest::collection::vec((0u8..6).prop_map(|n| n.to_string()), 1..4))
            .prop_map(|(op, v)| Values::parse(op, &v).unwrap())
    }

    proptest! {
        #[test]
        fn an_intersection_accepts_what_both_accept(a in values(), b in values(), probe in 0u8..7) {
            let both = a.intersect(&b);
            for v in [Some(probe.to_string()), None, Some("x".into())] {
                let v = v.as_deref();
                prop_assert_eq!(both.accepts(v), a.accepts(v) && b.accepts(v));
            }
            if both.is_empty() {
                for n in 0..8 { prop_assert!(!both.accepts(Some(&n.to_string()))); }
            }
        }
    }
}
