//! `take`: draws rows from any table.
//!
//! Columns in: all of `rows`. Out: the same columns. Which rows are taken depends on the seed and their ids alone, so the first 100 of a
//! table are among its first 200, and a row that is added displaces at most one. With `like` connected, as many rows are taken as that
//! table has: how to give two methods equally many examples.
//! Determinism: bits. Cost: reading the table.

use crate::columns::Column;
use crate::job::{Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use crate::random::Random;
use crate::stage::{Columns, Declaration, InputPort, InputSchemas, OutputPort, Role, SchemaError, Stage, StageError};
use arrow::array::{RecordBatch, StringArray};
use arrow_schema::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Take;

/// Parameters of `take`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// How many rows; with `like` connected, at most so many. All that there are where there are fewer.
    pub count: Option<u64>,
    /// Seed of the draw.
    pub seed: u64,
    /// The column of ids; null for the first whose name ends with `_id`.
    pub id: Option<String>,
}

impl Default for Params {
    fn default() -> Self {
        Self { count: None, seed: 17, id: None }
    }
}

/// The columns of the rows port, and the one that holds ids.
///
/// # Errors
/// Where there is no such column.
pub(crate) fn id_column(columns: &[Column], wanted: Option<&str>) -> Result<String, SchemaError> {
    let is_text =
        |column: &&Column| matches!(column.data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let found = match wanted {
        Some(name) => columns.iter().filter(is_text).find(|column| column.name == name),
        None => columns.iter().filter(is_text).find(|column| column.name.ends_with("_id")),
    };
    found.map(|column| column.name.clone()).ok_or_else(|| {
        let names: Vec<_> = columns.iter().filter(is_text).map(|column| column.name.as_str()).collect();
        let what = wanted
            .map_or("a text column whose name ends with `_id`".to_owned(), |name| format!("a text column `{name}`"));
        SchemaError::parameter("id", format!("expected {what}, got {}", names.join(", ")))
    })
}

/// The ids of a batch's rows.
///
/// # Errors
/// Where the column is missing.
pub(crate) fn ids(batch: &RecordBatch, column: &str) -> Result<StringArray, StageError> {
    let column = batch
        .column_by_name(column)
        .ok_or_else(|| StageError::input("rows", format!("column `{column}` is missing")))?;
    let text = arrow::compute::cast(column, &DataType::Utf8)?;
    let text = text.as_any().downcast_ref::<StringArray>().expect("it was cast to this type");
    Ok(text.clone())
}

/// An input port that is read whole, with every column.
pub(crate) fn any_table(name: &str, doc: &'static str) -> InputPort {
    InputPort { name: name.into(), doc, role: Role::Table, columns: Columns::All, optional: false }
}

impl Stage for Take {
    type Params = Params;
    const NAME: &'static str = "take";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Draws rows from a table: a number of them, or as many as another table has.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
some: { use: take, from: problems, with: { count: 10 } }
";

    fn declare(params: &Params, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let columns = inputs.get("rows").cloned().unwrap_or_default();
        if inputs.contains_key("rows") {
            id_column(&columns, params.id.as_deref())?;
            if params.count.is_none() && !inputs.contains_key("like") {
                return Err(SchemaError::parameter(
                    "count",
                    "expected a number of rows, or a table at the port `like`, got neither",
                ));
            }
        }
        let rows = any_table("rows", "the table to draw from");
        let like = any_table("like", "as many rows are taken as this table has").optional();
        Ok(Declaration::whole(vec![rows, like], vec![OutputPort::table("rows", columns, "the rows drawn")]))
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        let columns = cx.inputs.get("rows").map(Vec::as_slice).unwrap_or_default();
        let id = id_column(columns, params.id.as_deref()).map_err(|error| StageError::failed(error.to_string()))?;
        Ok(Job::Whole(Box::new(TakeJob { params: params.clone(), id })))
    }
}

struct TakeJob {
    params: Params,
    id: String,
}

impl WholeJob for TakeJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let mut count = self.params.count.map_or(usize::MAX, |count| count as usize);
        if inputs.has("like") {
            let mut like = 0;
            for batch in inputs.stream("like")? {
                like += batch?.num_rows();
            }
            count = count.min(like);
        }
        let batches = inputs.stream("rows")?.collect::<Result<Vec<_>, _>>()?;
        let mut ranked = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            let ids = ids(batch, &self.id)?;
            for (row, id) in ids.iter().enumerate() {
                let id = id.unwrap_or_default();
                let draw = Random::new(self.params.seed, Take::NAME, "row", id).bits();
                ranked.push((draw, id.to_owned(), number, row as u32));
            }
        }
        ranked.sort_unstable();
        ranked.truncate(count);
        let mut selected = vec![Vec::new(); batches.len()];
        for (_, _, number, row) in ranked {
            selected[number].push(row);
        }
        for (batch, mut rows) in batches.iter().zip(selected) {
            if !rows.is_empty() {
                rows.sort_unstable();
                out.push_selected("rows", batch, rows)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Solved;
    use crate::testing::{run_whole, table};
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn rows(n: usize) -> Vec<Solved> {
        (0..n).map(|i| Solved { problem_id: format!("p{i}"), solutions: vec![] }).collect()
    }

    fn taken(with: &Value, n: usize, like: Option<usize>) -> BTreeSet<String> {
        let mut inputs = vec![("rows", table(&rows(n)))];
        if let Some(like) = like {
            inputs.push(("like", table(&rows(like))));
        }
        run_whole(&Take, with, &inputs).rows::<Solved>().into_iter().map(|row| row.problem_id).collect()
    }

    #[test]
    fn fewer_rows_are_among_more_rows() {
        let (few, more) = (taken(&json!({ "count": 5 }), 30, None), taken(&json!({ "count": 9 }), 30, None));
        assert_eq!((few.len(), more.len()), (5, 9));
        assert!(few.is_subset(&more));
        assert_ne!(few, taken(&json!({ "count": 5, "seed": 2 }), 30, None));
        assert_eq!(taken(&json!({ "count": 50 }), 30, None).len(), 30);
    }

    #[test]
    fn as_many_rows_are_taken_as_another_table_has() {
        assert_eq!(taken(&json!({}), 30, Some(7)).len(), 7);
        assert_eq!(taken(&json!({ "count": 3 }), 30, Some(7)).len(), 3);
        assert_eq!(taken(&json!({}), 30, Some(0)).len(), 0);
    }

    #[test]
    fn a_table_without_ids_or_a_use_without_a_count_is_refused() {
        let columns =
            vec![Column { name: "x".into(), data_type: DataType::Int64, nullable: false, doc: String::new() }];
        let inputs = InputSchemas::from([("rows".to_owned(), columns)]);
        let params = Params { count: Some(1), ..Params::default() };
        assert_eq!(Take::declare(&params, &inputs).unwrap_err().parameter.as_deref(), Some("id"));
        let inputs = InputSchemas::from([("rows".to_owned(), crate::columns::columns_of::<Solved>())]);
        assert_eq!(Take::declare(&Params::default(), &inputs).unwrap_err().parameter.as_deref(), Some("count"));
    }
}
