//! Field selectors: `metadata.name=a,status.phase!=Running`.

/// One comparison of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Dotted path.
    pub field: String,
    /// Whether the field must equal (or differ from) the value.
    pub equal: bool,
    /// Value to compare with; an absent field compares as the empty string.
    pub value: String,
}

/// A conjunction of field comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// All of these must hold.
    pub terms: Vec<Term>,
}

impl FieldSelector {
    /// Reads the text form. Backslash escapes `,`, `=` and itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text, ',') {
            if part.is_empty() {
                continue;
            }
            let (field, equal, value) = if let Some((f, v)) = part.split_once("!=") {
                (f, false, v)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, true, v)
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let value = unescape(value).map_err(|why| format!("invalid field selector: {why}"))?;
            // Says nothing: upstream lets it pass.
            if field.is_empty() && value.is_empty() {
                continue;
            }
            terms.push(Term { field: field.into(), equal, value });
        }
        Ok(Self { terms })
    }

    /// Whether it has no term, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether all terms hold, with `field` giving each field's value as text.
    pub fn matches<'a>(&self, mut field: impl FnMut(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.terms.iter().all(|t| (field(&t.field) == t.value) == t.equal)
    }

    /// The value that a field must equal, if the selector asks for exactly one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == separator {
            parts.push(&text[start..i]);
            start = i + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid escape sequence: \\{c}")),
                None => return Err("invalid escape sequence: \\".into()),
            },
            // Upstream prints the character's number.
            ',' | '=' => return Err(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let s = FieldSelector::parse(r"metadata.name=a\,b,status.phase!=Running").unwrap();
        assert_eq!(s.required("metadata.name"), Some("a,b"));
        let look = |f: &str| if f == "metadata.name" { "a,b".into() } else { "Pending".into() };
        assert!(s.matches(look));
        assert!(FieldSelector::parse("a").is_err() && FieldSelector::parse("a=b=c").is_err());
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }
}
