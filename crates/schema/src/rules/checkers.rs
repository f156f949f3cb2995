//! Checks of single texts that the table names, with upstream's words.

use coracle_meta::{cron, name, pattern, status::FieldError};
use serde_json::Value;
use std::net::IpAddr;

type Check = fn(&str) -> Vec<String>;

const CHECKERS: &[(&str, Check)] = &[
    ("dns-label", name::check_label),
    ("dns-subdomain", name::check_subdomain),
    ("dns-subdomain-prefix", |s| name::check_subdomain(&masked(s))),
    ("dns-subdomain-lower", |s| name::check_subdomain(&s.to_lowercase())),
    ("dns-subdomain-underscore", underscored),
    ("dns-1035", name::check_label_1035),
    ("qualified", name::check_qualified_name),
    ("label-key", name::check_qualified_name),
    ("qualified-lower", |s| name::check_qualified_name(&s.to_lowercase())),
    ("label-value", name::check_label_value),
    ("path-segment", |s| name::check(name::NameRule::PathSegment, s)),
    ("port-name", port_name),
    ("env-name", env_name),
    ("config-key", config_key),
    ("http-header", |s| {
        shape(
            "^[-A-Za-z0-9]+$",
            s,
            "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
        )
    }),
    ("ip", |s| ip(s, true)),
    ("ip-canonical", |s| ip(s, true)),
    ("ip-legacy", |s| ip(s, false)),
    ("endpoint-ip", endpoint_ip),
    ("cidr", cidr),
    ("cidr-legacy", cidr),
    ("no-backsteps", no_backsteps),
    ("descending-path", descending),
    ("local-path", local_path),
    ("container-resource", container_resource),
    ("cron", |s| cron::Schedule::parse(s).err().into_iter().collect()),
    ("fqdn", fqdn),
    ("fq-name", fq_name),
    ("wildcard-dns", wildcard),
    ("domain-path", domain_path),
    ("uuid", |s| {
        shape(
            "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
            s,
            "uuid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters",
        )
    }),
    ("condition-reason", |s| {
        shape(
            "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            s,
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
        )
    }),
];

/// Checkers of what is no text, or not only.
const STRUCTURED: [&str; 5] =
    ["port-num-or-name", "int-or-percent", "labels", "annotations", "label-selector"];

pub(super) fn known(checker: &str) -> bool {
    takes_any(checker) || CHECKERS.iter().any(|(n, _)| *n == checker)
}

pub(super) fn takes_any(checker: &str) -> bool {
    STRUCTURED.contains(&checker)
}

/// What a checker says of a text.
pub(super) fn texts(checker: &str, s: &str) -> Vec<String> {
    CHECKERS.iter().find(|(n, _)| *n == checker).map(|(_, check)| check(s)).unwrap_or_default()
}

/// What a checker of maps, selectors and numbers says.
pub(super) fn structured(checker: &str, v: &Value, path: &str) -> Vec<FieldError> {
    match checker {
        "port-num-or-name" => match v {
            Value::String(s) => {
                port_name(s).into_iter().map(|t| FieldError::invalid(path, &**s, t)).collect()
            }
            Value::Number(n) if n.as_i64().is_some_and(|n| (1..=65535).contains(&n)) => vec![],
            Value::Number(_) | Value::Null => {
                let shown = v.as_i64().unwrap_or(0);
                vec![FieldError::invalid(path, shown, "must be between 1 and 65535, inclusive")]
            }
            _ => vec![],
        },
        "int-or-percent" => int_or_percent(v, path),
        "labels" => labels(v, path),
        "annotations" => {
            let keys = v.as_object().into_iter().flatten().map(|(k, _)| k);
            keys.flat_map(|k| {
                let texts = name::check_qualified_name(&k.to_lowercase());
                texts.into_iter().map(|t| FieldError::invalid(path, k.as_str(), t))
            })
            .collect()
        }
        _ => vec![],
    }
}

fn int_or_percent(v: &Value, path: &str) -> Vec<FieldError> {
    match v {
        Value::String(s) if pattern::cached("^[0-9]+%$").is_ok_and(|r| !r.is_match(s)) => {
            vec![FieldError::invalid(
                path,
                &**s,
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            )]
        }
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            vec![FieldError::invalid(path, v.clone(), "must be greater than or equal to 0")]
        }
        _ => vec![],
    }
}

fn labels(v: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (k, value) in v.as_object().into_iter().flatten() {
        for t in name::check_qualified_name(k) {
            errors.push(FieldError::invalid(path, k.as_str(), t));
        }
        let value = value.as_str().unwrap_or_default();
        for t in name::check_label_value(value) {
            errors.push(FieldError::invalid(path, value, t));
        }
    }
    errors
}

fn shape(p: &str, s: &str, why: &str) -> Vec<String> {
    let fits = pattern::cached(p).is_ok_and(|r| r.is_match(s));
    if fits { vec![] } else { vec![why.to_owned()] }
}

/// A prefix of names: what comes after may end it well.
fn masked(s: &str) -> String {
    match s.strip_suffix('-') {
        Some(rest) if rest.len() > 1 => format!("{}a", &rest[..rest.len() - 1]),
        _ => s.to_owned(),
    }
}

fn underscored(s: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if s.len() > 253 {
        texts.push("must be no more than 253 characters".into());
    }
    texts.extend(shape(
        "^_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$",
        s,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
    ));
    texts
}

fn port_name(s: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut wrong = |on: bool, why: &str| {
        if on {
            texts.push(why.to_owned());
        }
    };
    wrong(s.len() > 15, "must be no more than 15 characters");
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    wrong(
        s.is_empty() || !s.bytes().all(legal),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    wrong(!s.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    wrong(s.contains("--"), "must not contain consecutive hyphens");
    wrong(s.starts_with('-') || s.ends_with('-'), "must not begin or end with a hyphen");
    texts
}

fn env_name(s: &str) -> Vec<String> {
    if s.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if s.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        return vec![];
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

fn config_key(s: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if s.len() > 253 {
        texts.push("must be no more than 253 characters".to_owned());
    }
    texts.extend(shape("^[-._a-zA-Z0-9]+$", s, "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"));
    match s {
        "." => texts.push("must not be '.'".into()),
        ".." => texts.push("must not be '..'".into()),
        s if s.starts_with("..") => texts.push("must not start with '..'".into()),
        _ => {}
    }
    texts
}

/// An address with leading zeros taken away, and whether there were any.
fn sloppy(s: &str) -> Option<(IpAddr, bool)> {
    if let Ok(ip) = s.parse() {
        return Some((ip, false));
    }
    let parts: Vec<&str> = s.split('.').collect();
    if parts.len() != 4
        || parts.iter().any(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit()))
    {
        return None;
    }
    let plain: Vec<String> = parts
        .iter()
        .map(|p| match p.trim_start_matches('0') {
            "" => "0".to_owned(),
            p => p.to_owned(),
        })
        .collect();
    plain.join(".").parse().ok().map(|ip| (ip, true))
}

fn is_mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn ip(s: &str, canonical: bool) -> Vec<String> {
    let Some((ip, zeros)) = sloppy(s) else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()];
    };
    let mut texts = Vec::new();
    if zeros {
        texts.push("must not have leading 0s".to_owned());
    }
    if is_mapped(&ip) {
        texts.push("must not be an IPv4-mapped IPv6 address".into());
    }
    if canonical && texts.is_empty() && ip.to_string() != s {
        texts.push(format!("must be in canonical form ({:?})", ip.to_string()));
    }
    texts
}

fn endpoint_ip(s: &str) -> Vec<String> {
    let found = ip(s, false);
    let Some((ip, _)) = sloppy(s).filter(|_| found.is_empty()) else { return found };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    [
        (ip.is_unspecified(), format!("may not be unspecified ({s})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".into()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into()),
        (
            link_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into(),
        ),
    ]
    .into_iter()
    .filter_map(|(on, why)| on.then_some(why))
    .collect()
}

fn cidr(s: &str) -> Vec<String> {
    let bad = || vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    let Some((address, bits)) = s.split_once('/') else { return bad() };
    let (Some((ip, zeros)), Ok(prefix)) = (sloppy(address), bits.parse::<u8>()) else {
        return bad();
    };
    let (value, width) = match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    if prefix > width {
        return bad();
    }
    let mut texts = Vec::new();
    if zeros || (bits.len() > 1 && bits.starts_with('0')) {
        texts.push("must not have leading 0s in IP or prefix length".to_owned());
    }
    if is_mapped(&ip) {
        texts.push("must not have an IPv4-mapped IPv6 address".into());
    }
    let rest = if prefix == 0 { u128::MAX } else { !(u128::MAX << (128 - u32::from(prefix))) };
    if value & rest != 0 {
        texts.push("must not have bits set beyond the prefix length".into());
    }
    texts
}

fn no_backsteps(s: &str) -> Vec<String> {
    if s.split('/').any(|p| p == "..") { vec!["must not contain '..'".into()] } else { vec![] }
}

fn descending(s: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if s.starts_with('/') {
        texts.push("must be a relative path".to_owned());
    }
    texts.extend(no_backsteps(s));
    texts
}

fn local_path(s: &str) -> Vec<String> {
    let mut texts = descending(s);
    if s.starts_with("..") && !s.starts_with("../") {
        texts.push("must not start with '..'".into());
    }
    texts
}

fn fqdn(s: &str) -> Vec<String> {
    if s.is_empty() {
        return vec![];
    }
    let mut texts = name::check_subdomain(s.trim_end_matches('.'));
    if !s.trim_end_matches('.').contains('.') {
        texts.push("should be a domain with at least two segments separated by dots".into());
    }
    texts
}

/// The name of a webhook: below somebody's domain.
fn fq_name(s: &str) -> Vec<String> {
    let mut texts = name::check_subdomain(s);
    if s.split('.').count() < 3 {
        texts.push("should be a domain with at least three segments separated by dots".into());
    }
    texts
}

fn wildcard(s: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if s.len() > 253 {
        texts.push("must be no more than 253 characters".to_owned());
    }
    texts.extend(shape("^\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", s, "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"));
    texts
}

fn domain_path(s: &str) -> Vec<String> {
    let Some((host, path)) = s.split_once('/') else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".into()];
    };
    let mut texts = name::check_subdomain(host);
    if path.is_empty() {
        texts.push("must be a domain-prefixed path (such as \"acme.io/foo\")".into());
    }
    texts
}

const STANDARD: [&str; 17] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// Whether a resource is one of Kubernetes' own.
pub(super) fn is_native(s: &str) -> bool {
    !s.contains('/') || s.contains("kubernetes.io/")
}

/// Whether a resource is one of nodes that others define.
pub(super) fn is_extended(s: &str) -> bool {
    !is_native(s)
        && !s.starts_with("requests.")
        && name::check_qualified_name(&format!("requests.{s}")).is_empty()
}

fn container_resource(s: &str) -> Vec<String> {
    let huge = s.starts_with("hugepages-");
    let mut texts = name::check_qualified_name(s);
    let own = huge
        || STANDARD.contains(&s)
        || ["requests.storage", "requests.ephemeral-storage", "limits.ephemeral-storage"]
            .contains(&s)
        || s.starts_with("requests.hugepages-");
    if texts.is_empty() && !s.contains('/') && !own {
        texts.push("must be a standard resource type or fully qualified".into());
    }
    if !s.contains('/') {
        if !huge && !["cpu", "memory", "ephemeral-storage"].contains(&s) {
            texts.push("must be a standard resource for containers".into());
        }
    } else if !is_native(s) && !is_extended(s) {
        texts.push("doesn't follow extended resource name standard".into());
    }
    texts
}
