//! Formats of text that OpenAPI schemas name, as upstream's validators know them. A format that is not
//! known holds for everything.

use coracle_meta::{name, pattern, time};
use std::net::IpAddr;

type Check = fn(&str) -> bool;

/// Formats by their names without dashes.
const FORMATS: &[(&str, Check)] = &[
    ("bsonobjectid", |s| s.len() == 24 && hex(s)),
    ("uri", |s| coracle_cel::parse_url(s).is_ok()),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |s| matches!(s.parse(), Ok(IpAddr::V4(_)))),
    ("ipv6", |s| matches!(s.parse(), Ok(IpAddr::V6(_)))),
    ("cidr", is_cidr),
    ("mac", is_mac),
    ("uuid", |s| is_uuid(s, None)),
    ("uuid3", |s| is_uuid(s, Some('3'))),
    ("uuid4", |s| is_uuid(s, Some('4'))),
    ("uuid5", |s| is_uuid(s, Some('5'))),
    ("isbn", |s| is_isbn10(s) || is_isbn13(s)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", |s| s.len() == 11 && matches("^\\d{3}[- ]?\\d{2}[- ]?\\d{4}$", s)),
    ("hexcolor", |s| {
        let digits = s.strip_prefix('#').unwrap_or(s);
        [3, 6].contains(&digits.len()) && hex(digits)
    }),
    ("rgbcolor", |s| {
        matches(
            "^rgb\\(\\s*(0|[1-9]\\d?|1\\d\\d?|2[0-4]\\d|25[0-5])\\s*(,\\s*(0|[1-9]\\d?|1\\d\\d?|2[0-4]\\d|25[0-5])\\s*){2}\\)$",
            s,
        )
    }),
    ("byte", |s| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        !s.is_empty() && STANDARD.decode(s).is_ok()
    }),
    ("date", |s| s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok()),
    ("duration", |s| time::parse_openapi_duration(s).is_some()),
    ("datetime", is_date_time),
    ("k8sshortname", |s| name::check_label(s).is_empty()),
    ("k8slongname", |s| name::check_subdomain(s).is_empty()),
];

/// Whether a text has a format.
pub fn holds(format: &str, s: &str) -> bool {
    let plain = format.replace('-', "");
    FORMATS.iter().find(|(n, _)| *n == plain).is_none_or(|(_, check)| check(s))
}

/// Whether a format is one that text is checked for.
pub fn is_known(format: &str) -> bool {
    let plain = format.replace('-', "");
    plain == "password" || FORMATS.iter().any(|(n, _)| *n == plain)
}

fn matches(p: &str, s: &str) -> bool {
    pattern::cached(p).is_ok_and(|r| r.is_match(s))
}

fn hex(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_email(s: &str) -> bool {
    let address = match s.rsplit_once('<') {
        Some((_, rest)) => rest.strip_suffix('>').unwrap_or_default(),
        None => s,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |s: &str| {
        !s.is_empty()
            && s.split('.').all(|p| {
                !p.is_empty()
                    && p.chars().all(|c| {
                        c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
                    })
            })
    };
    atom(local) && atom(domain)
}

fn is_hostname(s: &str) -> bool {
    s.len() <= 255
        && !s.is_empty()
        && s.trim_end_matches('.').split('.').all(|l| {
            (1..=63).contains(&l.len())
                && l.chars().all(|c| c.is_alphanumeric() || c == '-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        })
}

fn is_cidr(s: &str) -> bool {
    let Some((ip, bits)) = s.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    match ip.parse() {
        Ok(IpAddr::V4(_)) => bits <= 32,
        Ok(IpAddr::V6(_)) => bits <= 128,
        Err(_) => false,
    }
}

fn is_mac(s: &str) -> bool {
    let by = |sep: char, width: usize| {
        let parts: Vec<&str> = s.split(sep).collect();
        let bytes = parts.len() * width / 2;
        [6, 8, 20].contains(&bytes) && parts.iter().all(|p| p.len() == width && hex(p))
    };
    by(':', 2) || by('-', 2) || by('.', 4)
}

fn is_uuid(s: &str, version: Option<char>) -> bool {
    let digits: Vec<char> = s.chars().filter(|c| *c != '-').collect();
    let shape = "^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$";
    let variant = |c: char| "89abAB".contains(c);
    matches(shape, s)
        && match version {
            None => true,
            Some('3') => digits[12] == '3',
            Some(v) => digits[12] == v && variant(digits[16]),
        }
}

fn digits_of(s: &str) -> String {
    s.chars().filter(|c| *c != '-' && *c != ' ').collect()
}

fn is_isbn10(s: &str) -> bool {
    let d = digits_of(s);
    let values: Option<Vec<u32>> = d
        .chars()
        .enumerate()
        .map(|(i, c)| if i == 9 && c == 'X' { Some(10) } else { c.to_digit(10) })
        .collect();
    values.is_some_and(|v| {
        v.len() == 10 && v.iter().zip(1u32..).map(|(d, i)| d * i).sum::<u32>() % 11 == 0
    })
}

fn is_isbn13(s: &str) -> bool {
    let values: Option<Vec<u32>> = digits_of(s).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| {
        v.len() == 13
            && v.iter().zip([1, 3].iter().cycle()).map(|(d, w)| d * w).sum::<u32>() % 10 == 0
    })
}

fn is_credit_card(s: &str) -> bool {
    let values: Option<Vec<u32>> = digits_of(s).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| {
        let luhn: u32 = v
            .iter()
            .rev()
            .enumerate()
            .map(|(i, d)| match i % 2 {
                0 => *d,
                _ if d * 2 > 9 => d * 2 - 9,
                _ => d * 2,
            })
            .sum();
        (13..=19).contains(&v.len()) && luhn.is_multiple_of(10)
    })
}

fn is_date_time(s: &str) -> bool {
    let Some((date, clock)) = s.split_once(['t', 'T']) else { return false };
    let number = |r: std::ops::Range<usize>| clock.get(r).and_then(|t| t.parse::<u8>().ok());
    let shape = "^[0-9]{2}:[0-9]{2}:[0-9]{2}(.[0-9]+)?(z|Z|([+-][0-9]{2}:[0-9]{2}))$";
    date.len() == 10
        && date.parse::<jiff::civil::Date>().is_ok()
        && matches(shape, clock)
        && number(0..2).is_some_and(|h| h <= 23)
        && number(3..5).is_some_and(|m| m <= 59)
        && number(6..8).is_some_and(|s| s <= 59)
}
