//! Lists and sets.

use super::{Args, Function, Output, bad_arguments, err};
use crate::{
    EvalError,
    value::{List, Map, Val},
};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

pub(super) fn index_of<'a>(args: Args<'_, 'a>, last: bool) -> Output<'a> {
    let [Val::List(l), v] = args else { return bad_arguments() };
    let same = |i: &usize| l.get(*i).is_some_and(|x| x.equals(v));
    let mut places = 0..l.len();
    let found = if last { places.rfind(same) } else { places.find(same) };
    Ok(Val::Int(found.map_or(-1, |i| i64::try_from(i).unwrap_or(i64::MAX))))
}

fn order(a: &Val<'_>, b: &Val<'_>) -> Result<Ordering, EvalError> {
    a.order(b).map_or_else(bad_arguments, Ok)
}

fn is_sorted<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::List(l)] = args else { return bad_arguments() };
    for pair in l.items().windows(2) {
        if order(&pair[0], &pair[1])?.is_gt() {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

fn extreme<'a>(args: Args<'_, 'a>, name: &str, wanted: Ordering) -> Output<'a> {
    let [Val::List(l)] = args else { return bad_arguments() };
    let mut items = l.items().into_iter();
    let Some(mut best) = items.next() else {
        return Err(err(format!("{name} called on empty list")));
    };
    for v in items {
        if order(&v, &best)? == wanted {
            best = v;
        }
    }
    Ok(best)
}

fn sum<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::List(l)] = args else { return bad_arguments() };
    let mut items = l.items().into_iter();
    let Some(first) = items.next() else { return Ok(Val::Int(0)) };
    let plus = super::function("_+_").unwrap_or(|_| bad_arguments());
    items.try_fold(first, |sum, v| plus(&[sum, v]))
}

fn distinct<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::List(l)] = args else { return bad_arguments() };
    let mut kept: Vec<Val<'a>> = Vec::new();
    for v in l.items() {
        if !kept.iter().any(|k| k.equals(&v)) {
            kept.push(v);
        }
    }
    Ok(Val::list(kept))
}

fn flatten_into<'a>(l: &List<'a>, depth: i64, out: &mut Vec<Val<'a>>) {
    for v in l.items() {
        match v {
            Val::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out),
            v => out.push(v),
        }
    }
}

fn flatten<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (l, depth) = match args {
        [Val::List(l)] => (l, 1),
        [Val::List(_), Val::Int(d)] if *d < 0 => {
            return Err(err("level must be non-negative"));
        }
        [Val::List(l), Val::Int(d)] => (l, *d),
        _ => return bad_arguments(),
    };
    let mut out = Vec::new();
    flatten_into(l, depth, &mut out);
    Ok(Val::list(out))
}

fn slice<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::List(l), Val::Int(from), Val::Int(to)] = args else { return bad_arguments() };
    let length = i64::try_from(l.len()).unwrap_or(i64::MAX);
    if *from < 0 || *to < 0 {
        return Err(err(format!("cannot slice({from}, {to}), negative indexes not supported")));
    }
    if from > to {
        return Err(err(format!(
            "cannot slice({from}, {to}), start index must be less than or equal to end index"
        )));
    }
    if *to > length {
        return Err(err(format!("cannot slice({from}, {to}), list is length {length}")));
    }
    let (from, to) = (usize::try_from(*from).unwrap_or(0), usize::try_from(*to).unwrap_or(0));
    Ok(Val::list(l.items()[from..to].to_vec()))
}

/// A list in the order of its keys.
fn sort<'a>(items: Vec<Val<'a>>, keys: &[Val<'a>]) -> Output<'a> {
    if items.len() != keys.len() {
        return bad_arguments();
    }
    for pair in keys.windows(2) {
        if std::mem::discriminant(&pair[0]) != std::mem::discriminant(&pair[1]) {
            return Err(err("list elements must have the same type"));
        }
        if pair[0].order(&pair[1]).is_none() {
            return Err(err("list elements must be comparable"));
        }
    }
    let mut places: Vec<usize> = (0..items.len()).collect();
    places.sort_by(|a, b| keys[*a].order(&keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Val::list(places.into_iter().map(|i| items[i].clone()).collect()))
}

/// Most numbers that `lists.range` makes.
const MAX_RANGE: i64 = 1_000_000;

fn range<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::Int(n)] = args else { return bad_arguments() };
    if *n > MAX_RANGE {
        return Err(err(format!("range is larger than {MAX_RANGE}")));
    }
    Ok(Val::list((0..*n).map(Val::Int).collect()))
}

fn map_insert<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let entries = |m: &Map<'a>| match m {
        Map::Made(entries) => entries.clone(),
        other => Arc::new(other.entries().into_iter().collect::<BTreeMap<_, _>>()),
    };
    let (mut map, added) = match args {
        [Val::Map(m), key, value] => {
            let key = key.key().ok_or_else(|| err("unsupported key type"))?;
            (entries(m), vec![(key, value.clone())])
        }
        [Val::Map(m), Val::Map(other)] => (entries(m), other.entries()),
        _ => return bad_arguments(),
    };
    for (key, value) in added {
        if map.contains_key(&key) {
            return Err(err(format!("insert failed: key {key} already exists")));
        }
        Arc::make_mut(&mut map).insert(key, value);
    }
    Ok(Val::Map(Map::Made(map)))
}

fn sets<'a>(args: Args<'_, 'a>, holds: fn(&List<'_>, &List<'_>) -> bool) -> Output<'a> {
    match args {
        [Val::List(a), Val::List(b)] => Ok(Val::Bool(holds(a, b))),
        _ => bad_arguments(),
    }
}

fn contains_all(a: &List<'_>, b: &List<'_>) -> bool {
    b.items().iter().all(|v| a.contains(v))
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("isSorted", is_sorted),
    ("min", |a| extreme(a, "min", Ordering::Less)),
    ("max", |a| extreme(a, "max", Ordering::Greater)),
    ("sum", sum),
    ("distinct", distinct),
    ("flatten", flatten),
    ("slice", slice),
    ("sort", |a| match a {
        [Val::List(l)] => sort(l.items(), &l.items()),
        _ => bad_arguments(),
    }),
    ("@sortByAssociatedKeys", |a| match a {
        [Val::List(l), Val::List(keys)] => sort(l.items(), &keys.items()),
        _ => bad_arguments(),
    }),
    ("reverse", |a| match a {
        [Val::List(l)] => Ok(Val::list(l.items().into_iter().rev().collect())),
        _ => bad_arguments(),
    }),
    ("first", |a| match a {
        [Val::List(l)] => Ok(Val::Optional(l.get(0).map(Arc::new))),
        _ => bad_arguments(),
    }),
    ("last", |a| match a {
        [Val::List(l)] => {
            Ok(Val::Optional(l.len().checked_sub(1).and_then(|i| l.get(i)).map(Arc::new)))
        }
        _ => bad_arguments(),
    }),
    ("lists.range", range),
    ("cel.@mapInsert", map_insert),
    ("sets.contains", |a| sets(a, contains_all)),
    ("sets.equivalent", |a| sets(a, |x, y| contains_all(x, y) && contains_all(y, x))),
    ("sets.intersects", |a| sets(a, |x, y| x.items().iter().any(|v| y.contains(v)))),
];
