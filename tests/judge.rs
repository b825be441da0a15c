//! The shipped pipelines that judge somebody's programs, on the small files that they name.

use crate::lab::{Lab, repository};
use serde_json::Value;
use std::collections::BTreeMap;

/// Runs a shipped pipeline.
fn judged(lab: &Lab, pipeline: &str, more: &[&str]) {
    let text = std::fs::read_to_string(repository().join("pipelines").join(pipeline)).expect("it is shipped");
    lab.write(pipeline, &text);
    lab.run(pipeline, more);
}

/// The verdicts of a stage, by problem and number of the sample.
fn verdicts(lab: &Lab, pipeline: &str, stage: &str, more: &[&str]) -> Vec<String> {
    let row = |text: &String| serde_json::from_str::<Value>(text).expect("a row is an object");
    let samples: BTreeMap<String, String> = lab
        .rows_with(pipeline, "samples", more)
        .iter()
        .map(row)
        .map(|row| {
            let name = format!("{}#{}", row["problem_id"].as_str().unwrap_or_default(), row["sample_index"]);
            (row["sample_id"].to_string(), name)
        })
        .collect();
    let mut shown: Vec<String> = lab
        .rows_with(pipeline, stage, more)
        .iter()
        .map(row)
        .map(|row| {
            let (verdict, trust) =
                (row["verdict"].as_str().unwrap_or_default(), row["trust"].as_str().unwrap_or_default());
            format!(
                "{} {verdict} {}/{} {trust}",
                samples[&row["sample_id"].to_string()],
                row["tests_passed"],
                row["tests_total"]
            )
        })
        .collect();
    shown.sort();
    shown
}

#[test]
fn human_eval_plus_is_judged_by_both_sets_of_tests() {
    let lab = Lab::new();
    judged(&lab, "judge-plus.yaml", &[]);
    let base = verdicts(&lab, "judge-plus.yaml", "base-verdicts", &[]);
    assert_eq!(base, ["Plus/0#0 passed 2/2 full", "Plus/1#0 passed 1/1 full", "Plus/2#0 passed 2/2 full"]);
    let plus = verdicts(&lab, "judge-plus.yaml", "plus-verdicts", &[]);
    assert_eq!(plus, ["Plus/0#0 passed 6/6 full", "Plus/1#0 wrong 4/5 full", "Plus/2#0 wrong 3/5 full"]);
    assert!(lab.rows("judge-plus.yaml", "plus-verdicts")[0].contains("\"comparator\":\"evalplus\""));
    // Other samples do not ask the references again.
    let again = lab.run("judge-plus.yaml", &["--set", "samples=../examples/problems/../problems/plus-samples.jsonl"]);
    assert!(crate::lab::stages(&again, "stage_finished").iter().all(|stage| !stage.ends_with("-tests")));
}

#[test]
fn apps_is_judged_truly_and_as_published() {
    let lab = Lab::new();
    judged(&lab, "judge-apps.yaml", &[]);
    let strict = verdicts(&lab, "judge-apps.yaml", "verdicts", &[]);
    let (first, last) = ("0000#0 passed 2/2 full", "0001#1 wrong 2/3 full");
    assert_eq!(strict, [first, "0000#1 wrong 1/2 full", "0001#0 wrong 0/3 full", last]);
    let published = verdicts(&lab, "judge-apps.yaml", "as-published", &[]);
    assert_eq!(published, [first, "0000#1 passed 2/2 full", "0001#0 passed 3/3 full", last]);
}

#[test]
fn a_table_of_programs_is_judged_with_its_own_ids() {
    let lab = Lab::new();
    judged(&lab, "judge.yaml", &[]);
    let before = lab.rows("judge.yaml", "verdicts");
    assert!(!before.is_empty());
    lab.ok(&["export", "judge.yaml", "samples", "table.parquet"]);
    let table = ["--set", "samples=table.parquet"];
    lab.run("judge.yaml", &table);
    let ids = |rows: &[String]| -> Vec<(Value, Value)> {
        rows.iter()
            .map(|row| serde_json::from_str::<Value>(row).expect("a row is an object"))
            .map(|row| (row["sample_id"].clone(), row["verdict"].clone()))
            .collect()
    };
    assert_eq!(ids(&lab.rows_with("judge.yaml", "verdicts", &table)), ids(&before));
}

/// Inputs alone judge nothing: the stage that lacks what is expected says which one makes it.
#[test]
fn nothing_is_judged_against_an_unknown() {
    let lab = Lab::new();
    let stages = "problems: { use: load, with: { path: ../examples/problems/plus.jsonl } }\n  \
                  programs: { use: references, from: problems }\n  \
                  verdicts: { use: execute, from: { programs: programs, problems: problems } }\n";
    lab.write("unknown.yaml", &format!("name: unknown\nstages:\n  {stages}"));
    let refused = lab.ablate(&["run", "unknown.yaml"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("test 1: what is expected is not known"), "{}", refused.stderr);
    assert!(refused.stderr.contains("`expect`"), "{}", refused.stderr);
}
