//! What functions do. A module a subject; each lists its functions by name, and a function looks at
//! its arguments (a method's receiver first) for the overload that is meant.

pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod lists;
pub(crate) mod net;
pub(crate) mod operators;
pub(crate) mod optional;
pub(crate) mod printf;
pub(crate) mod quantity;
pub(crate) mod semver;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod url;

use crate::{EvalError, value::Val};
use std::{cmp::Ordering, collections::HashMap, sync::LazyLock};

/// Arguments of a call.
pub type Args<'s, 'a> = &'s [Val<'a>];
/// What a call gives.
pub type Output<'a> = Result<Val<'a>, EvalError>;
/// A function: it looks at its arguments for the overload that is meant.
pub type Function = for<'s, 'a> fn(Args<'s, 'a>) -> Output<'a>;

static FUNCTIONS: LazyLock<HashMap<&str, Function>> = LazyLock::new(|| {
    [
        convert::FUNCTIONS,
        format::FUNCTIONS,
        lists::FUNCTIONS,
        net::FUNCTIONS,
        operators::FUNCTIONS,
        optional::FUNCTIONS,
        quantity::FUNCTIONS,
        semver::FUNCTIONS,
        SHARED,
        text::FUNCTIONS,
        time::FUNCTIONS,
        url::FUNCTIONS,
    ]
    .concat()
    .into_iter()
    .collect()
});

/// The function of a name.
pub(crate) fn function(name: &str) -> Option<Function> {
    FUNCTIONS.get(name).copied()
}

pub(crate) fn err(message: impl Into<String>) -> EvalError {
    EvalError::Failed(message.into())
}

/// Arguments that no overload takes.
pub(crate) fn bad_arguments<T>() -> Result<T, EvalError> {
    Err(err("no such overload"))
}

/// A question about a text.
fn bool_of<'a>(args: Args<'_, 'a>, holds: fn(&str) -> bool) -> Output<'a> {
    match args {
        [Val::String(s)] => Ok(Val::Bool(holds(s))),
        _ => bad_arguments(),
    }
}

/// Order of two values of a library's type.
fn order(args: Args<'_, '_>) -> Result<Ordering, EvalError> {
    semver::order(args).or_else(|_| quantity::order(args))
}

/// Functions that several types have.
const SHARED: &[(&str, Function)] = &[
    ("isLessThan", |a| Ok(Val::Bool(order(a)?.is_lt()))),
    ("isGreaterThan", |a| Ok(Val::Bool(order(a)?.is_gt()))),
    ("compareTo", |a| Ok(Val::Int(order(a)? as i64))),
    ("indexOf", |a| match a {
        [Val::List(_), ..] => lists::index_of(a, false),
        _ => text::index_of(a),
    }),
    ("lastIndexOf", |a| match a {
        [Val::List(_), ..] => lists::index_of(a, true),
        _ => text::last_index_of(a),
    }),
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_signature_has_a_function() {
        // Decided by the evaluator itself, as they do not look at all their arguments.
        let special = ["_&&_", "_||_", "_?:_", "_?_:_", "@not_strictly_false", "_[_]", "_[?_]"];
        for line in include_str!("signatures.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.trim_start_matches('.').split('(').next().unwrap();
            assert!(special.contains(&name) || super::function(name).is_some(), "{name}");
        }
    }
}
