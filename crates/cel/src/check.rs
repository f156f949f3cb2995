//! Type checking: every node gets a type, every call an overload, as cel-go's checker finds them.

use crate::{
    Env, Fault,
    ast::{Call, Expr, Fold, Literal, Node},
    parse::qualified_name,
    signatures::Overload,
    types::Type,
};
use std::sync::Arc;

/// What checking found: the types of all nodes, by their ids.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
}

/// Checks an expression whose ids are below `ids`.
pub(crate) fn check(env: &Env, expr: &Expr, ids: usize) -> Result<Checked, Vec<Fault>> {
    let mut c = Checker {
        env,
        scopes: vec![],
        types: vec![Type::Dyn; ids + 1],
        bound: vec![],
        faults: vec![],
        mixed: vec![],
        may_mix: false,
    };
    c.expr(expr);
    if c.faults.is_empty() {
        c.faults = std::mem::take(&mut c.mixed);
    }
    if !c.faults.is_empty() {
        return Err(c.faults);
    }
    let types = c.types.iter().map(|t| c.resolve(t, true)).collect();
    Ok(Checked { types })
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(Box<str>, Type)>,
    types: Vec<Type>,
    /// What type variables stand for.
    bound: Vec<Option<Type>>,
    faults: Vec<Fault>,
    /// Literals of several types, which are told when all else is well.
    mixed: Vec<Fault>,
    /// Whether the next literal may be of several types: what is formatted.
    may_mix: bool,
}

/// Names of types as values.
pub(crate) fn type_name(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Of(Box::new(Type::Dyn)),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "optional_type" => Type::optional(Type::Dyn),
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        "kubernetes.NamedFormat" => Type::Opaque("kubernetes.NamedFormat"),
        _ => return None,
    })
}

impl Checker<'_> {
    fn fault(&mut self, e: &Expr, why: String) -> Type {
        self.faults.push(Fault::new(e.at, why));
        Type::Dyn
    }

    fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var(self.bound.len() - 1)
    }

    fn expr(&mut self, e: &Expr) -> Type {
        let ty = self.node(e);
        if let Some(slot) = self.types.get_mut(e.id) {
            *slot = ty.clone();
        }
        ty
    }

    fn node(&mut self, e: &Expr) -> Type {
        match &e.node {
            Node::Literal(l) => match l {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Node::Ident(name) => match self.variable(name) {
                Some(ty) => ty,
                None => self.undeclared(e, name),
            },
            Node::Select(s) => {
                if let Some(ty) = qualified_name(e).and_then(|n| type_name(&n)) {
                    return Type::Of(Box::new(ty));
                }
                let ty = self.select(e, &s.operand, &s.field, false);
                if s.test { Type::Bool } else { ty }
            }
            Node::Call(c) => self.call(e, c),
            Node::List(items) => {
                let may_mix = std::mem::take(&mut self.may_mix);
                let mut of: Option<Type> = None;
                for item in items {
                    let ty = self.expr(&item.value);
                    let ty = self.unwrapped(&item.value, ty, item.optional);
                    of = Some(self.join(&item.value, of, ty));
                }
                if may_mix {
                    self.mixed.retain(|f| !items.iter().any(|i| i.value.at == f.at));
                }
                let of = of.unwrap_or_else(|| self.fresh());
                Type::list(of)
            }
            Node::Map(entries) => {
                let (mut keys, mut values): (Option<Type>, Option<Type>) = (None, None);
                for entry in entries {
                    let key = self.expr(&entry.key);
                    keys = Some(self.join(&entry.key, keys, key));
                    let value = self.expr(&entry.value);
                    let value = self.unwrapped(&entry.value, value, entry.optional);
                    values = Some(self.join(&entry.value, values, value));
                }
                let keys = keys.unwrap_or_else(|| self.fresh());
                let values = values.unwrap_or_else(|| self.fresh());
                Type::map(keys, values)
            }
            Node::Struct(name, _) => self.undeclared(e, name),
            Node::Fold(f) => self.fold(f),
        }
    }

    fn undeclared(&mut self, e: &Expr, name: &str) -> Type {
        self.fault(e, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn variable(&self, name: &str) -> Option<Type> {
        let scoped = self.scopes.iter().rev().find(|(n, _)| **n == *name).map(|(_, t)| t.clone());
        scoped
            .or_else(|| self.env.variable_type(name))
            .or_else(|| type_name(name).map(|t| Type::Of(Box::new(t))))
    }

    /// The type of an optional item's value.
    fn unwrapped(&mut self, e: &Expr, ty: Type, optional: bool) -> Type {
        if !optional {
            return ty;
        }
        match self.resolve(&ty, false) {
            Type::Optional(inner) => *inner,
            Type::Dyn => Type::Dyn,
            other => {
                let wanted = Type::optional(other.clone());
                self.fault(e, format!("expected type '{wanted}' but found '{other}'"))
            }
        }
    }

    /// The common type of the items of a literal, which must be of one type.
    fn join(&mut self, e: &Expr, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        if self.assignable(std::slice::from_ref(&before), std::slice::from_ref(&ty)) {
            return self.general(before, ty);
        }
        let (wanted, found) = (self.resolve(&before, true), self.resolve(&ty, true));
        let why = format!("expected type '{wanted}' but found '{found}'");
        self.mixed.push(Fault::new(e.at, why));
        Type::Dyn
    }

    fn select(&mut self, e: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        let ty = self.expr(operand);
        let ty = self.resolve(&ty, false);
        let (target, lifted) = match ty {
            Type::Optional(inner) => (*inner, true),
            other => (other, false),
        };
        let result = match &target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(o) => match o.field(field) {
                Some(f) => f.schema.ty(),
                None => self.fault(e, format!("undefined field '{field}'")),
            },
            Type::Var(_) => {
                self.assignable(&[Type::Dyn], std::slice::from_ref(&target));
                Type::Dyn
            }
            Type::Dyn => Type::Dyn,
            other => self.fault(e, format!("type '{other}' does not support field selection")),
        };
        if lifted || optional { Type::optional(result) } else { result }
    }

    fn call(&mut self, e: &Expr, c: &Call) -> Type {
        if &*c.function == "_?._" {
            if let [operand, field] = &c.args[..] {
                if let Node::Literal(Literal::String(name)) = &field.node {
                    return self.select(e, operand, name, true);
                }
            }
        }
        let formats = &*c.function == "format" && c.target.is_some();
        let mut args = Vec::with_capacity(c.args.len() + 1);
        for a in &c.args {
            self.may_mix = formats && matches!(a.node, Node::List(_));
            args.push(self.expr(a));
        }
        let Some(target) = &c.target else {
            return match self.env.overloads(&c.function) {
                Some(candidates) => self.resolve_call(e, &c.function, candidates, args, false, c),
                None => self.undeclared(e, &c.function),
            };
        };
        // a.b.c() is the function a.b.c if there is one, and a method of a.b otherwise.
        if let Some(name) = full_name(c) {
            if let Some(candidates) = self.env.overloads(&name) {
                return self.resolve_call(e, &name, candidates, args, false, c);
            }
        }
        args.insert(0, self.expr(target));
        match self.env.overloads(&c.function) {
            Some(candidates) => self.resolve_call(e, &c.function, candidates, args, true, c),
            None => self.undeclared(e, &c.function),
        }
    }

    fn resolve_call(
        &mut self,
        e: &Expr,
        name: &str,
        candidates: &[Overload],
        args: Vec<Type>,
        method: bool,
        c: &Call,
    ) -> Type {
        if matches!(name, "_&&_" | "_||_") {
            for (arg, ty) in c.args.iter().zip(&args) {
                if !self.assignable(std::slice::from_ref(ty), &[Type::Bool]) {
                    let found = self.resolve(ty, true);
                    self.fault(arg, format!("expected type 'bool' but found '{found}'"));
                }
            }
            return Type::Bool;
        }
        let mut result: Option<Type> = None;
        for o in candidates.iter().filter(|o| o.method == method && o.args.len() == args.len()) {
            let first = self.bound.len();
            self.bound.extend((0..o.variables).map(|_| None));
            let wanted: Vec<Type> = o.args.iter().map(|t| shifted(t, first)).collect();
            if !self.assignable(&args, &wanted) {
                continue;
            }
            let found = self.resolve(&shifted(&o.result, first), false);
            result = Some(match result {
                None => found,
                Some(before) if same(&before, &found) => before,
                Some(_) => Type::Dyn,
            });
        }
        result.unwrap_or_else(|| {
            let shown: Vec<String> =
                args.iter().map(|t| self.resolve(t, true).to_string()).collect();
            let applied = match (method, shown.split_first()) {
                (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.fault(e, format!("found no matching overload for '{name}' applied to '{applied}'"))
        })
    }

    fn fold(&mut self, f: &Fold) -> Type {
        let range = self.expr(&f.range);
        let accumulator = self.expr(&f.init);
        let range = self.resolve(&range, false);
        let depth = self.scopes.len();
        self.scopes.push((f.accumulator.clone(), accumulator.clone()));
        let two = f.second.is_some();
        let (first, second) = match range {
            Type::List(item) if two => (Type::Int, *item),
            Type::List(item) => (*item, Type::Dyn),
            Type::Map(key, value) => (*key, *value),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::Var(_) => {
                self.assignable(&[Type::Dyn], std::slice::from_ref(&range));
                (Type::Dyn, Type::Dyn)
            }
            other => {
                self.fault(&f.range, format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"));
                (Type::Dyn, Type::Dyn)
            }
        };
        self.scopes.push((f.variable.clone(), first));
        if let Some(name) = &f.second {
            self.scopes.push((name.clone(), second));
        }
        let condition = self.expr(&f.condition);
        self.must_be(&f.condition, &condition, &Type::Bool);
        let step = self.expr(&f.step);
        self.must_be(&f.step, &step, &accumulator);
        self.scopes.truncate(depth + 1);
        let result = self.expr(&f.result);
        self.scopes.truncate(depth);
        self.resolve(&result, false)
    }

    fn must_be(&mut self, e: &Expr, found: &Type, wanted: &Type) {
        if !self.assignable(std::slice::from_ref(found), std::slice::from_ref(wanted)) {
            let (wanted, found) = (self.resolve(wanted, true), self.resolve(found, true));
            self.fault(e, format!("expected type '{wanted}' but found '{found}'"));
        }
    }

    /// Whether types fit others; what that says of type variables is kept only if all do.
    fn assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        let before = self.bound.clone();
        let fits = from.iter().zip(to).all(|(f, t)| self.fits(f, t));
        if !fits {
            self.bound = before;
        }
        fits
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Var(v) = b {
            let known = self.bound[*v].is_some();
            if self.substitutes(a, *v) {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Var(v) = a {
            return self.substitutes(b, *v);
        }
        match (a, b) {
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Opaque(_)
                    | Type::Optional(_)
                    | Type::Object(_)
                    | Type::Duration
                    | Type::Timestamp
            ),
            (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => {
                self.fits(x, y)
            }
            (Type::Map(k, v), Type::Map(k2, v2)) => self.fits(k, k2) && self.fits(v, v2),
            (Type::Of(_), Type::Of(_)) => true,
            _ => same(a, b),
        }
    }

    /// Whether a variable may stand for a type; it then does.
    fn substitutes(&mut self, ty: &Type, variable: usize) -> bool {
        if matches!(ty, Type::Var(v) if *v == variable) {
            return true;
        }
        if let Some(known) = self.bound[variable].clone() {
            if same(ty, &known) {
                return true;
            }
            if self.fits(ty, &known) {
                let general = self.general(ty.clone(), known);
                if !self.occurs(variable, &general) {
                    self.bound[variable] = Some(general);
                }
                return true;
            }
            return false;
        }
        if self.occurs(variable, ty) {
            return false;
        }
        self.bound[variable] = Some(ty.clone());
        true
    }

    fn occurs(&self, variable: usize, within: &Type) -> bool {
        match within {
            Type::Var(v) if *v == variable => true,
            Type::Var(v) => self.bound[*v].as_ref().is_some_and(|t| self.occurs(variable, t)),
            Type::List(t) | Type::Optional(t) | Type::Of(t) => self.occurs(variable, t),
            Type::Map(k, v) => self.occurs(variable, k) || self.occurs(variable, v),
            _ => false,
        }
    }

    /// The less specific of two types that fit each other.
    fn general(&self, a: Type, b: Type) -> Type {
        if less_specific(&a, &b) { a } else { b }
    }

    /// A type with its variables replaced; unbound ones by dyn if asked to.
    fn resolve(&self, ty: &Type, unbound_is_dyn: bool) -> Type {
        let inner = |t: &Type| Box::new(self.resolve(t, unbound_is_dyn));
        match ty {
            Type::Var(v) => match &self.bound[*v] {
                Some(t) => self.resolve(t, unbound_is_dyn),
                None if unbound_is_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(t) => Type::List(inner(t)),
            Type::Optional(t) => Type::Optional(inner(t)),
            Type::Of(t) => Type::Of(inner(t)),
            Type::Map(k, v) => Type::Map(inner(k), inner(v)),
            other => other.clone(),
        }
    }
}

/// The name of a function in a namespace (`ip.isCanonical`).
pub(crate) fn full_name(c: &Call) -> Option<String> {
    Some(format!("{}.{}", qualified_name(c.target.as_ref()?)?, c.function))
}

fn shifted(ty: &Type, by: usize) -> Type {
    match ty {
        Type::Var(n) => Type::Var(n + by),
        Type::List(t) => Type::list(shifted(t, by)),
        Type::Optional(t) => Type::optional(shifted(t, by)),
        Type::Of(t) => Type::Of(Box::new(shifted(t, by))),
        Type::Map(k, v) => Type::map(shifted(k, by), shifted(v, by)),
        other => other.clone(),
    }
}

pub(crate) fn same(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => same(x, y),
        (Type::Of(_), Type::Of(_)) => true,
        (Type::Map(k, v), Type::Map(k2, v2)) => same(k, k2) && same(v, v2),
        (Type::Object(x), Type::Object(y)) => Arc::ptr_eq(x, y),
        (Type::Opaque(x), Type::Opaque(y)) => x == y,
        (Type::Var(x), Type::Var(y)) => x == y,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => {
            less_specific(x, y)
        }
        (Type::Map(k, v), Type::Map(k2, v2)) => less_specific(k, k2) && less_specific(v, v2),
        _ => same(a, b),
    }
}
