//! What the cache holds: counts and sizes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Cache;
use super::error::CacheError;

/// How many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Files, or folders where that is what is counted.
    pub count: u64,
    /// Bytes on all of them together, a file with several names once.
    pub bytes: u64,
}

/// What a cache holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The cache's folder.
    pub root: PathBuf,
    /// Blobs.
    pub objects: Amount,
    /// Records of finished stages.
    pub actions: Amount,
    /// Recipes that lead to them.
    pub recipes: Amount,
    /// Families of map stages.
    pub families: u64,
    /// Finished batches.
    pub batches: Amount,
    /// Views; bytes only of files that are no links to blobs.
    pub views: Amount,
    /// Runs in the history.
    pub runs: Amount,
    /// Saved states of work that is not finished, or was not cleared away.
    pub states: Amount,
    /// Locks that are held, or were left by a killed process.
    pub locks: u64,
    /// What is being written, or was left by a killed process.
    pub tmp: Amount,
}

impl Cache {
    /// Returns what the cache holds, by listing every folder of it.
    ///
    /// # Errors
    /// `NoPermission` or `Io`.
    pub fn status(&self) -> Result<Status, CacheError> {
        let layout = self.layout();
        let mut seen = HashSet::new();
        let mut amount = |folder: &Path| -> Result<Amount, CacheError> {
            let mut amount = Amount::default();
            add_files(folder, &mut amount, &mut seen)?;
            Ok(amount)
        };
        // Objects first: the names of the same files in views then add nothing.
        Ok(Status {
            root: layout.root().to_owned(),
            objects: amount(&layout.objects())?,
            actions: amount(&layout.actions())?,
            recipes: amount(&layout.recipes())?,
            families: count_entries(&layout.maps())?,
            batches: amount(&layout.maps())?,
            views: Amount { count: count_entries(&layout.views())?, ..amount(&layout.views())? },
            runs: Amount { count: self.past_runs()?.len() as u64, ..amount(&layout.runs())? },
            states: Amount { count: count_entries(&layout.states())?, ..amount(&layout.states())? },
            locks: count_entries(&layout.locks())?,
            tmp: amount(&layout.tmp())?,
        })
    }
}

/// Lists a folder; one that is missing, or vanishes meanwhile, is empty.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let failed = |error| CacheError::io("listing the cache", folder, error);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

fn count_entries(folder: &Path) -> Result<u64, CacheError> {
    Ok(entries(folder)?.len() as u64)
}

fn add_files(folder: &Path, amount: &mut Amount, seen: &mut HashSet<(u64, u64)>) -> Result<(), CacheError> {
    for path in entries(folder)? {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            add_files(&path, amount, seen)?;
        } else if found.is_file() {
            amount.count += 1;
            if found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
                amount.bytes += found.len();
            }
        }
    }
    Ok(())
}
