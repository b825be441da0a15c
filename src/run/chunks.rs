//! The rows of a stored table, read where and when they are wanted: a map stage walks tables that are larger than memory.
//!
//! A row is named by its number in the table. Rows are decoded in chunks, of which the last used are held, up to a number of bytes.
//! Whoever walks a table in its order finds the reader where the last chunk left it, and decodes every row once.

use super::{RunError, lock};
use crate::cache::{Cache, Digest, Table, TablePart, TableReader, row_digests};
use ablate_stages::job::conform;
use ablate_stages::stage::StageError;
use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Rows of a chunk, at most.
const CHUNK_ROWS: u64 = 1024;
/// Stored bytes of a chunk, about: wide rows come in smaller chunks.
const CHUNK_BYTES: u64 = 1 << 20;
/// Decoded bytes that are held.
const HELD_BYTES: usize = 16 << 20;
/// Readers that are kept where they are: one for each of some workers that walk different stretches.
const KEPT_CURSORS: usize = 4;

/// A stored table.
pub(super) struct Chunks {
    cache: Cache,
    /// The columns as they are stored, of which `columns` are read and given under `schema`.
    stored: Schema,
    columns: Vec<String>,
    schema: SchemaRef,
    parts: Vec<TablePart>,
    /// The number of each part's first row, and of the row after the last.
    starts: Vec<u32>,
    held: Mutex<Held>,
}

/// A chunk: its part, and its place in it.
type ChunkId = (usize, u32);

#[derive(Default)]
struct Held {
    /// The last used at the end.
    chunks: VecDeque<(ChunkId, RecordBatch)>,
    bytes: usize,
    cursors: VecDeque<Cursor>,
}

/// A reader that stands before a chunk.
struct Cursor {
    next: ChunkId,
    reader: TableReader,
    /// What was read beyond the chunk before.
    left: Option<RecordBatch>,
}

impl Chunks {
    /// A table without rows yet, stored with the columns `stored`, of which `columns` are read. They are given under `schema`,
    /// which may have nullable columns that are not stored.
    pub(super) fn new(cache: &Cache, stored: &Schema, columns: Vec<String>, schema: SchemaRef) -> Self {
        let (parts, starts) = (Vec::new(), vec![0]);
        Self { cache: cache.clone(), stored: stored.clone(), columns, schema, parts, starts, held: Mutex::default() }
    }

    /// Adds rows at the end.
    ///
    /// # Errors
    /// Where there are more rows than can be numbered.
    pub(super) fn extend(&mut self, table: &Table) -> Result<(), StageError> {
        for part in &table.parts {
            let end = u32::try_from(u64::from(self.num_rows()) + part.rows())
                .map_err(|_| StageError::failed("a table of a map stage has at most 4,294,967,295 rows"))?;
            self.parts.push(part.clone());
            self.starts.push(end);
        }
        Ok(())
    }

    /// How many rows there are.
    pub(super) fn num_rows(&self) -> u32 {
        self.starts[self.parts.len()]
    }

    /// About how many rows have so many stored bytes.
    pub(super) fn rows_within(&self, bytes: u64) -> usize {
        let row_bytes = self.parts.iter().map(row_bytes).max().unwrap_or(1);
        (bytes / row_bytes).max(1) as usize
    }

    /// The columns of the rows.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The same rows with one of their columns.
    pub(super) fn only(&self, column: &str) -> Result<Self, StageError> {
        let schema = Arc::new(self.schema.project(&[self.schema.index_of(column)?])?);
        let columns = self.columns.iter().filter(|name| *name == column).cloned().collect();
        let mut only = Self::new(&self.cache, &self.stored, columns, schema);
        (only.parts, only.starts) = (self.parts.clone(), self.starts.clone());
        Ok(only)
    }

    /// A table of the same columns without rows.
    pub(super) fn empty(&self) -> Self {
        Self::new(&self.cache, &self.stored, self.columns.clone(), Arc::clone(&self.schema))
    }

    /// All rows, in order.
    pub(super) fn scan(&self) -> Result<impl Iterator<Item = Result<RecordBatch, RunError>> + '_, RunError> {
        let table = Table { rows: u64::from(self.num_rows()), parts: self.parts.clone() };
        let most = self.parts.iter().map(chunk_rows).min().unwrap_or(CHUNK_ROWS);
        let reader = self.reader(&table)?.with_batch_rows(most as usize);
        Ok(reader.map(|batch| Ok(conform(&batch?, &self.schema)?)))
    }

    /// These rows, in the given order.
    pub(super) fn take(&self, rows: &[u32]) -> Result<RecordBatch, StageError> {
        let mut wanted: BTreeMap<ChunkId, Vec<u32>> = BTreeMap::new();
        let mut places = Vec::with_capacity(rows.len());
        for &row in rows {
            let (id, at) = self.chunk_of(row);
            let found = wanted.entry(id).or_default();
            places.push((id, found.len()));
            found.push(at);
        }
        let mut pieces = Vec::with_capacity(wanted.len());
        let mut numbers = BTreeMap::new();
        for (id, at) in wanted {
            numbers.insert(id, pieces.len());
            pieces.push(take_record_batch(&self.chunk(id)?, &UInt32Array::from(at))?);
        }
        match pieces.as_slice() {
            [] => Ok(RecordBatch::new_empty(Arc::clone(&self.schema))),
            // Taken in the order in which they were asked for.
            [only] => Ok(only.clone()),
            _ => {
                let places: Vec<(usize, usize)> = places.into_iter().map(|(id, at)| (numbers[&id], at)).collect();
                Ok(interleave_record_batch(&pieces.iter().collect::<Vec<_>>(), &places)?)
            }
        }
    }

    /// The chunk that a row is in, and its place there.
    fn chunk_of(&self, row: u32) -> (ChunkId, u32) {
        // The last part that begins at or before the row: parts without rows begin where the next one does.
        let part = self.starts[..self.parts.len()].partition_point(|&start| start <= row) - 1;
        let (at, size) = (row - self.starts[part], chunk_rows(&self.parts[part]) as u32);
        ((part, at / size), at % size)
    }

    fn chunk(&self, id: ChunkId) -> Result<RecordBatch, StageError> {
        let cursor = {
            let mut held = lock(&self.held);
            if let Some(at) = held.chunks.iter().position(|(known, _)| *known == id) {
                let found = held.chunks.remove(at).expect("it was just found");
                let rows = found.1.clone();
                held.chunks.push_back(found);
                return Ok(rows);
            }
            let at = held.cursors.iter().position(|cursor| cursor.next == id);
            at.and_then(|at| held.cursors.remove(at))
        };
        // Decoded without the lock: other workers walk other stretches meanwhile.
        let mut cursor = match cursor {
            Some(cursor) => cursor,
            None => self.cursor(id)?,
        };
        let size = chunk_rows(&self.parts[id.0]);
        let rows = cursor.read(size as usize)?;
        let rows = conform(&rows, &self.schema)?;
        cursor.next.1 += 1;
        let mut held = lock(&self.held);
        held.bytes += rows.get_array_memory_size();
        held.chunks.push_back((id, rows.clone()));
        while held.bytes > HELD_BYTES && held.chunks.len() > 1 {
            let dropped = held.chunks.pop_front().expect("there is more than one").1;
            held.bytes -= dropped.get_array_memory_size();
        }
        held.cursors.push_back(cursor);
        if held.cursors.len() > KEPT_CURSORS {
            held.cursors.pop_front();
        }
        Ok(rows)
    }

    fn cursor(&self, id: ChunkId) -> Result<Cursor, StageError> {
        let size = chunk_rows(&self.parts[id.0]);
        let rest = self.parts[id.0].without_first(u64::from(id.1) * size);
        let reader = self.reader(&rest.into()).map_err(|error| StageError::failed(error.to_string()))?;
        Ok(Cursor { next: id, reader: reader.with_batch_rows(size as usize), left: None })
    }

    fn reader(&self, table: &Table) -> Result<TableReader, RunError> {
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        Ok(self.cache.read_rows(&self.stored, table, Some(&columns))?)
    }
}

impl Cursor {
    /// The next rows: so many, or those that are left.
    fn read(&mut self, most: usize) -> Result<RecordBatch, StageError> {
        let mut pieces: Vec<RecordBatch> = self.left.take().into_iter().collect();
        let mut count: usize = pieces.iter().map(RecordBatch::num_rows).sum();
        while count < most {
            let Some(batch) = self.reader.next() else { break };
            let batch = batch.map_err(|error| StageError::failed(error.to_string()))?;
            count += batch.num_rows();
            pieces.push(batch);
        }
        let rows = match pieces.as_slice() {
            [only] => only.clone(),
            pieces => concat_batches(self.reader.schema(), pieces)?,
        };
        if count <= most {
            return Ok(rows);
        }
        self.left = Some(rows.slice(most, count - most));
        Ok(rows.slice(0, most))
    }
}

/// Rows of a part's chunks.
fn chunk_rows(part: &TablePart) -> u64 {
    (CHUNK_BYTES / row_bytes(part)).clamp(1, CHUNK_ROWS)
}

/// Stored bytes of a row.
fn row_bytes(part: &TablePart) -> u64 {
    (part.blob.bytes / part.blob_rows.max(1)).max(1)
}

/// The digest of each row over all its columns.
pub(super) fn digests(rows: &RecordBatch) -> Result<Vec<Digest>, RunError> {
    let schema = rows.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    Ok(row_digests(rows, &names)?)
}

/// A column's values as text.
pub(super) fn texts(rows: &RecordBatch, column: &str) -> Result<StringArray, StageError> {
    let values =
        rows.column_by_name(column).ok_or_else(|| StageError::failed(format!("column `{column}` is missing")))?;
    Ok(arrow::compute::cast(values, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A text, or nothing where it is null.
pub(super) fn text(texts: &StringArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Int64Type};

    /// A table of so many rows in parts, of some of which only some rows belong; and its numbers in order.
    fn table(cache: &Cache) -> (Schema, Table, Vec<i64>) {
        let schema =
            Schema::new(vec![Field::new("row_id", DataType::Utf8, false), Field::new("n", DataType::Int64, false)]);
        let (mut places, mut numbers) = (Vec::new(), Vec::new());
        for (part, count) in [5_000_i64, 1, 2_500].into_iter().enumerate() {
            let first = part as i64 * 10_000;
            let ids: Vec<String> = (first..first + count).map(|n| format!("row-{n}")).collect();
            let columns: Vec<arrow::array::ArrayRef> =
                vec![Arc::new(StringArray::from(ids)), Arc::new(Int64Array::from_iter_values(first..first + count))];
            let mut writer = cache.table_writer(&schema).unwrap();
            writer.write(&RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap()).unwrap();
            let part = writer.finish().unwrap();
            for range in [0..count.min(1_500), 1_700.min(count)..count] {
                places.push((part.blob, part.blob_rows, range.start as u64..range.end as u64));
                numbers.extend(range.map(|n| first + n));
            }
        }
        (schema, Table::from_ranges(places), numbers)
    }

    fn chunks(cache: &Cache) -> (Chunks, Vec<i64>) {
        let (schema, table, numbers) = table(cache);
        let seen = Arc::new(schema.project(&[1]).unwrap());
        let mut chunks = Chunks::new(cache, &schema, vec!["n".into()], seen);
        chunks.extend(&table).unwrap();
        (chunks, numbers)
    }

    fn numbers(rows: &RecordBatch) -> Vec<i64> {
        rows.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn rows_are_found_by_their_number_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (chunks, expected) = chunks(&cache);
        assert_eq!(chunks.num_rows() as usize, expected.len());
        let scanned: Vec<i64> = chunks.scan().unwrap().flat_map(|rows| numbers(&rows.unwrap())).collect();
        assert_eq!(scanned, expected);
        for step in [1, 7, 1_023, 1_024, 4_999] {
            let rows: Vec<u32> = (0..chunks.num_rows()).map(|row| (row * step) % chunks.num_rows()).collect();
            let wanted: Vec<i64> = rows.iter().map(|&row| expected[row as usize]).collect();
            assert_eq!(numbers(&chunks.take(&rows).unwrap()), wanted, "every {step}th");
        }
        assert_eq!(chunks.take(&[]).unwrap().num_rows(), 0);
        assert_eq!(numbers(&chunks.take(&[3, 3, 0]).unwrap()), [expected[3], expected[3], expected[0]]);
    }

    #[test]
    fn a_walk_in_order_opens_each_part_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (chunks, expected) = chunks(&cache);
        for first in (0..chunks.num_rows()).step_by(100) {
            let rows: Vec<u32> = (first..(first + 100).min(chunks.num_rows())).collect();
            assert_eq!(numbers(&chunks.take(&rows).unwrap())[0], expected[first as usize]);
            let cursors = lock(&chunks.held).cursors.len();
            assert!(cursors <= chunks.parts.len(), "{cursors} cursors after row {first}");
        }
    }
}
