//! `ablate show`: rows of a stage's output, all or those that meet a condition.

use super::{EXIT_OK, EXIT_USAGE, Failure, Format, Outcome, PipelineArgs, output_of, planned, print, say};
use crate::cache::{Cache, Output, TableOutput};
use crate::pipeline::error::nearest;
use crate::pipeline::located::{Location, Sources};
use crate::pipeline::{Fault, Problem, Problems};
use crate::report::rows::{to_json_lines, to_text};
use crate::run::history::last_failed;
use ablate_stages::condition::{Condition, ConditionError};
use ablate_stages::stage::StageError;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use std::io::IsTerminal;

/// Arguments of `ablate show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage, or stage.port; stage.failed for the units that failed in the newest run
    output: String,
    /// How many rows
    #[arg(long, default_value_t = 10)]
    rows: usize,
    /// Only these columns
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Only rows of which this is true, an expression as in `filter`: `verdict != "passed" and tests_total > 3`
    #[arg(long = "where", value_name = "EXPRESSION")]
    condition: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let failed = match args.output.strip_suffix(".failed") {
        Some(stage) => last_failed(&cache, planned.name(), stage)?,
        None => None,
    };
    let output = match failed {
        Some(table) => Output::Table(table),
        None => output_of(planned, &cache, &args.output)?,
    };
    let Output::Table(table) = &output else {
        let folder = cache.view(&output)?;
        print(&format!("{}\n", folder.display()))?;
        return Ok(EXIT_OK);
    };
    let names: Vec<String> = table.schema.fields().iter().map(|field| field.name().clone()).collect();
    if let Some(column) = args.columns.iter().find(|column| !names.contains(column)) {
        let near = nearest(column, &names).map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
        let message = format!("`{}` has no column `{column}`{near}; it has {}", args.output, names.join(", "));
        return Err(Failure::new(EXIT_USAGE, message));
    }
    let condition = args.condition.as_deref().map(|text| condition(text, &args.output, &names)).transpose()?;
    // For people the matches are counted to the last; a program gets the rows that it asked for.
    let found = find(&cache, table, condition.as_ref(), args.rows, args.format == Format::Text)?;
    let shown = found.rows.iter().map(|batch| project(batch, &args.columns)).collect::<Result<Vec<_>, _>>()?;
    match args.format {
        Format::Json => print(&to_json_lines(&shown)?)?,
        Format::Text => {
            print(&to_text(&shown)?)?;
            let count: usize = shown.iter().map(RecordBatch::num_rows).sum();
            let all = table.table.rows;
            say(&match condition {
                None => format!("{count} of {all} rows"),
                Some(_) => format!("{count} of {} rows that meet the condition, of {all} in all", found.matches),
            });
        }
    }
    Ok(EXIT_OK)
}

/// The rows to show, and how many there would be.
#[derive(Default)]
struct Found {
    rows: Vec<RecordBatch>,
    matches: usize,
}

/// The first rows that meet the condition; with `count`, all that meet it are counted.
fn find(
    cache: &Cache,
    table: &TableOutput,
    condition: Option<&Condition>,
    most: usize,
    count: bool,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut read = 0;
    for batch in cache.read_table(table, None)? {
        let batch = batch?;
        let matching = match condition {
            Some(condition) => matching(&batch, condition, read)?,
            None => batch.clone(),
        };
        read += batch.num_rows();
        let left = most.saturating_sub(found.matches);
        found.matches += matching.num_rows();
        // The first batch is kept even if nothing of it is shown, for the names of the columns.
        if left > 0 || found.rows.is_empty() {
            found.rows.push(matching.slice(0, left.min(matching.num_rows())));
        }
        if found.matches >= most && !(count && condition.is_some()) {
            break;
        }
    }
    Ok(found)
}

/// The rows of a batch that meet the condition. `read`: how many rows were read before it.
fn matching(batch: &RecordBatch, condition: &Condition, read: usize) -> Result<RecordBatch, Failure> {
    let ready = condition.ready()?;
    let mut meets = Vec::with_capacity(batch.num_rows());
    for (at, row) in condition.rows(batch)?.iter().enumerate() {
        meets.push(ready.holds(row).map_err(|problem| {
            Failure::new(EXIT_USAGE, format!("--where cannot be evaluated for row {}: {problem}", read + at + 1))
        })?);
    }
    Ok(filter_record_batch(batch, &BooleanArray::from(meets)).map_err(StageError::from)?)
}

/// The batch with these columns only, or with all if none is named.
fn project(batch: &RecordBatch, columns: &[String]) -> Result<RecordBatch, StageError> {
    if columns.is_empty() {
        return Ok(batch.clone());
    }
    let at: Vec<usize> = columns.iter().filter_map(|name| batch.schema().index_of(name).ok()).collect();
    Ok(batch.project(&at)?)
}

/// Reads `--where` against the columns of the table.
fn condition(text: &str, table: &str, columns: &[String]) -> Result<Condition, Failure> {
    let read = Condition::parse(text).and_then(|condition| {
        condition.check(columns.iter().map(String::as_str))?;
        Ok(condition)
    });
    read.map_err(|error| Failure::new(EXIT_USAGE, format!("--where cannot be used\n{}", located(text, table, error))))
}

/// The mistake with the text underlined, as mistakes of a pipeline are shown.
fn located(text: &str, table: &str, error: ConditionError) -> String {
    let mut sources = Sources::default();
    let source = sources.add("--where", text);
    let (fault, at) = match error {
        ConditionError::Broken { problem, at, .. } => {
            (Fault::BadParameter { what: "not an expression".into(), message: problem }, at)
        }
        ConditionError::UnknownColumn { name, at, columns } => {
            let owner = format!("of `{table}`");
            (Fault::Unknown { what: "column", name, owner, choices: columns }, at)
        }
    };
    let at = at.unwrap_or(0..text.len());
    let problem = Problem::new(fault, Location { source, start: at.start, len: at.len() });
    Problems { sources, list: vec![problem] }.render(std::io::stderr().is_terminal())
}
