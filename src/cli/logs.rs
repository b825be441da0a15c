//! `ablate logs`: what a stage's worker wrote, in the record of the finished stage or in the newest run that has it.

use super::{EXIT_OK, EXIT_STAGE, EXIT_USAGE, Failure, Outcome, PipelineArgs, planned, print};

/// Arguments of `ablate logs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage
    stage: String,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let step = planned.named(&args.stage).map_err(|problem| Failure::new(EXIT_USAGE, problem))?;
    for run in cache.past_runs()?.into_iter().rev().filter(|run| run.name == planned.name()) {
        if let Ok(text) = std::fs::read(run.log_path(&args.stage)) {
            print(&String::from_utf8_lossy(&text))?;
            return Ok(EXIT_OK);
        }
    }
    let record = planned.lookup(&cache)?.swap_remove(step);
    match record.map(|record| record.log) {
        Some(Some(log)) => print(&String::from_utf8_lossy(&cache.read_blob(&log)?))?,
        Some(None) => super::say("the stage wrote nothing"),
        None => return Err(Failure::new(EXIT_STAGE, format!("`{}` has not been run", args.stage))),
    }
    Ok(EXIT_OK)
}
