//! The worker `ablate-lm` as it is installed: what it needs to start, and what it says of itself.

use std::process::Command;

#[test]
fn it_starts_without_any_variable_and_names_its_libtorch() {
    let output = Command::new(env!("CARGO_BIN_EXE_ablate-lm")).arg("--version").env_clear().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with(&format!("ablate-lm {}, libtorch 2.", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[test]
fn started_by_hand_it_says_who_starts_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_ablate-lm")).stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("a worker is started by `ablate run`"), "{text}");
}
