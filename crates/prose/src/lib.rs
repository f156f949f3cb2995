//! What Kubernetes says of its own kinds and fields: the text of `kubectl explain`.
//!
//! The words are upstream's, taken at build time from the schemas in `k8s-openapi` and kept packed
//! (a sixth of their size); they are unpacked for the moment in which an OpenAPI document is made.
//! A crate of its own, so that nothing but the server waits for that crate to be compiled.
#![warn(missing_docs)]

use flate2::read::DeflateDecoder;
use std::{collections::HashMap, io::Read, ops::Range};

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prose.deflate"));

/// Descriptions, unpacked.
#[derive(Debug)]
pub struct Prose {
    text: String,
    /// Where in the text the description of a definition's field is.
    places: HashMap<(Box<str>, Box<str>), Range<usize>>,
}

impl Prose {
    /// Unpacks the descriptions.
    pub fn unpack() -> Self {
        let mut text = String::new();
        // The bytes are part of the program: they unpack, or the test below fails.
        let _ = DeflateDecoder::new(PACKED).read_to_string(&mut text);
        let mut places = HashMap::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let mut parts = line.splitn(3, '\t');
            if let (Some(def), Some(field), Some(said)) = (parts.next(), parts.next(), parts.next())
            {
                let end = start + line.len();
                places.insert((def.into(), field.into()), end - said.len()..end - 1);
            }
            start += line.len();
        }
        Self { text, places }
    }

    /// What is said of a field of a definition, or with an empty field of the definition itself.
    /// Definitions go by their full names: `io.k8s.api.core.v1.Pod`.
    pub fn of(&self, definition: &str, field: &str) -> Option<String> {
        let place = self.places.get(&(definition.into(), field.into()))?;
        Some(self.text.get(place.clone())?.replace('\u{c}', "\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_fields_are_described() {
        let prose = Prose::unpack();
        assert!(prose.places.len() > 2500, "{}", prose.places.len());
        let of = |def: &str, field: &str| prose.of(def, field).unwrap_or_default();
        assert!(of("io.k8s.api.core.v1.Pod", "").starts_with("Pod is a collection of containers"));
        assert!(of("io.k8s.api.apps.v1.DeploymentSpec", "replicas").contains("desired pods"));
        assert!(of("io.k8s.api.core.v1.Probe", "grpc").ends_with('.'));
        assert_eq!(prose.of("io.k8s.api.core.v1.Pod", "nothing"), None);
        let lines = prose.of("io.k8s.apimachinery.pkg.api.resource.Quantity", "").unwrap();
        assert!(lines.contains('\n') && !lines.contains('\u{c}'));
    }
}
