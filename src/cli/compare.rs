//! `ablate compare`: the figures that pipelines compare, with intervals and paired tests.

use super::{EXIT_OK, EXIT_PIPELINE, Failure, Format, Outcome, PipelineArgs, planned, print, print_json};
use crate::report::compare::of_pipeline;
use std::path::PathBuf;

/// Arguments of `ablate compare`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pipeline files
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    /// Sets a parameter (stage.param=value) or a var (var=value) of each; may be given again
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Outcome {
    for pipeline in &args.pipelines {
        let (planned, cache) =
            planned(&PipelineArgs { pipeline: pipeline.clone(), sets: args.sets.clone(), limit: None })?;
        let table = of_pipeline(&planned, &cache)?.ok_or_else(|| {
            let example = "compare: { metric: after.pass@1, baseline: before.pass@1 }";
            Failure::new(EXIT_PIPELINE, format!("{}: compares nothing; add `{example}`", pipeline.display()))
        })?;
        match args.format {
            Format::Text => print(&table.to_text(&planned, None))?,
            Format::Json => print_json(&table)?,
        }
    }
    Ok(EXIT_OK)
}
