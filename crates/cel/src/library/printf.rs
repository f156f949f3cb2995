//! `'%s is %d'.format([name, n])`.

use super::{Args, Output, bad_arguments, convert::double_text, err};
use crate::{
    EvalError,
    value::{Key, Val},
};

/// Fractional digits where none are asked for.
const PRECISION: usize = 6;

pub(super) fn format<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::String(template), Val::List(values)] = args else { return bad_arguments() };
    let mut values = values.items().into_iter();
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    let mut used = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            precision = digits.parse::<usize>().ok().filter(|p| *p <= 1000);
            if precision.is_none() {
                return Err(err("could not convert precision value"));
            }
        }
        let Some(verb) = chars.next() else { return Err(err("unexpected end of string")) };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(v) = values.next() else {
            return Err(err(format!("index {used} out of range")));
        };
        used += 1;
        out += &clause(verb, precision, &v)?;
    }
    Ok(Val::text(out))
}

fn clause(verb: char, precision: Option<usize>, v: &Val<'_>) -> Result<String, EvalError> {
    let wrong = |wanted: &str| {
        Err(err(format!("error during formatting: {wanted}, was given {}", v.type_name())))
    };
    let digits = precision.unwrap_or(PRECISION);
    Ok(match (verb, v) {
        ('s', v) => text(v),
        ('d', Val::Int(i)) => i.to_string(),
        ('d', Val::Uint(u)) => u.to_string(),
        ('d', Val::Double(d)) if !d.is_finite() => infinite(*d),
        ('d', _) => return wrong("decimal clause can only be used on integers"),
        ('f', Val::Double(d)) if d.is_finite() => format!("{d:.digits$}"),
        ('f', Val::Int(i)) => format!("{:.digits$}", *i as f64),
        ('f', Val::Uint(u)) => format!("{:.digits$}", *u as f64),
        ('f' | 'e', Val::Double(d)) if !d.is_finite() => infinite(*d),
        ('f', _) => return wrong("fixed-point clause can only be used on doubles"),
        ('e', Val::Double(d)) => scientific(*d, digits),
        ('e', Val::Int(i)) => scientific(*i as f64, digits),
        ('e', Val::Uint(u)) => scientific(*u as f64, digits),
        ('e', _) => return wrong("scientific clause can only be used on doubles"),
        ('b', Val::Int(i)) => signed(*i, |n| format!("{n:b}")),
        ('b', Val::Uint(u)) => format!("{u:b}"),
        ('b', Val::Bool(b)) => u8::from(*b).to_string(),
        ('b', _) => return wrong("only integers and bools can be formatted as binary"),
        ('o', Val::Int(i)) => signed(*i, |n| format!("{n:o}")),
        ('o', Val::Uint(u)) => format!("{u:o}"),
        ('o', _) => return wrong("octal clause can only be used on integers"),
        ('x' | 'X', v) => {
            let hex = match v {
                Val::Int(i) => signed(*i, |n| format!("{n:x}")),
                Val::Uint(u) => format!("{u:x}"),
                Val::String(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
                _ => {
                    return wrong(
                        "only integers, byte buffers, and strings can be formatted as hex",
                    );
                }
            };
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        (other, _) => {
            return Err(err(format!("unrecognized formatting clause \"{other}\"")));
        }
    })
}

fn infinite(d: f64) -> String {
    match d {
        d if d.is_nan() => "NaN".into(),
        d if d > 0.0 => "Infinity".into(),
        _ => "-Infinity".into(),
    }
}

fn signed(i: i64, f: fn(u64) -> String) -> String {
    let sign = if i < 0 { "-" } else { "" };
    format!("{sign}{}", f(i.unsigned_abs()))
}

fn scientific(d: f64, digits: usize) -> String {
    let text = format!("{d:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, number) = match exponent.strip_prefix('-') {
        Some(n) => ("⁻", n),
        None => ("⁰", exponent),
    };
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raised = number.bytes().map(|d| RAISED[usize::from(d - b'0') % 10]);
    format!("{mantissa}×10{sign}{}", raised.collect::<String>())
}

/// What is in a list or map: text in quotes.
fn quoted(v: &Val<'_>) -> String {
    match v {
        Val::String(s) => format!("{s:?}"),
        v => text(v),
    }
}

fn text(v: &Val<'_>) -> String {
    match v {
        Val::Null => "null".into(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) if !d.is_finite() => infinite(*d),
        Val::Double(d) => double_text(*d),
        Val::String(s) => s.to_string(),
        Val::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Val::Timestamp(t) => t.to_string(),
        Val::Duration(d) => super::time::duration_text(*d),
        Val::List(l) => {
            let items: Vec<String> = l.items().iter().map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
        Val::Map(m) => {
            let mut entries: Vec<String> = m
                .entries()
                .iter()
                .map(|(k, v)| {
                    let k = match k {
                        Key::String(s) => quoted(&Val::text(s.to_string())),
                        other => other.to_string(),
                    };
                    format!("{k}:{}", quoted(v))
                })
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Val::Optional(o) => o
            .as_ref()
            .map_or_else(|| "optional.none()".into(), |v| format!("optional({})", text(v))),
        Val::Type(t) => t.to_string(),
        Val::Opaque(o) => o.to_string(),
    }
}
