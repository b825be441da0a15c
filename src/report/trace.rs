//! One row followed through every step: where it came from, what was made of it, and where it was dropped.
//!
//! A table's key is its first column that ends in `_id`; its other such columns name what a row was made from. A row that is looked for
//! is followed up to what it was made from, and down to all that was made from it.

use crate::cache::{Cache, Output, Record, TableOutput};
use crate::run::RunError;
use crate::run::planner::Planned;
use ablate_stages::stage::StageError;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are told one by one; of more, counts.
const TOLD_ROWS: usize = 4;
/// Texts longer than this are not told.
const TOLD_CHARS: usize = 60;

/// What a row came to in one output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The step's name.
    pub stage: String,
    /// The output port.
    pub port: String,
    /// What is there of the row.
    pub found: Found,
}

/// What is there of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// These rows: of each its key, and its short values by column.
    Rows(Vec<(String, BTreeMap<String, String>)>),
    /// So many rows; of columns with few values, how many rows have each.
    Many(usize, BTreeMap<String, BTreeMap<String, usize>>),
    /// It read the row and has nothing of it.
    Nothing,
    /// It has not run.
    NotRun,
}

/// What one id came to in every step that has to do with it.
///
/// # Errors
/// Where a table cannot be read.
pub fn trace(planned: &Planned, cache: &Cache, records: &[Option<Record>], id: &str) -> Result<Vec<Trace>, RunError> {
    let mut tracer = Tracer { planned, cache, records, up: BTreeSet::from([id.to_owned()]), down: BTreeSet::new() };
    // Makers come before readers, so that one walk backwards finds all that a row was made from.
    for step in (0..planned.steps.len()).rev() {
        tracer.climb(step)?;
    }
    tracer.down.insert(id.to_owned());
    let mut traces = Vec::new();
    let mut has_rows = BTreeSet::new();
    for step in 0..planned.steps.len() {
        tracer.descend(step, &mut has_rows, &mut traces)?;
    }
    Ok(traces)
}

struct Tracer<'a> {
    planned: &'a Planned,
    cache: &'a Cache,
    records: &'a [Option<Record>],
    /// What the row was made from, and itself: looked for among keys.
    up: BTreeSet<String>,
    /// What was made from the row, and itself: looked for in every id.
    down: BTreeSet<String>,
}

impl Tracer<'_> {
    fn tables(&self, step: usize) -> impl Iterator<Item = (String, &TableOutput)> {
        let ports = self.planned.declaration(step).outputs.iter().map(|port| port.name.clone());
        let record = self.records[step].as_ref();
        ports.filter_map(move |port| match record?.outputs.get(&port)? {
            Output::Table(table) => Some((port, table)),
            _ => None,
        })
    }

    fn climb(&mut self, step: usize) -> Result<(), RunError> {
        let mut found = BTreeSet::new();
        for (_, table) in self.tables(step) {
            let ids = id_columns(table);
            let Some(key) = ids.first() else { continue };
            for batch in self.cache.read_table(table, Some(&ids))? {
                let batch = batch?;
                let keys = texts(&batch, key)?;
                for row in (0..batch.num_rows()).filter(|&row| keys.is_valid(row) && self.up.contains(keys.value(row)))
                {
                    for other in &ids[1..] {
                        let column = texts(&batch, other)?;
                        found.extend(column.is_valid(row).then(|| column.value(row).to_owned()));
                    }
                }
            }
        }
        self.up.extend(found);
        Ok(())
    }

    fn descend(
        &mut self,
        step: usize,
        has_rows: &mut BTreeSet<(usize, String)>,
        traces: &mut Vec<Trace>,
    ) -> Result<(), RunError> {
        let stage = self.planned.steps[step].name.clone();
        let is_fed = self.planned.steps[step].sources.values().any(|source| has_rows.contains(source));
        if self.records[step].is_none() {
            if is_fed {
                traces.push(Trace { stage, port: String::new(), found: Found::NotRun });
            }
            return Ok(());
        }
        let mut made = BTreeSet::new();
        let before = traces.len();
        let mut first_port = None;
        for (port, table) in self.tables(step) {
            let ids = id_columns(table);
            let Some(key) = ids.first() else { continue };
            first_port.get_or_insert_with(|| port.clone());
            let Some((rows, is_made)) = self.matching(table, &ids)? else { continue };
            if is_made {
                has_rows.insert((step, port.clone()));
            }
            let keys = texts(&rows, key)?;
            // What names a row without being its key (`unit_id` of what was dropped) is followed no further.
            made.extend(keys.iter().flatten().map(str::to_owned));
            traces.push(Trace { stage: stage.clone(), port, found: tell(&rows, key, &table.measured)? });
        }
        if let Some(port) = first_port.filter(|_| is_fed && traces.len() == before) {
            traces.push(Trace { stage, port, found: Found::Nothing });
        }
        // What the row was made from is told, and nothing else that was made from that.
        self.down.extend(made.into_iter().filter(|key| !self.up.contains(key)));
        Ok(())
    }

    /// The rows of a table that have to do with the id: those made from it, and those it was made from. And whether there are any of
    /// the first sort.
    fn matching(&self, table: &TableOutput, ids: &[&str]) -> Result<Option<(RecordBatch, bool)>, RunError> {
        let (mut places, mut is_made) = (Vec::new(), false);
        for batch in self.cache.read_table(table, Some(ids))? {
            let batch = batch?;
            let columns = ids.iter().map(|id| texts(&batch, id)).collect::<Result<Vec<_>, _>>()?;
            places.extend((0..batch.num_rows()).map(|row| {
                let has = |column: &StringArray, set: &BTreeSet<String>| {
                    column.is_valid(row) && set.contains(column.value(row))
                };
                let below = columns.iter().any(|column| has(column, &self.down));
                is_made |= below;
                below || has(&columns[0], &self.up)
            }));
        }
        if !places.contains(&true) {
            return Ok(None);
        }
        let names = told_columns(table);
        let (mut start, mut kept) = (0, Vec::new());
        for batch in self.cache.read_table(table, Some(&names))? {
            let batch = batch?;
            let mask = BooleanArray::from(places[start..start + batch.num_rows()].to_vec());
            start += batch.num_rows();
            kept.push(filter_record_batch(&batch, &mask).map_err(StageError::from)?);
        }
        Ok(Some((concat_batches(&kept[0].schema(), &kept).map_err(StageError::from)?, is_made)))
    }
}

fn id_columns(table: &TableOutput) -> Vec<&str> {
    let names = table.schema.fields().iter().map(|field| field.name().as_str());
    names.filter(|name| name.ends_with("_id")).collect()
}

/// The columns that can be told in a word: ids, numbers, short texts.
fn told_columns(table: &TableOutput) -> Vec<&str> {
    let fields = table.schema.fields().iter().filter(|field| !field.data_type().is_nested());
    fields.map(|field| field.name().as_str()).collect()
}

fn texts(batch: &RecordBatch, name: &str) -> Result<StringArray, RunError> {
    let column = batch.column_by_name(name).expect("the column was asked for");
    Ok(cast(column, &DataType::Utf8).map_err(StageError::from)?.as_string::<i32>().clone())
}

fn tell(rows: &RecordBatch, key: &str, measured: &[String]) -> Result<Found, RunError> {
    let options = FormatOptions::default();
    let mut columns: Vec<(String, Vec<Option<String>>)> = Vec::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let written = ArrayFormatter::try_new(column, &options).map_err(StageError::from)?;
        let value = |row: usize| {
            let text = written.value(row).to_string();
            let is_short = text.chars().count() <= TOLD_CHARS && !text.contains('\n');
            (column.is_valid(row) && is_short && !text.is_empty()).then_some(text)
        };
        columns.push((field.name().clone(), (0..rows.num_rows()).map(value).collect()));
    }
    let keys = texts(rows, key)?;
    if rows.num_rows() <= TOLD_ROWS {
        let row = |row: usize| {
            let values = columns.iter().filter(|(name, _)| name != key);
            let values = values.filter_map(|(name, values)| Some((name.clone(), values[row].clone()?)));
            (keys.value(row).to_owned(), values.collect())
        };
        return Ok(Found::Rows((0..rows.num_rows()).map(row).collect()));
    }
    let mut counts = BTreeMap::new();
    for (name, values) in columns.iter().filter(|(name, _)| !name.ends_with("_id") && !measured.contains(name)) {
        let mut by_value: BTreeMap<String, usize> = BTreeMap::new();
        values.iter().flatten().for_each(|value| *by_value.entry(value.clone()).or_default() += 1);
        if (1..=TOLD_ROWS * 2).contains(&by_value.len()) && values.iter().all(Option::is_some) {
            counts.insert(name.clone(), by_value);
        }
    }
    Ok(Found::Many(rows.num_rows(), counts))
}
