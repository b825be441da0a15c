//! The contract of a stage: everything about a kind is on the kind.
//!
//! A kind is a unit struct that implements [`Stage`] in a file of its own, one `mod` line and one line in [`crate::STAGES`].
//! It says what it reads and writes ([`Stage::declare`], pure), and makes the job that does the work ([`Stage::open`]).
//! The runner sees kinds only through [`AnyStage`] and [`BoundStage`], which every `Stage` is by a blanket implementation.

use crate::columns::{Column, Dropped, columns_of};
use crate::job::{Job, OpenContext};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A kind of stage.
pub trait Stage: Send + Sync + 'static {
    /// The `with:` block. Every field has a doc comment; it is the parameter's reference. Unknown keys are refused (`deny_unknown_fields`).
    type Params: DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static;
    /// The name in `use:`, which is also the file's.
    const NAME: &'static str;
    /// Raised whenever equal inputs would give other rows.
    const VERSION: u32;
    /// What the kind does, in a sentence or a few.
    const ABOUT: &'static str;
    /// `stages:` of a small pipeline that uses the kind; a test runs it.
    const EXAMPLE: &'static str;
    /// Parameters that say how the work is done and not what comes out: they are in no key, so changing one reruns nothing.
    const NOT_IN_KEY: &'static [&'static str] = &[];

    /// Input ports, outputs and how the work is cut. Pure: no data, clock or device.
    ///
    /// # Errors
    /// Where the parameters contradict each other, or the connected tables.
    fn declare(params: &Self::Params, inputs: &InputSchemas) -> Result<Declaration, SchemaError>;

    /// Other stages that this use is short for, if it is (`eval` = `generate` + `execute` + `score`).
    fn expand(_params: &Self::Params, _site: &UseSite) -> Option<Expansion> {
        None
    }

    /// Loads what is loaded once (a parser, zygotes, a model) and returns the job. Kinds in [`Place::Torch`] leave it as it is: the crate `lm` opens them.
    ///
    /// # Errors
    /// Where something cannot be loaded, or is missing on this machine.
    fn open(_params: &Self::Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Err(StageError::Missing {
            what: format!("a worker that serves `{}`", Self::NAME),
            fix: "build it: cargo build --release -p lm".into(),
        })
    }
}

/// What a use of a kind reads, writes and takes.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// Input ports.
    pub inputs: Vec<InputPort>,
    /// Output ports; the first is meant where a pipeline names the stage alone.
    pub outputs: Vec<OutputPort>,
    /// How the work is cut.
    pub work: Work,
    /// Where it runs.
    pub place: Place,
    /// What of the machine can change the rows; part of the key.
    pub environment: Vec<Environment>,
    /// When equal inputs give equal rows.
    pub repeatable: Repeatable,
    /// How many CPUs one worker keeps busy.
    pub cpus: u32,
    /// The names of the metrics that its table of metrics will hold; empty where they are not known before it has run.
    pub metrics: Vec<String>,
}

impl Declaration {
    /// A stage whose every row (or group of rows that share `group_by`) is worked on alone, and can be reused alone.
    /// `output` describes the rows it writes; the port `dropped` is added.
    pub fn map(inputs: Vec<InputPort>, output: OutputPort) -> Self {
        let dropped = OutputPort::table("dropped", columns_of::<Dropped>(), "units that gave no rows, and why");
        Self {
            inputs,
            outputs: vec![output, dropped],
            work: Work::Map { group_by: None },
            place: Place::Inline,
            environment: Vec::new(),
            repeatable: Repeatable::Bits,
            cpus: 1,
            metrics: Vec::new(),
        }
    }

    /// A stage that needs all its inputs at once.
    pub fn whole(inputs: Vec<InputPort>, outputs: Vec<OutputPort>) -> Self {
        Self {
            inputs,
            outputs,
            work: Work::Whole,
            place: Place::Inline,
            environment: Vec::new(),
            repeatable: Repeatable::Bits,
            cpus: 1,
            metrics: Vec::new(),
        }
    }

    /// Makes the rows that share this column of the rows port one unit.
    #[must_use]
    pub fn grouped_by(mut self, column: impl Into<String>) -> Self {
        self.work = Work::Map { group_by: Some(column.into()) };
        self
    }

    /// Sets the place.
    #[must_use]
    pub fn in_place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Names the metrics that its table of metrics will hold.
    #[must_use]
    pub fn measuring(mut self, metrics: Vec<String>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Names something of the machine that can change the rows.
    #[must_use]
    pub fn depends_on(mut self, environment: Environment) -> Self {
        self.environment.push(environment);
        self
    }

    /// Says when equal inputs give equal rows.
    #[must_use]
    pub fn repeatable(mut self, repeatable: Repeatable) -> Self {
        self.repeatable = repeatable;
        self
    }

    /// The columns of an output table without the measured ones: what a port that takes all columns sees of it, so a kind
    /// can promise no others. None where the output is no table.
    pub fn unmeasured(&self, output: &str) -> Option<Vec<Column>> {
        match &self.outputs.iter().find(|port| port.name == output)?.artifact {
            ArtifactKind::Table { columns, measured } => {
                Some(columns.iter().filter(|column| !measured.contains(&column.name)).cloned().collect())
            }
            ArtifactKind::Model | ArtifactKind::Files => None,
        }
    }

    /// The port of the rows that a map stage walks.
    pub fn rows_port(&self) -> Option<&InputPort> {
        self.inputs.iter().find(|port| port.role == Role::Rows)
    }
}

/// How a stage's work is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// By units: one row of the rows port, or the rows that share a column.
    Map {
        /// The column that the rows of a unit share; none for one row a unit.
        group_by: Option<String>,
    },
    /// Not at all.
    Whole,
}

/// Where a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the runner.
    Inline,
    /// In a worker `ablate worker`, because it starts untrusted programs.
    Sandbox,
    /// In a worker `ablate-lm`, because it needs libtorch.
    Torch,
}

/// When equal inputs give equal rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repeatable {
    /// Everywhere.
    Bits,
    /// On one type of machine.
    SameMachine,
    /// Not promised: the cache is what makes it the same for everybody.
    No,
}

/// Something of the machine that can change rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Environment {
    /// The version of the Python that judges programs.
    Python,
    /// The version of the tools that a language's file names.
    Toolchain(PathBuf),
}

impl Environment {
    /// Its name in keys and plans.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Toolchain(_) => "toolchain",
        }
    }
}

/// An input port.
#[derive(Debug, Clone)]
pub struct InputPort {
    /// Its name in `from:`.
    pub name: String,
    /// What it is for.
    pub doc: &'static str,
    /// How it is read.
    pub role: Role,
    /// The columns it sees, and that alone its keys digest. Empty for models and files.
    pub columns: Columns,
    /// Whether it may be left out.
    pub optional: bool,
}

impl InputPort {
    /// The rows that a map stage walks, with the columns of `T`.
    pub fn rows<T: DeserializeOwned + JsonSchema>(name: &str, doc: &'static str) -> Self {
        Self { name: name.into(), doc, role: Role::Rows, columns: Columns::These(columns_of::<T>()), optional: false }
    }

    /// A table looked up by the id column `by`, which the rows port has too; exactly one row an id.
    pub fn lookup<T: DeserializeOwned + JsonSchema>(name: &str, by: &str, doc: &'static str) -> Self {
        let role = Role::Lookup { by: by.into(), many: false };
        Self { name: name.into(), doc, role, columns: Columns::These(columns_of::<T>()), optional: false }
    }

    /// As [`InputPort::lookup`], with any number of rows an id.
    pub fn lookup_many<T: DeserializeOwned + JsonSchema>(name: &str, by: &str, doc: &'static str) -> Self {
        let role = Role::Lookup { by: by.into(), many: true };
        Self { name: name.into(), doc, role, columns: Columns::These(columns_of::<T>()), optional: false }
    }

    /// A table that a whole stage reads, with the columns of `T`.
    pub fn table<T: DeserializeOwned + JsonSchema>(name: &str, doc: &'static str) -> Self {
        Self { name: name.into(), doc, role: Role::Table, columns: Columns::These(columns_of::<T>()), optional: false }
    }

    /// A model folder.
    pub fn model(name: &str, doc: &'static str) -> Self {
        Self { name: name.into(), doc, role: Role::Model, columns: Columns::These(Vec::new()), optional: false }
    }

    /// Takes every column of the table, whatever they are.
    #[must_use]
    pub fn all_columns(mut self) -> Self {
        self.columns = Columns::All;
        self
    }

    /// May be left out.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// How an input port is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The rows that a map stage walks. A map stage has one such port.
    Rows,
    /// A table looked up by an id that the rows have.
    Lookup {
        /// The id column, in both tables.
        by: String,
        /// Whether an id may have any number of rows; else it has exactly one.
        many: bool,
    },
    /// A table that a whole stage reads.
    Table,
    /// A model folder.
    Model,
    /// A folder of files.
    Files,
}

/// Which columns a port sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// These. A nullable one may be missing from the table: it then reads as null.
    These(Vec<Column>),
    /// All that the table has.
    All,
}

/// An output port.
#[derive(Debug, Clone)]
pub struct OutputPort {
    /// Its name behind the dot.
    pub name: String,
    /// What it holds.
    pub doc: &'static str,
    /// What kind of artifact.
    pub artifact: ArtifactKind,
}

/// What an output port holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A table.
    Table {
        /// Its columns.
        columns: Vec<Column>,
        /// Those that are measured: stored and shown, but in no digest.
        measured: Vec<String>,
    },
    /// A model folder.
    Model,
    /// A folder of files.
    Files,
}

impl OutputPort {
    /// A table with these columns.
    pub fn table(name: &str, columns: Vec<Column>, doc: &'static str) -> Self {
        Self { name: name.into(), doc, artifact: ArtifactKind::Table { columns, measured: Vec::new() } }
    }

    /// A model folder.
    pub fn model(name: &str, doc: &'static str) -> Self {
        Self { name: name.into(), doc, artifact: ArtifactKind::Model }
    }

    /// Names columns that are measured.
    #[must_use]
    pub fn measured(mut self, names: &[&str]) -> Self {
        if let ArtifactKind::Table { measured, .. } = &mut self.artifact {
            measured.extend(names.iter().map(|&name| name.to_owned()));
        }
        self
    }
}

/// The columns of the tables that are connected to a use's input ports, without the measured ones. A port that is not connected, or
/// no table, is absent.
pub type InputSchemas = BTreeMap<String, Vec<Column>>;

/// Where a kind is used: what its expansion may depend on.
#[derive(Debug, Clone)]
pub struct UseSite {
    /// The input ports that the pipeline connects.
    pub connected: Vec<String>,
}

/// What a use is short for: stages of their own, named `<use>/<suffix>`, and the stage that keeps the use's name.
#[derive(Debug, Clone)]
pub struct Expansion {
    /// Stages that are added, in any order.
    pub added: Vec<AddedStage>,
    /// The kind of the stage that keeps the name.
    pub kind: &'static str,
    /// Its parameters, as in `with:`.
    pub with: Value,
    /// Its inputs by port.
    pub from: BTreeMap<String, Source>,
}

/// A stage that an expansion adds.
#[derive(Debug, Clone)]
pub struct AddedStage {
    /// What stands behind the slash of its name.
    pub suffix: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its parameters, as in `with:`.
    pub with: Value,
    /// Its inputs by port.
    pub from: BTreeMap<String, Source>,
}

/// Where an input of an expanded stage comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// What the pipeline connects to this port of the use.
    Given(&'static str),
    /// An added stage's first output, or one it names.
    Added {
        /// The added stage's suffix.
        suffix: &'static str,
        /// The port; none for the first.
        port: Option<&'static str>,
    },
}

/// A path in a pipeline file, relative to the file. It enters no row and no key: the digest of what lies there does.
///
/// Written as a plain string; after binding it serialises as `{"$path": "..."}`, so that whoever computes keys can find every one.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(transparent)]
pub struct InputPath(pub PathBuf);

impl InputPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// The key that marks a path in bound parameters.
pub const PATH_KEY: &str = "$path";

impl Serialize for InputPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BTreeMap::from([(PATH_KEY, &self.0)]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for InputPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = InputPath;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path")
            }
            fn visit_str<E>(self, path: &str) -> Result<InputPath, E> {
                Ok(InputPath(path.into()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<InputPath, A::Error> {
                match map.next_entry::<String, PathBuf>()? {
                    Some((key, path)) if key == PATH_KEY => Ok(InputPath(path)),
                    _ => Err(serde::de::Error::custom("expected a path")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A contradiction between a kind's parameters and the tables connected to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct SchemaError {
    /// The parameter concerned, as a path below `with` (`where`), if one is.
    pub parameter: Option<String>,
    /// What is wrong, what was expected, what was found, what to do.
    pub problem: String,
}

impl SchemaError {
    /// A problem of one parameter.
    pub fn parameter(name: &str, problem: impl Into<String>) -> Self {
        Self { parameter: Some(name.into()), problem: problem.into() }
    }

    /// A problem of the whole use.
    pub fn general(problem: impl Into<String>) -> Self {
        Self { parameter: None, problem: problem.into() }
    }
}

/// A parameter that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParamError {
    /// Where, as dotted path below `with` (`objective.dpo.beta`); empty for the whole block.
    pub path: String,
    /// What was expected and found.
    pub message: String,
}

/// Why a stage could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A table does not hold what the stage needs.
    #[error("input `{port}`: {problem}")]
    Input {
        /// The input port.
        port: String,
        /// Where in the table, what was expected, what was found, what to do.
        problem: String,
    },
    /// The machine lacks something.
    #[error("{what} is missing on this machine ({fix})")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        fix: String,
    },
    /// A file could not be read or written.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where in it, what was expected, what was found, what to do.
        problem: String,
    },
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl StageError {
    /// A problem of an input table.
    pub fn input(port: &str, problem: impl Into<String>) -> Self {
        Self::Input { port: port.into(), problem: problem.into() }
    }

    /// A problem of a file.
    pub fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { path: path.into(), problem: problem.into() }
    }

    /// Anything else.
    pub fn failed(problem: impl Into<String>) -> Self {
        Self::Failed(problem.into())
    }
}

impl From<arrow::error::ArrowError> for StageError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Failed(format!("reading or building a table failed: {error}"))
    }
}

impl From<std::io::Error> for StageError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("reading or writing failed: {error}"))
    }
}

impl From<serde_arrow::Error> for StageError {
    fn from(error: serde_arrow::Error) -> Self {
        Self::Failed(format!("reading or building rows failed: {error}"))
    }
}

/// A kind, as the runner sees it.
pub trait AnyStage: Send + Sync {
    /// [`Stage::NAME`].
    fn name(&self) -> &'static str;
    /// [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// [`Stage::ABOUT`].
    fn about(&self) -> &'static str;
    /// [`Stage::EXAMPLE`].
    fn example(&self) -> &'static str;
    /// [`Stage::NOT_IN_KEY`].
    fn not_in_key(&self) -> &'static [&'static str];
    /// The JSON Schema of the parameters.
    fn params_schema(&self) -> Schema;
    /// Reads the parameters; defaults are filled in.
    ///
    /// # Errors
    /// Where a parameter is unknown, missing or of the wrong type.
    fn bind(&'static self, with: Value) -> Result<Box<dyn BoundStage>, ParamError>;
}

/// A kind with its parameters.
pub trait BoundStage: Send + Sync {
    /// The kind.
    fn kind(&self) -> &'static dyn AnyStage;
    /// The parameters with defaults filled in; paths are marked by [`PATH_KEY`].
    fn params(&self) -> Value;
    /// [`Stage::declare`].
    ///
    /// # Errors
    /// As there.
    fn declare(&self, inputs: &InputSchemas) -> Result<Declaration, SchemaError>;
    /// [`Stage::expand`].
    fn expand(&self, site: &UseSite) -> Option<Expansion>;
    /// [`Stage::open`].
    ///
    /// # Errors
    /// As there.
    fn open(&self, cx: &OpenContext) -> Result<Job, StageError>;
}

struct Bound<S: Stage> {
    kind: &'static S,
    params: S::Params,
}

impl<S: Stage> AnyStage for S {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn version(&self) -> u32 {
        S::VERSION
    }
    fn about(&self) -> &'static str {
        S::ABOUT
    }
    fn example(&self) -> &'static str {
        S::EXAMPLE
    }
    fn not_in_key(&self) -> &'static [&'static str] {
        S::NOT_IN_KEY
    }
    fn params_schema(&self) -> Schema {
        schemars::schema_for!(S::Params)
    }
    fn bind(&'static self, with: Value) -> Result<Box<dyn BoundStage>, ParamError> {
        let params = serde_path_to_error::deserialize(with).map_err(|error| {
            let path = error.path().to_string();
            ParamError { path: if path == "." { String::new() } else { path }, message: error.into_inner().to_string() }
        })?;
        Ok(Box::new(Bound { kind: self, params }))
    }
}

impl<S: Stage> BoundStage for Bound<S> {
    fn kind(&self) -> &'static dyn AnyStage {
        self.kind
    }
    fn params(&self) -> Value {
        serde_json::to_value(&self.params).expect("parameters came from JSON and go back to it")
    }
    fn declare(&self, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        S::declare(&self.params, inputs)
    }
    fn expand(&self, site: &UseSite) -> Option<Expansion> {
        S::expand(&self.params, site)
    }
    fn open(&self, cx: &OpenContext) -> Result<Job, StageError> {
        S::open(&self.params, cx)
    }
}
