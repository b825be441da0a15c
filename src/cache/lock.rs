//! Who works on what: file locks that fall with their holder.
//!
//! The lock belongs to the open file, so it falls when the process ends, however it ends. A child made by `fork`
//! without `exec` keeps it alive: a fork server closes what it inherits.
//! Over NFS such locks are not reliable; a shared folder there needs leases.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Cache;
use super::error::CacheError;
use super::scratch::create_folders;
use crate::digest::Digest;

/// The right to work on a key, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still held; a process that waits on this file sees that its name is gone, and tries again.
        let _ = fs::remove_file(&self.path);
    }
}

impl Cache {
    /// Takes the lock on a key, or returns `None` if another process (or thread) holds it.
    ///
    /// # Errors
    /// `NoPermission`, `ReadOnly`, `DiskFull` or `Io`.
    pub fn try_lock(&self, key: &Digest) -> Result<Option<Lock>, CacheError> {
        self.acquire(key, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Waits for the lock on a key.
    ///
    /// # Errors
    /// `NoPermission`, `ReadOnly`, `DiskFull` or `Io`.
    pub fn lock(&self, key: &Digest) -> Result<Lock, CacheError> {
        loop {
            if let Some(lock) = self.acquire(key, |file| file.lock().map(|()| true))? {
                return Ok(lock);
            }
        }
    }

    /// Returns who holds a lock (`process 123 on host`), as far as the file tells.
    pub fn lock_holder(&self, key: &Digest) -> Option<String> {
        let mut text = String::new();
        File::open(self.layout().lock(key)).ok()?.read_to_string(&mut text).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn acquire(&self, key: &Digest, take: impl Fn(&File) -> io::Result<bool>) -> Result<Option<Lock>, CacheError> {
        let path = self.layout().lock(key);
        let failed = |error| CacheError::io("taking a lock", &path, error);
        create_folders(&self.layout().locks())?;
        loop {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            if !take(&file).map_err(failed)? {
                return Ok(None);
            }
            // The holder before us removed the name when it was done: then we hold a lock that nobody else will see.
            let ours = file.metadata().map_err(failed)?;
            match fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {}
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            }
            // For people only; a full disk does not matter here.
            let _ = file.set_len(0);
            let _ = file.rewind();
            let _ = writeln!(file, "process {} on {}", std::process::id(), host_name());
            return Ok(Some(Lock { path, _file: file }));
        }
    }
}

/// Returns this machine's name, or `unknown`.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_lock_is_held_by_one_and_falls_with_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let other = Cache::open(root.path()).unwrap();
        let key = Digest::of_bytes(b"key");
        let held = cache.try_lock(&key).unwrap().unwrap();
        assert!(other.try_lock(&key).unwrap().is_none());
        let holder = other.lock_holder(&key).unwrap();
        assert!(holder.starts_with(&format!("process {} on ", std::process::id())), "{holder}");
        assert!(other.try_lock(&Digest::of_bytes(b"another")).unwrap().is_some());
        drop(held);
        assert!(other.try_lock(&key).unwrap().is_some());
        assert_eq!(fs::read_dir(root.path().join("locks")).unwrap().count(), 0, "released locks leave no files");
    }

    #[test]
    fn many_waiters_are_never_inside_together() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let key = Digest::of_bytes(b"key");
        let (inside, most, total) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = cache.lock(&key).unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((most.into_inner(), total.into_inner()), (1, 400));
    }
}
