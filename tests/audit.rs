//! `ablate audit`: a stage done twice from nothing.

use crate::run::lab;
use serde_json::Value;

const PIPELINE: &str = r"
name: audited
stages:
  problems: { use: load, with: { path: problems.jsonl } }
  blocks:   { use: segment, from: problems, with: { kinds: [if, for] } }
  programs: { use: references, from: problems }
  verdicts: { use: execute, from: { programs: programs, problems: problems } }
  dice:
    use: command
    with:
      run: [sh, -c, 'case $(head -c 1 /proc/sys/kernel/random/uuid) in [0-7]) cp one.parquet outputs/drawn.parquet;; *) cp other.parquet outputs/drawn.parquet;; esac']
      files: [one.parquet, other.parquet]
      inputs: []
      outputs: { drawn: { problem_id: string, question: string } }
";

#[test]
fn a_stage_that_gives_the_same_passes_and_leaves_nothing_behind() {
    let lab = lab();
    lab.write("p.yaml", PIPELINE);
    std::fs::write(lab.path("one.parquet"), "").expect("a file of the lab");
    std::fs::write(lab.path("other.parquet"), "").expect("a file of the lab");
    let early = lab.ablate(&["audit", "p.yaml", "blocks"]);
    assert_eq!(early.code, 4);
    assert!(early.stderr.contains("`problems`, which it reads from, has not been run"), "{}", early.stderr);

    lab.run("p.yaml", &["verdicts", "blocks"]);
    let objects = || lab.ok(&["cache", "status", "p.yaml"]).stdout;
    let before = objects();
    let found = lab.ok(&["audit", "p.yaml", "blocks"]).stdout;
    assert!(found.contains("first and second time, blocks: the same\n"), "{found}");
    assert!(found.contains("recorded and first time, blocks: the same\n"), "{found}");
    assert!(found.ends_with("`blocks` gave the same each time; its kind promises equal rows everywhere\n"), "{found}");
    let judged: Value =
        serde_json::from_str(&lab.ok(&["audit", "p.yaml", "verdicts", "--format", "json"]).stdout).expect("JSON");
    assert_eq!(judged["equal"], true, "{judged}");
    assert_eq!(judged["between"]["verdicts"]["columns"], serde_json::json!({}));
    assert_eq!(objects(), before, "an audit keeps nothing");
}

#[test]
fn a_stage_that_throws_dice_is_found_out_with_columns_and_rows() {
    let lab = lab();
    lab.write(
        "files.yaml",
        "name: files\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  \
         some: { use: filter, from: problems, with: { where: 'true' } }\n",
    );
    let text = std::fs::read_to_string(lab.path("problems.jsonl")).expect("exported by the lab");
    lab.run("files.yaml", &[]);
    lab.ok(&["export", "files.yaml", "some", "one.parquet"]);
    lab.write("problems.jsonl", &text.replacen("\"question\":\"", "\"question\":\"Please: ", 1));
    lab.run("files.yaml", &[]);
    lab.ok(&["export", "files.yaml", "some", "other.parquet"]);
    lab.write("p.yaml", PIPELINE);
    // Two throws are equal half the time; twenty times in a row they are not.
    let found = (0..20).map(|_| lab.ablate(&["audit", "p.yaml", "dice"])).find(|ran| ran.code == 4);
    let found = found.expect("the dice fall on both sides").stdout;
    assert!(found.contains("first and second time, drawn: DIFFERS\n  column question differs in 1 row: "), "{found}");
    assert!(found.ends_with("`dice` did NOT give the same each time; its kind promises nothing\n"), "{found}");
}
