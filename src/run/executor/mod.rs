//! Executors: who does the work of a stage. In the runner's own process, or in a worker that speaks frames.

mod inline;
mod worker;

use super::RunError;
use ablate_stages::columns::Column;
use ablate_stages::job::{FinishedBatch, OpenContext, TableStream, UnitBatch, WholeSink};
use ablate_stages::stage::{BoundStage, Declaration, Place, StageError};
use std::collections::BTreeMap;
use std::fs::File;

pub(crate) use self::worker::lm_worker;
pub(super) use self::worker::signal_workers;

/// A stage that is about to be opened by an executor.
pub(super) struct Opening<'a> {
    /// The kind with its parameters.
    pub(super) bound: &'a dyn BoundStage,
    /// What it reads and writes.
    pub(super) declaration: &'a Declaration,
    /// What its job may use.
    pub(super) context: OpenContext,
    /// Where what it prints goes.
    pub(super) log: File,
}

/// What opening and running a job came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Ran {
    /// Libraries and devices that did the work.
    pub(super) versions: BTreeMap<String, String>,
    /// Seconds of CPU, where they were measured.
    pub(super) cpu_s: f64,
    /// The largest resident memory of a worker.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// Why work on units ended before there were no more.
pub(super) enum Stopped {
    /// The worker died after it had opened the stage: what it had is to be handed out again. In words, how it `ended ..`.
    Died(String),
    /// The stage cannot go on.
    Failed(RunError),
}

impl From<RunError> for Stopped {
    fn from(error: RunError) -> Self {
        Self::Failed(error)
    }
}

/// Opens the stage and works on units until there are no more.
///
/// # Errors
/// Where the stage cannot be opened or fails, or the worker dies; its failed units are answers, not errors.
pub(super) fn run_units(
    opening: Opening<'_>,
    next: &mut dyn FnMut() -> Result<Option<UnitBatch>, StageError>,
    deliver: &mut dyn FnMut(FinishedBatch) -> Result<(), StageError>,
) -> Result<Ran, Stopped> {
    match opening.declaration.place {
        Place::Inline => Ok(inline::run_units(&opening, next, deliver)?),
        Place::Sandbox | Place::Torch => worker::run_units(opening, next, deliver),
    }
}

/// Opens the stage and runs it on whole tables.
///
/// # Errors
/// As [`run_units`].
pub(super) fn run_whole(
    opening: Opening<'_>,
    tables: BTreeMap<String, TableStream<'_>>,
    outputs: Vec<(String, Vec<Column>)>,
    sink: &mut dyn WholeSink,
) -> Result<Ran, RunError> {
    match opening.declaration.place {
        Place::Inline => inline::run_whole(&opening, tables, outputs, sink),
        Place::Sandbox | Place::Torch => worker::run_whole(opening, tables, sink),
    }
}
