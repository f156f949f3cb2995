//! Arithmetic, comparison, membership.

use super::{Args, Function, Output, bad_arguments, err};
use crate::{EvalError, value::Val};
use std::cmp::Ordering;

fn checked<'a, T>(r: Option<T>, what: &str, make: fn(T) -> Val<'a>) -> Output<'a> {
    r.map(make).ok_or_else(|| err(what))
}

const INT: &str = "integer overflow";
const UINT: &str = "unsigned integer overflow";

fn plus<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Int(a), Val::Int(b)] => checked(a.checked_add(*b), INT, Val::Int),
        [Val::Uint(a), Val::Uint(b)] => checked(a.checked_add(*b), UINT, Val::Uint),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a + b)),
        [Val::String(a), Val::String(b)] => Ok(Val::text([a.as_ref(), b.as_ref()].concat())),
        [Val::Bytes(a), Val::Bytes(b)] => Ok(Val::Bytes([&a[..], &b[..]].concat().into())),
        [Val::List(a), Val::List(b)] => Ok(Val::List(a.clone().plus(b.clone()))),
        [Val::Duration(a), Val::Duration(b)] => checked(a.checked_add(*b), INT, Val::Duration),
        [Val::Timestamp(t), Val::Duration(d)] | [Val::Duration(d), Val::Timestamp(t)] => {
            super::time::shifted(*t, *d)
        }
        _ => bad_arguments(),
    }
}

fn minus<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Int(a), Val::Int(b)] => checked(a.checked_sub(*b), INT, Val::Int),
        [Val::Uint(a), Val::Uint(b)] => checked(a.checked_sub(*b), UINT, Val::Uint),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a - b)),
        [Val::Duration(a), Val::Duration(b)] => checked(a.checked_sub(*b), INT, Val::Duration),
        [Val::Timestamp(a), Val::Timestamp(b)] => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            checked(i64::try_from(nanos).ok(), INT, Val::Duration)
        }
        [Val::Timestamp(t), Val::Duration(d)] => match d.checked_neg() {
            Some(d) => super::time::shifted(*t, d),
            None => Err(err(INT)),
        },
        _ => bad_arguments(),
    }
}

fn times<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Int(a), Val::Int(b)] => checked(a.checked_mul(*b), INT, Val::Int),
        [Val::Uint(a), Val::Uint(b)] => checked(a.checked_mul(*b), UINT, Val::Uint),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a * b)),
        _ => bad_arguments(),
    }
}

fn divided<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => Err(err("division by zero")),
        [Val::Int(a), Val::Int(b)] => checked(a.checked_div(*b), INT, Val::Int),
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(a / b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a / b)),
        _ => bad_arguments(),
    }
}

fn modulo<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => Err(err("modulus by zero")),
        [Val::Int(a), Val::Int(b)] => checked(a.checked_rem(*b), INT, Val::Int),
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(a % b)),
        _ => bad_arguments(),
    }
}

fn compared(args: Args<'_, '_>) -> Result<Option<Ordering>, EvalError> {
    let [a, b] = args else { return bad_arguments() };
    match a.order(b) {
        Some(o) => Ok(Some(o)),
        // Not a number compares to nothing.
        None if matches!((a, b), (Val::Double(_), _) | (_, Val::Double(_))) => Ok(None),
        None => bad_arguments(),
    }
}

fn comparison<'a>(args: Args<'_, 'a>, holds: fn(Ordering) -> bool) -> Output<'a> {
    Ok(Val::Bool(compared(args)?.is_some_and(holds)))
}

fn within<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [v, Val::List(l)] => Ok(Val::Bool(l.contains(v))),
        [v, Val::Map(m)] => Ok(Val::Bool(v.key().is_some_and(|k| m.get(&k).is_some()))),
        _ => bad_arguments(),
    }
}

fn equal(args: Args<'_, '_>) -> Result<bool, EvalError> {
    match args {
        [a, b] => Ok(a.equals(b)),
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("_+_", plus),
    ("_-_", minus),
    ("_*_", times),
    ("_/_", divided),
    ("_%_", modulo),
    ("_==_", |a| equal(a).map(Val::Bool)),
    ("_!=_", |a| equal(a).map(|e| Val::Bool(!e))),
    ("_<_", |a| comparison(a, Ordering::is_lt)),
    ("_<=_", |a| comparison(a, Ordering::is_le)),
    ("_>_", |a| comparison(a, Ordering::is_gt)),
    ("_>=_", |a| comparison(a, Ordering::is_ge)),
    ("@in", within),
    ("!_", |a| match a {
        [Val::Bool(b)] => Ok(Val::Bool(!b)),
        _ => bad_arguments(),
    }),
    ("-_", |a| match a {
        [Val::Int(i)] => checked(i.checked_neg(), INT, Val::Int),
        [Val::Double(d)] => Ok(Val::Double(-d)),
        _ => bad_arguments(),
    }),
    ("size", |a| match a {
        [v @ (Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_))] => {
            Ok(Val::Int(i64::try_from(v.size()).unwrap_or(i64::MAX)))
        }
        _ => bad_arguments(),
    }),
];
