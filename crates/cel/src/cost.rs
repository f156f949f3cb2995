//! What an expression may cost at most, before it is ever evaluated. The unit and the rules are
//! cel-go's, with Kubernetes' estimates for its own functions: a definition that one server takes,
//! the other must take too.

use crate::{
    Env,
    ast::{Call, Expr, Fold, Literal, Node},
    check::full_name,
    macros::ACCUMULATOR,
    types::{Schema, Shape, Type},
};
use std::collections::HashMap;

pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;
pub(crate) const TRAVERSE: f64 = 0.1;
pub(crate) const REGEX: f64 = 0.25;
/// Longest pattern of a named format.
pub(crate) const FORMAT_REGEX: f64 = 128.0;

/// A number between two bounds: a cost, or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl Range {
    const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    fn plus(self, o: Self) -> Self {
        Self { min: self.min.saturating_add(o.min), max: self.max.saturating_add(o.max) }
    }

    fn times(self, o: Self) -> Self {
        Self { min: self.min.saturating_mul(o.min), max: self.max.saturating_mul(o.max) }
    }

    fn scaled(self, by: f64) -> Self {
        Self { min: scaled(self.min, by), max: scaled(self.max, by) }
    }

    fn union(self, o: Self) -> Self {
        Self { min: self.min.min(o.min), max: self.max.max(o.max) }
    }
}

/// A size times a factor, rounded up. (Casts of floats saturate, as they must here.)
pub(crate) fn scaled(n: u64, by: f64) -> u64 {
    (n as f64 * by).ceil() as u64
}

/// The most that an expression costs.
pub(crate) fn worst(env: &Env, expr: &Expr, types: &[Type]) -> u64 {
    let mut c = Coster {
        env,
        types,
        locals: vec![],
        sizes: HashMap::new(),
        entries: HashMap::new(),
        places: HashMap::new(),
    };
    c.cost(expr).max
}

/// Sizes of the keys (or indexes) and values of what is in a list or map.
#[derive(Clone, Copy)]
struct Entries {
    key: Range,
    value: Range,
}

/// Where a value stands in the data.
#[derive(Clone, Copy)]
enum Place<'e> {
    At(&'e Schema),
    /// A key of a map: its size is not known to be anything.
    Key,
    /// Where the schema has nothing, as beneath a map's values that are read like fields.
    Nowhere,
}

struct Local<'e> {
    name: Box<str>,
    place: Option<Place<'e>>,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Coster<'e> {
    env: &'e Env,
    types: &'e [Type],
    locals: Vec<Local<'e>>,
    sizes: HashMap<usize, Range>,
    entries: HashMap<usize, Entries>,
    places: HashMap<usize, Place<'e>>,
}

/// The cost of a call's own work, and the size of what it gives.
struct Estimate {
    cost: Range,
    size: Option<Range>,
}

impl From<Range> for Estimate {
    fn from(cost: Range) -> Self {
        Self { cost, size: None }
    }
}

impl<'e> Coster<'e> {
    fn ty(&self, e: &Expr) -> &'e Type {
        &self.types[e.id]
    }

    fn local(&self, name: &str) -> Option<&Local<'e>> {
        self.locals.iter().rev().find(|l| *l.name == *name)
    }

    fn place(&self, e: &Expr) -> Option<Place<'e>> {
        if let Node::Ident(name) = &e.node {
            if let Some(l) = self.local(name) {
                return l.place;
            }
        }
        self.places.get(&e.id).copied()
    }

    /// The place one step below. What stands nowhere in the data, as the result of a call, counts
    /// as the data itself, because upstream's estimates do: `self.split('/')[0]` is as long as
    /// `self`.
    fn child(&self, place: Option<Place<'e>>, step: &Step<'_>) -> Option<Place<'e>> {
        let schema = match place {
            None => return self.env.root().map(Place::At),
            Some(Place::At(schema)) => schema,
            Some(Place::Key | Place::Nowhere) => return Some(Place::Nowhere),
        };
        Some(match (&schema.shape, step) {
            (Shape::List(items, _), Step::Values) => Place::At(items),
            (Shape::Map(values), Step::Values) => Place::At(values),
            (Shape::Map(_) | Shape::Object(_), Step::Keys) => Place::Key,
            (Shape::Object(o), Step::Field(f)) => {
                o.field(f).map_or(Place::Nowhere, |f| Place::At(&f.schema))
            }
            _ => Place::Nowhere,
        })
    }

    fn size(&mut self, e: &Expr) -> Option<Range> {
        if let Some(s) = self.sizes.get(&e.id) {
            return Some(*s);
        }
        let literal = match &e.node {
            Node::Literal(Literal::String(s)) => Some(s.chars().count()),
            Node::Literal(Literal::Bytes(b)) => Some(b.len()),
            Node::Literal(_) => Some(1),
            Node::List(items) => Some(items.len()),
            Node::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(n) = literal {
            return Some(Range::fixed(n as u64));
        }
        let place_max = match self.place(e) {
            Some(Place::At(schema)) => Some(schema.max_elements),
            Some(Place::Key) => Some(0),
            Some(Place::Nowhere) | None => None,
        };
        if let Some(max) = place_max {
            let size = Range { min: 0, max };
            self.sizes.insert(e.id, size);
            return Some(size);
        }
        if is_scalar(self.ty(e)) {
            return Some(Range::fixed(1));
        }
        match &e.node {
            Node::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Range {
        self.size(e).unwrap_or(UNKNOWN)
    }

    fn entries(&self, e: &Expr) -> Option<Entries> {
        self.entries.get(&e.id).copied().or_else(|| match &e.node {
            Node::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        })
    }

    fn cost(&mut self, e: &Expr) -> Range {
        match &e.node {
            Node::Literal(_) => Range::fixed(0),
            Node::Ident(name) => {
                if self.local(name).is_none() {
                    // A name that is not data, as of a type, has upstream look at the data too.
                    let schema = self.env.variable(name).or_else(|| self.env.root());
                    if let Some(schema) = schema {
                        self.places.insert(e.id, Place::At(schema));
                    }
                }
                Range::fixed(1)
            }
            Node::Select(s) => {
                let mut sum = self.cost(&s.operand);
                if s.test {
                    return sum;
                }
                if matches!(self.ty(&s.operand), Type::Map(..) | Type::Object(_)) {
                    sum = sum.plus(Range::fixed(1));
                }
                if let Some(p) = self.child(self.place(&s.operand), &Step::Field(&s.field)) {
                    self.places.insert(e.id, p);
                }
                sum
            }
            Node::Call(c) => self.call(e, c),
            Node::List(items) => {
                let mut sum = Range::fixed(LIST);
                let mut of = if items.is_empty() { Range::fixed(0) } else { NEUTRAL };
                for i in items {
                    sum = sum.plus(self.cost(&i.value));
                    of = of.union(self.size_or_unknown(&i.value));
                }
                self.entries.insert(e.id, Entries { key: Range::fixed(1), value: of });
                sum
            }
            Node::Map(entries) => {
                let mut sum = Range::fixed(MAP);
                let first = if entries.is_empty() { Range::fixed(0) } else { NEUTRAL };
                let mut of = Entries { key: first, value: first };
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    of.key = of.key.union(self.size_or_unknown(&entry.key));
                    of.value = of.value.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(e.id, of);
                sum
            }
            Node::Struct(_, fields) => {
                fields.iter().fold(Range::fixed(STRUCT), |sum, (_, v)| sum.plus(self.cost(v)))
            }
            Node::Fold(f) => self.fold(e, f),
        }
    }

    fn fold(&mut self, e: &Expr, f: &Fold) -> Range {
        let mut sum = self.cost(&f.range).plus(self.cost(&f.init));
        let depth = self.locals.len();
        let accumulator = Local {
            name: f.accumulator.clone(),
            place: self.place(&f.init).filter(|_| &*f.accumulator != ACCUMULATOR),
            size: self.size(&f.init),
            entries: self.entries(&f.init),
        };
        self.locals.push(accumulator);
        if &*f.accumulator != ACCUMULATOR {
            // A named value: nothing is folded.
            sum = sum.plus(self.cost(&f.result));
            if let Some(size) = self.size(&f.result) {
                self.sizes.insert(e.id, size);
            }
            if let Some(entries) = self.entries(&f.result) {
                self.entries.insert(e.id, entries);
            }
            self.locals.truncate(depth);
            return sum;
        }
        self.push_variables(f);
        let each = self.cost(&f.condition).plus(self.cost(&f.step));
        self.locals.truncate(depth + 1);
        sum = sum.plus(self.cost(&f.result));
        self.locals.truncate(depth);
        let count = self.size_or_unknown(&f.range);
        match &f.init.node {
            Node::Literal(_) => {
                if let Some(size) = self.size(&f.init) {
                    self.sizes.insert(e.id, size);
                }
            }
            Node::List(_) | Node::Map(_) => {
                self.sizes.insert(e.id, count);
                if let Some(entries) = self.entries(&f.step) {
                    self.entries.insert(e.id, entries);
                }
            }
            _ => {}
        }
        sum.plus(count.times(each))
    }

    fn push_variables(&mut self, f: &Fold) {
        let of = self.entries(&f.range);
        let place = self.place(&f.range);
        let list = matches!(self.ty(&f.range), Type::List(_));
        let local =
            |name: &str, place, size| Local { name: name.into(), place, size, entries: None };
        let values = self.child(place, &Step::Values);
        let keys = if list { None } else { self.child(place, &Step::Keys) };
        let (key_size, value_size) = (of.map(|o| o.key), of.map(|o| o.value));
        match &f.second {
            Some(second) => {
                self.locals.push(local(&f.variable, keys, key_size));
                self.locals.push(local(second, values, value_size));
            }
            None if list => self.locals.push(local(&f.variable, values, value_size)),
            None => self.locals.push(local(&f.variable, keys, key_size)),
        }
    }

    fn call(&mut self, e: &Expr, c: &Call) -> Range {
        let name = match full_name(c).filter(|n| crate::signatures::overloads(n).is_some()) {
            Some(n) => n,
            None => c.function.to_string(),
        };
        let method = c.target.is_some() && name == *c.function;
        let mut args: Vec<&Expr> = c.args.iter().collect();
        if let Some(target) = c.target.as_ref().filter(|_| method) {
            args.insert(0, target);
        }
        let costs: Vec<Range> = args.iter().map(|a| self.cost(a)).collect();
        let sum = costs.iter().fold(Range::fixed(0), |s, c| s.plus(*c));
        if name == "dyn" {
            if let Some(size) = self.size(args[0]) {
                self.sizes.insert(e.id, size);
            }
            return sum.plus(Range::fixed(1));
        }
        match name.as_str() {
            "_&&_" | "_||_" => return balanced_min(&costs),
            "_?:_" | "_?_:_" => {
                let size = self.size_or_unknown(args[1]).union(self.size_or_unknown(args[2]));
                self.sizes.insert(e.id, size);
                if let (Some(a), Some(b)) = (self.entries(args[1]), self.entries(args[2])) {
                    let both = Entries { key: a.key.union(b.key), value: a.value.union(b.value) };
                    self.entries.insert(e.id, both);
                }
                return costs[0].plus(costs[1].union(costs[2]));
            }
            "_[_]" => {
                let of = self.entries(args[0]);
                if let Some(p) = self.child(self.place(args[0]), &Step::Values) {
                    self.places.insert(e.id, p);
                } else if let Some(of) = of {
                    self.sizes.insert(e.id, of.value);
                }
                return sum.plus(Range::fixed(1));
            }
            _ => {}
        }
        let estimate = self.function(e, &name, &args);
        if let Some(size) = estimate.size {
            self.sizes.insert(e.id, size);
        }
        sum.plus(estimate.cost)
    }

    /// A function's own cost, with that of evaluating its arguments left out.
    fn function(&mut self, e: &Expr, name: &str, args: &[&Expr]) -> Estimate {
        let first = args.first().map_or(UNKNOWN, |a| self.size_or_unknown(a));
        let second = args.get(1).map_or(UNKNOWN, |a| self.size_or_unknown(a));
        let one = Range::fixed(1);
        let text = |i: usize| matches!(args.get(i).map(|a| self.ty(a)), Some(Type::String));
        match name {
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
                self.list_walk(args[0], first).into()
            }
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                Estimate { cost: first.scaled(TRAVERSE), size: Some(first) }
            }
            "replace" if args.len() >= 3 => {
                let with = self.size_or_unknown(args[2]);
                Estimate {
                    cost: first.scaled(2.0 * TRAVERSE),
                    size: Some(replaced(first, second, with)),
                }
            }
            "split" => {
                let max = match args.get(2).map(|a| &a.node) {
                    Some(Node::Literal(Literal::Int(n))) => *n as u64,
                    _ => first.max,
                };
                Estimate { cost: first.scaled(2.0 * TRAVERSE), size: Some(Range { min: 0, max }) }
            }
            "join" => {
                let mut size = first.times(self.item_size(args[0]));
                if args.len() > 1 {
                    let gaps = Range {
                        min: first.min.saturating_sub(1),
                        max: first.max.saturating_sub(1),
                    };
                    size = size.plus(second.times(gaps));
                }
                Estimate { cost: size.scaled(TRAVERSE), size: Some(size) }
            }
            "find" | "findAll" => Estimate {
                cost: first.plus(one).scaled(TRAVERSE).times(second.scaled(REGEX)),
                size: Some(Range { min: 0, max: first.max }),
            },
            "matches" => first.plus(one).scaled(TRAVERSE).times(second.scaled(REGEX)).into(),
            "contains" => first.scaled(TRAVERSE).times(second.scaled(TRAVERSE)).into(),
            "startsWith" | "endsWith" => second.scaled(TRAVERSE).into(),
            "ip" if !text(0) => one.into(),
            "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver"
            | "isSemver" => first.scaled(TRAVERSE).into(),
            "ip.isCanonical" => first.scaled(2.0 * TRAVERSE).into(),
            "containsIP" | "containsCIDR" => {
                let mut cost = Range { min: 1, max: 4 };
                if name == "containsCIDR" {
                    cost = cost.plus(Range { min: 2, max: 3 });
                }
                if text(1) {
                    cost = cost.plus(second.scaled(TRAVERSE));
                }
                cost.into()
            }
            "validate" => second.scaled(TRAVERSE).scaled(FORMAT_REGEX * REGEX).into(),
            "format" => first.scaled(TRAVERSE).into(),
            "strings.quote" => Estimate {
                cost: first.scaled(TRAVERSE),
                size: Some(Range {
                    min: first.min.saturating_add(2),
                    max: first.max.saturating_mul(2).saturating_add(2),
                }),
            },
            "bytes" if text(0) => Estimate {
                cost: first.scaled(TRAVERSE),
                size: Some(Range { min: first.min, max: first.max.saturating_mul(4) }),
            },
            "string" if matches!(self.ty(args[0]), Type::Bytes) => Estimate {
                cost: first.scaled(TRAVERSE),
                size: Some(Range { min: first.min / 4, max: first.max }),
            },
            "@in" if matches!(self.ty(args[1]), Type::List(_) | Type::Dyn) => second.into(),
            "_==_" | "_!=_" => self.equality(name, args, first, second).into(),
            "_<_" | "_<=_" | "_>_" | "_>=_"
                if matches!(self.ty(args[0]), Type::String | Type::Bytes | Type::Dyn)
                    || matches!(self.ty(args[1]), Type::Dyn) =>
            {
                smaller(first, second).into()
            }
            "_+_" => self.addition(e, args, first, second),
            "sets.contains" | "sets.intersects" => first.times(second).plus(one).into(),
            "sets.equivalent" => first.times(second).times(Range::fixed(2)).plus(one).into(),
            "slice"
            | "reverse"
            | "flatten"
            | "distinct"
            | "sort"
            | "lists.range"
            | "@sortByAssociatedKeys" => self.lists(name, args, first, second),
            _ => one.into(),
        }
    }

    fn list_walk(&mut self, list: &Expr, size: Range) -> Range {
        match self.ty(list) {
            Type::List(of) => {
                let mut each = Range::fixed(1);
                if matches!(**of, Type::String | Type::Bytes) {
                    each = each.plus(self.item_size(list).scaled(TRAVERSE));
                }
                size.times(each)
            }
            _ => size.scaled(TRAVERSE),
        }
    }

    /// The size of a list's items, as far as the data's structure says it.
    fn item_size(&self, list: &Expr) -> Range {
        match self.child(self.place(list), &Step::Values) {
            Some(Place::At(schema)) => Range { min: 0, max: schema.max_elements },
            _ => UNKNOWN,
        }
    }

    fn equality(&self, name: &str, args: &[&Expr], a: Range, b: Range) -> Range {
        if name == "_==_" {
            if let (Type::Opaque(x), Type::Opaque(y)) = (self.ty(args[0]), self.ty(args[1])) {
                return match *x {
                    _ if x != y => smaller(a, b),
                    "kubernetes.NamedFormat" => Range { min: 1, max: 7 },
                    "kubernetes.URL" => Range { min: 1, max: 1 },
                    _ => Range::fixed(1),
                };
            }
        }
        smaller(a, b)
    }

    fn addition(&mut self, e: &Expr, args: &[&Expr], a: Range, b: Range) -> Estimate {
        let size = Some(a.plus(b));
        match (self.ty(args[0]), self.ty(args[1])) {
            (Type::List(_), _) | (_, Type::List(_)) => {
                if let (Some(x), Some(y)) = (self.entries(args[0]), self.entries(args[1])) {
                    let both = Entries { key: x.key.union(y.key), value: x.value.union(y.value) };
                    self.entries.insert(e.id, both);
                }
                Estimate { cost: Range::fixed(1), size }
            }
            (Type::String | Type::Bytes | Type::Dyn, _) | (_, Type::String | Type::Bytes) => {
                Estimate { cost: a.plus(b).scaled(TRAVERSE), size }
            }
            _ => Range::fixed(1).into(),
        }
    }

    fn lists(&mut self, name: &str, args: &[&Expr], first: Range, second: Range) -> Estimate {
        let literal = |i: usize| match args.get(i).map(|a| &a.node) {
            Some(Node::Literal(Literal::Int(n))) => Some(*n as u64),
            _ => None,
        };
        let of_text = |e: &Expr| matches!(self.ty(e), Type::List(of) if matches!(**of, Type::String | Type::Bytes));
        let sorting = |text: bool| if text { 2.1 } else { 2.0 };
        let (size, factor) = match name {
            "slice" => {
                let (from, to) = (literal(1).unwrap_or(0), literal(2).unwrap_or(first.max));
                (Range::fixed(to.wrapping_sub(from)), 1.0)
            }
            "lists.range" => (Range::fixed(literal(0).unwrap_or(u64::MAX)), 1.0),
            "reverse" => (first, 1.0),
            "flatten" => {
                let depth = if args.len() > 1 { literal(1).unwrap_or(u64::MAX) } else { 1 };
                (first, depth as f64)
            }
            "@sortByAssociatedKeys" => (second.times(second), sorting(of_text(args[1]))),
            _ => (first.times(first), sorting(of_text(args[0]))),
        };
        Estimate { cost: size.scaled(factor).plus(Range::fixed(1 + LIST)), size: Some(size) }
    }
}

enum Step<'s> {
    Field(&'s str),
    Values,
    Keys,
}

const NEUTRAL: Range = Range { min: u64::MAX, max: 0 };

/// The cost of comparing two values: of walking along the smaller.
fn smaller(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range { min: u64::from(max > 0), max }.scaled(TRAVERSE)
}

fn balanced_min(costs: &[Range]) -> Range {
    let max = costs.iter().fold(0u64, |s, c| s.saturating_add(c.max));
    Range { min: costs.first().map_or(0, |c| c.min), max }
}

/// The size of a text with parts replaced.
fn replaced(text: Range, part: Range, with: Range) -> Range {
    let bound = |length: u64, part: u64, grows: bool| match part {
        0 => (length.saturating_add(1), length),
        _ if !grows => (0, length),
        p => (length.div_ceil(p), 0),
    };
    let (count_max, kept_max) = bound(text.max, part.min, with.max > part.min);
    let (count_min, kept_min) = bound(text.min, part.max, part.max > with.min);
    let count = Range { min: count_min, max: count_max };
    count.times(with).plus(Range { min: kept_min, max: kept_max })
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        Type::Optional(t) => is_scalar(t),
        _ => false,
    }
}
