//! The Common Expression Language, as Kubernetes uses it.
//!
//! An expression is parsed ([`ast`]), its types are checked against an [`Env`] of variables, its
//! worst cost is estimated, and then it is evaluated over JSON in place, within a budget. Functions
//! are those that Kubernetes gives to the rules of custom resources: the standard ones, strings,
//! lists, sets, optional values, regular expressions, URLs, addresses, quantities, versions and named
//! formats. Texts of errors, costs and limits are upstream's, because clients see them and definitions
//! depend on them.
//!
//! It never does IO, reads no clock and knows nothing of Kubernetes' kinds: structure comes in as
//! [`types::Schema`].
//!
//! Start with [`Program::compile`]. Tested by tables of expressions with their values, costs and
//! errors, by a property test that no text makes it panic, and against the recorded answers of
//! upstream's API server where it is used.
#![warn(missing_docs)]

pub mod ast;
mod check;
mod cost;
mod eval;
mod lex;
mod library;
mod macros;
mod opaque;
mod parse;
mod signatures;
pub mod types;
pub mod value;

use ast::{Expr, Offset};
pub use library::{
    Args, Function, Output,
    net::Cidr,
    semver::Semver,
    url::{Url, parse as parse_url},
};
pub use opaque::Opaque;
use std::collections::HashMap;
use types::{Schema, Type};
use value::Val;

/// What expressions may name, and how absent data reads.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<Variable>,
    library: Option<&'static Library>,
    zero_values: bool,
}

#[derive(Clone, Debug)]
struct Variable {
    name: Box<str>,
    ty: Type,
    /// The structure of the data, where costs are estimated.
    schema: Option<Schema>,
}

/// Functions beside the standard ones.
#[derive(Debug)]
pub struct Library {
    signatures: HashMap<&'static str, Vec<signatures::Overload>>,
    functions: HashMap<&'static str, Function>,
}

impl Library {
    /// Functions by their names, and a table of their signatures: `name(types) type` a line, methods
    /// with a dot before their name.
    ///
    /// # Panics
    /// When a line of the table cannot be read: it is part of a program.
    pub fn new(table: &'static str, functions: &[(&'static str, Function)]) -> Self {
        Self {
            signatures: signatures::read_table(table),
            functions: functions.iter().copied().collect(),
        }
    }
}

impl Env {
    /// With one more variable.
    #[must_use]
    pub fn with(self, name: &str, schema: Schema) -> Self {
        self.add(name, schema.ty(), Some(schema))
    }

    /// With one more variable of which only the type is known.
    #[must_use]
    pub fn with_type(self, name: &str, ty: Type) -> Self {
        self.add(name, ty, None)
    }

    /// An absent field of an object reads as the zero of its type, as Go's structs have it, where it
    /// is otherwise an error.
    #[must_use]
    pub fn with_zero_values(mut self) -> Self {
        self.zero_values = true;
        self
    }

    /// With more functions.
    #[must_use]
    pub fn with_library(mut self, library: &'static Library) -> Self {
        self.library = Some(library);
        self
    }

    /// With one more variable that may be none.
    #[must_use]
    pub fn with_optional(self, name: &str, schema: Schema) -> Self {
        self.add(name, Type::optional(schema.ty()), Some(schema))
    }

    fn add(mut self, name: &str, ty: Type, schema: Option<Schema>) -> Self {
        self.variables.push(Variable { name: name.into(), ty, schema });
        self
    }

    fn variable(&self, name: &str) -> Option<&Schema> {
        self.variables.iter().find(|v| *v.name == *name)?.schema.as_ref()
    }

    /// What the rules of a schema are about: `self`.
    fn root(&self) -> Option<&Schema> {
        self.variables.iter().find_map(|v| v.schema.as_ref())
    }

    fn variable_type(&self, name: &str) -> Option<Type> {
        self.variables.iter().find(|v| *v.name == *name).map(|v| v.ty.clone())
    }

    fn overloads(&self, name: &str) -> Option<&[signatures::Overload]> {
        let own = self.library.and_then(|l| l.signatures.get(name)).map(Vec::as_slice);
        own.or_else(|| signatures::overloads(name))
    }
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is: a byte offset into the source.
    pub at: Offset,
    /// What it is.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(at: Offset, message: String) -> Self {
        Self { at, message }
    }

    /// The fault with the line that it is in and a mark below its place.
    pub fn render(&self, source: &str) -> String {
        let at = self.at.min(source.len());
        let start = source[..at].rfind('\n').map_or(0, |i| i + 1);
        let line = source[..at].matches('\n').count() + 1;
        let text = source[start..].lines().next().unwrap_or_default().replace('\t', " ");
        let before = &source[start..at];
        let dots: String = before.chars().map(|c| if c.is_ascii() { '.' } else { '．' }).collect();
        let mark = match source[at..].chars().next() {
            Some(c) if !c.is_ascii() => '＾',
            _ => '^',
        };
        let column = before.chars().count() + 1;
        let message = &self.message;
        format!("ERROR: <input>:{line}:{column}: {message}\n | {text}\n | {dots}{mark}")
    }
}

/// All faults of an expression, as one text.
pub fn render(faults: &[Fault], source: &str) -> String {
    let mut sorted: Vec<&Fault> = faults.iter().collect();
    sorted.sort_by_key(|f| f.at);
    sorted.iter().map(|f| f.render(source)).collect::<Vec<_>>().join("\n")
}

/// Why an evaluation gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression failed on this data.
    #[error("{0}")]
    Failed(String),
    /// It cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
}

/// Values of variables.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a>(Vec<(&'a str, Val<'a>)>);

impl<'a> Bindings<'a> {
    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: Val<'a>) -> Self {
        self.0.push((name, value));
        self
    }

    fn get(&self, name: &str) -> Option<Val<'a>> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
    }
}

/// A checked expression.
#[derive(Debug)]
pub struct Program {
    expr: Expr,
    ty: Type,
    worst_cost: u64,
    zero_values: bool,
    library: Option<&'static Library>,
}

impl Program {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// The first fault of syntax, or all faults of types.
    pub fn compile(env: &Env, source: &str) -> Result<Self, Vec<Fault>> {
        let (expr, ids) = parse::parse(source).map_err(|f| vec![f])?;
        let types = check::check(env, &expr, ids)?.types;
        let worst_cost = cost::worst(env, &expr, &types);
        let ty = types[expr.id].clone();
        Ok(Self { expr, ty, worst_cost, zero_values: env.zero_values, library: env.library })
    }

    /// The type of its value.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// The most that an evaluation may cost, for data of any size that the structure allows.
    pub fn worst_cost(&self) -> u64 {
        self.worst_cost
    }

    /// The fields of a variable that it looks at, or none when it looks at the variable as a whole.
    pub fn fields_of(&self, name: &str) -> Option<std::collections::BTreeSet<&str>> {
        let mut fields = std::collections::BTreeSet::new();
        self.expr.fields_of(name, &mut fields).then_some(fields)
    }

    /// Whether it names a variable.
    pub fn mentions(&self, name: &str) -> bool {
        self.expr.mentions(name)
    }

    /// Evaluates it, and tells what that cost; it stops when the cost exceeds the limit.
    ///
    /// # Errors
    /// What failed, as the second half of the pair's first.
    pub fn eval<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        cost_limit: u64,
    ) -> (Result<Val<'a>, EvalError>, u64) {
        eval::Evaluation::new(self, bindings, cost_limit).run()
    }
}

#[cfg(test)]
mod tests;
