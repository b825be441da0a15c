//! Workers: how the runner and a process that serves one stage speak with each other.
//!
//! Frames go over the worker's standard input and output: a header in JSON and any number of binary parts (tables, as Arrow IPC streams).
//! The worker asks for every batch or table that it wants, so the runner never floods it, and a frame is never half understood:
//! each begins with its lengths. What a worker prints goes to its standard error, which is the stage's log.

use crate::columns::Column;
use crate::job::{
    Cancel, Device, FinishedBatch, Job, LookupTable, OpenContext, TableStream, UnitAnswer, UnitBatch, WholeInputs,
    WholeOutputs, WholeSink, run_map,
};
use crate::stage::{ArtifactKind, BoundStage, Declaration, StageError};
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;

/// What the runner says to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first frame: the stage to serve.
    Open(OpenStage),
    /// A batch of units. Parts: the rows, then each lookup table in the order named.
    Batch {
        /// [`UnitBatch::id`].
        id: u64,
        /// [`UnitBatch::port`].
        port: String,
        /// [`UnitBatch::unit_ids`].
        unit_ids: Vec<String>,
        /// [`UnitBatch::units`].
        units: Vec<Range<u32>>,
        /// [`UnitBatch::lookups`]: port and index.
        lookups: Vec<(String, Vec<Range<u32>>)>,
    },
    /// A piece of the table that was asked for. Part: the rows.
    Rows,
    /// There is no more of what was asked for.
    End,
}

/// The stage that a worker is to serve.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenStage {
    /// The kind's name.
    pub kind: String,
    /// Its parameters.
    pub params: Value,
    /// The columns of the connected tables.
    pub inputs: BTreeMap<String, Vec<Column>>,
    /// The folders of the connected models.
    pub models: BTreeMap<String, PathBuf>,
    /// See [`OpenContext::scratch`].
    pub scratch: PathBuf,
    /// See [`OpenContext::state`].
    pub state: Option<PathBuf>,
    /// See [`OpenContext::threads`].
    pub threads: usize,
    /// See [`OpenContext::device`].
    pub device: Device,
}

/// What a worker says to the runner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromWorker {
    /// The stage is open.
    Opened {
        /// Libraries and devices in use, for the record.
        versions: BTreeMap<String, String>,
    },
    /// Asks for a batch of units.
    WantBatch,
    /// Asks for a piece of the table of a port.
    WantRows {
        /// The port.
        port: String,
    },
    /// A finished batch. Part: the rows.
    Finished {
        /// [`FinishedBatch::id`].
        id: u64,
        /// [`FinishedBatch::answers`].
        answers: Vec<UnitAnswer>,
    },
    /// Rows of an output table. Part: the rows.
    Rows {
        /// The port.
        port: String,
    },
    /// The folder of an output port.
    Folder {
        /// The port.
        port: String,
        /// The folder.
        folder: PathBuf,
        /// See [`WholeSink::folder`].
        keep_in_place: bool,
    },
    /// See [`WholeSink::progress`].
    Progress {
        /// Work done.
        done: u64,
        /// Work in all.
        total: u64,
        /// A short note.
        note: String,
    },
    /// The last frame of a job that is done.
    Done {
        /// Seconds of CPU of the worker and of what it started.
        cpu_s: f64,
        /// The largest resident memory of either.
        peak_memory_bytes: u64,
    },
    /// The last frame of a job that is not.
    Failed(WorkerFailure),
}

/// A [`StageError`] on its way to the runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerFailure {
    /// [`StageError::Missing`].
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        fix: String,
    },
    /// [`StageError::Cancelled`].
    Cancelled,
    /// Any other, in words.
    Failed(String),
}

impl From<StageError> for WorkerFailure {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Missing { what, fix } => Self::Missing { what, fix },
            StageError::Cancelled => Self::Cancelled,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<WorkerFailure> for StageError {
    fn from(failure: WorkerFailure) -> Self {
        match failure {
            WorkerFailure::Missing { what, fix } => Self::Missing { what, fix },
            WorkerFailure::Cancelled => Self::Cancelled,
            WorkerFailure::Failed(message) => Self::Failed(message),
        }
    }
}

/// What `ablate-lm --describe` prints, as JSON: what it is and what it finds on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LmDescription {
    /// Its own version, which is that of the `ablate` built with it.
    pub version: String,
    /// The version of libtorch, if its folder tells.
    pub libtorch: Option<String>,
    /// CUDA devices that can be used.
    pub cuda_devices: u32,
    /// Why there are none, if so.
    pub cuda_problem: Option<String>,
}

/// Writes one frame.
///
/// # Errors
/// Where the other side is gone.
pub fn write_frame<H: Serialize>(to: &mut impl Write, header: &H, parts: &[Vec<u8>]) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    to.write_all(&(header.len() as u32).to_le_bytes())?;
    to.write_all(&(parts.len() as u32).to_le_bytes())?;
    for part in parts {
        to.write_all(&(part.len() as u64).to_le_bytes())?;
    }
    to.write_all(&header)?;
    for part in parts {
        to.write_all(part)?;
    }
    to.flush()
}

/// Reads one frame; none where the other side closed the pipe between two frames.
///
/// # Errors
/// Where the pipe breaks inside a frame, or the header is not one.
pub fn read_frame<H: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(H, Vec<Vec<u8>>)>> {
    let mut lengths = [0; 8];
    match from.read(&mut lengths[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut lengths[1..])?,
    }
    let [header_len, num_parts] =
        [0, 4].map(|at| u32::from_le_bytes(lengths[at..at + 4].try_into().expect("four bytes")) as usize);
    let part_lens = (0..num_parts)
        .map(|_| {
            let mut len = [0; 8];
            from.read_exact(&mut len)?;
            Ok(u64::from_le_bytes(len))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let header = serde_json::from_slice(&read_bytes(from, header_len as u64)?)?;
    let parts = part_lens.into_iter().map(|len| read_bytes(from, len)).collect::<io::Result<Vec<_>>>()?;
    Ok(Some((header, parts)))
}

fn read_bytes(from: &mut impl Read, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len.min(1 << 30) as usize);
    match from.take(len).read_to_end(&mut bytes)? as u64 {
        read if read == len => Ok(bytes),
        read => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("a frame ended after {read} of {len} bytes"))),
    }
}

/// A table as bytes.
///
/// # Errors
/// Where a column cannot be encoded.
pub fn encode_rows(rows: &RecordBatch) -> Result<Vec<u8>, StageError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(rows)?;
    Ok(writer.into_inner()?)
}

/// The table that these bytes are.
///
/// # Errors
/// Where they are none.
pub fn decode_rows(bytes: &[u8]) -> Result<RecordBatch, StageError> {
    let reader = StreamReader::try_new(bytes, None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    match <[RecordBatch; 1]>::try_from(batches) {
        Ok([batch]) => Ok(batch),
        Err(batches) => Ok(arrow::compute::concat_batches(&schema, &batches)?),
    }
}

/// A batch of units as a frame.
///
/// # Errors
/// Where a column cannot be encoded.
pub fn batch_frame(batch: &UnitBatch) -> Result<(ToWorker, Vec<Vec<u8>>), StageError> {
    let mut parts = vec![encode_rows(&batch.rows)?];
    let mut lookups = Vec::new();
    for (port, table) in &batch.lookups {
        parts.push(encode_rows(&table.rows)?);
        lookups.push((port.clone(), table.index.clone()));
    }
    let header = ToWorker::Batch {
        id: batch.id,
        port: batch.port.clone(),
        unit_ids: batch.unit_ids.clone(),
        units: batch.units.clone(),
        lookups,
    };
    Ok((header, parts))
}

/// Opens the job of a stage, and names libraries and devices in use.
pub type Opener =
    dyn Fn(&dyn BoundStage, &Declaration, &OpenContext) -> Result<(Job, BTreeMap<String, String>), StageError>;

/// Serves one stage on this process's standard input and output, and returns when it is done.
///
/// `open` opens the job: [`BoundStage::open`] for `ablate worker`, its own list for `ablate-lm`.
///
/// # Errors
/// Where the runner is gone or speaks another language; failures of the stage itself are told to the runner.
pub fn serve(open: &Opener) -> io::Result<()> {
    let pipe = own_process()?;
    let cancel = cancel_on_sigterm()?;
    let pipe = Rc::new(RefCell::new(pipe));
    let Some((ToWorker::Open(stage), _)) = pipe.borrow_mut().read()? else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a worker is started by `ablate run`, which first says what stage to serve",
        ));
    };
    let last = match serve_stage(&pipe, stage, cancel, open) {
        Ok(()) => done(),
        Err(error) => FromWorker::Failed(error.into()),
    };
    pipe.borrow_mut().write(&last, &[])
}

fn done() -> FromWorker {
    let usages = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].into_iter().filter_map(|who| getrusage(who).ok());
    let (mut cpu_s, mut peak_memory_bytes) = (0.0, 0);
    for usage in usages {
        cpu_s += (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6;
        peak_memory_bytes = peak_memory_bytes.max(usage.max_rss() as u64 * 1024);
    }
    FromWorker::Done { cpu_s, peak_memory_bytes }
}

fn serve_stage(pipe: &Rc<RefCell<Pipe>>, stage: OpenStage, cancel: Cancel, open: &Opener) -> Result<(), StageError> {
    let kind = crate::find(&stage.kind).ok_or_else(|| {
        StageError::failed(format!(
            "this worker knows no kind `{}`; build it from the same sources as `ablate`",
            stage.kind
        ))
    })?;
    let bound = kind.bind(stage.params).map_err(|error| StageError::failed(format!("{}: {error}", error.path)))?;
    let declaration = bound.declare(&stage.inputs).map_err(|error| StageError::failed(error.to_string()))?;
    let cx = OpenContext {
        inputs: stage.inputs,
        models: stage.models,
        scratch: stage.scratch,
        state: stage.state,
        threads: stage.threads,
        device: stage.device,
        cancel,
    };
    let (job, mut versions) = open(&*bound, &declaration, &cx)?;
    versions.extend(job.versions());
    pipe.borrow_mut().write(&FromWorker::Opened { versions }, &[])?;
    let tables = declaration.outputs.iter().filter_map(|port| match &port.artifact {
        ArtifactKind::Table { columns, .. } => Some((port.name.clone(), columns.clone())),
        ArtifactKind::Model | ArtifactKind::Files => None,
    });
    match job {
        Job::Map(mut job) => {
            let columns = tables.into_iter().next().expect("a map stage writes a table").1;
            let mut deliver = |batch: FinishedBatch| {
                let rows = encode_rows(&batch.rows)?;
                let header = FromWorker::Finished { id: batch.id, answers: batch.answers };
                Ok(pipe.borrow_mut().write(&header, &[rows])?)
            };
            run_map(&mut *job, &columns, &cx.cancel, &mut || next_batch(pipe), &mut deliver)
        }
        Job::Whole(mut job) => {
            let mut inputs = WholeInputs::default();
            for port in &declaration.inputs {
                if cx.inputs.contains_key(&port.name) {
                    let rows = PipedRows { pipe: Rc::clone(pipe), port: port.name.clone(), ended: false };
                    inputs.tables.insert(port.name.clone(), Box::new(rows) as TableStream<'_>);
                }
            }
            let mut sink = PipedSink { pipe: Rc::clone(pipe) };
            job.run(&mut inputs, &mut WholeOutputs::new(tables, &mut sink))
        }
    }
}

struct Pipe {
    from: io::BufReader<std::fs::File>,
    to: io::BufWriter<std::fs::File>,
}

impl Pipe {
    fn read(&mut self) -> io::Result<Option<(ToWorker, Vec<Vec<u8>>)>> {
        read_frame(&mut self.from)
    }
    fn write(&mut self, header: &FromWorker, parts: &[Vec<u8>]) -> io::Result<()> {
        write_frame(&mut self.to, header, parts)
    }
    fn ask(&mut self, want: &FromWorker) -> io::Result<(ToWorker, Vec<Vec<u8>>)> {
        self.write(want, &[])?;
        self.read()?.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the runner is gone"))
    }
}

/// Takes standard input and output for the frames (a library that prints goes to standard error instead), and ties this process's life to the runner's.
fn own_process() -> io::Result<Pipe> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // Closed where a program is started: only this process speaks with the runner.
    let from = io::stdin().as_fd().try_clone_to_owned()?;
    let to = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(Pipe { from: io::BufReader::new(from.into()), to: io::BufWriter::new(to.into()) })
}

fn cancel_on_sigterm() -> io::Result<Cancel> {
    let cancel = Cancel::default();
    signal_hook::flag::register(signal_hook::consts::SIGTERM, cancel.flag())?;
    Ok(cancel)
}

fn next_batch(pipe: &RefCell<Pipe>) -> Result<Option<UnitBatch>, StageError> {
    let (header, mut parts) = pipe.borrow_mut().ask(&FromWorker::WantBatch)?;
    match header {
        ToWorker::Batch { id, port, unit_ids, units, lookups } if parts.len() == 1 + lookups.len() => {
            let tables = parts.split_off(1);
            let rows = decode_rows(&parts[0])?;
            let lookups = lookups
                .into_iter()
                .zip(tables)
                .map(|((port, index), table)| Ok((port, LookupTable { rows: decode_rows(&table)?, index })))
                .collect::<Result<BTreeMap<_, _>, StageError>>()?;
            Ok(Some(UnitBatch { id, port, rows, unit_ids, units, lookups }))
        }
        ToWorker::End => Ok(None),
        other => Err(StageError::failed(format!("expected a batch from the runner, got {other:?}"))),
    }
}

struct PipedRows {
    pipe: Rc<RefCell<Pipe>>,
    port: String,
    ended: bool,
}

impl Iterator for PipedRows {
    type Item = Result<RecordBatch, StageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.pipe.borrow_mut().ask(&FromWorker::WantRows { port: self.port.clone() }) {
            Ok((ToWorker::Rows, parts)) if parts.len() == 1 => Some(decode_rows(&parts[0])),
            Ok((ToWorker::End, _)) => {
                self.ended = true;
                None
            }
            Ok((other, _)) => Some(Err(StageError::failed(format!("expected rows from the runner, got {other:?}")))),
            Err(error) => Some(Err(error.into())),
        }
    }
}

struct PipedSink {
    pipe: Rc<RefCell<Pipe>>,
}

impl WholeSink for PipedSink {
    fn rows(&mut self, port: &str, rows: RecordBatch) -> Result<(), StageError> {
        let part = encode_rows(&rows)?;
        Ok(self.pipe.borrow_mut().write(&FromWorker::Rows { port: port.into() }, &[part])?)
    }
    fn folder(&mut self, port: &str, folder: PathBuf, keep_in_place: bool) -> Result<(), StageError> {
        let header = FromWorker::Folder { port: port.into(), folder, keep_in_place };
        Ok(self.pipe.borrow_mut().write(&header, &[])?)
    }
    fn progress(&mut self, done: u64, total: u64, note: &str) {
        // A runner that is gone is noticed at the next write that matters.
        let _ = self.pipe.borrow_mut().write(&FromWorker::Progress { done, total, note: note.into() }, &[]);
    }
}
