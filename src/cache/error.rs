//! What can go wrong in the cache, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::digest::Digest;

/// The cache could not do what it was asked. Nothing half-written is left where a lookup would find it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The device or the quota is full.
    #[error(
        "{}: no space left while {doing}; nothing half-written was kept: free some space, or choose a folder on another disk by ABLATE_CACHE",
        path.display()
    )]
    DiskFull {
        /// What was being done.
        doing: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The user may not do this.
    #[error(
        "{}: no permission for {doing}: ask the owner of the cache for access to it, or choose another folder by ABLATE_CACHE",
        path.display()
    )]
    NoPermission {
        /// What was being done.
        doing: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error(
        "{}: the file system is read-only, which forbids {doing}: choose a folder that can be written by ABLATE_CACHE",
        path.display()
    )]
    ReadOnly {
        /// What was being done.
        doing: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of the system.
    #[error("{}: {doing} failed: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that a pipeline names cannot be read by this user.
    #[error("{}: this user may not read it: ask its owner for access, or name another file", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A blob is not there, although something speaks of it.
    #[error("object {hash} is not in the cache: run the pipeline again to make it anew")]
    MissingObject {
        /// The blob's name.
        hash: Digest,
    },
    /// A blob holds other bytes than its name says. It was taken out of the store.
    #[error(
        "object {expected} is damaged: its bytes hash to {found}; it was removed from the store: run the pipeline again to make it anew"
    )]
    CorruptObject {
        /// The blob's name.
        expected: Digest,
        /// BLAKE3 of the bytes that lie there.
        found: Digest,
    },
    /// A file changed while its digest was computed.
    #[error("{}: the file changed while it was read: let its writer finish, and run again", path.display())]
    Unsettled {
        /// The file.
        path: PathBuf,
    },
    /// A folder that is to be digested contains itself, or something that is neither file nor folder.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// Why it cannot be used.
        problem: &'static str,
    },
    /// A table has no such column.
    #[error("table: expected a column `{column}`, found only: {found}")]
    MissingColumn {
        /// The column asked for.
        column: String,
        /// The columns that are there, joined by commas.
        found: String,
    },
    /// A table has a column name twice, or a column was asked for twice.
    #[error("table: column `{column}` occurs twice")]
    DuplicateColumn {
        /// The name.
        column: String,
    },
    /// A table's digest is not defined for this type.
    #[error(
        "table: column `{column}` has the type {data_type}, which has no canonical encoding: cast it to a plain type"
    )]
    UnsupportedType {
        /// The column.
        column: String,
        /// Arrow's name of the type.
        data_type: String,
    },
    /// A batch differs from the table that it should be part of.
    #[error("table: expected rows of {expected}, got {found}")]
    SchemaMismatch {
        /// The table's columns and types.
        expected: String,
        /// The batch's columns and types.
        found: String,
    },
    /// Arrow or Parquet refused the data.
    #[error("{}: {doing} failed: {source}", path.display())]
    Table {
        /// What was being done.
        doing: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// What the library said.
        source: ParquetError,
    },
    /// What is to be recorded is not consistent in itself.
    #[error("record of `{kind}`: {problem}")]
    BadRecord {
        /// The stage's kind, or the family.
        kind: String,
        /// What is wrong.
        problem: String,
    },
    /// `ablate.toml` cannot be understood.
    #[error("{}: {problem}", path.display())]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        problem: String,
    },
}

impl CacheError {
    /// Returns the error for a failed system call, sorted by what the user can do about it.
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { doing, path, source },
            io::ErrorKind::PermissionDenied => Self::NoPermission { doing, path, source },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { doing, path, source },
            _ => Self::Io { doing, path, source },
        }
    }

    /// Returns the error for a file that is not the cache's own.
    pub(super) fn input(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Unreadable { path: path.to_owned(), source },
            _ => Self::io("reading a file of the pipeline", path, source),
        }
    }

    /// Returns the error for a failure inside Parquet; a full disk below it stays a full disk.
    pub(super) fn parquet(doing: &'static str, path: &Path, source: ParquetError) -> Self {
        match source {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(source) => Self::io(doing, path, *source),
                Err(inner) => Self::Table { doing, path: path.to_owned(), source: ParquetError::External(inner) },
            },
            source => Self::Table { doing, path: path.to_owned(), source },
        }
    }

    /// Returns the error for a failure inside Arrow.
    pub(super) fn arrow(doing: &'static str, path: &Path, source: ArrowError) -> Self {
        match source {
            ArrowError::IoError(_, source) => Self::io(doing, path, source),
            ArrowError::ExternalError(inner) => match inner.downcast::<ParquetError>() {
                Ok(source) => Self::parquet(doing, path, *source),
                Err(inner) => Self::Table { doing, path: path.to_owned(), source: ParquetError::External(inner) },
            },
            source => Self::Table { doing, path: path.to_owned(), source: source.into() },
        }
    }
}

/// Something in the cache was damaged, unreadable or of an unknown format. It counts as absent; the work is done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file concerned.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}
