//! `ablate compare`: the figures that pipelines compare, with intervals and paired tests.

use super::{EXIT_OK, EXIT_PIPELINE, EXIT_STAGE, Failure, Format, Outcome, PipelineArgs, planned, print, print_json};
use crate::cache::Cache;
use crate::pipeline::resolve::Baseline;
use crate::pipeline::variants::DEFAULT;
use crate::report::compare::{Comparison, of_pipeline};
use crate::run::planner::Planned;
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
        let args_of_it = PipelineArgs {
            pipeline: pipeline.clone(),
            sets: args.sets.clone(),
            variants: args.variants.clone(),
            all: args.variants.is_empty(),
            limit: None,
        };
        let (planned, cache) = planned(&args_of_it)?;
        if planned.cases.iter().all(|case| case.checked.pipeline.compare.is_none()) {
            let example = "compare: { metric: after.pass@1, baseline: before.pass@1 }";
            let message = format!("{}: compares nothing; add `{example}`", pipeline.display());
            return Err(Failure::new(EXIT_PIPELINE, message));
        }
        let table = comparison(&args_of_it, planned, &cache)?.ok_or_else(|| {
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

/// What a planned pipeline compares; the variant that figures are held against is added where it was not asked for.
pub(super) fn comparison(args: &PipelineArgs, of: &Planned, cache: &Cache) -> Result<Option<Comparison>, Failure> {
    let baseline = of.cases.iter().find_map(|case| match &case.checked.pipeline.compare.as_ref()?.baseline {
        Some(Baseline::Variant(name)) => Some(name.clone()),
        _ => None,
    });
    let names: Vec<&str> = of.cases.iter().map(|case| case.checked.variant.as_deref().unwrap_or(DEFAULT)).collect();
    let Some(baseline) = baseline.filter(|name| !names.contains(&name.as_str())) else {
        return Ok(of_pipeline(of, cache)?);
    };
    let variants = names.into_iter().map(str::to_owned).chain([baseline]).collect();
    let (with_baseline, _) = planned(&PipelineArgs { variants, all: false, ..args.clone() })?;
    Ok(of_pipeline(with_baseline, cache)?)
}
