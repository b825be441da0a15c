//! Jobs: how a stage gets its rows and gives rows back, the same in the runner's process and in a worker.
//!
//! A map job pulls [`UnitBatch`]es from a [`UnitSource`] and answers every unit of them exactly once through a [`UnitSink`], in any order.
//! A whole job reads [`WholeInputs`] and writes [`WholeOutputs`]. The context is the only way to the outside.

use crate::columns::{Column, schema_of};
use crate::stage::StageError;
use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow_schema::{FieldRef, SchemaRef};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_arrow::ArrayBuilder;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// CPU seconds that this thread has used.
pub fn thread_cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}

/// The device of torch kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// CUDA where it is there, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// What a job may use of the world.
#[derive(Debug, Clone)]
pub struct OpenContext {
    /// The columns of the connected tables, by port, as the declaration was given them: ports that are not connected are absent.
    pub inputs: BTreeMap<String, Vec<Column>>,
    /// The model folders of the model ports, by port.
    pub models: BTreeMap<String, PathBuf>,
    /// An empty folder of the job's own; it is removed afterwards.
    pub scratch: PathBuf,
    /// A folder that outlives a killed run and is found again by the next run of the same key; for jobs that save their state.
    pub state: Option<PathBuf>,
    /// How many threads the job may keep busy.
    pub threads: usize,
    /// The device of torch kinds.
    pub device: Device,
    /// Set when the run is to stop.
    pub cancel: Cancel,
}

/// A flag that is raised once, when work is to stop.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns an error once the flag is raised.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<(), StageError> {
        if self.is_cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }
}

/// The work of a stage, opened.
pub enum Job {
    /// By units.
    Map(Box<dyn MapJob>),
    /// All at once.
    Whole(Box<dyn WholeJob>),
}

impl Job {
    /// See [`MapJob::versions`].
    pub fn versions(&self) -> BTreeMap<String, String> {
        match self {
            Self::Map(job) => job.versions(),
            Self::Whole(job) => job.versions(),
        }
    }
}

/// A job that works on units.
pub trait MapJob: Send {
    /// Pulls batches until there are none, and answers every unit once. Answers may come in any order and across batches.
    ///
    /// # Errors
    /// Only for what ends the whole stage; what concerns one unit is answered by [`UnitSink::fail`].
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError>;

    /// What of the machine the job found and works with, for the record: a name and a version or a description.
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// A job that reads all its inputs.
pub trait WholeJob: Send {
    /// Reads the inputs and writes every output.
    ///
    /// # Errors
    /// Whatever ends the stage.
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError>;

    /// As [`MapJob::versions`].
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// Gives out batches of units.
pub trait UnitSource {
    /// The next batch; none when there are no more, or when the run is cancelled.
    ///
    /// # Errors
    /// Where the batch cannot be read.
    fn next(&mut self) -> Result<Option<Arc<UnitBatch>>, StageError>;
}

/// Units that were dispatched together and are committed together.
#[derive(Debug, Clone)]
pub struct UnitBatch {
    /// The batch's number in this run.
    pub id: u64,
    /// The name of the rows port.
    pub port: String,
    /// The rows of all units, unit by unit.
    pub rows: RecordBatch,
    /// Each unit's name, for messages and for `dropped`: the id of its row, or the one its rows share.
    pub unit_ids: Vec<String>,
    /// Each unit's rows.
    pub units: Vec<Range<u32>>,
    /// What the rows look up, by port.
    pub lookups: BTreeMap<String, LookupTable>,
}

/// The rows of another table that a batch looks up.
#[derive(Debug, Clone)]
pub struct LookupTable {
    /// The rows that the batch needs, each once, grouped by id.
    pub rows: RecordBatch,
    /// For every row of the batch, the rows it looks up.
    pub index: Vec<Range<u32>>,
}

/// One unit of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// The batch.
    pub batch: u64,
    /// The unit's place in it.
    pub unit: u32,
}

impl UnitBatch {
    /// The units with their rows.
    pub fn units(&self) -> impl Iterator<Item = (UnitId, Range<usize>)> + '_ {
        self.units
            .iter()
            .enumerate()
            .map(|(unit, rows)| (UnitId { batch: self.id, unit: unit as u32 }, rows.start as usize..rows.end as usize))
    }

    /// All rows of the batch as `T`.
    ///
    /// # Errors
    /// Where a row is not a `T`.
    pub fn rows<T: DeserializeOwned>(&self) -> Result<Vec<T>, StageError> {
        read_rows(&self.rows).map_err(|error| StageError::input(&self.port, error.to_string()))
    }

    /// Whether a lookup port is connected.
    pub fn has(&self, port: &str) -> bool {
        self.lookups.contains_key(port)
    }

    /// What the rows look up on a port, as `T`.
    ///
    /// # Errors
    /// Where the port is not connected, or a row is not a `T`.
    pub fn lookup<T: DeserializeOwned>(&self, port: &str) -> Result<Lookup<'_, T>, StageError> {
        let table = self.lookups.get(port).ok_or_else(|| StageError::input(port, "not connected"))?;
        let rows = read_rows(&table.rows).map_err(|error| StageError::input(port, error.to_string()))?;
        Ok(Lookup { rows, index: &table.index })
    }
}

/// What the rows of a batch look up, as Rust values.
#[derive(Debug)]
pub struct Lookup<'a, T> {
    rows: Vec<T>,
    index: &'a [Range<u32>],
}

impl<T> Lookup<'_, T> {
    /// The one row that row `row` of the batch looks up. The runner has checked that there is exactly one on a port that is not `many`.
    pub fn one(&self, row: usize) -> &T {
        &self.rows[self.index[row].start as usize]
    }

    /// The rows that row `row` of the batch looks up.
    pub fn all(&self, row: usize) -> &[T] {
        let range = &self.index[row];
        &self.rows[range.start as usize..range.end as usize]
    }

    /// Where the row that row `row` looks up lies: rows with the same place look up the same.
    pub fn place(&self, row: usize) -> usize {
        self.index[row].start as usize
    }
}

fn read_rows<T: DeserializeOwned>(batch: &RecordBatch) -> Result<Vec<T>, serde_arrow::Error> {
    if batch.num_rows() == 0 { Ok(Vec::new()) } else { serde_arrow::from_record_batch(batch) }
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitAnswer {
    /// Its rows in the batch's output; may be none.
    Rows(Range<u32>),
    /// It gave no rows, and why.
    Dropped {
        /// In a word or two that can be counted.
        reason: String,
        /// What exactly was found.
        detail: Option<String>,
    },
    /// It could not be worked on: nothing of it is recorded, and the stage fails once the others are done.
    Failed {
        /// Why.
        message: String,
    },
}

/// A batch whose every unit is answered.
#[derive(Debug, Clone)]
pub struct FinishedBatch {
    /// The batch's number.
    pub id: u64,
    /// The rows of all units.
    pub rows: RecordBatch,
    /// What became of each unit.
    pub answers: Vec<UnitAnswer>,
}

/// Receives finished batches.
pub type Deliver<'a> = dyn FnMut(FinishedBatch) -> Result<(), StageError> + 'a;

/// Runs a map job: `next` hands out batches, which have at least one unit each, and `deliver` takes them when their last unit is answered.
///
/// # Errors
/// Where the job fails, or leaves a unit unanswered although the run was not cancelled.
pub fn run_map(
    job: &mut dyn MapJob,
    columns: &[Column],
    cancel: &Cancel,
    next: &mut dyn FnMut() -> Result<Option<UnitBatch>, StageError>,
    deliver: &mut Deliver<'_>,
) -> Result<(), StageError> {
    let handed_out = Rc::new(RefCell::new(Vec::new()));
    let mut units = NotedUnits { next, handed_out: Rc::clone(&handed_out) };
    let mut out = UnitSink { schema: schema_of(columns), handed_out, open: BTreeMap::new(), deliver };
    job.run(&mut units, &mut out)?;
    cancel.check()?;
    out.take_note();
    match out.open.values().map(|open| open.missing).sum() {
        0 => Ok(()),
        missing => Err(StageError::Failed(format!("{missing} units were left unanswered; this is a bug of the kind"))),
    }
}

/// Tells the sink of every batch that it hands out.
struct NotedUnits<'a> {
    next: &'a mut dyn FnMut() -> Result<Option<UnitBatch>, StageError>,
    handed_out: Rc<RefCell<Vec<Arc<UnitBatch>>>>,
}

impl UnitSource for NotedUnits<'_> {
    fn next(&mut self) -> Result<Option<Arc<UnitBatch>>, StageError> {
        let batch = (self.next)()?.map(Arc::new);
        self.handed_out.borrow_mut().extend(batch.clone());
        Ok(batch)
    }
}

/// Takes the answers for units, and delivers a batch when its last unit is answered.
pub struct UnitSink<'a> {
    schema: SchemaRef,
    handed_out: Rc<RefCell<Vec<Arc<UnitBatch>>>>,
    open: BTreeMap<u64, OpenBatch>,
    deliver: &'a mut Deliver<'a>,
}

struct OpenBatch {
    builder: Option<ArrayBuilder>,
    passed: Vec<RecordBatch>,
    num_rows: u32,
    answers: Vec<Option<UnitAnswer>>,
    missing: usize,
    source: Arc<UnitBatch>,
}

impl UnitSink<'_> {
    /// Answers a unit with rows, of the type whose columns the kind declared; none is an answer too.
    ///
    /// # Errors
    /// Where a row does not fit the declared columns, or the batch cannot be delivered.
    pub fn emit<T: Serialize>(&mut self, unit: UnitId, rows: &[T]) -> Result<(), StageError> {
        let schema = Arc::clone(&self.schema);
        let open = self.open(unit)?;
        if open.builder.is_none() {
            let fields: &[FieldRef] = &schema.fields;
            open.builder = Some(ArrayBuilder::from_arrow(fields)?);
        }
        let builder = open.builder.as_mut().expect("made above");
        for row in rows {
            builder.push(row)?;
        }
        let start = open.num_rows;
        open.num_rows += rows.len() as u32;
        let range = start..open.num_rows;
        self.answer(unit, UnitAnswer::Rows(range))
    }

    /// Answers a unit with the rows that it came with, unchanged.
    ///
    /// # Errors
    /// Where the batch cannot be delivered.
    pub fn pass(&mut self, unit: UnitId) -> Result<(), StageError> {
        let open = self.open(unit)?;
        let range = &open.source.units[unit.unit as usize];
        let rows = open.source.rows.slice(range.start as usize, range.len());
        let start = open.num_rows;
        open.num_rows += rows.num_rows() as u32;
        open.passed.push(rows);
        let range = start..open.num_rows;
        self.answer(unit, UnitAnswer::Rows(range))
    }

    /// Answers a unit with Arrow rows, whose columns are the declared ones.
    ///
    /// # Errors
    /// Where the batch cannot be delivered.
    pub fn emit_batch(&mut self, unit: UnitId, rows: RecordBatch) -> Result<(), StageError> {
        let open = self.open(unit)?;
        let start = open.num_rows;
        open.num_rows += rows.num_rows() as u32;
        open.passed.push(rows);
        let range = start..open.num_rows;
        self.answer(unit, UnitAnswer::Rows(range))
    }

    /// Answers a unit that gives no rows.
    ///
    /// # Errors
    /// Where the batch cannot be delivered.
    pub fn drop(&mut self, unit: UnitId, reason: impl Into<String>, detail: Option<String>) -> Result<(), StageError> {
        self.answer(unit, UnitAnswer::Dropped { reason: reason.into(), detail })
    }

    /// Answers a unit that could not be worked on.
    ///
    /// # Errors
    /// Where the batch cannot be delivered.
    pub fn fail(&mut self, unit: UnitId, message: impl Into<String>) -> Result<(), StageError> {
        self.answer(unit, UnitAnswer::Failed { message: message.into() })
    }

    fn take_note(&mut self) {
        for source in self.handed_out.borrow_mut().drain(..) {
            let missing = source.units.len();
            let answers = vec![None; missing];
            self.open.insert(
                source.id,
                OpenBatch { builder: None, passed: Vec::new(), num_rows: 0, answers, missing, source },
            );
        }
    }

    fn open(&mut self, unit: UnitId) -> Result<&mut OpenBatch, StageError> {
        self.take_note();
        self.open
            .get_mut(&unit.batch)
            .ok_or_else(|| StageError::failed(format!("unit {unit:?} is not open; this is a bug of the kind")))
    }

    fn answer(&mut self, unit: UnitId, answer: UnitAnswer) -> Result<(), StageError> {
        let open = self.open(unit)?;
        let slot = &mut open.answers[unit.unit as usize];
        if slot.is_some() {
            let id = &open.source.unit_ids[unit.unit as usize];
            return Err(StageError::failed(format!("unit {id} was answered twice; this is a bug of the kind")));
        }
        *slot = Some(answer);
        open.missing -= 1;
        if open.missing == 0 { self.finish(unit.batch) } else { Ok(()) }
    }

    fn finish(&mut self, id: u64) -> Result<(), StageError> {
        let open = self.open.remove(&id).expect("only an open batch is finished");
        let rows = match (open.builder, open.passed.is_empty()) {
            (Some(mut builder), true) => conform(&builder.to_record_batch()?, &self.schema)?,
            (None, false) => {
                let parts =
                    open.passed.iter().map(|rows| conform(rows, &self.schema)).collect::<Result<Vec<_>, _>>()?;
                concat_batches(&self.schema, &parts)?
            }
            (None, true) => RecordBatch::new_empty(Arc::clone(&self.schema)),
            (Some(_), false) => {
                return Err(StageError::failed(
                    "a kind answers with rows of its own or with rows passed on, not with both in one batch",
                ));
            }
        };
        let answers = open.answers.into_iter().map(|answer| answer.expect("none is missing")).collect();
        (self.deliver)(FinishedBatch { id, rows, answers })
    }
}

/// Gives a batch the columns of `schema`, by name: strings and lists are cast between their encodings, a missing nullable column is null.
///
/// # Errors
/// Where a column is missing that may not be null, or cannot be cast.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, StageError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => Ok(arrow::compute::cast(column, field.data_type())?),
            None if field.is_nullable() => Ok(arrow::array::new_null_array(field.data_type(), batch.num_rows())),
            None => Err(StageError::failed(format!("column `{}` is missing", field.name()))),
        })
        .collect::<Result<Vec<_>, StageError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// A table as a stream of record batches.
pub type TableStream<'a> = Box<dyn Iterator<Item = Result<RecordBatch, StageError>> + 'a>;

/// The inputs of a whole job.
#[derive(Default)]
pub struct WholeInputs<'a> {
    /// The connected tables by port, with the declared columns.
    pub tables: BTreeMap<String, TableStream<'a>>,
}

impl<'a> WholeInputs<'a> {
    /// Whether a table is connected to a port.
    pub fn has(&self, port: &str) -> bool {
        self.tables.contains_key(port)
    }

    /// The stream of a port's table; it can be taken once.
    ///
    /// # Errors
    /// Where the port is not connected.
    pub fn stream(&mut self, port: &str) -> Result<TableStream<'a>, StageError> {
        self.tables.remove(port).ok_or_else(|| StageError::input(port, "not connected, or read twice"))
    }

    /// The whole table of a port, as `T`.
    ///
    /// # Errors
    /// Where the port is not connected, or a row is not a `T`.
    pub fn read<T: DeserializeOwned>(&mut self, port: &str) -> Result<Vec<T>, StageError> {
        let mut rows = Vec::new();
        for batch in self.stream(port)? {
            rows.extend(read_rows::<T>(&batch?).map_err(|error| StageError::input(port, error.to_string()))?);
        }
        Ok(rows)
    }
}

/// How a whole job speaks to whoever runs it.
pub trait WholeSink {
    /// Takes rows of an output table.
    ///
    /// # Errors
    /// Where they cannot be stored.
    fn rows(&mut self, port: &str, rows: RecordBatch) -> Result<(), StageError>;
    /// Takes the folder of an output model or of output files. `keep_in_place`: it is the user's own and is referenced, not moved.
    ///
    /// # Errors
    /// Where it cannot be stored.
    fn folder(&mut self, port: &str, folder: PathBuf, keep_in_place: bool) -> Result<(), StageError>;
    /// Says how far the job is: units of work done, of how many, and a short note (`loss 0.61`).
    fn progress(&mut self, done: u64, total: u64, note: &str);
}

/// The outputs of a whole job.
pub struct WholeOutputs<'a> {
    schemas: BTreeMap<String, SchemaRef>,
    sink: &'a mut dyn WholeSink,
    helper_cpu_s: f64,
}

impl<'a> WholeOutputs<'a> {
    /// Outputs with these tables.
    pub fn new(tables: impl IntoIterator<Item = (String, Vec<Column>)>, sink: &'a mut dyn WholeSink) -> Self {
        let schemas = tables.into_iter().map(|(name, columns)| (name, schema_of(&columns))).collect();
        Self { schemas, sink, helper_cpu_s: 0.0 }
    }

    /// Adds CPU seconds of threads that the job has started: the runner sees the job's own thread only.
    pub fn add_cpu(&mut self, seconds: f64) {
        self.helper_cpu_s += seconds;
    }

    /// The CPU seconds added so far.
    pub fn helper_cpu_s(&self) -> f64 {
        self.helper_cpu_s
    }

    /// Appends rows to an output table.
    ///
    /// # Errors
    /// Where a row does not fit the declared columns, or it cannot be stored.
    pub fn push<T: Serialize>(&mut self, port: &str, rows: &[T]) -> Result<(), StageError> {
        if rows.is_empty() {
            return Ok(());
        }
        let fields: &[FieldRef] = &self.schema(port)?.fields.clone();
        let mut builder = ArrayBuilder::from_arrow(fields)?;
        for row in rows {
            builder.push(row)?;
        }
        let batch = builder.to_record_batch()?;
        self.push_batch(port, &batch)
    }

    /// Appends Arrow rows to an output table.
    ///
    /// # Errors
    /// As [`WholeOutputs::push`].
    pub fn push_batch(&mut self, port: &str, rows: &RecordBatch) -> Result<(), StageError> {
        let rows = conform(rows, self.schema(port)?)?;
        self.sink.rows(port, rows)
    }

    /// Appends those rows of a batch whose numbers are given, in that order.
    ///
    /// # Errors
    /// As [`WholeOutputs::push`].
    pub fn push_selected(&mut self, port: &str, rows: &RecordBatch, selected: Vec<u32>) -> Result<(), StageError> {
        self.push_batch(port, &take_record_batch(rows, &UInt32Array::from(selected))?)
    }

    /// Hands over the folder of an output model; it is moved.
    ///
    /// # Errors
    /// Where it cannot be stored.
    pub fn model(&mut self, port: &str, folder: PathBuf) -> Result<(), StageError> {
        self.sink.folder(port, folder, false)
    }

    /// Names the user's own folder as an output model; it stays where it is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn model_in_place(&mut self, port: &str, folder: PathBuf) -> Result<(), StageError> {
        self.sink.folder(port, folder, true)
    }

    /// Says how far the job is.
    pub fn progress(&mut self, done: u64, total: u64, note: &str) {
        self.sink.progress(done, total, note);
    }

    fn schema(&self, port: &str) -> Result<&SchemaRef, StageError> {
        self.schemas.get(port).ok_or_else(|| {
            StageError::failed(format!("no output table `{port}` is declared; this is a bug of the kind"))
        })
    }
}
