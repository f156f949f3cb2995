//! Types of expressions, and the structure of the data that they read.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The type of an expression.
#[derive(Clone, Debug)]
pub enum Type {
    /// Anything; checked when evaluated.
    Dyn,
    /// `null`.
    Null,
    /// True or false.
    Bool,
    /// 64-bit integer.
    Int,
    /// 64-bit integer without sign.
    Uint,
    /// 64-bit float.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A length of time.
    Duration,
    /// A list of one type.
    List(Box<Type>),
    /// A map from keys to values of one type each.
    Map(Box<Type>, Box<Type>),
    /// A value or none.
    Optional(Box<Type>),
    /// Data with known fields.
    Object(Arc<Object>),
    /// A type of a library, by its name.
    Opaque(&'static str),
    /// A type as a value.
    Of(Box<Type>),
    /// A type yet to be found.
    Var(usize),
}

impl Type {
    /// A list of a type.
    pub fn list(of: Type) -> Self {
        Self::List(Box::new(of))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Box::new(key), Box::new(value))
    }

    /// An optional value.
    pub fn optional(of: Type) -> Self {
        Self::Optional(Box::new(of))
    }
}

/// As error messages show types.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(t) => write!(f, "list({t})"),
            Self::Map(k, v) => write!(f, "map({k}, {v})"),
            Self::Optional(t) => write!(f, "optional_type({t})"),
            Self::Object(o) => f.write_str(&o.name),
            Self::Opaque(n) => f.write_str(n),
            Self::Of(t) => write!(f, "type({t})"),
            Self::Var(_) => f.write_str("dyn"),
        }
    }
}

/// The structure of data, with the bounds that estimates of cost need.
#[derive(Clone, Debug)]
pub struct Schema {
    /// What it is.
    pub shape: Shape,
    /// Most characters, items or properties; 0 for what has none.
    pub max_elements: u64,
    /// Fewest bytes that a value takes in JSON: bounds how many fit into a request.
    pub min_bytes: u64,
}

impl Schema {
    /// Data of a shape without bounds.
    pub fn of(shape: Shape) -> Self {
        Self { shape, max_elements: 0, min_bytes: 2 }
    }

    /// The type that expressions see.
    pub fn ty(&self) -> Type {
        match &self.shape {
            Shape::Any => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Timestamp => Type::Timestamp,
            Shape::Duration => Type::Duration,
            Shape::List(items, _) => Type::list(items.ty()),
            Shape::Map(values) => Type::map(Type::String, values.ty()),
            Shape::Object(o) => Type::Object(o.clone()),
        }
    }
}

/// What data is.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Unknown: integer or text, or kept as it is.
    Any,
    /// True or false.
    Bool,
    /// Integer.
    Int,
    /// Number.
    Double,
    /// Text.
    String,
    /// Text that is base64 of bytes.
    Bytes,
    /// Text that is an RFC 3339 time, or a date.
    Timestamp,
    /// Text that is a duration as Go writes it.
    Duration,
    /// A list.
    List(Arc<Schema>, ListKind),
    /// A map from text.
    Map(Arc<Schema>),
    /// Known fields.
    Object(Arc<Object>),
}

/// How lists compare and add up (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// In order.
    Atomic,
    /// Without order.
    Set,
    /// Without order, items known by these keys.
    Map(Vec<Box<str>>),
}

/// An object with known fields.
#[derive(Debug)]
pub struct Object {
    /// As messages name it.
    pub name: Box<str>,
    /// Fields by the name that expressions use ([`escape`]).
    pub fields: BTreeMap<Box<str>, Field>,
}

impl Object {
    /// The field of an escaped name; words that are no names may also stand as they are.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name).or_else(|| {
            let escaped =
                escape(name).filter(|e| e.len() == name.len() + 4 && e.starts_with("__"))?;
            self.fields.get(&*escaped)
        })
    }
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// The name in the data.
    pub json: Box<str>,
    /// What it is.
    pub schema: Schema,
}

/// A field's name as expressions write it; `None` for one that they cannot.
pub fn escape(name: &str) -> Option<String> {
    const LITERALS: [&str; 4] = ["true", "false", "null", "in"];
    if LITERALS.contains(&name) || crate::parse::RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    if name.is_empty() || !(name.starts_with(starts) || name.starts_with(['.', '-', '/'])) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}
