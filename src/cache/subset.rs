//! Digests of column subsets: what a stage that declares three columns of a table puts into its key.
//!
//! Computing one reads the columns; the result is kept under the digest of (blobs, ranges, columns), which it depends
//! on and nothing else.

use arrow_schema::Schema;
use serde::{Deserialize, Serialize};

use super::Cache;
use super::digest::TableHasher;
use super::error::CacheError;
use super::record::{Filed, RECORD_FORMAT, TableOutput, encode};
use super::table::Table;
use crate::digest::Digest;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubsetNote {
    format: u32,
    id: Digest,
    digest: Digest,
}

impl Filed for SubsetNote {
    fn format(&self) -> u32 {
        self.format
    }
    fn name(&self) -> Digest {
        self.id
    }
}

impl Cache {
    /// Returns the digest of some columns of rows, in any order of columns. It is computed at most once.
    ///
    /// # Errors
    /// `MissingColumn`, `DuplicateColumn`, `UnsupportedType`; as the items of [`Cache::read_table`].
    pub fn subset_digest(&self, schema: &Schema, table: &Table, columns: &[&str]) -> Result<Digest, CacheError> {
        let mut hasher = TableHasher::new(schema, columns)?;
        if table.rows == 0 {
            return Ok(hasher.finish());
        }
        let id = subset_id(table, columns);
        let path = self.layout().subset_digest(&id);
        if let Some(note) = self.read_sealed::<SubsetNote>(&path, Some(&id), RECORD_FORMAT) {
            return Ok(note.digest);
        }
        for batch in self.read_rows(schema, table, Some(columns))? {
            hasher.push(&batch?)?;
        }
        let digest = hasher.finish();
        // A cache that cannot be written computes it again next time.
        let note = SubsetNote { format: RECORD_FORMAT, id, digest };
        let _ = encode(&note, "digest of columns")
            .and_then(|text| self.write_whole(&path, &text, "keeping the digest of columns"));
        Ok(digest)
    }

    /// Returns the digest that an output enters keys with, for a port that declares these columns.
    ///
    /// # Errors
    /// As [`Cache::subset_digest`].
    pub fn declared_digest(&self, output: &TableOutput, columns: &[&str]) -> Result<Digest, CacheError> {
        let unmeasured =
            output.schema.fields().iter().map(|field| field.name()).filter(|name| !output.measured.contains(name));
        let mut all: Vec<&str> = unmeasured.map(String::as_str).collect();
        let mut declared = columns.to_vec();
        all.sort_unstable();
        declared.sort_unstable();
        // All columns that are digested at all: that digest is known since the table was written.
        if all == declared {
            return Ok(output.content);
        }
        self.subset_digest(&output.schema, &output.table, columns)
    }
}

fn subset_id(table: &Table, columns: &[&str]) -> Digest {
    let mut columns = columns.to_vec();
    columns.sort_unstable();
    let mut parts: Vec<Vec<u8>> = vec![(columns.len() as u64).to_le_bytes().to_vec()];
    parts.extend(columns.iter().map(|name| name.as_bytes().to_vec()));
    parts.extend(table_parts(table));
    Digest::of_parts("ablate column subset v1", parts)
}

/// Returns what names the stored rows of a table: its blobs and ranges.
pub(super) fn table_parts(table: &Table) -> impl Iterator<Item = Vec<u8>> + '_ {
    table.parts.iter().flat_map(|part| {
        let ranges = part.ranges.iter().flatten();
        let ranges = ranges.flat_map(|range| [range.start.to_le_bytes(), range.end.to_le_bytes()].concat()).collect();
        [part.blob.hash.as_bytes().to_vec(), ranges]
    })
}
