//! `ablate doctor` on the machine at hand, and on machines that lack something.

use crate::lab::{Lab, Ran, ran};
use serde_json::Value;
use std::path::Path;

/// The finding of this name.
fn finding<'a>(findings: &'a Value, what: &str) -> &'a Value {
    let found = findings.as_array().and_then(|list| list.iter().find(|finding| finding["what"] == what));
    found.unwrap_or_else(|| panic!("nothing is said of {what}: {findings}"))
}

/// What the doctor says with an environment variable set.
fn examined(lab: &Lab, name: &str, value: &Path) -> (Ran, Value) {
    let output = lab.command(&["doctor", "--format", "json"]).env(name, value).output();
    let ran = ran(&output.expect("the command starts"));
    let findings = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
    (ran, findings)
}

/// A worker that answers with this script.
fn worker(lab: &Lab, script: &str) -> std::path::PathBuf {
    lab.write_program("worker", &format!("#!/bin/sh\n{script}\n"));
    lab.path("worker")
}

#[test]
fn a_machine_that_runs_pipelines_is_told_so_and_nothing_is_left_behind() {
    let lab = Lab::new();
    let said = lab.ok(&["doctor"]).stdout;
    for words in ["cores", "memory", "cache", "made by the first run", "python", "cpython 3.", "isolation", "ablate-lm"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!lab.path("cache").exists());
}

#[test]
fn a_cache_that_cannot_be_made_is_what_no_pipeline_runs_without() {
    let lab = Lab::new();
    lab.write("file", "");
    let (ran, findings) = examined(&lab, "ABLATE_CACHE", &lab.path("file"));
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let cache = finding(&findings, "cache");
    assert_eq!((&cache["state"], &cache["needed"]), (&"missing".into(), &true.into()));
    assert!(cache["found"].as_str().is_some_and(|found| found.contains("the cache must be a folder")), "{cache}");
}

#[test]
fn a_worker_that_is_not_there_is_no_failure_and_says_how_to_build_it() {
    let lab = Lab::new();
    let (ran, findings) = examined(&lab, "ABLATE_LM", &lab.path("none"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let worker = finding(&findings, "ablate-lm");
    assert_eq!(worker["state"], "missing");
    assert!(worker["fix"].as_str().is_some_and(|fix| fix.contains("make build")), "{worker}");
}

#[test]
fn a_worker_says_its_libtorch_and_its_devices_itself() {
    let lab = Lab::new();
    let answer = format!(
        r#"echo '{{"version": "{}", "libtorch": "2.11.0", "cuda_devices": 2, "cuda_problem": null}}'"#,
        env!("CARGO_PKG_VERSION")
    );
    let (_, findings) = examined(&lab, "ABLATE_LM", &worker(&lab, &answer));
    let found = finding(&findings, "ablate-lm");
    assert_eq!(found["state"], "good", "{found}");
    assert!(found["found"].as_str().is_some_and(|found| found.contains("libtorch 2.11.0")), "{found}");
    assert_eq!(finding(&findings, "cuda")["found"], "2 devices");
}

#[test]
fn a_worker_that_does_not_run_or_is_of_another_build_is_told_apart() {
    let lab = Lab::new();
    let dead = worker(&lab, "echo 'libtorch.so: cannot open shared object file' >&2; exit 127");
    let (_, findings) = examined(&lab, "ABLATE_LM", &dead);
    let found = finding(&findings, "ablate-lm");
    assert_eq!(found["state"], "missing", "{found}");
    assert!(found["found"].as_str().is_some_and(|found| found.contains("libtorch.so: cannot open")), "{found}");

    let answer = r#"echo '{"version": "0.0.1", "libtorch": null, "cuda_devices": 0, "cuda_problem": "no driver"}'"#;
    let (_, findings) = examined(&lab, "ABLATE_LM", &worker(&lab, answer));
    assert_eq!(finding(&findings, "ablate-lm")["state"], "limited");
    let cuda = finding(&findings, "cuda");
    assert!(cuda["found"].as_str().is_some_and(|found| found.contains("no driver")), "{cuda}");
}

#[test]
fn without_python_the_doctor_says_what_needs_it() {
    let lab = Lab::new();
    let (ran, findings) = examined(&lab, "PATH", &lab.path("nowhere"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let python = finding(&findings, "python");
    assert_eq!(python["state"], "missing");
    assert!(python["fix"].as_str().is_some_and(|fix| fix.contains("install Python 3")), "{python}");
}

#[test]
fn the_tools_of_each_described_language_are_asked_for_their_version() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("languages")).expect("a folder");
    lab.write("languages/there.yaml", "file: a\nrun: [cat, a]\nversion: [echo, tools 1.2]\n");
    lab.write("languages/not.yaml", "file: a\nrun: [cat, a]\nversion: [no-such-tool-anywhere]\n");
    lab.write("languages/wrong.yaml", "file: a\nversion: [echo, tools 1.2]\n");
    let ran = lab.ok(&["doctor", "--format", "json"]);
    let findings: Value = serde_json::from_str(&ran.stdout).expect("findings");
    let of_languages = findings.as_array().expect("a list").iter().filter(|finding| finding["what"] == "language");
    let said: Vec<String> = of_languages.map(|finding| format!("{} {}", finding["found"], finding["fix"])).collect();
    assert_eq!(said.len(), 3, "{findings}");
    assert!(
        said[0].contains("not.yaml: `no-such-tool-anywhere` does not run here") && said[0].contains("install it"),
        "{said:?}"
    );
    assert!(said[1].contains("there.yaml: tools 1.2\" null"), "{said:?}");
    assert!(said[2].contains("missing field `run`"), "{said:?}");
}
