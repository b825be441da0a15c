//! Where two results of the same step differ: which columns, in which rows; which files.

use crate::cache::{Cache, CacheError, Digest, FilesOutput, Output, TableOutput, row_digests};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Rows that are named.
const NAMED_ROWS: usize = 5;

/// How two outputs of one port differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// For each column that is digested: how many rows differ in it, and the first of them.
    pub columns: BTreeMap<String, (usize, Vec<String>)>,
    /// Measured columns that differ, as they may.
    pub measured: BTreeSet<String>,
    /// Rows that only the first has, and only the second has: how many, and the first of them.
    pub only: [(usize, Vec<String>); 2],
    /// Files that differ, or that only one has.
    pub files: Vec<String>,
}

impl Difference {
    /// Whether anything differs that may not.
    pub fn is_real(&self) -> bool {
        !self.columns.is_empty() || self.only.iter().any(|(count, _)| *count > 0) || !self.files.is_empty()
    }
}

/// Compares two outputs, each with the cache that has it.
///
/// # Errors
/// Where one cannot be read.
pub fn difference(first: (&Cache, &Output), second: (&Cache, &Output)) -> Result<Difference, CacheError> {
    match (first.1, second.1) {
        (Output::Table(a), Output::Table(b)) => tables((first.0, a), (second.0, b)),
        (a, b) => Ok(Difference { files: files(a, b), ..Difference::default() }),
    }
}

fn files(a: &Output, b: &Output) -> Vec<String> {
    let stored = |output: &Output| match output {
        Output::Model(FilesOutput::Stored { files, .. }) | Output::Files(FilesOutput::Stored { files, .. }) => {
            files.clone()
        }
        _ => BTreeMap::new(),
    };
    let (a_files, b_files) = (stored(a), stored(b));
    let names: BTreeSet<&String> = a_files.keys().chain(b_files.keys()).collect();
    let mut differing: Vec<String> =
        names.into_iter().filter(|name| a_files.get(*name) != b_files.get(*name)).cloned().collect();
    if differing.is_empty() && a.content() != b.content() {
        differing.push("the folder".to_owned());
    }
    differing
}

/// The cells of a table, digested: by row name, and by column in the order of the names.
type Cells = HashMap<String, Vec<Digest>>;

fn tables(first: (&Cache, &TableOutput), second: (&Cache, &TableOutput)) -> Result<Difference, CacheError> {
    let mut found = Difference::default();
    let names: Vec<String> = first.1.schema.fields().iter().map(|field| field.name().clone()).collect();
    let key = names.iter().find(|name| name.ends_with("_id")).map(String::as_str);
    let key = match key {
        Some(key) if is_unique(first, key)? && is_unique(second, key)? => Some(key),
        _ => None,
    };
    let (a, b) = (cells(first.0, first.1, &names, key)?, cells(second.0, second.1, &names, key)?);
    let mut rows: Vec<&String> = a.keys().collect();
    rows.sort_unstable();
    let name_row = |(count, named): &mut (usize, Vec<String>), row: &str| {
        *count += 1;
        if named.len() < NAMED_ROWS {
            named.push(row.to_owned());
        }
    };
    for row in rows {
        let Some(other) = b.get(row) else {
            name_row(&mut found.only[0], row);
            continue;
        };
        for ((name, was), is) in names.iter().zip(&a[row]).zip(other) {
            if was != is && first.1.measured.contains(name) {
                found.measured.insert(name.clone());
            } else if was != is {
                name_row(found.columns.entry(name.clone()).or_default(), row);
            }
        }
    }
    let mut new: Vec<&String> = b.keys().filter(|row| !a.contains_key(*row)).collect();
    new.sort_unstable();
    new.into_iter().for_each(|row| name_row(&mut found.only[1], row));
    Ok(found)
}

fn cells(cache: &Cache, table: &TableOutput, names: &[String], key: Option<&str>) -> Result<Cells, CacheError> {
    let mut cells = Cells::new();
    for batch in cache.read_table(table, None)? {
        let batch = batch?;
        let columns = names.iter().map(|name| row_digests(&batch, &[name])).collect::<Result<Vec<_>, _>>()?;
        let rows = row_names(&batch, key, table)?;
        for (row, name) in rows.into_iter().enumerate() {
            // Equal rows are told apart by their number.
            let mut unique = name.clone();
            let mut number = 1;
            while cells.contains_key(&unique) {
                number += 1;
                unique = format!("{name} #{number}");
            }
            cells.insert(unique, columns.iter().map(|column| column[row]).collect());
        }
    }
    Ok(cells)
}

/// Whether no two rows have the same id.
fn is_unique((cache, table): (&Cache, &TableOutput), key: &str) -> Result<bool, CacheError> {
    let mut seen = HashSet::new();
    for batch in cache.read_table(table, Some(&[key]))? {
        if row_digests(&batch?, &[key])?.into_iter().any(|id| !seen.insert(id)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Rows by their id; without one by the digest of what is digested in them, so that rows are there or not.
fn row_names(batch: &RecordBatch, key: Option<&str>, table: &TableOutput) -> Result<Vec<String>, CacheError> {
    if let Some(ids) = key.and_then(|key| batch.column_by_name(key)).and_then(|ids| cast(ids, &DataType::Utf8).ok()) {
        let ids = ids.as_string::<i32>();
        return Ok((0..ids.len()).map(|row| ids.value(row).to_owned()).collect());
    }
    let names = table.schema.fields().iter().map(|field| field.name().as_str());
    let digested: Vec<&str> = names.filter(|name| !table.measured.iter().any(|measured| measured == name)).collect();
    Ok(row_digests(batch, &digested)?.iter().map(Digest::short).collect())
}
