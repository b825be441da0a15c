//! `ablate query`: SQL over the outputs of stages. The engine is behind the feature `sql`: building it takes minutes.

#[cfg(feature = "sql")]
mod engine;

use super::{Format, Outcome, PipelineArgs};

/// How many rows people are shown where they do not say.
const ROWS: usize = 100;

/// Arguments of `ablate query`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// One SELECT. Its tables are stages and their ports: problems, short.dropped; other names go in double quotes: "after/generate"
    sql: String,
    /// At most so many rows, as text; JSON has all of them
    #[arg(long, default_value_t = ROWS)]
    rows: usize,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[cfg(feature = "sql")]
pub(super) fn run(args: &Args) -> Outcome {
    engine::run(args)
}

/// Says how to get the command, and what reads the tables without it.
#[cfg(not(feature = "sql"))]
pub(super) fn run(args: &Args) -> Outcome {
    let Args { pipeline, sql: _, rows: _, format: _ } = args;
    let latest = crate::cache::find_root(&pipeline.pipeline)?.join("runs/latest");
    Err(super::Failure::new(
        super::EXIT_MISSING,
        format!(
            "this build is without SQL; get it: cargo build --release --features sql\n\n\
             hint: DuckDB and pyarrow read the tables as they are, Parquet in {}/<stage>",
            latest.display()
        ),
    ))
}
