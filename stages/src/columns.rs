//! The rows that tables hold, as Rust types: a table's columns, their types and their documentation all come from the type of its row.
//!
//! A kind declares the columns it reads by a (usually narrower) row type of its own, and what it writes by one of the types here.
//! Extra columns never disturb a reader: a row type takes what it names and nothing else.

use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_arrow::schema::{SchemaLike, TracingOptions};
use std::sync::Arc;

/// One column of a table: its name, its type, whether it may hold nulls, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: DataType,
    /// Whether a row may leave it empty.
    pub nullable: bool,
    /// What it means, for people.
    pub doc: String,
}

impl Column {
    /// The column as an Arrow field.
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.data_type.clone(), self.nullable)
    }

    /// Whether a reader that wants `self` can read `found`: the same logical type, and no nulls where none are expected.
    /// A struct may have fields that the reader does not name, as a table may have columns.
    pub fn accepts(&self, found: &Column) -> bool {
        self.name == found.name && (self.nullable || !found.nullable) && readable(&self.data_type, &found.data_type)
    }
}

/// Whether a reader of the type `wanted` can read `found`.
fn readable(wanted: &DataType, found: &DataType) -> bool {
    use DataType::{LargeList, List, Struct};
    match (wanted, found) {
        (Struct(wanted), Struct(found)) => wanted.iter().all(|field| {
            let there = found.iter().find(|found| found.name() == field.name());
            there.map_or(field.is_nullable(), |found| readable(field.data_type(), found.data_type()))
        }),
        (List(wanted) | LargeList(wanted), List(found) | LargeList(found)) => {
            readable(wanted.data_type(), found.data_type())
        }
        _ => same_type(wanted, found),
    }
}

/// Whether two Arrow types mean the same: the three encodings of a string are one type, so are the two of a list.
pub fn same_type(a: &DataType, b: &DataType) -> bool {
    use DataType::{Dictionary, LargeList, LargeUtf8, List, Struct, Utf8, Utf8View};
    match (a, b) {
        (Dictionary(_, a), b) => same_type(a, b),
        (a, Dictionary(_, b)) => same_type(a, b),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (List(a) | LargeList(a), List(b) | LargeList(b)) => same_type(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter().all(|x| b.iter().any(|y| x.name() == y.name() && same_type(x.data_type(), y.data_type())))
        }
        _ => a == b,
    }
}

/// The columns of a table whose rows are `T`, in the order of its fields, documented by its doc comments.
///
/// # Panics
/// If `T` is not a plain struct of scalars, lists, options and structs. The contract test walks every kind, so this cannot reach a user.
pub fn columns_of<T: DeserializeOwned + JsonSchema>() -> Vec<Column> {
    let schema = serde_json::to_value(schemars::schema_for!(T)).expect("a JSON Schema is JSON");
    fields_of::<T>()
        .iter()
        .map(|field| Column {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            doc: schema["properties"][field.name()]["description"].as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

/// The Arrow fields of a row type.
///
/// # Panics
/// As [`columns_of`].
pub fn fields_of<T: DeserializeOwned>() -> Vec<FieldRef> {
    let options = TracingOptions::default()
        .enums_without_data_as_strings(true)
        .strings_as_large_utf8(false)
        .sequence_as_large_list(false);
    Vec::<FieldRef>::from_type::<T>(options).expect("a row type is a plain struct")
}

/// An Arrow schema with these columns.
pub fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>()))
}

/// A problem to solve: a row of the `problems` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The source's own id, else a digest of source, question and entry point.
    pub problem_id: String,
    /// The task in words, as the model is asked.
    pub question: String,
    /// Reference solutions: whole programs.
    pub solutions: Vec<String>,
    /// Code that the solution is to start from.
    pub starter_code: Option<String>,
    /// The function that the tests call; none for programs that read standard input.
    pub entry_point: Option<String>,
    /// How a solution is judged.
    pub tests: Tests,
    /// Where the problem comes from.
    pub source: String,
    /// The source's own word for how hard it is.
    pub difficulty: Option<String>,
}

/// How a solution is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tests {
    /// What runs.
    pub style: TestStyle,
    /// Inputs and what is expected of each; empty for `assert`.
    pub cases: Vec<Case>,
    /// Python test code that calls the solution, for `assert`.
    pub code: Option<String>,
    /// Python code that the test code needs before it, such as the helpers and imports of a prompt, for `assert`.
    #[serde(default)]
    pub setup: Option<String>,
}

/// What a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestStyle {
    /// The program as a script: standard input in, standard output compared.
    Stdio,
    /// The entry point as a function: arguments in, returned value compared.
    Call,
    /// Test code that calls the solution.
    Assert,
}

impl TestStyle {
    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Call => "call",
            Self::Assert => "assert",
        }
    }
}

/// One input and what is expected of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Case {
    /// `stdio`: standard input. `call`: the arguments as a Python literal tuple, `([1, 2], 3)`.
    pub input: String,
    /// `stdio`: standard output. `call`: the expected value as a Python literal; empty for `truthy`, `falsy` and `root`, and
    /// where it is not known before `expect` has asked the reference solution.
    pub output: String,
    /// How the outcome is compared.
    pub check: Check,
    /// The largest difference that `close` and `root` take, and `equal` where the comparator is `evalplus`.
    pub tolerance: Option<f64>,
}

/// How the outcome of a case is compared with what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// By the comparator of the stage.
    Equal,
    /// `bool(value)` is true.
    Truthy,
    /// `bool(value)` is false.
    Falsy,
    /// `abs(value - expected) < tolerance`.
    Close,
    /// The value is a root of the polynomial whose coefficients, the constant first, are the first argument:
    /// `abs(p(value)) <= tolerance`. A polynomial has several, so none can be expected.
    Root,
}

impl Tests {
    /// The places, from 0, of cases whose expected value is not known: nothing can be judged by them. Of calls only, since an
    /// empty standard output is an answer.
    pub fn unknown(&self) -> impl Iterator<Item = usize> + '_ {
        let needs_output = |check| matches!(check, Check::Equal | Check::Close);
        let cases = if self.style == TestStyle::Call { self.cases.as_slice() } else { &[] };
        let unknown =
            cases.iter().enumerate().filter(move |(_, case)| needs_output(case.check) && case.output.is_empty());
        unknown.map(|(at, _)| at)
    }
}

/// A piece of a reference solution that a model is to write again: a row of the `blocks` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// Digest of problem, prefix, middle, suffix and kind.
    pub block_id: String,
    /// The problem whose solution it is cut from.
    pub problem_id: String,
    /// `if`, `for`, `while`, `def`, `full` or `random`.
    pub kind: String,
    /// 1 + the largest depth of target statements inside it; 0 for `full` and `random`, which are no statements.
    pub depth: u32,
    /// Where the middle starts in the solution, in bytes.
    pub start_byte: u64,
    /// Where it ends, in bytes.
    pub end_byte: u64,
    /// Lines of the middle.
    pub num_lines: u32,
    /// The solution before the middle.
    pub prefix: String,
    /// The block itself.
    pub middle: String,
    /// The solution behind it; prefix + middle + suffix is the solution, byte for byte.
    pub suffix: String,
}

/// What a model wrote: a row of the `samples` table. A reference solution may stand here too (`references`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// Digest of the parent's id and the sample's index.
    pub sample_id: String,
    /// The problem that it answers.
    pub problem_id: String,
    /// The block that it fills, for `fim-generate`.
    pub block_id: Option<String>,
    /// Which of the parent's samples it is, from 0.
    pub sample_index: u32,
    /// What the model wrote, after the cut of the kind.
    pub text: String,
    /// `stop` where the model ended by itself, `length` where the limit cut it.
    pub finish: String,
    /// Tokens written.
    pub num_tokens: u32,
    /// Sum of the sampled tokens' log-probabilities, in nats. Measured: it differs by rounding.
    pub logprob: Option<f64>,
    /// The whole program to judge.
    pub program: String,
}

/// How a program did: a row of the `verdicts` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The sample that was judged.
    pub sample_id: String,
    /// Its problem.
    pub problem_id: String,
    /// The worst over all tests: `passed` < `wrong` < `error` < `output-limit` < `memory` < `timeout` < `killed`.
    pub verdict: String,
    /// Tests that passed.
    pub tests_passed: u32,
    /// Tests there are.
    pub tests_total: u32,
    /// What went wrong first, in a line.
    pub first_failure: Option<String>,
    /// The comparator used.
    pub comparator: String,
    /// `full` where the verdict was made outside the candidate's process, else `weak`.
    pub trust: String,
    /// How many times it was run.
    pub runs: u32,
    /// How many of these runs passed.
    pub runs_passed: u32,
    /// Whether runs of the same program disagreed.
    pub flaky: bool,
    /// The lines of the program, from 1, that ran under the tests; none where `coverage` was not asked for.
    pub covered_lines: Option<Vec<u32>>,
    /// Wall time of all tests, in seconds, from the first line of the program on. Measured.
    pub wall_s: f64,
    /// CPU time of all tests, in seconds, likewise. Measured.
    pub cpu_s: f64,
    /// Peak resident memory, in bytes. Measured.
    pub peak_memory_bytes: u64,
}

/// The columns of [`Verdict`] that are measured.
pub const VERDICT_MEASURED: &[&str] = &["wall_s", "cpu_s", "peak_memory_bytes"];
/// The columns of [`Sample`] that are measured.
pub const SAMPLE_MEASURED: &[&str] = &["logprob"];

/// Something to train on: a row of the `examples` table, the contract between all data methods and all training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Example {
    /// Digest of what it is made from.
    pub example_id: String,
    /// Its problem.
    pub problem_id: String,
    /// The block it is about, where there is one.
    pub block_id: Option<String>,
    /// The sample that is the preferred side, where it is one.
    pub chosen_id: Option<String>,
    /// The sample that is the other side, where it is one.
    pub rejected_id: Option<String>,
    /// That block's kind.
    pub block_kind: Option<String>,
    /// Lines of the reference block, or of the response.
    pub num_lines: u32,
    /// Depth of the block; 0 where there is none.
    pub depth: u32,
    /// `fim` or `chat`.
    pub format: String,
    /// What stands before both sides.
    pub prompt: Vec<Segment>,
    /// The preferred side; the response itself for supervised training.
    pub chosen: Vec<Segment>,
    /// The other side; empty for supervised training.
    pub rejected: Vec<Segment>,
}

/// An example with its place in the curriculum: a row of what `curriculum-sort` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OrderedExample {
    /// Digest of what it is made from.
    pub example_id: String,
    /// Its problem.
    pub problem_id: String,
    /// The block it is about, where there is one.
    pub block_id: Option<String>,
    /// The sample that is the preferred side, where it is one.
    pub chosen_id: Option<String>,
    /// The sample that is the other side, where it is one.
    pub rejected_id: Option<String>,
    /// That block's kind.
    pub block_kind: Option<String>,
    /// Lines of the reference block, or of the response.
    pub num_lines: u32,
    /// Depth of the block; 0 where there is none.
    pub depth: u32,
    /// `fim` or `chat`.
    pub format: String,
    /// What stands before both sides.
    pub prompt: Vec<Segment>,
    /// The preferred side.
    pub chosen: Vec<Segment>,
    /// The other side; empty for supervised training.
    pub rejected: Vec<Segment>,
    /// Examples of one bucket are trained on together, buckets in ascending order.
    pub bucket: u32,
    /// The place in the whole order, from 0.
    pub position: u32,
}

/// A stretch of an example, independent of any model: raw text, or one special token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Segment {
    /// Raw text, encoded apart from its neighbours with special-token parsing off. None for a special token.
    pub text: Option<String>,
    /// A special token by its role. None for text.
    pub special: Option<Special>,
    /// Which bytes of the text carry loss, and how much. A special token's own weight is that of its only span.
    pub spans: Vec<Span>,
}

/// Bytes `start..end` of a segment's text carry loss with this weight; a token takes the largest weight of the spans it overlaps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One behind the last byte.
    pub end: u32,
    /// Weight of the loss there.
    pub weight: f32,
}

/// Special tokens by role; a model's tokenizer says which token plays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Special {
    /// Opens the prefix of a fill-in-the-middle prompt.
    FimPrefix,
    /// Opens the suffix.
    FimSuffix,
    /// Opens the middle.
    FimMiddle,
    /// Ends a document or a middle.
    End,
    /// Everything that the chat template puts before the system text.
    SystemStart,
    /// Everything that the chat template puts before the user's text.
    UserStart,
    /// Everything between the user's text and the assistant's.
    AssistantStart,
    /// Ends a turn of the assistant.
    TurnEnd,
}

impl Segment {
    /// Text that carries no loss.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), special: None, spans: Vec::new() }
    }

    /// Text whose every byte carries loss of weight 1.
    pub fn target(text: impl Into<String>) -> Self {
        let text = text.into();
        let spans = vec![Span { start: 0, end: text.len() as u32, weight: 1.0 }];
        Self { text: Some(text), special: None, spans }
    }

    /// Puts loss of weight 1 on the last bytes of a text.
    pub fn weigh_end(&mut self, num_bytes: usize) {
        let len = self.text.as_ref().map_or(0, String::len);
        if num_bytes > 0 {
            self.spans.push(Span { start: len.saturating_sub(num_bytes) as u32, end: len as u32, weight: 1.0 });
        }
    }

    /// A special token that carries no loss.
    pub fn special(special: Special) -> Self {
        Self { text: None, special: Some(special), spans: Vec::new() }
    }

    /// A special token that carries loss of weight 1.
    pub fn special_target(special: Special) -> Self {
        Self { text: None, special: Some(special), spans: vec![Span { start: 0, end: 1, weight: 1.0 }] }
    }
}

/// Log-probabilities of an example under the reference model: a row of what `reference` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceLogprobs {
    /// The example.
    pub example_id: String,
    /// One for each weighted token of the chosen side, in nats.
    pub chosen: Vec<f32>,
    /// One for each weighted token of the rejected side, in nats.
    pub rejected: Vec<f32>,
}

/// A figure: a row of a `metrics` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    /// What is measured, `pass@1`.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub lower: Option<f64>,
    /// Upper end of its 95 % interval.
    pub upper: Option<f64>,
    /// How many units it is a mean over.
    pub n: u64,
}

/// How one problem was answered: a row of the `outcomes` table of `score`; what paired tests compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// The problem.
    pub problem_id: String,
    /// Samples judged.
    pub num_samples: u32,
    /// Samples that passed.
    pub num_passed: u32,
}

/// A unit that gave no rows, and why: a row of the `dropped` port of every map stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    /// The unit's id: of its row, or the one that its rows share.
    pub unit_id: String,
    /// Why, in a word or two that can be counted.
    pub reason: String,
    /// What exactly was found.
    pub detail: Option<String>,
}
