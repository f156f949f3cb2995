//! From one type to another.

use super::{Args, Function, Output, bad_arguments, err};
use crate::value::{Opaque, Val};
use coracle_meta::time as meta_time;

const RANGE: &str = "integer overflow";

fn to_int<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let n = match args {
        [Val::Int(i)] => Some(*i),
        [Val::Uint(u)] => i64::try_from(*u).ok(),
        [Val::Double(d)] => (*d > -9_223_372_036_854_775_808.0 && *d < 9_223_372_036_854_775_807.0)
            .then_some(*d as i64),
        [Val::String(s)] => {
            return s.parse().map(Val::Int).map_err(|_| unreadable("int"));
        }
        [Val::Timestamp(t)] => Some(t.as_second()),
        [Val::Duration(d)] => Some(*d),
        _ => return bad_arguments(),
    };
    n.map(Val::Int).ok_or_else(|| err(RANGE))
}

fn unreadable(to: &str) -> crate::EvalError {
    err(format!("type conversion error from 'string' to '{to}'"))
}

fn to_uint<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let n = match args {
        [Val::Uint(u)] => Some(*u),
        [Val::Int(i)] => u64::try_from(*i).ok(),
        [Val::Double(d)] => (*d >= 0.0 && *d < 18_446_744_073_709_551_615.0).then_some(*d as u64),
        [Val::String(s)] => {
            return s.parse().map(Val::Uint).map_err(|_| unreadable("uint"));
        }
        _ => return bad_arguments(),
    };
    n.map(Val::Uint).ok_or_else(|| err("unsigned integer overflow"))
}

fn to_double<'a>(args: Args<'_, 'a>) -> Output<'a> {
    Ok(Val::Double(match args {
        [Val::Double(d)] => *d,
        [Val::Int(i)] => *i as f64,
        [Val::Uint(u)] => *u as f64,
        [Val::String(s)] => s.parse().map_err(|_| unreadable("double"))?,
        _ => return bad_arguments(),
    }))
}

/// A float as Go prints it with the fewest digits (`%g`): without an exponent below a million.
pub(crate) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let text = format!("{d:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let size: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&size) {
        return d.to_string();
    }
    let (sign, number) = match exponent.strip_prefix('-') {
        Some(n) => ('-', n),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{number:0>2}")
}

fn to_string<'a>(args: Args<'_, 'a>) -> Output<'a> {
    Ok(Val::text(match args {
        [v @ Val::String(_)] => return Ok(v.clone()),
        [Val::Bool(b)] => b.to_string(),
        [Val::Int(i)] => i.to_string(),
        [Val::Uint(u)] => u.to_string(),
        [Val::Double(d)] => double_text(*d),
        [Val::Bytes(b)] => String::from_utf8(b.to_vec())
            .map_err(|_| err("invalid UTF-8 in bytes, cannot convert to string"))?,
        [Val::Timestamp(t)] => t.to_string(),
        [Val::Duration(d)] => super::time::duration_text(*d),
        [Val::Opaque(o @ (Opaque::Ip(_) | Opaque::Cidr(_)))] => o.to_string(),
        _ => return bad_arguments(),
    }))
}

fn to_bool<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Bool(b)] => Ok(Val::Bool(*b)),
        [Val::String(s)] => match s.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => Err(unreadable("bool")),
        },
        _ => bad_arguments(),
    }
}

fn to_bytes<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Bytes(b)] => Ok(Val::Bytes(b.clone())),
        [Val::String(s)] => Ok(Val::Bytes(s.as_bytes().into())),
        _ => bad_arguments(),
    }
}

fn to_timestamp<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Timestamp(t)] => Ok(Val::Timestamp(*t)),
        [Val::String(s)] => meta_time::parse_rfc3339(s)
            .map(Val::Timestamp)
            .ok_or_else(|| unreadable("google.protobuf.Timestamp")),
        [Val::Int(i)] => jiff::Timestamp::from_second(*i)
            .map(Val::Timestamp)
            .map_err(|_| err("timestamp overflow")),
        _ => bad_arguments(),
    }
}

fn to_duration<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Duration(d)] => Ok(Val::Duration(*d)),
        [Val::Int(i)] => Ok(Val::Duration(*i)),
        [Val::String(s)] => meta_time::parse_go_duration(s)
            .and_then(|d| i64::try_from(d.as_nanos()).ok())
            .map(Val::Duration)
            .ok_or_else(|| unreadable("google.protobuf.Duration")),
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("int", to_int),
    ("uint", to_uint),
    ("double", to_double),
    ("string", to_string),
    ("bool", to_bool),
    ("bytes", to_bytes),
    ("timestamp", to_timestamp),
    ("duration", to_duration),
    ("dyn", |a| match a {
        [v] => Ok(v.clone()),
        _ => bad_arguments(),
    }),
    ("type", |a| match a {
        [v] => Ok(Val::Type(v.type_name())),
        _ => bad_arguments(),
    }),
];
