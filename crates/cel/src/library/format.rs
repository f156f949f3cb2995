//! `format`: named formats that text can be checked against.

use super::{Args, Function, Output, bad_arguments};
use crate::value::{Opaque, Val};
use coracle_meta::{name, time};

/// A named format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(usize);

type Check = fn(&str) -> Vec<String>;

/// A check of a prefix.
fn prefix(s: &str, check: Check) -> Vec<String> {
    check(&name::of_base(s))
}

fn one(holds: bool, why: &str) -> Vec<String> {
    if holds { vec![] } else { vec![why.to_owned()] }
}

fn is_byte(s: &str) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(s).is_ok()
}

fn is_uuid(s: &str) -> bool {
    let hex: String = s.chars().filter(|c| *c != '-').collect();
    let dashes = s.len() - hex.len();
    hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && (dashes == 0 || dashes == 4)
}

/// All formats, by name, with what they say of a text that is none.
const FORMATS: [(&str, Check); 13] = [
    ("dns1123Label", name::check_label),
    ("dns1123Subdomain", name::check_subdomain),
    ("dns1035Label", name::check_label_1035),
    ("qualifiedName", name::check_qualified_name),
    ("dns1123LabelPrefix", |s| prefix(s, name::check_label)),
    ("dns1123SubdomainPrefix", |s| prefix(s, name::check_subdomain)),
    ("dns1035LabelPrefix", |s| prefix(s, name::check_label_1035)),
    ("labelValue", name::check_label_value),
    ("uri", |s| {
        let is_url = super::function("isURL")
            .is_some_and(|f| matches!(f(&[Val::text(s)]), Ok(Val::Bool(true))));
        one(is_url, &format!("parse {s:?}: invalid URI for request"))
    }),
    ("uuid", |s| one(is_uuid(s), "does not match the UUID format")),
    ("byte", |s| one(is_byte(s), "invalid base64")),
    ("date", |s| one(s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok(), "invalid date")),
    ("datetime", |s| one(time::parse_rfc3339(s).is_some(), "invalid datetime")),
];

impl Format {
    pub(crate) fn name(self) -> &'static str {
        FORMATS[self.0].0
    }

    fn of(name: &str) -> Option<Self> {
        FORMATS.iter().position(|(n, _)| *n == name).map(Self)
    }
}

fn val<'a>(f: Format) -> Val<'a> {
    Val::Opaque(Opaque::Format(f))
}

fn named<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(s)] => Ok(match Format::of(s) {
            Some(f) => Val::some(val(f)),
            None => Val::Optional(None),
        }),
        _ => bad_arguments(),
    }
}

fn validate<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Format(f)), Val::String(s)] => {
            let faults = FORMATS[f.0].1(s);
            if faults.is_empty() {
                return Ok(Val::Optional(None));
            }
            Ok(Val::some(Val::list(faults.into_iter().map(Val::text).collect())))
        }
        _ => bad_arguments(),
    }
}

fn made<'a>(i: usize) -> Output<'a> {
    Ok(val(Format(i)))
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("format.named", named),
    ("validate", validate),
    ("format.dns1123Label", |_| made(0)),
    ("format.dns1123Subdomain", |_| made(1)),
    ("format.dns1035Label", |_| made(2)),
    ("format.qualifiedName", |_| made(3)),
    ("format.dns1123LabelPrefix", |_| made(4)),
    ("format.dns1123SubdomainPrefix", |_| made(5)),
    ("format.dns1035LabelPrefix", |_| made(6)),
    ("format.labelValue", |_| made(7)),
    ("format.uri", |_| made(8)),
    ("format.uuid", |_| made(9)),
    ("format.byte", |_| made(10)),
    ("format.date", |_| made(11)),
    ("format.datetime", |_| made(12)),
];
