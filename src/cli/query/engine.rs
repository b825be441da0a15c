//! SQL by DataFusion, over the Parquet files of the stages that the query names.

use super::Args;
use crate::cache::{Cache, Output};
use crate::cli::{EXIT_BUG, EXIT_OK, EXIT_STAGE, EXIT_USAGE, Failure, Format, Outcome, output_of, planned, print, say};
use crate::report::rows::{to_json_lines, to_text};
use crate::run::planner::Planned;
use arrow::array::RecordBatch;
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::config::Dialect;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::sync::Arc;

/// The catalog and the schema of names without a dot.
const CATALOG: &str = "pipeline";
const SCHEMA: &str = "stages";

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(EXIT_BUG, format!("the query's threads cannot be started: {error}")))?;
    runtime.block_on(answer(args, &planned, &cache))
}

async fn answer(args: &Args, planned: &Planned, cache: &Cache) -> Outcome {
    // Strings stay of the type that the tables have: text and JSON are the same as of `show`.
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    let session = SessionContext::new_with_config(config);
    let mistake = |error| Failure::new(code(&error), format!("{}{}", words(&error), quotes(&args.sql, planned)));
    let statement = session.state().sql_to_statement(&args.sql, &Dialect::Generic).map_err(mistake)?;
    for table in session.state().resolve_table_references(&statement).map_err(mistake)? {
        register(&session, table, planned, cache).await?;
    }
    let plan = session.state().statement_to_plan(statement).await.map_err(mistake)?;
    // A query reads; nothing of it may write a file or a table.
    let reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reading.verify_plan(&plan).map_err(mistake)?;
    let frame = session.execute_logical_plan(plan).await.map_err(mistake)?;
    let empty = RecordBatch::new_empty(Arc::clone(frame.schema().inner()));
    let mut rows = frame.execute_stream().await.map_err(mistake)?;
    // The columns are shown even if there is no row.
    let (mut shown, mut left, mut all) = (vec![empty], args.rows, 0);
    while let Some(batch) = next(&mut rows).await.map_err(mistake)? {
        match args.format {
            Format::Json => print(&to_json_lines(&[batch])?)?,
            Format::Text => {
                all += batch.num_rows();
                shown.push(batch.slice(0, left.min(batch.num_rows())));
                left = left.saturating_sub(batch.num_rows());
            }
        }
    }
    if args.format == Format::Text {
        print(&to_text(&shown)?)?;
        say(&format!("{} of {all} rows", all.min(args.rows)));
    }
    Ok(EXIT_OK)
}

/// The next rows; none after the last.
async fn next(rows: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>, DataFusionError> {
    std::future::poll_fn(|cx| rows.as_mut().poll_next(cx)).await.transpose()
}

/// Makes the output of a stage the table of its name: `problems`, `"short.dropped"`, or `short.dropped`, which SQL takes apart.
async fn register(
    session: &SessionContext,
    table: TableReference,
    planned: &Planned,
    cache: &Cache,
) -> Result<(), Failure> {
    let name = match table.schema() {
        Some(stage) => format!("{stage}.{}", table.table()),
        None => table.table().to_owned(),
    };
    let output = output_of(planned, cache, &name)?;
    let folder = cache.view(&output)?;
    let Output::Table(found) = &output else {
        return Err(Failure::new(EXIT_USAGE, format!("`{name}` is no table; it lies in {}", folder.display())));
    };
    if let (Some(schema), Some(catalog)) = (table.schema(), session.catalog(CATALOG))
        && catalog.schema(schema).is_none()
    {
        let added = catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()));
        added.map_err(|error| Failure::new(EXIT_BUG, words(&error)))?;
    }
    let options = ParquetReadOptions::default().schema(&found.schema);
    let registered = session.register_parquet(table, folder.to_string_lossy(), options).await;
    registered.map_err(|error| Failure::new(code(&error), format!("`{name}` cannot be read: {}", words(&error))))
}

fn code(error: &DataFusionError) -> u8 {
    use DataFusionError as E;
    match error.find_root() {
        E::IoError(_) | E::ObjectStore(_) | E::ParquetError(_) | E::ResourcesExhausted(_) => EXIT_STAGE,
        E::Internal(_) => EXIT_BUG,
        _ => EXIT_USAGE,
    }
}

fn words(error: &DataFusionError) -> String {
    format!("the query cannot be answered: {}", error.strip_backtrace())
}

/// A hint on names that stand in the query without the quotes they need.
fn quotes(sql: &str, planned: &Planned) -> String {
    let plain = |name: &str| name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit());
    let names = planned.steps.iter().map(|step| step.name.as_str());
    let bare = names.filter(|name| !plain(name) && sql.contains(name) && !sql.contains(&format!("\"{name}")));
    // The longest: `after/generate` has `after` in it.
    let longest = bare.max_by_key(|name| name.len());
    longest.map(|name| format!("\n\nhint: this name needs double quotes: \"{name}\"")).unwrap_or_default()
}
