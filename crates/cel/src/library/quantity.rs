//! Kubernetes' quantities.

use super::{Args, Function, Output, bad_arguments, bool_of, err};
use crate::{
    EvalError,
    value::{Opaque, Val},
};
use coracle_meta::Quantity;
use std::cmp::Ordering;

const UNIT: i128 = 1_000_000_000;
const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

fn whole(q: &Quantity) -> Option<i64> {
    (q.nanos() % UNIT == 0).then(|| i64::try_from(q.nanos() / UNIT).ok()).flatten()
}

pub(super) fn order(args: Args<'_, '_>) -> Result<Ordering, EvalError> {
    match args {
        [Val::Opaque(Opaque::Quantity(a)), Val::Opaque(Opaque::Quantity(b))] => Ok(a.cmp(b)),
        _ => bad_arguments(),
    }
}

fn combined<'a>(args: Args<'_, 'a>, f: fn(i128, i128) -> Option<i128>) -> Output<'a> {
    let (a, b) = match args {
        [Val::Opaque(Opaque::Quantity(a)), Val::Opaque(Opaque::Quantity(b))] => (a, b.nanos()),
        [Val::Opaque(Opaque::Quantity(a)), Val::Int(i)] => (a, i128::from(*i) * UNIT),
        _ => return bad_arguments(),
    };
    let nanos = f(a.nanos(), b).ok_or_else(|| err("quantity overflow"))?;
    Ok(Val::Opaque(Opaque::Quantity(a.with_nanos(nanos))))
}

fn of<'a>(args: Args<'_, 'a>, f: fn(&Quantity) -> Output<'a>) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Quantity(q))] => f(q),
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("quantity", |a| match a {
        [Val::String(s)] => match s.parse::<Quantity>() {
            Ok(q) => Ok(Val::Opaque(Opaque::Quantity(q))),
            Err(_) => Err(err(MALFORMED)),
        },
        _ => bad_arguments(),
    }),
    ("isQuantity", |a| bool_of(a, |s| s.parse::<Quantity>().is_ok())),
    ("isInteger", |a| of(a, |q| Ok(Val::Bool(whole(q).is_some())))),
    ("asInteger", |a| {
        of(a, |q| whole(q).map(Val::Int).ok_or_else(|| err("cannot convert value to integer")))
    }),
    ("asApproximateFloat", |a| of(a, |q| Ok(Val::Double(q.nanos() as f64 / UNIT as f64)))),
    ("sign", |a| of(a, |q| Ok(Val::Int(i64::try_from(q.nanos().signum()).unwrap_or(0))))),
    ("add", |a| combined(a, i128::checked_add)),
    ("sub", |a| combined(a, i128::checked_sub)),
];
