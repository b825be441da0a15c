//! Files and folders outside the cache: their digests, computed once, and folders of output files put into the store.
//!
//! The digest of a file is BLAKE3 of its bytes; that of a folder is derived from the relative names and digests of its
//! files, by name. Links to files are followed; names that begin with a dot are left out (version control and download
//! tools keep their notes there).
//!
//! # The stat cache
//! A file whose path, size, times, inode and device are as they were when it was hashed is not read again. An entry is
//! kept only if the file had not changed for 2 s when it was hashed: a second write within a clock tick of the first
//! would not show in the times.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Cache;
use super::error::CacheError;
use super::record::{Filed, FilesOutput, RECORD_FORMAT, encode};
use super::store::{Blob, Take, hash_file};
use crate::digest::Digest;

/// How long a file must have been left alone before its times are trusted.
const SETTLED_NS: i128 = 2_000_000_000;

/// The digest of a file or folder, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathDigest {
    /// BLAKE3 of a file's bytes; of a folder, the digest of its files by name.
    pub digest: Digest,
    /// How many files.
    pub num_files: usize,
    /// How many bytes they have together.
    pub bytes: u64,
    /// How many bytes were read; the others were known.
    pub bytes_read: u64,
}

/// What tells that a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stat {
    bytes: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
    device: u64,
}

impl Stat {
    pub(super) fn of(path: &Path) -> Result<Self, CacheError> {
        let found = fs::metadata(path).map_err(|error| CacheError::input(path, error))?;
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(Self {
            bytes: found.len(),
            mtime_ns: nanoseconds(found.mtime(), found.mtime_nsec()),
            ctime_ns: nanoseconds(found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
            device: found.dev(),
        })
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now_ns = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        now_ns - i128::from(self.mtime_ns.max(self.ctime_ns)) > SETTLED_NS
    }
}

/// What is known of the files under a path.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatNote {
    format: u32,
    path: PathBuf,
    files: BTreeMap<String, (Stat, Digest)>,
}

impl Filed for StatNote {
    fn format(&self) -> u32 {
        self.format
    }
    fn name(&self) -> Digest {
        stat_id(&self.path)
    }
}

fn stat_id(path: &Path) -> Digest {
    Digest::of_parts("ablate stat cache v1", [path.as_os_str().as_encoded_bytes()])
}

struct Hashed {
    stat: Stat,
    digest: Digest,
    was_read: bool,
    keep: bool,
}

impl Cache {
    /// Returns the digest of a file or folder, reading only what has changed since it was last asked for.
    ///
    /// # Errors
    /// `Io` or `NoPermission`; `Unsettled` if a file changes meanwhile; `Unusable` if a folder contains itself, or a
    /// name is not UTF-8.
    #[expect(clippy::disallowed_methods, reason = "a file that was changed just now may change again unseen")]
    pub fn digest_path(&self, path: &Path) -> Result<PathDigest, CacheError> {
        self.digest_path_at(path, SystemTime::now())
    }

    pub(super) fn digest_path_at(&self, path: &Path, now: SystemTime) -> Result<PathDigest, CacheError> {
        let path = std::path::absolute(path).map_err(|error| CacheError::input(path, error))?;
        let is_folder = fs::metadata(&path).map_err(|error| CacheError::input(&path, error))?.is_dir();
        let files = if is_folder { walk(&path, false)? } else { BTreeMap::from([(String::new(), path.clone())]) };

        let id = stat_id(&path);
        let note_path = self.layout().stats(&id);
        let known: BTreeMap<String, (Stat, Digest)> = self
            .read_sealed::<StatNote>(&note_path, Some(&id), RECORD_FORMAT)
            .map(|note| note.files)
            .unwrap_or_default();

        let hashed: BTreeMap<String, Hashed> = files
            .par_iter()
            .map(|(name, file)| {
                let stat = Stat::of(file)?;
                if let Some((earlier, digest)) = known.get(name)
                    && *earlier == stat
                {
                    return Ok((name.clone(), Hashed { stat, digest: *digest, was_read: false, keep: true }));
                }
                let (digest, bytes) = hash_file(file).map_err(|error| CacheError::input(file, error))?;
                if Stat::of(file)? != stat || bytes != stat.bytes {
                    return Err(CacheError::Unsettled { path: file.clone() });
                }
                Ok((name.clone(), Hashed { stat, digest, was_read: true, keep: stat.is_settled(now) }))
            })
            .collect::<Result<_, CacheError>>()?;

        let keep: BTreeMap<String, (Stat, Digest)> = hashed
            .iter()
            .filter(|(_, file)| file.keep)
            .map(|(name, file)| (name.clone(), (file.stat, file.digest)))
            .collect();
        if keep != known {
            // Without the note the next run reads the files again; that is no reason to fail on a read-only cache.
            let note = StatNote { format: RECORD_FORMAT, path: path.clone(), files: keep };
            let _ = encode(&note, "digests of files")
                .and_then(|text| self.write_whole(&note_path, &text, "keeping the digests of files"));
        }

        let digest = if is_folder {
            digest_of_names(hashed.iter().map(|(name, file)| (name, &file.digest)))
        } else {
            hashed[""].digest
        };
        Ok(PathDigest {
            digest,
            num_files: hashed.len(),
            bytes: hashed.values().map(|file| file.stat.bytes).sum(),
            bytes_read: hashed.values().filter(|file| file.was_read).map(|file| file.stat.bytes).sum(),
        })
    }

    /// Stores every file under a folder, hidden ones included. With [`Take::Move`] the folder is empty afterwards.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly`, `Io`, `Unsettled`, `Unusable`.
    pub fn put_folder(&self, folder: &Path, take: Take) -> Result<FilesOutput, CacheError> {
        let mut files = BTreeMap::new();
        for (name, path) in walk(folder, true)? {
            // A link is copied: moving it would store the name of a file, not the file.
            let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
            files.insert(name, self.put_file(&path, if is_link { Take::Copy } else { take })?);
        }
        Ok(FilesOutput::Stored { content: digest_of_files(&files), files })
    }
}

/// Returns the digest of stored files by name.
pub(super) fn digest_of_files(files: &BTreeMap<String, Blob>) -> Digest {
    digest_of_names(files.iter().map(|(name, blob)| (name, &blob.hash)))
}

fn digest_of_names<'a>(files: impl Iterator<Item = (&'a String, &'a Digest)>) -> Digest {
    Digest::of_parts("ablate files v1", files.flat_map(|(name, digest)| [name.as_bytes(), digest.as_ref()]))
}

/// Returns whether a name leads to a file below the folder it is relative to.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.ends_with('/')
        && Path::new(name).components().all(|component| matches!(component, Component::Normal(_)))
}

/// Returns the files under a folder by relative name.
fn walk(folder: &Path, hidden: bool) -> Result<BTreeMap<String, PathBuf>, CacheError> {
    let mut files = BTreeMap::new();
    let mut above = Vec::new();
    walk_into(folder, "", hidden, &mut above, &mut files)?;
    Ok(files)
}

fn walk_into(
    folder: &Path,
    prefix: &str,
    hidden: bool,
    above: &mut Vec<PathBuf>,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), CacheError> {
    let unusable = |path: &Path, problem| CacheError::Unusable { path: path.to_owned(), problem };
    let real = fs::canonicalize(folder).map_err(|error| CacheError::input(folder, error))?;
    if above.contains(&real) {
        return Err(unusable(folder, "the folder contains itself by a link"));
    }
    above.push(real);
    for entry in fs::read_dir(folder).map_err(|error| CacheError::input(folder, error))? {
        let path = entry.map_err(|error| CacheError::input(folder, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(unusable(&path, "expected a file name in UTF-8"));
        };
        if !hidden && name.starts_with('.') {
            continue;
        }
        let relative = format!("{prefix}{name}");
        let found = fs::metadata(&path).map_err(|error| CacheError::input(&path, error))?;
        if found.is_dir() {
            walk_into(&path, &format!("{relative}/"), hidden, above, files)?;
        } else if found.is_file() {
            files.insert(relative, path);
        } else {
            return Err(unusable(&path, "expected a file or folder, found a pipe, socket or device"));
        }
    }
    above.pop();
    Ok(())
}
