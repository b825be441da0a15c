//! The `problems` table itself, as JSON lines or Parquet, and records with the fields of APPS.
//!
//! Needed: `question`, and either `tests` (as in the table) or `input_output` (as in APPS, an object or its JSON text). `solution` may
//! stand for `solutions`, which may be JSON text too. A record without an id is named by a digest of source, question and entry point.

use super::apps;
use super::json::Json;
use super::records::{kind, optional_string, string, strings};
use crate::code::literal::Value as Literal;
use crate::columns::{Check, Problem, TestStyle, Tests};
use crate::random::stable_id;
use serde_json::Value;

/// The problem of a record.
///
/// # Errors
/// Which field is missing or wrong.
pub(super) fn problem(record: &Value, source: &str) -> Result<Problem, String> {
    let question = string(record, "question")?.to_owned();
    let source = optional_string(record, "source")?.unwrap_or(source).to_owned();
    let (called, tests) = if let Some(tests) = given(record, "tests") {
        (None, table_tests(tests)?)
    } else {
        let url = optional_string(record, "url")?;
        let input_output = match given(record, "input_output") {
            None => return Err("field `tests` is missing, and so is `input_output`".to_owned()),
            Some(Value::String(text)) if text.trim().is_empty() => None,
            Some(Value::String(text)) => Some(Json::parse(text)),
            Some(other) => Some(Json::parse(&other.to_string())),
        };
        let input_output = input_output.transpose().map_err(|problem| format!("field `input_output`: {problem}"))?;
        apps::tests(input_output.as_ref(), url).map_err(|problem| format!("field `input_output`: {problem}"))?
    };
    let entry_point = optional_string(record, "entry_point")?.map(str::to_owned).or(called);
    let problem_id = match ["problem_id", "task_id", "id"].iter().find_map(|field| given(record, field)) {
        Some(Value::String(id)) if !id.is_empty() => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(other) => return Err(format!("field `problem_id`: expected a string or a number, found {}", kind(other))),
        None => stable_id(&[&source, &question, entry_point.as_deref().unwrap_or_default()]),
    };
    Ok(Problem {
        problem_id,
        question,
        solutions: solutions(record)?,
        starter_code: optional_string(record, "starter_code")?.filter(|code| !code.is_empty()).map(str::to_owned),
        entry_point,
        tests,
        source,
        difficulty: optional_string(record, "difficulty")?.map(str::to_owned),
    })
}

fn given<'a>(record: &'a Value, field: &str) -> Option<&'a Value> {
    record.get(field).filter(|value| !value.is_null())
}

fn solutions(record: &Value) -> Result<Vec<String>, String> {
    if let Some(solution) = optional_string(record, "solution")? {
        return Ok(vec![solution.to_owned()]);
    }
    match record.get("solutions") {
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| format!("field `solutions`: expected an array of strings, or its JSON text: {error}")),
        _ => strings(record, "solutions"),
    }
}

/// Tests as the table has them; `cases`, `code`, `check` and `tolerance` may be left out.
fn table_tests(tests: &Value) -> Result<Tests, String> {
    let mut tests = match tests {
        Value::String(text) => serde_json::from_str(text).map_err(|error| format!("field `tests`: {error}"))?,
        other => other.clone(),
    };
    let Some(fields) = tests.as_object_mut() else {
        return Err(format!("field `tests`: expected an object, found {}", kind(&tests)));
    };
    let cases = fields.entry("cases").or_insert(Value::Array(Vec::new()));
    if cases.is_null() {
        *cases = Value::Array(Vec::new());
    }
    for case in cases.as_array_mut().into_iter().flatten() {
        if let Some(case) = case.as_object_mut() {
            case.entry("check").or_insert_with(|| "equal".into());
            case.entry("output").or_insert_with(|| "".into());
        }
    }
    let tests: Tests = serde_json::from_value(tests).map_err(|error| format!("field `tests`: {error}"))?;
    check_literals(&tests).map_err(|problem| format!("field `tests`: {problem}"))?;
    Ok(tests)
}

/// What is to be handed over, or to be compared, has to be readable: told here, before any program runs.
fn check_literals(tests: &Tests) -> Result<(), String> {
    if tests.style != TestStyle::Call {
        return Ok(());
    }
    for (number, case) in tests.cases.iter().enumerate() {
        let compared = matches!(case.check, Check::Equal | Check::Close) && !case.output.is_empty();
        for (what, text) in [("input", Some(&case.input)), ("output", compared.then_some(&case.output))] {
            if let Some(Err(error)) = text.map(|text| Literal::parse(text.trim())) {
                return Err(format!("the {what} of case {} is {error}", number + 1));
            }
        }
    }
    Ok(())
}
