//! Where everything lies in the cache: the only file of the project that joins paths inside it.
//!
//! ```text
//! objects/ab/cdef..        blobs by hash, read-only
//! actions/<key>.json       what is known of a finished action
//! recipes/<recipe>.json    which key a recipe came to
//! maps/<family>/<batch>.json   finished batches of a map stage; 0-<batch>.json stands for earlier ones
//! digests/<table>.json     digests of column subsets, computed once
//! indexes/<pipeline>.json  copies of what its recipes came to
//! stats/<path>.json        digests of files outside, by path, size, times and inode
//! views/<digest>/          artifacts as folders of hard links
//! runs/<time>-<name>/      history; runs/latest is the newest
//! state/<key>/             checkpoints of work that goes on
//! locks/<key>              who works on what
//! tmp/                     what is being written; emptied when its writer is gone
//! ```

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::CacheError;
use crate::digest::Digest;

/// The paths of one cache.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Returns the layout under a root folder, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the cache's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn cachedir_tag(&self) -> PathBuf {
        self.root.join("CACHEDIR.TAG")
    }

    pub(super) fn gitignore(&self) -> PathBuf {
        self.root.join(".gitignore")
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Returns where the blob with this hash lies, if it is there.
    pub fn object(&self, hash: &Digest) -> PathBuf {
        let hex = hash.to_string();
        let (folder, rest) = hex.split_at(2);
        self.objects().join(folder).join(rest)
    }

    pub(super) fn actions(&self) -> PathBuf {
        self.root.join("actions")
    }

    pub(super) fn action(&self, key: &Digest) -> PathBuf {
        self.actions().join(format!("{key}.json"))
    }

    pub(super) fn recipes(&self) -> PathBuf {
        self.root.join("recipes")
    }

    pub(super) fn recipe(&self, recipe: &Digest) -> PathBuf {
        self.recipes().join(format!("{recipe}.json"))
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(super) fn family(&self, family: &Digest) -> PathBuf {
        self.maps().join(family.to_string())
    }

    pub(super) fn batch(&self, family: &Digest, batch: &str) -> PathBuf {
        self.family(family).join(format!("{batch}.json"))
    }

    pub(super) fn subset_digest(&self, id: &Digest) -> PathBuf {
        self.root.join("digests").join(format!("{id}.json"))
    }

    pub(super) fn index(&self, id: &Digest) -> PathBuf {
        self.root.join("indexes").join(format!("{id}.json"))
    }

    pub(super) fn stats(&self, id: &Digest) -> PathBuf {
        self.root.join("stats").join(format!("{id}.json"))
    }

    pub(super) fn views(&self) -> PathBuf {
        self.root.join("views")
    }

    pub(super) fn view(&self, digest: &Digest) -> PathBuf {
        self.views().join(digest.to_string())
    }

    /// Returns the folder of the history.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub(super) fn run(&self, id: &str) -> PathBuf {
        self.runs().join(id)
    }

    pub(super) fn latest_run(&self) -> PathBuf {
        self.runs().join("latest")
    }

    pub(super) fn states(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(super) fn state(&self, key: &Digest) -> PathBuf {
        self.states().join(key.to_string())
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    pub(super) fn lock(&self, key: &Digest) -> PathBuf {
        self.locks().join(key.to_string())
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

/// What `ablate.toml` says of the cache; its other tables belong to others.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    cache: CacheConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheConfig {
    /// The cache's folder, relative to `ablate.toml`.
    folder: Option<PathBuf>,
}

/// Returns the cache's folder for a pipeline file: `ABLATE_CACHE` if it is set, else what the nearest `ablate.toml`
/// above the pipeline says (`[cache] folder = ".."`), else `.ablate` beside that file, else at the git root, else
/// beside the pipeline.
///
/// # Errors
/// `BadConfig` if `ablate.toml` cannot be understood; `NoPermission` or `Io` if it cannot be read.
pub fn find_root(pipeline: &Path) -> Result<PathBuf, CacheError> {
    find_root_with(env::var_os("ABLATE_CACHE").map(PathBuf::from), pipeline)
}

fn find_root_with(variable: Option<PathBuf>, pipeline: &Path) -> Result<PathBuf, CacheError> {
    if let Some(folder) = variable.filter(|folder| !folder.as_os_str().is_empty()) {
        return absolute(&folder);
    }
    let pipeline = absolute(pipeline)?;
    // A pipeline that is a folder (or is missing) starts the search at itself: the message about it comes from others.
    let start = if pipeline.is_dir() { pipeline.as_path() } else { pipeline.parent().unwrap_or(&pipeline) };
    for folder in start.ancestors() {
        let file = folder.join("ablate.toml");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(CacheError::io("reading the configuration", &file, error)),
        };
        let config: Config = toml::from_str(&text)
            .map_err(|error| CacheError::BadConfig { path: file, problem: error.to_string().trim_end().to_owned() })?;
        return Ok(folder.join(config.cache.folder.unwrap_or_else(|| PathBuf::from(".ablate"))));
    }
    let git_root = start.ancestors().find(|folder| folder.join(".git").exists());
    Ok(git_root.unwrap_or(start).join(".ablate"))
}

fn absolute(path: &Path) -> Result<PathBuf, CacheError> {
    std::path::absolute(path).map_err(|error| CacheError::io("finding the current folder", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_variable_wins_over_everything() {
        let folder = folder_with(&[("ablate.toml", "[cache]\nfolder = 'here'"), ("p.yaml", "")]);
        let root = find_root_with(Some(PathBuf::from("/elsewhere")), &folder.path().join("p.yaml")).unwrap();
        assert_eq!(root, Path::new("/elsewhere"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let folder = folder_with(&[("ablate.toml", ""), ("p.yaml", "")]);
        let root = find_root_with(Some(PathBuf::new()), &folder.path().join("p.yaml")).unwrap();
        assert_eq!(root, folder.path().join(".ablate"));
    }

    #[test]
    fn the_nearest_configuration_names_the_folder() {
        let folder = folder_with(&[
            ("ablate.toml", "[cache]\nfolder = 'outer'"),
            ("a/ablate.toml", "[cache]\nfolder = '../lab'\n[workers]\nx = 1"),
            ("a/b/p.yaml", ""),
        ]);
        let root = find_root_with(None, &folder.path().join("a/b/p.yaml")).unwrap();
        assert_eq!(root, folder.path().join("a/../lab"));
    }

    #[test]
    fn without_configuration_the_git_root_holds_it_then_the_pipelines_folder() {
        let folder = folder_with(&[(".git/HEAD", ""), ("a/p.yaml", ""), ("q.yaml", "")]);
        let root = find_root_with(None, &folder.path().join("a/p.yaml")).unwrap();
        assert_eq!(root, folder.path().join(".ablate"));
    }

    #[test]
    fn a_misspelt_setting_is_an_error_with_its_line() {
        let folder = folder_with(&[("ablate.toml", "[cache]\nfoldr = 'x'"), ("p.yaml", "")]);
        let error = find_root_with(None, &folder.path().join("p.yaml")).unwrap_err().to_string();
        assert!(error.contains("ablate.toml") && error.contains("line 2") && error.contains("foldr"), "{error}");
    }
}
