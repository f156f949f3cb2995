//! From a block of the table to rules.

use super::functions;
use coracle_cel::{
    Bindings, Env, Program,
    types::{Schema, Type},
    value::Val,
};
use coracle_meta::status::{FieldError, FieldErrorKind};
use serde_json::Value;
use std::{collections::BTreeSet, sync::LazyLock};

/// The rules of a definition.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) schema: Schema,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) when: When,
    /// Told after everything else of the object, and on update only when the value changed.
    pub(super) late: bool,
    pub(super) guard: Option<Condition>,
    pub(super) body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum When {
    /// Create and update of the main resource.
    Write,
    Create,
    Update,
    Status,
}

type Path = Vec<Box<str>>;
/// A check that is no condition: the object, what it replaces, and where it stands.
pub(super) type Native = fn(&Value, Option<&Value>, &str) -> Vec<FieldError>;

#[derive(Debug)]
pub(super) enum Body {
    Field(Path, Check),
    Each(Over, Path, Check),
    Walk(Path),
    Rule(Box<Rule>),
    Native(Native),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Over {
    Items,
    Values,
    Keys,
    KeysAtField,
}

#[derive(Debug)]
pub(super) enum Check {
    Required(Box<str>),
    Enum(Vec<Box<str>>),
    Range { min: i64, max: i64, always: bool },
    Name { checker: Box<str>, always: bool },
    MaxLength(u64),
    MaxItems(usize),
    Immutable(Box<str>),
    Unique { keys: Vec<Box<str>>, at_item: bool },
}

/// A condition over `self`, and what it looks at.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) program: Program,
    looks_at: Option<BTreeSet<Box<str>>>,
}

/// A condition, perhaps over the items of lists, with the error that it means.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) loops: Vec<Loop>,
    pub(super) condition: Program,
    looks_at: Option<BTreeSet<Box<str>>>,
    pub(super) kind: FieldErrorKind,
    pub(super) checker: Option<Box<str>>,
    pub(super) path: Text,
    pub(super) value: Shown,
    pub(super) detail: Text,
}

#[derive(Debug)]
pub(super) struct Loop {
    pub(super) source: Box<str>,
    pub(super) range: Program,
    pub(super) index: Option<Box<str>>,
    pub(super) item: Box<str>,
}

/// The value that an error shows.
#[derive(Debug)]
pub(super) enum Shown {
    Nothing,
    Null,
    Text(Box<str>),
    Of(Program),
}

/// Text with values in it.
#[derive(Debug)]
pub(super) struct Text(pub(super) Vec<Piece>);

#[derive(Debug)]
pub(super) enum Piece {
    Plain(Box<str>),
    /// `[]`: the next index of the loops.
    Index,
    Of(Program),
}

/// Whether an object has one of the fields that a condition looks at; without them it is as for an
/// empty object, for which it is known not to hold.
fn any_there(looks_at: Option<&BTreeSet<Box<str>>>, v: &Value) -> bool {
    looks_at.is_none_or(|fields| fields.iter().any(|f| v.get(&**f).is_some()))
}

impl Condition {
    pub(super) fn may_hold(&self, v: &Value) -> bool {
        any_there(self.looks_at.as_ref(), v)
    }
}

impl Rule {
    pub(super) fn may_hold(&self, v: &Value) -> bool {
        any_there(self.looks_at.as_ref(), v)
    }
}

/// Reads a block. What cannot be read comes back beside it, as texts.
pub(super) fn block(text: &str, schema: &Schema) -> Result<Block, (Block, Vec<String>)> {
    let env = Env::default()
        .with_zero_values()
        .with_library(&functions::LIBRARY)
        .with("self", schema.clone())
        .with("oldSelf", schema.clone());
    let reader = Reader { env, schema };
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match reader.line(line) {
            Ok(l) => lines.push(l),
            Err(e) => faults.push(format!("{line}\n      {e}")),
        }
    }
    let block = Block { schema: schema.clone(), lines };
    if faults.is_empty() { Ok(block) } else { Err((block, faults)) }
}

struct Reader<'s> {
    env: Env,
    schema: &'s Schema,
}

type Read<T> = Result<T, String>;

impl Reader<'_> {
    fn line(&self, mut text: &str) -> Read<Line> {
        let (mut when, mut late, mut guard) = (When::Write, false, None);
        loop {
            if let Some(rest) = text.strip_prefix("late ") {
                (late, text) = (true, rest);
            } else if let Some(rest) = text.strip_prefix('@') {
                let (word, rest) = rest.split_once(' ').ok_or("nothing after a mark")?;
                (when, text) = (mode(word)?, rest);
            } else if text.starts_with('{') {
                let end = closing(text)?;
                guard = Some(self.condition(&text[1..end])?);
                text = text[end + 1..].trim_start();
            } else {
                break;
            }
        }
        let body = if let Some(rest) = text.strip_prefix("when") {
            let (mark, rest) = rest.split_once(' ').ok_or("nothing after when")?;
            if let Some(word) = mark.strip_prefix('-') {
                when = mode(word)?;
            }
            Body::Rule(Box::new(self.rule(rest.trim())?))
        } else if let Some(name) = text.strip_prefix("native ") {
            Body::Native(functions::native(name).ok_or("no such native check")?)
        } else {
            field(text)?
        };
        Ok(Line { when, late, guard, body })
    }

    fn compile(&self, env: &Env, source: &str) -> Read<Program> {
        Program::compile(env, source).map_err(|f| coracle_cel::render(&f, source))
    }

    fn condition(&self, source: &str) -> Read<Condition> {
        let program = self.compile(&self.env, source)?;
        let looks_at = self.looks_at(&[&program], source);
        Ok(Condition { program, looks_at })
    }

    /// The fields of `self` that programs look at, if they are false without any of them.
    fn looks_at(&self, programs: &[&Program], source: &str) -> Option<BTreeSet<Box<str>>> {
        if source.contains("oldSelf") {
            return None;
        }
        let mut fields = BTreeSet::new();
        for p in programs {
            fields.extend(p.fields_of("self")?.into_iter().map(Into::into));
        }
        static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(serde_json::Map::new()));
        let bindings = Bindings::default().with("self", Val::of(&EMPTY, self.schema));
        let quiet = match programs.first()?.eval(&bindings, 1_000_000).0 {
            Ok(Val::Bool(b)) => !b,
            // A loop over nothing.
            Ok(v @ (Val::List(_) | Val::Map(_))) => v.size() == 0,
            _ => false,
        };
        quiet.then_some(fields)
    }

    fn rule(&self, text: &str) -> Read<Rule> {
        let (mut env, mut loops, mut rest) = (self.env.clone(), Vec::new(), text);
        if rest.starts_with("each ") {
            let colon = loop_end(rest).ok_or("no colon after a loop")?;
            for part in split_outside(&rest[..colon], ", each ") {
                let part = part.trim_start_matches("each ").trim();
                let (source, names) = part.rsplit_once(" as ").ok_or("a loop without names")?;
                let range = self.compile(&env, source)?;
                let (key, value) = match range.ty() {
                    Type::List(t) => (Type::Int, (**t).clone()),
                    Type::Map(k, v) => ((**k).clone(), (**v).clone()),
                    Type::Dyn => (Type::Dyn, Type::Dyn),
                    other => return Err(format!("{source} is {other}, no list")),
                };
                let (index, item) = match names.split_once(',') {
                    Some((i, x)) => (Some(i.trim()), x.trim()),
                    None => (None, names.trim()),
                };
                if let Some(i) = index {
                    env = env.with_type(i, key);
                }
                env = env.with_type(item, value);
                loops.push(Loop {
                    source: source.into(),
                    range,
                    index: index.map(Into::into),
                    item: item.into(),
                });
            }
            rest = rest[colon + 1..].trim_start();
        }
        let (condition, error) = rest.rsplit_once(" => ").ok_or("no error after a condition")?;
        let condition_source = condition.trim();
        let condition = self.compile(&env, condition_source)?;
        let first: Vec<&Program> = match loops.first() {
            Some(l) => vec![&l.range],
            None => vec![&condition],
        };
        let looks_at = match loops.first() {
            Some(l) => self.looks_at(&first, &l.source),
            None => self.looks_at(&first, condition_source),
        };
        let (word, error) = error.trim().split_once(' ').ok_or("an error without a path")?;
        let (kind, checker) = match word.strip_prefix("Name:") {
            Some(c) => (FieldErrorKind::Invalid, Some(c.into())),
            None => (error_kind(word)?, None),
        };
        let (path, error) = path_token(error.trim())?;
        let path = self.text(&env, path, true)?;
        let (value, detail) = match detail_start(error) {
            Some(i) => (error[..i].trim(), error[i..].trim()),
            None => (error.trim(), ""),
        };
        let detail = detail.strip_prefix('"').and_then(|d| d.strip_suffix('"')).unwrap_or(detail);
        let detail = self.text(&env, detail, false)?;
        let value = match value {
            "-" | "" | "omit" => Shown::Nothing,
            "null" => Shown::Null,
            v if v.starts_with("raw(") => {
                Shown::Text(v.trim_start_matches("raw('").trim_end_matches("')").into())
            }
            v => Shown::Of(self.compile(&env, v)?),
        };
        Ok(Rule { loops, condition, looks_at, kind, checker, path, value, detail })
    }

    fn text(&self, env: &Env, source: &str, path: bool) -> Read<Text> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = source;
        while let Some(c) = rest.chars().next() {
            if c == '\\' {
                let next = rest[1..].chars().next().unwrap_or('\\');
                plain.push(if next == 'n' { '\n' } else { next });
                rest = &rest[1 + next.len_utf8()..];
            } else if c == '{' {
                let end = closing(rest)?;
                pieces.push(Piece::Plain(std::mem::take(&mut plain).into()));
                pieces.push(Piece::Of(self.compile(env, &rest[1..end])?));
                rest = &rest[end + 1..];
            } else if path && rest.starts_with("[]") {
                pieces.push(Piece::Plain(std::mem::take(&mut plain).into()));
                pieces.push(Piece::Index);
                rest = &rest[2..];
            } else {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        pieces.push(Piece::Plain(plain.into()));
        Ok(Text(pieces))
    }
}

fn mode(word: &str) -> Read<When> {
    Ok(match word {
        "create" => When::Create,
        "update" => When::Update,
        "status" => When::Status,
        other => return Err(format!("no such mark: {other}")),
    })
}

fn error_kind(word: &str) -> Read<FieldErrorKind> {
    Ok(match word {
        "Invalid" => FieldErrorKind::Invalid,
        "Required" => FieldErrorKind::Required,
        "Forbidden" => FieldErrorKind::Forbidden,
        "NotSupported" => FieldErrorKind::NotSupported,
        "Duplicate" => FieldErrorKind::Duplicate,
        "NotFound" => FieldErrorKind::NotFound,
        "TooLong" => FieldErrorKind::TooLong,
        "TooMany" => FieldErrorKind::TooMany,
        other => return Err(format!("no such error: {other}")),
    })
}

/// Walks through text outside of quotes and brackets: `f` says at which place to stop.
fn scan(text: &str, mut f: impl FnMut(usize, u8, i32) -> bool) -> Option<usize> {
    let (mut depth, mut quote, mut skip) = (0, None, false);
    for (i, b) in text.bytes().enumerate() {
        if skip {
            skip = false;
            continue;
        }
        match (quote, b) {
            (Some(_), b'\\') => skip = true,
            (Some(q), b) if b == q => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(b),
            (None, b) => {
                if matches!(b, b')' | b']' | b'}') {
                    depth -= 1;
                }
                if f(i, b, depth) {
                    return Some(i);
                }
                if matches!(b, b'(' | b'[' | b'{') {
                    depth += 1;
                }
            }
        }
    }
    None
}

/// The brace that closes the one that the text begins with.
fn closing(text: &str) -> Read<usize> {
    scan(text, |i, b, depth| i > 0 && b == b'}' && depth == 0)
        .ok_or_else(|| "no closing brace".into())
}

fn loop_end(text: &str) -> Option<usize> {
    scan(text, |i, b, depth| b == b':' && depth == 0 && text[i + 1..].starts_with(' '))
}

fn split_outside<'t>(text: &'t str, separator: &str) -> Vec<&'t str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut cuts = Vec::new();
    scan(text, |i, _, depth| {
        if depth == 0 && text[i..].starts_with(separator) {
            cuts.push(i);
        }
        false
    });
    for cut in cuts {
        parts.push(&text[start..cut]);
        start = cut + 2;
    }
    parts.push(&text[start..]);
    parts
}

/// A path, perhaps in quotes, and what follows it.
fn path_token(text: &str) -> Read<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('"') {
        let end = rest.find('"').ok_or("an open quote")?;
        return Ok((&rest[..end], rest[end + 1..].trim_start()));
    }
    let end = scan(text, |_, b, depth| b == b' ' && depth == 0).unwrap_or(text.len());
    Ok((&text[..end], text[end..].trim_start()))
}

/// Where the quoted detail at the end of an error begins.
fn detail_start(text: &str) -> Option<usize> {
    if !text.ends_with('"') {
        return None;
    }
    let mut open = None;
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'\'' => {
                // A text in a condition.
                i += 1;
                while i < bytes.len() && bytes[i] != b'\'' {
                    i += 1 + usize::from(bytes[i] == b'\\');
                }
            }
            b'"' => {
                open = Some(i);
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += 1 + usize::from(bytes[i] == b'\\');
                }
            }
            _ => {}
        }
        i += 1;
    }
    open
}

fn field(text: &str) -> Read<Body> {
    let (name, rest) = text.split_once(' ').ok_or("a field without a check")?;
    let path: Path = match name {
        "." | "self" => vec![],
        n if n.chars().all(|c| c.is_ascii_alphanumeric() || "._-$".contains(c)) => {
            n.split('.').map(Into::into).collect()
        }
        other => return Err(format!("not a field: {other}")),
    };
    Ok(match rest.split_once(' ').unwrap_or((rest, "")) {
        ("walk", "") => Body::Walk(path),
        ("each", check) => Body::Each(Over::Items, path, self::check(check)?),
        ("values", check) => Body::Each(Over::Values, path, self::check(check)?),
        ("keys", check) => {
            match check.strip_prefix("at FIELD: ").or(check.strip_prefix("at FIELD ")) {
                Some(check) => Body::Each(Over::KeysAtField, path, self::check(check)?),
                None => Body::Each(Over::Keys, path, self::check(check)?),
            }
        }
        _ => Body::Field(path, check(rest)?),
    })
}

fn check(text: &str) -> Read<Check> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let unquoted = || rest.trim().trim_matches('"').replace("\\\"", "\"").into_boxed_str();
    let number = |t: &str| t.parse::<i64>().map_err(|_| format!("not a number: {t}"));
    let plain = |t: &str| {
        if t.contains(' ') { Err(format!("too many words: {t}")) } else { Ok(t.to_owned()) }
    };
    Ok(match word {
        "required" => Check::Required(unquoted()),
        "enum" => Check::Enum(rest.split(' ').map(Into::into).collect()),
        "min" => Check::Range { min: number(rest)?, max: i64::MAX, always: false },
        "range" | "range!" => {
            let (a, b) = rest.split_once(' ').ok_or("a range of one number")?;
            Check::Range { min: number(a)?, max: number(b)?, always: word == "range!" }
        }
        "name" | "name!" => {
            let checker = plain(rest)?;
            if !super::checkers::known(&checker) {
                return Err(format!("no such checker: {checker}"));
            }
            Check::Name { checker: checker.into(), always: word == "name!" }
        }
        "maxlen" => Check::MaxLength(number(rest)?.unsigned_abs()),
        "maxitems" => Check::MaxItems(usize::try_from(number(rest)?).unwrap_or(0)),
        "immutable" => Check::Immutable(match rest {
            "" => "field is immutable".into(),
            _ => unquoted(),
        }),
        "unique" => {
            let (keys, at_item) = match rest.strip_suffix(" at item") {
                Some(k) => (k, true),
                None => (rest, false),
            };
            Check::Unique { keys: plain(keys)?.split(',').map(Into::into).collect(), at_item }
        }
        other => return Err(format!("no such check: {other}")),
    })
}
