//! The command line: one file a command. Here alone is anything printed to standard output: data; talk goes to standard error.

mod audit;
mod cache;
mod check;
mod compare;
mod doctor;
mod export;
mod logs;
mod new;
mod plan;
mod query;
mod run;
mod schema;
mod show;
mod stages;
mod why;

use crate::cache::{Cache, find_root};
use crate::pipeline::{Choice, Problems};
use crate::plan::schema::{Checked, load};
use crate::run::RunError;
use crate::run::planner::Planned;
use ablate_stages::stage::StageError;
use clap::{Parser, Subcommand, ValueEnum};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Everything went well.
pub const EXIT_OK: u8 = 0;
/// A bug of ours.
pub const EXIT_BUG: u8 = 1;
/// The command line is not understood (`clap`'s own code).
pub const EXIT_USAGE: u8 = 2;
/// The pipeline has mistakes.
pub const EXIT_PIPELINE: u8 = 3;
/// A stage failed.
pub const EXIT_STAGE: u8 = 4;
/// Something is missing on this machine.
pub const EXIT_MISSING: u8 = 5;

/// A declarative pipeline runner for experiments on how code models are aligned.
#[derive(Debug, Parser)]
#[command(name = "ablate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a pipeline: what is in the cache is not done again
    Run(run::Args),
    /// Says of each stage whether it would run, and why
    Plan(plan::Args),
    /// Explains why a stage would run or where its result is from, or follows one row through every stage
    Why(why::Args),
    /// Says what is wrong with a pipeline, all at once; runs nothing
    Check(check::Args),
    /// Lists the kinds of stages, or describes one
    Stages(stages::Args),
    /// Prints the JSON Schema of a pipeline file, for completion in editors
    Schema(schema::Args),
    /// Writes a commented pipeline to start from
    New(new::Args),
    /// Shows rows of a stage's output
    Show(show::Args),
    /// Answers a SELECT over the tables of stages
    Query(query::Args),
    /// Writes a stage's output as Parquet, JSON lines or a model folder
    Export(export::Args),
    /// Compares metrics, with intervals and paired tests
    Compare(compare::Args),
    /// Does a stage twice from nothing, and names the columns and rows that differ
    Audit(audit::Args),
    /// Prints what a stage's worker wrote
    Logs(logs::Args),
    /// Looks after the cache
    Cache(cache::Args),
    /// Says what this machine gives, what is missing, and what to do about it
    Doctor(doctor::Args),
    /// Serves one stage for the runner
    #[command(hide = true)]
    Worker,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// What every command that reads a pipeline takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PipelineArgs {
    /// The pipeline file
    pub(crate) pipeline: PathBuf,
    /// Sets a parameter (stage.param=value) or a var (var=value); may be given again
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) sets: Vec<String>,
    /// A variant of the file (`default`: the pipeline as written, which is meant where none is named); may be given again
    #[arg(long = "variant", value_name = "NAME")]
    pub(crate) variants: Vec<String>,
    /// All variants of the file
    #[arg(long, conflicts_with = "variants")]
    pub(crate) all: bool,
    /// A smoke run: the stages that read problems give at most so many rows
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// Why a command ended early: what to say, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to say on standard error; empty where it is said already.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), code }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let code = if error.is_missing() { EXIT_MISSING } else { EXIT_STAGE };
        Self { message: error.to_string(), code }
    }
}

impl From<crate::cache::CacheError> for Failure {
    fn from(error: crate::cache::CacheError) -> Self {
        RunError::from(error).into()
    }
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        RunError::from(error).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // A reader that has seen enough (`ablate show | head`) is no failure.
        let code = if error.kind() == std::io::ErrorKind::BrokenPipe { EXIT_OK } else { EXIT_STAGE };
        let message = if code == EXIT_OK { String::new() } else { format!("writing failed: {error}") };
        Self { message, code }
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<u8, Failure>;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Stages(args) => stages::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::New(args) => new::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Worker => worker(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                say(&format!("error: {}", failure.message));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn worker() -> Outcome {
    ablate_stages::worker::serve(&|bound, _, cx| Ok((bound.open(cx)?, std::collections::BTreeMap::new())))?;
    Ok(EXIT_OK)
}

/// A line of talk.
pub(crate) fn say(line: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Text of data.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(text.as_bytes())
}

/// A value of data, as JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Reads and checks a pipeline; problems are rendered, warnings said.
pub(crate) fn checked(args: &PipelineArgs) -> Result<Checked, Failure> {
    let colour = std::io::stderr().is_terminal();
    let choice = Choice { variants: args.variants.clone(), all: args.all };
    match load(&args.pipeline, &args.sets, &choice) {
        Ok(checked) => {
            warn(&checked.problems, colour);
            Ok(checked)
        }
        Err(problems) => {
            Err(Failure::new(EXIT_PIPELINE, format!("the pipeline has mistakes\n{}", problems.render(colour))))
        }
    }
}

fn warn(problems: &Problems, colour: bool) {
    if !problems.list.is_empty() {
        say(&problems.render(colour));
    }
}

/// The cache for a pipeline file.
pub(crate) fn open_cache(pipeline: &Path) -> Result<Cache, Failure> {
    Ok(Cache::open(find_root(pipeline)?)?)
}

/// Checks a pipeline and computes its recipes. The plan is never freed: a process ends soon after it needs it no more, and the system
/// takes its memory back at once, where freeing thousands of stages one by one costs as much as planning them.
pub(crate) fn planned(args: &PipelineArgs) -> Result<(&'static Planned, Cache), Failure> {
    let checked = checked(args)?;
    let cache = open_cache(&args.pipeline)?;
    let planned = Planned::new(checked, &cache, args.limit)?;
    Ok((Box::leak(Box::new(planned)), cache))
}

/// The record and port of `stage` or `stage.port`.
pub(crate) fn output_of(planned: &Planned, cache: &Cache, name: &str) -> Result<crate::cache::Output, Failure> {
    let (stage, port) = match planned.find(name) {
        Some(_) => (name, None),
        None => name.rsplit_once('.').map_or((name, None), |(stage, port)| (stage, Some(port))),
    };
    let step = planned.named(stage).map_err(|problem| Failure::new(EXIT_USAGE, problem))?;
    let ports: Vec<String> = planned.declaration(step).outputs.iter().map(|output| output.name.clone()).collect();
    let port = match port {
        None => ports.first().cloned().ok_or_else(|| Failure::new(EXIT_USAGE, format!("`{stage}` writes nothing")))?,
        Some(port) if ports.iter().any(|p| p == port) => port.to_owned(),
        Some(port) => {
            return Err(Failure::new(
                EXIT_USAGE,
                format!("`{stage}` has no port `{port}`; it has {}", ports.join(", ")),
            ));
        }
    };
    let records = planned.lookup(cache)?;
    let record = records[step].as_ref().ok_or_else(|| {
        let file = planned.file().display();
        Failure::new(EXIT_STAGE, format!("`{stage}` has not been run as it stands; run it: ablate run {file} {stage}"))
    })?;
    Ok(record.outputs[&port].clone())
}
