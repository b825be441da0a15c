//! The main job with a real model: the quickstart, small. Needs `ablate-lm` beside `ablate`: test with `--workspace`.

use crate::lab::{Lab, repository, stages};
use std::io::BufRead;
use std::process::Stdio;

/// The quickstart with few problems. Its training saves its state behind every step.
const SMALL: [&str; 10] = [
    "--set",
    "problems=16",
    "--set",
    "heldout=8",
    "--set",
    "samples=3",
    "--set",
    "epochs=2",
    "--set",
    "aligned.save_every_minutes=0",
];

fn quickstart() -> Lab {
    let lab = Lab::new();
    let text =
        std::fs::read_to_string(repository().join("pipelines/quickstart.yaml")).expect("it is part of the repository");
    lab.write("quickstart.yaml", &text);
    lab
}

/// The weights that a stage made.
fn weights(lab: &Lab, stage: &str) -> Vec<u8> {
    let folder = lab.ok(&[&["show", "quickstart.yaml", stage], &SMALL[..]].concat()).stdout;
    std::fs::read(lab.path(folder.trim()).join("model.safetensors")).expect("a model folder has weights")
}

#[test]
fn the_quickstart_aligns_compares_and_knows_what_a_change_concerns() {
    let lab = quickstart();
    let first = lab.run("quickstart.yaml", &SMALL);
    assert!(stages(&first, "stage_failed").is_empty());
    // Without the last setting: how often a training saves its state is in no key.
    let compared = lab.ok(&[&["compare", "quickstart.yaml", "--format", "json"], &SMALL[..8]].concat());
    let compared: serde_json::Value = serde_json::from_str(&compared.stdout).expect("a comparison");
    let rows: Vec<&str> = compared["rows"].as_array().unwrap().iter().filter_map(|row| row["stage"].as_str()).collect();
    assert_eq!(rows, ["before", "structure-coder", "plain-dpo-eval", "data-equal-eval", "chosen-only-eval"]);
    assert!(compared["rows"].as_array().unwrap().iter().all(|row| row["n"] == 8), "{compared}");
    assert!(compared["note"].as_str().unwrap().contains("were put into the base model"));

    // Every pair is of one block: right against wrong, and they differ.
    let pairs =
        lab.ok(&[&["show", "quickstart.yaml", "pairs", "--rows", "1000", "--format", "json"], &SMALL[..]].concat());
    let pairs: Vec<serde_json::Value> = pairs.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!pairs.is_empty());
    for pair in &pairs {
        assert!(pair["block_id"].is_string() && pair["chosen"][0]["text"] != pair["rejected"][0]["text"], "{pair}");
    }
    assert_ne!(weights(&lab, "aligned"), weights(&lab, "plain-dpo"));

    assert!(stages(&lab.run("quickstart.yaml", &SMALL), "stage_started").is_empty());
    let changed = [&SMALL[..], &["--set", "pairs.alpha=1"]].concat();
    let plan = lab.ok(&[&["plan", "quickstart.yaml"], &changed[..]].concat()).stdout;
    let runs = |stage: &str| {
        let line =
            plan.lines().find(|line| line.split_whitespace().next() == Some(stage)).expect("every stage has a line");
        line.split_whitespace().nth(1) != Some("cached")
    };
    assert!(plan.contains("alpha 0.5 -> 1"), "{plan}");
    for stage in ["pairs", "ordered", "aligned", "structure-coder", "data-equal", "chosen-only"] {
        assert!(runs(stage), "{stage}: {plan}");
    }
    for stage in ["middles", "verdicts", "answers", "plain-dpo", "plain-dpo-eval", "before"] {
        assert!(!runs(stage), "{stage}: {plan}");
    }
}

#[test]
fn a_training_that_is_killed_goes_on_and_ends_with_the_same_weights() {
    let undisturbed = quickstart();
    let run = [&["run", "quickstart.yaml", "aligned"], &SMALL[..]].concat();
    undisturbed.ok(&run);

    let lab = quickstart();
    let mut killed = 0;
    for steps in [1, 2] {
        let mut command = lab.command(&[&run[..], &["--format", "json"]].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let events = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        let mut seen = 0;
        for line in events.lines() {
            let event: serde_json::Value =
                serde_json::from_str(&line.expect("events are text")).expect("a line an event");
            if event["event"] == "stage_progress" && event["stage"] == "aligned" {
                seen += 1;
                if seen == steps {
                    child.kill().expect("it is running");
                    killed += 1;
                    break;
                }
            }
        }
        child.wait().expect("it was started");
    }
    assert_eq!(killed, 2, "the training has to take some steps");
    lab.ok(&run);
    assert_eq!(weights(&lab, "aligned"), weights(&undisturbed, "aligned"));
}

#[test]
fn an_empty_table_goes_through_every_stage_and_training_refuses_it() {
    let lab = quickstart();
    let empty = [&["run", "quickstart.yaml"], &SMALL[..], &["--set", "clean.where=\"false\""]].concat();
    let ran = lab.ablate(&empty);
    assert_ne!(ran.code, 0);
    for stage in
        ["clean", "blocks", "middles", "verdicts", "pairs", "ordered", "answers", "answer-verdicts", "fewer-pairs"]
    {
        let line = ran.stderr.lines().find(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(stage) && matches!(words.next(), Some("done" | "cached"))
        });
        assert!(line.is_some_and(|line| line.contains(" 0 rows")), "{stage}: {}", ran.stderr);
    }
    for stage in ["aligned", "plain-dpo", "data-equal", "chosen-only"] {
        let refused = format!("stage `{stage}`: input `examples`: there are no rows, so there is nothing to train on");
        assert!(ran.stderr.contains(&refused), "{}", ran.stderr);
    }
    // What does not depend on it is done all the same.
    let before = lab.ok(&[&["show", "quickstart.yaml", "before.metrics"], &SMALL[..]].concat());
    assert!(before.stdout.contains("pass@1"), "{}", before.stdout);
}
