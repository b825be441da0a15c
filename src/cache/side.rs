//! A side cache: an empty one inside this one, for work that must neither find earlier results nor leave any.

use std::fs;
use std::path::Path;

use super::Cache;
use super::error::CacheError;
use super::record::{Output, Record};
use super::scratch::create_folders;

const DOING: &str = "lending an object to a side cache";

/// An empty cache that is removed when this is dropped, and can be lent records of the cache that it lies in.
#[derive(Debug)]
pub struct SideCache {
    /// The cache.
    pub cache: Cache,
    owner: Cache,
    _folder: tempfile::TempDir,
}

impl Cache {
    /// Returns a side cache.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn side(&self) -> Result<SideCache, CacheError> {
        let folder = self.scratch()?;
        Ok(SideCache { cache: Self::open(folder.path())?, owner: self.clone(), _folder: folder })
    }
}

impl SideCache {
    /// Makes a record of the owner known to the side cache, under its key and this recipe; its objects are linked, not copied.
    ///
    /// # Errors
    /// `MissingObject`, `CorruptObject`, `DiskFull`, `NoPermission` or `Io`.
    pub fn lend(&self, record: &Record, recipe: &super::Digest) -> Result<(), CacheError> {
        for blob in record.outputs.values().flat_map(Output::blobs).chain(record.log) {
            let (from, to) = (self.owner.blob_path(&blob)?, self.cache.layout().object(&blob.hash));
            if !to.exists() {
                create_folders(to.parent().unwrap_or(Path::new(".")))?;
                if fs::hard_link(&from, &to).is_err() {
                    fs::copy(&from, &to).map_err(|error| CacheError::io(DOING, &to, error))?;
                }
            }
        }
        self.cache.commit(Record { recipe: *recipe, ..record.clone() })?;
        Ok(())
    }
}
