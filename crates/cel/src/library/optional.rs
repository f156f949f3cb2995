//! Values that may be none.

use super::{Args, Function, Output, bad_arguments, err};
use crate::value::Val;

/// What is there, of a list of values that may be none.
fn unwrap<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::List(list)] = args else { return bad_arguments() };
    let mut there = vec![];
    for item in list.items() {
        match item {
            Val::Optional(None) => {}
            Val::Optional(Some(v)) => there.push(v.as_ref().clone()),
            _ => return bad_arguments(),
        }
    }
    Ok(Val::list(there))
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("optional.of", |a| match a {
        [v] => Ok(Val::some(v.clone())),
        _ => bad_arguments(),
    }),
    ("optional.ofNonZeroValue", |a| match a {
        [v] if v.is_zero() => Ok(Val::Optional(None)),
        [v] => Ok(Val::some(v.clone())),
        _ => bad_arguments(),
    }),
    ("optional.none", |_| Ok(Val::Optional(None))),
    ("optional.unwrap", unwrap),
    ("unwrapOpt", unwrap),
    ("value", |a| match a {
        [Val::Optional(Some(v))] => Ok(v.as_ref().clone()),
        [Val::Optional(None)] => Err(err("optional.none() dereference")),
        _ => bad_arguments(),
    }),
    ("hasValue", |a| match a {
        [Val::Optional(o)] => Ok(Val::Bool(o.is_some())),
        _ => bad_arguments(),
    }),
    ("or", |a| match a {
        [Val::Optional(None), other @ Val::Optional(_)] => Ok(other.clone()),
        [o @ Val::Optional(Some(_)), Val::Optional(_)] => Ok(o.clone()),
        _ => bad_arguments(),
    }),
    ("orValue", |a| match a {
        [Val::Optional(None), other] => Ok(other.clone()),
        [Val::Optional(Some(v)), _] => Ok(v.as_ref().clone()),
        _ => bad_arguments(),
    }),
];
