//! `HumanEval` and what has its fields (`HumanEval+`): a prompt to go on from, a solution to it, and `def check(candidate)`.
//!
//! Chen et al. 2021, <https://arxiv.org/abs/2107.03374>; `{task_id, prompt, canonical_solution, test, entry_point}`.

use super::asserts::AssertReader;
use super::records::{optional_string, string};
use crate::columns::{Problem, TestStyle, Tests};
use serde_json::Value;

/// The problem of a record.
///
/// # Errors
/// Which field is missing or wrong.
pub(super) fn problem(record: &Value, asserts: &mut AssertReader) -> Result<Problem, String> {
    let prompt = string(record, "prompt")?;
    let entry_point = string(record, "entry_point")?;
    let test = string(record, "test")?;
    let tests = match asserts.check_function(test) {
        Some(cases) => Tests { style: TestStyle::Call, cases, code: None, setup: None },
        None => Tests {
            style: TestStyle::Assert,
            cases: Vec::new(),
            code: Some(format!("{}\ncheck({entry_point})\n", test.trim_end())),
            // Tests call helpers of the prompt, such as `poly` or `encode_cyclic`: the prompt stands on the side of the test, where its
            // last function has no body to speak of.
            setup: Some(format!("{prompt}\n    pass\n")),
        },
    };
    let solution = optional_string(record, "canonical_solution")?;
    Ok(Problem {
        problem_id: string(record, "task_id")?.to_owned(),
        question: prompt.to_owned(),
        solutions: solution.map(|solution| format!("{prompt}{solution}")).into_iter().collect(),
        starter_code: Some(prompt.to_owned()),
        entry_point: Some(entry_point.to_owned()),
        tests,
        source: "humaneval".to_owned(),
        difficulty: None,
    })
}
