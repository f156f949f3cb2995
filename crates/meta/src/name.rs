//! The rules for names, label keys and label values, with upstream's words.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// The rule that a kind's names follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Anything that can be a path segment: RBAC objects.
    PathSegment,
}

/// Checks a name; an empty list means that it is good.
pub fn check(rule: NameRule, name: &str) -> Vec<String> {
    match rule {
        NameRule::Subdomain => check_subdomain(name),
        NameRule::Label => check_label(name),
        NameRule::Label1035 => check_label_1035(name),
        NameRule::PathSegment => check_path_segment(name),
    }
}

/// A base of generated names (`generateName`) as it is checked: what will follow a dash at its end is
/// not known yet, and upstream lets the character before it go too.
pub fn of_base(base: &str) -> String {
    match base.strip_suffix('-').map(|rest| (rest, rest.char_indices().next_back())) {
        Some((rest, Some((at, _)))) => format!("{}a", &rest[..at]),
        _ => base.to_owned(),
    }
}

fn too_long(max: usize, unit: &str) -> String {
    format!("must be no more than {max} {unit}")
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !b.is_empty()
        && alnum(b[0])
        && alnum(b[b.len() - 1])
        && b.iter().all(|&c| alnum(c) || c == b'-')
}

fn is_name_part(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
        && b.iter().all(|&c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// RFC 1123 label, 63 bytes at most.
pub fn check_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(too_long(63, "characters"));
    }
    if !is_label(s) {
        let subdomain = s.split('.').all(is_label);
        errors.push(if subdomain { "must not contain dots".into() } else { LABEL.into() });
    }
    errors
}

/// RFC 1035 label, 63 bytes at most.
pub fn check_label_1035(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(too_long(63, "characters"));
    }
    if !is_label(s) || s.as_bytes()[0].is_ascii_digit() {
        errors.push(LABEL_1035.into());
    }
    errors
}

/// RFC 1123 subdomain, 253 bytes at most.
pub fn check_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(too_long(253, "characters"));
    }
    if !s.split('.').all(is_label) {
        errors.push(SUBDOMAIN.into());
    }
    errors
}

fn check_path_segment(s: &str) -> Vec<String> {
    match s {
        "." | ".." => vec![format!("may not be '{s}'")],
        _ => ["/", "%"]
            .iter()
            .filter(|c| s.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// A label or annotation key: optional DNS prefix, then a name of 63 bytes at most.
pub fn check_qualified_name(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = key.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(
                    check_subdomain(prefix).into_iter().map(|e| {
                        format!("prefix part {}", e.replace("253 characters", "253 bytes"))
                    }),
                );
            }
            name
        }
        _ => {
            return vec![
                format!("a valid label key {}", QUALIFIED.replacen("name part ", "", 1))
                    + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            ];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", too_long(63, "bytes")));
    }
    if !is_name_part(name) {
        errors.push(QUALIFIED.into());
    }
    errors
}

/// A label value: empty, or a name part of 63 bytes at most.
pub fn check_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63, "bytes"));
    }
    if !value.is_empty() && !is_name_part(value) {
        errors.push(LABEL_VALUE.into());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(check_subdomain("a.b-c.1").is_empty());
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", "ä"] {
            assert!(!check_subdomain(bad).is_empty(), "{bad}");
        }
        assert!(check_label_1035("1a").len() == 1);
        assert!(check_qualified_name("example.com/Name_1").is_empty());
        for bad in ["/a", "a/", "a/b/c", "EX/a", "a b", ""] {
            assert!(!check_qualified_name(bad).is_empty(), "{bad}");
        }
        assert!(check_label_value("").is_empty() && check_label_value("a.B_c-1").is_empty());
        assert!(!check_label_value("-a").is_empty());
        assert_eq!(check(NameRule::PathSegment, "a/b"), ["may not contain '/'"]);
        assert!(check(NameRule::PathSegment, "system:node").is_empty());
    }
}
