//! `semver`: versions of Semantic Versioning 2.0.0.

use super::{Args, Function, Output, bad_arguments, err};
use crate::value::{Opaque, Val};
use std::{cmp::Ordering, fmt, sync::Arc};

/// A version. The build takes no part in order or equality.
#[derive(Clone, Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<Box<str>>,
    build: Vec<Box<str>>,
}

impl PartialEq for Semver {
    fn eq(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build.join("."))?;
        }
        Ok(())
    }
}

fn digits(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

fn parse(s: &str) -> Result<Semver, String> {
    if s.is_empty() {
        return Err("Version string empty".into());
    }
    let parts: Vec<&str> = s.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else {
        return Err("No Major.Minor.Patch elements found".into());
    };
    let (rest, build) = match rest.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (rest, None),
    };
    let (patch, pre) = match rest.split_once('-') {
        Some((patch, pre)) => (patch, Some(pre)),
        None => (rest, None),
    };
    let mut numbers = [0; 3];
    for ((n, text), what) in
        numbers.iter_mut().zip([major, minor, patch]).zip(["major", "minor", "patch"])
    {
        let title = format!("{}{}", what[..1].to_uppercase(), &what[1..]);
        if !digits(text) {
            return Err(format!("Invalid character(s) found in {what} number {text:?}"));
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("{title} number must not contain leading zeroes {text:?}"));
        }
        *n = text.parse().map_err(|_| format!("{title} number {text:?} is out of range"))?;
    }
    Ok(Semver { numbers, pre: labels(pre, true)?, build: labels(build, false)? })
}

fn labels(text: Option<&str>, pre: bool) -> Result<Vec<Box<str>>, String> {
    let Some(text) = text else { return Ok(vec![]) };
    let legal = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    text.split('.')
        .map(|s| {
            if s.is_empty() {
                let what = if pre { "Prerelease" } else { "Build meta data" };
                Err(format!("{what} is empty"))
            } else if pre && digits(s) && s.len() > 1 && s.starts_with('0') {
                Err(format!("Numeric PreRelease version must not contain leading zeroes {s:?}"))
            } else if !legal(s) {
                let what = if pre { "prerelease" } else { "build meta data" };
                Err(format!("Invalid character(s) found in {what} {s:?}"))
            } else {
                Ok(s.into())
            }
        })
        .collect()
}

/// What people write: a leading v, missing numbers, leading zeros.
fn normalize(s: &str) -> String {
    let s = s.strip_prefix('v').unwrap_or(s);
    let end = s.find(['-', '+']).unwrap_or(s.len());
    let (numbers, tail) = s.split_at(end);
    let mut parts: Vec<String> = numbers
        .splitn(3, '.')
        .map(|n| match n.trim_start_matches('0') {
            "" if !n.is_empty() => "0".into(),
            // Not a number: what is wrong shall show as it was.
            t if digits(n) => t.into(),
            _ => n.to_owned(),
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0".into());
    }
    parts.join(".") + tail
}

impl Semver {
    fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                // A release comes after its previews.
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => {
                    let pairs = self.pre.iter().zip(&other.pre);
                    let first = pairs.map(|(a, b)| label_order(a, b)).find(|o| o.is_ne());
                    first.unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
                }
            }
        })
    }
}

fn label_order(a: &str, b: &str) -> Ordering {
    match (digits(a), digits(b)) {
        (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

fn read(args: Args<'_, '_>) -> Option<Result<Semver, String>> {
    Some(match args {
        [Val::String(s)] | [Val::String(s), Val::Bool(false)] => parse(s),
        [Val::String(s), Val::Bool(true)] => parse(&normalize(s)),
        _ => return None,
    })
}

fn compare<'a>(args: Args<'_, 'a>) -> Result<Ordering, crate::EvalError> {
    match args {
        [Val::Opaque(Opaque::Semver(a)), Val::Opaque(Opaque::Semver(b))] => Ok(a.order(b)),
        _ => bad_arguments(),
    }
}

pub(super) fn order<'a>(args: Args<'_, 'a>) -> Result<Ordering, crate::EvalError> {
    compare(args)
}

fn number<'a>(args: Args<'_, 'a>, i: usize) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Semver(v))] => {
            Ok(Val::Int(i64::try_from(v.numbers[i]).unwrap_or(i64::MAX)))
        }
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("semver", |a| match read(a) {
        Some(r) => r.map(|v| Val::Opaque(Opaque::Semver(Arc::new(v)))).map_err(err),
        None => bad_arguments(),
    }),
    ("isSemver", |a| match read(a) {
        Some(r) => Ok(Val::Bool(r.is_ok())),
        None => bad_arguments(),
    }),
    ("major", |a| number(a, 0)),
    ("minor", |a| number(a, 1)),
    ("patch", |a| number(a, 2)),
];
