//! Row groups on their way into a Parquet file: gathered, encoded and digested on threads of their own, appended in order.
//!
//! Encoding is what keeping a large table costs (levels, dictionaries, zstd), and row groups know nothing of each other.
//! A table of one row group, as most are, is encoded where it is finished.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use super::digest::{RowHasher, TableHasher};
use super::error::CacheError;
use super::store::{Blob, BlobWriter};
use crate::digest::Digest;

/// A row group is closed at this size of its rows in memory.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// A row group is closed at this many rows.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Row groups that are encoded at once, at most: each is in memory as rows and as pages.
const MOST_AT_ONCE: usize = 8;

const DOING: &str = "writing a table";

/// Returns how Parquet is written here: compressed, in row groups of bounded size.
pub fn writer_properties() -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .build()
}

/// The row groups of one file, and the digest of what they hold if one is asked for.
pub(super) struct RowGroups {
    schema: SchemaRef,
    path: PathBuf,
    file: SerializedFileWriter<BlobWriter>,
    columns: ArrowRowGroupWriterFactory,
    hasher: Option<TableHasher>,
    /// Rows for the next row group.
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    waiting_rows: usize,
    num_begun: usize,
    encoding: VecDeque<JoinHandle<Result<Encoded, CacheError>>>,
    most_at_once: usize,
}

/// A row group that is ready to be appended.
struct Encoded {
    columns: Vec<ArrowColumnChunk>,
    digests: Vec<Digest>,
}

/// Everything that encoding a row group takes.
struct Encoding {
    schema: SchemaRef,
    path: PathBuf,
    columns: Vec<ArrowColumnWriter>,
    rows: Vec<RecordBatch>,
    hasher: Option<RowHasher>,
}

impl RowGroups {
    /// Begins a file of these columns.
    pub(super) fn new(blob: BlobWriter, schema: SchemaRef, hasher: Option<TableHasher>) -> Result<Self, CacheError> {
        let path = blob.path().to_owned();
        let writer = ArrowWriter::try_new(blob, SchemaRef::clone(&schema), Some(writer_properties()));
        let (file, columns) = writer
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(|error| CacheError::parquet("starting a table", &path, error))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            schema,
            path,
            file,
            columns,
            hasher,
            waiting: Vec::new(),
            waiting_bytes: 0,
            waiting_rows: 0,
            num_begun: 0,
            encoding: VecDeque::new(),
            most_at_once: cores.min(MOST_AT_ONCE),
        })
    }

    /// Adds rows, which must have the columns of the file.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), CacheError> {
        let mut first = 0;
        while first < batch.num_rows() {
            let most = (ROW_GROUP_ROWS - self.waiting_rows).min(batch.num_rows() - first);
            let count = self.rows_that_fit(batch, first, most);
            if count > 0 {
                self.waiting.push(batch.slice(first, count));
                self.waiting_bytes += bytes_of(batch, first..first + count);
                self.waiting_rows += count;
                first += count;
            }
            if count < most || self.waiting_rows == ROW_GROUP_ROWS {
                let next = self.next()?;
                while self.encoding.len() >= self.most_at_once {
                    self.append_first()?;
                }
                self.encoding.push_back(std::thread::spawn(|| next.encode()));
            }
        }
        Ok(())
    }

    /// How many rows from `first` on, `most` at most, go into the row group at hand. A row that is too large for any has one of its
    /// own: whoever reads a row of a group may have to read its dictionary, which is made of all its rows.
    fn rows_that_fit(&self, batch: &RecordBatch, first: usize, most: usize) -> usize {
        let fits = |count| self.waiting_bytes + bytes_of(batch, first..first + count) <= ROW_GROUP_BYTES;
        let (mut fitting, mut too_many) = (0, most + 1);
        while too_many - fitting > 1 {
            let count = if too_many == most + 1 { most } else { usize::midpoint(fitting, too_many) };
            if fits(count) { fitting = count } else { too_many = count }
        }
        if fitting == 0 && self.waiting_rows == 0 { 1 } else { fitting }
    }

    /// Ends the file: its blob, and the digest of its rows if one was asked for.
    pub(super) fn finish(mut self) -> Result<(Blob, Option<Digest>), CacheError> {
        let last = if self.waiting.is_empty() { None } else { Some(self.next()?.encode()?) };
        while !self.encoding.is_empty() {
            self.append_first()?;
        }
        if let Some(last) = last {
            self.append(last)?;
        }
        let Self { file, path, hasher, .. } = self;
        let blob = file.into_inner().map_err(|error| CacheError::parquet("finishing a table", &path, error))?;
        Ok((blob.finish()?, hasher.map(TableHasher::finish)))
    }

    fn next(&mut self) -> Result<Encoding, CacheError> {
        let columns = self.columns.create_column_writers(self.num_begun);
        self.num_begun += 1;
        self.waiting_bytes = 0;
        self.waiting_rows = 0;
        Ok(Encoding {
            schema: SchemaRef::clone(&self.schema),
            path: self.path.clone(),
            columns: columns.map_err(|error| CacheError::parquet(DOING, &self.path, error))?,
            rows: std::mem::take(&mut self.waiting),
            hasher: self.hasher.as_ref().map(|hasher| hasher.rows().clone()),
        })
    }

    fn append_first(&mut self) -> Result<(), CacheError> {
        let Some(first) = self.encoding.pop_front() else { return Ok(()) };
        // A panic goes on where its rows came from.
        let encoded = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.append(encoded)
    }

    fn append(&mut self, encoded: Encoded) -> Result<(), CacheError> {
        let write = || -> Result<(), ParquetError> {
            let mut group = self.file.next_row_group()?;
            for column in encoded.columns {
                column.append_to_row_group(&mut group)?;
            }
            group.close().map(|_| ())
        };
        write().map_err(|error| CacheError::parquet(DOING, &self.path, error))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.absorb(encoded.digests);
        }
        Ok(())
    }
}

impl Encoding {
    fn encode(mut self) -> Result<Encoded, CacheError> {
        let mut digests = Vec::new();
        for rows in std::mem::take(&mut self.rows) {
            if let Some(hasher) = &self.hasher {
                digests.append(&mut hasher.digests(&rows)?);
            }
            self.write(&rows).map_err(|error| failed(&self.path, error))?;
        }
        let columns = self.columns.into_iter().map(ArrowColumnWriter::close).collect::<Result<_, _>>();
        Ok(Encoded { columns: columns.map_err(|error| failed(&self.path, error))?, digests })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        let mut columns = self.columns.iter_mut();
        for (field, array) in self.schema.fields().iter().zip(rows.columns()) {
            for leaf in compute_leaves(field, array)? {
                columns.next().expect("as many writers as leaves").write(&leaf)?;
            }
        }
        Ok(())
    }
}

fn failed(path: &Path, error: ParquetError) -> CacheError {
    CacheError::parquet(DOING, path, error)
}

/// What some rows take in memory, about, without what else lies in their buffers.
fn bytes_of(batch: &RecordBatch, rows: Range<usize>) -> usize {
    batch.columns().iter().map(|column| bytes_between(column, rows.clone())).sum()
}

fn bytes_between(array: &dyn Array, rows: Range<usize>) -> usize {
    fn between<O: OffsetSizeTrait>(offsets: &[O], rows: &Range<usize>) -> Range<usize> {
        offsets[rows.start].as_usize()..offsets[rows.end].as_usize()
    }
    let values = match array.data_type() {
        DataType::Utf8 => between(array.as_string::<i32>().value_offsets(), &rows).len(),
        DataType::LargeUtf8 => between(array.as_string::<i64>().value_offsets(), &rows).len(),
        DataType::Binary => between(array.as_binary::<i32>().value_offsets(), &rows).len(),
        DataType::LargeBinary => between(array.as_binary::<i64>().value_offsets(), &rows).len(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            bytes_between(list.values(), between(list.value_offsets(), &rows))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            bytes_between(list.values(), between(list.value_offsets(), &rows))
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().map(|column| bytes_between(column, rows.clone())).sum()
        }
        other => {
            let average = || array.get_array_memory_size() / array.len().max(1);
            other.primitive_width().unwrap_or_else(average) * rows.len()
        }
    };
    values + rows.len()
}
