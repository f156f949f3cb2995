//! Objects as JSON: kind, version and metadata come first, as upstream writes them. Lists of
//! built-in kinds have items without the first two ([`untyped`]), which then is a cut.

use bytes::Bytes;
use coracle_meta::Status;
use coracle_schema::Kind;
use serde_json::Value;

/// What comes first of an object, in this order.
const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];

/// An object's bytes.
///
/// # Errors
/// 500 for what JSON cannot say, which nothing here makes.
pub(crate) fn bytes(v: &Value) -> Result<Bytes, Status> {
    Ok(with_revision_place(v)?.0.into())
}

/// An object's bytes, and where in them its resourceVersion is: a label may look like one, so the
/// place is taken down while writing.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn with_revision_place(v: &Value) -> Result<(Vec<u8>, usize), Status> {
    write(v).map_err(Status::internal)
}

fn write(v: &Value) -> serde_json::Result<(Vec<u8>, usize)> {
    let (mut out, mut at) = (Vec::with_capacity(1024), 0);
    let Some(map) = v.as_object() else {
        serde_json::to_writer(&mut out, v)?;
        return Ok((out, 0));
    };
    let first = FIRST.iter().filter_map(|f| map.get_key_value(*f));
    let rest = map.iter().filter(|(k, _)| !FIRST.contains(&k.as_str()));
    write_pairs(&mut out, first.chain(rest), |out, key, value| match value.as_object() {
        Some(metadata) if key == "metadata" => write_pairs(out, metadata, |out, key, value| {
            if key == "resourceVersion" {
                at = out.len() - key.len() - 3;
            }
            serde_json::to_writer(out, value)
        }),
        _ => serde_json::to_writer(out, value),
    })?;
    Ok((out, at))
}

fn write_pairs<'a>(
    out: &mut Vec<u8>,
    pairs: impl IntoIterator<Item = (&'a String, &'a Value)>,
    mut write: impl FnMut(&mut Vec<u8>, &str, &Value) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    out.push(b'{');
    for (i, (key, value)) in pairs.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, key)?;
        out.push(b':');
        write(out, key, value)?;
    }
    out.push(b'}');
    Ok(())
}

/// How an object of a kind begins; what [`untyped`] cuts.
pub fn type_prefix(kind: &Kind) -> String {
    let text = |s: &str| Value::from(s).to_string();
    format!("{{\"kind\":{},\"apiVersion\":{},", text(&kind.kind), text(&kind.api_version()))
}

/// Whether an object's bytes are at the version of a kind: it can be sent as it is stored.
pub(crate) fn is_at(kind: &Kind, bytes: &[u8]) -> bool {
    let group = [&*kind.group, if kind.group.is_empty() { "" } else { "/" }];
    let start = [
        "{\"kind\":\"",
        &kind.kind,
        "\",\"apiVersion\":\"",
        group[0],
        group[1],
        &kind.version,
        "\",",
    ];
    let rest = start.iter().try_fold(bytes, |rest, part| rest.strip_prefix(part.as_bytes()));
    rest.is_some()
}

/// An object without kind and version, as two pieces: what a list of a built-in kind has. Objects
/// that an older server has stored in another order are left whole, which no client minds.
pub fn untyped<'a>(object: &'a [u8], type_prefix: &str) -> (&'static [u8], &'a [u8]) {
    match object.strip_prefix(type_prefix.as_bytes()) {
        Some(rest) => (b"{", rest),
        None => (b"", object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_encoded_at_a_version_is_seen_to_be() {
        let kinds = &coracle_schema::pack::of(coracle_schema::Minor::LATEST).kinds;
        for kind in kinds {
            let v = json!({"metadata": {}, "kind": kind.kind, "apiVersion": kind.api_version(), "a": 1});
            let encoded = bytes(&v).unwrap();
            assert!(is_at(kind, &encoded), "{}", kind.kind);
            assert!(encoded.starts_with(type_prefix(kind).as_bytes()));
        }
        let of = |plural: &str, version: &str| {
            kinds.iter().find(|k| k.plural == plural && k.version == version).unwrap()
        };
        let v1 = of("horizontalpodautoscalers", "v1");
        let v2 = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {}});
        assert!(!is_at(v1, &bytes(&v2).unwrap()));
    }

    #[test]
    fn kind_and_metadata_come_first_and_the_revision_is_found() {
        let v = json!({"a": 1, "apiVersion": "v1", "kind": "X", "metadata": {
            "labels": {"resourceVersion": ""}, "resourceVersion": ""}});
        let (bytes, at) = with_revision_place(&v).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(r#"{"kind":"X","apiVersion":"v1","metadata":{"#), "{text}");
        assert!(text[at..].starts_with(r#""resourceVersion":""},"a":1}"#), "{}", &text[at..]);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), v);
        let (brace, rest) = untyped(text.as_bytes(), r#"{"kind":"X","apiVersion":"v1","#);
        let cut: Value = serde_json::from_slice(&[brace, rest].concat()).unwrap();
        assert_eq!(cut, json!({"a": 1, "metadata": v["metadata"]}));
    }
}
