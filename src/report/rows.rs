//! Rows as text and as JSON lines.

use ablate_stages::stage::StageError;
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Cells longer than this are cut.
const CELL_CHARS: usize = 200;

/// Rows as a table for people; long cells are cut, and floats rounded to six digits.
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
        let floats: Vec<bool> = batch.columns().iter().map(|column| column.data_type().is_floating()).collect();
        for row in 0..batch.num_rows() {
            table.add_row(columns.iter().zip(&floats).map(|(column, &is_float)| {
                let text = column.value(row).to_string();
                if is_float { rounded(&text) } else { cut(&text) }
            }));
        }
    }
    Ok(format!("{table}\n"))
}

/// A float with six significant digits, without zeros at its end; text that is none as it is.
fn rounded(text: &str) -> String {
    let Ok(value) = text.parse::<f64>() else { return text.to_owned() };
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let exponent = value.abs().log10().floor() as i32;
    let (digits, power) = if (-4..9).contains(&exponent) {
        (format!("{value:.*}", (5 - exponent).max(0) as usize), String::new())
    } else {
        let text = format!("{value:.5e}");
        let (digits, power) = text.split_once('e').expect("it is written so");
        (digits.to_owned(), format!("e{power}"))
    };
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{power}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_to_six_digits_and_keep_their_size() {
        for (text, shown) in [
            ("0.4633333333333333", "0.463333"),
            ("0.30000000000000004", "0.3"),
            ("1234567.25", "1234567"),
            ("4.466242753693673e-6", "4.46624e-6"),
            ("0.00004", "4e-5"),
            ("12", "12"),
            ("-2.50", "-2.5"),
            ("0", "0"),
            ("NaN", "NaN"),
            ("-", "-"),
        ] {
            assert_eq!(rounded(text), shown, "{text}");
        }
    }
}
