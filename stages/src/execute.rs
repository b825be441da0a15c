//! `execute`: runs programs against the tests of their problems and says how each did.
//!
//! Columns in: `sample_id`, `problem_id`, `program` of the programs; `entry_point`, `tests` of their problems. Out: `verdicts`.
//! A problem without tests gives no verdict: its programs are listed on `dropped` (`no-tests`), so an absent test is never a pass.
//! A test whose expected value is not known fails the unit: nothing is judged against an unknown (see `expect`).
//! Determinism: the same machine and the same Python; time limits are measured, and a program near one may come out either way.
//! Cost: about 5 ms of CPU a program beside its own work, twice that for test code; see [`crate::sandbox`] for how programs are shut
//! in and judged.

use crate::columns::{TestStyle, Tests, VERDICT_MEASURED, Verdict, columns_of};
use crate::job::{Cancel, Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::sandbox::{
    self, Config, Judgement, Limits, OutputComparator, Program, Sandbox, SandboxError, Toolchain, Trust,
    ValueComparator, Verdict::Passed,
};
use crate::stage::{
    Declaration, Environment, InputPath, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Stage,
    StageError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Execute;

/// Parameters of `execute`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// CPU seconds that a program may take for one test.
    pub cpu_limit_s: f64,
    /// Wall time may be this many times the CPU time, at least 5 times: a backstop for programs that wait.
    pub wall_factor: f64,
    /// Memory that a program may take, in MiB.
    pub memory_limit_mib: u32,
    /// Largest output, in MiB.
    pub output_limit_mib: u32,
    /// How standard output is compared with what is expected, for tests of style `stdio`.
    pub output: OutputComparator,
    /// How a returned value is compared with what is expected, for tests of style `call`.
    pub value: ValueComparator,
    /// Code that stands before every program, such as the imports that APPS and `LiveCodeBench` give their solutions; on one line,
    /// so that line numbers are off by one only. Null for none.
    pub prelude: Option<String>,
    /// Ends at the first test that is not passed; the other tests count as not passed.
    pub stop_at_first_failure: bool,
    /// After so many time-outs of a program its other tests are not run, and count as not passed.
    pub max_timeouts: u32,
    /// Runs each program this many times, on one core. Where the runs disagree the worst counts and the row says `flaky`; times are
    /// the Hodges-Lehmann estimate over the runs, steady enough to rank programs by.
    pub repeats: u32,
    /// Whether to say which lines of a program ran under its tests, in the column `covered_lines`; costs a second, slower run.
    pub coverage: Coverage,
    /// The file that says how programs are compiled and run, such as `languages/cpp.yaml`; Python where there is none.
    pub language: Option<InputPath>,
    /// Runs programs even where the machine cannot shut them in (isolation `none`).
    pub allow_unsafe: bool,
}

/// What is said of the lines that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// Nothing.
    None,
    /// Which ran.
    Lines,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            cpu_limit_s: 4.0,
            wall_factor: 5.0,
            memory_limit_mib: 1024,
            output_limit_mib: 16,
            output: OutputComparator::default(),
            value: ValueComparator::default(),
            prelude: None,
            stop_at_first_failure: false,
            max_timeouts: 2,
            repeats: 1,
            coverage: Coverage::None,
            language: None,
            allow_unsafe: false,
        }
    }
}

/// A program to judge: the columns read of the programs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProgramRow {
    /// The sample.
    pub sample_id: String,
    /// Its problem.
    pub problem_id: String,
    /// The whole program.
    pub program: String,
}

/// How it is judged: the columns read of the problems.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Judged {
    /// The problem.
    pub problem_id: String,
    /// The function that tests call.
    pub entry_point: Option<String>,
    /// The tests.
    pub tests: Tests,
}

impl Stage for Execute {
    type Params = Params;
    const NAME: &'static str = "execute";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Runs programs against the tests of their problems, shut in, and says how each did. Verdicts are made outside the program.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
solutions: { use: references, from: problems }
verdicts: { use: execute, from: { programs: solutions, problems: problems }, with: { cpu_limit_s: 4 } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let positive = [
            ("cpu_limit_s", params.cpu_limit_s > 0.0 && params.cpu_limit_s <= 3600.0, "above 0 and at most 3600"),
            ("wall_factor", params.wall_factor >= 5.0 && params.wall_factor <= 1000.0, "from 5 to 1000"),
            ("memory_limit_mib", params.memory_limit_mib >= 64, "at least 64"),
            ("output_limit_mib", params.output_limit_mib >= 1, "at least 1"),
            ("max_timeouts", params.max_timeouts >= 1, "at least 1"),
            ("repeats", params.repeats >= 1, "at least 1"),
        ];
        for (name, good, expected) in positive {
            if !good {
                return Err(SchemaError::parameter(name, format!("expected a number {expected}")));
            }
        }
        let programs = InputPort::rows::<ProgramRow>("programs", "programs to judge");
        let problems = InputPort::lookup::<Judged>("problems", "problem_id", "their problems, with tests");
        let verdicts =
            OutputPort::table("verdicts", columns_of::<Verdict>(), "how each program did").measured(VERDICT_MEASURED);
        let environment = match &params.language {
            None => Environment::Python,
            Some(_) if params.coverage == Coverage::Lines => {
                return Err(SchemaError::parameter("coverage", "lines can be told for Python alone".to_owned()));
            }
            Some(path) => Environment::Toolchain(path.as_path().to_owned()),
        };
        Ok(Declaration::map(vec![programs, problems], verdicts)
            .in_place(Place::Sandbox)
            .depends_on(environment)
            .repeatable(Repeatable::SameMachine))
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        let config = Config {
            language: params.language.as_ref().map(|path| Toolchain::find(path.as_path())).transpose()?,
            pinned: (params.repeats > 1).then_some(0),
            ..sandbox::config(cx, params.allow_unsafe)
        };
        let sandboxes = sandbox::open(&config, cx.threads)?;
        sandbox::warn_of(Self::NAME, &sandboxes);
        let (params, cancel) = (params.clone(), cx.cancel.clone());
        Ok(Job::Map(Box::new(ExecuteJob { params, sandboxes, cancel, judged: 0, judged_weakly: 0 })))
    }
}

struct ExecuteJob {
    params: Params,
    sandboxes: Vec<Sandbox>,
    cancel: Cancel,
    judged: u64,
    judged_weakly: u64,
}

/// What came of one program.
type Answer = Result<Repeated, SandboxError>;

/// The judgement of several runs of a program: the worst of them, with times over all of them.
struct Repeated {
    judgement: Judgement,
    runs: u32,
    runs_passed: u32,
    flaky: bool,
}

impl MapJob for ExecuteJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        while let Some(batch) = units.next()? {
            let programs: Vec<ProgramRow> = batch.rows()?;
            let problems = batch.lookup::<Judged>("problems")?;
            let mut todo = Vec::new();
            for (unit, rows) in batch.units() {
                let problem = problems.one(rows.start);
                if let Some(reason) = untested(&problem.tests) {
                    out.drop(unit, reason, None)?;
                } else if let Some(case) = problem.tests.unknown().next() {
                    let problem =
                        "what is expected is not known; have the reference solution say it by a stage `expect`";
                    out.fail(unit, format!("test {}: {problem}", case + 1))?;
                } else {
                    todo.push((unit, &programs[rows.start], problem));
                }
            }
            let params = &self.params;
            let answers =
                sandbox::share(&mut self.sandboxes, &todo, &self.cancel, |sandbox, (_, program, problem)| {
                    judge(sandbox, params, program, problem)
                })?;
            for ((unit, program, _), answer) in todo.iter().zip(answers) {
                match answer {
                    Ok(repeated) => {
                        self.judged += 1;
                        self.judged_weakly += u64::from(repeated.judgement.trust == Trust::Weak);
                        out.emit(*unit, &[row(program, repeated)])?;
                    }
                    Err(error @ SandboxError::Test { .. }) => out.fail(*unit, error.to_string())?,
                    Err(error) => return Err(StageError::failed(format!("{}: {error}", program.sample_id))),
                }
            }
        }
        if self.judged_weakly > 0 {
            sandbox::tell(&format!(
                "execute: {} of {} programs were judged by test code in their own process, which a program can deceive: their rows say `trust: weak`",
                self.judged_weakly, self.judged
            ));
        }
        Ok(())
    }

    fn versions(&self) -> BTreeMap<String, String> {
        let found = sandbox::worst(&self.sandboxes);
        found.map(|isolation| ("isolation".to_owned(), isolation.summary())).into_iter().collect()
    }
}

/// Why a problem's tests cannot judge anything, if so.
fn untested(tests: &Tests) -> Option<&'static str> {
    let empty = match tests.style {
        TestStyle::Stdio | TestStyle::Call => tests.cases.is_empty(),
        TestStyle::Assert => tests.code.as_deref().is_none_or(|code| code.trim().is_empty()),
    };
    empty.then_some("no-tests")
}

fn judge(sandbox: &mut Sandbox, params: &Params, program: &ProgramRow, problem: &Judged) -> Answer {
    let limits = Limits {
        cpu_s: params.cpu_limit_s,
        wall_factor: params.wall_factor,
        memory_bytes: u64::from(params.memory_limit_mib) << 20,
        output_bytes: u64::from(params.output_limit_mib) << 20,
        stop_at_first_failure: params.stop_at_first_failure,
        max_timeouts: params.max_timeouts,
        ..Limits::default()
    };
    let source = match &params.prelude {
        Some(prelude) => Cow::Owned(format!("{prelude}\n{}", program.program)),
        None => Cow::Borrowed(program.program.as_str()),
    };
    let program = Program {
        source: &source,
        entry_point: problem.entry_point.as_deref(),
        tests: &problem.tests,
        output: params.output,
        value: params.value,
        coverage: params.coverage == Coverage::Lines,
    };
    let mut worst = sandbox.run(&program, &limits)?;
    let again = Program { coverage: false, ..program };
    let mut flaky = false;
    let (mut wall_s, mut cpu_s) = (vec![worst.wall_s], vec![worst.cpu_s]);
    let mut runs_passed = u32::from(worst.verdict == Passed);
    for _ in 1..params.repeats {
        let mut other = sandbox.run(&again, &limits)?;
        wall_s.push(other.wall_s);
        cpu_s.push(other.cpu_s);
        runs_passed += u32::from(other.verdict == Passed);
        flaky |= (other.verdict, other.tests_passed) != (worst.verdict, worst.tests_passed);
        other.peak_memory_bytes = other.peak_memory_bytes.max(worst.peak_memory_bytes);
        other.covered_lines.clone_from(&worst.covered_lines);
        worst.peak_memory_bytes = other.peak_memory_bytes;
        if (other.verdict, worst.tests_passed) > (worst.verdict, other.tests_passed) {
            worst = other;
        }
    }
    (worst.wall_s, worst.cpu_s) = (hodges_lehmann(&wall_s), hodges_lehmann(&cpu_s));
    Ok(Repeated { judgement: worst, runs: params.repeats, runs_passed, flaky })
}

/// The median of the means of all pairs, each value with itself too: hardly moved by outliers, and nearly as precise as the mean.
///
/// Hodges and Lehmann 1963, "Estimates of Location Based on Rank Tests".
fn hodges_lehmann(values: &[f64]) -> f64 {
    let pairs = values.iter().enumerate().flat_map(|(i, a)| values[i..].iter().map(move |b| f64::midpoint(*a, *b)));
    let mut means: Vec<f64> = pairs.collect();
    means.sort_by(f64::total_cmp);
    let middle = means.len() / 2;
    if means.len() % 2 == 1 { means[middle] } else { f64::midpoint(means[middle - 1], means[middle]) }
}

fn row(program: &ProgramRow, repeated: Repeated) -> Verdict {
    let Repeated { judgement, runs, runs_passed, flaky } = repeated;
    Verdict {
        sample_id: program.sample_id.clone(),
        problem_id: program.problem_id.clone(),
        verdict: judgement.verdict.name().into(),
        tests_passed: judgement.tests_passed,
        tests_total: judgement.tests_total,
        first_failure: judgement.first_failure,
        comparator: judgement.comparator,
        trust: judgement.trust.name().into(),
        runs,
        runs_passed,
        flaky,
        covered_lines: judgement.covered_lines.map(|lines| lines.into_iter().collect()),
        wall_s: judgement.wall_s,
        cpu_s: judgement.cpu_s,
        peak_memory_bytes: judgement.peak_memory_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{Case, Check, Problem, Sample};
    use crate::segment::Solved;
    use crate::testing::{run_map, run_whole, table};
    use serde_json::json;

    fn stdio(cases: &[(&str, &str)]) -> Tests {
        let case = |(input, output): &(&str, &str)| Case {
            input: (*input).into(),
            output: (*output).into(),
            check: Check::Equal,
            tolerance: None,
        };
        Tests { style: TestStyle::Stdio, cases: cases.iter().map(case).collect(), code: None, setup: None }
    }

    fn program(sample_id: &str, problem_id: &str, program: &str) -> ProgramRow {
        ProgramRow { sample_id: sample_id.into(), problem_id: problem_id.into(), program: program.into() }
    }

    #[test]
    fn each_program_gets_the_verdict_of_its_problems_tests() {
        let problems = [
            Judged { problem_id: "double".into(), entry_point: None, tests: stdio(&[("2", "4"), ("3", "6")]) },
            Judged { problem_id: "empty".into(), entry_point: None, tests: stdio(&[]) },
        ];
        let programs = [
            program("a", "double", "print(int(input()) * 2)"),
            program("b", "double", "print(4)"),
            program("c", "empty", "print(4)"),
            program("d", "double", "print("),
        ];
        let with = json!({ "cpu_limit_s": 1, "output": "exact" });
        let ran = run_map(&Execute, &json!({ "repeats": 2 }), &programs, &[("problems", table(&problems))]);
        let found: Vec<Verdict> = ran.rows();
        let seen: Vec<_> =
            found.iter().map(|v| (v.sample_id.as_str(), v.verdict.as_str(), v.tests_passed, v.flaky)).collect();
        assert_eq!(seen, [("a", "passed", 2, false), ("b", "wrong", 1, false), ("d", "error", 0, false)]);
        assert_eq!(ran.reasons(), ["no-tests"]);
        assert!(found.iter().all(|v| v.trust == "full" && v.comparator == "lines" && v.tests_total == 2));
        // The trailing line break is an error to `exact`.
        let strict: Vec<Verdict> = run_map(&Execute, &with, &programs[..1], &[("problems", table(&problems))]).rows();
        assert_eq!((strict[0].verdict.as_str(), strict[0].comparator.as_str()), ("wrong", "exact"));
    }

    /// Judges the reference solutions of a published file, and the same with every answer spoilt.
    fn references_of(path: &std::path::Path) -> (usize, Vec<String>, usize) {
        let problems: Vec<Problem> = run_whole(&crate::load::Load, &json!({ "path": path }), &[]).output("problems");
        let solved: Vec<Solved> = problems
            .iter()
            .map(|p| Solved { problem_id: p.problem_id.clone(), solutions: p.solutions.clone() })
            .collect();
        let samples: Vec<Sample> = run_map(&crate::references::References, &json!({}), &solved, &[]).rows();
        let judged: Vec<Judged> = problems
            .iter()
            .map(|p| Judged {
                problem_id: p.problem_id.clone(),
                entry_point: p.entry_point.clone(),
                tests: p.tests.clone(),
            })
            .collect();
        let programs: Vec<ProgramRow> =
            samples.iter().map(|s| program(&s.sample_id, &s.problem_id, &s.program)).collect();
        let verdicts = |programs: &[ProgramRow]| -> Vec<Verdict> {
            run_map(&Execute, &json!({ "cpu_limit_s": 10 }), programs, &[("problems", table(&judged))]).rows()
        };
        let failed = verdicts(&programs)
            .iter()
            .filter(|v| v.verdict != "passed")
            .map(|v| format!("{}: {} {:?}", v.problem_id, v.verdict, v.first_failure))
            .collect();
        let broken: Vec<ProgramRow> = programs
            .iter()
            .map(|row| {
                let entry = judged.iter().find(|j| j.problem_id == row.problem_id).and_then(|j| j.entry_point.clone());
                let spoil = format!("def {}(*args):\n    return 'spoilt'\n", entry.unwrap_or_default());
                program(&row.sample_id, &row.problem_id, &format!("{}\n{spoil}", row.program))
            })
            .collect();
        let passed = verdicts(&broken).iter().filter(|v| v.verdict == "passed").count();
        (programs.len(), failed, passed)
    }

    #[test]
    fn the_published_reference_solutions_pass_and_spoilt_ones_do_not() {
        let beside = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        let data = std::env::var_os("ABLATE_DATA").map_or(beside, Into::into);
        for (name, count) in [("humaneval/HumanEval.jsonl.gz", 164), ("mbpp/sanitized-mbpp.json", 427)] {
            let path = data.join(name);
            if path.is_file() {
                let (programs, failed, passed) = references_of(&path);
                assert_eq!((programs, failed, passed), (count, Vec::<String>::new(), 0), "{name}");
            }
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for params in [
            Params { cpu_limit_s: 0.0, ..Params::default() },
            Params { cpu_limit_s: f64::NAN, ..Params::default() },
            Params { wall_factor: 1.0, ..Params::default() },
            Params { repeats: 0, ..Params::default() },
        ] {
            assert!(Execute::declare(&params, &InputSchemas::new()).is_err(), "{params:?}");
        }
    }

    #[test]
    fn the_isolation_in_force_is_told_for_the_record() {
        let cx = OpenContext {
            inputs: InputSchemas::new(),
            models: BTreeMap::new(),
            scratch: std::path::PathBuf::new(),
            state: None,
            threads: 1,
            device: crate::job::Device::Cpu,
            cancel: Cancel::default(),
        };
        let versions = Execute::open(&Params::default(), &cx).unwrap().versions();
        let isolation = &versions["isolation"];
        let (grade, in_force) = isolation.split_once(": ").unwrap();
        assert!(["partial", "full"].contains(&grade), "{isolation}");
        assert!(in_force.split(", ").any(|name| name == "rlimits"), "{isolation}");
    }
}
