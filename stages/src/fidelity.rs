//! Verdicts held against published ones, on the published data where it is at hand (`ABLATE_DATA`, or the folder of shared data beside
//! the repository); what is not there is left out. HumanEval's and MBPP's references stand in `execute.rs`.
//!
//! What differs from a record is named one by one, with the cause: a list here that is not what a run gives fails the test.

use crate::columns::{Problem, Tests, Verdict};
use crate::execute::{Execute, Judged, ProgramRow};
use crate::expect::Expect;
use crate::load::Load;
use crate::testing::{run_map, run_whole, table};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The imports that the harness of APPS gives every program, but for `NumPy`.
const APPS_PRELUDE: &str = "import sys, time, itertools, collections, math, fractions, random, heapq, functools; from itertools import accumulate, product, permutations, combinations; from collections import Counter, OrderedDict, deque, defaultdict, ChainMap; from functools import lru_cache; from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2; from typing import *; from heapq import *";

/// A published file or folder, where it is at hand.
fn published(name: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let path = std::env::var_os("ABLATE_DATA").map_or(beside, Into::into).join(name);
    path.exists().then_some(path)
}

fn json_of(path: &std::path::Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file of the data")).expect("it is JSON")
}

/// The verdicts of programs, each with the id of its problem.
fn judge(problems: &[Problem], programs: &[(String, String)], with: &Value) -> Vec<Verdict> {
    let judged = |problem: &Problem| Judged {
        problem_id: problem.problem_id.clone(),
        entry_point: problem.entry_point.clone(),
        tests: problem.tests.clone(),
    };
    let judged: Vec<Judged> = problems.iter().map(judged).collect();
    let row = |(number, (problem_id, program)): (usize, &(String, String))| ProgramRow {
        sample_id: format!("{problem_id}#{number}"),
        problem_id: problem_id.clone(),
        program: program.clone(),
    };
    let rows: Vec<ProgramRow> = programs.iter().enumerate().map(row).collect();
    let ran = run_map(&Execute, with, &rows, &[("problems", table(&judged))]);
    assert_eq!(ran.reasons(), Vec::<String>::new());
    ran.rows()
}

fn not_passed(verdicts: &[Verdict]) -> Vec<String> {
    let failed = verdicts.iter().filter(|verdict| verdict.verdict != "passed");
    failed
        .map(|verdict| {
            format!(
                "{}: {} {}",
                verdict.sample_id,
                verdict.verdict,
                verdict.first_failure.as_deref().unwrap_or_default()
            )
        })
        .collect()
}

#[test]
fn references_of_apps_pass() {
    let Some(folder) = published("apps_coderl/APPS") else { return };
    let problems: Vec<Problem> = run_whole(&Load, &json!({ "path": folder }), &[]).output("problems");
    let solutions = |problem: &Problem| -> Vec<(String, String)> {
        problem.solutions.iter().map(|solution| (problem.problem_id.clone(), solution.clone())).collect()
    };
    let programs: Vec<(String, String)> = problems.iter().flat_map(solutions).collect();
    assert_eq!(programs.len(), 101);
    // These three return outside of any function: the harness of APPS makes a script the body of one, Python does not take it.
    let outside = |line| format!("error test 1: SyntaxError: 'return' outside function (program.py, line {line})");
    let not_programs = [(27, 34), (29, 29), (34, 37)].map(|(at, line)| format!("train/2287#{at}: {}", outside(line)));
    for with in
        [json!({ "prelude": APPS_PRELUDE }), json!({ "prelude": APPS_PRELUDE, "output": "apps", "value": "apps" })]
    {
        assert_eq!(not_passed(&judge(&problems, &programs, &with)), not_programs, "{with}");
    }
}

/// `CodeRL` keeps the programs that its models wrote with what its harness said: true, false (wrong), -1 (an exception, or more than four
/// seconds), -2 (it cannot be compiled).
#[test]
fn programs_that_models_wrote_for_apps_get_the_recorded_verdict() {
    let Some(folder) = published("apps_coderl/APPS") else { return };
    let problems: Vec<Problem> = run_whole(&Load, &json!({ "path": folder }), &[]).output("problems");
    let (mut programs, mut recorded) = (Vec::new(), Vec::new());
    for problem in &problems {
        for file in ["gen_solutions.json", "baseline_solutions.json"] {
            let written = json_of(&folder.join(&problem.problem_id).join(file));
            for program in written.as_array().expect("a list of programs") {
                programs.push((problem.problem_id.clone(), program["code"].as_str().expect("its code").to_owned()));
                recorded.push(match &program["result"] {
                    Value::Bool(true) => "passed",
                    Value::Bool(false) => "wrong",
                    other if other.as_i64() == Some(-1) => "raised",
                    _ => "not-compiled",
                });
            }
        }
    }
    assert_eq!(programs.len(), 88);
    let with =
        json!({ "prelude": APPS_PRELUDE, "output": "apps", "value": "apps", "max_timeouts": 1, "cpu_limit_s": 1 });
    let found = judge(&problems, &programs, &with);
    let agrees = |recorded: &str, found: &Verdict| match found.verdict.as_str() {
        "passed" | "wrong" => recorded == found.verdict,
        _ => recorded == "raised" || recorded == "not-compiled",
    };
    let differences: Vec<String> = recorded
        .iter()
        .zip(&found)
        .filter(|(recorded, found)| !agrees(recorded, found))
        .map(|(recorded, found)| {
            let failure = found.first_failure.as_deref().unwrap_or_default();
            format!("{}: recorded {recorded}, found {} {failure}", found.sample_id, found.verdict)
        })
        .collect();
    // Both are kept as the harness had rewritten them: with NumPy, which programs do not see here, imported, and with all else inside of a
    // function, where no test would find it.
    let with_numpy = [
        "train/2404#66: recorded passed, found error ModuleNotFoundError: No module named 'numpy'",
        "train/4184#87: recorded wrong, found error test 1: ModuleNotFoundError: No module named 'numpy'",
    ];
    assert_eq!(differences, with_numpy);
}

/// ENAMEL (Qiu et al. 2024) wrote faster references for 142 problems of HumanEval; for the others it keeps HumanEval's own.
#[test]
fn references_of_enamel_pass_the_tests_of_human_eval() {
    let (Some(problems), Some(references)) =
        (published("humaneval/HumanEval.jsonl.gz"), published("enamel/enamel-references.json"))
    else {
        return;
    };
    let problems: Vec<Problem> = run_whole(&Load, &json!({ "path": problems }), &[]).output("problems");
    let references = json_of(&references);
    let mut programs = Vec::new();
    for (number, written) in references.as_array().expect("a list").iter().enumerate() {
        for program in written.as_array().into_iter().flatten() {
            programs.push((format!("HumanEval/{number}"), program.as_str().expect("a program").to_owned()));
        }
    }
    assert_eq!(programs.len(), 164);
    // Two of its references are wrong by HumanEval's own tests: 103 rounds a half down, where `round` takes the even neighbour, and 111
    // counts the empty word of an empty text.
    let wrong = [
        "HumanEval/103#103: wrong test 5: expected \"0b1011000010\", got '0b1011000001'",
        "HumanEval/111#111: wrong test 7: expected {}, got {'': 1}",
    ];
    assert_eq!(not_passed(&judge(&problems, &programs, &json!({ "cpu_limit_s": 10 }))), wrong);
}

/// The tests of HumanEval+ as `EvalPlus` judges them: its canonical solutions pass, and the same with every answer spoilt do not. The small
/// release here; `bench/execution/evalplus.py` has the whole one, beside `EvalPlus` itself.
#[test]
fn canonical_solutions_of_human_eval_plus_pass_and_spoilt_ones_do_not() {
    let Some(path) = published("humaneval_plus/HumanEvalPlus-Mini.jsonl.gz") else { return };
    let loaded: Vec<Problem> = run_whole(&Load, &json!({ "path": path }), &[]).output("problems");
    let ran = run_map(&Expect, &json!({}), &loaded, &[]);
    assert_eq!(ran.reasons(), Vec::<String>::new());
    let problems: Vec<Problem> = ran.rows();
    let is_known = |tests: &Tests| tests.unknown().next().is_none();
    assert!(problems.len() == 164 && problems.iter().all(|problem| is_known(&problem.tests)));
    let canonical = |problem: &Problem| (problem.problem_id.clone(), problem.solutions[0].clone());
    let programs: Vec<(String, String)> = problems.iter().map(canonical).collect();
    let with = json!({ "value": "evalplus", "cpu_limit_s": 10 });
    let found = judge(&problems, &programs, &with);
    assert_eq!(not_passed(&found), Vec::<String>::new());
    assert!(found.iter().all(|verdict| verdict.trust == "full" && verdict.comparator == "evalplus"));
    let spoil = |problem: &Problem| {
        let name = problem.entry_point.as_deref().unwrap_or_default();
        (problem.problem_id.clone(), format!("{}\ndef {name}(*args):\n    return ['spoilt']\n", problem.solutions[0]))
    };
    let spoilt: Vec<(String, String)> = problems.iter().map(spoil).collect();
    assert_eq!(not_passed(&judge(&problems, &spoilt, &with)).len(), 164);
}
