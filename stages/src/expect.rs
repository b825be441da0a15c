//! `expect`: has the reference solution say what is expected, where the tests of a problem do not.
//!
//! The tests of HumanEval+ are inputs alone: what is right is what the reference solution returns. This runs it, shut in, on every
//! input of style `call` without an expected value, and writes down what it returned. `stdio` cases stay as they are, since no
//! output at all is an answer too.
//!
//! Columns in and out: those of `problems`. A problem that would be judged against an unknown is listed on `dropped` instead:
//! `no-reference` where it has no solution or no entry point, `reference-fails` where the first solution returns nothing on some
//! input, `incomparable` where it returns what equals nothing (an object of no built-in type, NaN).
//! Determinism: the same machine and the same Python. Cost: 5 ms of CPU a problem beside what the solution takes.

use crate::columns::{Problem, columns_of};
use crate::job::{Cancel, Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::sandbox::{self, Limits, Outputs, Sandbox, SandboxError};
use crate::stage::{
    Declaration, Environment, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Stage, StageError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Expect;

/// Parameters of `expect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// CPU seconds that the solution may take for one input.
    pub cpu_limit_s: f64,
    /// Memory that it may take, in MiB.
    pub memory_limit_mib: u32,
    /// Largest size of what it returns on all inputs of a problem, in MiB.
    pub output_limit_mib: u32,
    /// Runs solutions even where the machine cannot shut them in (isolation `none`).
    pub allow_unsafe: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self { cpu_limit_s: 60.0, memory_limit_mib: 4096, output_limit_mib: 64, allow_unsafe: false }
    }
}

impl Stage for Expect {
    type Params = Params;
    const NAME: &'static str = "expect";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Has the reference solution say what is expected where the tests of a problem hold inputs only, as those of HumanEval+ do.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/plus.jsonl } }
tested: { use: expect, from: problems }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let positive = [
            ("cpu_limit_s", params.cpu_limit_s > 0.0 && params.cpu_limit_s <= 3600.0, "above 0 and at most 3600"),
            ("memory_limit_mib", params.memory_limit_mib >= 64, "at least 64"),
            ("output_limit_mib", params.output_limit_mib >= 1, "at least 1"),
        ];
        for (name, good, expected) in positive {
            if !good {
                return Err(SchemaError::parameter(name, format!("expected a number {expected}")));
            }
        }
        let given = InputPort::rows::<Problem>("problems", "problems, some of whose cases have no expected output");
        let tested = OutputPort::table("problems", columns_of::<Problem>(), "the same problems, all cases with one");
        Ok(Declaration::map(vec![given], tested)
            .in_place(Place::Sandbox)
            .depends_on(Environment::Python)
            .repeatable(Repeatable::SameMachine))
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        let sandboxes = sandbox::open(&sandbox::config(cx, params.allow_unsafe), cx.threads)?;
        sandbox::warn_of(Self::NAME, &sandboxes);
        let limits = Limits {
            cpu_s: params.cpu_limit_s,
            memory_bytes: u64::from(params.memory_limit_mib) << 20,
            output_bytes: u64::from(params.output_limit_mib) << 20,
            ..Limits::default()
        };
        Ok(Job::Map(Box::new(ExpectJob { limits, sandboxes, cancel: cx.cancel.clone() })))
    }
}

struct ExpectJob {
    limits: Limits,
    sandboxes: Vec<Sandbox>,
    cancel: Cancel,
}

/// Why a problem is left out: a reason and what exactly was found.
type Left = (&'static str, Option<String>);

impl MapJob for ExpectJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        while let Some(batch) = units.next()? {
            let mut problems: Vec<Problem> = batch.rows()?;
            let limits = &self.limits;
            let answers = sandbox::share(&mut self.sandboxes, &problems, &self.cancel, |sandbox, problem| {
                missing(sandbox, problem, limits)
            })?;
            for ((unit, rows), answer) in batch.units().zip(answers) {
                let problem = &mut problems[rows.start];
                match answer {
                    Ok(Ok(outputs)) => {
                        let unknown: Vec<usize> = problem.tests.unknown().collect();
                        for (at, output) in unknown.into_iter().zip(outputs) {
                            problem.tests.cases[at].output = output;
                        }
                        out.emit(unit, std::slice::from_ref(problem))?;
                    }
                    Ok(Err((reason, detail))) => out.drop(unit, reason, detail)?,
                    Err(error) => return Err(StageError::failed(format!("{}: {error}", problem.problem_id))),
                }
            }
        }
        Ok(())
    }

    fn versions(&self) -> BTreeMap<String, String> {
        let found = sandbox::worst(&self.sandboxes);
        found.map(|isolation| ("isolation".to_owned(), isolation.summary())).into_iter().collect()
    }
}

/// What is expected of the cases that do not say it, in their order.
fn missing(
    sandbox: &mut Sandbox,
    problem: &Problem,
    limits: &Limits,
) -> Result<Result<Vec<String>, Left>, SandboxError> {
    let unknown: Vec<usize> = problem.tests.unknown().collect();
    if unknown.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let Some(solution) = problem.solutions.first() else { return Ok(Err(("no-reference", None))) };
    let Some(entry_point) = &problem.entry_point else {
        return Ok(Err(("no-reference", Some("the problem does not say which function its tests call".into()))));
    };
    let inputs: Vec<&str> = unknown.iter().map(|&at| problem.tests.cases[at].input.as_str()).collect();
    let test = |call: usize| format!("test {}", unknown[call] + 1);
    Ok(match sandbox.outputs(solution, entry_point, &inputs, limits)? {
        Outputs::Values(values) => Ok(values),
        Outputs::Failed { call: Some(call), problem } => {
            Err(("reference-fails", Some(format!("{}: {problem}", test(call)))))
        }
        Outputs::Failed { call: None, problem } => Err(("reference-fails", Some(problem))),
        Outputs::Incomparable { call, value } => {
            let value: String = value.chars().take(120).collect();
            Err(("incomparable", Some(format!("{}: {value} equals nothing, so it cannot be expected", test(call)))))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{Case, Check, TestStyle, Tests};
    use crate::job::UnitAnswer;
    use crate::testing::run_map;
    use serde_json::json;

    fn case(input: &str, output: &str, check: Check) -> Case {
        Case { input: input.into(), output: output.into(), check, tolerance: None }
    }

    fn problem(id: &str, solutions: &[&str], cases: Vec<Case>) -> Problem {
        Problem {
            problem_id: id.into(),
            question: "Do.".into(),
            solutions: solutions.iter().map(|&solution| solution.to_owned()).collect(),
            starter_code: None,
            entry_point: Some("f".into()),
            tests: Tests { style: TestStyle::Call, cases, code: None, setup: None },
            source: "test".into(),
            difficulty: None,
        }
    }

    #[test]
    fn what_is_not_known_is_said_by_the_first_solution_and_the_rest_is_left() {
        let cases = vec![
            case("(1,)", "", Check::Equal),
            case("(2,)", "'kept'", Check::Equal),
            case("(3,)", "", Check::Truthy),
            case("([4],)", "", Check::Root),
            case("(5,)", "", Check::Close),
        ];
        let script = problem("c", &[], vec![case("", "", Check::Equal)]);
        let script = Problem { tests: Tests { style: TestStyle::Stdio, ..script.tests }, entry_point: None, ..script };
        let rows = [problem("a", &["def f(x): return {x: (x,)}", "def f(x): return 0"], cases), script.clone()];
        let ran = run_map(&Expect, &json!({}), &rows, &[]);
        let found: Vec<Problem> = ran.rows();
        let outputs: Vec<&str> = found[0].tests.cases.iter().map(|case| case.output.as_str()).collect();
        assert_eq!(outputs, ["{1: (1,)}", "'kept'", "", "", "{5: (5,)}"]);
        assert_eq!(found[1], script);
    }

    #[test]
    fn a_problem_that_would_be_judged_against_an_unknown_is_left_out() {
        let cases = |inputs: &[&str]| inputs.iter().map(|input| case(input, "", Check::Equal)).collect::<Vec<_>>();
        let nameless = Problem { entry_point: None, ..problem("b", &["x = 1"], cases(&["()"])) };
        let rows = [
            problem("a", &[], cases(&["()"])),
            nameless,
            problem("c", &["def f(x): return 1 // x"], cases(&["(1,)", "(0,)"])),
            problem("d", &["def f(:"], cases(&["()"])),
            problem("e", &["def f(x): return [object()] if x else 1"], cases(&["(0,)", "(1,)"])),
            problem("f", &["def f(): return float('nan')"], cases(&["()"])),
            problem("g", &["def f():\n    while True: pass"], cases(&["()"])),
        ];
        let ran = run_map(&Expect, &json!({ "cpu_limit_s": 0.5 }), &rows, &[]);
        assert_eq!(ran.rows::<Problem>().len(), 0);
        let expected = ["no-reference", "no-reference", "reference-fails", "reference-fails", "incomparable"];
        assert_eq!(ran.reasons(), [&expected[..], &["incomparable", "reference-fails"]].concat());
        let details: Vec<&str> = ran
            .answers
            .iter()
            .filter_map(|answer| match answer {
                UnitAnswer::Dropped { detail, .. } => detail.as_deref(),
                _ => None,
            })
            .collect();
        assert!(details[1].starts_with("test 2: ZeroDivisionError"), "{details:?}");
        assert!(details[3].starts_with("test 2: [opaque(1, 'object')] equals nothing"), "{details:?}");
        assert!(details[5].contains("0.5 s of CPU time"), "{details:?}");
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for with in [json!({ "cpu_limit_s": 0 }), json!({ "memory_limit_mib": 1 }), json!({ "output_limit_mib": 0 })] {
            let params: Params = serde_json::from_value(with).expect("parameters");
            assert!(Expect::declare(&params, &InputSchemas::new()).is_err(), "{params:?}");
        }
    }
}
