//! Cron schedules as upstream reads them (robfig's standard parser): five fields or a descriptor,
//! names of months and days, ranges, steps, and "day of month or day of week" when both are given.

use jiff::{Span, Timestamp, ToSpan, civil::DateTime, tz::TimeZone};

/// A parsed schedule: one bit a minute, hour, day, month and weekday.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
    every: Option<i64>,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that never fires within this many years (February 30th) has no next time.
const HORIZON_YEARS: i16 = 5;

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            t if t.starts_with("@every ") => return Self::every(t),
            t if t.starts_with('@') => return Err(format!("unrecognized descriptor: {t}")),
            t => t,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
        };
        let any = |f: &str| f.starts_with('*') || f.starts_with('?');
        Ok(Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 6, &WEEKDAYS)?,
            any_day: any(days),
            any_weekday: any(weekdays),
            every: None,
        })
    }

    fn every(text: &str) -> Result<Self, String> {
        let given = &text["@every ".len()..];
        let seconds =
            crate::time::parse_go_duration(given).map(|d| d.as_secs().max(1)).ok_or_else(|| {
                let why = crate::time::go_duration_fault(given);
                format!("failed to parse duration {text}: {why}")
            })?;
        Ok(Self {
            minutes: 0,
            hours: 0,
            days: 0,
            months: 0,
            weekdays: 0,
            any_day: true,
            any_weekday: true,
            every: Some(seconds),
        })
    }

    /// The first time after `after` at which the schedule fires. Local times that a clock change
    /// skips do not fire.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Some(seconds) = self.every {
            return after.checked_add(Span::new().seconds(seconds)).ok();
        }
        let start = zone.to_datetime(after);
        let mut t = start
            .with()
            .second(0)
            .subsec_nanosecond(0)
            .build()
            .ok()?
            .checked_add(1.minute())
            .ok()?;
        let has = |bits: u64, n: i8| bits & (1 << n) != 0;
        while t.year() <= start.year() + HORIZON_YEARS {
            if !has(self.months, t.month()) {
                t = month_start(t)?.checked_add(1.month()).ok()?;
            } else if !self.day_matches(t) {
                t = t.date().checked_add(1.day()).ok()?.to_datetime(jiff::civil::Time::midnight());
            } else if !has(self.hours, t.hour()) {
                t = t.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
            } else if !has(self.minutes, t.minute()) {
                t = t.checked_add(1.minute()).ok()?;
            } else {
                let ambiguous = zone.to_ambiguous_timestamp(t);
                let real = ambiguous.compatible().ok()?;
                if zone.to_datetime(real) == t && real > after {
                    return Some(real);
                }
                t = t.checked_add(1.minute()).ok()?;
            }
        }
        None
    }

    fn day_matches(&self, t: DateTime) -> bool {
        let day = self.days & (1 << t.day()) != 0;
        let weekday = self.weekdays & (1 << t.weekday().to_sunday_zero_offset()) != 0;
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }
}

fn month_start(t: DateTime) -> Option<DateTime> {
    Some(t.date().with().day(1).build().ok()?.to_datetime(jiff::civil::Time::midnight()))
}

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let mut parts = text.split(',').filter(|p| !p.is_empty());
    parts.try_fold(0, |bits, part| Ok(bits | range(part, min, max, names)?))
}

/// A number as Go reads it.
fn number(s: &str, within: &str) -> Result<u32, String> {
    let digits = s.strip_prefix(['+', '-']).unwrap_or(s);
    let n: i64 = s.parse().map_err(|_| {
        let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let why = if all { "value out of range" } else { "invalid syntax" };
        format!("failed to parse int from {s}: strconv.Atoi: parsing {s:?}: {why}")
    })?;
    if n < 0 {
        return Err(format!("negative number ({n}) not allowed: {s}"));
    }
    u32::try_from(n).map_err(|_| format!("end of range ({n}) above maximum: {within}"))
}

fn range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let value = |s: &str| -> Result<u32, String> {
        let lower = s.to_lowercase();
        match names.iter().position(|n| *n == lower) {
            Some(i) => Ok(i as u32 + min),
            None => number(s, text),
        }
    };
    let parts: Vec<&str> = text.split('/').collect();
    let bounds: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end) = match bounds[..] {
        ["*" | "?", ..] => (min, max),
        [one] => (value(one)?, value(one)?),
        [a, b] => (value(a)?, value(b)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            if bounds.len() == 1 {
                end = max;
            }
            number(step, text)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok((start..=end).step_by(step as usize).fold(0, |bits, n| bits | 1 << n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let s = Schedule::parse(schedule).unwrap();
        s.next(after.parse().unwrap(), &zone).map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn fires_when_it_should() {
        let from = "2026-01-01T00:00:30Z";
        for (schedule, want) in [
            ("* * * * *", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z"),
            ("0 0 * * *", "2026-01-02T00:00:00Z"),
            ("@hourly", "2026-01-01T01:00:00Z"),
            ("30 4 1,15 * 5", "2026-01-01T04:30:00Z"),
            ("0 12 * feb mon-wed", "2026-02-02T12:00:00Z"),
            ("5/20 * * * *", "2026-01-01T00:05:00Z"),
            ("0 0 30 2 *", "never"),
            ("@every 1h30m", "2026-01-01T01:30:30Z"),
        ] {
            assert_eq!(next(schedule, from, "UTC"), want, "{schedule}");
        }
    }

    #[test]
    fn local_times_that_do_not_exist_are_skipped() {
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", "Europe/Berlin"),
            "2026-03-30T00:30:00Z"
        );
    }

    #[test]
    fn bad_schedules_are_refused() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "a * * * *",
            "@sometimes",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }
}
