//! Tables as Parquet: the one writer and the one reader.
//!
//! A table is a list of parts: a blob and the rows of it that belong. A stage that works on all rows at once has one
//! part; a map stage has one for each batch that its units came from. Files hold no time and no host; the schema,
//! nested fields and dictionaries included, comes back as it went in.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderBuilder, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use serde::{Deserialize, Serialize};

use super::Cache;
use super::digest::TableHasher;
use super::encode::RowGroups;
use super::error::CacheError;
use super::record::TableOutput;
use super::store::Blob;

/// Rows of a batch that is read, at most.
const BATCH_ROWS: usize = 4096;
/// What the rows of a batch that is read take in memory, about: what fits into a cache of the processor.
const BATCH_BYTES: usize = 2 << 20;
/// Rows of a batch that is read, at least: unless that would be all there are, or less is asked for.
const MIN_BATCH_ROWS: usize = 64;

/// Where the rows of a table lie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// How many rows.
    pub rows: u64,
    /// The blobs and the rows of them that belong.
    pub parts: Vec<TablePart>,
}

/// Rows of one Parquet blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TablePart {
    /// The Parquet file.
    pub blob: Blob,
    /// How many rows the file has.
    pub blob_rows: u64,
    /// The rows that belong, ascending and apart; `None` if all do.
    pub ranges: Option<Vec<Range<u64>>>,
}

impl TablePart {
    /// Returns how many rows belong.
    pub fn rows(&self) -> u64 {
        self.ranges.as_ref().map_or(self.blob_rows, |ranges| ranges.iter().map(|range| range.end - range.start).sum())
    }

    /// Returns the part without the first `skip` rows that belong.
    #[must_use]
    pub fn without_first(&self, mut skip: u64) -> Self {
        if skip == 0 {
            return self.clone();
        }
        let all = || std::iter::once(0..self.blob_rows).collect();
        let mut ranges: Vec<Range<u64>> = self.ranges.clone().unwrap_or_else(all);
        ranges.retain_mut(|range| {
            let skipped = skip.min(range.end - range.start);
            range.start += skipped;
            skip -= skipped;
            !range.is_empty()
        });
        Self { blob: self.blob, blob_rows: self.blob_rows, ranges: Some(ranges) }
    }
}

impl From<TablePart> for Table {
    fn from(part: TablePart) -> Self {
        Self { rows: part.rows(), parts: vec![part] }
    }
}

impl Table {
    /// Returns the table of these rows, each given as blob, the blob's number of rows, and a range of them.
    ///
    /// Blobs keep the order of their first row, rows the order they have in their blob. A row that is given twice is
    /// in the table twice.
    pub fn from_ranges(places: impl IntoIterator<Item = (Blob, u64, Range<u64>)>) -> Self {
        let mut order: Vec<(Blob, u64)> = Vec::new();
        let mut by_blob: std::collections::HashMap<Blob, Vec<Range<u64>>> = std::collections::HashMap::new();
        for (blob, blob_rows, range) in places {
            if range.is_empty() {
                continue;
            }
            by_blob
                .entry(blob)
                .or_insert_with(|| {
                    order.push((blob, blob_rows));
                    Vec::new()
                })
                .push(range);
        }
        let mut parts = Vec::new();
        for (blob, blob_rows) in order {
            let mut left = by_blob.remove(&blob).expect("every blob in the order has ranges");
            left.sort_by_key(|range| (range.start, range.end));
            // Ranges that overlap cannot be read in one pass: those left over make a further part of the same blob.
            while !left.is_empty() {
                let mut ranges: Vec<Range<u64>> = Vec::new();
                let mut again = Vec::new();
                for range in left {
                    match ranges.last_mut() {
                        Some(last) if range.start < last.end => again.push(range),
                        Some(last) if range.start == last.end => last.end = range.end,
                        _ => ranges.push(range),
                    }
                }
                let all = matches!(ranges.as_slice(), [only] if *only == (0..blob_rows));
                parts.push(TablePart { blob, blob_rows, ranges: (!all).then_some(ranges) });
                left = again;
            }
        }
        Self { rows: parts.iter().map(TablePart::rows).sum(), parts }
    }

    /// Returns what is wrong with the list of parts, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        for part in &self.parts {
            let mut end = 0;
            for range in part.ranges.iter().flatten() {
                if range.start < end || range.start >= range.end || range.end > part.blob_rows {
                    return Err(format!(
                        "expected ascending ranges within 0..{}, got {}..{} after row {end}",
                        part.blob_rows, range.start, range.end
                    ));
                }
                end = range.end;
            }
        }
        let rows: u64 = self.parts.iter().map(TablePart::rows).sum();
        if rows == self.rows { Ok(()) } else { Err(format!("expected {} rows, the parts have {rows}", self.rows)) }
    }
}

impl Cache {
    /// Returns a writer for one Parquet blob with these columns.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`; `Table` if Parquet has no form for a type;
    /// `DuplicateColumn` if a name occurs twice.
    pub fn table_writer(&self, schema: &Schema) -> Result<TableWriter, CacheError> {
        self.writer(schema, None, &[])
    }

    fn writer(
        &self,
        schema: &Schema,
        hasher: Option<TableHasher>,
        measured: &[String],
    ) -> Result<TableWriter, CacheError> {
        let schema = plain_schema(schema);
        let mut names = BTreeSet::new();
        if let Some(field) = schema.fields().iter().find(|field| !names.insert(field.name())) {
            return Err(CacheError::DuplicateColumn { column: field.name().clone() });
        }
        let groups = RowGroups::new(self.blob_writer()?, Arc::clone(&schema), hasher)?;
        Ok(TableWriter { schema, groups, rows: 0, measured: measured.to_vec() })
    }

    /// Returns a writer as [`Cache::table_writer`], which also computes the table's digest as rows go by, without the
    /// `measured` columns. Finish it by [`TableWriter::finish_output`].
    ///
    /// # Errors
    /// As [`Cache::table_writer`]; `MissingColumn` if a measured column is not in the schema; `UnsupportedType`.
    pub fn output_writer(&self, schema: &Schema, measured: &[String]) -> Result<TableWriter, CacheError> {
        let hasher = TableHasher::new(schema, &digested_columns(schema, measured)?)?;
        self.writer(schema, Some(hasher), measured)
    }

    /// Returns a table's rows, or the given columns of them in the given order.
    ///
    /// # Errors
    /// `MissingColumn` or `DuplicateColumn`. The iterator's items: `MissingObject`, `CorruptObject`, `Table`, `Io`.
    pub fn read_table(&self, output: &TableOutput, columns: Option<&[&str]>) -> Result<TableReader, CacheError> {
        self.read_rows(&output.schema, &output.table, columns)
    }

    /// Returns rows that are not (yet) an output, for example those of some units; as [`Cache::read_table`].
    ///
    /// # Errors
    /// As [`Cache::read_table`].
    pub fn read_rows(
        &self,
        schema: &Schema,
        table: &Table,
        columns: Option<&[&str]>,
    ) -> Result<TableReader, CacheError> {
        let schema = match columns {
            None => plain_schema(schema),
            Some(names) => {
                let mut fields = Vec::with_capacity(names.len());
                for (place, name) in names.iter().enumerate() {
                    if names[..place].contains(name) {
                        return Err(CacheError::DuplicateColumn { column: (*name).to_owned() });
                    }
                    fields.push(Arc::clone(find_field(schema, name)?));
                }
                Arc::new(Schema::new(fields))
            }
        };
        Ok(TableReader {
            cache: self.clone(),
            schema,
            left: table.parts.iter().cloned().collect(),
            batch_rows: BATCH_ROWS,
            current: None,
            failed: false,
        })
    }

    /// Returns rows that lie in parts as an output: computes their digest, without the `measured` columns.
    ///
    /// # Errors
    /// As [`Cache::read_table`] and its items; `UnsupportedType`.
    pub fn table_output(&self, schema: &Schema, table: Table, measured: &[String]) -> Result<TableOutput, CacheError> {
        let content = self.subset_digest(schema, &table, &digested_columns(schema, measured)?)?;
        let schema = plain_schema(schema).as_ref().clone();
        Ok(TableOutput { content, measured: measured.to_vec(), schema, table })
    }
}

/// Returns the columns that enter a table's digest.
fn digested_columns<'a>(schema: &'a Schema, measured: &[String]) -> Result<Vec<&'a str>, CacheError> {
    for name in measured {
        find_field(schema, name)?;
    }
    Ok(schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| !measured.iter().any(|m| m == name))
        .collect())
}

/// Returns the field of this name.
pub(super) fn find_field<'a>(schema: &'a Schema, name: &str) -> Result<&'a Arc<Field>, CacheError> {
    schema.fields().iter().find(|field| field.name() == name).ok_or_else(|| CacheError::MissingColumn {
        column: name.to_owned(),
        found: schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Returns the schema without its metadata, which means nothing here and would make equal tables different files.
fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().clone()))
}

/// Writes one Parquet blob; nothing is stored if it is dropped unfinished.
pub struct TableWriter {
    schema: SchemaRef,
    groups: RowGroups,
    rows: u64,
    measured: Vec<String>,
}

impl TableWriter {
    /// Adds rows. Holds a row group (16 MiB) in memory, and one more for each core where there are several.
    ///
    /// # Errors
    /// `SchemaMismatch` if columns, types or nulls are not those of the table; `DiskFull`, `NoPermission`, `ReadOnly`,
    /// `Io` or `Table`.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), CacheError> {
        let mismatch =
            || CacheError::SchemaMismatch { expected: describe(&self.schema), found: describe(batch.schema_ref()) };
        let same_names = self.schema.fields().len() == batch.num_columns()
            && self.schema.fields().iter().zip(batch.schema_ref().fields()).all(|(a, b)| a.name() == b.name());
        if !same_names {
            return Err(mismatch());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &options)
            .map_err(|_| mismatch())?;
        self.groups.push(&batch)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Returns how many rows were written.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Makes what was written a blob, and returns it as a part of all its rows.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly`, `Io` or `Table`; nothing is stored then.
    pub fn finish(self) -> Result<TablePart, CacheError> {
        let (blob, _) = self.groups.finish()?;
        Ok(TablePart { blob, blob_rows: self.rows, ranges: None })
    }

    /// Makes what was written an output with its digest.
    ///
    /// # Errors
    /// As [`TableWriter::finish`].
    ///
    /// # Panics
    /// If the writer was not made by [`Cache::output_writer`].
    pub fn finish_output(self) -> Result<TableOutput, CacheError> {
        let Self { schema, groups, rows, measured } = self;
        let (blob, content) = groups.finish()?;
        let content = content.expect("an output is written by an output writer");
        let table = TablePart { blob, blob_rows: rows, ranges: None }.into();
        Ok(TableOutput { content, measured, schema: schema.as_ref().clone(), table })
    }
}

fn describe(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| {
        let null = if field.is_nullable() { "?" } else { "" };
        format!("{}: {}{null}", field.name(), field.data_type())
    };
    format!("({})", schema.fields().iter().map(column).collect::<Vec<_>>().join(", "))
}

/// Reads a table batch by batch; see [`Cache::read_table`].
pub struct TableReader {
    cache: Cache,
    schema: SchemaRef,
    left: VecDeque<TablePart>,
    batch_rows: usize,
    current: Option<(PathBuf, ParquetRecordBatchReader)>,
    failed: bool,
}

impl TableReader {
    /// Returns the columns of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads at most so many rows at once.
    #[must_use]
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows;
        self
    }

    fn open(&self, part: &TablePart) -> Result<(PathBuf, ParquetRecordBatchReader), CacheError> {
        let doing = "reading a table";
        let path = self.cache.blob_path(&part.blob)?;
        let file = File::open(&path).map_err(|error| CacheError::io(doing, &path, error))?;
        // The page index lets a few rows be read without their whole row group.
        let options = ArrowReaderOptions::new().with_page_index_policy(if part.ranges.is_some() {
            PageIndexPolicy::Optional
        } else {
            PageIndexPolicy::Skip
        });
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|error| CacheError::parquet(doing, &path, error))?;
        let mut roots = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            find_field(builder.schema(), field.name())?;
            roots.push(builder.schema().index_of(field.name()).expect("the field was just found"));
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let row_bytes = row_bytes(&builder, &mask);
        let batch_rows = self.batch_rows.min((BATCH_BYTES / row_bytes.max(1)).max(MIN_BATCH_ROWS));
        let mut builder = builder.with_batch_size(batch_rows).with_projection(mask);
        if let Some(ranges) = &part.ranges {
            let (groups, selection) = selected(builder.metadata(), ranges);
            builder = builder.with_row_groups(groups).with_row_selection(selection);
        }
        let reader = builder.build().map_err(|error| CacheError::parquet(doing, &path, error))?;
        Ok((path, reader))
    }

    /// Returns the batch with its columns in our order and under our schema.
    fn arrange(&self, batch: &RecordBatch) -> Result<RecordBatch, CacheError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let column = batch.column_by_name(field.name()).expect("the projection asked for this column");
            columns.push(Arc::clone(column));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|_| {
            CacheError::SchemaMismatch { expected: describe(&self.schema), found: describe(batch.schema_ref()) }
        })
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>, CacheError> {
        loop {
            if let Some((path, reader)) = &mut self.current {
                match reader.next() {
                    Some(Ok(batch)) if batch.num_rows() == 0 => continue,
                    Some(Ok(batch)) => return self.arrange(&batch).map(Some),
                    Some(Err(error)) => return Err(CacheError::arrow("reading a table", path, error)),
                    None => self.current = None,
                }
            }
            let Some(part) = self.left.pop_front() else { return Ok(None) };
            if part.rows() > 0 {
                self.current = Some(self.open(&part)?);
            }
        }
    }
}

/// The row groups of a file that hold some of these rows, and where the rows are in what those groups hold. The reader itself goes
/// through every group that it is given, and decodes at least its dictionaries.
fn selected(metadata: &ParquetMetaData, ranges: &[Range<u64>]) -> (Vec<usize>, RowSelection) {
    let (mut groups, mut places) = (Vec::new(), Vec::new());
    let (mut first, mut num_held) = (0, 0);
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let end = first + group.num_rows() as u64;
        let here = &ranges[ranges.partition_point(|range| range.end <= first)..];
        let here = here.iter().take_while(|range| range.start < end);
        let num_places = places.len();
        places.extend(here.map(|range| {
            let place = |row: u64| (row.clamp(first, end) - first + num_held) as usize;
            place(range.start)..place(range.end)
        }));
        if places.len() > num_places {
            groups.push(number);
            num_held += end - first;
        }
        first = end;
    }
    (groups, RowSelection::from_consecutive_ranges(places.into_iter(), num_held as usize))
}

/// What a row takes in the columns that are read, uncompressed, on average.
fn row_bytes<T>(builder: &ArrowReaderBuilder<T>, mask: &ProjectionMask) -> usize {
    let metadata = builder.metadata();
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns().iter().enumerate());
    let bytes: i64 = columns.filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, c)| c.uncompressed_size()).sum();
    usize::try_from(bytes / metadata.file_metadata().num_rows().max(1)).unwrap_or_default()
}

impl Iterator for TableReader {
    type Item = Result<RecordBatch, CacheError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.advance();
        self.failed = item.is_err();
        item.transpose()
    }
}
