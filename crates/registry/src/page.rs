//! Continue tokens: opaque to clients, upstream's form inside.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_store::object::Name;
use serde_json::{Value, json};

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The revision of the first page; `None` to go on at the newest (an inconsistent list).
    pub(crate) revision: Option<u64>,
    /// The last name that was listed.
    pub(crate) after: Name,
}

impl Token {
    pub(crate) fn encode(&self) -> String {
        let rv = self.revision.map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
        let start = format!("{}/{}\0", self.after.namespace, self.after.name);
        let token = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        if token["v"] != "meta.k8s.io/v1" {
            return None;
        }
        let revision = match token["rv"].as_i64()? {
            -1 => None,
            r => Some(u64::try_from(r).ok().filter(|r| *r > 0)?),
        };
        let (namespace, name) = token["start"].as_str()?.strip_suffix('\0')?.split_once('/')?;
        Some(Self { revision, after: Name { namespace: namespace.into(), name: name.into() } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_garbage_is_refused() {
        let after = Name { namespace: "a".into(), name: "b".into() };
        for revision in [None, Some(7)] {
            let t = Token { revision, after: after.clone() };
            assert_eq!(Token::decode(&t.encode()), Some(t));
        }
        for bad in ["", "x", "e30", "bm90IGpzb24"] {
            assert_eq!(Token::decode(bad), None);
        }
    }
}
