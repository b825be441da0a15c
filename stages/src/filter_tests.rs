//! Tests of [`super`].

use super::*;
use crate::columns::{Problem, TestStyle, Tests, columns_of};
use crate::job::UnitAnswer;
use crate::testing::{Ran, run_map, table};

fn problem(id: &str, solutions: &[&str], difficulty: Option<&str>) -> Problem {
    Problem {
        problem_id: id.into(),
        question: "Do.".into(),
        solutions: solutions.iter().map(|&solution| solution.to_owned()).collect(),
        starter_code: None,
        entry_point: None,
        tests: Tests { style: TestStyle::Stdio, cases: vec![], code: None, setup: None },
        source: "test".into(),
        difficulty: difficulty.map(str::to_owned),
    }
}

fn kept(ran: &Ran) -> Vec<String> {
    ran.rows::<Problem>().into_iter().map(|row| format!("{}:{}", row.problem_id, row.solutions.join("|"))).collect()
}

fn run(with: serde_json::Value) -> Ran {
    let rows = [
        problem("a", &["x = 1", "y = 2\nz = 3"], Some("easy")),
        problem("b", &["long solution\n\n\n\n"], None),
        problem("c", &[], Some("hard")),
    ];
    run_map(&Filter, &with, &rows, &[])
}

#[test]
fn rows_are_kept_by_an_expression_over_their_columns() {
    assert_eq!(kept(&run(json!({ "where": "difficulty == 'easy'" }))), ["a:x = 1|y = 2\nz = 3"]);
    assert_eq!(kept(&run(json!({ "where": "solution and solution|length < 8" }))), ["a:x = 1|y = 2\nz = 3"]);
    assert_eq!(
        kept(&run(json!({ "where": "tests.style == 'stdio' and solutions|length == 1" }))),
        ["b:long solution\n\n\n\n"]
    );
    let dropped = run(json!({ "where": "difficulty is none" }));
    assert_eq!(dropped.reasons(), ["where", "where"]);
}

#[test]
fn solutions_that_fail_a_limit_are_left_out_alone() {
    let ran = run(json!({ "max_lines": 1 }));
    assert_eq!(kept(&ran), ["a:x = 1"]);
    assert_eq!(ran.reasons(), ["max-lines", "no-solution"]);
    let ran = run(json!({ "max_words": 3, "min_lines": 2 }));
    assert_eq!(kept(&ran), ["b:long solution\n\n\n\n"]);
    assert_eq!(ran.reasons(), ["max-words", "no-solution"]);
}

#[test]
fn an_expression_sees_the_solutions_that_are_kept() {
    assert_eq!(kept(&run(json!({ "min_lines": 2, "where": "solution|length == 11" }))), ["a:y = 2\nz = 3"]);
}

#[test]
fn solutions_have_to_compile_where_that_is_asked() {
    // CPython's parser gives up on the last one, which no limit of the grammar forbids.
    let deep = format!("x = {}1", "-".repeat(100_000));
    let rows = [
        problem("a", &["x = 08", "x = 8"], None),
        problem("b", &["print 'no'"], None),
        problem("c", &["y"], None),
        problem("d", &["z = 1\0"], None),
        problem("e", &[&deep], None),
        problem("f", &[], None),
    ];
    let ran = run_map(&Filter, &json!({ "parses": true, "where": "solution|length < 9" }), &rows, &[]);
    assert_eq!(kept(&ran), ["a:x = 8", "c:y"]);
    assert_eq!(ran.reasons(), ["parses", "parses", "parses", "no-solution"]);
    let details: Vec<&str> = ran
        .answers
        .iter()
        .filter_map(|answer| match answer {
            UnitAnswer::Dropped { detail, .. } => detail.as_deref(),
            _ => None,
        })
        .collect();
    assert!(details[0].starts_with("SyntaxError: Missing parentheses"), "{details:?}");
    assert!(details[1].contains("null bytes"), "{details:?}");
    assert!(!details[2].is_empty(), "{details:?}");
}

#[test]
fn only_what_asks_python_depends_on_it() {
    let columns = InputSchemas::from([("rows".to_owned(), columns_of::<Problem>())]);
    let declared = |with: serde_json::Value| Filter::declare(&serde_json::from_value(with).unwrap(), &columns).unwrap();
    assert_eq!(declared(json!({ "parses": true })).environment, [Environment::Python]);
    assert_eq!(declared(json!({ "parses": true })).place, Place::Sandbox);
    assert!(declared(json!({ "max_lines": 3 })).environment.is_empty());
}

#[test]
fn golden_solutions_have_to_pass() {
    let rows = [problem("a", &["x", "y"], None), problem("b", &["z"], None), problem("c", &["w"], None)];
    let verdict = |problem: &str, i, verdict: &str| GoldenVerdict {
        problem_id: problem.into(),
        sample_id: sample_id(problem, i),
        verdict: verdict.into(),
    };
    let verdicts = [verdict("a", 0, "wrong"), verdict("a", 1, "passed"), verdict("b", 0, "timeout")];
    let ran = run_map(&Filter, &json!({ "golden": "must-pass" }), &rows, &[("verdicts", table(&verdicts))]);
    assert_eq!(kept(&ran), ["a:y"]);
    assert_eq!(ran.reasons(), ["golden", "golden"]);
}

#[test]
fn golden_is_short_for_running_the_references() {
    let params: Params =
        serde_json::from_value(json!({ "golden": "must-pass", "execute": { "cpu_limit_s": 2 } })).unwrap();
    let expansion = Filter::expand(&params, &UseSite { connected: vec!["rows".into()] }).unwrap();
    assert_eq!(expansion.added.iter().map(|stage| stage.kind).collect::<Vec<_>>(), ["references", "execute"]);
    assert_eq!(expansion.added[1].with, json!({ "cpu_limit_s": 2 }));
    let again: Params = serde_json::from_value(expansion.with).unwrap();
    let connected = UseSite { connected: expansion.from.into_keys().collect() };
    assert!(Filter::expand(&again, &connected).is_none());
}

#[test]
fn conditions_that_cannot_be_met_by_this_table_are_refused() {
    let columns = InputSchemas::from([("rows".to_owned(), columns_of::<Problem>())]);
    let refused = |with: serde_json::Value, inputs: &InputSchemas| {
        Filter::declare(&serde_json::from_value(with).unwrap(), inputs).unwrap_err().to_string()
    };
    assert_eq!(
        refused(json!({ "where": "dificulty == 1" }), &columns),
        "expected columns among problem_id, question, solutions, starter_code, entry_point, tests, source, difficulty, got `dificulty`"
    );
    assert!(
        refused(json!({ "where": "difficulty ==" }), &columns)
            .starts_with("expected an expression, got `difficulty ==`")
    );
    assert_eq!(refused(json!({}), &columns), "expected at least one condition, got none");
    let others = InputSchemas::from([("rows".to_owned(), columns_of::<GoldenVerdict>())]);
    assert!(refused(json!({ "max_words": 3 }), &others).starts_with("expected a table of problems"));
    let range = serde_json::from_value(json!({ "where": "question|length in range(9)" })).unwrap();
    assert!(Filter::declare(&range, &columns).is_ok());
}
