//! Compaction: the rows of units that lie in many small blobs are rewritten into few large ones.
//!
//! Batches are as large as some seconds of work, so a stage whose units are slow, or whose runs were short, leaves hundreds
//! of records and blobs, and every reader opens each. When a stage's table is made of such, its rows are written anew, in the
//! order of its units, with a record for every 65,536 units; records that hold nothing else are then removed.
//! New records are there before old ones go, and count before any other: at every moment a reader finds every unit, with the
//! same rows. Blobs are left where they are, since records of finished stages name them.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use arrow_schema::Schema;

use super::error::CacheError;
use super::family::{BatchRecord, BatchUnit, Family, Place, UnitOutcome};
use super::record::{Cost, RECORD_FORMAT};
use super::table::{Table, TablePart};
use super::{Cache, fault, host_name};
use crate::digest::Digest;

/// A table of so many parts is read quickly enough, however small they are.
const FEW_PARTS: usize = 32;
/// Below this on average, opening a part costs more than reading it.
const SMALL_BYTES: u64 = 1 << 20;
/// Units of a record: a few megabytes of JSON.
const RECORD_UNITS: usize = 1 << 16;

impl Table {
    /// Returns whether the rows lie in parts that are many and small: more than 32, with less than 1 MiB each that is of
    /// use, on average.
    pub fn is_fragmented(&self) -> bool {
        let used = |part: &TablePart| part.blob.bytes * part.rows() / part.blob_rows.max(1);
        let bytes: u64 = self.parts.iter().map(used).sum();
        self.parts.len() > FEW_PARTS && bytes / (self.parts.len() as u64) < SMALL_BYTES
    }
}

impl Cache {
    /// Writes the rows of these units, which `known` knows, into few blobs, and records that in place of the batches that
    /// held them. Returns the new records, in the order of the units.
    ///
    /// # Errors
    /// `MissingObject`, `CorruptObject`, `DiskFull`, `NoPermission`, `ReadOnly`, `Io` or `Table`: what was there before is
    /// there then.
    pub fn compact_units(
        &self,
        family: &Digest,
        schema: &Schema,
        units: &[Digest],
        known: &Family,
    ) -> Result<Vec<BatchRecord>, CacheError> {
        let mut seen = HashSet::with_capacity(units.len());
        let units: Vec<Digest> = units.iter().filter(|unit| known.has(unit) && seen.insert(**unit)).copied().collect();
        // What the old records took is what the new ones say, so that estimates stay.
        let (mut old, mut cost) = (Vec::new(), Cost::default());
        for path in self.batch_paths(family)? {
            let Some(batch) = self.read_batch(&path, family) else { continue };
            if batch.units.iter().all(|unit| seen.contains(&unit.key)) {
                cost.wall_s += batch.cost.wall_s;
                cost.cpu_s += batch.cost.cpu_s;
                cost.peak_memory_bytes = cost.peak_memory_bytes.max(batch.cost.peak_memory_bytes);
                old.push((path, batch.finished_unix_s));
            }
        }
        let finished_unix_s = old.iter().map(|(_, finished)| *finished).fold(0.0, f64::max);
        let mut records = Vec::new();
        for units in units.chunks(RECORD_UNITS) {
            let (rows, units) = self.rewrite(schema, units, known)?;
            let record = BatchRecord {
                format: RECORD_FORMAT,
                family: *family,
                rows,
                units,
                cost: std::mem::take(&mut cost),
                host: host_name(),
                finished_unix_s,
            };
            self.commit_batch_at(&record, &self.layout().batch(family, &record.compacted_name()))?;
            records.push(record);
        }
        let fresh: Vec<_> =
            records.iter().map(|record| self.layout().batch(family, &record.compacted_name())).collect();
        for (path, _) in old.into_iter().filter(|(path, _)| !fresh.contains(path)) {
            fault::step();
            // One that stays costs a reader a moment and nothing else.
            let _ = fs::remove_file(path);
        }
        Ok(records)
    }

    /// Writes the rows of units, blob by blob in the order of the units; says where they lie.
    fn rewrite(
        &self,
        schema: &Schema,
        units: &[Digest],
        known: &Family,
    ) -> Result<(Option<TablePart>, Vec<BatchUnit>), CacheError> {
        let mut order = Vec::new();
        let mut by_blob: BTreeMap<u32, Vec<(u32, u32, Digest)>> = BTreeMap::new();
        let mut done = Vec::with_capacity(units.len());
        for unit in units {
            match known.place(unit) {
                Some(Place::Rows { blob, start, len }) => {
                    let places = by_blob.entry(blob).or_insert_with(|| {
                        order.push(blob);
                        Vec::new()
                    });
                    places.push((start, len, *unit));
                }
                _ => done.extend(known.outcome(unit).map(|outcome| BatchUnit { key: *unit, outcome })),
            }
        }
        if order.is_empty() {
            return Ok((None, done));
        }
        let (mut writer, mut end) = (self.table_writer(schema)?, 0);
        for number in order {
            let (blob, blob_rows) = known.blob(number);
            let mut places = by_blob.remove(&number).unwrap_or_default();
            places.sort_unstable();
            let ranges = places.iter().map(|&(start, len, _)| u64::from(start)..u64::from(start) + u64::from(len));
            let table = Table::from_ranges(ranges.map(|range| (blob, blob_rows, range)));
            for batch in self.read_rows(schema, &table, None)? {
                writer.write(&batch?)?;
            }
            for (_, len, key) in places {
                let start = end;
                end += u64::from(len);
                done.push(BatchUnit { key, outcome: UnitOutcome::Rows(start..end) });
            }
        }
        Ok((Some(writer.finish()?), done))
    }
}
