//! The binary `ablate-lm`, started as `ablate` starts it. That it is built for this test is what lets others run it.

use ablate_stages::worker::LmDescription;
use std::process::{Command, Output, Stdio};

fn worker(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ablate-lm"));
    // It finds libtorch by itself, whatever the environment.
    command.args(arguments).env_clear().stdin(Stdio::null()).output().expect("the worker starts")
}

#[test]
fn it_describes_itself_to_the_doctor() {
    let output = worker(&["--describe"]);
    assert!(output.status.success(), "{output:?}");
    let found: LmDescription = serde_json::from_slice(&output.stdout).expect("a description is JSON");
    assert_eq!(found.version, env!("CARGO_PKG_VERSION"));
    assert!(found.libtorch.is_some_and(|version| version.starts_with("2.")));
    assert_eq!(found.cuda_devices == 0, found.cuda_problem.is_some());
}

#[test]
fn it_says_its_version_in_a_line() {
    let line = String::from_utf8(worker(&["--version"]).stdout).expect("text");
    assert!(line.starts_with(&format!("ablate-lm {}, libtorch 2.", env!("CARGO_PKG_VERSION"))), "{line}");
}

#[test]
fn without_a_runner_it_says_who_starts_it() {
    let output = worker(&[]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a worker is started by `ablate run`"), "{said}");
}
