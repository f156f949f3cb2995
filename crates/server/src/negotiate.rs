//! What a client accepts: the format of a response, and the shape of the objects in it.

use coracle_meta::Status;
use http::{HeaderMap, header::ACCEPT};

/// The usual media type.
pub(crate) const JSON: &str = "application/json";
/// For people.
pub(crate) const YAML: &str = "application/yaml";
/// For built-in kinds.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How a response is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

/// What shape of an object the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Table,
    Partial,
}

/// What a row of a table carries of its object (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// What the client accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) include: Include,
    pub(crate) shape: Shape,
    pub(crate) format: Format,
}

impl Accept {
    /// The best of the accepted types that this server writes; `protobuf` when it can be that.
    ///
    /// # Errors
    /// 406 when there is none.
    pub(crate) fn of(headers: &HeaderMap, protobuf: bool) -> Result<Self, Status> {
        let text = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        let mut best: Option<(f32, Self)> = None;
        for entry in text.split(',').filter(|e| !e.trim().is_empty()) {
            let mut parts = entry.split(';').map(str::trim);
            let format = match parts.next().unwrap_or_default() {
                JSON | "*/*" | "application/*" => Format::Json,
                YAML => Format::Yaml,
                PROTOBUF if protobuf => Format::Protobuf,
                _ => continue,
            };
            let (mut shape, mut quality, mut known) = (Shape::Object, 1.0f32, true);
            for p in parts {
                match p.split_once('=') {
                    Some(("as", "Table")) => shape = Shape::Table,
                    Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                        shape = Shape::Partial
                    }
                    Some(("as", _)) => known = false,
                    Some(("v", v)) if v != "v1" => known = false,
                    Some(("q", q)) => quality = q.parse().unwrap_or(0.0),
                    _ => {}
                }
            }
            let possible = known && (format, shape) != (Format::Protobuf, Shape::Table);
            if possible && best.as_ref().is_none_or(|(q, _)| quality > *q) {
                best = Some((quality, Self { shape, format, include: Include::default() }));
            }
        }
        best.map(|(_, a)| a).ok_or_else(|| {
            Status::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accept(text: &str) -> Result<Accept, Status> {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, HeaderValue::from_str(text).unwrap());
        Accept::of(&h, true)
    }

    #[test]
    fn negotiation() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().shape, Shape::Table);
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(go).unwrap().format, Format::Protobuf);
        let metadata =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let a = accept(metadata).unwrap();
        assert_eq!((a.format, a.shape), (Format::Protobuf, Shape::Partial));
        // There are no tables in protobuf, and no custom resources.
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(accept(table).unwrap_err().code, 406);
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, HeaderValue::from_static("application/vnd.kubernetes.protobuf"));
        assert_eq!(Accept::of(&h, false).unwrap_err().code, 406);
        assert_eq!(accept("application/yaml").unwrap().format, Format::Yaml);
        let weighed = "application/yaml;q=0.5,application/json;q=0.9";
        assert_eq!(accept(weighed).unwrap().format, Format::Json);
        assert_eq!(accept("text/html").unwrap_err().code, 406);
    }
}
