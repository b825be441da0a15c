//! MBPP, whole or sanitized: a sentence, a solution and three asserts.
//!
//! Austin et al. 2021, <https://arxiv.org/abs/2108.07732>; `{task_id, text or prompt, code, test_list, test_setup_code or test_imports}`.
//! The question is the sentence and the first assert, which alone says what the function is called (as `EvalPlus` asks it); ids are
//! `Mbpp/2`, as there.

use super::asserts::AssertReader;
use super::records::{kind, optional_string, string, strings};
use crate::columns::{Problem, TestStyle, Tests};
use serde_json::Value;

/// The id of a numbered problem.
pub(super) fn id(record: &Value) -> Result<String, String> {
    match record.get("task_id") {
        Some(Value::Number(number)) => Ok(format!("Mbpp/{number}")),
        Some(Value::String(id)) => Ok(id.clone()),
        Some(other) => Err(format!("field `task_id`: expected a number or a string, found {}", kind(other))),
        None => Err("field `task_id` is missing".to_owned()),
    }
}

/// The problem of a record.
///
/// # Errors
/// Which field is missing or wrong.
pub(super) fn problem(record: &Value, asserts: &mut AssertReader) -> Result<Problem, String> {
    let problem_id = id(record)?;
    let text = match optional_string(record, "text")? {
        Some(text) => text,
        None => string(record, "prompt")?,
    };
    // Some of the published solutions end in a lone carriage return, which Python takes for a line break.
    let code = string(record, "code")?.replace("\r\n", "\n").replace('\r', "\n");
    let list = strings(record, "test_list")?;
    let Some(first) = list.first() else {
        return Err("field `test_list`: expected at least one assert, found none".to_owned());
    };
    let mut setup = strings(record, "test_imports")?;
    setup.extend(optional_string(record, "test_setup_code")?.filter(|code| !code.trim().is_empty()).map(str::to_owned));
    let test_code = list.join("\n");
    let functions = asserts.functions(&code);
    // Literal values need no setup, so it matters to the rest only.
    let lowered = asserts.asserts(&test_code).filter(|lowered| functions.contains(&lowered.function));
    let (entry_point, tests) = match lowered {
        Some(lowered) => {
            (Some(lowered.function), Tests { style: TestStyle::Call, cases: lowered.cases, code: None, setup: None })
        }
        None => {
            let entry_point = asserts.first_called(first, &functions);
            let code = setup.iter().map(String::as_str).chain([test_code.as_str(), ""]).collect::<Vec<_>>().join("\n");
            (
                entry_point,
                Tests {
                    style: TestStyle::Assert,
                    cases: Vec::new(),
                    code: Some(code.replace("\r\n", "\n")),
                    setup: None,
                },
            )
        }
    };
    Ok(Problem {
        problem_id,
        question: format!("{}\n{first}", text.trim()),
        solutions: vec![code],
        starter_code: None,
        entry_point,
        tests,
        source: "mbpp".to_owned(),
        difficulty: None,
    })
}
