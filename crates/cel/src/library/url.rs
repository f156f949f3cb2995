//! `url`: absolute URLs and absolute paths, as Go's `url.ParseRequestURI` reads them.

use super::{Args, Function, Output, bad_arguments, bool_of, err};
use crate::value::{Key, Map, Opaque, Val};
use std::{collections::BTreeMap, sync::Arc};

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// As written.
    pub text: Box<str>,
    scheme: Box<str>,
    host: Box<str>,
    path: Box<str>,
    query: Box<str>,
}

/// Reads an absolute URL or an absolute path.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn parse(s: &str) -> Result<Url, String> {
    let fail = |why: &str| {
        Err(format!("URL parse error during conversion from string: parse {s:?}: {why}"))
    };
    if s.is_empty() {
        return fail("empty url");
    }
    if s.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return fail("net/url: invalid control character in URL");
    }
    let (rest, query) = s.split_once('?').unwrap_or((s, ""));
    let (scheme, rest) = match rest.split_once(':') {
        Some((head, tail)) if !head.contains('/') => {
            let legal = head.starts_with(|c: char| c.is_ascii_alphabetic())
                && head.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            if head.is_empty() {
                return fail("missing protocol scheme");
            }
            if !legal {
                return fail("first path segment in URL cannot contain colon");
            }
            (head.to_ascii_lowercase(), tail)
        }
        _ => (String::new(), rest),
    };
    if !rest.starts_with('/') {
        // Opaque URLs are URLs too; relative ones are not.
        if scheme.is_empty() {
            return fail("invalid URI for request");
        }
        return Ok(Url {
            text: s.into(),
            scheme: scheme.into(),
            host: "".into(),
            path: "".into(),
            query: query.into(),
        });
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(tail) if !scheme.is_empty() || !rest.starts_with("///") => {
            let end = tail.find('/').unwrap_or(tail.len());
            (&tail[..end], &tail[end..])
        }
        _ => ("", rest),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    if let Some(why) = bad_host(host) {
        return fail(&why);
    }
    if let Some(escape) = bad_escape(path) {
        return fail(&format!("invalid URL escape {escape:?}"));
    }
    Ok(Url {
        text: s.into(),
        scheme: scheme.into(),
        host: host.into(),
        path: path.into(),
        query: query.into(),
    })
}

fn bad_escape(s: &str) -> Option<String> {
    let bytes = s.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        let hex = |j: usize| bytes.get(i + j).is_some_and(u8::is_ascii_hexdigit);
        if *b == b'%' && !(hex(1) && hex(2)) {
            return Some(s[i..].chars().take(3).collect());
        }
    }
    None
}

fn bad_host(host: &str) -> Option<String> {
    if let Some(open) = host.strip_prefix('[') {
        let Some((_, tail)) = open.split_once(']') else {
            return Some("missing ']' in host".into());
        };
        return match tail.strip_prefix(':') {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => None,
            None if tail.is_empty() => None,
            _ => Some(format!("invalid port {tail:?} after host")),
        };
    }
    if let Some((_, port)) = host.rsplit_once(':') {
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Some(format!("invalid port {:?} after host", format!(":{port}")));
        }
    }
    let odd = |c: char| {
        c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:[]<>\"%".contains(c)
    };
    host.chars()
        .find(|c| odd(*c))
        .map(|c| format!("invalid character {:?} in host name", c.to_string()))
}

impl Url {
    fn port(&self) -> &str {
        let after = match self.host.rfind(']') {
            Some(i) => &self.host[i + 1..],
            None => &self.host,
        };
        after.rsplit_once(':').map_or("", |(_, p)| p)
    }

    fn hostname(&self) -> &str {
        let port = self.port();
        let bare = if port.is_empty() {
            self.host.trim_end_matches(':')
        } else {
            &self.host[..self.host.len() - port.len() - 1]
        };
        bare.trim_start_matches('[').trim_end_matches(']')
    }

    fn query(&self) -> BTreeMap<Key, Vec<String>> {
        let mut map: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(k), Some(v)) = (unescape(k), unescape(v)) else { continue };
            map.entry(Key::String(k.into())).or_default().push(v);
        }
        map
    }

    fn escaped_path(&self) -> String {
        const KEPT: &str = "-_.~$&+,/:;=@!'()*[]%";
        let mut out = String::new();
        for b in self.path.bytes() {
            if b.is_ascii_alphanumeric() || KEPT.contains(char::from(b)) {
                out.push(char::from(b));
            } else {
                out += &format!("%{b:02X}");
            }
        }
        out
    }
}

fn unescape(s: &str) -> Option<String> {
    if bad_escape(s).is_some() {
        return None;
    }
    let (mut out, bytes, mut i) = (Vec::new(), s.as_bytes(), 0);
    while i < bytes.len() {
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => {
                out.push(u8::from_str_radix(s.get(i + 1..i + 3)?, 16).ok()?);
                i += 2;
            }
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

fn get<'a>(args: Args<'_, 'a>, f: fn(&Url) -> String) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Url(u))] => Ok(Val::text(f(u))),
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("url", |a| match a {
        [Val::String(s)] => parse(s).map(|u| Val::Opaque(Opaque::Url(Arc::new(u)))).map_err(err),
        _ => bad_arguments(),
    }),
    ("isURL", |a| bool_of(a, |s| parse(s).is_ok())),
    ("getScheme", |a| get(a, |u| u.scheme.to_string())),
    ("getHost", |a| get(a, |u| u.host.to_string())),
    ("getHostname", |a| get(a, |u| u.hostname().to_owned())),
    ("getPort", |a| get(a, |u| u.port().to_owned())),
    ("getEscapedPath", |a| get(a, Url::escaped_path)),
    ("getQuery", |a| match a {
        [Val::Opaque(Opaque::Url(u))] => {
            let list = |v: Vec<String>| Val::list(v.into_iter().map(Val::text).collect());
            let map = u.query().into_iter().map(|(k, v)| (k, list(v))).collect();
            Ok(Val::Map(Map::Made(Arc::new(map))))
        }
        _ => bad_arguments(),
    }),
];
