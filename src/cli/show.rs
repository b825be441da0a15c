//! `ablate show`: rows of a stage's output.

use super::{EXIT_OK, EXIT_USAGE, Failure, Format, Outcome, PipelineArgs, output_of, planned, print};
use crate::cache::Output;
use crate::report::rows::{to_json_lines, to_text};
use arrow::array::RecordBatch;

/// Arguments of `ablate show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage, or stage.port
    output: String,
    /// How many rows
    #[arg(long, default_value_t = 10)]
    rows: usize,
    /// Only these columns
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let output = output_of(&planned, &cache, &args.output)?;
    let Output::Table(table) = &output else {
        let folder = cache.view(&output)?;
        print(&format!("{}\n", folder.display()))?;
        return Ok(EXIT_OK);
    };
    for column in &args.columns {
        if table.schema.field_with_name(column).is_err() {
            let names: Vec<&str> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
            let message = format!("`{}` has no column `{column}`; it has {}", args.output, names.join(", "));
            return Err(Failure::new(EXIT_USAGE, message));
        }
    }
    let mut shown: Vec<RecordBatch> = Vec::new();
    let mut left = args.rows;
    for batch in cache.read_table(table, None)? {
        let batch = batch?;
        let batch = batch.slice(0, left.min(batch.num_rows()));
        left -= batch.num_rows();
        shown.push(if args.columns.is_empty() {
            batch
        } else {
            let at: Vec<usize> = args.columns.iter().filter_map(|name| batch.schema().index_of(name).ok()).collect();
            batch.project(&at).map_err(ablate_stages::stage::StageError::from)?
        });
        if left == 0 {
            break;
        }
    }
    match args.format {
        Format::Json => print(&to_json_lines(&shown)?)?,
        Format::Text => {
            print(&to_text(&shown)?)?;
            let count: usize = shown.iter().map(RecordBatch::num_rows).sum();
            super::say(&format!("{count} of {} rows", table.table.rows));
        }
    }
    Ok(EXIT_OK)
}
