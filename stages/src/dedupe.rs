//! `dedupe`: keeps one of every set of equal rows.
//!
//! Columns in: all of `rows`. Out: the same columns, and `dropped` with the row that was kept instead. Rows are equal where the columns
//! `by` are; kept is the row with the smallest id, so the result does not depend on the order of rows.
//! Determinism: bits. Cost: reading the table.

use crate::columns::{Dropped, columns_of};
use crate::job::{Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use crate::stage::{Declaration, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use crate::take::{any_table, id_column, ids};
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::row::{RowConverter, SortField};
use arrow_schema::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Dedupe;

/// Parameters of `dedupe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The columns that make rows equal.
    pub by: Vec<String>,
    /// How text is compared.
    #[serde(default)]
    pub how: How,
    /// The column of ids; null for the first whose name ends with `_id`.
    #[serde(default)]
    pub id: Option<String>,
}

/// How text is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// To the byte.
    Exact,
    /// Without regard to case and to white space, for columns of text; others exactly.
    #[default]
    Normalised,
}

impl Stage for Dedupe {
    type Params = Params;
    const NAME: &'static str = "dedupe";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Keeps one of every set of rows that are equal in some columns.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
distinct: { use: dedupe, from: problems, with: { by: [question] } }
";

    fn declare(params: &Params, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.by.is_empty() {
            return Err(SchemaError::parameter("by", "expected at least one column, got none"));
        }
        let columns = inputs.get("rows").cloned().unwrap_or_default();
        if inputs.contains_key("rows") {
            id_column(&columns, params.id.as_deref())?;
            for wanted in &params.by {
                if !columns.iter().any(|column| &column.name == wanted) {
                    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
                    let problem = format!("expected columns among {}, got `{wanted}`", names.join(", "));
                    return Err(SchemaError::parameter("by", problem));
                }
            }
        }
        let kept = OutputPort::table("rows", columns, "the rows kept");
        let dropped =
            OutputPort::table("dropped", columns_of::<Dropped>(), "the rows left out, and which was kept instead");
        Ok(Declaration::whole(vec![any_table("rows", "the table with equal rows")], vec![kept, dropped]))
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        let columns = cx.inputs.get("rows").map(Vec::as_slice).unwrap_or_default();
        let id = id_column(columns, params.id.as_deref()).map_err(|error| StageError::failed(error.to_string()))?;
        Ok(Job::Whole(Box::new(DedupeJob { params: params.clone(), id })))
    }
}

struct DedupeJob {
    params: Params,
    id: String,
}

impl DedupeJob {
    /// A digest of what makes each row of a batch what it is.
    fn digests(&self, batch: &RecordBatch) -> Result<Vec<blake3::Hash>, StageError> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for name in &self.params.by {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| StageError::input("rows", format!("column `{name}` is missing")))?;
            let is_text = matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            columns.push(if is_text && self.params.how == How::Normalised {
                let text = arrow::compute::cast(column, &DataType::Utf8)?;
                let text = text.as_any().downcast_ref::<StringArray>().expect("it was cast to this type");
                Arc::new(text.iter().map(|text| text.map(normalised)).collect::<StringArray>())
            } else {
                Arc::clone(column)
            });
        }
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
        Ok(rows.iter().map(|row| blake3::hash(row.as_ref())).collect())
    }
}

/// Text in lower case with single spaces.
fn normalised(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(&word.to_lowercase());
    }
    words
}

impl WholeJob for DedupeJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let batches = inputs.stream("rows")?.collect::<Result<Vec<_>, _>>()?;
        let mut rows = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            let digests = self.digests(batch)?;
            for (row, (id, digest)) in ids(batch, &self.id)?.iter().zip(digests).enumerate() {
                rows.push((id.unwrap_or_default().to_owned(), number, row as u32, digest));
            }
        }
        rows.sort_unstable_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
        let mut kept: BTreeMap<[u8; 32], &str> = BTreeMap::new();
        let mut selected = vec![Vec::new(); batches.len()];
        let mut dropped = Vec::new();
        for (id, number, row, digest) in &rows {
            match kept.get(digest.as_bytes()) {
                Some(first) => dropped.push(Dropped {
                    unit_id: id.clone(),
                    reason: "duplicate".into(),
                    detail: Some(format!("equal to {first}")),
                }),
                None => {
                    kept.insert(*digest.as_bytes(), id);
                    selected[*number].push(*row);
                }
            }
        }
        for (batch, mut rows) in batches.iter().zip(selected) {
            if !rows.is_empty() {
                rows.sort_unstable();
                out.push_selected("rows", batch, rows)?;
            }
        }
        out.push("dropped", &dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Solved;
    use crate::testing::{run_whole, table};
    use serde_json::json;

    #[test]
    fn one_of_equal_rows_stays_and_the_others_name_it() {
        let row = |id: &str, solution: &str| Solved { problem_id: id.into(), solutions: vec![solution.into()] };
        let rows = [row("c", "x"), row("b", "y"), row("a", "x"), row("d", "x, y")];
        let ran = run_whole(&Dedupe, &json!({ "by": ["solutions"] }), &[("rows", table(&rows))]);
        let mut kept: Vec<_> = ran.rows::<Solved>().into_iter().map(|row| row.problem_id).collect();
        kept.sort();
        assert_eq!(kept, ["a", "b", "d"]);
        let dropped: Vec<Dropped> = ran.output("dropped");
        assert_eq!((dropped[0].unit_id.as_str(), dropped[0].detail.as_deref()), ("c", Some("equal to a")));
    }

    #[test]
    fn text_is_compared_without_case_and_white_space_unless_asked() {
        #[derive(Serialize, Deserialize)]
        struct Row {
            row_id: String,
            text: Option<String>,
        }
        let row = |id: &str, text: Option<&str>| Row { row_id: id.into(), text: text.map(str::to_owned) };
        let rows = [
            row("a", Some("Add  two\nnumbers")),
            row("b", Some("add two numbers ")),
            row("c", None),
            row("d", Some("")),
        ];
        let count = |how: &str| {
            run_whole(&Dedupe, &json!({ "by": ["text"], "how": how }), &[("rows", table(&rows))]).rows::<Row>().len()
        };
        assert_eq!(count("normalised"), 3);
        assert_eq!(count("exact"), 4);
    }

    #[test]
    fn an_unknown_column_is_refused_with_those_there_are() {
        let inputs = InputSchemas::from([("rows".to_owned(), columns_of::<Solved>())]);
        let params = Params { by: vec!["qestion".into()], how: How::Exact, id: None };
        let error = Dedupe::declare(&params, &inputs).unwrap_err();
        assert_eq!(error.to_string(), "expected columns among problem_id, solutions, got `qestion`");
    }
}
