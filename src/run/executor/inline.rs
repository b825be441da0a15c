//! Light kinds run in the runner's own process, on the thread that asks.

use super::{Opening, Ran};
use crate::run::RunError;
use ablate_stages::columns::Column;
use ablate_stages::job::{self, FinishedBatch, Job, TableStream, UnitBatch, WholeInputs, WholeOutputs, WholeSink};
use ablate_stages::stage::{ArtifactKind, StageError};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::collections::BTreeMap;

pub(super) fn run_units(
    opening: &Opening<'_>,
    next: &mut dyn FnMut() -> Result<Option<UnitBatch>, StageError>,
    deliver: &mut dyn FnMut(FinishedBatch) -> Result<(), StageError>,
) -> Result<Ran, RunError> {
    let before = thread_cpu_s();
    let Job::Map(mut job) = opening.bound.open(&opening.context)? else {
        return Err(
            StageError::failed("the kind declares units and opens a whole job; this is a bug of the kind").into()
        );
    };
    let ArtifactKind::Table { columns, .. } = &opening.declaration.outputs[0].artifact else {
        return Err(StageError::failed("a map stage writes a table; this is a bug of the kind").into());
    };
    job::run_map(&mut *job, columns, &opening.context.cancel, next, deliver)?;
    Ok(Ran { cpu_s: thread_cpu_s() - before, ..Ran::default() })
}

pub(super) fn run_whole(
    opening: &Opening<'_>,
    tables: BTreeMap<String, TableStream<'_>>,
    outputs: Vec<(String, Vec<Column>)>,
    sink: &mut dyn WholeSink,
) -> Result<Ran, RunError> {
    let before = thread_cpu_s();
    let Job::Whole(mut job) = opening.bound.open(&opening.context)? else {
        return Err(
            StageError::failed("the kind declares no units and opens a map job; this is a bug of the kind").into()
        );
    };
    job.run(&mut WholeInputs { tables }, &mut WholeOutputs::new(outputs, sink))?;
    opening.context.cancel.check()?;
    Ok(Ran { cpu_s: thread_cpu_s() - before, ..Ran::default() })
}

fn thread_cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}
