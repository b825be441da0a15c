//! Records: what the cache knows of a finished action.
//!
//! A record is written last, so its presence means that the action is complete. It is found by its key
//! (`actions/<key>.json`) and by the recipes that came to that key (`recipes/<recipe>.json` holds the key).
//! A lookup accepts only a record that is whole, of a known format, filed under its own key, and whose blobs are there.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use arrow_schema::Schema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{CacheError, Damage};
use super::sealed::{seal, unseal};
use super::store::Blob;
use super::table::Table;
use super::{Cache, files};
use crate::digest::Digest;

/// The format of records. Raised when a field is added, removed or changes its meaning; other formats count as absent.
///
/// 1: the first.
pub const RECORD_FORMAT: u32 = 1;

/// What is known of a finished action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// Digest of everything that can change an output.
    pub key: Digest,
    /// The recipe under which it was first made.
    pub recipe: Digest,
    /// What the stage is made of.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// The stage's name when it was made; in no key.
    pub stage: String,
    /// The parameters, defaults filled in.
    pub parameters: serde_json::Value,
    /// What went in, by port.
    pub inputs: BTreeMap<String, InputNote>,
    /// Digests of the files that parameters name, by parameter.
    pub files: BTreeMap<String, Digest>,
    /// What the kind declares of its environment, by name.
    pub environment: BTreeMap<String, String>,
    /// What came out, by port.
    pub outputs: BTreeMap<String, Output>,
    /// How many rows or units were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What it took.
    pub cost: Cost,
    /// Where it was made.
    pub machine: Machine,
    /// What it wrote to its log, if anything.
    pub log: Option<Blob>,
    /// When it was finished, in seconds since 1970.
    pub finished_unix_s: f64,
}

/// An input of a finished action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputNote {
    /// Digest of the declared columns (or of the files), as it entered the key.
    pub digest: Digest,
    /// The declared columns; empty for models and files.
    pub columns: Vec<String>,
    /// The stage and port it came from when it was made (`clean.dropped`); in no key.
    pub source: String,
}

/// What an action took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Seconds by the clock.
    pub wall_s: f64,
    /// Seconds of CPU, all threads and children.
    pub cpu_s: f64,
    /// The largest resident memory, where it is known.
    pub peak_memory_bytes: Option<u64>,
}

/// Where an action was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The machine's name.
    pub host: String,
    /// `cpu`, or the accelerator's name.
    pub device: String,
    /// Versions of the libraries that did the work, by name.
    pub libraries: BTreeMap<String, String>,
}

/// What an output port held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Rows.
    Table(TableOutput),
    /// A folder with config, weights and tokenizer.
    Model(FilesOutput),
    /// Any other files.
    Files(FilesOutput),
}

impl Output {
    /// Returns the artifact's content digest.
    pub fn content(&self) -> Digest {
        match self {
            Self::Table(table) => table.content,
            Self::Model(files) | Self::Files(files) => files.content(),
        }
    }

    /// Returns the blobs it is made of.
    pub fn blobs(&self) -> Vec<Blob> {
        match self {
            Self::Table(table) => table.table.parts.iter().map(|part| part.blob).collect(),
            Self::Model(FilesOutput::Stored { files, .. }) | Self::Files(FilesOutput::Stored { files, .. }) => {
                files.values().copied().collect()
            }
            Self::Model(FilesOutput::Referenced { .. }) | Self::Files(FilesOutput::Referenced { .. }) => Vec::new(),
        }
    }
}

/// A table that came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableOutput {
    /// Digest of its rows by meaning, without the measured columns.
    pub content: Digest,
    /// Columns that are stored and shown, but are in no digest unless a port declares them.
    pub measured: Vec<String>,
    /// Its columns and types.
    pub schema: Schema,
    /// Where its rows lie.
    pub table: Table,
}

/// Files that came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FilesOutput {
    /// They are in the store.
    Stored {
        /// Digest of the files by name.
        content: Digest,
        /// Blobs by relative name, with `/` between folders.
        files: BTreeMap<String, Blob>,
    },
    /// They lie elsewhere and are not copied.
    Referenced {
        /// Digest of the file, or of the folder's files by name.
        content: Digest,
        /// Where they lay.
        path: PathBuf,
    },
}

impl FilesOutput {
    /// Returns the digest of the files by name.
    pub fn content(&self) -> Digest {
        match self {
            Self::Stored { content, .. } | Self::Referenced { content, .. } => *content,
        }
    }
}

/// What a recipe came to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecipeNote {
    format: u32,
    recipe: Digest,
    /// The key.
    pub(super) key: Digest,
}

/// What every sealed file can be asked before it is used.
pub(super) trait Filed {
    /// The format it says it has.
    fn format(&self) -> u32;
    /// The name under which it must lie.
    fn name(&self) -> Digest;
}

impl Filed for Record {
    fn format(&self) -> u32 {
        self.format
    }
    fn name(&self) -> Digest {
        self.key
    }
}

impl Filed for RecipeNote {
    fn format(&self) -> u32 {
        self.format
    }
    fn name(&self) -> Digest {
        self.recipe
    }
}

impl Cache {
    /// Returns the record of a finished action, if there is one whose outputs are all there.
    pub fn action(&self, key: &Digest) -> Option<Record> {
        let path = self.layout().action(key);
        let record: Record = self.read_sealed(&path, Some(key), RECORD_FORMAT)?;
        self.is_complete(&record, &path).then_some(record)
    }

    /// Returns the record of the action that a recipe came to.
    pub fn recipe(&self, recipe: &Digest) -> Option<Record> {
        let note: RecipeNote = self.read_sealed(&self.layout().recipe(recipe), Some(recipe), RECORD_FORMAT)?;
        self.action(&note.key)
    }

    /// Records a finished action under its key and its recipe, and returns the record that stands: if another process
    /// has recorded the same key meanwhile, its record is kept, so that everybody goes on with the same rows.
    ///
    /// # Errors
    /// `BadRecord` or `MissingObject` if the record is not consistent or names blobs that are not stored;
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn commit(&self, record: Record) -> Result<Record, CacheError> {
        check_consistent(&record)?;
        for blob in record.outputs.values().flat_map(Output::blobs).chain(record.log) {
            if !self.has(&blob) {
                return Err(CacheError::MissingObject { hash: blob.hash });
            }
        }
        let recipe = record.recipe;
        let path = self.layout().action(&record.key);
        let text = encode(&record, &record.kind)?;
        let doing = "recording a finished stage";
        let stands = if self.write_new(&path, &text, doing)? {
            record
        } else if let Some(earlier) = self.action(&record.key) {
            earlier
        } else {
            // What lies there is damaged or incomplete.
            self.write_whole(&path, &text, doing)?;
            record
        };
        self.link_recipe(&recipe, &stands.key)?;
        Ok(stands)
    }

    /// Records that a recipe came to a key that is already recorded (a stage whose inputs came out equal).
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn link_recipe(&self, recipe: &Digest, key: &Digest) -> Result<(), CacheError> {
        let path = self.layout().recipe(recipe);
        let known: Option<RecipeNote> = self.read_sealed(&path, Some(recipe), RECORD_FORMAT);
        if known.is_some_and(|note| note.key == *key) {
            return Ok(());
        }
        let note = RecipeNote { format: RECORD_FORMAT, recipe: *recipe, key: *key };
        self.write_whole(&path, &encode(&note, "recipe")?, "recording a recipe")
    }

    /// Returns what a sealed file holds. What cannot be used is named as damage and counts as absent.
    pub(super) fn read_sealed<T: DeserializeOwned + Filed>(
        &self,
        path: &Path,
        name: Option<&Digest>,
        format: u32,
    ) -> Option<T> {
        let refuse = |problem: String| {
            self.note_damage(Damage { path: path.to_owned(), problem });
            None
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return refuse(format!("cannot be read: {error}")),
        };
        match unseal::<T>(&text) {
            Err(error) => refuse(error.to_string()),
            Ok(value) if value.format() != format => {
                refuse(format!("format {} where this version knows {format}", value.format()))
            }
            Ok(value) if name.is_some_and(|name| value.name() != *name) => {
                refuse(format!("it is the record of {}, filed under another name", value.name().short()))
            }
            Ok(value) => Some(value),
        }
    }

    /// Returns whether all that a record names is there; what is not is named as damage.
    pub(super) fn is_complete(&self, record: &Record, path: &Path) -> bool {
        let missing = record.outputs.iter().find_map(|(port, output)| {
            if let Some(blob) = output.blobs().iter().find(|blob| !self.has(blob)) {
                return Some(format!("object {} of `{port}` is not in the store", blob.hash.short()));
            }
            match output {
                Output::Model(FilesOutput::Referenced { content, path })
                | Output::Files(FilesOutput::Referenced { content, path }) => {
                    self.reference_problem(content, path).map(|problem| format!("`{port}`: {problem}"))
                }
                _ => None,
            }
        });
        // A lost log is no reason to do hours of work again.
        match missing {
            None => true,
            Some(problem) => {
                self.note_damage(Damage { path: path.to_owned(), problem: format!("counts as absent: {problem}") });
                false
            }
        }
    }

    fn reference_problem(&self, content: &Digest, path: &Path) -> Option<String> {
        match self.digest_path(path) {
            Ok(found) if found.digest == *content => None,
            Ok(found) => Some(format!(
                "{} has changed: expected digest {}, found {}",
                path.display(),
                content.short(),
                found.digest.short()
            )),
            Err(error) => Some(error.to_string()),
        }
    }
}

fn check_consistent(record: &Record) -> Result<(), CacheError> {
    let refuse = |problem: String| Err(CacheError::BadRecord { kind: record.kind.clone(), problem });
    if record.format != RECORD_FORMAT {
        return refuse(format!("expected format {RECORD_FORMAT}, got {}", record.format));
    }
    for (port, output) in &record.outputs {
        match output {
            Output::Table(output) => {
                if let Err(problem) = output.table.check() {
                    return refuse(format!("output `{port}`: {problem}"));
                }
                if let Some(name) = output.measured.iter().find(|name| output.schema.index_of(name).is_err()) {
                    return refuse(format!("output `{port}`: the measured column `{name}` is not in the table"));
                }
            }
            Output::Model(FilesOutput::Stored { content, files: stored })
            | Output::Files(FilesOutput::Stored { content, files: stored }) => {
                if let Some(name) = stored.keys().find(|name| !files::is_plain_name(name)) {
                    return refuse(format!("output `{port}`: expected relative file names, got `{name}`"));
                }
                if files::digest_of_files(stored) != *content {
                    return refuse(format!("output `{port}`: the content digest is not that of the files"));
                }
            }
            Output::Model(FilesOutput::Referenced { .. }) | Output::Files(FilesOutput::Referenced { .. }) => {}
        }
    }
    Ok(())
}

/// Returns the sealed text of something to be recorded.
pub(super) fn encode<T: Serialize>(value: &T, kind: &str) -> Result<Vec<u8>, CacheError> {
    seal(value).map_err(|error| CacheError::BadRecord { kind: kind.to_owned(), problem: error.to_string() })
}
