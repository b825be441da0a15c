//! `ablate export`: a stage's output as a file or folder of the user's own.

use super::{EXIT_OK, EXIT_STAGE, EXIT_USAGE, Failure, Outcome, PipelineArgs, output_of, planned, say};
use crate::cache::{Output, writer_properties};
use crate::report::rows::to_json_lines;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `ablate export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage, or stage.port
    output: String,
    /// Where to: a file that ends in .parquet or .jsonl for a table, a new folder for a model
    to: PathBuf,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let output = output_of(planned, &cache, &args.output)?;
    if args.to.exists() {
        return Err(Failure::new(EXIT_USAGE, format!("{}: exists already; name another place", args.to.display())));
    }
    // Written beside its place and moved there whole: what has the name is complete.
    let folder = args.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let message = format!("{}: the folder does not exist; make it, or name another", folder.display());
        return Err(Failure::new(EXIT_USAGE, message));
    }
    let beside = tempfile::Builder::new()
        .prefix(".ablate-")
        .tempdir_in(folder)
        .map_err(|error| Failure::new(EXIT_USAGE, format!("{}: cannot be written to: {error}", folder.display())))?;
    let part = beside.path().join("part");
    match &output {
        Output::Table(table) => match args.to.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => {
                let mut file = std::io::BufWriter::new(new_file(&part)?);
                for batch in cache.read_table(table, None)? {
                    file.write_all(to_json_lines(&[batch?])?.as_bytes())?;
                }
                file.flush()?;
            }
            Some("parquet") => {
                // Straight to its place: a writer of the cache would leave a blob behind that nobody asks for.
                let rows = cache.read_table(table, None)?;
                let properties = writer_properties();
                let mut writer = ArrowWriter::try_new(new_file(&part)?, Arc::clone(rows.schema()), Some(properties))?;
                for batch in rows {
                    writer.write(&batch?)?;
                }
                writer.close()?;
            }
            _ => {
                let message = format!("{}: expected a name that ends in .parquet or .jsonl", args.to.display());
                return Err(Failure::new(EXIT_USAGE, message));
            }
        },
        Output::Model(_) | Output::Files(_) => copy_folder(&cache.view(&output)?, &part)?,
    }
    std::fs::rename(&part, &args.to)?;
    say(&format!("wrote {}", args.to.display()));
    Ok(EXIT_OK)
}

impl From<ParquetError> for Failure {
    fn from(error: ParquetError) -> Self {
        Self::new(EXIT_STAGE, format!("writing failed: {error}"))
    }
}

fn new_file(path: &Path) -> Result<std::fs::File, Failure> {
    Ok(std::fs::OpenOptions::new().write(true).create_new(true).open(path)?)
}

/// Not `fs::copy`: what is in the cache is read-only, the user's copy is not.
fn copy_file(from: &Path, to: &Path) -> Result<(), Failure> {
    std::io::copy(&mut std::fs::File::open(from)?, &mut new_file(to)?)?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)?;
        }
    }
    Ok(())
}
