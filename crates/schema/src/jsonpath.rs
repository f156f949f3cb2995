//! The part of JSONPath that printer columns use: fields, indexes, wildcards and equality filters.

use serde_json::Value;

/// A compiled path.
#[derive(Clone, Debug)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { path: Path, equal: bool, value: Value },
}

impl Path {
    /// Reads `.spec.x[?(@.type=="Ready")].status` and the like; braces and `$` are optional.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        rest = rest.strip_prefix('{').and_then(|r| r.strip_suffix('}')).unwrap_or(rest);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(r) = rest.strip_prefix('[') {
                let end = closing(r)?;
                steps.push(bracket(&r[..end])?);
                rest = &r[end + 1..];
                continue;
            }
            let r = rest.strip_prefix('.').unwrap_or(rest);
            if let Some(r) = r.strip_prefix('*') {
                steps.push(Step::All);
                rest = r;
                continue;
            }
            if r.starts_with('[') {
                rest = r;
                continue;
            }
            let (mut name, mut end, mut escaped) = (String::new(), r.len(), false);
            for (i, c) in r.char_indices() {
                match c {
                    _ if escaped => {
                        escaped = false;
                        name.push(c);
                    }
                    '\\' => escaped = true,
                    '.' | '[' => {
                        end = i;
                        break;
                    }
                    c => name.push(c),
                }
            }
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Field(name));
            rest = &r[end..];
        }
        Some(Self(steps))
    }

    /// Everything that the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|v| step.of(v)).collect();
        }
        found
    }
}

impl Step {
    fn of<'v>(&self, v: &'v Value) -> Vec<&'v Value> {
        match self {
            Self::Field(name) => v.get(name).into_iter().collect(),
            Self::Index(i) => {
                let items = v.as_array().map(Vec::as_slice).unwrap_or_default();
                let index = if *i < 0 { items.len() as i64 + i } else { *i };
                usize::try_from(index).ok().and_then(|i| items.get(i)).into_iter().collect()
            }
            Self::All => match v {
                Value::Array(a) => a.iter().collect(),
                Value::Object(o) => o.values().collect(),
                _ => vec![],
            },
            Self::Filter { path, equal, value } => v
                .as_array()
                .into_iter()
                .flatten()
                .filter(|item| path.find(item).first().is_some_and(|v| (*v == value) == *equal))
                .collect(),
        }
    }
}

/// Index of the bracket that closes, minding quotes.
fn closing(s: &str) -> Option<usize> {
    let (mut depth, mut quote) = (1, None);
    for (i, c) in s.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn literal(s: &str) -> Option<Value> {
    let s = s.trim();
    match s.strip_prefix('\'').and_then(|r| r.strip_suffix('\'')) {
        Some(text) => Some(text.into()),
        None => serde_json::from_str(s).ok(),
    }
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|r| r.strip_suffix(')')) {
        let (left, equal, right) = match filter.split_once("==") {
            Some((l, r)) => (l, true, r),
            None => filter.split_once("!=").map(|(l, r)| (l, false, r))?,
        };
        let path = Path::parse(left.trim().strip_prefix('@')?)?;
        return Some(Step::Filter { path, equal, value: literal(right)? });
    }
    match literal(inner)? {
        Value::String(name) => Some(Step::Field(name)),
        Value::Number(n) => Some(Step::Index(n.as_i64()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds() {
        let v = json!({"a": {"b.c": 1, "l": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]}});
        for (path, want) in [
            (".a.l[?(@.type==\"Ready\")].status", json!(["True"])),
            ("{.a.l[*].type}", json!(["Ready", "X"])),
            ("$.a.l[-1].type", json!(["X"])),
            (".a['b.c']", json!([1])),
            (r".a.b\.c", json!([1])),
            (".a.none.x", json!([])),
            (".a.l[?(@.type!='X')].type", json!(["Ready"])),
        ] {
            let found: Vec<_> = Path::parse(path).unwrap().find(&v).into_iter().cloned().collect();
            assert_eq!(json!(found), want, "{path}");
        }
        for bad in ["..", ".a[", ".a[?(x)]", ".a[b]"] {
            assert!(Path::parse(bad).is_none(), "{bad}");
        }
    }
}
