//! Evaluation, with its cost counted as it goes: the unit and the rules are cel-go's at run time,
//! with Kubernetes' costs for its own functions.

use crate::{
    Bindings, EvalError, Program,
    ast::{Call, Expr, Fold, Literal, Node, Select},
    check::full_name,
    cost::{FORMAT_REGEX, LIST, MAP, REGEX, STRUCT, TRAVERSE, scaled},
    library::{self, Output, bad_arguments, err},
    value::{Key, Map, Val},
};
use std::{collections::BTreeMap, sync::Arc};

/// An evaluation under way.
pub(crate) struct Evaluation<'a, 'b> {
    program: &'a Program,
    bindings: &'b Bindings<'a>,
    /// Variables of folds. An accumulator may hold an error that a later element may outweigh.
    locals: Vec<(&'a str, Output<'a>)>,
    spent: u64,
    limit: u64,
}

impl<'a, 'b> Evaluation<'a, 'b> {
    pub(crate) fn new(program: &'a Program, bindings: &'b Bindings<'a>, limit: u64) -> Self {
        Self { program, bindings, locals: vec![], spent: 0, limit }
    }

    pub(crate) fn run(mut self) -> (Output<'a>, u64) {
        let result = self.eval(&self.program.expr);
        (result, self.spent)
    }

    fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, e: &'a Expr) -> Output<'a> {
        match &e.node {
            Node::Literal(l) => Ok(literal(l)),
            Node::Ident(name) => {
                self.spend(1)?;
                self.variable(name)
            }
            Node::Select(s) => self.select(e, s),
            Node::Call(c) => self.call(c),
            Node::List(items) => {
                let mut all = Vec::with_capacity(items.len());
                for item in items {
                    match (self.eval(&item.value)?, item.optional) {
                        (Val::Optional(Some(v)), true) => all.push(v.as_ref().clone()),
                        (Val::Optional(None), true) => {}
                        (v, true) => {
                            return Err(err(format!(
                                "cannot initialize optional list element from non-optional value {}",
                                v.to_json()
                            )));
                        }
                        (v, false) => all.push(v),
                    }
                }
                // A list of constants is made once, in upstream's eyes.
                if !items.iter().all(|i| matches!(i.value.node, Node::Literal(_))) {
                    self.spend(LIST)?;
                }
                Ok(Val::list(all))
            }
            Node::Map(_) => self.map(e),
            Node::Struct(name, _) => {
                self.spend(STRUCT)?;
                Err(err(format!("unknown type: {name}")))
            }
            Node::Fold(f) => self.fold(f),
        }
    }

    fn variable(&mut self, name: &str) -> Output<'a> {
        if let Some((_, v)) = self.locals.iter().rev().find(|(n, _)| *n == name) {
            return v.clone();
        }
        if let Some(v) = self.bindings.get(name) {
            return Ok(v);
        }
        match crate::check::type_name(name) {
            Some(_) => Ok(Val::Type(name.to_owned().into())),
            None => Err(err(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, e: &'a Expr, s: &'a Select) -> Output<'a> {
        if let Node::Ident(_) | Node::Select(_) = &s.operand.node {
            // A qualified name of a type.
            if let Some(name) = crate::parse::qualified_name(e) {
                if crate::check::type_name(&name).is_some() {
                    return Ok(Val::Type(name.into()));
                }
            }
        }
        let operand = self.eval(&s.operand)?;
        if !s.test {
            self.spend(1)?;
        }
        self.field(operand, &s.field, s.test)
    }

    fn field(&self, operand: Val<'a>, name: &str, test: bool) -> Output<'a> {
        match operand {
            Val::Map(m) => {
                let found = m.field(name).filter(|v| !matches!(v, Val::Null) || !is_object(&m));
                match found {
                    _ if test => Ok(Val::Bool(found.is_some())),
                    Some(v) => Ok(v),
                    None => {
                        let zero = self.program.zero_values.then(|| m.zero_field(name)).flatten();
                        zero.ok_or_else(|| err(format!("no such key: {name}")))
                    }
                }
            }
            Val::Optional(None) if test => Ok(Val::Bool(false)),
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(v)) => match (v.as_ref().clone(), test) {
                (v, true) => self.field(v, name, true),
                (Val::Map(m), false) => Ok(Val::Optional(m.field(name).map(Arc::new))),
                _ => bad_arguments(),
            },
            _ => bad_arguments(),
        }
    }

    fn map(&mut self, e: &'a Expr) -> Output<'a> {
        let Node::Map(entries) = &e.node else { return bad_arguments() };
        let mut map = BTreeMap::new();
        let mut constant = true;
        for entry in entries {
            let key = self.eval(&entry.key)?.key().ok_or_else(|| err("unsupported key type"))?;
            let value = match (self.eval(&entry.value)?, entry.optional) {
                (Val::Optional(Some(v)), true) => v.as_ref().clone(),
                (Val::Optional(None), true) => continue,
                (v, true) => {
                    return Err(err(format!(
                        "cannot initialize optional entry '{key}' from non-optional value {}",
                        v.to_json()
                    )));
                }
                (v, false) => v,
            };
            constant &= matches!(entry.value.node, Node::Literal(_))
                && matches!(entry.key.node, Node::Literal(_));
            if map.insert(key.clone(), value).is_some() {
                return Err(err(format!("Failed with repeated key {key}")));
            }
        }
        if !constant {
            self.spend(MAP)?;
        }
        Ok(Val::Map(Map::Made(Arc::new(map))))
    }

    fn call(&mut self, c: &'a Call) -> Output<'a> {
        match (&*c.function, &c.args[..]) {
            ("_&&_", args) => self.logic(args, false),
            ("_||_", args) => self.logic(args, true),
            ("_?_:_", [condition, yes, no]) => match self.eval(condition)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                _ => bad_arguments(),
            },
            (crate::macros::NOT_FALSE, [arg]) => {
                let v = self.eval(arg);
                self.spend(1)?;
                match v {
                    Ok(Val::Bool(b)) => Ok(Val::Bool(b)),
                    Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
                    _ => Ok(Val::Bool(true)),
                }
            }
            ("_?._", [operand, name]) => {
                let Node::Literal(Literal::String(name)) = &name.node else {
                    return bad_arguments();
                };
                let operand = self.eval(operand)?;
                self.optional_field(operand, name)
            }
            ("_[_]", [operand, index]) => {
                let (operand, index) = (self.eval(operand)?, self.eval(index)?);
                self.spend(1)?;
                at(operand, &index)
            }
            ("_[?_]", [operand, index]) => {
                let (operand, index) = (self.eval(operand)?, self.eval(index)?);
                let inner = match operand {
                    Val::Optional(None) => return Ok(Val::Optional(None)),
                    Val::Optional(Some(v)) => v.as_ref().clone(),
                    other => other,
                };
                match at(inner, &index) {
                    Ok(v) => {
                        self.spend(1)?;
                        Ok(Val::some(v))
                    }
                    Err(_) => Ok(Val::Optional(None)),
                }
            }
            _ => self.function(c),
        }
    }

    fn optional_field(&mut self, operand: Val<'a>, name: &str) -> Output<'a> {
        let inner = match operand {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(v)) => v.as_ref().clone(),
            other => other,
        };
        match inner {
            Val::Map(m) => {
                let found = m.field(name).filter(|v| !matches!(v, Val::Null) || !is_object(&m));
                if found.is_some() {
                    self.spend(1)?;
                }
                Ok(Val::Optional(found.map(Arc::new)))
            }
            _ => bad_arguments(),
        }
    }

    /// `&&` and `||`: an error is forgotten if another operand decides.
    fn logic(&mut self, args: &'a [Expr], decides: bool) -> Output<'a> {
        let mut failed = None;
        for arg in args {
            match self.eval(arg) {
                Ok(Val::Bool(b)) if b == decides => return Ok(Val::Bool(b)),
                Ok(Val::Bool(_)) => {}
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(e) => drop(failed.get_or_insert(e)),
                Ok(_) => drop(failed.get_or_insert_with(|| err("no such overload"))),
            }
        }
        failed.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn function(&mut self, c: &'a Call) -> Output<'a> {
        let mut args = Vec::with_capacity(c.args.len() + 1);
        let mut name: &str = &c.function;
        let full;
        if let Some(target) = &c.target {
            full = full_name(c).filter(|n| crate::signatures::overloads(n).is_some());
            match &full {
                Some(n) => name = n,
                None => args.push(self.eval(target)?),
            }
        }
        // What a fold appends to is taken, not shared, so that appending copies nothing.
        if let ("_+_", [Expr { node: Node::Ident(n), .. }, item]) = (name, &c.args[..]) {
            if &**n == crate::macros::ACCUMULATOR {
                return self.append(item);
            }
        }
        for a in &c.args {
            args.push(self.eval(a)?);
        }
        let own = self.program.library.and_then(|l| l.functions.get(name)).copied();
        let Some(f) = own.or_else(|| library::function(name)) else {
            return Err(err(format!("no such overload: {name}")));
        };
        let result = f(&args)?;
        let cost = call_cost(name, c, &args, &result);
        self.spend(cost)?;
        Ok(result)
    }

    fn append(&mut self, item: &'a Expr) -> Output<'a> {
        self.spend(1)?;
        let item = self.eval(item)?;
        let place = self.locals.iter_mut().rev().find(|(n, _)| *n == crate::macros::ACCUMULATOR);
        let Some((_, accumulator)) = place else { return bad_arguments() };
        let taken = std::mem::replace(accumulator, Ok(Val::Null));
        self.spend(1)?;
        match (taken?, item) {
            (Val::List(a), Val::List(b)) => Ok(Val::List(a.plus(b))),
            (a, b) => match library::function("_+_") {
                Some(plus) => plus(&[a, b]),
                None => bad_arguments(),
            },
        }
    }

    fn fold(&mut self, f: &'a Fold) -> Output<'a> {
        let range = self.eval(&f.range)?;
        let init = self.eval(&f.init)?;
        let depth = self.locals.len();
        self.locals.push((&f.accumulator, Ok(init)));
        let result = self.iterate(f, &range, depth);
        self.locals.truncate(depth + 1);
        let result = result.and_then(|()| self.eval(&f.result));
        self.locals.truncate(depth);
        result
    }

    fn iterate(&mut self, f: &'a Fold, range: &Val<'a>, place: usize) -> Result<(), EvalError> {
        let pairs: Vec<(Val<'a>, Val<'a>)> = match range {
            Val::List(l) => l
                .items()
                .into_iter()
                .enumerate()
                .map(|(i, v)| (Val::Int(i64::try_from(i).unwrap_or(i64::MAX)), v))
                .collect(),
            Val::Map(m) if f.second.is_some() => {
                m.entries().into_iter().map(|(k, v)| (k.val(), v)).collect()
            }
            Val::Map(m) => m.keys().iter().map(|k| (Val::Null, k.val())).collect(),
            _ => return bad_arguments(),
        };
        for (first, second) in pairs {
            self.locals.truncate(place + 1);
            match &f.second {
                Some(name) => {
                    self.locals.push((&f.variable, Ok(first)));
                    self.locals.push((name, Ok(second)));
                }
                None => self.locals.push((&f.variable, Ok(second))),
            }
            match self.eval(&f.condition)? {
                Val::Bool(true) => {}
                Val::Bool(false) => break,
                _ => return bad_arguments(),
            }
            self.locals[place].1 = match self.eval(&f.step) {
                Err(e @ EvalError::Failed(_)) if is_quantifier(f) => Err(e),
                other => Ok(other?),
            };
        }
        Ok(())
    }
}

/// Whether a fold goes on over errors: a later element may decide.
fn is_quantifier(f: &Fold) -> bool {
    matches!(&f.step.node, Node::Call(c) if matches!(&*c.function, "_&&_" | "_||_"))
        && matches!(f.init.node, Node::Literal(Literal::Bool(_)))
}

fn is_object(m: &Map<'_>) -> bool {
    matches!(m, Map::Object(..))
}

fn literal<'a>(l: &'a Literal) -> Val<'a> {
    match l {
        Literal::Null => Val::Null,
        Literal::Bool(b) => Val::Bool(*b),
        Literal::Int(i) => Val::Int(*i),
        Literal::Uint(u) => Val::Uint(*u),
        Literal::Double(d) => Val::Double(*d),
        Literal::String(s) => Val::text(&**s),
        Literal::Bytes(b) => Val::Bytes(b.clone().into()),
    }
}

/// `operand[index]`.
fn at<'a>(operand: Val<'a>, index: &Val<'a>) -> Output<'a> {
    match (operand, index) {
        (Val::List(l), i) => {
            let place = match i {
                Val::Int(i) => usize::try_from(*i).ok(),
                Val::Uint(u) => usize::try_from(*u).ok(),
                Val::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                Val::Double(_) => None,
                other => {
                    return Err(err(format!(
                        "unsupported index type '{}' in list",
                        other.type_name()
                    )));
                }
            };
            place
                .and_then(|i| l.get(i))
                .ok_or_else(|| err(format!("index out of bounds: {}", index.to_json())))
        }
        (Val::Map(m), k) => {
            let missing = || err(format!("no such key: {}", shown(k)));
            k.key().and_then(|k| m.get(&k)).ok_or_else(missing)
        }
        (Val::Optional(None), _) => Ok(Val::Optional(None)),
        (Val::Optional(Some(v)), i) => Ok(match at(v.as_ref().clone(), i) {
            Ok(v) => Val::some(v),
            Err(_) => Val::Optional(None),
        }),
        _ => bad_arguments(),
    }
}

fn shown(v: &Val<'_>) -> String {
    match v {
        Val::String(s) => s.to_string(),
        other => other.to_json().to_string(),
    }
}

/// The cost of walking through a value.
fn traversal(v: &Val<'_>) -> u64 {
    match v {
        Val::String(s) => (s.len() as f64 * TRAVERSE) as u64,
        Val::Bytes(b) => (b.len() as f64 * TRAVERSE) as u64,
        Val::List(l) => l.items().iter().map(traversal).sum(),
        Val::Map(m) => {
            let key = |k: &Key| traversal(&k.val());
            m.entries().iter().map(|(k, v)| key(k) + traversal(v)).sum()
        }
        _ => 1,
    }
}

fn regex_cost(text: u64, pattern: f64) -> u64 {
    scaled(text + 1, TRAVERSE).saturating_mul((pattern * REGEX).ceil() as u64)
}

/// What a call costs, its arguments having been paid for.
fn call_cost(name: &str, call: &Call, args: &[Val<'_>], result: &Val<'_>) -> u64 {
    let size = |i: usize| args.get(i).map_or(1, Val::size);
    let (first, second) = (size(0), size(1));
    let is_text = |i: usize| matches!(args.get(i), Some(Val::String(_)));
    match name {
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            args.first().map_or(1, traversal)
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "cidr" | "isIP" | "isCIDR"
        | "quantity" | "isQuantity" | "semver" | "isSemver" | "strings.quote" | "format" => {
            scaled(first, TRAVERSE)
        }
        "ip" if is_text(0) => scaled(first, TRAVERSE),
        "replace" | "split" | "ip.isCanonical" => scaled(first, 2.0 * TRAVERSE),
        "join" => scaled(result.size(), 2.0 * TRAVERSE),
        "find" | "findAll" | "matches" => regex_cost(first, second as f64),
        "validate" => regex_cost(second, FORMAT_REGEX),
        "contains" => scaled(first, TRAVERSE).saturating_mul(scaled(second, TRAVERSE)),
        "startsWith" | "endsWith" => scaled(second, TRAVERSE),
        "containsIP" | "containsCIDR" => {
            let mut cost = scaled(2 * first, TRAVERSE);
            if name == "containsCIDR" {
                cost += scaled(first, TRAVERSE) + 1;
            }
            if is_text(1) {
                cost += scaled(second, TRAVERSE);
            }
            cost
        }
        "bytes" if is_text(0) => scaled(first, TRAVERSE),
        "string" if matches!(args.first(), Some(Val::Bytes(_))) => scaled(first, TRAVERSE),
        "@in" => match (args.get(1), call.args.get(1).map(|a| &a.node)) {
            // A list of constants is looked up, not walked.
            (_, Some(Node::List(l)))
                if l.iter().all(|i| matches!(i.value.node, Node::Literal(_))) =>
            {
                0
            }
            (Some(Val::List(_)), _) => second,
            _ => 1,
        },
        "_==_" if matches!(args.first(), Some(Val::Opaque(_))) => 1,
        "_==_" | "_!=_" => scaled(first.min(second), TRAVERSE),
        "_<_" | "_<=_" | "_>_" | "_>=_"
            if matches!(args.first(), Some(Val::String(_) | Val::Bytes(_))) =>
        {
            scaled(first.min(second), TRAVERSE)
        }
        "_+_" if matches!(args.first(), Some(Val::String(_) | Val::Bytes(_))) => {
            scaled(first + second, TRAVERSE)
        }
        "sets.contains" | "sets.intersects" => 1 + first.saturating_mul(second),
        "sets.equivalent" => 1 + first.saturating_mul(second).saturating_mul(2),
        "slice" | "lists.range" => LIST + 1 + result.size(),
        "reverse" => LIST + 1 + first,
        "flatten" => {
            let depth = match args.get(1) {
                Some(Val::Int(d)) => u64::try_from(*d).unwrap_or(1),
                _ => 1,
            };
            LIST + 1 + first.saturating_mul(depth)
        }
        "distinct" | "sort" => LIST + 1 + sort_cost(&args[0]),
        "@sortByAssociatedKeys" => LIST + 1 + sort_cost(&args[1]),
        _ => 1,
    }
}

fn sort_cost(list: &Val<'_>) -> u64 {
    let Val::List(l) = list else { return 0 };
    let n = l.len() as f64;
    let text = matches!(l.get(0), Some(Val::String(_) | Val::Bytes(_)));
    (n * n * if text { 2.1 } else { 2.0 }) as u64
}
