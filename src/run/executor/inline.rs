//! Light kinds run in the runner's own process, on the thread that asks.

use super::{Opening, Ran};
use crate::run::RunError;
use ablate_stages::columns::Column;
use ablate_stages::job::{
    self, FinishedBatch, Job, TableStream, UnitBatch, WholeInputs, WholeOutputs, WholeSink, thread_cpu_s,
};
use ablate_stages::stage::{ArtifactKind, StageError};
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
    let mut outputs = WholeOutputs::new(outputs, sink);
    job.run(&mut WholeInputs { tables }, &mut outputs)?;
    opening.context.cancel.check()?;
    Ok(Ran { cpu_s: thread_cpu_s() - before + outputs.helper_cpu_s(), ..Ran::default() })
}
