//! `tmp/`: a folder for each process that writes, emptied when the process is gone.
//!
//! Everything is written here first, on the cache's own file system, so that it can be moved into place by one rename.
//! Each process holds a lock on its folder's lock file. A process that was killed has let go of it: whoever writes
//! next sweeps the folder away. Nothing in `tmp/` is ever found by a lookup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::CacheError;
use super::layout::Layout;

const LOCK_SUFFIX: &str = ".lock";

/// This process's folder in `tmp/`.
#[derive(Debug)]
pub(super) struct Session {
    folder: PathBuf,
    lock_path: PathBuf,
    // Held for as long as the session lives: it tells others that the folder is in use.
    _lock: File,
    next: AtomicU64,
}

impl Session {
    /// Makes the cache's folders where they are missing, sweeps up after killed processes, and opens a folder.
    pub(super) fn open(layout: &Layout) -> Result<Self, CacheError> {
        prepare_root(layout)?;
        let tmp = layout.tmp();
        create_folders(&tmp)?;
        sweep(&tmp);
        for attempt in 0u32.. {
            let folder = tmp.join(format!("{}-{attempt}", std::process::id()));
            let lock_path = with_suffix(&folder);
            let doing = "opening a folder for temporary files";
            let lock = match OpenOptions::new().write(true).create_new(true).open(&lock_path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(CacheError::io(doing, &lock_path, error)),
            };
            // Between the creation and the lock a sweeper may have taken the file for an orphan: then it is gone.
            if lock.try_lock().is_err() || !lock_path.exists() {
                continue;
            }
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Self { folder, lock_path, _lock: lock, next: AtomicU64::new(0) }),
                // The folder of another machine's process of the same number, whose lock file is gone.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(CacheError::io(doing, &folder, error)),
            }
        }
        unreachable!("the loop over attempts has no end")
    }

    /// Returns a path in the folder that was never given out before.
    pub(super) fn fresh_path(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Returns the folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes the folders whose process is gone. What cannot be removed (another user's) stays.
fn sweep(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    let (locks, folders): (Vec<_>, Vec<_>) =
        entries.flatten().map(|entry| entry.path()).partition(|path| path.to_string_lossy().ends_with(LOCK_SUFFIX));
    for lock_path in locks {
        let Ok(lock) = File::open(&lock_path) else { continue };
        if lock.try_lock().is_ok() {
            let folder = lock_path.with_extension("");
            let _ = remove_all(&folder);
            if !folder.exists() {
                let _ = fs::remove_file(&lock_path);
            }
        }
    }
    for folder in folders {
        // A folder is made after its lock file and removed before it, so one without is nobody's.
        if !with_suffix(&folder).exists() {
            let _ = remove_all(&folder);
        }
    }
}

/// Removes a file or a folder with everything in it.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn with_suffix(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(LOCK_SUFFIX);
    PathBuf::from(name)
}

/// Makes the root, and marks it for backup programs and git as a thing that can be made again.
fn prepare_root(layout: &Layout) -> Result<(), CacheError> {
    create_folders(layout.root())?;
    for (path, text) in [
        (
            layout.cachedir_tag(),
            "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of ablate; see https://bford.info/cachedir/\n",
        ),
        (layout.gitignore(), "*\n"),
    ] {
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => file.write_all(text.as_bytes()).map_err(|error| {
                // The next writer is to find no mark rather than half of one.
                let _ = fs::remove_file(&path);
                CacheError::io("marking the cache", &path, error)
            })?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CacheError::io("marking the cache", &path, error)),
        }
    }
    Ok(())
}

/// Makes a folder and those above it.
pub(super) fn create_folders(path: &Path) -> Result<(), CacheError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|error| CacheError::io("making a folder", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let living = Session::open(&layout).unwrap();
        fs::write(living.fresh_path(), "in use").unwrap();
        // A killed process leaves a folder and a lock file that nobody holds.
        let orphan = layout.tmp().join("1-0");
        fs::create_dir(&orphan).unwrap();
        fs::write(orphan.join("0"), "half").unwrap();
        fs::write(layout.tmp().join("1-0.lock"), "").unwrap();
        let bare = layout.tmp().join("2-0");
        fs::create_dir(&bare).unwrap();

        let other = Session::open(&layout).unwrap();
        assert!(!orphan.exists() && !layout.tmp().join("1-0.lock").exists() && !bare.exists());
        assert!(living.folder().join("0").exists());
        assert_ne!(living.folder(), other.folder());
        let folder = other.folder().to_owned();
        drop(other);
        assert!(!folder.exists());
    }

    #[test]
    fn the_cache_is_marked_for_backups_and_git() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("a/b"));
        let _session = Session::open(&layout).unwrap();
        assert!(fs::read_to_string(layout.cachedir_tag()).unwrap().starts_with("Signature: 8a477f597d28d172"));
        assert_eq!(fs::read_to_string(layout.gitignore()).unwrap(), "*\n");
    }
}
