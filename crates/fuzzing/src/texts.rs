//! Text that is parsed: JSON, YAML, selectors, tokens, expressions, scalars.

use coracle_cel::{
    Bindings, Env, Program,
    types::{Schema, Shape},
    value::Val,
};
use coracle_meta::{FieldSelector, LabelSelector, Quantity, cron, json as strict, pattern, time};
use coracle_registry::page::{Place, Token};
use coracle_schema::jsonpath::Path;
use serde_json::{Value, json};

/// What an expression may cost here; the limits of rules are higher.
const COST: u64 = 100_000;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// What is read is written as something that reads the same.
pub(crate) fn json(data: &[u8]) {
    let Ok(decoded) = strict::decode(data) else { return };
    let again = strict::decode(decoded.value.to_string().as_bytes());
    let again = again.unwrap_or_else(|e| panic!("{e}: {}", decoded.value));
    assert_eq!(again.value, decoded.value);
    assert!(again.duplicates.is_empty(), "{:?}", again.duplicates);
}

pub(crate) fn yaml(data: &[u8]) {
    let Ok(input) = coracle_server::payload::decode_text(data, true) else { return };
    // What JSON cannot say does not come out of YAML.
    let text = input.value.to_string();
    serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
}

/// Selectors read back as they are printed, and select the same.
pub(crate) fn selector(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let labels = json!({"app": "web", "tier": "1", "": ""});
    let labels = labels.as_object();
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = selector.to_string();
        let again = LabelSelector::parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed:?}"));
        assert_eq!(again.matches(labels), selector.matches(labels), "{text:?}");
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| field.to_owned().into());
    }
    if let Ok(v) = serde_json::from_str::<Value>(text) {
        if let Ok(selector) = LabelSelector::from_object(&v) {
            selector.matches(labels);
        }
    }
}

/// A token that is taken comes back the same when it is given again.
pub(crate) fn continue_token(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for place in [Place::All, Place::One("default"), Place::One("")] {
        let Ok(token) = Token::decode(text, place) else { continue };
        let again = Token::decode(&token.encode(place), place);
        assert!(again.is_ok(), "{token:?}: {again:?}");
    }
}

/// An expression of any text compiles or tells why not, and ends within its cost.
pub(crate) fn cel(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let any = Schema::of(Shape::Any);
    let env = Env::default().with("self", any.clone()).with("oldSelf", any.clone());
    match Program::compile(&env, text) {
        Err(faults) => {
            assert!(!faults.is_empty());
            coracle_cel::render(&faults, text);
        }
        Ok(program) => {
            let v = json!({"a": [1, 2.5, "x"], "b": {"c": true, "d": null}, "s": "héllo", "n": -3});
            let bindings = Bindings::default()
                .with("self", Val::of(&v, &any))
                .with("oldSelf", Val::of(&v["b"], &any));
            let (_, cost) = program.eval(&bindings, COST);
            assert!(cost <= COST.saturating_mul(2), "{cost}: {text:?}");
        }
    }
}

/// Quantities, durations, times, schedules, patterns and JSON paths.
pub(crate) fn scalar(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(q) = text.parse::<Quantity>() {
        let printed = q.to_string();
        let again: Quantity = printed.parse().unwrap_or_else(|e| panic!("{e}: {printed:?}"));
        assert_eq!(again.to_string(), printed, "{text:?}");
    }
    if let Ok(schedule) = cron::Schedule::parse(text) {
        let start = "2026-01-31T23:59:59Z".parse().unwrap_or_default();
        if let Some(next) = schedule.next(start, &jiff::tz::TimeZone::UTC) {
            assert!(next > start, "{text:?}");
        }
    }
    if let Some(t) = time::parse_rfc3339(text) {
        assert_eq!(
            time::parse_rfc3339(&time::rfc3339(t)).map(|t| t.as_second()),
            Some(t.as_second())
        );
    }
    time::parse_go_duration(text);
    time::parse_openapi_duration(text);
    if let Ok(p) = pattern::compile(text) {
        p.is_match("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab");
    }
    if let Some(path) = Path::parse(text) {
        let v = json!({"a": [{"b": 1}, {"b": "x"}], "": {"'": 2}});
        path.find(&v);
    }
}
