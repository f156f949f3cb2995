//! `x-kubernetes-validations`: rules in CEL. Compiled with a schema, estimated when a definition is
//! checked, evaluated over objects ([`evaluate`]) within upstream's budgets.

use super::{text, texts};
use crate::types::{Arena, ListType, Slot, Type};
use coracle_cel::{
    Bindings, Env, EvalError, Program,
    types::{Field, ListKind, Object, Schema, Shape, Type as CelType, escape},
    value::Val,
};
use coracle_meta::status::{FieldError, FieldErrorKind};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// Largest request, from which sizes without a bound of their own are bounded.
const MAX_REQUEST_BYTES: u64 = 3 << 20;
/// Most that one evaluation may cost.
const PER_CALL: u64 = 1_000_000;
/// Most that all evaluations for an object may cost.
const PER_OBJECT: u64 = 10_000_000;
/// Most that one expression may cost by estimate, times how often it may be evaluated.
const PER_EXPRESSION: u64 = 10_000_000;
/// Most that all expressions of a schema may cost by estimate.
const PER_SCHEMA: u64 = 100_000_000;
/// Longest message that an expression may make.
const MAX_MESSAGE_BYTES: usize = 5120;
const SIMPLER: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

/// The rules of one place.
#[derive(Debug)]
pub struct Rules {
    schema: Schema,
    /// The type that messages name where the value itself says nothing.
    ty: Box<str>,
    list: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: Box<str>,
    message: Box<str>,
    /// Path below the place of what a failure is about.
    field_path: Box<str>,
    kind: FieldErrorKind,
    optional_old: bool,
    uses_old: bool,
    program: Result<Program, Box<str>>,
    message_program: Option<Program>,
}

/// The structures that expressions see of a schema's nodes, by the nodes' addresses.
#[derive(Debug, Default)]
pub(super) struct Declared(HashMap<usize, Schema>);

fn address(s: &Value) -> usize {
    std::ptr::from_ref(s).addr()
}

impl Declared {
    /// Of a schema and all that is in it; empty if it has no rules.
    pub(super) fn of(schema: &Value) -> Self {
        let mut declared = Self::default();
        if has_rules(schema) {
            declared.declare(schema, true);
        }
        declared
    }

    fn get(&self, s: &Value) -> Option<&Schema> {
        self.0.get(&address(s))
    }

    fn declare(&mut self, s: &Value, whole: bool) -> Option<Schema> {
        let schema = self.shape(s, whole)?;
        self.0.insert(address(s), schema.clone());
        Some(schema)
    }

    fn shape(&mut self, s: &Value, whole: bool) -> Option<Schema> {
        let whole = whole || s["x-kubernetes-embedded-resource"] == true;
        let most = |field: &str, otherwise: u64| s[field].as_u64().unwrap_or(otherwise);
        let bounded = |shape, max_elements, min_bytes| Schema { shape, max_elements, min_bytes };
        let text_size = s["maxLength"].as_u64().map(|n| n.saturating_mul(4));
        if s["x-kubernetes-int-or-string"] == true {
            return Some(bounded(Shape::Any, text_size.unwrap_or(MAX_REQUEST_BYTES - 2), 1));
        }
        Some(match (text(s, "type"), text(s, "format")) {
            ("boolean", _) => bounded(Shape::Bool, 0, 4),
            ("integer", _) => bounded(Shape::Int, 0, 1),
            ("number", _) => bounded(Shape::Double, 0, 1),
            ("string", "byte") => {
                bounded(Shape::Bytes, most("maxLength", MAX_REQUEST_BYTES - 2), 2)
            }
            ("string", "duration") => bounded(Shape::Duration, 32, 3),
            ("string", "date") => bounded(Shape::Timestamp, 12, 12),
            ("string", "date-time" | "datetime") => bounded(Shape::Timestamp, 32, 21),
            ("string", _) => {
                let longest = |list: &Vec<Value>| {
                    list.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0) as u64
                };
                let allowed = s["enum"].as_array().filter(|e| !e.is_empty()).map(longest);
                let max = text_size.or(allowed).unwrap_or(MAX_REQUEST_BYTES - 2);
                bounded(Shape::String, max, 2)
            }
            ("array", _) => {
                let items = self.declare(&s["items"], false)?;
                let max = most("maxItems", (MAX_REQUEST_BYTES - 2) / (items.min_bytes + 1));
                let kind = match text(s, "x-kubernetes-list-type") {
                    "set" => ListKind::Set,
                    "map" => ListKind::Map(
                        texts(&s["x-kubernetes-list-map-keys"])
                            .into_iter()
                            .map(Into::into)
                            .collect(),
                    ),
                    _ => ListKind::Atomic,
                };
                bounded(Shape::List(Arc::new(items), kind), max, 2)
            }
            ("object", _) if s["additionalProperties"].is_object() => {
                let values = self.declare(&s["additionalProperties"], false)?;
                let max = most("maxProperties", (MAX_REQUEST_BYTES - 2) / (values.min_bytes + 6));
                bounded(Shape::Map(Arc::new(values)), max, 2)
            }
            ("object", _) => self.object(s, whole),
            _ => return None,
        })
    }

    fn object(&mut self, s: &Value, whole: bool) -> Schema {
        let required = texts(&s["required"]);
        let mut fields = std::collections::BTreeMap::new();
        let mut min_bytes = 2;
        let mut add = |name: &str, schema: Schema| {
            if let Some(escaped) = escape(name) {
                fields.insert(escaped.into(), Field { json: name.into(), schema });
            }
        };
        for (name, p) in s["properties"].as_object().into_iter().flatten() {
            let Some(schema) = self.declare(p, false) else { continue };
            if required.contains(name) && p["default"].is_null() {
                min_bytes += name.len() as u64 + schema.min_bytes + 4;
            }
            add(name, schema);
        }
        if whole {
            let string = |max| Schema { shape: Shape::String, max_elements: max, min_bytes: 2 };
            add("apiVersion", string(MAX_REQUEST_BYTES - 2));
            add("kind", string(MAX_REQUEST_BYTES - 2));
            let meta = [("name", 253 * 4), ("generateName", 252 * 4)];
            let meta = meta
                .map(|(name, max)| (name.into(), Field { json: name.into(), schema: string(max) }));
            let meta = Object { name: "object".into(), fields: meta.into_iter().collect() };
            add("metadata", Schema::of(Shape::Object(Arc::new(meta))));
        }
        let object = Object { name: "object".into(), fields };
        Schema { shape: Shape::Object(Arc::new(object)), max_elements: 0, min_bytes }
    }
}

fn has_rules(s: &Value) -> bool {
    match s {
        Value::Object(m) => {
            m.get("x-kubernetes-validations")
                .is_some_and(|r| r.as_array().is_some_and(|r| !r.is_empty()))
                || m.values().any(has_rules)
        }
        Value::Array(a) => a.iter().any(has_rules),
        _ => false,
    }
}

fn env(schema: &Schema, optional_old: bool) -> Env {
    let env = Env::default().with("self", schema.clone());
    if optional_old {
        env.with_optional("oldSelf", schema.clone())
    } else {
        env.with("oldSelf", schema.clone())
    }
}

fn expressions(s: &Value) -> &[Value] {
    s["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The rules of a schema's node, ready to be evaluated.
pub(super) fn compile(s: &Value, declared: &Declared) -> Option<Arc<Rules>> {
    let schema = declared.get(s).filter(|_| !expressions(s).is_empty())?;
    let rule = |r: &Value| {
        let source = text(r, "rule");
        let env = env(schema, r["optionalOldSelf"] == true);
        let program = Program::compile(&env, source);
        let program = program.map_err(|f| coracle_cel::render(&f, source).into());
        let message_program =
            r["messageExpression"].as_str().and_then(|m| Program::compile(&env, m).ok());
        Rule {
            text: source.trim().into(),
            message: text(r, "message").trim().into(),
            field_path: field_path(s, text(r, "fieldPath")).unwrap_or_default().into(),
            kind: match text(r, "reason") {
                "FieldValueForbidden" => FieldErrorKind::Forbidden,
                "FieldValueRequired" => FieldErrorKind::Required,
                "FieldValueDuplicate" => FieldErrorKind::Duplicate,
                _ => FieldErrorKind::Invalid,
            },
            optional_old: r["optionalOldSelf"] == true,
            uses_old: program.as_ref().is_ok_and(|p: &Program| p.mentions("oldSelf")),
            program,
            message_program,
        }
    };
    let ty = match text(s, "type") {
        "" => "object",
        t => t,
    };
    let list = expressions(s).iter().map(rule).collect();
    Some(Arc::new(Rules { schema: schema.clone(), ty: ty.into(), list }))
}

/// A path of names below a node, as error paths have it.
fn field_path(s: &Value, path: &str) -> Option<String> {
    let (mut at, mut rest, mut out) = (s, path.trim(), String::new());
    while !rest.is_empty() {
        let (name, tail) = if let Some(t) = rest.strip_prefix("['") {
            let (name, tail) = t.split_once("']")?;
            (name, tail)
        } else {
            let t = rest.strip_prefix('.')?;
            t.split_at(t.find(['.', '[']).unwrap_or(t.len()))
        };
        let properties = &at["properties"][name];
        if properties.is_object() {
            at = properties;
            out += &format!(".{name}");
        } else if at["additionalProperties"].is_object() {
            at = &at["additionalProperties"];
            out += &format!("[{name}]");
        } else {
            return None;
        }
        rest = tail;
    }
    Some(out)
}

/// What can be said of rules without looking at their expressions.
pub(super) fn check_words(s: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, r) in expressions(s).iter().enumerate() {
        let at = |f: &str| format!("{at}.x-kubernetes-validations[{i}].{f}");
        let blank = |f: &str| r[f].as_str().is_some_and(|t| t.trim().is_empty() && !t.is_empty());
        let lines = |f: &str| text(r, f).contains(['\n', '\r']);
        let rule = text(r, "rule");
        if rule.trim().is_empty() {
            errors.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if blank("message") {
            let given = text(r, "message");
            errors.push(FieldError::invalid(
                at("message"),
                given,
                "must be non-empty if specified",
            ));
        } else if lines("message") {
            let given = text(r, "message");
            errors.push(FieldError::invalid(at("message"), given, "must not contain line breaks"));
        } else if rule.trim().contains(['\n', '\r']) && text(r, "message").is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(at("message"), why));
        }
        if blank("messageExpression") {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(at("messageExpression"), why));
        }
        const REASONS: [&str; 4] = [
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        if let Some(reason) = r["reason"].as_str().filter(|x| !REASONS.contains(x)) {
            errors.push(FieldError::not_supported(at("reason"), reason, &REASONS));
        }
        let path = text(r, "fieldPath");
        if blank("fieldPath") {
            errors.push(FieldError::invalid(
                at("fieldPath"),
                path,
                "must be non-empty if specified",
            ));
        } else if lines("fieldPath") {
            errors.push(FieldError::invalid(at("fieldPath"), path, "must not contain line breaks"));
        } else if !path.is_empty() && field_path(s, path).is_none_or(|p| p.is_empty()) {
            let why = "fieldPath must be a valid path: does not refer to a valid field";
            errors.push(FieldError::invalid(at("fieldPath"), path, why));
        }
    }
}

/// How often the data of a node may occur, and where its old value can no longer be told.
#[derive(Clone)]
struct Context {
    /// `None` when there is no bound but the size of a request.
    count: Option<u64>,
    uncorrelatable: Option<String>,
}

/// Compiles all rules of a sound schema and estimates their costs. What did not change may cost more
/// than a new rule may.
pub(super) fn check(schema: &Value, at: &str, unchanged: bool) -> Vec<FieldError> {
    let declared = Declared::of(schema);
    if declared.0.is_empty() {
        return vec![];
    }
    let mut c = Checker { declared: &declared, unchanged, errors: vec![], costs: vec![] };
    c.node(schema, at, &Context { count: Some(1), uncorrelatable: None });
    let total = c.costs.iter().fold(0u64, |sum, (_, cost)| sum.saturating_add(*cost));
    if total > PER_SCHEMA {
        c.costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in c.costs.iter().take(4).filter(|(_, cost)| *cost >= PER_SCHEMA / 100) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            c.errors.push(FieldError::forbidden(path, why));
        }
        let why = format!(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {} {SIMPLER}",
            factor(total, PER_SCHEMA)
        );
        c.errors.push(FieldError::forbidden(at, why));
    }
    c.errors
}

fn factor(cost: u64, limit: u64) -> String {
    let f = cost as f64 / limit as f64;
    match f {
        f if f > 100.0 => "more than 100x".into(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    }
}

struct Checker<'c> {
    declared: &'c Declared,
    unchanged: bool,
    errors: Vec<FieldError>,
    costs: Vec<(String, u64)>,
}

impl Checker<'_> {
    fn node(&mut self, s: &Value, at: &str, context: &Context) {
        if let Some(schema) = self.declared.get(s) {
            let count = context.count.unwrap_or_else(|| MAX_REQUEST_BYTES / (schema.min_bytes + 1));
            for (i, r) in expressions(s).iter().enumerate() {
                let at = format!("{at}.x-kubernetes-validations[{i}]");
                self.rule(r, schema, &at, count, context);
            }
        }
        for (name, p) in s["properties"].as_object().into_iter().flatten() {
            self.node(p, &format!("{at}.properties[{name}]"), context);
        }
        let times = |field: &str| {
            context.count.and_then(|c| s[field].as_u64().map(|n| c.saturating_mul(n)))
        };
        if s["additionalProperties"].is_object() {
            let inner = Context { count: times("maxProperties"), ..context.clone() };
            let path = format!("{at}.additionalProperties");
            self.node(&s["additionalProperties"], &path, &inner);
        }
        if s["items"].is_object() {
            let keyed = s["x-kubernetes-list-type"] == "map";
            let lost = context.uncorrelatable.clone().or_else(|| (!keyed).then(|| at.to_owned()));
            let inner = Context { count: times("maxItems"), uncorrelatable: lost };
            self.node(&s["items"], &format!("{at}.items"), &inner);
        }
    }

    fn rule(&mut self, r: &Value, schema: &Schema, at: &str, count: u64, context: &Context) {
        let env = env(schema, r["optionalOldSelf"] == true);
        let wrong_rule = |at: String, why: String| FieldError {
            kind: FieldErrorKind::Invalid,
            path: at,
            value: None,
            detail: format!("{}: {why}", shown(r)),
        };
        let rule_at = format!("{at}.rule");
        let source = text(r, "rule");
        let program = match compiled(&env, source, &CelType::Bool) {
            Ok(p) => p,
            Err(why) => {
                let why = match why {
                    Wrong::Faults(f) => format!("compilation failed: {f}"),
                    Wrong::Type => "cel expression must evaluate to a bool".into(),
                };
                self.errors.push(wrong_rule(rule_at, why));
                return;
            }
        };
        let cost = program.worst_cost().saturating_mul(count);
        self.costs.push((rule_at.clone(), cost));
        if cost > PER_EXPRESSION && !self.unchanged {
            let why = format!(
                "estimated rule cost exceeds budget by factor of {} {SIMPLER}",
                factor(cost, PER_EXPRESSION)
            );
            self.errors.push(FieldError::forbidden(&*rule_at, why));
        }
        let uses_old = program.mentions("oldSelf");
        if let (true, Some(lost)) = (uses_old, &context.uncorrelatable) {
            let why = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
            );
            self.errors.push(wrong_rule(rule_at, why));
        }
        if !uses_old && !r["optionalOldSelf"].is_null() {
            let path = format!("{at}.optionalOldSelf");
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(path, r["optionalOldSelf"].clone(), why));
        }
        let message = text(r, "messageExpression");
        if message.is_empty() {
            return;
        }
        let at = format!("{at}.messageExpression");
        match compiled(&env, message, &CelType::String) {
            Ok(p) if p.worst_cost() > PER_EXPRESSION => {
                let why = format!(
                    "estimated messageExpression cost exceeds budget by factor of {} {SIMPLER}",
                    factor(p.worst_cost(), PER_EXPRESSION)
                );
                self.errors.push(FieldError::forbidden(at, why));
            }
            Ok(_) => {}
            Err(why) => {
                let why = match why {
                    Wrong::Faults(f) => format!("messageExpression compilation failed: {f}"),
                    Wrong::Type => "messageExpression must evaluate to a string".into(),
                };
                self.errors.push(wrong_rule(at, why));
            }
        }
    }
}

enum Wrong {
    Faults(String),
    Type,
}

fn compiled(env: &Env, source: &str, ty: &CelType) -> Result<Program, Wrong> {
    let program = Program::compile(env, source)
        .map_err(|f| Wrong::Faults(coracle_cel::render(&f, source)))?;
    if std::mem::discriminant(program.ty()) == std::mem::discriminant(ty) {
        Ok(program)
    } else {
        Err(Wrong::Type)
    }
}

/// What the rules of a schema say of an object.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Rules that do not hold.
    pub errors: Vec<FieldError>,
    /// Rules that did not hold before either, for data that did not change.
    pub warnings: Vec<String>,
}

/// Evaluates all rules of an object; `old` is what it replaces.
pub fn evaluate(arena: &Arena, root: &Slot, v: &Value, old: Option<&Value>) -> Verdict {
    let mut e = Evaluator { arena, left: PER_OBJECT, stopped: false, verdict: Verdict::default() };
    if arena.has_rules {
        let unchanged = old.is_some_and(|o| o == v);
        e.slot(root, v, old, unchanged, "");
    }
    e.verdict
}

struct Evaluator<'a> {
    arena: &'a Arena,
    left: u64,
    stopped: bool,
    verdict: Verdict,
}

impl Evaluator<'_> {
    fn slot(&mut self, slot: &Slot, v: &Value, old: Option<&Value>, unchanged: bool, at: &str) {
        if v.is_null() {
            return;
        }
        if let Some(rules) = &slot.rules {
            for rule in &rules.list {
                if self.stopped {
                    return;
                }
                self.rule(rules, rule, v, old, unchanged, at);
            }
        }
        let same = |old: Option<&Value>, v: &Value| unchanged || old.is_some_and(|o| o == v);
        match (&slot.ty, v) {
            (Type::List(item), Value::Array(items)) => {
                for (i, v) in items.iter().enumerate() {
                    let old = match &slot.list {
                        ListType::Map(keys) => counterpart(old, v, keys),
                        _ => None,
                    };
                    self.slot(item, v, old, same(old, v), &format!("{at}[{i}]"));
                }
            }
            (Type::Map(values), Value::Object(m)) => {
                for (k, v) in m {
                    let old = old.and_then(|o| o.get(k));
                    self.slot(values, v, old, same(old, v), &format!("{at}[{k}]"));
                }
            }
            (Type::Object(id), Value::Object(m)) => {
                let def = self.arena.def(*id);
                for (k, v) in m {
                    let old = old.and_then(|o| o.get(k));
                    let known = def.fields.get(k.as_str());
                    let (slot, at) = match (known, def.additional.as_deref()) {
                        (Some(s), _) if at.is_empty() => (s, k.clone()),
                        (Some(s), _) => (s, format!("{at}.{k}")),
                        (None, Some(s)) => (s, format!("{at}[{k}]")),
                        (None, None) => continue,
                    };
                    self.slot(slot, v, old, same(old, v), &at);
                }
            }
            _ => {}
        }
    }

    fn rule(
        &mut self,
        rules: &Rules,
        rule: &Rule,
        v: &Value,
        old: Option<&Value>,
        unchanged: bool,
        at: &str,
    ) {
        let place = if at.is_empty() { "<nil>" } else { at };
        let said = if rule.message.is_empty() { &rule.text } else { &rule.message };
        let typed = |why: String| FieldError::invalid(place, &*rules.ty, why);
        let program = match &rule.program {
            Ok(p) => p,
            Err(e) => {
                self.verdict
                    .errors
                    .push(typed(format!("rule compile error: compilation failed: {e}")));
                return;
            }
        };
        if rule.uses_old && old.is_none() && !rule.optional_old {
            return;
        }
        let bindings = bindings(&rules.schema, v, old, rule);
        let limit = PER_CALL.min(self.left);
        let (result, cost) = program.eval(&bindings, limit);
        if cost > self.left || (cost > limit && limit < PER_CALL) {
            self.stopped = true;
            let why = "validation failed due to running out of cost budget, no further validation rules will be run";
            self.verdict.errors.push(typed(why.into()));
            return;
        }
        self.left -= cost.min(self.left);
        match result {
            Ok(Val::Bool(true)) => {}
            Ok(_) => {
                let e = self.failure(rule, v, &bindings, at);
                if unchanged && !rule.uses_old {
                    self.verdict.warnings.push(e.to_string());
                } else {
                    self.verdict.errors.push(e);
                }
            }
            Err(e @ EvalError::CostLimit) => {
                self.stopped = true;
                self.verdict.errors.push(typed(format!("'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {said}")));
            }
            Err(EvalError::Failed(e)) => {
                let why = if e.starts_with("no such overload") {
                    format!(
                        "'{e}': call arguments did not match a supported operator, function or macro signature for rule: {said}"
                    )
                } else {
                    format!("{e} evaluating rule: {said}")
                };
                self.verdict.errors.push(typed(why));
            }
        }
    }

    fn failure(&mut self, rule: &Rule, v: &Value, bindings: &Bindings<'_>, at: &str) -> FieldError {
        let made = rule.message_program.as_ref().and_then(|p| {
            let (made, cost) = p.eval(bindings, PER_CALL.min(self.left));
            self.left = self.left.saturating_sub(cost);
            let Ok(Val::String(text)) = made else { return None };
            let text = text.trim().to_owned();
            let usable = !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES;
            (usable && !text.contains(['\n', '\r'])).then_some(text)
        });
        let detail = made.unwrap_or_else(|| match &*rule.message {
            "" => format!("failed rule: {}", rule.text),
            m => m.to_owned(),
        });
        let path = format!("{at}{}", rule.field_path);
        let path = match path.trim_start_matches('.') {
            "" => "<nil>".to_owned(),
            p => p.to_owned(),
        };
        let value = match v {
            Value::Object(_) | Value::Array(_) => None,
            scalar => Some(scalar.clone()),
        };
        match rule.kind {
            FieldErrorKind::Invalid => {
                FieldError { value, ..FieldError::invalid(path, Value::Null, detail) }
            }
            FieldErrorKind::Duplicate => FieldError::duplicate(path, v.clone()),
            FieldErrorKind::Required => FieldError::required(path, detail),
            _ => FieldError::forbidden(path, detail),
        }
    }
}

fn bindings<'a>(
    schema: &'a Schema,
    v: &'a Value,
    old: Option<&'a Value>,
    rule: &Rule,
) -> Bindings<'a> {
    let bindings = Bindings::default().with("self", Val::of(v, schema));
    let old = old.map(|o| Val::of(o, schema));
    match (old, rule.optional_old) {
        (Some(o), true) => bindings.with("oldSelf", Val::some(o)),
        (None, true) => bindings.with("oldSelf", Val::Optional(None)),
        (Some(o), false) => bindings.with("oldSelf", o),
        (None, false) => bindings,
    }
}

/// The item of an old list with the same keys.
fn counterpart<'v>(old: Option<&'v Value>, v: &Value, keys: &[Box<str>]) -> Option<&'v Value> {
    let same = |o: &&Value| keys.iter().all(|k| o.get(&**k) == v.get(&**k));
    old?.as_array()?.iter().find(same)
}

/// The error that stands for rules which could not be looked at.
pub fn skipped() -> FieldError {
    FieldError::invalid(
        "<nil>",
        Value::Null,
        "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
    )
}

/// A rule as upstream's messages show it: Go's struct, written as JSON by Go.
fn shown(r: &Value) -> String {
    let fields = [
        ("Rule", json!(text(r, "rule"))),
        ("Message", json!(text(r, "message"))),
        ("MessageExpression", json!(text(r, "messageExpression"))),
        ("Reason", r["reason"].clone()),
        ("FieldPath", json!(text(r, "fieldPath"))),
        ("OptionalOldSelf", r["optionalOldSelf"].clone()),
    ];
    let fields: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
    let escaped = fields.join(",").replace('<', "\\u003c").replace('>', "\\u003e");
    format!("{{{}}}", escaped.replace('&', "\\u0026"))
}
