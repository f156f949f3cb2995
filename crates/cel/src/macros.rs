//! The standard macros, expanded into folds while parsing: `has`, `all`, `exists`, `exists_one`,
//! `map`, `filter`, their forms over two variables, `sortBy`, and `optMap` and its kin.

use crate::{
    Fault,
    ast::{Entry, Expr, Fold, Item, Literal, Node, Offset, Select},
    parse::{Parser, qualified_name},
};

/// The name of accumulators: no variable can have it.
pub(crate) const ACCUMULATOR: &str = "@result";
/// A function that is true for an error: `&&` and `||` of a fold go on over errors.
pub(crate) const NOT_FALSE: &str = "@not_strictly_false";

pub(crate) enum Expansion {
    /// It was a macro.
    Done(Expr),
    /// It was a method: receiver and arguments are given back.
    Call(Expr, Vec<Expr>),
}

/// `has(a.b)`.
pub(crate) fn has(p: &mut Parser<'_>, at: Offset, args: Vec<Expr>) -> Result<Expr, Fault> {
    let bad = |at| Fault::new(at, "invalid argument to has() macro".into());
    let [arg] = <[Expr; 1]>::try_from(args).map_err(|_| bad(at))?;
    match arg.node {
        Node::Select(s) if !s.test => {
            let select = Select { test: true, ..*s };
            Ok(p.make(at, Node::Select(Box::new(select))))
        }
        _ => Err(bad(arg.at)),
    }
}

/// Expands a method that is a macro.
pub(crate) fn method(
    p: &mut Parser<'_>,
    at: Offset,
    target: Expr,
    function: &str,
    args: Vec<Expr>,
) -> Result<Expansion, Fault> {
    let mut m = Maker { p, at };
    let expr = match (function, args.len()) {
        ("sortBy", 2) => m.sort_by(target, args)?,
        ("all" | "exists", 2) => m.quantifier(function, target, args)?,
        ("all" | "exists", 3) => m.quantifier(function, target, args)?,
        ("exists_one" | "existsOne", 2 | 3) => m.exists_one(target, args)?,
        ("map", 2 | 3) => m.map(target, args)?,
        ("filter", 2) => m.filter(target, args)?,
        ("transformList", 3 | 4) => m.transform(target, args, Build::List)?,
        ("transformMap", 3 | 4) => m.transform(target, args, Build::Map)?,
        ("transformMapEntry", 3 | 4) => m.transform(target, args, Build::Entries)?,
        ("optMap" | "optFlatMap", 2) => m.optional(function, target, args)?,
        _ => return Ok(Expansion::Call(target, args)),
    };
    Ok(Expansion::Done(expr))
}

#[derive(Clone, Copy, PartialEq)]
enum Build {
    List,
    Map,
    Entries,
}

struct Maker<'m, 's> {
    p: &'m mut Parser<'s>,
    at: Offset,
}

/// The variables of a macro: the names before its expressions.
struct Variables {
    first: Box<str>,
    second: Option<Box<str>>,
}

impl Maker<'_, '_> {
    fn literal(&mut self, l: Literal) -> Expr {
        self.p.make(self.at, Node::Literal(l))
    }

    fn accumulator(&mut self) -> Expr {
        self.p.make(self.at, Node::Ident(ACCUMULATOR.into()))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.p.call(self.at, function, args)
    }

    fn list(&mut self, items: Vec<Expr>) -> Expr {
        let items = items.into_iter().map(|value| Item { value, optional: false }).collect();
        self.p.make(self.at, Node::List(items))
    }

    /// Takes the first names off the arguments.
    fn variables(&self, args: &mut Vec<Expr>, two: bool) -> Result<Variables, Fault> {
        let mut name = || -> Result<Box<str>, Fault> {
            let e = args.remove(0);
            match &e.node {
                Node::Ident(n) if &**n == ACCUMULATOR || &**n == "__result__" => Err(Fault::new(
                    e.at,
                    "iteration variable overwrites accumulator variable".into(),
                )),
                Node::Ident(n) => Ok(n.clone()),
                _ => Err(Fault::new(e.at, "argument must be a simple name".into())),
            }
        };
        let first = name()?;
        let second = if two { Some(name()?) } else { None };
        Ok(Variables { first, second })
    }

    fn fold(&mut self, range: Expr, v: Variables, parts: [Expr; 4]) -> Expr {
        let [init, condition, step, result] = parts;
        let fold = Fold {
            range,
            variable: v.first,
            second: v.second,
            accumulator: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        };
        self.p.make(self.at, Node::Fold(Box::new(fold)))
    }

    fn quantifier(
        &mut self,
        function: &str,
        range: Expr,
        mut args: Vec<Expr>,
    ) -> Result<Expr, Fault> {
        let two = args.len() == 3;
        let v = self.variables(&mut args, two)?;
        let predicate = args.remove(0);
        let all = function == "all";
        let init = self.literal(Literal::Bool(all));
        let mut so_far = self.accumulator();
        if !all {
            so_far = self.call("!_", vec![so_far]);
        }
        let condition = self.call(NOT_FALSE, vec![so_far]);
        let accumulator = self.accumulator();
        let step = self.call(if all { "_&&_" } else { "_||_" }, vec![accumulator, predicate]);
        let result = self.accumulator();
        Ok(self.fold(range, v, [init, condition, step, result]))
    }

    fn exists_one(&mut self, range: Expr, mut args: Vec<Expr>) -> Result<Expr, Fault> {
        let two = args.len() == 3;
        let v = self.variables(&mut args, two)?;
        let predicate = args.remove(0);
        let init = self.literal(Literal::Int(0));
        let condition = self.literal(Literal::Bool(true));
        let (accumulator, one) = (self.accumulator(), self.literal(Literal::Int(1)));
        let more = self.call("_+_", vec![accumulator, one]);
        let same = self.accumulator();
        let step = self.call("_?_:_", vec![predicate, more, same]);
        let (accumulator, one) = (self.accumulator(), self.literal(Literal::Int(1)));
        let result = self.call("_==_", vec![accumulator, one]);
        Ok(self.fold(range, v, [init, condition, step, result]))
    }

    /// `accumulator + [value]`, only where `filter` holds.
    fn append(&mut self, value: Expr, filter: Option<Expr>) -> Expr {
        let (accumulator, item) = (self.accumulator(), self.list(vec![value]));
        let longer = self.call("_+_", vec![accumulator, item]);
        self.only_if(filter, longer)
    }

    fn only_if(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            Some(f) => {
                let same = self.accumulator();
                self.call("_?_:_", vec![f, step, same])
            }
            None => step,
        }
    }

    fn list_fold(&mut self, range: Expr, v: Variables, step: Expr) -> Expr {
        let (init, condition) = (self.list(vec![]), self.literal(Literal::Bool(true)));
        let result = self.accumulator();
        self.fold(range, v, [init, condition, step, result])
    }

    fn map(&mut self, range: Expr, mut args: Vec<Expr>) -> Result<Expr, Fault> {
        let v = self.variables(&mut args, false)?;
        let filter = (args.len() == 2).then(|| args.remove(0));
        let step = self.append(args.remove(0), filter);
        Ok(self.list_fold(range, v, step))
    }

    fn filter(&mut self, range: Expr, mut args: Vec<Expr>) -> Result<Expr, Fault> {
        let v = self.variables(&mut args, false)?;
        let value = self.p.make(self.at, Node::Ident(v.first.clone()));
        let step = self.append(value, Some(args.remove(0)));
        Ok(self.list_fold(range, v, step))
    }

    fn transform(&mut self, range: Expr, mut args: Vec<Expr>, build: Build) -> Result<Expr, Fault> {
        let v = self.variables(&mut args, true)?;
        let filter = (args.len() == 2).then(|| args.remove(0));
        let value = args.remove(0);
        if build == Build::List {
            let step = self.append(value, filter);
            return Ok(self.list_fold(range, v, step));
        }
        let accumulator = self.accumulator();
        let longer = if build == Build::Map {
            let key = self.p.make(self.at, Node::Ident(v.first.clone()));
            self.call("cel.@mapInsert", vec![accumulator, key, value])
        } else {
            self.call("cel.@mapInsert", vec![accumulator, value])
        };
        let step = self.only_if(filter, longer);
        let init = self.p.make(self.at, Node::Map(Vec::<Entry>::new()));
        let condition = self.literal(Literal::Bool(true));
        let result = self.accumulator();
        Ok(self.fold(range, v, [init, condition, step, result]))
    }

    /// `list.sortBy(e, key)`: the list is named, its keys are made, and it is sorted by them.
    fn sort_by(&mut self, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Fault> {
        let held: Box<str> = "@target".into();
        let (list, again) = (
            self.p.make(self.at, Node::Ident(held.clone())),
            self.p.make(self.at, Node::Ident(held.clone())),
        );
        let v = self.variables(&mut args, false)?;
        let step = self.append(args.remove(0), None);
        let keys = self.list_fold(again, v, step);
        let call = crate::ast::Call {
            function: "@sortByAssociatedKeys".into(),
            target: Some(list),
            args: vec![keys],
        };
        let sorted = self.p.make(self.at, Node::Call(Box::new(call)));
        Ok(self.named(held, target, sorted))
    }

    /// A value under a name: a fold over nothing whose accumulator is the name.
    fn named(&mut self, name: Box<str>, value: Expr, result: Expr) -> Expr {
        let range = self.list(vec![]);
        let condition = self.literal(Literal::Bool(false));
        let step = self.p.make(self.at, Node::Ident(name.clone()));
        let fold = Fold {
            range,
            variable: "#unused".into(),
            second: None,
            accumulator: name,
            init: value,
            condition,
            step,
            result,
        };
        self.p.make(self.at, Node::Fold(Box::new(fold)))
    }

    /// `o.optMap(v, e)`: none stays none, a value is named and used.
    fn optional(
        &mut self,
        function: &str,
        target: Expr,
        mut args: Vec<Expr>,
    ) -> Result<Expr, Fault> {
        let name = self.variables(&mut args, false)?.first;
        let body = args.remove(0);
        if qualified_name(&target).is_none() {
            // Evaluated twice otherwise: name it first.
            let held: Box<str> = "@target".into();
            let target_ref = self.p.make(self.at, Node::Ident(held.clone()));
            let inner = self.opt_body(function, target_ref, &held, name, body);
            return Ok(self.named(held, target, inner));
        }
        let held = target.clone();
        Ok(self.opt_with(function, target, held, name, body))
    }

    fn opt_body(
        &mut self,
        function: &str,
        target: Expr,
        held: &str,
        name: Box<str>,
        body: Expr,
    ) -> Expr {
        let again = self.p.make(self.at, Node::Ident(held.into()));
        self.opt_with(function, target, again, name, body)
    }

    fn opt_with(
        &mut self,
        function: &str,
        target: Expr,
        again: Expr,
        name: Box<str>,
        body: Expr,
    ) -> Expr {
        let there = self.method("hasValue", target);
        let value = self.method("value", again);
        let mut used = self.named(name, value, body);
        if function == "optMap" {
            used = self.call("optional.of", vec![used]);
        }
        let none = self.call("optional.none", vec![]);
        self.call("_?_:_", vec![there, used, none])
    }

    fn method(&mut self, function: &str, target: Expr) -> Expr {
        let call =
            crate::ast::Call { function: function.into(), target: Some(target), args: vec![] };
        self.p.make(self.at, Node::Call(Box::new(call)))
    }
}
