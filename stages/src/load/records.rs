//! Files as records: JSON lines, a JSON array or Parquet, `.gz` or plain, each record with its place in the file.

use crate::stage::StageError;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A record as it was read: where it stands, and what it holds or why it could not be read.
pub(super) struct Record {
    /// `line 3`, `record 3`.
    pub(super) place: String,
    /// The record, or what is wrong with it.
    pub(super) value: Result<Value, String>,
}

/// What a file holds, judged by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Parquet,
    Array,
    Lines,
}

/// Reads every record of a file.
///
/// # Errors
/// Where the file as a whole cannot be read: missing, no permission, damaged, or of no format that is known.
pub(super) fn read(path: &Path) -> Result<Vec<Record>, StageError> {
    let bytes = read_bytes(path)?;
    match content(&bytes) {
        Content::Parquet => parquet(path),
        Content::Array => array(path, &bytes),
        Content::Lines => lines(path, bytes),
    }
}

/// A file's text.
///
/// # Errors
/// Where it cannot be read, or is not UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, StageError> {
    text(path, read_bytes(path)?)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, StageError> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        StageError::file(path, format!("byte {at}: expected text in UTF-8, found other bytes; convert the file"))
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, StageError> {
    if path.is_dir() {
        return Err(StageError::file(path, "expected a file, found a folder; of the formats, only `apps` is a folder"));
    }
    let mut file = File::open(path).map_err(|error| StageError::file(path, error.to_string()))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| StageError::file(path, error.to_string()))?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes.as_slice())
        .read_to_end(&mut unpacked)
        .map_err(|error| StageError::file(path, format!("expected a whole gzip file: {error}")))?;
    Ok(unpacked)
}

fn content(bytes: &[u8]) -> Content {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if bytes.starts_with(b"PAR1") {
        Content::Parquet
    } else if first == Some(&b'[') {
        Content::Array
    } else {
        Content::Lines
    }
}

fn lines(path: &Path, bytes: Vec<u8>) -> Result<Vec<Record>, StageError> {
    let text = text(path, bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let records = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| Record {
            place: format!("line {}", number + 1),
            value: match serde_json::from_str::<Value>(line) {
                Ok(value) if value.is_object() => Ok(value),
                Ok(value) => Err(format!("expected a JSON object, found {}", kind(&value))),
                Err(error) => Err(format!("expected a JSON object: {error}")),
            },
        })
        .collect();
    Ok(records)
}

fn array(path: &Path, bytes: &[u8]) -> Result<Vec<Record>, StageError> {
    let values: Vec<Value> = serde_json::from_slice(bytes)
        .map_err(|error| StageError::file(path, format!("expected a JSON array of objects: {error}")))?;
    Ok(values.into_iter().enumerate().map(|(number, value)| record(number, value)).collect())
}

fn record(number: usize, value: Value) -> Record {
    let value =
        if value.is_object() { Ok(value) } else { Err(format!("expected a JSON object, found {}", kind(&value))) };
    Record { place: format!("record {}", number + 1), value }
}

fn parquet(path: &Path) -> Result<Vec<Record>, StageError> {
    let broken =
        |error: &dyn std::fmt::Display| StageError::file(path, format!("expected a whole Parquet file: {error}"));
    let file = File::open(path).map_err(|error| StageError::file(path, error.to_string()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(&error))?;
    let mut records = Vec::new();
    for batch in reader.build().map_err(|error| broken(&error))? {
        let batch = batch.map_err(|error| broken(&error))?;
        if batch.num_rows() == 0 {
            continue;
        }
        let values: Vec<Value> = serde_arrow::from_record_batch(&batch)
            .map_err(|error| StageError::file(path, format!("a column is of a type that is not read: {error}")))?;
        for value in values {
            records.push(record(records.len(), value));
        }
    }
    Ok(records)
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A string that a record must have.
///
/// # Errors
/// Which field, and what stands there.
pub(super) fn string<'a>(record: &'a Value, field: &str) -> Result<&'a str, String> {
    optional_string(record, field)?.ok_or_else(|| {
        let fields: Vec<&str> =
            record.as_object().into_iter().flat_map(|fields| fields.keys()).map(String::as_str).collect();
        format!("field `{field}` is missing; there are: {}", fields.join(", "))
    })
}

/// A string that a record may have.
///
/// # Errors
/// Where something else stands there.
pub(super) fn optional_string<'a>(record: &'a Value, field: &str) -> Result<Option<&'a str>, String> {
    match record.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("field `{field}`: expected a string, found {}", kind(other))),
    }
}

/// Strings that a record may have.
///
/// # Errors
/// Where something else stands there.
pub(super) fn strings(record: &Value, field: &str) -> Result<Vec<String>, String> {
    match record.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| {
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("field `{field}`: expected strings, found {}", kind(item)))
            })
            .collect(),
        Some(other) => Err(format!("field `{field}`: expected an array of strings, found {}", kind(other))),
    }
}
