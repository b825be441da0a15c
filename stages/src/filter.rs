//! `filter`: keeps rows that meet conditions, and of problems the solutions that do.
//!
//! Columns in: all of `rows`. Out: the same columns, and `dropped` with the condition that failed.
//! `golden: must-pass` is short for `references` + `execute` + this kind with their verdicts: what is kept are problems with
//! at least one reference solution that passes all tests, without the solutions that do not.
//! `parses: true` asks CPython's own `compile`, in a sandbox: grammars and parsers of others take programs that Python refuses.
//! Determinism: bits; the verdicts are another stage's. With `parses`, the same machine and the same Python.
//! Cost: reading the table; with `parses` the start of a sandbox, and about 0.2 ms a solution.

use crate::code::request::sample_id;
use crate::condition::{Condition, ConditionError};
use crate::job::{Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::sandbox::{Config, Grade, Sandbox};
use crate::segment::Solved;
use crate::stage::{
    AddedStage, Columns, Declaration, Environment, Expansion, InputPort, InputSchemas, OutputPort, Place, Repeatable,
    Role, SchemaError, Source, Stage, StageError, UseSite,
};
use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Filter;

/// Parameters of `filter`. A row has to meet all conditions that are set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// An expression over the columns that has to be true, as in Jinja: `difficulty == "interview" and solution|length < 4000`.
    /// `solution` is the first of `solutions`.
    pub r#where: Option<String>,
    /// What the tests have to say of the solutions of a problem; the others are left out, and problems without any that is kept.
    pub golden: Option<Golden>,
    /// Parameters of the `execute` that `golden` stands for.
    pub execute: Map<String, serde_json::Value>,
    /// Whether solutions that CPython's own `compile` refuses are left out, and problems without any that is kept.
    pub parses: bool,
    /// Solutions with more words (separated by white space) are left out, and problems without any that is kept.
    pub max_words: Option<u32>,
    /// Solutions with more lines are left out, likewise.
    pub max_lines: Option<u32>,
    /// Solutions with fewer lines are left out, likewise.
    pub min_lines: Option<u32>,
}

/// What the tests have to say of a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Golden {
    /// It passes all of them.
    MustPass,
}

/// How a reference solution did: the columns looked up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct GoldenVerdict {
    /// The problem.
    pub problem_id: String,
    /// The solution, as `references` names it.
    pub sample_id: String,
    /// The worst outcome over all tests.
    pub verdict: String,
}

impl Params {
    fn concerns_solutions(&self) -> Option<&'static str> {
        [
            ("golden", self.golden.is_some()),
            ("parses", self.parses),
            ("max_words", self.max_words.is_some()),
            ("max_lines", self.max_lines.is_some()),
            ("min_lines", self.min_lines.is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_set)| is_set.then_some(name))
    }
}

impl From<ConditionError> for SchemaError {
    fn from(error: ConditionError) -> Self {
        Self::parameter("where", error.to_string())
    }
}

impl Stage for Filter {
    type Params = Params;
    const NAME: &'static str = "filter";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Keeps the rows that meet conditions; of problems, the solutions that do.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
short: { use: filter, from: problems, with: { where: \"solution|length < 400\", max_lines: 30 } }
clean: { use: filter, from: short, with: { golden: must-pass } }
";

    fn declare(params: &Params, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let columns = inputs.get("rows").cloned().unwrap_or_default();
        let has = |name: &str| columns.iter().any(|column| column.name == name);
        if params.golden.is_none() && !params.execute.is_empty() {
            return Err(SchemaError::parameter("execute", "expected `golden` with it: nothing else is executed"));
        }
        if params == &Params::default() {
            return Err(SchemaError::general("expected at least one condition, got none"));
        }
        let condition = params.r#where.as_deref().map(Condition::parse).transpose()?;
        if inputs.contains_key("rows") {
            if let Some(name) = params.concerns_solutions()
                && !(has("solutions") && has("problem_id"))
            {
                let problem = "expected a table of problems, with the columns problem_id and solutions";
                return Err(SchemaError::parameter(name, problem));
            }
            if let Some(condition) = condition {
                condition.check(columns.iter().map(|column| column.name.as_str()))?;
            }
        }
        let rows = InputPort {
            name: "rows".into(),
            doc: "the table to filter",
            role: Role::Rows,
            columns: Columns::All,
            optional: false,
        };
        let verdicts =
            InputPort::lookup_many::<GoldenVerdict>("verdicts", "problem_id", "how the reference solutions did");
        let mut ports = vec![rows];
        if params.golden.is_some() {
            ports.push(verdicts.optional());
        }
        let declaration = Declaration::map(ports, OutputPort::table("rows", columns, "the rows kept"));
        Ok(if params.parses {
            let same = Repeatable::SameMachine;
            declaration.in_place(Place::Sandbox).depends_on(Environment::Python).repeatable(same)
        } else {
            declaration
        })
    }

    fn expand(params: &Params, site: &UseSite) -> Option<Expansion> {
        if params.golden.is_none() || site.connected.iter().any(|port| port == "verdicts") {
            return None;
        }
        let references = AddedStage {
            suffix: "references",
            kind: "references",
            with: json!({}),
            from: BTreeMap::from([("problems".to_owned(), Source::Given("rows"))]),
        };
        let execute = AddedStage {
            suffix: "execute",
            kind: "execute",
            with: serde_json::Value::Object(params.execute.clone()),
            from: BTreeMap::from([
                ("programs".to_owned(), Source::Added { suffix: "references", port: None }),
                ("problems".to_owned(), Source::Given("rows")),
            ]),
        };
        Some(Expansion {
            added: vec![references, execute],
            kind: Self::NAME,
            // How they are executed is the other stage's, and no part of this one's key.
            with: serde_json::to_value(Params { execute: Map::new(), ..params.clone() })
                .expect("parameters came from JSON and go back to it"),
            from: BTreeMap::from([
                ("rows".to_owned(), Source::Given("rows")),
                ("verdicts".to_owned(), Source::Added { suffix: "execute", port: None }),
            ]),
        })
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        let condition = params.r#where.as_deref().map(Condition::parse).transpose();
        let condition = condition.map_err(|error| StageError::failed(error.to_string()))?;
        // Solutions are compiled and never run, so any grade of isolation will do.
        let compiler = || Sandbox::open(Config { floor: Grade::None, ..Config::default() });
        let compiler = params.parses.then(compiler).transpose()?;
        Ok(Job::Map(Box::new(FilterJob { params: params.clone(), condition, compiler })))
    }
}

struct FilterJob {
    params: Params,
    /// `where`.
    condition: Option<Condition>,
    /// For `parses`.
    compiler: Option<Sandbox>,
}

/// What others say of the solutions of a problem.
#[derive(Clone, Copy)]
struct Opinions<'a> {
    /// What CPython has against each, where it was asked.
    compiler: Option<&'a [Option<String>]>,
    /// How those that were run did.
    verdicts: Option<&'a [GoldenVerdict]>,
}

/// The condition that a row failed, and what was found.
type Refusal = (&'static str, Option<String>);

impl FilterJob {
    /// The solutions of a problem that meet the conditions, or the condition that the last ones failed.
    fn kept_solutions<'a>(&self, problem: &'a Solved, opinions: Opinions<'_>) -> Result<Vec<&'a str>, Refusal> {
        let mut refusal: Refusal = ("no-solution", None);
        let mut kept = Vec::with_capacity(problem.solutions.len());
        for (i, solution) in problem.solutions.iter().enumerate() {
            match self.refuses(problem, i, solution, opinions) {
                Some(found) => refusal = found,
                None => kept.push(solution.as_str()),
            }
        }
        if kept.is_empty() { Err(refusal) } else { Ok(kept) }
    }

    fn refuses(&self, problem: &Solved, i: usize, solution: &str, opinions: Opinions<'_>) -> Option<Refusal> {
        let words = solution.split_whitespace().count();
        let lines = solution.lines().count();
        if self.params.max_words.is_some_and(|most| words > most as usize) {
            return Some(("max-words", Some(format!("{words} words"))));
        }
        if self.params.max_lines.is_some_and(|most| lines > most as usize) {
            return Some(("max-lines", Some(format!("{lines} lines"))));
        }
        if self.params.min_lines.is_some_and(|least| lines < least as usize) {
            return Some(("min-lines", Some(format!("{lines} lines"))));
        }
        if let Some(objection) = opinions.compiler.and_then(|objections| objections[i].clone()) {
            return Some(("parses", Some(objection)));
        }
        let id = sample_id(&problem.problem_id, i as u32);
        match opinions.verdicts?.iter().find(|verdict| verdict.sample_id == id) {
            Some(verdict) if verdict.verdict == "passed" => None,
            Some(verdict) => Some(("golden", Some(verdict.verdict.clone()))),
            None => Some(("golden", Some("not judged".into()))),
        }
    }
}

/// For each problem, what CPython has against each of its solutions.
fn objections(compiler: &mut Sandbox, problems: &[Solved]) -> Result<Vec<Vec<Option<String>>>, StageError> {
    let sources: Vec<&str> = problems.iter().flat_map(|problem| &problem.solutions).map(String::as_str).collect();
    let mut found = compiler.parses(&sources)?.into_iter();
    Ok(problems.iter().map(|problem| found.by_ref().take(problem.solutions.len()).collect()).collect())
}

impl MapJob for FilterJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        let condition = match &self.condition {
            Some(condition) => Some((condition, condition.ready()?)),
            None => None,
        };
        let wants_solutions = self.params.concerns_solutions().is_some();
        while let Some(batch) = units.next()? {
            let problems: Vec<Solved> = if wants_solutions { batch.rows()? } else { Vec::new() };
            let verdicts = match self.params.golden {
                Some(_) => Some(batch.lookup::<GoldenVerdict>("verdicts")?),
                None => None,
            };
            let objections = match &mut self.compiler {
                Some(compiler) => Some(objections(compiler, &problems)?),
                None => None,
            };
            let mut seen = match &condition {
                Some((condition, _)) => condition.rows(&batch.rows)?,
                None => Vec::new(),
            };
            for (unit, rows) in batch.units() {
                let row = rows.start;
                let mut kept = None;
                if wants_solutions {
                    let opinions = Opinions {
                        compiler: objections.as_ref().map(|objections| objections[row].as_slice()),
                        verdicts: verdicts.as_ref().map(|verdicts| verdicts.all(row)),
                    };
                    match self.kept_solutions(&problems[row], opinions) {
                        Ok(solutions) => kept = Some(solutions),
                        Err((reason, detail)) => {
                            out.drop(unit, reason, detail)?;
                            continue;
                        }
                    }
                }
                if let Some((_, ready)) = &condition {
                    if let Some(kept) = &kept {
                        seen[row].set_solutions(kept);
                    }
                    match ready.holds(&seen[row]) {
                        Ok(true) => {}
                        Ok(false) => {
                            out.drop(unit, "where", None)?;
                            continue;
                        }
                        Err(problem) => {
                            out.fail(unit, format!("`where` cannot be evaluated: {problem}"))?;
                            continue;
                        }
                    }
                }
                match kept {
                    Some(kept) if kept.len() < problems[row].solutions.len() => {
                        out.emit_batch(unit, with_solutions(&batch.rows.slice(row, 1), &kept)?)?;
                    }
                    _ => out.pass(unit)?,
                }
            }
        }
        Ok(())
    }
}

/// One row with other solutions.
fn with_solutions(row: &RecordBatch, kept: &[&str]) -> Result<RecordBatch, StageError> {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value(kept.iter().map(|&solution| Some(solution)));
    let list: ArrayRef = Arc::new(list.finish());
    let (at, field) = row
        .schema_ref()
        .column_with_name("solutions")
        .map(|(at, field)| (at, field.clone()))
        .ok_or_else(|| StageError::input("rows", "column `solutions` is missing"))?;
    let mut columns = row.columns().to_vec();
    columns[at] = arrow::compute::cast(&list, field.data_type())?;
    Ok(RecordBatch::try_new(row.schema(), columns)?)
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
