//! Batches of map stages: which units are done, and where the rows of each lie.
//!
//! A family is everything that the units of a map stage share: H(kind, VERSION, parameters, environment, model).
//! `maps/<family>/` holds one record for every batch that was finished, whichever run, pipeline or machine did it.
//! A batch's borders enter no key: reuse is by the unit.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Cache;
use super::error::{CacheError, Damage};
use super::record::{Cost, Filed, RECORD_FORMAT, encode};
use super::store::Blob;
use super::table::{Table, TablePart};
use crate::digest::Digest;

/// A finished batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRecord {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// The family.
    pub family: Digest,
    /// The rows of all its units: a Parquet blob, or `None` if no unit gave a row.
    pub rows: Option<TablePart>,
    /// Its units.
    pub units: Vec<BatchUnit>,
    /// What the batch took.
    pub cost: Cost,
    /// The machine's name.
    pub host: String,
    /// When it was finished, in seconds since 1970.
    pub finished_unix_s: f64,
}

/// A unit of a finished batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchUnit {
    /// Digest of the unit's declared columns and of what it looked up.
    pub key: Digest,
    /// What became of it.
    pub outcome: UnitOutcome,
}

/// What became of a finished unit. Failures are never recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UnitOutcome {
    /// Its rows in the batch's blob; may be none.
    Rows(Range<u64>),
    /// It gave no rows, and why.
    Dropped {
        /// In a word or two that can be counted.
        reason: String,
        /// What exactly was found.
        detail: Option<String>,
    },
}

/// Where a unit's result is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitPlace {
    /// These rows of this blob; an empty range if the unit gave no rows.
    Rows {
        /// The blob; `None` if the whole batch gave no rows.
        blob: Option<Blob>,
        /// The rows in the blob.
        rows: Range<u64>,
        /// How many rows the blob has.
        blob_rows: u64,
    },
    /// It gave no rows, and why.
    Dropped {
        /// In a word or two that can be counted.
        reason: String,
        /// What exactly was found.
        detail: Option<String>,
    },
}

/// What is known of a family's units.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// Where each finished unit's result is, by unit key. Of two batches with the same unit the one whose record's
    /// name comes first counts, so that every reader finds the same rows.
    pub units: HashMap<Digest, UnitPlace>,
    /// What all its batches took together; the mean per unit is the estimate for the next.
    pub cost: Cost,
}

impl Family {
    /// Returns where a unit's result is.
    pub fn get(&self, unit: &Digest) -> Option<&UnitPlace> {
        self.units.get(unit)
    }

    /// Adds a batch that was just committed. A unit that is known already keeps its place.
    pub fn add(&mut self, batch: &BatchRecord) {
        self.cost.wall_s += batch.cost.wall_s;
        self.cost.cpu_s += batch.cost.cpu_s;
        self.cost.peak_memory_bytes = self.cost.peak_memory_bytes.max(batch.cost.peak_memory_bytes);
        for unit in &batch.units {
            self.units.entry(unit.key).or_insert_with(|| match &unit.outcome {
                UnitOutcome::Rows(rows) => UnitPlace::Rows {
                    blob: batch.rows.as_ref().map(|part| part.blob),
                    rows: rows.clone(),
                    blob_rows: batch.rows.as_ref().map_or(0, |part| part.blob_rows),
                },
                UnitOutcome::Dropped { reason, detail } => {
                    UnitPlace::Dropped { reason: reason.clone(), detail: detail.clone() }
                }
            });
        }
    }

    /// Returns the table of these units' rows: what a map stage records when all its units are done.
    /// A unit that occurs twice gives its rows twice.
    ///
    /// # Errors
    /// The first unit that is not known.
    pub fn table<'a>(&self, units: impl IntoIterator<Item = &'a Digest>) -> Result<Table, Digest> {
        let mut places = Vec::new();
        for unit in units {
            match self.units.get(unit).ok_or(*unit)? {
                UnitPlace::Rows { blob: Some(blob), rows, blob_rows } if !rows.is_empty() => {
                    places.push((*blob, *blob_rows, rows.clone()));
                }
                UnitPlace::Rows { .. } | UnitPlace::Dropped { .. } => {}
            }
        }
        Ok(Table::from_ranges(places))
    }
}

impl Filed for BatchRecord {
    fn format(&self) -> u32 {
        self.format
    }
    fn name(&self) -> Digest {
        self.family
    }
}

impl Cache {
    /// Returns what is known of a family's units: everything that any finished batch left.
    ///
    /// # Errors
    /// `Io` or `NoPermission` if the family's folder is there and cannot be listed.
    pub fn family(&self, family: &Digest) -> Result<Family, CacheError> {
        let folder = self.layout().family(family);
        let failed = |error| CacheError::io("reading the finished batches", &folder, error);
        let mut paths = Vec::new();
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry.map_err(failed)?.path());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Family::default()),
            Err(error) => return Err(failed(error)),
        }
        paths.sort();
        let mut known = Family::default();
        for path in paths {
            let Some(batch) = self.read_sealed::<BatchRecord>(&path, Some(family), RECORD_FORMAT) else { continue };
            if let Some(part) = batch.rows.as_ref().filter(|part| !self.has(&part.blob)) {
                let problem = format!("counts as absent: object {} is not in the store", part.blob.hash.short());
                self.note_damage(Damage { path, problem });
                continue;
            }
            known.add(&batch);
        }
        Ok(known)
    }

    /// Records a finished batch.
    ///
    /// # Errors
    /// `BadRecord` or `MissingObject` if the record is not consistent or its blob is not stored;
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn commit_batch(&self, batch: &BatchRecord) -> Result<(), CacheError> {
        let refuse = |problem: String| CacheError::BadRecord { kind: "batch".to_owned(), problem };
        if batch.format != RECORD_FORMAT {
            return Err(refuse(format!("expected format {RECORD_FORMAT}, got {}", batch.format)));
        }
        let blob_rows = batch.rows.as_ref().map_or(0, |part| part.blob_rows);
        for unit in &batch.units {
            if let UnitOutcome::Rows(rows) = &unit.outcome
                && (rows.start > rows.end || rows.end > blob_rows)
            {
                let (start, end) = (rows.start, rows.end);
                return Err(refuse(format!(
                    "unit {}: expected rows within 0..{blob_rows}, got {start}..{end}",
                    unit.key
                )));
            }
        }
        if let Some(part) = batch.rows.as_ref().filter(|part| !self.has(&part.blob)) {
            return Err(CacheError::MissingObject { hash: part.blob.hash });
        }
        // The name is that of the units: two processes that did the same batch write one file, the first stands.
        let name = Digest::of_parts("ablate batch v1", batch.units.iter().map(|unit| unit.key));
        let path = self.layout().batch(&batch.family, &name);
        let text = encode(batch, "batch")?;
        let doing = "recording a finished batch";
        if self.write_new(&path, &text, doing)? {
            return Ok(());
        }
        let earlier = self.read_sealed::<BatchRecord>(&path, Some(&batch.family), RECORD_FORMAT);
        if earlier.is_some_and(|earlier| earlier.rows.is_none_or(|part| self.has(&part.blob))) {
            return Ok(());
        }
        self.write_whole(&path, &text, doing)
    }
}
