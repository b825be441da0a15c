//! HumanEval+ as `EvalPlus` releases it: the tests of `HumanEval` and hundreds more a problem, as inputs alone.
//!
//! Liu et al. 2023, <https://arxiv.org/abs/2305.01210>; `{task_id, prompt, entry_point, canonical_solution, base_input, plus_input, atol}`.
//! What is expected stands nowhere: it is what the canonical solution returns, which the kind `expect` fills in. Each input is a JSON
//! array of arguments; it becomes a Python literal with every digit as it is written, and keys stay strings. A tolerance of 0 is none:
//! the comparator `evalplus` then gives floats one of their own. `HumanEval/32` asks for a root of a polynomial, of which there are
//! several: the cases check the polynomial's value there.
//!
//! MBPP+ has the same fields and is refused: its arguments are tuples, sets and complex numbers that its JSON holds as lists and
//! strings, which only a table of its 378 tasks can undo, and a dozen of its tasks are judged by rules of their own.

use super::PlusTests;
use super::json::{Json, Keys, write_items};
use crate::columns::{Case, Check, Problem, TestStyle, Tests};
use serde_json::Value;

/// What a record has to have.
const FIELDS: &str = "task_id, prompt, entry_point, canonical_solution, base_input, plus_input, atol";
/// The task whose answers are roots of a polynomial.
const ROOTS: &str = "HumanEval/32";

/// Whether the file of this record can be read at all.
///
/// # Errors
/// Why not.
pub(super) fn is_read(record: &Value) -> Result<(), String> {
    match record.get("task_id").and_then(Value::as_str) {
        Some(id) if id.starts_with("Mbpp/") => Err(
            "MBPP+ is not read: its arguments are tuples, sets and complex numbers that its JSON does not hold, and some of its tasks \
             are judged by rules of their own; MBPP itself is (`mbpp.jsonl`, `sanitized-mbpp.json`)"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// The problem of a line.
///
/// # Errors
/// Which field is missing or wrong, and how.
pub(super) fn problem(line: &str, tests: PlusTests) -> Result<Problem, String> {
    let record = Json::parse(line).map_err(|problem| format!("expected a JSON object: {problem}"))?;
    let Json::Object(fields) = &record else { return Err("expected a JSON object".to_owned()) };
    let missing = |name: &str| {
        let found: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        format!("field `{name}` is missing; HumanEval+ has {FIELDS}, there are: {}", found.join(", "))
    };
    let text = |name: &str| match record.get(name) {
        Some(Json::Text(text)) => Ok(text),
        Some(_) => Err(format!("field `{name}`: expected a string")),
        None => Err(missing(name)),
    };
    let (problem_id, entry_point) = (text("task_id")?, text("entry_point")?);
    let (prompt, solution) = (text("prompt")?, text("canonical_solution")?);
    let tolerance = match record.get("atol") {
        Some(Json::Number(number)) => {
            number.parse::<f64>().map_err(|_| format!("field `atol`: expected a number, found {number}"))?
        }
        Some(_) => return Err("field `atol`: expected a number".to_owned()),
        None => return Err(missing("atol")),
    };
    let check = if problem_id == ROOTS { Check::Root } else { Check::Equal };
    let wanted: &[&str] = match tests {
        PlusTests::Base => &["base_input"],
        PlusTests::All => &["base_input", "plus_input"],
    };
    let mut cases = Vec::new();
    for &name in wanted {
        let inputs = match record.get(name) {
            Some(Json::Array(inputs)) => inputs,
            Some(_) => return Err(format!("field `{name}`: expected an array of inputs")),
            None if name == "plus_input" => return Err(format!("{}; `tests: base` does without it", missing(name))),
            None => return Err(missing(name)),
        };
        cases.reserve_exact(inputs.len());
        for (number, input) in inputs.iter().enumerate() {
            let Json::Array(arguments) = input else {
                return Err(format!("field `{name}`: input {}: expected an array of arguments", number + 1));
            };
            let tolerance = Some(tolerance).filter(|&tolerance| tolerance != 0.0);
            cases.push(Case { input: tuple(arguments), output: String::new(), check, tolerance });
        }
    }
    Ok(Problem {
        problem_id: problem_id.clone(),
        question: prompt.clone(),
        solutions: vec![format!("{prompt}{solution}")],
        starter_code: Some(prompt.clone()),
        entry_point: Some(entry_point.clone()),
        tests: Tests { style: TestStyle::Call, cases, code: None, setup: None },
        source: "humaneval-plus".to_owned(),
        difficulty: None,
    })
}

/// Arguments as a Python tuple; a single one keeps its comma.
fn tuple(arguments: &[Json]) -> String {
    let mut text = String::from("(");
    write_items(&mut text, arguments, Keys::Strings);
    text.push_str(if arguments.len() == 1 { ",)" } else { ")" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"task_id": "HumanEval/1", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n",
        "base_input": [[1]], "plus_input": [[{"5": 123456789012345678901234567890}], [], [null, 1.50, "it's"]], "atol": 1e-6}"#;

    #[test]
    fn inputs_become_literals_without_an_expected_value() {
        let found = problem(LINE, PlusTests::All).unwrap();
        let inputs: Vec<&str> = found.tests.cases.iter().map(|case| case.input.as_str()).collect();
        let wanted = ["(1,)", r#"({"5": 123456789012345678901234567890},)"#, "()", r#"(None, 1.50, "it's")"#];
        assert_eq!(inputs, wanted);
        assert_eq!(found.tests.unknown().count(), 4);
        assert!(found.tests.cases.iter().all(|case| case.tolerance == Some(1e-6) && case.check == Check::Equal));
        assert_eq!(found.solutions, ["def f(x):\n    return x\n"]);
        let base = problem(&LINE.replace("1e-6", "0"), PlusTests::Base).unwrap();
        assert_eq!((base.tests.cases.len(), base.tests.cases[0].tolerance), (1, None));
        let roots = problem(&LINE.replace("HumanEval/1", ROOTS), PlusTests::Base).unwrap();
        assert_eq!((roots.tests.cases[0].check, roots.tests.unknown().count()), (Check::Root, 0));
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        for (from, to, tests, wanted) in [
            ("\"plus_input\"", "\"plus\"", PlusTests::All, "`plus_input` is missing; HumanEval+ has task_id, prompt"),
            ("\"plus_input\"", "\"plus\"", PlusTests::All, "`tests: base` does without it"),
            ("\"entry_point\"", "\"entry\"", PlusTests::All, "there are: task_id, prompt, entry, canonical_solution"),
            ("[[1]]", "[1]", PlusTests::Base, "field `base_input`: input 1: expected an array of arguments"),
            ("[[1]]", "{}", PlusTests::Base, "field `base_input`: expected an array of inputs"),
            ("1e-6", "\"a\"", PlusTests::Base, "field `atol`: expected a number"),
            ("\"def f(x):\\n\"", "1", PlusTests::Base, "field `prompt`: expected a string"),
            ("}]", "]", PlusTests::Base, "expected a JSON object: byte"),
        ] {
            let problem = problem(&LINE.replace(from, to), tests).unwrap_err();
            assert!(problem.contains(wanted), "{from} -> {to}: {problem}");
        }
        assert!(problem(&LINE.replace("\"plus_input\"", "\"plus\""), PlusTests::Base).is_ok());
    }
}
