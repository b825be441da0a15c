//! Tests of the cache as a whole.

mod crash;
mod digests;
mod index;
mod outside;
mod storage;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};

use super::*;

/// A cache in a folder that goes away with it.
struct Lab {
    cache: Cache,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cache: Cache::open(folder.path().join("cache")).unwrap(), folder }
    }

    /// The same cache as another process sees it.
    fn reopened(&self) -> Cache {
        Cache::open(self.cache.layout().root()).unwrap()
    }
}

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter(columns.iter().map(|(name, array)| (*name, Arc::clone(array)))).unwrap()
}

/// `n` rows with an id, a number and a time that is measured.
fn rows(range: std::ops::Range<i64>) -> RecordBatch {
    let ids: Vec<String> = range.clone().map(|row| format!("row-{row}")).collect();
    let times: Vec<f64> = range.clone().map(|row| row as f64 / 7.0).collect();
    batch(&[
        ("id", Arc::new(StringArray::from(ids))),
        ("n", Arc::new(Int64Array::from_iter_values(range))),
        ("wall_s", Arc::new(Float64Array::from(times))),
    ])
}

fn store_rows(cache: &Cache, range: std::ops::Range<i64>) -> Result<TableOutput, CacheError> {
    let batch = rows(range);
    let mut writer = cache.output_writer(batch.schema_ref(), &["wall_s".to_owned()])?;
    writer.write(&batch)?;
    writer.finish_output()
}

fn record(name: &str, outputs: BTreeMap<String, Output>) -> Record {
    Record {
        format: RECORD_FORMAT,
        key: Digest::of_parts("test key", [name]),
        recipe: Digest::of_parts("test recipe", [name]),
        kind: "filter".to_owned(),
        version: 1,
        stage: name.to_owned(),
        parameters: serde_json::json!({ "where": "true", "alpha": 0.1 }),
        inputs: BTreeMap::new(),
        files: BTreeMap::new(),
        environment: BTreeMap::new(),
        outputs,
        dropped: BTreeMap::from([("too-long".to_owned(), 3)]),
        cost: Cost { wall_s: 0.1, cpu_s: 0.2, peak_memory_bytes: Some(1) },
        machine: Machine { host: host_name(), device: "cpu".to_owned(), libraries: BTreeMap::new() },
        log: None,
        finished_unix_s: 1.5,
    }
}

fn table_record(cache: &Cache, name: &str, range: std::ops::Range<i64>) -> Result<Record, CacheError> {
    Ok(record(name, BTreeMap::from([("rows".to_owned(), Output::Table(store_rows(cache, range)?))])))
}

fn batch_record(cache: &Cache, family: Digest, range: std::ops::Range<i64>) -> Result<BatchRecord, CacheError> {
    let rows = rows(range.clone());
    let mut writer = cache.table_writer(rows.schema_ref())?;
    writer.write(&rows)?;
    let part = writer.finish()?;
    let units = range.clone().map(|row| BatchUnit {
        key: unit_key(row),
        outcome: if row % 5 == 4 {
            UnitOutcome::Dropped { reason: "fifth".to_owned(), detail: Some(row.to_string()) }
        } else {
            UnitOutcome::Rows((row - range.start) as u64..(row - range.start) as u64 + 1)
        },
    });
    Ok(BatchRecord {
        format: RECORD_FORMAT,
        family,
        rows: Some(part),
        units: units.collect(),
        cost: Cost { wall_s: 1.0, cpu_s: 2.0, peak_memory_bytes: None },
        host: host_name(),
        finished_unix_s: 2.5,
    })
}

fn unit_key(row: i64) -> Digest {
    Digest::of_parts("test unit", [row.to_le_bytes()])
}

fn read_all(cache: &Cache, output: &TableOutput, columns: Option<&[&str]>) -> Result<Vec<RecordBatch>, CacheError> {
    cache.read_table(output, columns)?.collect()
}

fn ints(batches: &[RecordBatch], column: &str) -> Vec<i64> {
    use arrow::array::AsArray;
    use arrow::array::types::Int64Type;
    batches
        .iter()
        .flat_map(|batch| batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec())
        .collect()
}

/// Runs one test of this binary as a process of its own, with these variables.
fn child(test: &str, variables: &[(&str, &str)]) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.envs(variables.iter().copied());
    command
}
