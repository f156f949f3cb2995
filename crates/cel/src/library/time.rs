//! Points and lengths of time.

use super::{Args, Function, Output, bad_arguments, err};
use crate::{EvalError, value::Val};
use jiff::{
    Timestamp, Zoned,
    tz::{Offset, TimeZone},
};

const NANOS: i64 = 1_000_000_000;

/// A duration as conversions to text write it: seconds.
pub(crate) fn duration_text(nanos: i64) -> String {
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let fraction = format!("{:09}", n % 1_000_000_000);
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{}s", n / 1_000_000_000),
        f => format!("{sign}{}.{f}s", n / 1_000_000_000),
    }
}

pub(super) fn shifted<'a>(t: Timestamp, nanos: i64) -> Output<'a> {
    t.checked_add(jiff::SignedDuration::from_nanos(nanos))
        .map(Val::Timestamp)
        .map_err(|_| err("timestamp overflow"))
}

/// A zone of the IANA database, or an offset such as `-08:00`.
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    if let Some((hours, minutes)) = name.split_once(':') {
        let bad = || err(format!("unknown time zone {name}"));
        let h: i32 = hours.parse().map_err(|_| bad())?;
        let m: i32 = minutes.parse().map_err(|_| bad())?;
        let m = if hours.starts_with('-') { -m } else { m };
        let offset = Offset::from_seconds(h * 3600 + m * 60).map_err(|_| bad())?;
        return Ok(TimeZone::fixed(offset));
    }
    TimeZone::get(name).map_err(|_| err(format!("unknown time zone {name}")))
}

fn part<'a>(
    args: Args<'_, 'a>,
    of_time: fn(&Zoned) -> i64,
    of_duration: Option<fn(i64) -> i64>,
) -> Output<'a> {
    match (args, of_duration) {
        ([Val::Timestamp(t)], _) => Ok(Val::Int(of_time(&t.to_zoned(TimeZone::UTC)))),
        ([Val::Timestamp(t), Val::String(z)], _) => Ok(Val::Int(of_time(&t.to_zoned(zone(z)?)))),
        ([Val::Duration(d)], Some(f)) => Ok(Val::Int(f(*d))),
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("getFullYear", |a| part(a, |t| t.year().into(), None)),
    ("getMonth", |a| part(a, |t| i64::from(t.month()) - 1, None)),
    ("getDayOfYear", |a| part(a, |t| i64::from(t.day_of_year()) - 1, None)),
    ("getDayOfMonth", |a| part(a, |t| i64::from(t.day()) - 1, None)),
    ("getDate", |a| part(a, |t| t.day().into(), None)),
    ("getDayOfWeek", |a| part(a, |t| t.weekday().to_sunday_zero_offset().into(), None)),
    ("getHours", |a| part(a, |t| t.hour().into(), Some(|d| d / (3600 * NANOS)))),
    ("getMinutes", |a| part(a, |t| t.minute().into(), Some(|d| d / (60 * NANOS)))),
    ("getSeconds", |a| part(a, |t| t.second().into(), Some(|d| d / NANOS))),
    ("getMilliseconds", |a| part(a, |t| t.millisecond().into(), Some(|d| d / 1_000_000))),
];
