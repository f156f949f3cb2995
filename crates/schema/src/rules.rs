//! What upstream checks of built-in kinds beyond their structure: a table of rules beside the schema
//! (`pack/rules/*.txt`), by definition, so that a rule of containers holds wherever containers stand.
//!
//! Most rules are a field and a check (`replicas min 0`); what relates fields is a condition in CEL
//! with the error that it means. Paths, words and order are upstream's. A block is compiled when an
//! object with its definition first comes by; a condition that looks only at fields that are not
//! there is not evaluated at all.

mod checkers;
mod functions;
mod parse;
mod structure;

use crate::{
    pack::Pack,
    types::{Arena, DefId, Type},
};
use coracle_cel::{
    Bindings, Program,
    types::Schema,
    value::{Key, Val},
};
use coracle_meta::status::{FieldError, FieldErrorKind};
pub use functions::container_requests;
use parse::{Block, Body, Check, Line, Loop, Over, Rule, Shown, Text, When};
use serde_json::Value;
use std::{collections::HashMap, sync::OnceLock};

/// A condition of the table may not run away: far above what any of them costs.
const COST_LIMIT: u64 = 50_000_000;

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is created.
    Create,
    /// Its main part is updated.
    Update,
    /// Its status is updated.
    Status,
    /// Something else of it is updated, through the subresource of that name.
    Other,
}

/// The rules of a minor.
#[derive(Debug)]
pub struct Rules {
    blocks: HashMap<&'static str, (&'static str, OnceLock<Block>)>,
    structure: structure::Structures,
}

const TABLES: [&str; 8] = [
    include_str!("../pack/rules/pods.txt"),
    include_str!("../pack/rules/volumes.txt"),
    include_str!("../pack/rules/core.txt"),
    include_str!("../pack/rules/workloads.txt"),
    include_str!("../pack/rules/network.txt"),
    include_str!("../pack/rules/storage.txt"),
    include_str!("../pack/rules/policy.txt"),
    include_str!("../pack/rules/devices.txt"),
];

impl Rules {
    /// Finds the blocks of the tables; nothing is compiled yet.
    pub(crate) fn new() -> Self {
        let mut blocks = HashMap::new();
        for table in TABLES {
            for block in table.split("\nDEF ").skip(1) {
                let (name, lines) = block.split_once('\n').unwrap_or((block, ""));
                blocks.insert(name.trim(), (lines, OnceLock::new()));
            }
        }
        Self { blocks, structure: structure::Structures::default() }
    }

    fn block(&self, arena: &Arena, id: DefId) -> Option<&Block> {
        let (text, cell) = self.blocks.get(arena.name(id)?)?;
        Some(cell.get_or_init(|| {
            let schema = self.structure.schema(arena, id);
            parse::block(text, &schema).unwrap_or_else(|(block, faults)| {
                for f in faults {
                    report(&f);
                }
                block
            })
        }))
    }
}

/// A faulty line is found by this crate's tests; at run time it is left out.
fn report(fault: &str) {
    debug_assert!(false, "{fault}");
}

/// All faults of a decoded and defaulted object of a built-in kind, in upstream's order. `old` is what
/// it replaces.
pub fn check(
    pack: &Pack,
    root: DefId,
    v: &Value,
    old: Option<&Value>,
    mode: Mode,
) -> Option<Vec<FieldError>> {
    let rules = &pack.rules;
    rules.block(&pack.arena, root)?;
    let mut run = Run { rules, arena: &pack.arena, mode, errors: vec![], late: vec![] };
    run.object(root, v, old, "");
    run.errors.append(&mut run.late);
    let mut seen = std::collections::HashSet::new();
    run.errors.retain(|e| seen.insert(e.to_string()));
    Some(run.errors)
}

struct Run<'r> {
    rules: &'r Rules,
    arena: &'r Arena,
    mode: Mode,
    errors: Vec<FieldError>,
    late: Vec<FieldError>,
}

/// An object with its rules.
struct At<'r, 'v> {
    id: DefId,
    v: &'v Value,
    old: Option<&'v Value>,
    path: &'v str,
    schema: &'r Schema,
}

fn join(path: &str, rest: &str) -> String {
    match (path, rest) {
        (p, "") => p.to_owned(),
        ("", r) => r.to_owned(),
        (p, r) if r.starts_with('[') => format!("{p}{r}"),
        (p, r) => format!("{p}.{r}"),
    }
}

fn get<'v>(v: &'v Value, path: &[Box<str>]) -> &'v Value {
    path.iter().fold(v, |v, step| v.get(&**step).unwrap_or(&Value::Null))
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        // An empty struct says something.
        Value::Object(_) => false,
    }
}

/// Fields that are structs, not pointers, upstream: when absent they are checked as empty ones.
const ALWAYS_THERE: [&str; 8] = [
    "spec",
    "template",
    "jobTemplate",
    "scaleTargetRef",
    "roleRef",
    "target",
    "allocations",
    "metric",
];

impl<'r> Run<'r> {
    fn object(&mut self, id: DefId, v: &Value, old: Option<&Value>, path: &str) {
        let Some(block) = self.rules.block(self.arena, id) else {
            return self.parts(id, v, old, path);
        };
        let at = At { id, v, old, path, schema: &block.schema };
        let mut i = 0;
        while i < block.lines.len() {
            // Lines that go through the same list are one loop, item by item.
            let length =
                block.lines[i..].iter().take_while(|l| same_loop(&block.lines[i], l)).count();
            if length > 1 {
                self.group(&block.lines[i..i + length], &at);
                i += length;
            } else {
                self.line(&block.lines[i], &at);
                i += 1;
            }
        }
    }

    /// The parts of an object that has no rules of its own.
    fn parts(&mut self, id: DefId, v: &Value, old: Option<&Value>, path: &str) {
        let arena = self.arena;
        for (name, slot) in &arena.def(id).fields {
            let part = v.get(&**name).unwrap_or(&Value::Null);
            if !part.is_null() {
                let old = old.and_then(|o| o.get(&**name));
                self.values(&slot.ty, &[], part, old, &join(path, name));
            }
        }
    }

    fn applies(&self, line: &Line) -> bool {
        match line.when {
            When::Write => matches!(self.mode, Mode::Create | Mode::Update),
            When::Create => self.mode == Mode::Create,
            When::Update => self.mode == Mode::Update,
            When::Status => self.mode == Mode::Status,
        }
    }

    fn push(&mut self, line: &Line, e: FieldError) {
        if line.late { self.late.push(e) } else { self.errors.push(e) }
    }

    fn bindings<'v>(at: &At<'v, 'v>) -> Bindings<'v> {
        let b = Bindings::default().with("self", Val::of(at.v, at.schema));
        match at.old {
            Some(old) => b.with("oldSelf", Val::of(old, at.schema)),
            None => b.with("oldSelf", Val::Null),
        }
    }

    fn line(&mut self, line: &Line, at: &At<'_, '_>) {
        if !self.applies(line) {
            return;
        }
        if let Some(guard) = &line.guard {
            if !guard.may_hold(at.v) || !holds(&guard.program, &Self::bindings(at)) {
                return;
            }
        }
        match &line.body {
            Body::Field(path, check) => {
                let (v, old) = (get(at.v, path), at.old.map(|o| get(o, path)));
                if line.late && old.is_some_and(|o| o == v) {
                    return;
                }
                // An optional text that is not there is no empty one.
                if v.is_null() && matches!(check, Check::Name { .. }) && !self.required(at.id, path)
                {
                    return;
                }
                // A number that is optional is a pointer upstream: zero is a value of it.
                if v.is_number()
                    && matches!(check, Check::Required(_))
                    && !self.required(at.id, path)
                {
                    return;
                }
                let full = join(at.path, &path.join("."));
                for e in self.check(check, v, old, &full) {
                    self.push(line, e);
                }
            }
            Body::Each(over, path, check) => self.each(line, *over, path, check, at),
            Body::Walk(path) => {
                // Rules of what only a status write looks at are written like all others.
                let mode = self.mode;
                if line.when == When::Status {
                    self.mode = Mode::Update;
                }
                self.walk(path, at);
                self.mode = mode;
            }
            Body::Rule(rule) => {
                if rule.may_hold(at.v) {
                    let found = evaluate(rule, at);
                    for e in found.into_iter().map(|(_, e)| e) {
                        self.push(line, e);
                    }
                }
            }
            Body::Native(native) => {
                for e in native(at.v, at.old, at.path) {
                    self.push(line, e);
                }
            }
        }
    }

    /// Rules over one list: their errors in the order of its items.
    fn group(&mut self, lines: &[Line], at: &At<'_, '_>) {
        let mut found: Vec<(usize, usize, bool, FieldError)> = Vec::new();
        for (n, line) in lines.iter().enumerate() {
            let Body::Rule(rule) = &line.body else { continue };
            if !self.applies(line) || !rule.may_hold(at.v) {
                continue;
            }
            if let Some(guard) = &line.guard {
                if !holds(&guard.program, &Self::bindings(at)) {
                    continue;
                }
            }
            found.extend(evaluate(rule, at).into_iter().map(|(i, e)| (i, n, line.late, e)));
        }
        found.sort_by_key(|(item, line, ..)| (*item, *line));
        for (.., late, e) in found {
            if late { self.late.push(e) } else { self.errors.push(e) }
        }
    }

    fn each(&mut self, line: &Line, over: Over, path: &[Box<str>], check: &Check, at: &At<'_, '_>) {
        let (v, full) = (get(at.v, path), join(at.path, &path.join(".")));
        let found: Vec<FieldError> = match (over, v) {
            (Over::Items, Value::Array(items)) => items
                .iter()
                .enumerate()
                .flat_map(|(i, v)| self.check(check, v, None, &format!("{full}[{i}]")))
                .collect(),
            (Over::Values, Value::Object(m)) => m
                .iter()
                .flat_map(|(k, v)| self.check(check, v, None, &format!("{full}[{k}]")))
                .collect(),
            (Over::Keys | Over::KeysAtField, Value::Object(m)) => m
                .keys()
                .flat_map(|k| {
                    let at = match over {
                        Over::Keys => format!("{full}[{k}]"),
                        _ => full.clone(),
                    };
                    self.check(check, &Value::from(k.as_str()), None, &at)
                })
                .collect(),
            _ => vec![],
        };
        for e in found {
            self.push(line, e);
        }
    }

    fn walk(&mut self, path: &[Box<str>], at: &At<'_, '_>) {
        let Some(ty) = self.type_at(at.id, path) else { return };
        let (v, old) = (get(at.v, path), at.old.map(|o| get(o, path)));
        let full = join(at.path, &path.join("."));
        self.values(&ty, path, v, old, &full);
    }

    fn values(&mut self, ty: &Type, path: &[Box<str>], v: &Value, old: Option<&Value>, full: &str) {
        static EMPTY: std::sync::LazyLock<Value> =
            std::sync::LazyLock::new(|| Value::Object(serde_json::Map::new()));
        match (ty, v) {
            (Type::Object(id), Value::Object(_)) => self.object(*id, v, old, full),
            (Type::Object(id), Value::Null)
                if path.last().is_some_and(|f| ALWAYS_THERE.contains(&&**f)) =>
            {
                self.object(*id, &EMPTY, old, full);
            }
            (Type::List(item), Value::Array(items)) => {
                if let Type::Object(id) = item.ty {
                    for (i, v) in items.iter().enumerate() {
                        let old = old.and_then(|o| o.get(i));
                        self.object(id, v, old, &format!("{full}[{i}]"));
                    }
                }
            }
            (Type::Map(item), Value::Object(m)) => {
                if let Type::Object(id) = item.ty {
                    for (k, v) in m {
                        let old = old.and_then(|o| o.get(k));
                        self.object(id, v, old, &format!("{full}[{k}]"));
                    }
                }
            }
            _ => {}
        }
    }

    fn required(&self, id: DefId, path: &[Box<str>]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let parent = self.type_at(id, parents);
        parent.and_then(|t| self.arena.field(&t, last).map(|s| s.required)).unwrap_or(false)
    }

    fn type_at(&self, id: DefId, path: &[Box<str>]) -> Option<Type> {
        let mut ty = Type::Object(id);
        for step in path {
            ty = self.arena.field(&ty, step)?.ty.clone();
        }
        Some(ty)
    }

    fn check(&self, check: &Check, v: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
        let absent = v.is_null();
        match check {
            Check::Required(detail) if is_zero(v) => vec![FieldError::required(path, &**detail)],
            Check::Enum(list) if !absent && *v != "" => {
                let listed = list.iter().any(|l| *v == **l);
                let list: Vec<&str> = list.iter().map(|l| &**l).collect();
                if listed {
                    vec![]
                } else {
                    vec![FieldError::not_supported(path, v.clone(), &list)]
                }
            }
            Check::Range { min, max, always } if *always || !absent => {
                let Some(n) = v.as_i64().or(absent.then_some(0)) else { return vec![] };
                if n >= *min && n <= *max {
                    return vec![];
                }
                let why = if *max == i64::MAX {
                    format!("must be greater than or equal to {min}")
                } else {
                    format!("must be between {min} and {max}, inclusive")
                };
                vec![FieldError::invalid(path, n, why)]
            }
            Check::Name { checker, always } => {
                if checkers::takes_any(checker) {
                    return if absent { vec![] } else { checkers::structured(checker, v, path) };
                }
                let text = v.as_str().unwrap_or_default();
                if text.is_empty() && !always {
                    return vec![];
                }
                let texts = checkers::texts(checker, text);
                texts.into_iter().map(|t| FieldError::invalid(path, text, t)).collect()
            }
            Check::MaxLength(max) => match v.as_str() {
                Some(s) if s.len() as u64 > *max => vec![FieldError::too_long(path, *max)],
                _ => vec![],
            },
            Check::MaxItems(max) => match v {
                Value::Array(a) if a.len() > *max => {
                    vec![FieldError::too_many(path, a.len(), *max)]
                }
                Value::Object(m) if m.len() > *max => {
                    vec![FieldError::too_many(path, m.len(), *max)]
                }
                _ => vec![],
            },
            Check::Immutable(detail) => match old {
                Some(o) if o != v => vec![FieldError::invalid(path, v.clone(), &**detail)],
                _ => vec![],
            },
            Check::Unique { keys, at_item } => unique(v, keys, *at_item, path),
            _ => vec![],
        }
    }
}

fn unique(v: &Value, keys: &[Box<str>], at_item: bool, path: &str) -> Vec<FieldError> {
    let mut seen = std::collections::HashSet::new();
    let mut errors = Vec::new();
    for (i, item) in v.as_array().into_iter().flatten().enumerate() {
        let id: Vec<&Value> =
            keys.iter().map(|k| if &**k == "." { item } else { &item[&**k] }).collect();
        if id.iter().all(|v| is_zero(v)) || seen.insert(format!("{id:?}")) {
            continue;
        }
        errors.push(match (at_item, keys) {
            (false, [key]) if &**key != "." => {
                FieldError::duplicate(format!("{path}[{i}].{key}"), id[0].clone())
            }
            _ => FieldError::duplicate(format!("{path}[{i}]"), item.clone()),
        });
    }
    errors
}

fn same_loop(a: &Line, b: &Line) -> bool {
    match (&a.body, &b.body) {
        (Body::Rule(x), Body::Rule(y)) => {
            !x.loops.is_empty()
                && x.loops.first().map(|l| &l.source) == y.loops.first().map(|l| &l.source)
        }
        _ => false,
    }
}

fn holds(program: &Program, bindings: &Bindings<'_>) -> bool {
    match program.eval(bindings, COST_LIMIT).0 {
        Ok(v) => matches!(v, Val::Bool(true)),
        // A number too large to be read is wrong; a question about what is not there is none.
        Err(e) => e.to_string().contains("out of range"),
    }
}

/// The errors of a rule, with the place in its outermost loop.
fn evaluate(rule: &Rule, at: &At<'_, '_>) -> Vec<(usize, FieldError)> {
    let mut found = Vec::new();
    descend(rule, &rule.loops, &Run::bindings(at), &mut vec![], &mut 0, at, &mut found);
    found
}

fn descend<'v>(
    rule: &'v Rule,
    loops: &'v [Loop],
    bindings: &Bindings<'v>,
    indexes: &mut Vec<String>,
    item: &mut usize,
    at: &At<'_, '_>,
    found: &mut Vec<(usize, FieldError)>,
) {
    let Some((first, rest)) = loops.split_first() else {
        if holds(&rule.condition, bindings) {
            found.extend(rule_errors(rule, bindings, indexes, at).into_iter().map(|e| (*item, e)));
        }
        return;
    };
    let pairs: Vec<(Val<'v>, Val<'v>)> = match first.range.eval(bindings, COST_LIMIT).0 {
        Ok(Val::List(l)) => l
            .items()
            .into_iter()
            .enumerate()
            .map(|(i, v)| (Val::Int(i64::try_from(i).unwrap_or(i64::MAX)), v))
            .collect(),
        Ok(Val::Map(m)) => m.entries().into_iter().map(|(k, v)| (key(k), v)).collect(),
        _ => return,
    };
    for (n, (k, v)) in pairs.into_iter().enumerate() {
        if indexes.is_empty() {
            *item = n;
        }
        indexes.push(match &k {
            Val::String(s) => s.to_string(),
            other => other.to_json().to_string(),
        });
        let mut inner = bindings.clone();
        if let Some(name) = &first.index {
            inner = inner.with(name, k);
        }
        inner = inner.with(&first.item, v);
        descend(rule, rest, &inner, indexes, item, at, found);
        indexes.pop();
    }
}

fn key<'v>(k: Key) -> Val<'v> {
    match k {
        Key::String(s) => Val::text(s.to_string()),
        Key::Int(i) => Val::Int(i64::try_from(i).unwrap_or(0)),
        Key::Bool(b) => Val::Bool(b),
    }
}

fn rule_errors(
    rule: &Rule,
    bindings: &Bindings<'_>,
    indexes: &[String],
    at: &At<'_, '_>,
) -> Vec<FieldError> {
    let path = rule.path.render(bindings, indexes);
    let path = join(at.path, &path);
    let path = if path.is_empty() { "<nil>".to_owned() } else { path };
    let detail = rule.detail.render(bindings, indexes);
    let value = match &rule.value {
        Shown::Nothing => None,
        Shown::Null => Some(Value::Null),
        Shown::Text(t) => Some(Value::from(&**t)),
        Shown::Of(p) => p.eval(bindings, COST_LIMIT).0.ok().map(|v| match v.to_json() {
            // Go's nil list.
            Value::Array(a) if a.is_empty() => Value::Null,
            v => v,
        }),
    };
    if let Some(checker) = rule.checker.as_deref().filter(|c| checkers::takes_any(c)) {
        return checkers::structured(checker, &value.unwrap_or_default(), &path);
    }
    if let Some(checker) = &rule.checker {
        let text = value.as_ref().and_then(Value::as_str).unwrap_or_default();
        let texts = checkers::texts(checker, text);
        return texts
            .into_iter()
            .map(|t| FieldError::invalid(&*path, text, format!("{detail}{t}")))
            .collect();
    }
    let value = match rule.kind {
        FieldErrorKind::Required | FieldErrorKind::Forbidden | FieldErrorKind::TooLong => None,
        _ => value,
    };
    vec![FieldError { kind: rule.kind, path, value, detail }]
}

impl Text {
    fn render(&self, bindings: &Bindings<'_>, indexes: &[String]) -> String {
        let mut out = String::new();
        let mut indexes = indexes.iter();
        for piece in &self.0 {
            match piece {
                parse::Piece::Plain(s) => out.push_str(s),
                parse::Piece::Index => {
                    out.push('[');
                    out.push_str(indexes.next().map_or("", String::as_str));
                    out.push(']');
                }
                parse::Piece::Of(p) => match p.eval(bindings, COST_LIMIT).0 {
                    Ok(Val::String(s)) => out.push_str(&s),
                    Ok(v) => out.push_str(&v.to_json().to_string()),
                    Err(_) => {}
                },
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use crate::{minor::Minor, pack};

    #[test]
    fn every_block_compiles() {
        let pack = pack::of(Minor::LATEST);
        let mut all = Vec::new();
        for (name, (text, _)) in &pack.rules.blocks {
            let id = pack.arena.find(name).unwrap_or_else(|| panic!("{name} is not in the pack"));
            let schema = pack.rules.structure.schema(&pack.arena, id);
            if let Err((_, faults)) = super::parse::block(text, &schema) {
                all.extend(faults.into_iter().map(|f| format!("{name}: {f}")));
            }
        }
        assert!(all.is_empty(), "{} faults\n{}", all.len(), all.join("\n"));
    }
}
