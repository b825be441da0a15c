//! Batches of map stages: which units are done, and where the rows of each lie.
//!
//! A family is everything that the units of a map stage share: H(kind, VERSION, parameters, environment, model).
//! `maps/<family>/` holds one record for every batch that was finished, whichever run, pipeline or machine did it.
//! A batch's borders enter no key: reuse is by the unit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

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

impl BatchRecord {
    /// Returns the name it is filed under, which is that of its units: two processes that did the same batch write one
    /// file, and the first stands.
    pub(super) fn file_name(&self) -> String {
        Digest::of_parts("ablate batch v1", self.units.iter().map(|unit| unit.key)).to_string()
    }

    /// Returns the name under which a record is filed that stands for earlier ones: it comes before all others, and so counts.
    pub(super) fn compacted_name(&self) -> String {
        format!("0-{}", self.file_name())
    }
}

/// What is known of a family's units, at some forty bytes a unit: a stage may have millions.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// Of two batches with the same unit the one whose record's name comes first counts, so that every reader finds the
    /// same rows.
    places: HashMap<Short, Place>,
    /// The blobs of all batches and how many rows each has.
    blobs: Vec<(Blob, u64)>,
    reasons: Vec<String>,
    drops: Vec<(u32, Option<Box<str>>)>,
    /// Records that were read, or written by ourselves, so that they are not read again.
    pub(super) read: HashSet<String>,
    /// What all its batches took together; the mean per unit is the estimate for the next.
    pub cost: Cost,
}

/// Half of a unit's key, which tells a family's units apart as well as the whole does.
type Short = [u8; 16];

fn short(unit: &Digest) -> Short {
    let mut half = [0; 16];
    half.copy_from_slice(&unit.as_bytes()[..16]);
    half
}

/// [`UnitPlace`], by number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Nothing,
    Rows { blob: u32, start: u32, len: u32 },
    Dropped(u32),
}

impl Family {
    /// Returns where a unit's result is.
    pub fn get(&self, unit: &Digest) -> Option<UnitPlace> {
        Some(match *self.places.get(&short(unit))? {
            Place::Nothing => UnitPlace::Rows { blob: None, rows: 0..0, blob_rows: 0 },
            Place::Rows { blob, start, len } => {
                let (blob, blob_rows) = self.blobs[blob as usize];
                UnitPlace::Rows {
                    blob: Some(blob),
                    rows: u64::from(start)..u64::from(start) + u64::from(len),
                    blob_rows,
                }
            }
            Place::Dropped(drop) => {
                let (reason, detail) = &self.drops[drop as usize];
                let reason = self.reasons[*reason as usize].clone();
                UnitPlace::Dropped { reason, detail: detail.as_deref().map(str::to_owned) }
            }
        })
    }

    /// Returns whether a unit is done.
    pub fn has(&self, unit: &Digest) -> bool {
        self.places.contains_key(&short(unit))
    }

    /// Returns whether a unit is done and gave no rows for a reason.
    pub fn is_dropped(&self, unit: &Digest) -> bool {
        matches!(self.places.get(&short(unit)), Some(Place::Dropped(_)))
    }

    /// Returns how many units are done.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns whether no unit is done.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a batch that was just committed. A unit that is known already keeps its place.
    pub fn add(&mut self, batch: &BatchRecord) {
        self.read.insert(batch.file_name());
        self.add_read(batch);
    }

    pub(super) fn add_read(&mut self, batch: &BatchRecord) {
        self.cost.wall_s += batch.cost.wall_s;
        self.cost.cpu_s += batch.cost.cpu_s;
        self.cost.peak_memory_bytes = self.cost.peak_memory_bytes.max(batch.cost.peak_memory_bytes);
        let blob = self.blobs.len() as u32;
        self.blobs.extend(batch.rows.as_ref().map(|part| (part.blob, part.blob_rows)));
        for unit in &batch.units {
            if self.places.contains_key(&short(&unit.key)) {
                continue;
            }
            let place = match &unit.outcome {
                UnitOutcome::Rows(rows) if rows.is_empty() => Place::Nothing,
                UnitOutcome::Rows(rows) => {
                    Place::Rows { blob, start: rows.start as u32, len: (rows.end - rows.start) as u32 }
                }
                UnitOutcome::Dropped { reason, detail } => self.dropped(reason, detail.as_deref()),
            };
            self.places.insert(short(&unit.key), place);
        }
    }

    /// Adds a record that stands for earlier ones: its units lie there from now on.
    pub fn move_to(&mut self, compacted: &BatchRecord) {
        for unit in &compacted.units {
            self.places.remove(&short(&unit.key));
        }
        self.read.insert(compacted.compacted_name());
        let cost = self.cost;
        self.add_read(compacted);
        self.cost = cost;
    }

    /// Returns what is known of these units alone.
    #[must_use]
    pub fn only(&self, units: &[Digest]) -> Self {
        let places = units.iter().filter_map(|unit| Some((short(unit), *self.places.get(&short(unit))?))).collect();
        let (blobs, reasons, drops) = (self.blobs.clone(), self.reasons.clone(), self.drops.clone());
        Self { places, blobs, reasons, drops, ..Self::default() }
    }

    pub(super) fn place(&self, unit: &Digest) -> Option<Place> {
        self.places.get(&short(unit)).copied()
    }

    pub(super) fn blob(&self, number: u32) -> (Blob, u64) {
        self.blobs[number as usize]
    }

    /// Returns what became of a unit, in a record of units that gave no rows.
    pub(super) fn outcome(&self, unit: &Digest) -> Option<UnitOutcome> {
        Some(match self.get(unit)? {
            UnitPlace::Rows { .. } => UnitOutcome::Rows(0..0),
            UnitPlace::Dropped { reason, detail } => UnitOutcome::Dropped { reason, detail },
        })
    }

    fn dropped(&mut self, reason: &str, detail: Option<&str>) -> Place {
        let known = self.reasons.iter().position(|known| known == reason);
        let reason = known.unwrap_or_else(|| {
            self.reasons.push(reason.to_owned());
            self.reasons.len() - 1
        });
        self.drops.push((reason as u32, detail.map(Into::into)));
        Place::Dropped(self.drops.len() as u32 - 1)
    }

    /// Returns the table of these units' rows: what a map stage records when all its units are done.
    /// A unit that occurs twice gives its rows twice.
    ///
    /// # Errors
    /// The first unit that is not known.
    pub fn table<'a>(&self, units: impl IntoIterator<Item = &'a Digest>) -> Result<Table, Digest> {
        // Neighbours are joined at once: units in the order of their batch are one range, however many they are.
        let mut order: Vec<u32> = Vec::new();
        let mut ranges: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
        for unit in units {
            let Place::Rows { blob, start, len } = *self.places.get(&short(unit)).ok_or(*unit)? else { continue };
            let (start, end) = (u64::from(start), u64::from(start) + u64::from(len));
            let found = ranges.entry(blob).or_insert_with(|| {
                order.push(blob);
                Vec::new()
            });
            match found.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => found.push(start..end),
            }
        }
        Ok(Table::from_ranges(order.into_iter().flat_map(|number| {
            let (blob, blob_rows) = self.blobs[number as usize];
            ranges.remove(&number).into_iter().flatten().map(move |range| (blob, blob_rows, range))
        })))
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
        let mut known = Family::default();
        self.refresh_family(family, &mut known)?;
        Ok(known)
    }

    /// Adds what others have recorded since `known` was read.
    ///
    /// # Errors
    /// As [`Cache::family`].
    pub fn refresh_family(&self, family: &Digest, known: &mut Family) -> Result<(), CacheError> {
        // A record that is gone between the listing and the reading was put into a larger one, which is there by then.
        let mut again = true;
        while again {
            again = false;
            for path in self.batch_paths(family)? {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                if known.read.contains(&name) {
                    continue;
                }
                match self.read_batch(&path, family) {
                    Some(batch) => {
                        known.add_read(&batch);
                        known.read.insert(name);
                    }
                    None => again |= !path.exists(),
                }
            }
        }
        Ok(())
    }

    /// The records of a family, in the order in which they count.
    pub(super) fn batch_paths(&self, family: &Digest) -> Result<Vec<PathBuf>, CacheError> {
        let folder = self.layout().family(family);
        let failed = |error| CacheError::io("reading the finished batches", &folder, error);
        let mut paths = Vec::new();
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry.map_err(failed)?.path());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        paths.sort();
        Ok(paths)
    }

    /// A record whose blob is there.
    pub(super) fn read_batch(&self, path: &Path, family: &Digest) -> Option<BatchRecord> {
        let batch = self.read_sealed::<BatchRecord>(path, Some(family), RECORD_FORMAT)?;
        if let Some(part) = batch.rows.as_ref().filter(|part| !self.has(&part.blob)) {
            let problem = format!("counts as absent: object {} is not in the store", part.blob.hash.short());
            self.note_damage(Damage { path: path.to_owned(), problem });
            return None;
        }
        Some(batch)
    }

    /// Records a finished batch.
    ///
    /// # Errors
    /// `BadRecord` or `MissingObject` if the record is not consistent or its blob is not stored;
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn commit_batch(&self, batch: &BatchRecord) -> Result<(), CacheError> {
        self.commit_batch_at(batch, &self.layout().batch(&batch.family, &batch.file_name()))
    }

    pub(super) fn commit_batch_at(&self, batch: &BatchRecord, path: &Path) -> Result<(), CacheError> {
        check_batch(batch)?;
        if let Some(part) = batch.rows.as_ref().filter(|part| !self.has(&part.blob)) {
            return Err(CacheError::MissingObject { hash: part.blob.hash });
        }
        let text = encode(batch, "batch")?;
        let doing = "recording a finished batch";
        if self.write_new(path, &text, doing)? {
            return Ok(());
        }
        let earlier = self.read_sealed::<BatchRecord>(path, Some(&batch.family), RECORD_FORMAT);
        if earlier.is_some_and(|earlier| earlier.rows.is_none_or(|part| self.has(&part.blob))) {
            return Ok(());
        }
        self.write_whole(path, &text, doing)
    }
}

/// Refuses a record that is not consistent.
pub(super) fn check_batch(batch: &BatchRecord) -> Result<(), CacheError> {
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
            return Err(refuse(format!("unit {}: expected rows within 0..{blob_rows}, got {start}..{end}", unit.key)));
        }
    }
    Ok(())
}
