//! `command`: any program as a stage. Parquet in, Parquet out, in a scratch folder of its own.
//!
//! The program starts in an empty folder that holds its declared files, `inputs/<port>.parquet` for every input, and an empty
//! `outputs/`, into which it writes `<port>.parquet` for every output it declares. The files it names enter the key by their digests,
//! so an edited script runs again. Whether equal inputs give equal rows is up to the program: `repeatable: no`.
//!
//! **It gets what it declared and nothing else**, for what it reads without saying so would be in its rows and not in its key. Landlock
//! lets it read and run the system (`/usr`, `/etc`, `/opt`, ...), what is installed at `PATH` and behind its own program, and read and
//! write its folder; not the user's home, nor the pipeline's folder, nor `/tmp`. `HOME` is its folder, `TMPDIR` lies in it, and of the
//! other variables it has `PATH`, `LD_LIBRARY_PATH`, `LANG`, `LC_*`, `CUDA_VISIBLE_DEVICES` (where and on what it runs, as the
//! installation itself is not in the key either) and those of its `env`. Packages that `pip install --user` put into the home are
//! not seen: a virtual environment is. The network is open. Where the kernel has no Landlock the log says so, and the record: `isolation`.
//!
//! Whatever it started ends with it, and it ends with the runner.

use crate::columns::{Column, schema_of};
use crate::job::{Cancel, Job, OpenContext, TableStream, WholeInputs, WholeJob, WholeOutputs};
use crate::sandbox::{Reach, Tethered, environment};
use crate::stage::{
    Columns, Declaration, InputPath, InputPort, InputSchemas, OutputPort, Place, Repeatable, Role, SchemaError, Stage,
    StageError,
};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitStatus, Stdio};
use std::time::Duration;

/// The kind.
pub struct Command;

/// Parameters of `command`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The program and its arguments.
    pub run: Vec<String>,
    /// Files that it needs: they lie in its folder under their own names, and their content is part of the key. It can read no others but those of the system and of what is installed.
    #[serde(default)]
    pub files: Vec<InputPath>,
    /// Environment variables that it gets, beside those of the language, the devices and where programs and libraries are installed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The names of its input ports.
    #[serde(default = "default_inputs")]
    pub inputs: Vec<String>,
    /// Its outputs: for each port, columns and their types.
    pub outputs: BTreeMap<String, BTreeMap<String, ColumnType>>,
}

fn default_inputs() -> Vec<String> {
    vec!["rows".to_owned()]
}

/// The type of a column that a program writes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnType {
    /// Text.
    String,
    /// A signed integer of 64 bits.
    Int,
    /// A number of 64 bits.
    Float,
    /// True or false.
    Bool,
}

impl ColumnType {
    fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
        }
    }
}

impl Stage for Command {
    type Params = Params;
    const NAME: &'static str = "command";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Any program as a stage: it finds its files and `inputs/<port>.parquet` in its folder, reads nothing else of the user's, and writes `outputs/<port>.parquet`.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
lengths: { use: command, from: problems, with: { run: [python3, lengths.py], files: [../examples/lengths.py], outputs: { lengths: { problem_id: string, num_words: int } } } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.run.is_empty() {
            return Err(SchemaError::parameter("run", "expected a program and its arguments, found none"));
        }
        if params.outputs.is_empty() {
            return Err(SchemaError::parameter("outputs", "expected at least one output, found none"));
        }
        let inputs = params.inputs.iter().map(|name| InputPort {
            name: name.clone(),
            doc: "a table that the program reads",
            role: Role::Table,
            columns: Columns::All,
            optional: false,
        });
        let outputs = params.outputs.iter().map(|(name, columns)| {
            let columns = columns.iter().map(|(name, of)| Column {
                name: name.clone(),
                data_type: of.data_type(),
                nullable: true,
                doc: String::new(),
            });
            OutputPort::table(name, columns.collect(), "a table that the program writes")
        });
        Ok(Declaration::whole(inputs.collect(), outputs.collect()).in_place(Place::Sandbox).repeatable(Repeatable::No))
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Whole(Box::new(CommandJob {
            run: params.run.clone(),
            env: params.env.clone(),
            files: params.files.iter().map(|file| file.as_path().to_owned()).collect(),
            inputs: params.inputs.iter().map(|port| (port.clone(), schema_of(&cx.inputs[port]))).collect(),
            outputs: params.outputs.keys().cloned().collect(),
            folder: cx.scratch.clone(),
            cancel: cx.cancel.clone(),
        })))
    }
}

struct CommandJob {
    run: Vec<String>,
    env: BTreeMap<String, String>,
    files: Vec<PathBuf>,
    inputs: BTreeMap<String, SchemaRef>,
    outputs: Vec<String>,
    folder: PathBuf,
    cancel: Cancel,
}

impl WholeJob for CommandJob {
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("isolation".to_owned(), Reach::of(&self.run[0], &self.folder).summary().to_owned())])
    }

    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let from = self.folder.join("inputs");
        std::fs::create_dir_all(&from)?;
        std::fs::create_dir_all(self.folder.join("outputs"))?;
        for file in &self.files {
            let name = file.file_name().ok_or_else(|| StageError::file(file, "expected a file"))?;
            std::fs::copy(file, self.folder.join(name)).map_err(|error| StageError::file(file, error.to_string()))?;
        }
        for (port, columns) in &self.inputs {
            write_table(&from.join(format!("{port}.parquet")), columns, inputs.stream(port)?)?;
        }
        // Now that its files are there: one of them may be the program, and name its interpreter.
        let reach = Reach::of(&self.run[0], &self.folder);
        if let Some(problem) = &reach.problem {
            warn(problem);
        }
        self.wait(&reach)?;
        for port in &self.outputs {
            read_table(self.left_for(port)?, port, out)?;
        }
        Ok(())
    }
}

impl CommandJob {
    fn wait(&self, reach: &Reach) -> Result<(), StageError> {
        let mut command = Program::new(&self.run[0]);
        command.args(&self.run[1..]).current_dir(&self.folder).stdin(Stdio::null());
        command.env_clear().envs(environment(&self.folder)?).envs(&self.env);
        let mut running = Tethered::spawn(command, reach.ruleset()?).map_err(|error| StageError::Missing {
            what: format!("the program `{}`", self.run[0]),
            fix: format!("{error}; install it, or name it by its whole path in `run`"),
        })?;
        loop {
            if let Some(status) = running.try_wait()? {
                return if status.success() { Ok(()) } else { Err(self.failed(status, reach)) };
            }
            // What runs ends on the way out.
            self.cancel.check()?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the program left for a port: a plain file of its own folder, wherever a link of its making leads.
    fn left_for(&self, port: &str) -> Result<File, StageError> {
        let name = format!("outputs/{port}.parquet");
        let path = self.folder.join(&name).canonicalize();
        let path = path.map_err(|error| StageError::failed(format!("the program left no {name}: {error}")))?;
        if !path.starts_with(self.folder.canonicalize()?) || !path.is_file() {
            let found = path.display();
            return Err(StageError::failed(format!("{name}: expected a file in the program's folder, found {found}")));
        }
        Ok(File::open(path)?)
    }

    fn failed(&self, status: ExitStatus, reach: &Reach) -> StageError {
        let hint = match &reach.problem {
            Some(_) => "",
            None => {
                "; it reads only what it declared: a file of yours that was refused (`Permission denied`) belongs in `files`"
            }
        };
        StageError::failed(format!("`{}` ended with {status} (see `ablate logs`){hint}", self.run.join(" ")))
    }
}

#[expect(clippy::print_stderr, reason = "the worker's standard error is the stage's log")]
fn warn(problem: &str) {
    eprintln!("command: {problem}");
}

fn write_table(path: &Path, columns: &SchemaRef, rows: TableStream<'_>) -> Result<(), StageError> {
    let mut rows = rows.peekable();
    // The columns that the port sees are those of its rows; an empty table has those of the connected one.
    let schema = match rows.peek() {
        Some(Ok(first)) => first.schema(),
        _ => SchemaRef::clone(columns),
    };
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema, None).map_err(failed)?;
    for batch in rows {
        writer.write(&batch?).map_err(failed)?;
    }
    writer.close().map(|_| ()).map_err(failed)
}

fn read_table(file: File, port: &str, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
    let reader = builder.build().map_err(failed)?;
    for batch in reader {
        out.push_batch(port, &batch?)
            .map_err(|error| StageError::failed(format!("outputs/{port}.parquet: {error}")))?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: parquet::errors::ParquetError) -> StageError {
    StageError::failed(format!("reading or writing Parquet failed: {error}"))
}
