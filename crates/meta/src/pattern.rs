//! Regular expressions as users of Kubernetes write them: in Go's syntax, matched in linear time.

use parking_lot::Mutex;
use regex::Regex;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

/// Most compiled patterns that are kept for [`cached`], of those that are small and large.
const MAX_CACHED: [usize; 2] = [256, 4];
/// Largest compiled patterns that are small and large; a pattern comes from a user, and some that
/// Go takes, with classes of Unicode many times over, need tens of megabytes here.
const MAX_COMPILED_BYTES: [usize; 2] = [1 << 20, 64 << 20];

/// A compiled pattern.
///
/// # Errors
/// What is wrong with the pattern.
pub fn compile(p: &str) -> Result<Regex, regex::Error> {
    sized(p).map(|(r, _)| r)
}

/// A compiled pattern, and its class of size.
fn sized(p: &str) -> Result<(Regex, usize), regex::Error> {
    let go = go_pattern(p);
    let build = |class: usize| {
        let limit = MAX_COMPILED_BYTES[class];
        regex::RegexBuilder::new(&go).size_limit(limit).build().map(|r| (r, class))
    };
    match build(0) {
        Err(regex::Error::CompiledTooBig(_)) => build(1),
        other => other,
    }
}

/// A pattern that may be needed again soon.
///
/// # Errors
/// As [`compile`].
pub fn cached(p: &str) -> Result<Arc<Regex>, regex::Error> {
    type Cache = HashMap<Box<str>, Arc<Regex>>;
    static CACHES: LazyLock<[Mutex<Cache>; 2]> = LazyLock::new(Default::default);
    for cache in &*CACHES {
        if let Some(r) = cache.lock().get(p) {
            return Ok(r.clone());
        }
    }
    let (compiled, class) = sized(p)?;
    let compiled = Arc::new(compiled);
    let mut cache = CACHES[class].lock();
    if cache.len() >= MAX_CACHED[class] {
        cache.clear();
    }
    cache.insert(p.into(), compiled.clone());
    Ok(compiled)
}

/// A pattern of Go's syntax in that of our engine, which reads more into a class of characters: a
/// bracket, and `&&`, `--` and `~~`, are there operators.
fn go_pattern(p: &str) -> String {
    let mut out = String::with_capacity(p.len());
    let (mut inside, mut at_start) = (false, false);
    let mut chars = p.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let next = chars.next();
                match next.and_then(|c| ascii_class(c, inside)) {
                    Some(class) => out += class,
                    None => {
                        out.push(c);
                        out.extend(next);
                    }
                }
                at_start = false;
                continue;
            }
            '[' if !inside => {
                (inside, at_start) = (true, true);
                out.push(c);
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                continue;
            }
            // `[:alpha:]` is the same in both.
            '[' if chars.peek() == Some(&':') => {
                out.push(c);
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
                at_start = false;
                continue;
            }
            '[' => out.push('\\'),
            ']' if inside && at_start => out.push('\\'),
            ']' => inside = false,
            // Of two, the second: the first may begin a range's end.
            '&' | '~' | '-' if inside && !at_start && out.ends_with(c) => out.push('\\'),
            _ => {}
        }
        out.push(c);
        at_start = false;
    }
    out
}

/// Go's classes behind a backslash know ASCII only.
fn ascii_class(c: char, inside: bool) -> Option<&'static str> {
    Some(match (c, inside) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('s', false) => r"[\t\n\f\r ]",
        ('s', true) => r"\t\n\f\r ",
        ('D', _) => "[^0-9]",
        ('W', _) => "[^0-9A-Za-z_]",
        ('S', _) => r"[^\t\n\f\r ]",
        ('b', false) => r"(?-u:\b)",
        ('B', false) => r"(?-u:\B)",
        _ => return None,
    })
}

/// What Go says of a pattern that is none.
pub fn fault(p: &str, e: &regex::Error) -> String {
    let text = e.to_string();
    let has = |what: &str| text.contains(what);
    let from = |c: char| p.rfind(c).map_or(p, |at| &p[at..]);
    let what = if has("unclosed character class") {
        format!("missing closing ]: `{}`", p.find('[').map_or(p, |at| &p[at..]))
    } else if has("unclosed group") {
        format!("missing closing ): `{p}`")
    } else if has("unopened group") {
        format!("unexpected ): `{p}`")
    } else if has("repetition operator missing expression") {
        let at = p.find(['*', '+', '?']).unwrap_or(0);
        format!("missing argument to repetition operator: `{}`", p.get(at..=at).unwrap_or(p))
    } else if has("look-around") || has("look-ahead") || has("look-behind") {
        let at = p.find("(?").unwrap_or(0);
        let end = (at + if p[at..].starts_with("(?<") { 4 } else { 3 }).min(p.len());
        format!("invalid or unsupported Perl syntax: `{}`", p.get(at..end).unwrap_or(p))
    } else if has("incomplete escape sequence") {
        format!(
            "trailing backslash at end of expression: `{}`",
            from('\\').trim_start_matches('\\')
        )
    } else if has("CompiledTooBig") || has("size limit") {
        format!("expression too large: `{p}`")
    } else {
        let why = text.lines().last().unwrap_or_default();
        format!("{}: `{p}`", why.trim_start_matches("error: "))
    };
    format!("error parsing regexp: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, yes, no) in [
            ("^[-_[A-Za-z0-9]+@x$", "a[_b@x", "a]@x"),
            ("^[]a]+$", "]a", "b"),
            ("^[^]a]+$", "b", "]"),
            ("^[a&&b]+$", "&ab", "c"),
            ("^[+--]+$", "+,-", "a"),
            ("^[[:alpha:]_]+$", "ab_", "1"),
            (r"^[\[\]]+\[$", "[][", "a["),
        ] {
            let r = compile(pattern).unwrap();
            assert!(r.is_match(yes) && !r.is_match(no), "{pattern}");
        }
    }
}
