//! `ablate-lm`: the worker that serves the kinds which need libtorch. `ablate run` starts it; `--version` says what it holds.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ablate_stages::job::{Job, OpenContext};
use ablate_stages::stage::{BoundStage, Declaration, StageError};
use ablate_stages::worker;
use lm::{device, kinds};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        return print_version();
    }
    match worker::serve(&open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

fn open(
    stage: &dyn BoundStage,
    _declaration: &Declaration,
    cx: &OpenContext,
) -> Result<(Job, BTreeMap<String, String>), StageError> {
    // Before the first operation: the bits of a sum depend on how many threads share it.
    device::set_threads(cx.threads);
    let job = kinds::open(stage, cx)?;
    let mut versions = BTreeMap::from([
        ("ablate-lm".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ("threads".to_string(), cx.threads.to_string()),
    ]);
    versions.extend(device::libtorch_version().map(|version| ("libtorch".to_string(), version)));
    Ok((job, versions))
}

#[expect(clippy::print_stdout, reason = "the answer to --version")]
fn print_version() -> ExitCode {
    let libtorch = device::libtorch_version().unwrap_or_else(|| "of unknown version".into());
    let cuda = if matches!(device::device("auto"), Ok(found) if found.is_cuda()) { "usable" } else { "not usable" };
    println!("ablate-lm {}, libtorch {libtorch}, CUDA {cuda}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the worker's standard error is the stage's log")]
fn complain(problem: &str) -> ExitCode {
    eprintln!("ablate-lm: {problem}");
    ExitCode::FAILURE
}
