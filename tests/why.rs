//! Looking for causes: `ablate plan`, `ablate why`, a row followed through every stage, the timeline of a run.

use crate::lab::Lab;
use crate::run::lab;
use serde_json::Value;

const PIPELINE: &str = r"
name: small
stages:
  problems: { use: load, with: { path: problems.jsonl } }
  short:    { use: filter, from: problems, with: { where: 'solution|length < 300' } }
  blocks:   { use: segment, from: short, with: { kinds: [if, for] } }
  programs: { use: references, from: short }
  verdicts: { use: execute, from: { programs: programs, problems: short } }
variants:
  ifs: { blocks.kinds: [if] }
  whole: { programs: { from: problems }, verdicts: { from: { problems: problems } } }
";

fn json(lab: &Lab, args: &[&str]) -> Value {
    serde_json::from_str(&lab.ok(&[args, &["--format", "json"]].concat()).stdout).expect("it prints JSON")
}

/// A lab where the pipeline has run.
fn ran() -> Lab {
    let lab = lab();
    lab.write("p.yaml", PIPELINE);
    lab.run("p.yaml", &[]);
    lab
}

fn of<'a>(plan: &'a Value, stage: &str) -> &'a Value {
    plan.as_array().expect("a list").iter().find(|line| line["stage"] == stage).expect("the stage is planned")
}

#[test]
fn the_plan_counts_rows_that_changed_and_units_that_are_left() {
    let lab = ran();
    let text = std::fs::read_to_string(lab.path("problems.jsonl")).expect("exported by the lab");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &mut lines[..3] {
        *line = line.replacen("\"question\":\"", "\"question\":\"Please: ", 1);
    }
    lines.truncate(59);
    lab.write("problems.jsonl", &lines.join("\n"));
    // What the file gives is not known before it is read.
    let plan = json(&lab, &["plan", "p.yaml"]);
    assert_eq!(of(&plan, "problems")["because"][0], "file of path changed");
    assert_eq!(of(&plan, "short")["state"]["depends_on"][0], "problems");
    lab.run("p.yaml", &["problems"]);
    let plan = json(&lab, &["plan", "p.yaml"]);
    let short = of(&plan, "short");
    assert_eq!(short["state"], serde_json::json!({ "partly": { "units": 3, "of": 59 } }), "{short}");
    assert_eq!(short["because"][0], "input rows (problems): 3 rows changed, 1 row removed");
    let text = lab.ok(&["plan", "p.yaml"]).stdout;
    assert!(text.contains("partly (3 of 59 units)"), "{text}");
    let finished = lab.run("p.yaml", &[]);
    let short = finished.iter().find(|event| event["event"] == "stage_finished" && event["stage"] == "short");
    assert_eq!(short.expect("it ran")["units_run"], 3);
}

#[test]
fn a_variant_that_never_ran_is_held_against_the_pipeline_as_written() {
    let lab = ran();
    let plan = json(&lab, &["plan", "p.yaml", "--variant", "ifs"]);
    let blocks = of(&plan, "blocks@ifs");
    assert_eq!(
        (&blocks["because"][0], &blocks["against"]),
        (&r#"kinds ["if","for"] -> ["if"]"#.into(), &"blocks".into())
    );
    let why = lab.ok(&["why", "p.yaml", "blocks", "--variant", "ifs", "--against", "default"]).stdout;
    assert_eq!(why, "blocks: kinds [\"if\",\"for\"] -> [\"if\"]\n");
    let why = lab.ok(&["why", "p.yaml", "verdicts", "--variant", "whole", "--against", "default"]).stdout;
    assert!(why.contains("programs: from {problems: short.rows} -> {problems: problems."), "{why}");
    assert!(why.contains("short: read in `default` and not here"), "{why}");
}

#[test]
fn why_names_the_cause_above_and_what_waits_below() {
    let lab = ran();
    let set = ["--set", "short.where=solution|length < 250"];
    let why = lab.ok(&["why", "p.yaml", "verdicts", set[0], set[1]]).stdout;
    assert!(why.starts_with("verdicts: depends on"), "{why}");
    assert!(
        why.contains(r#"because of short: run (where "solution|length < 300" -> "solution|length < 250")"#),
        "{why}"
    );
    let why = lab.ok(&["why", "p.yaml", "short", set[0], set[1]]).stdout;
    let below = why.lines().last().expect("it says what waits");
    assert!(["below it:", "blocks", "programs", "verdicts"].iter().all(|name| below.contains(name)), "{why}");
    let why = lab.ok(&["why", "p.yaml", "blocks"]).stdout;
    assert!(why.starts_with("blocks: cached\n  made by `blocks` on "), "{why}");
    assert_eq!(lab.ablate(&["why", "p.yaml", "block"]).code, 2);
}

#[test]
fn a_row_is_followed_up_and_down_and_to_where_it_is_dropped() {
    let lab = ran();
    let blocks = lab.ok(&["show", "p.yaml", "blocks", "--rows", "1", "--format", "json"]).stdout;
    let block: Value = serde_json::from_str(blocks.lines().next().expect("a block")).expect("JSON");
    let trace = json(&lab, &["why", "p.yaml", "--row", block["block_id"].as_str().expect("an id")]);
    let stages: Vec<&str> = trace.as_array().expect("a list").iter().filter_map(|t| t["stage"].as_str()).collect();
    assert_eq!(stages, ["problems", "short", "blocks"], "{trace}");
    assert_eq!(trace[0]["found"]["rows"][0][0], block["problem_id"]);

    let trace = json(&lab, &["why", "p.yaml", "--row", block["problem_id"].as_str().expect("an id")]);
    let verdict = trace.as_array().expect("a list").iter().find(|t| t["stage"] == "verdicts").expect("it was judged");
    assert_eq!(verdict["found"]["rows"][0][1]["verdict"], "passed");

    let long = lab.ok(&["show", "p.yaml", "short.dropped", "--rows", "1", "--format", "json"]).stdout;
    let long: Value = serde_json::from_str(long.lines().next().expect("some are longer")).expect("JSON");
    let trace = json(&lab, &["why", "p.yaml", "--row", long["unit_id"].as_str().expect("an id")]);
    let dropped = trace.as_array().expect("a list").last().expect("it is there");
    assert_eq!((&dropped["stage"], &dropped["port"]), (&"short".into(), &"dropped".into()), "{trace}");
    assert_eq!(lab.ablate(&["why", "p.yaml", "--row", "nobody"]).code, 2);
}

#[test]
fn the_timeline_shows_when_stages_worked() {
    let lab = ran();
    let drawn = lab.ok(&["logs", "p.yaml"]).stdout;
    assert!(drawn.lines().any(|line| line.starts_with("verdicts") && line.contains('=')), "{drawn}");
}
