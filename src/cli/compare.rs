//! `ablate compare`: the figures that pipelines compare, with intervals and paired tests.

use super::{EXIT_OK, EXIT_PIPELINE, EXIT_STAGE, Failure, Format, Outcome, PipelineArgs, planned, print, print_json};
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
    /// A variant of the files; may be given again; all, if none is named
    #[arg(long = "variant", value_name = "NAME")]
    variants: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Outcome {
    for pipeline in &args.pipelines {
        let (planned, cache) = planned(&PipelineArgs {
            pipeline: pipeline.clone(),
            sets: args.sets.clone(),
            variants: args.variants.clone(),
            all: args.variants.is_empty(),
            limit: None,
        })?;
        if planned.cases.iter().all(|case| case.checked.pipeline.compare.is_none()) {
            let example = "compare: { metric: after.pass@1, baseline: before.pass@1 }";
            let message = format!("{}: compares nothing; add `{example}`", pipeline.display());
            return Err(Failure::new(EXIT_PIPELINE, message));
        }
        let table = of_pipeline(planned, &cache)?.ok_or_else(|| {
            let message = format!("{0}: what it compares has not been run: ablate run {0}", pipeline.display());
            Failure::new(EXIT_STAGE, message)
        })?;
        match args.format {
            Format::Text => print(&table.to_text(None))?,
            Format::Json => print_json(&table)?,
        }
    }
    Ok(EXIT_OK)
}
