//! Objects as tables and as metadata alone, made from their bytes: metadata is copied as it is, and only
//! what cells may show is parsed.

use crate::negotiate::{Include, Meta};
use coracle_meta::Status;
use coracle_schema::Kind;
use jiff::Timestamp;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};
use std::fmt;

/// An object of which only the metadata matters.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// What of the metadata a list of one row says of itself.
#[derive(Deserialize)]
struct Revision<'a> {
    #[serde(borrow, rename = "resourceVersion")]
    resource_version: Option<&'a str>,
}

fn metadata(bytes: &[u8]) -> Result<&RawValue, Status> {
    let whole: Whole<'_> = serde_json::from_slice(bytes).map_err(Status::internal)?;
    Ok(whole.metadata)
}

/// Metadata only.
///
/// # Errors
/// 500 for what is no object.
pub(crate) fn partial(bytes: &[u8], version: Meta) -> Result<String, Status> {
    Ok(partial_of(metadata(bytes)?.get(), version))
}

/// Metadata only, of metadata.
pub(crate) fn partial_of(metadata: &str, version: Meta) -> String {
    let api = version.api_version();
    format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{api}\",\"metadata\":{metadata}}}"
    )
}

/// A list of metadata.
///
/// # Errors
/// As [`partial`].
pub(crate) fn partials<'b>(
    items: impl Iterator<Item = &'b [u8]>,
    list: &Value,
    version: Meta,
) -> Result<String, Status> {
    let api = version.api_version();
    let mut text = format!(
        "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{api}\",\"metadata\":{list},\"items\":["
    );
    join(&mut text, items.map(|bytes| partial(bytes, version)))?;
    text.push_str("]}\n");
    Ok(text)
}

fn join(
    text: &mut String,
    parts: impl Iterator<Item = Result<String, Status>>,
) -> Result<(), Status> {
    for (i, part) in parts.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&part?);
    }
    Ok(())
}

/// How the rows of a table are made.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) include: Include,
    pub(crate) version: Meta,
    pub(crate) now: Timestamp,
}

impl Table<'_> {
    /// A table of many objects. Definitions of columns are left out of later events of a watch.
    ///
    /// # Errors
    /// As [`partial`].
    pub(crate) fn of<'b>(
        self,
        items: impl Iterator<Item = &'b [u8]>,
        list: &Value,
        definitions: bool,
    ) -> Result<String, Status> {
        let columns = self.kind.columns.iter().map(|c| c.definition());
        let columns: Value = if definitions { columns.collect() } else { json!([]) };
        let api = self.version.api_version();
        let mut text = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{api}\",\"metadata\":{list},\"columnDefinitions\":{columns},\"rows\":["
        );
        join(&mut text, items.map(|bytes| self.row(bytes)))?;
        text.push_str("]}\n");
        Ok(text)
    }

    /// A table of one object.
    ///
    /// # Errors
    /// As [`partial`].
    pub(crate) fn of_one(self, bytes: &[u8], definitions: bool) -> Result<String, Status> {
        let revision: Revision<'_> =
            serde_json::from_str(metadata(bytes)?.get()).map_err(Status::internal)?;
        let list = json!({"resourceVersion": revision.resource_version.unwrap_or_default()});
        self.of(std::iter::once(bytes), &list, definitions)
    }

    fn row(self, bytes: &[u8]) -> Result<String, Status> {
        let v = shown(bytes)?;
        let cells: Value = self.kind.columns.iter().map(|c| c.cell(&v, self.now)).collect();
        let mut text = format!("{{\"cells\":{cells}");
        if self.kind.kind == "Pod" {
            let phase = v["status"]["phase"].as_str().unwrap_or_default();
            let message = match phase {
                "Succeeded" => Some("The pod has completed successfully."),
                "Failed" => Some("The pod failed."),
                _ => None,
            };
            if let Some(message) = message {
                let condition = json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]);
                text += &format!(",\"conditions\":{condition}");
            }
        }
        match self.include {
            Include::None => {}
            Include::Metadata => {
                text.push_str(",\"object\":");
                text.push_str(&partial(bytes, self.version)?);
            }
            Include::Object => {
                text.push_str(",\"object\":");
                text.push_str(std::str::from_utf8(bytes).map_err(Status::internal)?);
            }
        }
        text.push('}');
        Ok(text)
    }
}

/// An object without its `managedFields`: a third of it, and in no cell.
fn shown(bytes: &[u8]) -> Result<Value, Status> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Without("managedFields", 2).deserialize(&mut reader).map_err(Status::internal)
}

/// Reads an object but for a field, down to some depth.
struct Without(&'static str, u8);

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if key == "metadata" && self.1 > 1 {
                let v = map.next_value_seed(Self(self.0, self.1 - 1))?;
                out.insert(key, v);
            } else {
                out.insert(key, map.next_value()?);
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_schema::{Minor, pack};

    const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","resourceVersion":"7","managedFields":[{"manager":"m"}]},"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Succeeded"}}"#;

    #[test]
    fn rows_are_cut_from_bytes() {
        assert_eq!(
            shown(POD.as_bytes()).unwrap()["metadata"],
            json!({"name": "p", "resourceVersion": "7"})
        );
        let kinds = &pack::of(Minor::LATEST).kinds;
        let kind = kinds.iter().find(|k| k.kind == "Pod").unwrap();
        let table = |include| {
            let table = Table { kind, include, version: Meta::V1, now: Timestamp::UNIX_EPOCH };
            serde_json::from_str::<Value>(&table.of_one(POD.as_bytes(), true).unwrap()).unwrap()
        };
        let v = table(Include::Metadata);
        assert_eq!(v["metadata"]["resourceVersion"], "7");
        let row = &v["rows"][0];
        assert_eq!(
            (&row["cells"][0], &row["conditions"][0]["reason"]),
            (&json!("p"), &json!("Succeeded"))
        );
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"]["metadata"]["managedFields"][0]["manager"], "m");
        assert!(table(Include::None)["rows"][0].get("object").is_none());
        assert_eq!(
            table(Include::Object)["rows"][0]["object"],
            serde_json::from_str::<Value>(POD).unwrap()
        );
        assert!(partial(b"[]", Meta::V1).is_err());
    }
}
