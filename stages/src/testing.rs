//! Runs kinds inside unit tests, without a runner: rows in, rows and reasons out.

use crate::columns::{Column, fields_of, schema_of};
use crate::job::{
    Cancel, Device, FinishedBatch, Job, LookupTable, OpenContext, UnitAnswer, UnitBatch, WholeInputs, WholeOutputs,
    WholeSink,
};
use crate::stage::{AnyStage, ArtifactKind, Columns, Declaration, InputSchemas, Role, StageError, Work};
use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::util::display::array_value_to_string;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A table of rows of `T`.
pub(crate) fn table<T: Serialize + DeserializeOwned>(rows: &[T]) -> RecordBatch {
    let fields = fields_of::<T>();
    serde_arrow::to_record_batch(&fields, &rows).expect("a row type describes its rows")
}

/// The columns of a table.
pub(crate) fn columns(table: &RecordBatch) -> Vec<Column> {
    let column = |field: &arrow_schema::FieldRef| Column {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        nullable: field.is_nullable(),
        doc: String::new(),
    };
    table.schema().fields().iter().map(column).collect()
}

/// What a kind made of its inputs.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) batch: RecordBatch,
    pub(crate) answers: Vec<UnitAnswer>,
    pub(crate) tables: BTreeMap<String, Vec<RecordBatch>>,
}

impl Ran {
    /// The rows of the first output.
    pub(crate) fn rows<T: DeserializeOwned>(&self) -> Vec<T> {
        if self.batch.num_rows() == 0 {
            Vec::new()
        } else {
            serde_arrow::from_record_batch(&self.batch).expect("rows of the declared type")
        }
    }

    /// The rows of an output table of a whole job.
    pub(crate) fn output<T: DeserializeOwned>(&self, port: &str) -> Vec<T> {
        let parts = self.tables.get(port).map(Vec::as_slice).unwrap_or_default();
        parts
            .iter()
            .flat_map(|part| serde_arrow::from_record_batch::<Vec<T>>(part).expect("rows of the declared type"))
            .collect()
    }

    /// Why units gave no rows.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let reason = |answer: &UnitAnswer| match answer {
            UnitAnswer::Dropped { reason, .. } => Some(reason.clone()),
            UnitAnswer::Failed { message } => Some(format!("failed: {message}")),
            UnitAnswer::Rows(_) => None,
        };
        self.answers.iter().filter_map(reason).collect()
    }
}

fn open(kind: &'static dyn AnyStage, with: &Value, tables: &BTreeMap<String, RecordBatch>) -> (Declaration, Job) {
    let bound = kind.bind(with.clone()).expect("the parameters are right");
    let inputs: InputSchemas = tables.iter().map(|(port, table)| (port.clone(), columns(table))).collect();
    let declaration = bound.declare(&inputs).expect("the declaration is right");
    let cx = OpenContext {
        inputs,
        models: BTreeMap::new(),
        scratch: PathBuf::new(),
        state: None,
        threads: 1,
        device: Device::Cpu,
        cancel: Cancel::default(),
    };
    let job = bound.open(&cx).expect("the job opens");
    (declaration, job)
}

/// Runs a map kind over rows in one batch. `others`: the tables of its lookup ports. Rows of a unit must stand together.
pub(crate) fn run_map<T: Serialize + DeserializeOwned>(
    kind: &'static dyn AnyStage,
    with: &Value,
    rows: &[T],
    others: &[(&str, RecordBatch)],
) -> Ran {
    run_map_batch(kind, with, &table(rows), others)
}

/// As [`run_map`], over a table.
pub(crate) fn run_map_batch(
    kind: &'static dyn AnyStage,
    with: &Value,
    rows: &RecordBatch,
    others: &[(&str, RecordBatch)],
) -> Ran {
    let probe = kind.bind(with.clone()).expect("the parameters are right");
    let mut tables: BTreeMap<String, RecordBatch> =
        others.iter().map(|(port, table)| ((*port).to_owned(), table.clone())).collect();
    let known: InputSchemas = tables.iter().map(|(port, table)| (port.clone(), columns(table))).collect();
    // The name of the rows port is not known before the declaration, which may want its columns; so every name it could have is tried.
    let port = ["problems", "samples", "blocks", "rows", "programs"]
        .into_iter()
        .find(|&port| {
            let mut inputs = known.clone();
            inputs.insert(port.to_owned(), columns(rows));
            probe.declare(&inputs).ok().and_then(|d| d.rows_port().map(|found| found.name == port)).unwrap_or(false)
        })
        .expect("the kind has a rows port");
    tables.insert(port.to_owned(), rows.clone());
    let (declaration, job) = open(kind, with, &tables);
    let Job::Map(mut job) = job else { panic!("not a map job") };
    let Work::Map { group_by } = &declaration.work else { panic!("not a map kind") };
    let id_of = |table: &RecordBatch, column: &str, row: usize| {
        let column = table.column_by_name(column).expect("the id column is there");
        if column.is_null(row) { String::new() } else { array_value_to_string(column, row).expect("ids are text") }
    };
    let first_column = rows.schema().field(0).name().clone();
    let unit_column = group_by.clone().unwrap_or(first_column);
    let mut units: Vec<std::ops::Range<u32>> = Vec::new();
    let mut unit_ids: Vec<String> = Vec::new();
    for row in 0..rows.num_rows() {
        let id = id_of(rows, &unit_column, row);
        if group_by.is_some() && unit_ids.last() == Some(&id) {
            units.last_mut().expect("it has an id").end += 1;
        } else {
            units.push(row as u32..row as u32 + 1);
            unit_ids.push(id);
        }
    }
    let mut lookups = BTreeMap::new();
    for input in &declaration.inputs {
        let (Role::Lookup { by, .. }, Some(table)) = (&input.role, tables.get(&input.name)) else { continue };
        let mut picked = Vec::new();
        let mut index = Vec::new();
        for row in 0..rows.num_rows() {
            let id = id_of(rows, by, row);
            let start = picked.len() as u32;
            picked
                .extend((0..table.num_rows()).filter(|&other| id_of(table, by, other) == id).map(|other| other as u32));
            index.push(start..picked.len() as u32);
        }
        let rows = take_record_batch(table, &UInt32Array::from(picked)).expect("rows can be taken");
        lookups.insert(input.name.clone(), LookupTable { rows, index });
    }
    let batch = UnitBatch { id: 0, port: port.to_owned(), rows: rows.clone(), unit_ids, units, lookups };
    let ArtifactKind::Table { columns: output, .. } = &declaration.outputs[0].artifact else { panic!("not a table") };
    let mut waiting = Some(batch);
    let mut finished: Vec<FinishedBatch> = Vec::new();
    let mut deliver = |batch| {
        finished.push(batch);
        Ok(())
    };
    crate::job::run_map(job.as_mut(), output, &Cancel::default(), &mut || Ok(waiting.take()), &mut deliver)
        .expect("the job runs and answers every unit");
    let FinishedBatch { rows, answers, .. } = finished.pop().expect("the batch is finished");
    Ran { batch: rows, answers, tables: BTreeMap::new() }
}

#[derive(Default)]
struct Kept(BTreeMap<String, Vec<RecordBatch>>);

impl WholeSink for Kept {
    fn rows(&mut self, port: &str, rows: RecordBatch) -> Result<(), StageError> {
        self.0.entry(port.to_owned()).or_default().push(rows);
        Ok(())
    }
    fn folder(&mut self, _port: &str, _folder: PathBuf, _keep_in_place: bool) -> Result<(), StageError> {
        Err(StageError::failed("no folder is expected here"))
    }
    fn progress(&mut self, _done: u64, _total: u64, _note: &str) {}
}

/// Runs a whole kind; every input table comes in batches of two rows.
pub(crate) fn run_whole(kind: &'static dyn AnyStage, with: &Value, inputs: &[(&str, RecordBatch)]) -> Ran {
    let tables: BTreeMap<String, RecordBatch> =
        inputs.iter().map(|(port, table)| ((*port).to_owned(), table.clone())).collect();
    let (declaration, job) = open(kind, with, &tables);
    let Job::Whole(mut job) = job else { panic!("not a whole job") };
    let outputs = declaration.outputs.iter().filter_map(|port| match &port.artifact {
        ArtifactKind::Table { columns, .. } => Some((port.name.clone(), columns.clone())),
        _ => None,
    });
    let outputs: Vec<_> = outputs.collect();
    let mut streams = WholeInputs::default();
    for input in &declaration.inputs {
        let Some(table) = tables.get(&input.name) else { continue };
        let table = match &input.columns {
            Columns::All => table.clone(),
            Columns::These(columns) => crate::job::conform(table, &schema_of(columns)).expect("the columns are there"),
        };
        let parts: Vec<_> =
            (0..table.num_rows()).step_by(2).map(|at| Ok(table.slice(at, 2.min(table.num_rows() - at)))).collect();
        streams.tables.insert(input.name.clone(), Box::new(parts.into_iter()));
    }
    let mut sink = Kept::default();
    job.run(&mut streams, &mut WholeOutputs::new(outputs.clone(), &mut sink)).expect("the job runs");
    let first = schema_of(&outputs[0].1);
    let parts = sink.0.get(&outputs[0].0).map(Vec::as_slice).unwrap_or_default();
    let batch = concat_batches(&first, parts).expect("the parts have one schema");
    Ran { batch, answers: Vec::new(), tables: sink.0 }
}
