//! The digest of a table by what it means: a set of rows, whatever file, batch or physical type they are in.
//!
//! # Encoding (version 1; a change makes every cache start anew)
//! A column has a meaning: `null`, `bool`, `int` (all widths, signed or not), `float` (16, 32, 64 bits), `string`
//! (`Utf8`, `LargeUtf8`, `Utf8View`), `bytes` (`Binary`, `LargeBinary`, `BinaryView`, `FixedSizeBinary`), `list<M>` (`List`, `LargeList`,
//! `FixedSizeList`; the item's name means nothing), `struct{name:M,..}` with fields by name, `map` as a list of structs
//! `key`, `value`, and dates, times, timestamps, durations and decimals under Arrow's own name of the type. A dictionary
//! means its values. Nullability and metadata mean nothing.
//!
//! A value is the byte 0 if it is null, else 1 and then:
//! `bool` one byte; `int` the byte 1 if it is negative else 0, then 8 bytes little-endian; `float` the bits of the
//! f64, 8 bytes little-endian, with -0 as 0 and every NaN as `7ff8000000000000`; `string` and `bytes` the length as
//! 8 bytes little-endian, then the bytes; `list` the length in the same way, then the values; `struct` its values, fields by name;
//! the others their native value, little-endian.
//!
//! The schema digest is derived (context `ablate table schema v1`) from name and meaning of the columns, by name, each length-prefixed.
//! A row's digest is BLAKE3 keyed with the schema digest of its values, columns by name. The table's digest is derived
//! (context `ablate table v1`) from the schema digest, the number of rows (8 bytes little-endian) and the sorted row digests.

use arrow::array::cast::AsArray;
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::ToByteSlice;
use arrow_schema::{DataType, FieldRef, Fields, Schema, TimeUnit};
use rayon::prelude::*;

use super::error::CacheError;
use super::table::find_field;
use crate::digest::Digest;

/// Rows that one task hashes at least.
const TASK_ROWS: usize = 1024;

/// Appends one row's value of a column to the bytes to be hashed.
type Encode<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + Send + Sync + 'a>;

/// Computes a table's digest from its batches, in any order. Holds 32 bytes a row.
#[derive(Debug)]
pub struct TableHasher {
    of: RowHasher,
    rows: Vec<Digest>,
}

/// Computes the digests of a table's rows.
#[derive(Debug, Clone)]
pub(super) struct RowHasher {
    columns: Vec<String>,
    schema: Digest,
}

impl TableHasher {
    /// Returns the hasher for these columns of a table.
    ///
    /// # Errors
    /// `MissingColumn`, `DuplicateColumn` or `UnsupportedType`.
    pub fn new(schema: &Schema, columns: &[&str]) -> Result<Self, CacheError> {
        let mut columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        columns.sort();
        if let Some(pair) = columns.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(CacheError::DuplicateColumn { column: pair[0].clone() });
        }
        let schema = schema_digest(schema, &columns)?;
        Ok(Self { of: RowHasher { columns, schema }, rows: Vec::new() })
    }

    /// Adds a batch, whose columns may lie in another order or be of another physical type.
    ///
    /// # Errors
    /// `MissingColumn`, `UnsupportedType`, or `SchemaMismatch` if a column means another type.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), CacheError> {
        self.absorb(self.of.digests(batch)?);
        Ok(())
    }

    /// What digests single rows of the table.
    pub(super) fn rows(&self) -> &RowHasher {
        &self.of
    }

    /// Adds rows that are digested already.
    pub(super) fn absorb(&mut self, mut rows: Vec<Digest>) {
        self.rows.append(&mut rows);
    }

    /// Returns the table's digest.
    pub fn finish(mut self) -> Digest {
        self.rows.par_sort_unstable();
        let mut hasher = blake3::Hasher::new_derive_key("ablate table v1");
        hasher.update(self.of.schema.as_bytes());
        hasher.update(&(self.rows.len() as u64).to_le_bytes());
        for row in &self.rows {
            hasher.update(row.as_bytes());
        }
        hasher.finalize().into()
    }
}

impl RowHasher {
    /// The digests of a batch's rows. Its columns may lie in another order or be of another physical type.
    ///
    /// # Errors
    /// As [`TableHasher::push`].
    pub(super) fn digests(&self, batch: &RecordBatch) -> Result<Vec<Digest>, CacheError> {
        let found = schema_digest(batch.schema_ref(), &self.columns)?;
        if found != self.schema {
            return Err(CacheError::SchemaMismatch {
                expected: format!("the columns {} as in the first batch", self.columns.join(", ")),
                found: batch.schema_ref().to_string(),
            });
        }
        digest_rows(batch, &self.columns, self.schema)
    }
}

/// Returns the digest of each row over these columns: equal for equal values under equal names and meanings.
///
/// # Errors
/// `MissingColumn`, `DuplicateColumn` or `UnsupportedType`.
pub fn row_digests(batch: &RecordBatch, columns: &[&str]) -> Result<Vec<Digest>, CacheError> {
    let hasher = TableHasher::new(batch.schema_ref(), columns)?;
    digest_rows(batch, &hasher.of.columns, hasher.of.schema)
}

fn digest_rows(batch: &RecordBatch, columns: &[String], schema: Digest) -> Result<Vec<Digest>, CacheError> {
    let mut encoders = Vec::with_capacity(columns.len());
    for name in columns {
        let array = batch.column_by_name(name).expect("the schema digest has found every column");
        encoders.push(encoder(array, name)?);
    }
    Ok((0..batch.num_rows())
        .into_par_iter()
        .with_min_len(TASK_ROWS)
        .map_init(Vec::new, |bytes, row| {
            bytes.clear();
            for encode in &encoders {
                encode(row, bytes);
            }
            Digest::from(blake3::keyed_hash(schema.as_bytes(), bytes))
        })
        .collect())
}

fn schema_digest(schema: &Schema, sorted_columns: &[String]) -> Result<Digest, CacheError> {
    let mut parts = Vec::with_capacity(2 * sorted_columns.len());
    for name in sorted_columns {
        let field = find_field(schema, name)?;
        parts.push(name.clone());
        parts.push(meaning(field.data_type(), name)?);
    }
    Ok(Digest::of_parts("ablate table schema v1", parts))
}

/// Returns the name of what a type means.
fn meaning(data_type: &DataType, column: &str) -> Result<String, CacheError> {
    use DataType as T;
    Ok(match data_type {
        T::Null => "null".to_owned(),
        T::Boolean => "bool".to_owned(),
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => "int".to_owned(),
        T::Float16 | T::Float32 | T::Float64 => "float".to_owned(),
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "string".to_owned(),
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => "bytes".to_owned(),
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) => {
            format!("list<{}>", meaning(item.data_type(), column)?)
        }
        T::Struct(fields) => struct_meaning(fields, column)?,
        T::Map(entries, _) => match entries.data_type() {
            T::Struct(fields) if fields.len() == 2 => {
                let (key, value) = (meaning(fields[0].data_type(), column)?, meaning(fields[1].data_type(), column)?);
                format!("list<struct{{3:key:{key},5:value:{value}}}>")
            }
            _ => return Err(unsupported(data_type, column)),
        },
        T::Dictionary(_, values) => meaning(values, column)?,
        T::Date32 => "date32".to_owned(),
        T::Date64 => "date64".to_owned(),
        T::Time32(unit) | T::Time64(unit) => format!("time[{}]", unit_name(*unit)),
        T::Timestamp(unit, zone) => format!("timestamp[{},{}]", unit_name(*unit), zone.as_deref().unwrap_or("-")),
        T::Duration(unit) => format!("duration[{}]", unit_name(*unit)),
        T::Decimal128(precision, scale) => format!("decimal128[{precision},{scale}]"),
        T::Decimal256(precision, scale) => format!("decimal256[{precision},{scale}]"),
        _ => return Err(unsupported(data_type, column)),
    })
}

fn struct_meaning(fields: &Fields, column: &str) -> Result<String, CacheError> {
    let mut parts = Vec::with_capacity(fields.len());
    for field in by_name(fields, column)?.into_iter().map(|(_, field)| field) {
        // The length before the name keeps names with commas or colons apart.
        parts.push(format!("{}:{}:{}", field.name().len(), field.name(), meaning(field.data_type(), column)?));
    }
    Ok(format!("struct{{{}}}", parts.join(",")))
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

fn by_name<'a>(fields: &'a Fields, column: &str) -> Result<Vec<(usize, &'a FieldRef)>, CacheError> {
    let mut sorted: Vec<_> = fields.iter().enumerate().collect();
    sorted.sort_by_key(|(_, field)| field.name());
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].1.name() == pair[1].1.name()) {
        return Err(CacheError::DuplicateColumn { column: format!("{column}.{}", pair[0].1.name()) });
    }
    Ok(sorted)
}

fn unsupported(data_type: &DataType, column: &str) -> CacheError {
    CacheError::UnsupportedType { column: column.to_owned(), data_type: data_type.to_string() }
}

/// Returns the encoding of a column: the tag for null or not, then the value by `value`.
fn tagged<'a>(nulls: Option<&'a NullBuffer>, value: impl Fn(usize, &mut Vec<u8>) + Send + Sync + 'a) -> Encode<'a> {
    Box::new(move |row, out| {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.push(0);
        } else {
            out.push(1);
            value(row, out);
        }
    })
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_float(value: f64, out: &mut Vec<u8>) {
    let bits = if value.is_nan() {
        0x7ff8_0000_0000_0000
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    };
    out.extend_from_slice(&bits.to_le_bytes());
}

fn ints<'a, T: ArrowPrimitiveType>(
    array: &'a ArrayRef,
    to_wide: impl Fn(T::Native) -> i128 + Send + Sync + 'a,
) -> Encode<'a> {
    let values = array.as_primitive::<T>();
    tagged(values.nulls(), move |row, out| {
        let wide = to_wide(values.value(row));
        out.push(u8::from(wide < 0));
        // The low 64 bits: of an i64 its own, of a u64 its own. The sign byte tells -1 from u64::MAX.
        out.extend_from_slice(&(wide as u64).to_le_bytes());
    })
}

fn floats<'a, T: ArrowPrimitiveType>(
    array: &'a ArrayRef,
    to_wide: impl Fn(T::Native) -> f64 + Send + Sync + 'a,
) -> Encode<'a> {
    let values = array.as_primitive::<T>();
    tagged(values.nulls(), move |row, out| put_float(to_wide(values.value(row)), out))
}

fn natives<T: ArrowPrimitiveType>(array: &ArrayRef) -> Encode<'_> {
    let values = array.as_primitive::<T>();
    // Arrow runs on little-endian machines only as far as we build: these are the little-endian bytes.
    tagged(values.nulls(), move |row, out| out.extend_from_slice(values.value(row).to_byte_slice()))
}

fn lists<'a>(
    array: &'a ArrayRef,
    items: &'a ArrayRef,
    column: &str,
    range: impl Fn(usize) -> (usize, usize) + Send + Sync + 'a,
) -> Result<Encode<'a>, CacheError> {
    let encode = encoder(items, column)?;
    Ok(tagged(array.nulls(), move |row, out| {
        let (start, end) = range(row);
        out.extend_from_slice(&((end - start) as u64).to_le_bytes());
        for item in start..end {
            encode(item, out);
        }
    }))
}

fn encoder<'a>(array: &'a ArrayRef, column: &str) -> Result<Encode<'a>, CacheError> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Null => Box::new(|_, out| out.push(0)),
        T::Boolean => {
            let values = array.as_boolean();
            tagged(values.nulls(), move |row, out| out.push(u8::from(values.value(row))))
        }
        T::Int8 => ints::<Int8Type>(array, i128::from),
        T::Int16 => ints::<Int16Type>(array, i128::from),
        T::Int32 => ints::<Int32Type>(array, i128::from),
        T::Int64 => ints::<Int64Type>(array, i128::from),
        T::UInt8 => ints::<UInt8Type>(array, i128::from),
        T::UInt16 => ints::<UInt16Type>(array, i128::from),
        T::UInt32 => ints::<UInt32Type>(array, i128::from),
        T::UInt64 => ints::<UInt64Type>(array, i128::from),
        T::Float16 => floats::<Float16Type>(array, f64::from),
        T::Float32 => floats::<Float32Type>(array, f64::from),
        T::Float64 => floats::<Float64Type>(array, |value| value),
        T::Utf8 => {
            let values = array.as_string::<i32>();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row).as_bytes(), out))
        }
        T::LargeUtf8 => {
            let values = array.as_string::<i64>();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row).as_bytes(), out))
        }
        T::Utf8View => {
            let values = array.as_string_view();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row).as_bytes(), out))
        }
        T::Binary => {
            let values = array.as_binary::<i32>();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row), out))
        }
        T::LargeBinary => {
            let values = array.as_binary::<i64>();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row), out))
        }
        T::BinaryView => {
            let values = array.as_binary_view();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row), out))
        }
        T::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            tagged(values.nulls(), move |row, out| put_bytes(values.value(row), out))
        }
        T::List(_) => {
            let values = array.as_list::<i32>();
            let offsets = values.value_offsets();
            lists(array, values.values(), column, |row| (offsets[row] as usize, offsets[row + 1] as usize))?
        }
        T::LargeList(_) => {
            let values = array.as_list::<i64>();
            let offsets = values.value_offsets();
            lists(array, values.values(), column, |row| (offsets[row] as usize, offsets[row + 1] as usize))?
        }
        T::FixedSizeList(_, size) => {
            let (values, size) = (array.as_fixed_size_list(), *size as usize);
            lists(array, values.values(), column, move |row| (row * size, (row + 1) * size))?
        }
        T::Map(..) => {
            let values = array.as_map();
            let (offsets, entries) = (values.value_offsets(), values.entries());
            let (key, value) = (encoder(entries.column(0), column)?, encoder(entries.column(1), column)?);
            tagged(values.nulls(), move |row, out| {
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                out.extend_from_slice(&((end - start) as u64).to_le_bytes());
                for entry in start..end {
                    out.push(1);
                    key(entry, out);
                    value(entry, out);
                }
            })
        }
        T::Struct(fields) => {
            let values = array.as_struct();
            let mut encoders = Vec::with_capacity(fields.len());
            for (place, _) in by_name(fields, column)? {
                encoders.push(encoder(values.column(place), column)?);
            }
            tagged(values.nulls(), move |row, out| encoders.iter().for_each(|encode| encode(row, out)))
        }
        T::Dictionary(..) => {
            let values = array.as_any_dictionary();
            if values.values().is_empty() {
                return Ok(Box::new(|_, out| out.push(0)));
            }
            let (keys, encode) = (values.normalized_keys(), encoder(values.values(), column)?);
            let nulls = values.keys().nulls();
            Box::new(
                move |row, out| {
                    if nulls.is_some_and(|nulls| nulls.is_null(row)) { out.push(0) } else { encode(keys[row], out) }
                },
            )
        }
        T::Date32 => natives::<Date32Type>(array),
        T::Date64 => natives::<Date64Type>(array),
        T::Time32(TimeUnit::Second) => natives::<Time32SecondType>(array),
        T::Time32(TimeUnit::Millisecond) => natives::<Time32MillisecondType>(array),
        T::Time64(TimeUnit::Microsecond) => natives::<Time64MicrosecondType>(array),
        T::Time64(TimeUnit::Nanosecond) => natives::<Time64NanosecondType>(array),
        T::Timestamp(TimeUnit::Second, _) => natives::<TimestampSecondType>(array),
        T::Timestamp(TimeUnit::Millisecond, _) => natives::<TimestampMillisecondType>(array),
        T::Timestamp(TimeUnit::Microsecond, _) => natives::<TimestampMicrosecondType>(array),
        T::Timestamp(TimeUnit::Nanosecond, _) => natives::<TimestampNanosecondType>(array),
        T::Duration(TimeUnit::Second) => natives::<DurationSecondType>(array),
        T::Duration(TimeUnit::Millisecond) => natives::<DurationMillisecondType>(array),
        T::Duration(TimeUnit::Microsecond) => natives::<DurationMicrosecondType>(array),
        T::Duration(TimeUnit::Nanosecond) => natives::<DurationNanosecondType>(array),
        T::Decimal128(..) => natives::<Decimal128Type>(array),
        T::Decimal256(..) => natives::<Decimal256Type>(array),
        other => return Err(unsupported(other, column)),
    })
}
