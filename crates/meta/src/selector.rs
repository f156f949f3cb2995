//! Label selectors: the text of `kubectl -l` and the object of `spec.selector`, as one value.

use crate::{Object, name};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// How a requirement compares a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The label is one of the values.
    In,
    /// The label is absent or none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is an integer above the value.
    Gt,
    /// The label is an integer below the value.
    Lt,
}

/// One comparison of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Values, sorted; empty for the existence operators.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a label's value (or its absence) meets the requirement.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|w| w == v);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt | Operator::Lt => {
                let number = |s: &str| s.parse::<i64>().ok();
                let bound = self.values.first().and_then(|v| number(v));
                match (value.and_then(number), bound) {
                    (Some(v), Some(b)) if self.operator == Operator::Gt => v > b,
                    (Some(v), Some(b)) => v < b,
                    _ => false,
                }
            }
        }
    }
}

/// A conjunction of requirements. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSelector {
    /// All of these must hold.
    pub requirements: Vec<Requirement>,
}

/// Why a selector could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl LabelSelector {
    /// A label and its only acceptable value, if the selector has one: what an index can use.
    pub fn equality(&self) -> Option<(&str, &str)> {
        self.requirements.iter().find_map(|r| match (r.operator, r.values.as_slice()) {
            (Operator::In, [value]) => Some((&*r.key, &**value)),
            _ => None,
        })
    }

    /// Whether it has no requirement, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the labels of an object's `metadata.labels` match.
    pub fn matches(&self, labels: Option<&Object>) -> bool {
        self.requirements
            .iter()
            .all(|r| r.matches_value(labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str)))
    }

    /// Whether labels held as a map match.
    pub fn matches_map(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.requirements
            .iter()
            .all(|r| r.matches_value(labels.and_then(|l| l.get(&r.key)).map(String::as_str)))
    }

    /// Reads `metav1.LabelSelector` (`matchLabels`, `matchExpressions`).
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                let values = vec![value];
                requirements.push(Requirement { key: key.clone(), operator: Operator::In, values });
            }
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |f| e.get(f).and_then(Value::as_str).unwrap_or_default();
            let mut values: Vec<String> = e
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            values.sort();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                o => {
                    return Err(SelectorError(format!(
                        "{o:?} is not a valid label selector operator"
                    )));
                }
            };
            let set = matches!(operator, Operator::In | Operator::NotIn);
            if set && values.is_empty() {
                return Err(SelectorError(
                    "for 'in', 'notin' operators, values set can't be empty".into(),
                ));
            }
            requirements.push(Requirement { key: text("key").into(), operator, values });
        }
        Ok(Self { requirements })
    }

    /// A selector that asks for exactly these labels.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(k, v)| Requirement {
                key: k.into(),
                operator: Operator::In,
                values: vec![v.into()],
            })
            .collect();
        Self { requirements }
    }

    /// Reads the text form, as in `kubectl -l 'a=b,c in (d,e),!f'`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser { tokens: lex(text)?, at: 0 }.selector()
    }
}

/// Reads a `k8s-openapi` selector or any other serialised form through [`LabelSelector::from_object`].
impl TryFrom<&Value> for LabelSelector {
    type Error = SelectorError;
    fn try_from(v: &Value) -> Result<Self, SelectorError> {
        Self::from_object(v)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&r.key, r.values.join(","));
            match r.operator {
                Operator::In if r.values.len() == 1 => write!(f, "{key}={values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn if r.values.len() == 1 => write!(f, "{key}!={values}")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::Gt => write!(f, "{key}>{values}")?,
                Operator::Lt => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

fn lex(text: &str) -> Result<Vec<Token>, SelectorError> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", "<", ">"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(s) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(s));
            rest = rest[s.len()..].trim_start();
            continue;
        }
        let end =
            rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(rest.len());
        tokens.push(Token::Word(rest[..end].into()));
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    fn peek(&self, symbol: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Symbol(s)) if *s == symbol)
    }

    fn selector(mut self) -> Result<LabelSelector, SelectorError> {
        let starts = |t: Option<&Token>| matches!(t, Some(Token::Word(_) | Token::Symbol("!")));
        let mut requirements = Vec::new();
        while self.at < self.tokens.len() {
            if !starts(self.tokens.get(self.at)) {
                return Err(unexpected(&self.next(), "!, identifier, or 'end of string'"));
            }
            let requirement = self.requirement().map_err(|SelectorError(why)| {
                SelectorError(format!("unable to parse requirement: {why}"))
            })?;
            requirements.push(requirement);
            match self.next() {
                None => break,
                Some(Token::Symbol(",")) if starts(self.tokens.get(self.at)) => {}
                Some(Token::Symbol(",")) => {
                    return Err(unexpected(&self.next(), "identifier after ','"));
                }
                t => return Err(unexpected(&t, "',' or 'end of string'")),
            }
        }
        requirements.sort();
        Ok(LabelSelector { requirements })
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Some(Token::Word(w)) => w,
            t => return Err(unexpected(&t, "identifier")),
        };
        if let Some(e) = name::check_qualified_name(&key).into_iter().next() {
            return Err(SelectorError(format!("<nil>: Invalid value: {key:?}: {e}")));
        }
        let (operator, values) =
            if absent { (Operator::DoesNotExist, vec![]) } else { self.comparison()? };
        if !matches!(operator, Operator::Gt | Operator::Lt) {
            for v in &values {
                if let Some(e) = name::check_label_value(v).into_iter().next() {
                    return Err(SelectorError(format!(
                        "values[0][{key}]: Invalid value: {v:?}: {e}"
                    )));
                }
            }
        } else if values.iter().any(|v| v.parse::<i64>().is_err()) {
            return Err(SelectorError(format!(
                "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                values.join(",")
            )));
        }
        Ok(Requirement { key, operator, values })
    }

    fn comparison(&mut self) -> Result<(Operator, Vec<String>), SelectorError> {
        let Some(token) = self.tokens.get(self.at).cloned() else {
            return Ok((Operator::Exists, vec![]));
        };
        let operator = match &token {
            Token::Symbol(",") => return Ok((Operator::Exists, vec![])),
            Token::Symbol("=" | "==") => Operator::In,
            Token::Symbol("!=") => Operator::NotIn,
            Token::Symbol(">") => Operator::Gt,
            Token::Symbol("<") => Operator::Lt,
            Token::Word(w) if w == "in" || w == "notin" => {
                self.at += 1;
                let operator = if w == "in" { Operator::In } else { Operator::NotIn };
                return Ok((operator, self.values()?));
            }
            _ => return Err(unexpected(&Some(token), "in, notin, =, ==, !=, gt, lt")),
        };
        self.at += 1;
        let value = match self.tokens.get(self.at).cloned() {
            Some(Token::Word(w)) => {
                self.at += 1;
                w
            }
            None | Some(Token::Symbol(",")) => String::new(),
            t => return Err(unexpected(&t, "identifier")),
        };
        Ok((operator, vec![value]))
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.peek("(") {
            // The one place where upstream has no comma.
            let token = self.next();
            return Err(SelectorError(format!("found '{}' expected: '('", found(&token))));
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            match self.next() {
                Some(Token::Word(w)) => {
                    values.push(w);
                    match self.next() {
                        Some(Token::Symbol(",")) => {}
                        Some(Token::Symbol(")")) => break,
                        t => return Err(unexpected(&t, "',' or ')'")),
                    }
                }
                Some(Token::Symbol(")")) => {
                    values.push(String::new());
                    break;
                }
                Some(Token::Symbol(",")) => values.push(String::new()),
                t => return Err(unexpected(&t, "',', ')' or identifier")),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn unexpected(token: &Option<Token>, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {expected}", found(token)))
}

fn found(token: &Option<Token>) -> &str {
    match token {
        None => "",
        Some(Token::Word(w)) => w,
        Some(Token::Symbol(s)) => s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn text_form() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});
        let labels = labels.as_object();
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, db),tier", true),
            ("app notin (web)", false),
            ("!missing", true),
            ("missing", false),
            ("missing!=x", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app=", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(labels), want, "{text}");
        }
        for bad in
            ["a b", "=a", "a in", "a in (b", "a=b=c", "a,,b", "-a=b", "a=-b", "a>x", "a in b"]
        {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn object_form() {
        let s = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["x", "y"]}, {"key": "d", "operator": "Exists"}]});
        let s = LabelSelector::from_object(&s).unwrap();
        assert_eq!(s.to_string(), "a=b,c notin (x,y),d");
        assert!(
            LabelSelector::from_object(
                &json!({"matchExpressions": [{"key": "a", "operator": "in"}]})
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn printed_selectors_read_back(pairs in proptest::collection::vec(("[a-z]{1,5}", 0usize..6, "[a-z0-9]{1,4}"), 0..5)) {
            let mut requirements: Vec<_> = pairs.into_iter().map(|(key, op, v)| {
                let operator = [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist, Operator::In, Operator::NotIn][op];
                let values = match op { 0 | 1 => vec![v], 4 | 5 => { let mut w = vec![v.clone(), format!("{v}z")]; w.sort(); w } _ => vec![] };
                Requirement { key, operator, values }
            }).collect();
            requirements.sort();
            let s = LabelSelector { requirements };
            prop_assert_eq!(&LabelSelector::parse(&s.to_string()).unwrap(), &s);
        }

        #[test]
        fn never_panics(s in "\\PC{0,40}") {
            let _ = LabelSelector::parse(&s);
        }
    }
}
