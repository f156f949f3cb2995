//! Times and durations as the API writes them: RFC 3339 seconds, Go durations, and the short ages
//! of `kubectl get`. The clock is always the caller's.

use jiff::{SignedDuration, Timestamp};

/// `2026-01-02T03:04:05Z`, as `metav1.Time` prints.
pub fn rfc3339(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.678901Z`, as `metav1.MicroTime` prints.
pub fn rfc3339_micro(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads an RFC 3339 time.
pub fn parse_rfc3339(s: &str) -> Option<Timestamp> {
    s.parse().ok()
}

/// Reads a Go duration such as `1h30m`, `300ms`, `-1.5h` or `0`.
pub fn parse_go_duration(s: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match s.as_bytes().first()? {
        b'-' => (true, &s[1..]),
        b'+' => (false, &s[1..]),
        _ => (false, s),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut total: f64 = 0.0;
    let mut nanos: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        match number.parse::<i64>() {
            Ok(n) => nanos = nanos.checked_add(i128::from(n) * unit_nanos)?,
            Err(_) => total += number.parse::<f64>().ok()? * unit_nanos as f64,
        }
        rest = tail;
    }
    let nanos = nanos + total as i128;
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).ok()?;
    Some(SignedDuration::from_nanos(nanos))
}

/// Why Go refuses a duration that [`parse_go_duration`] could not read.
pub fn go_duration_fault(s: &str) -> String {
    let bare = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let why = if bare { "missing unit in duration" } else { "invalid duration" };
    format!("time: {why} {s:?}")
}

/// Reads a value of OpenAPI's format `duration`: a Go duration, or a number and a unit that may
/// also be a day or a week.
pub fn parse_openapi_duration(s: &str) -> Option<SignedDuration> {
    const UNITS: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "µs", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec", "second"], 1_000_000_000),
        (&["m", "min", "minute"], 60_000_000_000),
        (&["h", "hr", "hour"], 3_600_000_000_000),
        (&["d", "day"], 86_400_000_000_000),
        (&["w", "wk", "week"], 604_800_000_000_000),
    ];
    if let Some(d) = parse_go_duration(s) {
        return Some(d);
    }
    let at = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let number: f64 = s[..at].parse().ok()?;
    let unit = s[at..].trim().to_lowercase();
    let singular = unit.strip_suffix('s').unwrap_or(&unit);
    let names = |n: &[&str]| n.contains(&unit.as_str()) || n.contains(&singular);
    let (_, nanos) = UNITS.iter().find(|(n, _)| names(n))?;
    Some(SignedDuration::from_nanos((number * *nanos as f64) as i64))
}

/// Prints a duration as Go's `Duration.String` does: `1h30m0s`, `300ms`, `0s`.
pub fn go_duration(d: SignedDuration) -> String {
    let nanos = d.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    if nanos == 0 {
        return "0s".into();
    }
    let decimal = |value: u128, unit: u128| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{}{dot}{fraction}", value / unit)
    };
    if nanos < 1_000_000_000 {
        let (unit, name) = match nanos {
            n if n < 1_000 => return format!("{sign}{n}ns"),
            n if n < 1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{name}", decimal(nanos, unit));
    }
    let seconds = nanos / 1_000_000_000;
    let (h, m) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (h, m) {
        (0, 0) => format!("{sign}{rest}s"),
        (0, m) => format!("{sign}{m}m{rest}s"),
        (h, m) => format!("{sign}{h}h{m}m{rest}s"),
    }
}

/// The AGE column of `kubectl get`: two units at most, as upstream's `HumanDuration`.
pub fn human_duration(d: SignedDuration) -> String {
    let s = d.as_secs();
    match s {
        s if s < -1 => "<invalid>".into(),
        s if s < 0 => "0s".into(),
        s if s < 120 => format!("{s}s"),
        s if s < 600 => two(s / 60, "m", s % 60, "s"),
        s if s < 3 * 3600 => format!("{}m", s / 60),
        s if s < 8 * 3600 => two(s / 3600, "h", s / 60 % 60, "m"),
        s if s < 48 * 3600 => format!("{}h", s / 3600),
        s if s < 8 * 86400 => two(s / 86400, "d", s / 3600 % 24, "h"),
        s if s < 2 * 365 * 86400 => format!("{}d", s / 86400),
        s if s < 8 * 365 * 86400 => two(s / 86400 / 365, "y", s / 86400 % 365, "d"),
        s => format!("{}y", s / 86400 / 365),
    }
}

fn two(a: i64, a_unit: &str, b: i64, b_unit: &str) -> String {
    if b == 0 { format!("{a}{a_unit}") } else { format!("{a}{a_unit}{b}{b_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_round_trip() {
        for (input, want) in [
            ("1h30m", "1h30m0s"),
            ("90s", "1m30s"),
            ("300ms", "300ms"),
            ("1.5h", "1h30m0s"),
            ("-1m", "-1m0s"),
            ("0", "0s"),
            ("2us", "2µs"),
            ("1.5s", "1.5s"),
            ("720h", "720h0m0s"),
        ] {
            assert_eq!(go_duration(parse_go_duration(input).unwrap()), want);
        }
        for bad in ["", "1", "h", "1x", "1h1", "--1s"] {
            assert!(parse_go_duration(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn ages_are_kubectls() {
        for (secs, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (49 * 3600, "2d1h"),
            (30 * 86400, "30d"),
            (3 * 365 * 86400, "3y"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(secs)), want);
        }
    }
}
