//! Rows as text and as JSON lines.

use ablate_stages::stage::StageError;
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Cells longer than this are cut.
const CELL_CHARS: usize = 200;

/// Rows as a table for people; long cells are cut and line ends shown.
///
/// # Errors
/// Where a value has no text.
pub fn to_text(batches: &[RecordBatch]) -> Result<String, StageError> {
    let Some(first) = batches.first() else { return Ok("no rows\n".into()) };
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(first.schema().fields().iter().map(|field| field.name().clone()));
    let options = FormatOptions::default().with_null("-");
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            table.add_row(columns.iter().map(|column| cut(&column.value(row).to_string())));
        }
    }
    Ok(format!("{table}\n"))
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(CELL_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// Rows as JSON, one object a line.
///
/// # Errors
/// Where a value has no JSON.
pub fn to_json_lines(batches: &[RecordBatch]) -> Result<String, StageError> {
    let mut text = String::new();
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let rows: Vec<Value> = serde_arrow::from_record_batch(batch)?;
        for row in rows {
            text.push_str(&row.to_string());
            text.push('\n');
        }
    }
    Ok(text)
}
