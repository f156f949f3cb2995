//! What persists batches: the embedded engine (fjall), or nothing.

use crate::object::{Name, Object};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::{path::Path, sync::Arc};

/// The layout of keys and values on disk. Another number means another layout.
const FORMAT: &[u8] = b"1";
/// Memory for writes that are in the journal but not in a table yet.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Reads happen at start only, so the block cache can be small.
const CACHE_BYTES: u64 = 4 << 20;
/// Journals are cut once they are this large together.
const JOURNAL_BYTES: u64 = 64 << 20;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory is in use by another process")]
    InUse,
    /// It was written by a version with another layout.
    #[error("the data directory has format {found:?}, this version reads {wanted:?}")]
    Format {
        /// What the directory says.
        found: String,
        /// What this build reads.
        wanted: String,
    },
    /// The engine failed.
    #[error("cannot read the data directory: {0}")]
    Engine(#[from] fjall::Error),
    /// An entry is not what this version writes.
    #[error("the data directory holds a corrupt entry {0:?}")]
    Corrupt(String),
}

#[derive(Debug)]
pub(crate) enum Engine {
    Memory,
    Embedded(Embedded),
}

pub(crate) struct Embedded {
    database: Database,
    objects: Keyspace,
    meta: Keyspace,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Embedded")
    }
}

/// What a cluster has on disk.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<(String, Name, Arc<Object>)>,
}

/// One change of a batch.
pub(crate) struct Change<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) name: &'a Name,
    pub(crate) object: Option<&'a Object>,
}

impl Engine {
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        let database = Database::builder(directory)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(|e| match e {
                fjall::Error::Locked => OpenError::InUse,
                e => OpenError::Engine(e),
            })?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let objects = database.keyspace("objects", options)?;
        let meta = database.keyspace("meta", options)?;
        match meta.get("format")? {
            Some(found) if &*found != FORMAT => {
                let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                return Err(OpenError::Format { found: text(&found), wanted: text(FORMAT) });
            }
            Some(_) => {}
            None => meta.insert("format", FORMAT)?,
        }
        Ok(Self::Embedded(Embedded { database, objects, meta }))
    }

    pub(crate) fn load(&self, cluster: &str) -> Result<Loaded, OpenError> {
        let Self::Embedded(e) = self else { return Ok(Loaded::default()) };
        let mut loaded = Loaded::default();
        if let Some(v) = e.meta.get(revision_key(cluster))? {
            let bytes = (&*v).try_into().map_err(|_| OpenError::Corrupt("revision".into()))?;
            loaded.revision = u64::from_be_bytes(bytes);
        }
        for entry in e.objects.prefix([cluster.as_bytes(), b"\0"].concat()) {
            let (key, value) = entry.into_inner()?;
            let corrupt = || OpenError::Corrupt(String::from_utf8_lossy(&key).into_owned());
            let text = std::str::from_utf8(&key).map_err(|_| corrupt())?;
            let [_, resource, namespace, name] = text.split('\0').collect::<Vec<_>>()[..] else {
                return Err(corrupt());
            };
            let object = Object::from_disk(&value).ok_or_else(corrupt)?;
            let name = Name { namespace: namespace.into(), name: name.into() };
            loaded.objects.push((resource.into(), name, Arc::new(object)));
        }
        Ok(loaded)
    }

    /// Persists a batch: all of it or nothing, with one fsync.
    pub(crate) fn persist<'a>(
        &self,
        changes: impl Iterator<Item = Change<'a>>,
        revisions: impl Iterator<Item = (&'a str, u64)>,
    ) -> Result<(), fjall::Error> {
        let Self::Embedded(e) = self else { return Ok(()) };
        let mut batch = e.database.batch().durability(Some(PersistMode::SyncData));
        for c in changes {
            let key = [c.cluster, c.resource, &c.name.namespace, &c.name.name].join("\0");
            match c.object {
                Some(object) => batch.insert(&e.objects, key, object.to_disk()),
                None => batch.remove(&e.objects, key),
            }
        }
        for (cluster, revision) in revisions {
            batch.insert(&e.meta, revision_key(cluster), revision.to_be_bytes());
        }
        batch.commit()
    }
}

fn revision_key(cluster: &str) -> String {
    format!("revision\0{cluster}")
}
