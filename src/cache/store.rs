//! The content-addressed store: blobs by the BLAKE3 of their bytes, written once, read-only, verified.
//!
//! A blob is written to `tmp/`, hashed on the way, made read-only, synced, and renamed to its name; then its folder is
//! synced. So a name in `objects/` holds its bytes whole or is not there, whatever moment the writer is killed at.
//! Bytes are checked against the name before a process first reads them; what does not match is removed,
//! named in [`Cache::take_damage`](super::Cache::take_damage), and counts as absent.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::error::{CacheError, Damage};
use super::scratch::create_folders;
use super::{Cache, fault};
use crate::digest::Digest;

/// A stored file: its name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// BLAKE3 of the bytes.
    pub hash: Digest,
    /// How many bytes.
    pub bytes: u64,
}

/// What becomes of a file that is put into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The file is the cache's own work (in a scratch folder): it is moved in, and its old name is gone.
    Move,
    /// The file is somebody else's: it is copied, and stays as it is.
    Copy,
}

/// Files from this size on are hashed by all threads.
const LARGE_BYTES: u64 = 4 << 20;
const READ_BYTES: usize = 4 << 20;
/// Pages of large tables are larger, and go past the buffer.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Bytes after which a writer has the disk begin.
const SYNC_BYTES: u64 = 64 << 20;

impl Cache {
    /// Stores bytes.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob, CacheError> {
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).map_err(|error| CacheError::io("writing an object", writer.path(), error))?;
        writer.finish()
    }

    /// Stores a file.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`; `Unsettled` if the file changes meanwhile.
    pub fn put_file(&self, path: &Path, take: Take) -> Result<Blob, CacheError> {
        let doing = "storing a file";
        if take == Take::Copy {
            return self.put_copy(path);
        }
        let (hash, bytes) = hash_file(path).map_err(|error| CacheError::io(doing, path, error))?;
        let file = File::open(path).map_err(|error| CacheError::io(doing, path, error))?;
        let size = file.metadata().map_err(|error| CacheError::io(doing, path, error))?.len();
        if size != bytes {
            return Err(CacheError::Unsettled { path: path.to_owned() });
        }
        let blob = Blob { hash, bytes };
        if self.has_sound(&blob) {
            fs::remove_file(path).map_err(|error| CacheError::io(doing, path, error))?;
            return Ok(blob);
        }
        match self.settle(&file, path, &blob) {
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                let copied = self.put_copy(path)?;
                fs::remove_file(path).map_err(|error| CacheError::io(doing, path, error))?;
                Ok(copied)
            }
            other => other.map(|()| blob),
        }
    }

    fn put_copy(&self, path: &Path) -> Result<Blob, CacheError> {
        let mut source = File::open(path).map_err(|error| CacheError::io("storing a file", path, error))?;
        let mut writer = self.blob_writer()?;
        // Which side failed matters to the user, so the two are not left to `io::copy`.
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => return writer.finish(),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CacheError::io("reading a file", path, error)),
            };
            writer
                .write_all(&buffer[..count])
                .map_err(|error| CacheError::io("writing an object", writer.path(), error))?;
        }
    }

    /// Returns a writer whose bytes become a blob when it is finished, and nothing if it is dropped.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn blob_writer(&self) -> Result<BlobWriter, CacheError> {
        let path = self.session()?.fresh_path();
        fault::step();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| CacheError::io("writing an object", &path, error))?;
        let file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        Ok(BlobWriter {
            cache: self.clone(),
            path,
            file,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            synced: 0,
            syncing: None,
        })
    }

    /// Returns whether a blob of this name and size is there, without reading it.
    pub fn has(&self, blob: &Blob) -> bool {
        fs::metadata(self.layout().object(&blob.hash)).is_ok_and(|found| found.is_file() && found.len() == blob.bytes)
    }

    /// Returns the path of a blob whose bytes match its name. They are read at most once by each process.
    ///
    /// # Errors
    /// `MissingObject`; `CorruptObject`, after which the blob is gone from the store; `Io` or `NoPermission`.
    pub fn blob_path(&self, blob: &Blob) -> Result<PathBuf, CacheError> {
        let path = self.layout().object(&blob.hash);
        if self.is_verified(&blob.hash) && self.has(blob) {
            return Ok(path);
        }
        self.verify(blob)?;
        Ok(path)
    }

    /// Returns a blob's bytes.
    ///
    /// # Errors
    /// As [`Cache::blob_path`].
    pub fn read_blob(&self, blob: &Blob) -> Result<Vec<u8>, CacheError> {
        let path = self.blob_path(blob)?;
        fs::read(&path).map_err(|error| CacheError::io("reading an object", &path, error))
    }

    /// Reads a blob and compares its bytes with its name.
    ///
    /// # Errors
    /// As [`Cache::blob_path`].
    pub fn verify(&self, blob: &Blob) -> Result<(), CacheError> {
        let path = self.layout().object(&blob.hash);
        let (found, bytes) = hash_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CacheError::MissingObject { hash: blob.hash },
            _ => {
                self.note_damage(Damage { path: path.clone(), problem: format!("cannot be read: {error}") });
                CacheError::io("reading an object", &path, error)
            }
        })?;
        if found == blob.hash {
            debug_assert_eq!(bytes, blob.bytes, "one hash, one size");
            self.note_verified(blob.hash);
            return Ok(());
        }
        let problem = format!("the object's bytes hash to {}: it is damaged and counts as absent", found.short());
        self.note_damage(Damage { path: path.clone(), problem });
        // Out of the store, so that the next writer of these bytes puts a sound file there. Where that is not allowed
        // the writer's rename does it.
        let _ = fs::remove_file(&path);
        Err(CacheError::CorruptObject { expected: blob.hash, found })
    }

    /// Returns whether the blob is there and its bytes match its name; a damaged one is taken away.
    fn has_sound(&self, blob: &Blob) -> bool {
        self.has(blob) && self.blob_path(blob).is_ok()
    }

    /// Moves a finished file to its name. `path` is the file's present name.
    fn settle(&self, file: &File, path: &Path, blob: &Blob) -> Result<(), CacheError> {
        let target = self.layout().object(&blob.hash);
        let doing = "storing an object";
        let failed = |error| CacheError::io(doing, path, error);
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        fault::step();
        file.set_permissions(Permissions::from_mode(mode & !0o222)).map_err(failed)?;
        fault::step();
        file.sync_all().map_err(failed)?;
        Self::move_into_place(path, &target, doing)?;
        self.note_verified(blob.hash);
        Ok(())
    }

    /// Renames a synced file to `target` and syncs the folders.
    pub(super) fn move_into_place(path: &Path, target: &Path, doing: &'static str) -> Result<(), CacheError> {
        let folder = target.parent().expect("every file of the cache lies in a folder");
        if !folder.is_dir() {
            fault::step();
            create_folders(folder)?;
            if let Some(above) = folder.parent() {
                sync_folder(above)?;
            }
        }
        fault::step();
        fs::rename(path, target).map_err(|error| CacheError::io(doing, target, error))?;
        fault::step();
        sync_folder(folder)
    }

    /// Writes a small file whole: temporary file, sync, rename, sync of the folder.
    pub(super) fn write_whole(&self, target: &Path, bytes: &[u8], doing: &'static str) -> Result<(), CacheError> {
        let path = self.write_synced(bytes, doing)?;
        let moved = Self::move_into_place(&path, target, doing);
        if moved.is_err() {
            let _ = fs::remove_file(&path);
        }
        moved
    }

    /// Writes a file whole unless there is one already. Returns whether it was written.
    pub(super) fn write_new(&self, target: &Path, bytes: &[u8], doing: &'static str) -> Result<bool, CacheError> {
        let path = self.write_synced(bytes, doing)?;
        let folder = target.parent().expect("every file of the cache lies in a folder");
        create_folders(folder)?;
        fault::step();
        // A hard link refuses an existing name, a rename does not: of two writers, the first stands.
        match fs::hard_link(&path, target) {
            Ok(()) => {
                fault::step();
                let _ = fs::remove_file(&path);
                sync_folder(folder)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_file(&path);
                Ok(false)
            }
            // No hard links here (some network and FAT file systems).
            Err(_) => Self::move_into_place(&path, target, doing).map(|()| true).inspect_err(|_| {
                let _ = fs::remove_file(&path);
            }),
        }
    }

    fn write_synced(&self, bytes: &[u8], doing: &'static str) -> Result<PathBuf, CacheError> {
        let path = self.session()?.fresh_path();
        fault::step();
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            fault::step();
            file.write_all(bytes)?;
            fault::step();
            file.sync_all()
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&path);
            CacheError::io(doing, &path, error)
        })?;
        Ok(path)
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), CacheError> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Ok(()) => Ok(()),
        // Some file systems know no sync of a folder; they order names by themselves or not at all.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Err(error) => Err(CacheError::io("syncing a folder", folder, error)),
    }
}

/// Returns BLAKE3 of a file's bytes and how many they are.
///
/// Reads into a buffer rather than mapping: a mapped file that somebody shortens kills the process.
pub(super) fn hash_file(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(4096, READ_BYTES)];
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok((hasher.finalize().into(), bytes));
        }
        bytes += filled as u64;
        if size >= LARGE_BYTES {
            hasher.update_rayon(&buffer[..filled]);
        } else {
            hasher.update(&buffer[..filled]);
        }
    }
}

/// Writes one blob; see [`Cache::blob_writer`].
#[derive(Debug)]
pub struct BlobWriter {
    cache: Cache,
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// How many bytes there were when a sync was last begun, and the sync: what it met must be heard, since the system tells it once.
    synced: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl BlobWriter {
    /// Returns the temporary file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what was written a blob.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`; nothing is stored then.
    pub fn finish(mut self) -> Result<Blob, CacheError> {
        fault::step();
        let written = self.file.flush().and_then(|()| self.end_sync());
        written.map_err(|error| CacheError::io("writing an object", &self.path, error))?;
        let blob = Blob { hash: self.hasher.finalize().into(), bytes: self.bytes };
        if !self.cache.has_sound(&blob) {
            self.cache.settle(self.file.get_ref(), &self.path, &blob)?;
        }
        Ok(blob)
    }
}

impl BlobWriter {
    /// Lets the disk work on what there is while more is made: at the end the writer waits for the rest only.
    fn begin_sync(&mut self) -> io::Result<()> {
        self.end_sync()?;
        self.synced = self.bytes;
        let file = self.file.get_ref().try_clone()?;
        self.syncing = Some(std::thread::spawn(move || file.sync_data()));
        Ok(())
    }

    fn end_sync(&mut self) -> io::Result<()> {
        let Some(syncing) = self.syncing.take() else { return Ok(()) };
        syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        if self.bytes - self.synced >= SYNC_BYTES {
            self.begin_sync()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a rename the name is gone and this does nothing.
        let _ = fs::remove_file(&self.path);
    }
}
