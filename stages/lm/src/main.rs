//! `ablate-lm`: the worker that serves the kinds which need libtorch. `ablate run` starts it; `--version` says what it holds,
//! `--describe` the same for `ablate doctor`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use ablate_stages::job::{Job, OpenContext};
use ablate_stages::stage::{BoundStage, Declaration, StageError};
use ablate_stages::worker::{self, LmDescription};
use lm::{device, kinds};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--version") => return print(&version(&description())),
        Some("--describe") => {
            return print(&serde_json::to_string(&description()).expect("a description is plain data"));
        }
        _ => {}
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

fn description() -> LmDescription {
    let (cuda_devices, cuda_problem) = match device::cuda_devices() {
        Ok(count) => (count, None),
        Err(problem) => (0, Some(problem)),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    LmDescription { version, libtorch: device::libtorch_version(), cuda_devices, cuda_problem }
}

fn version(found: &LmDescription) -> String {
    let libtorch = found.libtorch.as_deref().unwrap_or("of unknown version");
    let cuda = if found.cuda_devices > 0 { "usable" } else { "not usable" };
    format!("ablate-lm {}, libtorch {libtorch}, CUDA {cuda}", found.version)
}

#[expect(clippy::print_stdout, reason = "the answer to --version and --describe")]
fn print(line: &str) -> ExitCode {
    println!("{line}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the worker's standard error is the stage's log")]
fn complain(problem: &str) -> ExitCode {
    eprintln!("ablate-lm: {problem}");
    ExitCode::FAILURE
}
