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
    Table(Meta),
    Partial(Meta),
    PartialList(Meta),
}

/// The version of `meta.k8s.io` that a table or partial metadata is written at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    V1,
    V1Beta1,
}

impl Meta {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

impl Shape {
    /// The shape that a media type's parameters ask for; `None` for one that is unknown.
    fn of(kind: &str, group: &str, version: &str) -> Option<Self> {
        let meta = match (group, version) {
            ("meta.k8s.io", "v1") => Meta::V1,
            ("meta.k8s.io", "v1beta1") => Meta::V1Beta1,
            _ => return None,
        };
        match kind {
            "Table" => Some(Self::Table(meta)),
            "PartialObjectMetadata" => Some(Self::Partial(meta)),
            "PartialObjectMetadataList" => Some(Self::PartialList(meta)),
            _ => None,
        }
    }

    /// Refuses the partial metadata of a list for one object, and the other way round.
    ///
    /// # Errors
    /// 406.
    pub(crate) fn check(self, kind: &str, list: bool) -> Result<(), Status> {
        let (asked, is) = match self {
            Self::Partial(_) if list => ("PartialObjectMetadata", "a list"),
            Self::PartialList(_) if !list => ("PartialObjectMetadataList", "not a list"),
            _ => return Ok(()),
        };
        let kind = format!("*core.{kind}{}", if list { "List" } else { "" });
        let text = format!("you requested {asked}, but the requested object is {is} ({kind})");
        Err(Status::new(406, "NotAcceptable", text))
    }
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
            let (mut kind, mut group, mut version, mut quality) = ("", "", "", 1.0f32);
            for p in parts {
                match p.split_once('=') {
                    Some(("as", v)) => kind = v,
                    Some(("g", v)) => group = v,
                    Some(("v", v)) => version = v,
                    Some(("q", q)) => quality = q.parse().unwrap_or(0.0),
                    _ => {}
                }
            }
            let shape = match kind {
                "" => Some(Shape::Object),
                kind => Shape::of(kind, group, version),
            };
            // There are no tables in protobuf.
            let shape =
                shape.filter(|s| !matches!((format, s), (Format::Protobuf, Shape::Table(_))));
            let Some(shape) = shape else { continue };
            if best.as_ref().is_none_or(|(q, _)| quality > *q) {
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
    fn shapes() {
        let shape = |kind: &str, rest: &str| {
            accept(&format!("application/json;as={kind};{rest}")).map(|a| a.shape)
        };
        assert_eq!(shape("Table", "g=meta.k8s.io;v=v1beta1"), Ok(Shape::Table(Meta::V1Beta1)));
        assert!(shape("Table", "v=v1").is_err() && shape("Table", "g=meta.k8s.io;v=v2").is_err());
        let one = shape("PartialObjectMetadata", "g=meta.k8s.io;v=v1").unwrap();
        assert!(one.check("Pod", false).is_ok());
        let text = one.check("Pod", true).unwrap_err().message;
        assert!(text.ends_with("the requested object is a list (*core.PodList)"), "{text}");
    }

    #[test]
    fn negotiation() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().shape, Shape::Table(Meta::V1));
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(go).unwrap().format, Format::Protobuf);
        let metadata =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let a = accept(metadata).unwrap();
        assert_eq!((a.format, a.shape), (Format::Protobuf, Shape::Partial(Meta::V1)));
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
