//! Text. Positions count characters.

use super::{Args, Function, Output, bad_arguments, err};
use crate::{EvalError, value::Val};
use coracle_meta::pattern;

fn number(i: usize) -> i64 {
    i64::try_from(i).unwrap_or(i64::MAX)
}

fn test<'a>(args: Args<'_, 'a>, holds: fn(&str, &str) -> bool) -> Output<'a> {
    match args {
        [Val::String(a), Val::String(b)] => Ok(Val::Bool(holds(a, b))),
        _ => bad_arguments(),
    }
}

fn chars(s: &str) -> Vec<char> {
    s.chars().collect()
}

fn out_of_range(i: i64) -> EvalError {
    err(format!("index out of range: {i}"))
}

fn char_at<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::String(s), Val::Int(i)] = args else { return bad_arguments() };
    let c = chars(s);
    let at =
        usize::try_from(*i).ok().filter(|at| *at <= c.len()).ok_or_else(|| out_of_range(*i))?;
    Ok(Val::text(c.get(at).map(ToString::to_string).unwrap_or_default()))
}

/// Where a text is found in another, from a position on.
pub(super) fn index_of<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (s, sub, from) = match args {
        [Val::String(s), Val::String(sub)] => (s, sub, 0),
        [Val::String(s), Val::String(sub), Val::Int(i)] => (s, sub, *i),
        _ => return bad_arguments(),
    };
    if sub.is_empty() {
        return Ok(Val::Int(from));
    }
    let (s, sub) = (chars(s), chars(sub));
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let found = s.windows(sub.len()).skip(start).position(|w| w == sub);
    Ok(Val::Int(found.map_or(-1, |i| number(i + start))))
}

/// The last place at or before a position where a text is found in another.
pub(super) fn last_index_of<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (s, sub, from) = match args {
        [Val::String(s), Val::String(sub)] => (s, sub, None),
        [Val::String(s), Val::String(sub), Val::Int(i)] => (s, sub, Some(*i)),
        _ => return bad_arguments(),
    };
    let (s, sub) = (chars(s), chars(sub));
    let end = match from {
        None => s.len(),
        Some(i) => match usize::try_from(i) {
            Ok(i) if i < s.len() => i,
            Ok(_) => return Ok(Val::Int(-1)),
            Err(_) => return Err(out_of_range(i)),
        },
    };
    if sub.is_empty() {
        return Ok(Val::Int(number(end)));
    }
    let found = s.windows(sub.len()).take(end + 1).rposition(|w| w == sub);
    Ok(Val::Int(found.map_or(-1, number)))
}

fn substring<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (s, from, to) = match args {
        [Val::String(s), Val::Int(from)] => (s, *from, None),
        [Val::String(s), Val::Int(from), Val::Int(to)] => (s, *from, Some(*to)),
        _ => return bad_arguments(),
    };
    let c = chars(s);
    let place =
        |i: i64| usize::try_from(i).ok().filter(|i| *i <= c.len()).ok_or_else(|| out_of_range(i));
    let start = place(from)?;
    let end = to.map_or(Ok(c.len()), place)?;
    if start > end {
        return Err(err(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Val::text(c[start..end].iter().collect::<String>()))
}

fn replace<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(s), Val::String(from), Val::String(to)] => {
            Ok(Val::text(s.replace(from.as_ref(), to)))
        }
        [Val::String(s), Val::String(from), Val::String(to), Val::Int(n)] => {
            Ok(Val::text(match usize::try_from(*n) {
                Ok(n) => s.replacen(from.as_ref(), to, n),
                Err(_) => s.replace(from.as_ref(), to),
            }))
        }
        _ => bad_arguments(),
    }
}

fn split<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (s, by, n) = match args {
        [Val::String(s), Val::String(by)] => (s, by, -1),
        [Val::String(s), Val::String(by), Val::Int(n)] => (s, by, *n),
        _ => return bad_arguments(),
    };
    let parts: Vec<String> = match usize::try_from(n) {
        Ok(0) => vec![],
        // Rust splits by nothing into an empty text before and after.
        _ if by.is_empty() => {
            let all: Vec<String> = s.chars().map(String::from).collect();
            match usize::try_from(n) {
                Ok(n) if n < all.len() => [&all[..n - 1], &[all[n - 1..].concat()]].concat(),
                _ => all,
            }
        }
        Ok(n) => s.splitn(n, by.as_ref()).map(Into::into).collect(),
        Err(_) => s.split(by.as_ref()).map(Into::into).collect(),
    };
    Ok(Val::list(parts.into_iter().map(Val::text).collect()))
}

fn join<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (l, by) = match args {
        [Val::List(l)] => (l, ""),
        [Val::List(l), Val::String(by)] => (l, by.as_ref()),
        _ => return bad_arguments(),
    };
    let mut parts = Vec::with_capacity(l.len());
    for v in l.items() {
        let Val::String(s) = v else { return bad_arguments() };
        parts.push(s.into_owned());
    }
    Ok(Val::text(parts.join(by)))
}

fn map_text<'a>(args: Args<'_, 'a>, f: fn(&str) -> String) -> Output<'a> {
    match args {
        [Val::String(s)] => Ok(Val::text(f(s))),
        _ => bad_arguments(),
    }
}

/// Text in quotes, with what is special escaped.
fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\u{7}' => out += "\\a",
            '\u{8}' => out += "\\b",
            '\u{c}' => out += "\\f",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\u{b}' => out += "\\v",
            '\\' => out += "\\\\",
            '"' => out += "\\\"",
            c => out.push(c),
        }
    }
    out + "\""
}

fn regex(p: &str) -> Result<std::sync::Arc<regex::Regex>, EvalError> {
    pattern::cached(p).map_err(|e| err(pattern::fault(p, &e)))
}

/// As [`regex`], with the words of Kubernetes' own functions.
fn readable(p: &str) -> Result<std::sync::Arc<regex::Regex>, EvalError> {
    pattern::cached(p).map_err(|e| err(format!("Illegal regex: {}", pattern::fault(p, &e))))
}

fn matches<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(s), Val::String(p)] => Ok(Val::Bool(regex(p)?.is_match(s))),
        _ => bad_arguments(),
    }
}

fn find<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::String(s), Val::String(p)] = args else { return bad_arguments() };
    let found = readable(p)?;
    Ok(Val::text(found.find(s).map_or("", |m| m.as_str()).to_owned()))
}

fn find_all<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let (s, p, n) = match args {
        [Val::String(s), Val::String(p)] => (s, p, -1),
        [Val::String(s), Val::String(p), Val::Int(n)] => (s, p, *n),
        _ => return bad_arguments(),
    };
    let limit = usize::try_from(n).unwrap_or(usize::MAX);
    let re = readable(p)?;
    let all = re.find_iter(s).take(limit).map(|m| Val::text(m.as_str().to_owned()));
    Ok(Val::list(all.collect()))
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("contains", |a| test(a, |s, t| s.contains(t))),
    ("startsWith", |a| test(a, |s, t| s.starts_with(t))),
    ("endsWith", |a| test(a, |s, t| s.ends_with(t))),
    ("matches", matches),
    ("find", find),
    ("findAll", find_all),
    ("charAt", char_at),
    ("substring", substring),
    ("replace", replace),
    ("split", split),
    ("join", join),
    ("lowerAscii", |a| map_text(a, str::to_ascii_lowercase)),
    ("upperAscii", |a| map_text(a, str::to_ascii_uppercase)),
    ("trim", |a| map_text(a, |s| s.trim().to_owned())),
    ("strings.quote", |a| map_text(a, quote)),
    ("format", super::printf::format),
];
