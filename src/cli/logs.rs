//! `ablate logs`: what a stage's worker wrote, in the record of the finished stage or in the newest run that has it; without a stage,
//! when each stage of the newest run worked.

use super::{EXIT_OK, EXIT_STAGE, EXIT_USAGE, Failure, Outcome, PipelineArgs, planned, print};
use crate::report::timeline::timeline;

/// Arguments of `ablate logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage; without one, the timeline of the newest run
    stage: Option<String>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let Some(stage) = &args.stage else {
        let Some(run) = cache.past_runs()?.into_iter().rev().find(|run| run.name == planned.name()) else {
            return Err(Failure::new(EXIT_STAGE, format!("`{}` has not been run", planned.name())));
        };
        print(&timeline(&std::fs::read_to_string(run.events_path())?))?;
        return Ok(EXIT_OK);
    };
    let step = planned.named(stage).map_err(|problem| Failure::new(EXIT_USAGE, problem))?;
    let name = &planned.steps[step].name;
    for run in cache.past_runs()?.into_iter().rev().filter(|run| run.name == planned.name()) {
        if let Ok(text) = std::fs::read(run.log_path(name)) {
            print(&String::from_utf8_lossy(&text))?;
            return Ok(EXIT_OK);
        }
    }
    let record = planned.lookup(&cache)?.swap_remove(step);
    match record.map(|record| record.log) {
        Some(Some(log)) => print(&String::from_utf8_lossy(&cache.read_blob(&log)?))?,
        Some(None) => super::say("the stage wrote nothing"),
        None => return Err(Failure::new(EXIT_STAGE, format!("`{stage}` has not been run"))),
    }
    Ok(EXIT_OK)
}
