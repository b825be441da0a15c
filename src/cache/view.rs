//! Views: artifacts as folders of hard links, so that `DuckDB`, pyarrow and transformers read them as they are.
//!
//! `views/<digest>/` holds `part-00000.parquet` .. for a table, and the files by their names for a model. A part of a
//! table of which only some rows belong is written out anew. Where hard links are refused, files are copied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Cache;
use super::error::CacheError;
use super::record::{FilesOutput, Output, TableOutput};
use super::scratch::{create_folders, remove_all};
use super::store::Blob;
use super::subset::table_parts;
use crate::digest::Digest;

const DOING: &str = "showing an artifact as a folder";

impl Cache {
    /// Returns a folder (or file) that shows an artifact; it is made if it is missing or was tampered with. An
    /// artifact that lies outside the cache is shown where it lies.
    ///
    /// # Errors
    /// `MissingObject`, `CorruptObject`, `DiskFull`, `NoPermission`, `ReadOnly`, `Io`, `Table`.
    pub fn view(&self, output: &Output) -> Result<PathBuf, CacheError> {
        let (name, files) = match output {
            Output::Table(table) => {
                let target = self.layout().view(&table_view_name(table));
                // Rows that must be written out have no blob to compare the folder with; its name says what it holds.
                let has_ranges = table.table.parts.iter().any(|part| part.ranges.is_some());
                if has_ranges && target.join(part_name(table.table.parts.len() - 1)).exists() {
                    return Ok(target);
                }
                (table_view_name(table), self.table_files(table)?)
            }
            Output::Model(FilesOutput::Stored { content, files })
            | Output::Files(FilesOutput::Stored { content, files }) => (*content, files.clone()),
            Output::Model(FilesOutput::Referenced { path, .. })
            | Output::Files(FilesOutput::Referenced { path, .. }) => return Ok(path.clone()),
        };
        let target = self.layout().view(&name);
        if shows(&target, &files) {
            return Ok(target);
        }
        let built = self.build_view(&files)?;
        create_folders(&self.layout().views())?;
        // A rename puts a folder over an empty one only: what was tampered with has to go first.
        for _ in 0..2 {
            match fs::rename(&built, &target) {
                Ok(()) => return Ok(target),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    if shows(&target, &files) {
                        let _ = remove_all(&built);
                        return Ok(target);
                    }
                    let aside = self.session()?.fresh_path();
                    let _ = fs::rename(&target, &aside);
                    let _ = remove_all(&aside);
                }
                Err(error) => return Err(CacheError::io(DOING, &target, error)),
            }
        }
        Err(CacheError::Unusable { path: target, problem: "somebody keeps changing this folder" })
    }

    fn table_files(&self, output: &TableOutput) -> Result<BTreeMap<String, Blob>, CacheError> {
        let mut files = BTreeMap::new();
        for (place, part) in output.table.parts.iter().enumerate() {
            let blob = if part.ranges.is_none() {
                part.blob
            } else {
                let mut writer = self.table_writer(&output.schema)?;
                for batch in self.read_rows(&output.schema, &part.clone().into(), None)? {
                    writer.write(&batch?)?;
                }
                writer.finish()?.blob
            };
            files.insert(part_name(place), blob);
        }
        if files.is_empty() {
            // A table without rows still shows its columns.
            files.insert(part_name(0), self.table_writer(&output.schema)?.finish()?.blob);
        }
        Ok(files)
    }

    fn build_view(&self, files: &BTreeMap<String, Blob>) -> Result<PathBuf, CacheError> {
        let folder = self.session()?.fresh_path();
        create_folders(&folder)?;
        for (name, blob) in files {
            let path = folder.join(name);
            create_folders(path.parent().expect("a file in a folder has a parent"))?;
            let object = self.blob_path(blob)?;
            if fs::hard_link(&object, &path).is_err() {
                fs::copy(&object, &path).map_err(|error| {
                    let _ = remove_all(&folder);
                    CacheError::io(DOING, &path, error)
                })?;
            }
        }
        Ok(folder)
    }
}

/// Returns the name of a table's view: its content digest. Measured columns are in no digest, so a table that has some
/// is named by its blobs too; else the view would show the times of another run. A table whose rows lie in ranges is
/// named by them as well.
fn table_view_name(output: &TableOutput) -> Digest {
    let is_plain = output.measured.is_empty() && output.table.parts.iter().all(|part| part.ranges.is_none());
    if is_plain && output.table.parts.len() == 1 {
        return output.content;
    }
    let parts = std::iter::once(output.content.as_bytes().to_vec()).chain(table_parts(&output.table));
    Digest::of_parts("ablate view v1", parts)
}

fn part_name(place: usize) -> String {
    format!("part-{place:05}.parquet")
}

/// Returns whether a folder has these files with these sizes.
fn shows(folder: &Path, files: &BTreeMap<String, Blob>) -> bool {
    files.iter().all(|(name, blob)| fs::metadata(folder.join(name)).is_ok_and(|found| found.len() == blob.bytes))
        && folder.is_dir()
}
