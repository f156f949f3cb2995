//! From text to tokens.

use crate::{Fault, ast::Offset};

/// A token and where it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Tok,
    pub(crate) at: Offset,
    pub(crate) end: Offset,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok {
    Ident(Box<str>),
    /// `` `quoted-name` ``, allowed as a field only.
    Quoted(Box<str>),
    Int(Box<str>),
    Uint(Box<str>),
    Double(Box<str>),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    /// Operators and punctuation.
    Op(&'static str),
    End,
}

/// Longest first, so that `==` is not read as two tokens.
const OPERATORS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "[?", ".?", "<", ">", "!", "+", "-", "*", "/", "%", "?",
    ":", ".", ",", "(", ")", "[", "]", "{", "}",
];

/// All tokens of a text, with an end token last.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, at: 0 };
    let mut all = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == Tok::End;
        all.push(token);
        if end {
            return Ok(all);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: Offset,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn fault(&self, at: Offset, why: &str) -> Fault {
        Fault::new(at, format!("Syntax error: {why}"))
    }

    fn next(&mut self) -> Result<Token, Fault> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            let comment = rest.starts_with("//").then(|| rest.find('\n').unwrap_or(rest.len()));
            match (blank, comment) {
                (0, None) => break,
                (n, _) if n > 0 => self.at += n,
                (_, n) => self.at += n.unwrap_or(0),
            }
        }
        let at = self.at;
        let kind = self.token()?;
        Ok(Token { kind, at, end: self.at })
    }

    fn token(&mut self) -> Result<Tok, Fault> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Tok::End) };
        if let Some(t) = self.quoted()? {
            return Ok(t);
        }
        let rest = self.rest();
        if first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
        {
            return Ok(self.number());
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let word: Box<str> = rest[..end.unwrap_or(rest.len())].into();
            self.at += word.len();
            return Ok(if &*word == "in" { Tok::Op("in") } else { Tok::Ident(word) });
        }
        if first == '`' {
            let body = &rest[1..];
            let end = body
                .find('`')
                .filter(|e| {
                    *e > 0
                        && body[..*e]
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || "_.-/ ".contains(c))
                })
                .ok_or_else(|| self.fault(self.at, "token recognition error at: '`'"))?;
            let name = body[..end].into();
            self.at += end + 2;
            return Ok(Tok::Quoted(name));
        }
        for op in OPERATORS {
            if rest.starts_with(op) {
                self.at += op.len();
                return Ok(Tok::Op(op));
            }
        }
        Err(self.fault(self.at, &format!("token recognition error at: '{first}'")))
    }

    fn number(&mut self) -> Tok {
        let rest = self.rest().as_bytes();
        let run = |from: usize, ok: fn(&u8) -> bool| {
            rest[from..].iter().take_while(|b| ok(b)).count() + from
        };
        let mut end;
        let mut double = false;
        if rest.starts_with(b"0x") && rest.get(2).is_some_and(u8::is_ascii_hexdigit) {
            end = run(2, u8::is_ascii_hexdigit);
        } else {
            end = run(0, u8::is_ascii_digit);
            if rest.get(end) == Some(&b'.') && rest.get(end + 1).is_some_and(u8::is_ascii_digit) {
                double = true;
                end = run(end + 1, u8::is_ascii_digit);
            }
            if matches!(rest.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
                if rest.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                    double = true;
                    end = run(end + 1 + sign, u8::is_ascii_digit);
                }
            }
        }
        let text: Box<str> = self.rest()[..end].into();
        self.at += end;
        if double {
            return Tok::Double(text);
        }
        if matches!(self.rest().as_bytes().first(), Some(b'u' | b'U')) {
            self.at += 1;
            return Tok::Uint(text);
        }
        Tok::Int(text)
    }

    /// A string or bytes literal, if one begins here.
    fn quoted(&mut self) -> Result<Option<Tok>, Fault> {
        let rest = self.rest();
        let prefix = rest.len() - rest.trim_start_matches(['r', 'R', 'b', 'B']).len();
        let marks = rest[..prefix].to_ascii_lowercase();
        if prefix > 2 || marks == "rr" || marks == "bb" {
            return Ok(None);
        }
        let body = &rest[prefix..];
        let Some(quote) = ["'''", "\"\"\"", "'", "\""].into_iter().find(|q| body.starts_with(q))
        else {
            return Ok(None);
        };
        let (raw, bytes) = (marks.contains('r'), marks.contains('b'));
        let start = self.at + prefix + quote.len();
        let end = self.end_of_quoted(start, quote, raw)?;
        let text = &self.source[start..end];
        let begin = self.at;
        self.at = end + quote.len();
        if bytes {
            let value = if raw { Ok(text.as_bytes().to_vec()) } else { unescape_bytes(text) };
            let value = value.map_err(|e| self.fault(begin, &e))?;
            return Ok(Some(Tok::Bytes(value.into())));
        }
        let value = if raw { Ok(text.to_owned()) } else { unescape(text) };
        Ok(Some(Tok::Text(value.map_err(|e| self.fault(begin, &e))?.into())))
    }

    fn end_of_quoted(&self, start: Offset, quote: &str, raw: bool) -> Result<Offset, Fault> {
        let bytes = self.source.as_bytes();
        let mut at = start;
        while at < bytes.len() {
            if bytes[at..].starts_with(quote.as_bytes()) {
                return Ok(at);
            }
            match bytes[at] {
                b'\\' if !raw => at += 1,
                b'\n' if quote.len() == 1 => break,
                _ => {}
            }
            at += 1;
        }
        let text: String = self.source[self.at..].chars().take(30).collect();
        Err(self.fault(self.at, &format!("token recognition error at: '{text}'")))
    }
}

enum Piece {
    Char(char),
    Byte(u8),
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(Piece::Char(c));
            continue;
        }
        let digits = |chars: &mut std::str::Chars<'_>, n: usize, radix: u32| {
            let text: String = chars.by_ref().take(n).collect();
            if text.len() == n { u32::from_str_radix(&text, radix).ok() } else { None }
        };
        let bad = || "unable to unescape string".to_owned();
        let Some(e) = chars.next() else { return Err(bad()) };
        out.push(match e {
            'a' => Piece::Char('\u{7}'),
            'b' => Piece::Char('\u{8}'),
            'f' => Piece::Char('\u{c}'),
            'n' => Piece::Char('\n'),
            'r' => Piece::Char('\r'),
            't' => Piece::Char('\t'),
            'v' => Piece::Char('\u{b}'),
            '\\' | '?' | '"' | '\'' | '`' => Piece::Char(e),
            'x' | 'X' => Piece::Byte(
                u8::try_from(digits(&mut chars, 2, 16).ok_or_else(bad)?).map_err(|_| bad())?,
            ),
            'u' | 'U' => {
                let n = if e == 'u' { 4 } else { 8 };
                let code = digits(&mut chars, n, 16).and_then(char::from_u32);
                Piece::Char(code.ok_or_else(bad)?)
            }
            '0'..='3' => {
                let rest = digits(&mut chars, 2, 8).ok_or_else(bad)?;
                let first = e.to_digit(8).ok_or_else(bad)?;
                Piece::Byte(u8::try_from(first * 64 + rest).map_err(|_| bad())?)
            }
            _ => return Err(bad()),
        });
    }
    Ok(out)
}

fn unescape(text: &str) -> Result<String, String> {
    Ok(pieces(text)?
        .into_iter()
        .map(|p| match p {
            Piece::Char(c) => c,
            // In text an escaped number is a code point.
            Piece::Byte(b) => char::from(b),
        })
        .collect())
}

fn unescape_bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for p in pieces(text)? {
        match p {
            Piece::Byte(b) => out.push(b),
            Piece::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(out)
}
