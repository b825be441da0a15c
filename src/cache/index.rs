//! Indexes: what the recipes of a pipeline came to, all in one file, so that a run with nothing to do opens no file a stage.
//!
//! An index is a copy and decides nothing. An entry counts only while the two files that it was copied from are the very
//! files that they were (size, times, inode) and the blobs it names are there; else they are read. Both files only
//! ever change by a rename, which gives their names another inode.

use std::collections::{BTreeMap, HashMap};

use arrow_schema::Schema;
use serde::{Deserialize, Serialize};

use super::Cache;
use super::error::CacheError;
use super::files::Stat;
use super::record::{Filed, Output, RECORD_FORMAT, RecipeNote, Record, encode};
use crate::digest::Digest;

/// What the recipes of one pipeline came to; see [`Cache::index`].
pub struct Index {
    cache: Cache,
    entries: HashMap<Digest, Entry>,
    schemas: Vec<Schema>,
    misses: usize,
}

/// An index as it lies in its file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexNote {
    format: u32,
    id: Digest,
    /// The schemas of all tables, each once: they are most of a record, and few.
    schemas: Vec<Schema>,
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    recipe: Digest,
    /// The file `recipes/<recipe>.json`, and the file `actions/<key>.json`.
    copied_from: [Stat; 2],
    /// The record; its tables have no columns here.
    record: Box<Record>,
    /// For each of its tables, by port, the place of its columns in `schemas`.
    columns: BTreeMap<String, usize>,
}

impl Filed for IndexNote {
    fn format(&self) -> u32 {
        self.format
    }
    fn name(&self) -> Digest {
        self.id
    }
}

impl Cache {
    /// Returns the index of a pipeline; an empty one if none was kept.
    pub fn index(&self, pipeline: &str) -> Index {
        let id = index_id(pipeline);
        let note: Option<IndexNote> = self.read_sealed(&self.layout().index(&id), Some(&id), RECORD_FORMAT);
        let (entries, schemas) = note.map(|note| (note.entries, note.schemas)).unwrap_or_default();
        let entries = entries.into_iter().map(|entry| (entry.recipe, entry)).collect();
        Index { cache: self.clone(), entries, schemas, misses: 0 }
    }

    /// Keeps an index of what these recipes came to, in place of the one that the pipeline had.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn keep_index(&self, pipeline: &str, recipes: impl IntoIterator<Item = Digest>) -> Result<(), CacheError> {
        let id = index_id(pipeline);
        let mut note = IndexNote { format: RECORD_FORMAT, id, schemas: Vec::new(), entries: Vec::new() };
        for recipe in recipes {
            note.entries.extend(self.entry(recipe, &mut note.schemas));
        }
        self.write_whole(&self.layout().index(&id), &encode(&note, "index")?, "keeping an index")
    }

    fn entry(&self, recipe: Digest, schemas: &mut Vec<Schema>) -> Option<Entry> {
        // Looked at before it is read: a file that is replaced meanwhile is another one later.
        let path = self.layout().recipe(&recipe);
        let recipe_stat = Stat::of(&path).ok()?;
        let found: RecipeNote = self.read_sealed(&path, Some(&recipe), RECORD_FORMAT)?;
        let action_stat = Stat::of(&self.layout().action(&found.key)).ok()?;
        let mut record = Box::new(self.action(&found.key)?);
        let mut columns = BTreeMap::new();
        for (port, output) in &mut record.outputs {
            let Output::Table(table) = output else { continue };
            let schema = std::mem::replace(&mut table.schema, Schema::empty());
            let place = schemas.iter().position(|known| *known == schema).unwrap_or(schemas.len());
            if place == schemas.len() {
                schemas.push(schema);
            }
            columns.insert(port.clone(), place);
        }
        Some(Entry { recipe, copied_from: [recipe_stat, action_stat], record, columns })
    }
}

impl Index {
    /// Returns the record of the action that a recipe came to, as [`Cache::recipe`] does.
    pub fn recipe(&mut self, recipe: &Digest) -> Option<Record> {
        // No recipe is asked for twice, so the entry is given away.
        let entry = self.entries.remove(recipe).filter(|entry| self.holds(entry));
        let Some(Entry { mut record, columns, .. }) = entry else {
            self.misses += 1;
            return self.cache.recipe(recipe);
        };
        for (port, place) in columns {
            if let Some(Output::Table(table)) = record.outputs.get_mut(&port) {
                table.schema.clone_from(&self.schemas[place]);
            }
        }
        Some(*record)
    }

    /// Returns whether every answer so far was in the index.
    pub fn is_whole(&self) -> bool {
        self.misses == 0
    }

    fn holds(&self, entry: &Entry) -> bool {
        let layout = self.cache.layout();
        let action = layout.action(&entry.record.key);
        [layout.recipe(&entry.recipe), action.clone()]
            .iter()
            .zip(&entry.copied_from)
            .all(|(path, then)| Stat::of(path).is_ok_and(|now| now == *then))
            && entry.columns.values().all(|&place| place < self.schemas.len())
            && self.cache.is_complete(&entry.record, &action)
    }
}

fn index_id(pipeline: &str) -> Digest {
    Digest::of_parts("ablate index of a pipeline", [pipeline])
}
