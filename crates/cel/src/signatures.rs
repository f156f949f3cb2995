//! The functions that expressions may call, from a table.

use crate::types::Type;
use std::{collections::HashMap, sync::LazyLock};

/// One overload of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Whether it is called on a receiver, the first of `args`.
    pub(crate) method: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    /// How many type variables it has, numbered from 0.
    pub(crate) variables: usize,
}

static TABLE: LazyLock<HashMap<&str, Vec<Overload>>> =
    LazyLock::new(|| read_table(include_str!("signatures.txt")));

/// Reads a table of signatures. Panics on a line that is none: tables are parts of programs.
pub(crate) fn read_table(text: &'static str) -> HashMap<&'static str, Vec<Overload>> {
    let mut table: HashMap<&str, Vec<Overload>> = HashMap::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, overload) = signature(line).unwrap_or_else(|| panic!("not a signature: {line}"));
        table.entry(name).or_default().push(overload);
    }
    table
}

/// The overloads of a name.
pub(crate) fn overloads(name: &str) -> Option<&'static [Overload]> {
    // The comparisons are all alike.
    let name = if matches!(name, "_<=_" | "_>_" | "_>=_") { "_<_" } else { name };
    TABLE.get(name).map(Vec::as_slice)
}

fn signature(line: &str) -> Option<(&str, Overload)> {
    let (method, line) = match line.strip_prefix('.') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (name, mut rest) = line.split_once('(')?;
    let mut variables = 0;
    let mut types = Vec::new();
    while !rest.starts_with(')') {
        let (ty, tail) = read(rest, &mut variables)?;
        types.push(ty);
        rest = tail.trim_start_matches(", ");
    }
    let (result, tail) = read(rest.strip_prefix(") ")?, &mut variables)?;
    tail.is_empty().then_some((name, Overload { method, args: types, result, variables }))
}

/// A type and what follows it.
fn read<'t>(text: &'t str, variables: &mut usize) -> Option<(Type, &'t str)> {
    let end = text.find(['(', ')', ',']).unwrap_or(text.len());
    let (word, mut rest) = text.split_at(end);
    let mut inner = Vec::new();
    if let Some(tail) = rest.strip_prefix('(') {
        rest = tail;
        loop {
            let (ty, tail) = read(rest, variables)?;
            inner.push(ty);
            match tail.strip_prefix(", ") {
                Some(tail) => rest = tail,
                None => {
                    rest = tail.strip_prefix(')')?;
                    break;
                }
            }
        }
    }
    let mut inner = inner.into_iter();
    let ty = match word {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "list" => Type::list(inner.next()?),
        "map" => Type::map(inner.next()?, inner.next()?),
        "optional" => Type::optional(inner.next()?),
        "type" => Type::Of(Box::new(inner.next()?)),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "url" => Type::Opaque("kubernetes.URL"),
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "A" | "B" => {
            let n = usize::from(word == "B");
            *variables = (*variables).max(n + 1);
            Type::Var(n)
        }
        _ => return None,
    };
    Some((ty, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads() {
        let plus = overloads("_+_").unwrap();
        assert!(plus.iter().any(|o| o.result.to_string() == "list(dyn)" && o.variables == 1));
        let split = overloads("split").unwrap();
        assert!(split.iter().all(|o| o.method && o.result.to_string() == "list(string)"));
        assert_eq!(overloads("optional.none").unwrap()[0].args.len(), 0);
    }
}
