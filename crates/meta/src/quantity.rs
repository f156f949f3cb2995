//! `resource.Quantity`: a fixed-point number with a suffix, parsed and printed as upstream does.
//!
//! The value is kept in billionths, so that the smallest suffix (`n`) is exact and the largest
//! (`E`) still fits. Printing is canonical: `1.5Gi` becomes `1536Mi`, `1000m` becomes `1`, because
//! that is what upstream stores and returns.

use std::{fmt, str::FromStr};

const NANOS: i128 = 1_000_000_000;
/// Upstream caps numbers of more than 18 digits at 2^63-1 whole units.
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS;
/// Where our own arithmetic ends: 10^28 units, far above `E`.
const HUGE_NANOS: i128 = 10i128.pow(37);

/// Which family of suffixes a quantity was written with, and is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `n u m "" k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `1e3`
    DecimalExponent,
}

/// A fixed-point number as in `resources.requests`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a string is no quantity; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct ParseQuantityError;

impl Quantity {
    /// A quantity of whole units, printed with decimal suffixes.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANOS, format: Format::DecimalSi }
    }

    /// A quantity of thousandths, as processors are counted.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// A quantity of bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// Whole units, rounded up as upstream's `Value()`.
    pub fn units_ceil(&self) -> i64 {
        saturate(div_ceil(self.nanos, NANOS))
    }

    /// Thousandths, rounded up as upstream's `MilliValue()`.
    pub fn millis_ceil(&self) -> i64 {
        saturate(div_ceil(self.nanos, NANOS / 1000))
    }

    /// Another value, printed in the same family of suffixes.
    pub fn with_nanos(&self, nanos: i128) -> Self {
        Self { nanos, ..*self }
    }

    /// The value in billionths of a unit.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    fn print_format(&self) -> Format {
        let small = self.nanos.abs() < 1024 * NANOS;
        match self.format {
            Format::BinarySi if small || self.nanos % NANOS != 0 => Format::DecimalSi,
            f => f,
        }
    }
}

fn saturate(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

fn div_ceil(a: i128, b: i128) -> i128 {
    let q = a / b;
    if a % b != 0 && a > 0 { q + 1 } else { q }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(s: &str) -> Result<Self, ParseQuantityError> {
        let (negative, rest) = match s.as_bytes().first() {
            Some(b'-') => (true, &s[1..]),
            Some(b'+') => (false, &s[1..]),
            _ => (false, s),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(ParseQuantityError);
        }
        let (scale, format) = parse_suffix(suffix)?;
        let cap = if whole.len() + fraction.len() > 18 { MAX_NANOS } else { HUGE_NANOS };
        let magnitude = scaled_nanos(whole, fraction, scale).min(cap);
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

/// What one unit of the suffix is worth.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Bytes(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), ParseQuantityError> {
    let decimal = |e| Ok((Scale::Ten(e), Format::DecimalSi));
    let binary = |e| Ok((Scale::Bytes(e), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError)?;
            let e: i32 = exponent.parse().map_err(|_| ParseQuantityError)?;
            Ok((Scale::Ten(e.clamp(-60, 60)), Format::DecimalExponent))
        }
    }
}

/// `whole.fraction` times the scale, in nanos, rounded up where finer than a nano.
fn scaled_nanos(whole: &str, fraction: &str, scale: Scale) -> i128 {
    // More digits than this cannot change a value that is capped at 2^63 units.
    const DIGITS: usize = 36;
    let mut mantissa: i128 = 0;
    let mut inexact = false;
    let mut fraction_digits: i32 = 0;
    let whole = whole.trim_start_matches('0');
    if whole.len() > DIGITS {
        return HUGE_NANOS;
    }
    for b in whole.bytes() {
        mantissa = mantissa * 10 + i128::from(b - b'0');
    }
    for b in fraction.bytes() {
        if whole.len() + (fraction_digits as usize) < DIGITS && fraction_digits < 30 {
            mantissa = mantissa * 10 + i128::from(b - b'0');
            fraction_digits += 1;
        } else if b != b'0' {
            inexact = true;
        }
    }
    let (mut value, mut ten) = match scale {
        Scale::Ten(e) => (mantissa, e + 9 - fraction_digits),
        Scale::Bytes(shift) => match mantissa.checked_mul(1i128 << shift) {
            Some(v) => (v, 9 - fraction_digits),
            None => return HUGE_NANOS,
        },
    };
    while ten > 0 && value != 0 {
        match value.checked_mul(10) {
            Some(v) if v <= HUGE_NANOS => value = v,
            _ => return HUGE_NANOS,
        }
        ten -= 1;
    }
    while ten < 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        ten += 1;
    }
    if inexact { value + 1 } else { value }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        match self.print_format() {
            Format::BinarySi => {
                let mut value = self.nanos / NANOS;
                let mut step = 0;
                while step < 6 && value % 1024 == 0 {
                    value /= 1024;
                    step += 1;
                }
                write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step])
            }
            format => {
                let mut value = self.nanos;
                let mut step = 0;
                while step < 9 && value % 1000 == 0 {
                    value /= 1000;
                    step += 1;
                }
                if format == Format::DecimalExponent {
                    let exponent = step as i32 * 3 - 9;
                    return match exponent {
                        0 => write!(f, "{value}"),
                        e => write!(f, "{value}e{e}"),
                    };
                }
                write!(f, "{value}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][step])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(s: &str) -> String {
        s.parse::<Quantity>().map_or_else(|_| "error".into(), |q| q.to_string())
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        for (input, want) in [
            ("0", "0"),
            ("0.1", "100m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("100000", "100k"),
            ("12E", "12E"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("-1.5Gi", "-1536Mi"),
            ("+1", "1"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("9223372036854775807", "9223372036854775807"),
            ("999999999999999999999999", "9223372036854775807"),
            ("1023Ki", "1023Ki"),
            ("0.0001Gi", "107374182400u"),
        ] {
            assert_eq!(canonical(input), want, "{input}");
        }
        for bad in ["", "-", "1x", "1.2.3", "Ki", "1ki", " 1", "1 ", "1eG", "0x10", "1Kib", "."] {
            assert_eq!(canonical(bad), "error", "{bad}");
        }
    }

    #[test]
    fn rounds_up_as_value_and_millivalue_do() {
        let q: Quantity = "1500u".parse().unwrap();
        assert_eq!((q.units_ceil(), q.millis_ceil()), (1, 2));
    }

    proptest! {
        #[test]
        fn printing_is_canonical_and_keeps_the_value(units in any::<i32>(), suffix in 0usize..13) {
            let suffix = ["n","u","m","","k","M","G","T","P","Ki","Mi","Gi","e3"][suffix];
            let q: Quantity = format!("{units}{suffix}").parse().unwrap();
            let printed = q.to_string();
            let again: Quantity = printed.parse().unwrap();
            prop_assert_eq!(q, again);
            prop_assert_eq!(printed, again.to_string());
        }

        #[test]
        fn never_panics(s in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,12}") {
            let _ = s.parse::<Quantity>();
        }
    }
}
