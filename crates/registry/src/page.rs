//! Continue tokens: opaque to clients, upstream's form inside (`storage.EncodeContinue`).

use base64::{DecodeError, Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_meta::{Status, json as strict};
use coracle_schema::decode::mismatch;
use coracle_store::object::Name;
use serde_json::{Value, json};

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The revision of the first page; `None` to go on at the newest (an inconsistent list).
    pub revision: Option<u64>,
    /// The last name that was listed.
    pub after: Name,
}

const VERSION: &str = "meta.k8s.io/v1";

/// What a token's `start` is relative to.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A namespace, or the empty one of a kind without: `name`.
    One(&'a str),
    /// All namespaces: `namespace/name`.
    All,
}

impl<'a> Place<'a> {
    /// What a list of a namespace, or of all, is relative to.
    pub fn of(namespaced: bool, namespace: Option<&'a str>) -> Self {
        match namespace {
            Some(namespace) => Self::One(namespace),
            None if namespaced => Self::All,
            None => Self::One(""),
        }
    }
}

impl Token {
    /// The token as clients get it.
    pub fn encode(&self, place: Place) -> String {
        let rv = self.revision.map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
        let start = match place {
            Place::One(_) => format!("{}\0", self.after.name),
            Place::All => format!("{}/{}\0", self.after.namespace, self.after.name),
        };
        URL_SAFE_NO_PAD.encode(json!({"v": VERSION, "rv": rv, "start": start}).to_string())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 for what is none.
    pub fn decode(text: &str, place: Place) -> Result<Self, Status> {
        Self::read(text, place).map_err(|why| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        })
    }

    fn read(text: &str, place: Place) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| {
            let at = match e {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len(),
            };
            format!("illegal base64 data at input byte {at}")
        })?;
        let token = strict::decode(&bytes).map_err(|e| e.to_string())?.value;
        if !token.is_object() {
            return Err(mismatch(&token, "value of type storage.continueToken"));
        }
        match token["v"].as_str().unwrap_or_default() {
            VERSION => {}
            other => return Err(format!("server does not recognize this encoded version {other}")),
        }
        let rv = match &token["rv"] {
            Value::Null => 0,
            v => v
                .as_i64()
                .ok_or_else(|| mismatch(v, "struct field continueToken.rv of type int64"))?,
        };
        let start = token["start"].as_str().unwrap_or_default();
        if rv == 0 {
            return Err(format!("incorrect encoded start resourceVersion (version {VERSION})"));
        }
        if start.is_empty() {
            return Err(format!("encoded start key empty (version {VERSION})"));
        }
        let key = start.strip_prefix('/').unwrap_or(start);
        if key.split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return Err(start.to_owned());
        }
        let key = key.strip_suffix('\0').unwrap_or(key);
        let after = match place {
            Place::One(namespace) => Name { namespace: namespace.into(), name: key.into() },
            Place::All => {
                let (namespace, name) = key.split_once('/').unwrap_or((key, ""));
                Name { namespace: namespace.into(), name: name.into() }
            }
        };
        Ok(Self { revision: u64::try_from(rv).ok(), after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_garbage_is_refused() {
        let after = Name { namespace: "a".into(), name: "b".into() };
        for revision in [None, Some(7)] {
            for place in [Place::One("a"), Place::All] {
                let t = Token { revision, after: after.clone() };
                assert_eq!(Token::decode(&t.encode(place), place), Ok(t));
            }
        }
        let outside = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"../x"}"#);
        for bad in ["", "x", "e30", "bm90IGpzb24", "WzFd", &outside] {
            let s = Token::decode(bad, Place::All).unwrap_err();
            assert!(s.message.starts_with("invalid continue token: "), "{bad}: {s}");
        }
    }
}
