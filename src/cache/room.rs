//! What the disk under a cache gives: room, and the right to write.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::Cache;
use super::error::CacheError;

/// What is written to see whether it can be: more than a file system packs into its own tables.
const TRIAL_BYTES: usize = 64 << 10;

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

impl Cache {
    /// Returns the room on the cache's file system; for a cache that is not made yet, on the one it would be made on.
    ///
    /// # Errors
    /// `NoPermission` or `Io`.
    pub fn room(&self) -> Result<Room, CacheError> {
        let folder = nearest_folder(self.layout().root());
        let found = statvfs(folder)
            .map_err(|error| CacheError::io("asking for the free space", folder, io::Error::from(error)))?;
        let unit = found.fragment_size();
        Ok(Room { free_bytes: found.blocks_available() * unit, total_bytes: found.blocks() * unit })
    }

    /// Tries to write where the cache is, or would be made, and leaves nothing behind.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn check_writable(&self) -> Result<(), CacheError> {
        let root = self.layout().root();
        let folder = if root.is_dir() {
            self.scratch()?
        } else {
            let folder = nearest_folder(root);
            tempfile::Builder::new()
                .prefix(".ablate-")
                .tempdir_in(folder)
                .map_err(|error| CacheError::io("making the cache's folder", folder, error))?
        };
        fs::write(folder.path().join("trial"), vec![0; TRIAL_BYTES])
            .map_err(|error| CacheError::io("writing a trial file", folder.path(), error))
    }
}

/// Returns the folder itself, or the nearest one above it that is there.
fn nearest_folder(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_not_made_yet_is_tried_without_making_it() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(above.path().join("deep/cache")).expect("a path is enough");
        cache.check_writable().expect("it is ours");
        let room = cache.room().expect("the disk can be asked");
        assert!(room.free_bytes > 0 && room.free_bytes <= room.total_bytes, "{room:?}");
        assert_eq!(fs::read_dir(above.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn a_cache_that_is_there_is_tried_by_its_own_temporary_folder() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(root.path()).expect("a path is enough");
        cache.check_writable().expect("it is ours");
        assert_eq!(cache.status().expect("it can be read").tmp.bytes, 0);
    }
}
