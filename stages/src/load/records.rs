//! Files as streams of records: JSON lines, a JSON array or Parquet, `.gz` or plain, each record with its place in the file.
//!
//! Of JSON lines one line is held at a time, of Parquet one batch; a JSON array is one value and is held whole.

use crate::stage::StageError;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::fmt::{Display, Formatter};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// How many rows of a Parquet file are held at a time. Few: a problem of APPS may have megabytes of tests.
const PARQUET_ROWS: usize = 128;

/// Where a record stands: `line 3`, `record 3`, `problem train/0001`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// `line`, `record`, `problem`.
    pub(super) unit: &'static str,
    /// Its number, from 1.
    pub(super) number: u32,
    /// Its name, where it has one.
    pub(super) name: Option<String>,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} {name}", self.unit),
            None => write!(f, "{} {}", self.unit, self.number),
        }
    }
}

/// A record as it was read: where it stands, and what it holds or why it could not be read.
pub(super) struct Record {
    /// Where it stands.
    pub(super) place: Place,
    /// The record, or what is wrong with it.
    pub(super) value: Result<Value, String>,
}

/// Records one by one. An error is one of the file as a whole: no permission, damaged, or of no format that is known.
pub(super) type Records = Box<dyn Iterator<Item = Result<Record, StageError>>>;

/// Reads every record of a file.
///
/// # Errors
/// Where the file as a whole cannot be read; so may be an item.
pub(super) fn read(path: &Path) -> Result<Records, StageError> {
    let mut lines = Lines::open(path)?;
    // The first bytes that are not white space say what the file is.
    while lines.advance()? && lines.line.iter().all(u8::is_ascii_whitespace) {}
    lines.is_read = true;
    if lines.number == 1 && lines.line.starts_with(b"PAR1") {
        parquet(path)
    } else if lines.line.trim_ascii_start().starts_with(b"[") {
        array(lines)
    } else {
        Ok(Box::new(lines))
    }
}

/// A file's text.
///
/// # Errors
/// Where it cannot be read, or is not UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, StageError> {
    let bytes = Lines::open(path)?.rest()?;
    String::from_utf8(bytes).map_err(|error| not_text(path, error.utf8_error().valid_up_to() as u64))
}

fn not_text(path: &Path, at: u64) -> StageError {
    StageError::file(path, format!("byte {at}: expected text in UTF-8, found other bytes; convert the file"))
}

/// A file, unpacked, line by line.
struct Lines {
    path: PathBuf,
    source: Box<dyn BufRead>,
    is_packed: bool,
    /// The line that was read last, with its end.
    line: Vec<u8>,
    /// Its number, from 1.
    number: u32,
    /// Where in the file it starts.
    start: u64,
    /// Whether it is yet to be given out.
    is_read: bool,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, StageError> {
        if path.is_dir() {
            let problem = "expected a file, found a folder; of the formats, only `apps` is a folder";
            return Err(StageError::file(path, problem));
        }
        let broken = |error: std::io::Error| StageError::file(path, error.to_string());
        let mut file = File::open(path).map_err(broken)?;
        let mut magic = Vec::new();
        (&mut file).take(2).read_to_end(&mut magic).map_err(broken)?;
        file.rewind().map_err(broken)?;
        let is_packed = magic == [0x1f, 0x8b];
        let source: Box<dyn BufRead> = if is_packed {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        Ok(Self { path: path.to_owned(), source, is_packed, line: Vec::new(), number: 0, start: 0, is_read: false })
    }

    fn broken(&self, error: &std::io::Error) -> StageError {
        let what = if self.is_packed { "expected a whole gzip file: " } else { "" };
        StageError::file(&self.path, format!("{what}{error}"))
    }

    /// Reads the next line; whether there is one.
    fn advance(&mut self) -> Result<bool, StageError> {
        self.start += self.line.len() as u64;
        self.line.clear();
        let read = self.source.read_until(b'\n', &mut self.line).map_err(|error| self.broken(&error))?;
        self.number += u32::from(read > 0);
        Ok(read > 0)
    }

    /// The line that was read last and all after it.
    fn rest(mut self) -> Result<Vec<u8>, StageError> {
        let mut bytes = std::mem::take(&mut self.line);
        self.source.read_to_end(&mut bytes).map_err(|error| self.broken(&error))?;
        Ok(bytes)
    }

    /// The text of the line that was read last; none where the line is blank.
    fn text(&self) -> Result<Option<&str>, StageError> {
        let text = std::str::from_utf8(&self.line);
        let mut text = text.map_err(|error| not_text(&self.path, self.start + error.valid_up_to() as u64))?;
        if self.number == 1 {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        Ok(if text.trim().is_empty() { None } else { Some(text) })
    }

    fn place(&self) -> Place {
        Place { unit: "line", number: self.number, name: None }
    }

    /// The record of the line that was read last; none where the line is blank.
    fn record(&self) -> Result<Option<Record>, StageError> {
        let Some(text) = self.text()? else { return Ok(None) };
        let value = match serde_json::from_str::<Value>(text) {
            Ok(value) => object(value),
            Err(error) => Err(format!("{NO_OBJECT}: {error}")),
        };
        Ok(Some(Record { place: self.place(), value }))
    }
}

/// Reads every line of a file as text with its place, for formats whose numbers have to stay as they are written; blank lines are left out.
///
/// # Errors
/// As [`read`].
pub(super) fn read_lines(path: &Path) -> Result<impl Iterator<Item = Result<(Place, String), StageError>>, StageError> {
    let mut lines = Lines::open(path)?;
    let mut next = move || {
        while lines.advance()? {
            if let Some(text) = lines.text()? {
                return Ok(Some((lines.place(), text.to_owned())));
            }
        }
        Ok(None)
    };
    Ok(std::iter::from_fn(move || next().transpose()))
}

impl Iterator for Lines {
    type Item = Result<Record, StageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if !std::mem::take(&mut self.is_read) {
                match self.advance() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
            if let Some(record) = self.record().transpose() {
                return Some(record);
            }
        }
    }
}

/// What is said of a line that is not JSON, before what `serde_json` says of it.
pub(super) const NO_OBJECT: &str = "expected a JSON object";

fn object(value: Value) -> Result<Value, String> {
    if value.is_object() { Ok(value) } else { Err(format!("{NO_OBJECT}, found {}", kind(&value))) }
}

fn record(number: usize, value: Value) -> Record {
    Record { place: Place { unit: "record", number: number as u32 + 1, name: None }, value: object(value) }
}

fn array(lines: Lines) -> Result<Records, StageError> {
    let path = lines.path.clone();
    // Lines are counted from the start of the file, blank ones before the array too.
    let mut text = vec![b'\n'; lines.number as usize - 1];
    text.extend(lines.rest()?);
    let values: Vec<Value> = serde_json::from_slice(&text)
        .map_err(|error| StageError::file(path, format!("expected a JSON array of objects: {error}")))?;
    Ok(Box::new(values.into_iter().enumerate().map(|(number, value)| Ok(record(number, value)))))
}

fn parquet(path: &Path) -> Result<Records, StageError> {
    let path = path.to_owned();
    let broken =
        |path: &Path, error: &dyn Display| StageError::file(path, format!("expected a whole Parquet file: {error}"));
    let file = File::open(&path).map_err(|error| StageError::file(&path, error.to_string()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(&path, &error))?;
    let reader = reader.with_batch_size(PARQUET_ROWS).build().map_err(|error| broken(&path, &error))?;
    let batches = reader.map(move |batch| {
        let batch = batch.map_err(|error| broken(&path, &error))?;
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        serde_arrow::from_record_batch::<Vec<Value>>(&batch)
            .map_err(|error| StageError::file(&path, format!("a column is of a type that is not read: {error}")))
    });
    let mut number = 0;
    Ok(Box::new(batches.flat_map(move |batch| {
        let records: Vec<Result<Record, StageError>> = match batch {
            Err(error) => vec![Err(error)],
            Ok(values) => {
                let first = number;
                number += values.len();
                values.into_iter().enumerate().map(|(at, value)| Ok(record(first + at, value))).collect()
            }
        };
        records
    })))
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
