//! Stored objects: bytes that were encoded once, with their resourceVersion put in place when the
//! revision is known.

use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// Namespace (empty for cluster scope) and name. Orders as lists do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace, or empty.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Resource, as `group/plural`.
    pub resource: Arc<str>,
    /// Namespace and name.
    pub name: Name,
}

impl Key {
    /// From its parts.
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        let name = Name { namespace: namespace.into(), name: name.into() };
        Self { resource: resource.clone(), name }
    }
}

/// What selectors look at without parsing the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Labels.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Selectable fields and their values.
    pub fields: Box<[(Box<str>, Box<str>)]>,
}

impl Header {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// A selectable field's value, empty when absent.
    pub fn field(&self, path: &str) -> &str {
        self.fields.iter().find(|(k, _)| &**k == path).map_or("", |(_, v)| v)
    }
}

/// An object ready to be written: JSON in which the resourceVersion is the empty string.
#[derive(Debug)]
pub struct Encoded {
    bytes: Vec<u8>,
    revision_at: usize,
    header: Header,
    expires_seconds: u64,
}

const MARKER: &[u8] = b"\"resourceVersion\":\"\"";

impl Encoded {
    /// From JSON whose `metadata.resourceVersion` is `""`. `metadata_at` is where to begin to
    /// look for it. Returns `None` when it is not there.
    pub fn new(
        bytes: Vec<u8>,
        metadata_at: usize,
        header: Header,
        expires_seconds: u64,
    ) -> Option<Self> {
        let tail = bytes.get(metadata_at..)?;
        let found = tail.windows(MARKER.len()).position(|w| w == MARKER)?;
        let revision_at = metadata_at + found + MARKER.len() - 1;
        Some(Self { bytes, revision_at, header, expires_seconds })
    }

    pub(crate) fn commit(self, revision: u64) -> Object {
        let bytes = splice(&self.bytes, self.revision_at, 0, revision);
        let header = OnceLock::from(self.header);
        let revision_at = u32::try_from(self.revision_at).unwrap_or(u32::MAX);
        Object {
            revision,
            bytes,
            revision_at,
            expires_seconds: self.expires_seconds,
            header,
            binary: OnceLock::new(),
        }
    }
}

/// Replaces `length` bytes at a place by a revision's digits.
fn splice(bytes: &[u8], at: usize, length: usize, revision: u64) -> Bytes {
    let digits = revision.to_string();
    let mut out = Vec::with_capacity(bytes.len() + digits.len());
    out.extend_from_slice(&bytes[..at]);
    out.extend_from_slice(digits.as_bytes());
    out.extend_from_slice(&bytes[at + length..]);
    out.into()
}

/// A stored object.
#[derive(Debug)]
pub struct Object {
    /// The revision at which it was last written.
    pub revision: u64,
    /// JSON, as clients get it.
    pub bytes: Bytes,
    /// When it vanishes by itself (Unix seconds); 0 for never.
    pub(crate) expires_seconds: u64,
    revision_at: u32,
    header: OnceLock<Header>,
    /// Another encoding of the same object, made once when it is first asked for.
    pub binary: OnceLock<Bytes>,
}

impl Object {
    /// What selectors need; `make` reads it from the bytes of an object that was loaded from disk.
    pub fn header(&self, make: impl FnOnce(&[u8]) -> Header) -> &Header {
        self.header.get_or_init(|| make(&self.bytes))
    }

    /// The same object with another revision: what a deletion shows.
    pub fn at_revision(&self, revision: u64) -> Object {
        let length = self.revision.to_string().len();
        Object {
            revision,
            bytes: splice(&self.bytes, self.revision_at as usize, length, revision),
            expires_seconds: self.expires_seconds,
            revision_at: self.revision_at,
            header: self.header.clone(),
            binary: OnceLock::new(),
        }
    }

    /// Revision, place of the revision and expiry, then the bytes.
    pub(crate) fn to_disk(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.bytes.len());
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.extend_from_slice(&self.revision_at.to_be_bytes());
        out.extend_from_slice(&self.expires_seconds.to_be_bytes());
        out.extend_from_slice(&self.bytes);
        out
    }

    pub(crate) fn from_disk(value: &[u8]) -> Option<Object> {
        let (revision, rest) = value.split_first_chunk::<8>()?;
        let (revision_at, rest) = rest.split_first_chunk::<4>()?;
        let (expires, bytes) = rest.split_first_chunk::<8>()?;
        let revision_at = u32::from_be_bytes(*revision_at);
        Some(Object {
            revision: u64::from_be_bytes(*revision),
            bytes: Bytes::copy_from_slice(bytes),
            expires_seconds: u64::from_be_bytes(*expires),
            revision_at,
            header: OnceLock::new(),
            binary: OnceLock::new(),
        })
    }
}
