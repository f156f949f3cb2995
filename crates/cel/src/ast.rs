//! Parsed expressions.

/// Where an expression begins: a byte offset into the source.
pub type Offset = usize;

/// A node of a parsed expression. Macros are expanded: what is here is calls and comprehensions.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Identifies the node within its expression; types and costs are kept by it.
    pub id: usize,
    /// Where it begins.
    pub at: Offset,
    /// What it is.
    pub node: Node,
}

/// The kinds of nodes.
#[derive(Clone, Debug)]
pub enum Node {
    /// A constant.
    Literal(Literal),
    /// A variable, or the first part of a qualified name.
    Ident(Box<str>),
    /// `operand.field`, or `has(operand.field)` when only presence is asked for.
    Select(Box<Select>),
    /// A function, a method of `target`, or an operator under its internal name (`_+_`).
    Call(Box<Call>),
    /// `[a, ?b]`.
    List(Vec<Item>),
    /// `{k: v, ?k: v}`.
    Map(Vec<Entry>),
    /// `Name{field: value}`.
    Struct(Box<str>, Vec<(Box<str>, Expr)>),
    /// A fold over a list or map: what the macros become.
    Fold(Box<Fold>),
}

/// `operand.field`.
#[derive(Clone, Debug)]
pub struct Select {
    /// What the field is of.
    pub operand: Expr,
    /// Its name, as written.
    pub field: Box<str>,
    /// Only whether it is there.
    pub test: bool,
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Name; operators have the names of the specification (`_&&_`, `@in`, `_?_:_`, `_[_]`).
    pub function: Box<str>,
    /// The receiver of a method.
    pub target: Option<Expr>,
    /// Arguments.
    pub args: Vec<Expr>,
}

/// An item of a list; an optional one is left out when it is none.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its value.
    pub value: Expr,
    /// Written with `?`.
    pub optional: bool,
}

/// An entry of a map.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key.
    pub key: Expr,
    /// Its value.
    pub value: Expr,
    /// Written with `?`.
    pub optional: bool,
}

/// A fold: `accumulator` begins as `init`; while `condition` holds it becomes `step` for each element
/// of `range`; then the value is `result`.
#[derive(Clone, Debug)]
pub struct Fold {
    /// What is folded over.
    pub range: Expr,
    /// The element of a list or key of a map; with a second variable, the index or key.
    pub variable: Box<str>,
    /// The element or value, for folds over two variables.
    pub second: Option<Box<str>>,
    /// Name of the accumulator.
    pub accumulator: Box<str>,
    /// Its first value.
    pub init: Expr,
    /// Whether to go on.
    pub condition: Expr,
    /// Its next value.
    pub step: Expr,
    /// The value of the whole.
    pub result: Expr,
}

/// Constants.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// `-1`.
    Int(i64),
    /// `1u`.
    Uint(u64),
    /// `1.5`.
    Double(f64),
    /// `'text'`.
    String(Box<str>),
    /// `b'bytes'`.
    Bytes(Box<[u8]>),
}

impl Expr {
    /// The direct parts of the node, in the order of evaluation.
    pub fn children(&self) -> Vec<&Expr> {
        match &self.node {
            Node::Literal(_) | Node::Ident(_) => vec![],
            Node::Select(s) => vec![&s.operand],
            Node::Call(c) => c.target.iter().chain(&c.args).collect(),
            Node::List(items) => items.iter().map(|i| &i.value).collect(),
            Node::Map(entries) => entries.iter().flat_map(|e| [&e.key, &e.value]).collect(),
            Node::Struct(_, fields) => fields.iter().map(|(_, v)| v).collect(),
            Node::Fold(f) => vec![&f.range, &f.init, &f.condition, &f.step, &f.result],
        }
    }

    /// Collects the fields of a variable that are looked at; false when it is looked at as a whole.
    pub(crate) fn fields_of<'e>(
        &'e self,
        name: &str,
        fields: &mut std::collections::BTreeSet<&'e str>,
    ) -> bool {
        if let Node::Select(s) = &self.node {
            if matches!(&s.operand.node, Node::Ident(n) if **n == *name) {
                fields.insert(&s.field);
                return true;
            }
        }
        if matches!(&self.node, Node::Ident(n) if **n == *name) {
            return false;
        }
        self.children().into_iter().all(|c| c.fields_of(name, fields))
    }

    /// Whether a variable is named anywhere below (a name that a fold binds anew counts too).
    pub fn mentions(&self, name: &str) -> bool {
        matches!(&self.node, Node::Ident(n) if **n == *name)
            || self.children().into_iter().any(|c| c.mentions(name))
    }
}
