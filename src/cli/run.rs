//! `ablate run`: does what is missing, shows how it goes, and prints the table of what is compared.

use super::compare::comparison;
use super::{EXIT_OK, EXIT_STAGE, EXIT_USAGE, Failure, Format, Outcome, PipelineArgs, planned, print, print_json, say};
use crate::report::progress;
use crate::run::{self, Ended, Options};
use ablate_stages::job::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Arguments of `ablate run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Only these stages, and what they need
    stages: Vec<String>,
    /// How many CPUs to keep busy; all, if not said
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// After a failure go on with what does not depend on it (this is so anyway)
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Start nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// How to print: progress and table for people, or events and results for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let mut only = Vec::new();
    for stage in &args.stages {
        only.extend(planned.all_named(stage).map_err(|problem| Failure::new(EXIT_USAGE, problem))?);
    }
    let cancel = Cancel::default();
    // The second signal ends the process at once: workers die with it, and no record is ever half written.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, cancel.flag())?;
        signal_hook::flag::register(signal, cancel.flag())?;
    }
    let options = Options { only, jobs: args.jobs, fail_fast: args.fail_fast, limit: args.pipeline.limit };
    let observer = progress::observer(args.format == Format::Json);
    // Not freed, as the plan is not.
    let report: &'static _ = Box::leak(Box::new(run::run(planned, &cache, &options, &cancel, &*observer)?));
    drop(observer);
    for damage in cache.take_damage() {
        say(&format!("warning: {damage}"));
    }
    let file = planned.file().display();
    if !report.is_complete() {
        if report.cancelled {
            return Err(Failure::new(
                EXIT_STAGE,
                format!("stopped; what is done is recorded: `ablate run {file}` goes on"),
            ));
        }
        let failures: Vec<(&str, &run::RunError)> = planned
            .steps
            .iter()
            .zip(&report.steps)
            .filter_map(|(step, ended)| match ended {
                Ended::Failed(error) => Some((step.name.as_str(), error)),
                _ => None,
            })
            .collect();
        let code = match failures.first() {
            Some((_, error)) if error.is_missing() => super::EXIT_MISSING,
            _ => EXIT_STAGE,
        };
        let lines: Vec<String> = failures.iter().map(|(stage, error)| format!("stage `{stage}`: {error}")).collect();
        return Err(Failure::new(code, lines.join("\nerror: ")));
    }
    if let Some(table) = comparison(&args.pipeline, planned, &cache)? {
        match args.format {
            Format::Text => print(&table.to_text(args.pipeline.limit))?,
            Format::Json => print_json(&table)?,
        }
    }
    Ok(EXIT_OK)
}
