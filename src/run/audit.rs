//! Doing a step again from nothing, to see whether it gives the same.

use super::event::Observer;
use super::planner::Planned;
use super::{Ended, Options, RunError, run};
use crate::cache::{Cache, Record, SideCache};
use ablate_stages::job::Cancel;
use ablate_stages::stage::StageError;

/// A step done from nothing, and the cache that has it until this is dropped.
pub struct Again {
    /// Where its outputs are.
    pub side: SideCache,
    /// What it gave.
    pub record: Record,
}

/// Does a step again, on the inputs that the cache has, without any result or unit that is recorded; nothing of it is kept.
///
/// # Errors
/// Where an input is not in the cache, or the step fails.
pub fn again(
    planned: &Planned,
    cache: &Cache,
    step: usize,
    cancel: &Cancel,
    observer: &dyn Observer,
) -> Result<Again, RunError> {
    let records = planned.lookup(cache)?;
    let side = cache.side()?;
    let mut above = vec![false; planned.steps.len()];
    for other in (0..=step).rev() {
        if other == step || above[other] {
            planned.steps[other].needs.iter().for_each(|&need| above[need] = true);
        }
    }
    for need in (0..step).filter(|&need| above[need]) {
        let name = &planned.steps[need].name;
        let record = records[need].as_ref().ok_or_else(|| {
            let file = planned.file().display();
            StageError::failed(format!(
                "`{name}`, which it reads from, has not been run; run it: ablate run {file} {name}"
            ))
        })?;
        side.lend(record, &planned.steps[need].recipe)?;
    }
    let options = Options { only: vec![step], ..Options::default() };
    let mut report = run(planned, &side.cache, &options, cancel, observer)?;
    match report.steps.swap_remove(step) {
        Ended::Ran(record) | Ended::Cached(record) => Ok(Again { side, record }),
        Ended::Failed(error) => Err(error),
        Ended::Skipped(_) | Ended::NotAsked => Err(StageError::Cancelled.into()),
    }
}
