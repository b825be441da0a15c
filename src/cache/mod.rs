//! The cache: blobs by hash, records of what was done, and everything that makes a second run free.
//!
//! ```text
//! Cache::open(root)                       no file is touched before the first write
//!   .put_bytes / .put_file / .blob_writer -> Blob                     store.rs
//!   .blob_path / .read_blob / .verify                                 store.rs
//!   .table_writer(schema, measured) -> TableWriter -> TablePart       table.rs, encode.rs
//!   .read_table(&Table, columns) -> iterator of RecordBatch           table.rs
//!   .subset_digest / .declared_digest(&output, columns) -> Digest    subset.rs
//!   .action(&key) / .recipe(&recipe) -> Option<Record>                record.rs
//!   .commit(Record) / .link_recipe(&recipe, &key)                     record.rs
//!   .index(name) -> Index / .keep_index(name, recipes)                index.rs
//!   .family(&family) -> Family / .commit_batch(BatchRecord)           family.rs
//!   .compact_units(&family, ..) -> records in place of many           compact.rs
//!   .put_folder(..) -> FilesOutput                                    files.rs
//!   .digest_path(&path) -> PathDigest                                 files.rs
//!   .view(&Output) -> folder of hard links                            view.rs
//!   .begin_run(name, ..) -> RunEntry / .past_runs()                   history.rs
//!   .lock / .try_lock / .lock_holder                                  lock.rs
//!   .scratch() / .state_dir(&key) / .status()                         here, status.rs
//!   .side() -> SideCache: an empty cache for work that finds and leaves nothing  side.rs
//!   .room() / .check_writable()                                       room.rs
//! row_digests(&batch, columns), TableHasher                           digest.rs
//! ```
//!
//! # Invariants
//! - A name in `objects/` holds the bytes it names, whole; a record in `actions/`, `recipes/` or `maps/` is whole and
//!   was written after everything it names. A writer killed at any moment leaves nothing that a lookup accepts.
//! - Failures are never recorded. What is damaged is named ([`Cache::take_damage`]) and counts as absent.
//! - Only `layout.rs` knows where things lie.
//! - Looking things up never writes, so that a cache without write permission can be read.

mod compact;
mod digest;
mod encode;
mod error;
mod family;
mod fault;
mod files;
mod history;
mod index;
mod layout;
mod lock;
mod record;
mod room;
mod scratch;
mod sealed;
mod side;
mod status;
mod store;
mod subset;
mod table;
mod view;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use self::digest::{TableHasher, row_digests};
pub use self::encode::writer_properties;
pub use self::error::{CacheError, Damage};
pub use self::family::{BatchRecord, BatchUnit, Family, UnitOutcome, UnitPlace};
pub use self::files::PathDigest;
pub use self::history::{PastRun, RunEntry};
pub use self::index::Index;
pub use self::layout::{Layout, find_root};
pub use self::lock::{Lock, host_name};
pub use self::record::{Cost, FilesOutput, InputNote, Machine, Output, RECORD_FORMAT, Record, TableOutput};
pub use self::room::Room;
pub use self::side::SideCache;
pub use self::status::{Amount, Status};
pub use self::store::{Blob, BlobWriter, Take};
pub use self::table::{Table, TablePart, TableReader, TableWriter};
pub use crate::digest::Digest;

use self::scratch::Session;

/// A cache folder. Clones are the same cache; they can be used from many threads.
#[derive(Debug, Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    session: OnceLock<Session>,
    opening: Mutex<()>,
    /// Blobs whose bytes this process has compared with their names, or has written itself.
    verified: Mutex<HashSet<Digest>>,
    damage: Mutex<Vec<Damage>>,
}

impl Cache {
    /// Returns the cache in a folder, which need not exist: it is made by the first write.
    ///
    /// # Errors
    /// `Io` if the path is relative and the current folder cannot be found; `Unusable` if it is a file.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, CacheError> {
        let root = root.as_ref();
        let root =
            std::path::absolute(root).map_err(|error| CacheError::io("finding the current folder", root, error))?;
        if root.is_file() {
            return Err(CacheError::Unusable { path: root, problem: "the cache must be a folder, and this is a file" });
        }
        Ok(Self {
            shared: Arc::new(Shared {
                layout: Layout::new(root),
                session: OnceLock::new(),
                opening: Mutex::new(()),
                verified: Mutex::new(HashSet::new()),
                damage: Mutex::new(Vec::new()),
            }),
        })
    }

    /// Returns the paths of the cache.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Returns an empty folder inside the cache, on its file system, that is removed when it is dropped or, if the
    /// process is killed, by the next one that writes.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn scratch(&self) -> Result<tempfile::TempDir, CacheError> {
        let folder = self.session()?.folder();
        tempfile::Builder::new()
            .prefix("scratch-")
            .tempdir_in(folder)
            .map_err(|error| CacheError::io("making a scratch folder", folder, error))
    }

    /// Returns the folder for the state of work that goes on over several runs; it is made if it is missing.
    /// Only the holder of the key's lock may touch it.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn state_dir(&self, key: &Digest) -> Result<PathBuf, CacheError> {
        let folder = self.layout().state(key);
        scratch::create_folders(&folder)?;
        Ok(folder)
    }

    /// Removes a key's state, once its work is recorded.
    ///
    /// # Errors
    /// `NoPermission`, `ReadOnly` or `Io`.
    pub fn remove_state(&self, key: &Digest) -> Result<(), CacheError> {
        let folder = self.layout().state(key);
        scratch::remove_all(&folder).map_err(|error| CacheError::io("removing a finished state", &folder, error))
    }

    /// Returns what was found damaged, unreadable or of an unknown format since the last call, for a warning.
    pub fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut self.shared.damage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_damage(&self, damage: Damage) {
        let mut list = self.shared.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&damage) {
            list.push(damage);
        }
    }

    fn note_verified(&self, hash: Digest) {
        self.shared.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    fn is_verified(&self, hash: &Digest) -> bool {
        self.shared.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    fn session(&self) -> Result<&Session, CacheError> {
        // `OnceLock::get_or_try_init` is not stable; the mutex keeps two threads from opening two.
        let _opening = self.shared.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = self.shared.session.get() {
            return Ok(session);
        }
        let session = Session::open(self.layout())?;
        Ok(self.shared.session.get_or_init(|| session))
    }
}
