//! Overlays: corrections of what a cloud says of its types, by the labels of their nodes. Discounts,
//! commitments and licences change prices; devices that the cloud does not know add capacity
//! (Karpenter's NodeOverlay, `karpenter.sh/v1alpha1`).

use coracle_scheduling::{Requirements, Resources};
use std::{cmp::Reverse, collections::HashSet, sync::Arc};

/// What an overlay does to a price.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjustment {
    /// The price is this, in US dollars an hour.
    Absolute(f64),
    /// This is added, in US dollars an hour.
    Plus(f64),
    /// This share is added: -0.28 for 28 % less.
    Share(f64),
}

impl Adjustment {
    /// Reads `price` and `priceAdjustment` of an overlay.
    pub fn parse(price: Option<&str>, adjustment: Option<&str>) -> Option<Self> {
        if let Some(p) = price {
            return p.parse().ok().map(Self::Absolute);
        }
        let text = adjustment?;
        match text.strip_suffix('%') {
            Some(share) => share.parse::<f64>().ok().map(|s| Self::Share(s / 100.0)),
            None => text.parse().ok().map(Self::Plus),
        }
    }

    /// The price after it, never below 0.
    pub fn apply(self, usd_per_hour: f64) -> f64 {
        let price = match self {
            Self::Absolute(p) => p,
            Self::Plus(d) => usd_per_hour + d,
            Self::Share(s) => usd_per_hour * (1.0 + s),
        };
        price.max(0.0)
    }
}

/// One overlay.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    /// Name.
    pub name: String,
    /// Of overlays that say something of one offering that of higher weight holds.
    pub weight: i32,
    /// Offerings that it is about.
    pub requirements: Requirements,
    /// What it does to their price.
    pub price: Option<Adjustment>,
    /// What their nodes have beside.
    pub capacity: Vec<(Arc<str>, i64)>,
}

/// Overlays in the order in which they hold: by weight, then by name.
pub fn sort(overlays: &mut [Overlay]) {
    overlays.sort_by(|a, b| (Reverse(a.weight), &a.name).cmp(&(Reverse(b.weight), &b.name)));
}

fn meant<'l>(o: &Overlay, label: &impl Fn(&str) -> Option<&'l str>) -> bool {
    o.requirements.0.iter().all(|(k, v)| v.accepts(label(k)))
}

/// The price of an offering whose node would have these labels, after the first of some sorted overlays
/// that has a word on it.
pub fn price<'l>(
    overlays: &[Overlay],
    usd_per_hour: f64,
    label: impl Fn(&str) -> Option<&'l str>,
) -> f64 {
    let first = overlays.iter().find(|o| o.price.is_some() && meant(o, &label));
    first.and_then(|o| o.price).map_or(usd_per_hour, |p| p.apply(usd_per_hour))
}

/// What nodes with these labels have beside what the cloud tells of.
pub fn capacity<'l>(overlays: &[Overlay], label: impl Fn(&str) -> Option<&'l str>) -> Resources {
    let mut said: HashSet<&str> = HashSet::new();
    let mut more = Resources::default();
    for o in overlays.iter().filter(|o| !o.capacity.is_empty() && meant(o, &label)) {
        for (name, n) in o.capacity.iter().filter(|(name, _)| said.insert(name)) {
            more.add(&Resources { extended: vec![(name.clone(), *n)], ..Resources::default() }, 1);
        }
    }
    more
}

/// The overlay of the same weight before this one that says something else of an offering that both are
/// about. `offerings` are the labels of all that there is.
pub fn conflict<'o, 'l, L: Fn(&str) -> Option<&'l str>>(
    overlays: &'o [Overlay],
    of: &Overlay,
    offerings: impl Iterator<Item = L> + Clone,
) -> Option<&'o Overlay> {
    let before = overlays.iter().filter(|o| o.weight == of.weight && o.name < of.name);
    let says_the_same_thing_differently = |o: &&Overlay| {
        let prices = o.price.is_some() && of.price.is_some() && o.price != of.price;
        let amounts = o
            .capacity
            .iter()
            .any(|(name, n)| of.capacity.iter().any(|(other, m)| other == name && m != n));
        prices || amounts
    };
    before
        .filter(says_the_same_thing_differently)
        .find(|o| offerings.clone().any(|l| meant(o, &l) && meant(of, &l)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_scheduling::Values;

    fn overlay(name: &str, weight: i32, key: &str, value: &str, price: &str) -> Overlay {
        let mut requirements = Requirements::default();
        requirements.add(key, Values::of([value]));
        Overlay {
            name: name.into(),
            weight,
            requirements,
            price: Adjustment::parse(None, Some(price)),
            capacity: vec![("example.com/slice".into(), i64::from(weight))],
        }
    }

    #[test]
    fn the_weightiest_holds_and_equals_are_told() {
        let mut all = vec![
            overlay("b", 1, "family", "c5", "-50%"),
            overlay("a", 1, "zone", "z1", "+0.5"),
            overlay("c", 9, "family", "m5", "-10%"),
        ];
        sort(&mut all);
        let in_c5 = |k: &str| {
            Some(match k {
                "family" => "c5",
                _ => "z1",
            })
        };
        let in_m5 = |k: &str| {
            Some(match k {
                "family" => "m5",
                _ => "z1",
            })
        };
        assert!((price(&all, 1.0, in_c5) - 1.5).abs() < 1e-9);
        assert!((price(&all, 1.0, in_m5) - 0.9).abs() < 1e-9);
        assert!((price(&all, 1.0, |_| None) - 1.0).abs() < 1e-9);
        assert_eq!(capacity(&all, in_m5).extended("example.com/slice"), 9);
        let of = |name: &str| all.iter().find(|o| o.name == name).unwrap();
        let everything = [in_c5];
        assert_eq!(conflict(&all, of("b"), everything.iter()).map(|o| o.name.as_str()), Some("a"));
        assert!(conflict(&all, of("a"), everything.iter()).is_none());
        assert!(conflict(&all, of("c"), everything.iter()).is_none());
        assert_eq!(Adjustment::Plus(-3.0).apply(1.0), 0.0);
        assert_eq!(Adjustment::parse(Some("0.25"), None), Some(Adjustment::Absolute(0.25)));
    }
}
