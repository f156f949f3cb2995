//! From tokens to expressions. Operators bind as the language definition says; macros are expanded
//! on the way ([`crate::macros`]).

use crate::{
    Fault,
    ast::{Call, Entry, Expr, Item, Literal, Node, Offset, Select},
    lex::{Tok, Token, tokens},
    macros,
};

/// Deepest nesting of an expression. (cel-go takes 250; nobody writes 100, and it must fit on the stack
/// of an unoptimised build.)
const MAX_DEPTH: usize = 100;
/// Most characters of an expression, as cel-go's parser.
const MAX_SIZE: usize = 100_000;

/// What ANTLR lists where an expression was expected.
const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Words that are no names.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Operators between two operands, loosest first.
const BINARY: [(&str, &str, u8); 14] = [
    ("||", "_||_", 1),
    ("&&", "_&&_", 2),
    ("==", "_==_", 3),
    ("!=", "_!=_", 3),
    ("<", "_<_", 3),
    ("<=", "_<=_", 3),
    (">", "_>_", 3),
    (">=", "_>=_", 3),
    ("in", "@in", 3),
    ("+", "_+_", 4),
    ("-", "_-_", 4),
    ("*", "_*_", 5),
    ("/", "_/_", 5),
    ("%", "_%_", 5),
];

/// Parses an expression; with it comes the highest id of its nodes.
///
/// # Errors
/// The first fault of its syntax.
pub(crate) fn parse(source: &str) -> Result<(Expr, usize), Fault> {
    if source.chars().count() > MAX_SIZE {
        let size = source.chars().count();
        return Err(Fault::new(
            0,
            format!("expression code point size exceeds limit: size: {size}, limit {MAX_SIZE}"),
        ));
    }
    let mut parser = Parser { tokens: tokens(source)?, next: 0, ids: 0, depth: 0, source };
    let expr = parser.expr()?;
    match parser.peek() {
        Tok::End => Ok((expr, parser.ids)),
        _ => {
            let text = parser.text();
            Err(parser.fault(format!("extraneous input '{text}' expecting <EOF>")))
        }
    }
}

/// The parser; macros make nodes with it.
pub(crate) struct Parser<'s> {
    tokens: Vec<Token>,
    next: usize,
    ids: usize,
    depth: usize,
    source: &'s str,
}

impl Parser<'_> {
    pub(crate) fn make(&mut self, at: Offset, node: Node) -> Expr {
        self.ids += 1;
        Expr { id: self.ids, at, node }
    }

    pub(crate) fn call(&mut self, at: Offset, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Node::Call(Box::new(Call { function: function.into(), target: None, args })))
    }

    fn peek(&self) -> &Tok {
        &self.tokens[self.next].kind
    }

    fn at(&self) -> Offset {
        self.tokens[self.next].at
    }

    /// The next token as written.
    fn text(&self) -> &str {
        let t = &self.tokens[self.next];
        if t.kind == Tok::End { "<EOF>" } else { &self.source[t.at..t.end] }
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next].clone();
        if token.kind != Tok::End {
            self.next += 1;
        }
        token
    }

    fn eat(&mut self, op: &str) -> bool {
        let found = matches!(self.peek(), Tok::Op(o) if *o == op);
        if found {
            self.next += 1;
        }
        found
    }

    fn fault(&self, why: String) -> Fault {
        Fault::new(self.at(), format!("Syntax error: {why}"))
    }

    fn expect(&mut self, op: &str) -> Result<(), Fault> {
        if self.eat(op) {
            return Ok(());
        }
        let text = self.text();
        let why = match self.peek() {
            Tok::End => format!("missing '{op}' at '{text}'"),
            _ => format!("mismatched input '{text}' expecting '{op}'"),
        };
        Err(self.fault(why))
    }

    pub(crate) fn expr(&mut self) -> Result<Expr, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(
                self.at(),
                format!("expression recursion limit exceeded: {MAX_DEPTH}"),
            ));
        }
        let condition = self.binary(1)?;
        let at = self.at();
        let expr = if self.eat("?") {
            let yes = self.binary(1)?;
            self.expect(":")?;
            let no = self.expr()?;
            self.call(at, "_?_:_", vec![condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// Operands between operators that bind at least as closely as a level. Terms of `&&` and `||`
    /// are one node however many there are; chains of other operators nest, within the limit.
    fn binary(&mut self, loosest: u8) -> Result<Expr, Fault> {
        let mut left = self.unary()?;
        let mut length = 0;
        loop {
            let Tok::Op(op) = self.peek() else { return Ok(left) };
            let Some((_, function, level)) =
                BINARY.iter().find(|(o, _, level)| o == op && *level >= loosest)
            else {
                return Ok(left);
            };
            let at = self.at();
            self.next += 1;
            let right = self.binary(level + 1)?;
            match &mut left.node {
                Node::Call(c) if *level <= 2 && &*c.function == *function && length > 0 => {
                    c.args.push(right);
                    continue;
                }
                _ => {}
            }
            length += 1;
            if length > MAX_DEPTH {
                return Err(Fault::new(
                    at,
                    format!("expression recursion limit exceeded: {MAX_DEPTH}"),
                ));
            }
            left = self.call(at, function, vec![left, right]);
        }
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let at = self.at();
        for (op, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while matches!(self.peek(), Tok::Op(o) if *o == op) {
                // The last minus belongs to a number.
                let number = matches!(
                    self.tokens.get(self.next + 1).map(|t| &t.kind),
                    Some(Tok::Int(_) | Tok::Double(_))
                );
                if op == "-" && number {
                    break;
                }
                self.next += 1;
                count += 1;
            }
            if count > 0 {
                let operand = self.member()?;
                // Two of them cancel out.
                return Ok(if count % 2 == 1 {
                    self.call(at, function, vec![operand])
                } else {
                    operand
                });
            }
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Fault> {
        let mut expr = self.primary()?;
        let mut length = 0;
        loop {
            length += 1;
            if length > MAX_DEPTH {
                return Err(self.fault(format!("expression recursion limit exceeded: {MAX_DEPTH}")));
            }
            let at = self.at();
            if self.eat(".") {
                let field = self.field()?;
                let open = self.at();
                if self.eat("(") {
                    let args = self.list_until(")", Self::expr)?;
                    expr = self.method(open, expr, &field, args)?;
                } else {
                    let select = Select { operand: expr, field, test: false };
                    expr = self.make(at, Node::Select(Box::new(select)));
                }
            } else if self.eat(".?") {
                let field = self.field()?;
                let name = self.make(at, Node::Literal(Literal::String(field)));
                expr = self.call(at, "_?._", vec![expr, name]);
            } else if self.eat("[") {
                let index = self.expr()?;
                self.expect("]")?;
                expr = self.call(at, "_[_]", vec![expr, index]);
            } else if self.eat("[?") {
                let index = self.expr()?;
                self.expect("]")?;
                expr = self.call(at, "_[?_]", vec![expr, index]);
            } else if matches!(self.peek(), Tok::Op("{")) {
                let Some(name) = qualified_name(&expr) else { return Ok(expr) };
                self.next += 1;
                let fields = self.list_until("}", |p| {
                    let field = p.field()?;
                    p.expect(":")?;
                    Ok((field, p.expr()?))
                })?;
                expr = self.make(at, Node::Struct(name.into(), fields));
            } else {
                return Ok(expr);
            }
        }
    }

    fn field(&mut self) -> Result<Box<str>, Fault> {
        match self.peek().clone() {
            Tok::Ident(name) | Tok::Quoted(name) => {
                self.next += 1;
                Ok(name)
            }
            _ => {
                let text = self.text();
                Err(self.fault(format!("mismatched input '{text}' expecting IDENTIFIER")))
            }
        }
    }

    /// Things between commas, up to a closing token; a comma may come before it.
    fn list_until<T>(
        &mut self,
        close: &str,
        mut one: impl FnMut(&mut Self) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut all = Vec::new();
        loop {
            if self.eat(close) {
                return Ok(all);
            }
            all.push(one(self)?);
            if !self.eat(",") {
                self.expect(close)?;
                return Ok(all);
            }
        }
    }

    fn method(
        &mut self,
        at: Offset,
        target: Expr,
        function: &str,
        args: Vec<Expr>,
    ) -> Result<Expr, Fault> {
        match macros::method(self, at, target, function, args)? {
            macros::Expansion::Done(e) => Ok(e),
            macros::Expansion::Call(target, args) => {
                let call = Call { function: function.into(), target: Some(target), args };
                Ok(self.make(at, Node::Call(Box::new(call))))
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let at = self.at();
        let literal = |parser: &mut Self, l: Literal| Ok(parser.make(at, Node::Literal(l)));
        match self.peek().clone() {
            Tok::Op("-") => {
                self.next += 1;
                let token = self.advance();
                match token.kind {
                    Tok::Int(t) => literal(self, Literal::Int(int(&t, true, at)?)),
                    Tok::Double(t) => literal(self, Literal::Double(-double(&t, at)?)),
                    _ => {
                        self.next -= 1;
                        Err(self.unexpected())
                    }
                }
            }
            Tok::Int(t) => {
                self.next += 1;
                literal(self, Literal::Int(int(&t, false, at)?))
            }
            Tok::Uint(t) => {
                self.next += 1;
                literal(self, Literal::Uint(uint(&t, at)?))
            }
            Tok::Double(t) => {
                self.next += 1;
                literal(self, Literal::Double(double(&t, at)?))
            }
            Tok::Text(t) => {
                self.next += 1;
                literal(self, Literal::String(t))
            }
            Tok::Bytes(b) => {
                self.next += 1;
                literal(self, Literal::Bytes(b))
            }
            Tok::Op("(") => {
                self.next += 1;
                let e = self.expr()?;
                self.expect(")")?;
                Ok(e)
            }
            Tok::Op("[") => {
                self.next += 1;
                let items = self.list_until("]", |p| {
                    let optional = p.eat("?");
                    Ok(Item { value: p.expr()?, optional })
                })?;
                Ok(self.make(at, Node::List(items)))
            }
            // `[?a]` begins with the token of an optional index.
            Tok::Op("[?") => {
                self.next += 1;
                let mut items = vec![Item { value: self.expr()?, optional: true }];
                if self.eat(",") {
                    items.extend(self.list_until("]", |p| {
                        let optional = p.eat("?");
                        Ok(Item { value: p.expr()?, optional })
                    })?);
                } else {
                    self.expect("]")?;
                }
                Ok(self.make(at, Node::List(items)))
            }
            Tok::Op("{") => {
                self.next += 1;
                let entries = self.list_until("}", |p| {
                    let optional = p.eat("?");
                    let key = p.expr()?;
                    p.expect(":")?;
                    Ok(Entry { key, value: p.expr()?, optional })
                })?;
                Ok(self.make(at, Node::Map(entries)))
            }
            Tok::Op(".") if matches!(self.tokens[self.next + 1].kind, Tok::Ident(_)) => {
                self.next += 1;
                self.primary()
            }
            Tok::Ident(name) => self.name(at, &name),
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> Fault {
        self.fault(format!("mismatched input '{}' expecting {EXPECTED}", self.text()))
    }

    fn name(&mut self, at: Offset, name: &str) -> Result<Expr, Fault> {
        let word = match name {
            "true" => Some(Literal::Bool(true)),
            "false" => Some(Literal::Bool(false)),
            "null" => Some(Literal::Null),
            _ => None,
        };
        if let Some(l) = word {
            self.next += 1;
            return Ok(self.make(at, Node::Literal(l)));
        }
        if RESERVED.contains(&name) {
            return Err(Fault::new(at, format!("reserved identifier: {name}")));
        }
        self.next += 1;
        let open = self.at();
        if !self.eat("(") {
            return Ok(self.make(at, Node::Ident(name.into())));
        }
        let args = self.list_until(")", Self::expr)?;
        if name == "has" {
            return macros::has(self, open, args);
        }
        Ok(self.call(open, name, args))
    }
}

/// `a.b.c` of names only.
pub(crate) fn qualified_name(e: &Expr) -> Option<String> {
    match &e.node {
        Node::Ident(n) => Some(n.to_string()),
        Node::Select(s) if !s.test => Some(format!("{}.{}", qualified_name(&s.operand)?, s.field)),
        _ => None,
    }
}

fn int(text: &str, negative: bool, at: Offset) -> Result<i64, Fault> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None => text.parse::<i128>(),
    };
    parsed
        .ok()
        .map(|n| if negative { -n } else { n })
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| Fault::new(at, "invalid int literal".into()))
}

fn uint(text: &str, at: Offset) -> Result<u64, Fault> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| Fault::new(at, "invalid uint literal".into()))
}

fn double(text: &str, at: Offset) -> Result<f64, Fault> {
    let parsed: f64 = text.parse().map_err(|_| Fault::new(at, "invalid double literal".into()))?;
    if parsed.is_finite() {
        Ok(parsed)
    } else {
        Err(Fault::new(at, "invalid double literal".into()))
    }
}
