//! Reuse by the unit: after every sort of edit each map stage does exactly the units concerned, and the result is that of a run from
//! nothing, digest for digest.
//!
//! `bench/reuse/` is this test with more problems: `ABLATE_REUSE_PROBLEMS` says how many, `ABLATE_REUSE_RESULT` where the table goes.

use crate::lab::{Lab, events};
use ablate::cache::{Cache, Digest};
use ablate::pipeline::Choice;
use ablate::plan::schema::load;
use ablate::run::planner::Planned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PIPELINE: &str = r"
name: reuse
stages:
  problems:  { use: load, with: { path: problems.jsonl } }
  samples:   { use: load, from: { problems: problems }, with: { path: samples.jsonl, format: samples } }
  clean:     { use: filter, from: problems, with: { where: 'solution|length > 0' } }
  blocks:    { use: segment, from: clean }
  programs:  { use: references, from: clean }
  documents: { use: documents, from: clean }
  verdicts:  { use: execute, from: { programs: samples, problems: clean }, with: { cpu_limit_s: 1 } }
  pairs:     { use: pair, from: { samples: samples, verdicts: verdicts, problems: clean }, with: { rejected_when: any_failure } }
";

const WITH_MODEL: &str = r"
  base:      { use: model, with: { path: ../examples/models/tiny } }
  middles:   { use: fim-generate, from: { blocks: blocks, problems: clean, model: base }, with: { samples: 1, max_tokens: 16 } }
  answers:   { use: generate, from: { problems: clean, model: base }, with: { max_tokens: 16 } }
  scored:    { use: reference, from: { examples: pairs, model: base }, with: { max_tokens: 512 } }
";

/// Problems and two samples of each, one right and one wrong, as they stand in their files.
#[derive(Clone)]
struct Data {
    problems: Vec<Value>,
    samples: Vec<Value>,
}

impl Data {
    fn made(lab: &Lab, count: usize) -> Self {
        let make = format!(
            "name: make\nstages: {{ made: {{ use: synthesize, with: {{ split: base, count: {count}, seed: 5 }} }} }}\n"
        );
        lab.write("make.yaml", &make);
        lab.run("make.yaml", &[]);
        let _ = std::fs::remove_file(lab.path("made.jsonl"));
        lab.ok(&["export", "make.yaml", "made", "made.jsonl"]);
        let text = std::fs::read_to_string(lab.path("made.jsonl")).expect("exported above");
        let mut data = Self { problems: Vec::new(), samples: Vec::new() };
        text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).for_each(|problem| data.add(problem));
        data
    }

    fn add(&mut self, problem: Value) {
        let id = problem["problem_id"].clone();
        let right = problem["solutions"][0].clone();
        let wrong = "def solve(*given):\n    return object\n";
        self.samples.push(json!({ "task_id": id, "solution": right }));
        self.samples.push(json!({ "task_id": id, "solution": wrong }));
        self.problems.push(problem);
    }

    fn write(&self, lab: &Lab) {
        let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
        lab.write("problems.jsonl", &lines(&self.problems));
        lab.write("samples.jsonl", &lines(&self.samples));
    }

    fn ask_otherwise(&mut self, count: usize) {
        for problem in &mut self.problems[..count] {
            problem["question"] = format!("Please: {}", problem["question"].as_str().expect("a question")).into();
        }
    }
}

/// How many units each stage worked on.
type Units = BTreeMap<String, u64>;

fn units_run(events: &[Value]) -> Units {
    let of = |event: &Value| Some((event["stage"].as_str()?.to_owned(), event["units_run"].as_u64()?));
    events.iter().filter(|event| event["event"] == "stage_finished").filter_map(of).filter(|(_, n)| *n > 0).collect()
}

fn units(expected: &[(&str, usize)]) -> Units {
    expected.iter().filter(|(_, n)| *n > 0).map(|(stage, n)| ((*stage).to_owned(), *n as u64)).collect()
}

/// The content digests of all outputs, from a cache.
fn digests(lab: &Lab, cache: &str) -> BTreeMap<String, Digest> {
    let checked =
        load(&lab.path("reuse.yaml"), &[], &Choice::default()).unwrap_or_else(|problems| panic!("{problems}"));
    let cache = Cache::open(lab.path(cache)).expect("a folder of the lab");
    let planned = Planned::new(checked, &cache, None).expect("the files can be read");
    let records = planned.lookup(&cache).expect("the cache can be read");
    let outputs = planned.steps.iter().zip(&records).flat_map(|(step, record)| {
        let record = record.as_ref().unwrap_or_else(|| panic!("`{}` is done", step.name));
        record.outputs.iter().map(|(port, output)| (format!("{}.{port}", step.name), output.content()))
    });
    outputs.collect()
}

fn run_in(lab: &Lab, cache: &str) -> Vec<Value> {
    let mut command = lab.command(&["run", "reuse.yaml", "--format", "json"]);
    let ran = crate::lab::ran(&command.env("ABLATE_CACHE", lab.path(cache)).output().expect("the command starts"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    events(&ran.stdout)
}

/// Runs after an edit, holds it against a run from nothing, and returns the units that were done.
fn after(lab: &Lab, data: &Data, edit: &str) -> Units {
    data.write(lab);
    let done = units_run(&run_in(lab, "cache"));
    let cold = "cold";
    let _ = std::fs::remove_dir_all(lab.path(cold));
    run_in(lab, cold);
    assert_eq!(digests(lab, "cache"), digests(lab, cold), "{edit}: as a run from nothing");
    done
}

#[test]
fn every_edit_costs_the_units_concerned_and_gives_what_a_run_from_nothing_gives() {
    let count: usize = std::env::var("ABLATE_REUSE_PROBLEMS").map_or(60, |count| count.parse().expect("a number"));
    let share = count.div_ceil(100);
    let lab = Lab::in_memory();
    let made = Data::made(&lab, 2 * count);
    let mut base = Data { problems: Vec::new(), samples: Vec::new() };
    made.problems[..count].iter().cloned().for_each(|problem| base.add(problem));
    lab.write("reuse.yaml", PIPELINE);
    let mut table: Vec<(&str, Units)> = Vec::new();
    let all = after(&lab, &base, "nothing yet");
    let of_all = |n: usize| {
        units(&[("clean", n), ("blocks", n), ("programs", n), ("documents", n), ("verdicts", 2 * n), ("pairs", n)])
    };
    assert_eq!(all, of_all(count));
    table.push(("from nothing", all));
    // What reads the question: all columns (`clean`), or a prompt (`documents`, `pairs`).
    let asked = |n: usize| units(&[("clean", n), ("documents", n), ("pairs", n)]);
    let mut check = |edit: &'static str, data: &Data, expected: Units| {
        let done = after(&lab, data, edit);
        assert_eq!(done, expected, "{edit}");
        // Back to where it was costs nothing.
        base.write(&lab);
        assert_eq!(units_run(&run_in(&lab, "cache")), Units::new(), "{edit}, taken back");
        table.push((edit, done));
    };

    let mut data = base.clone();
    data.ask_otherwise(1);
    check("one problem's text edited", &data, asked(1));

    let mut data = base.clone();
    // The first is known from above.
    data.ask_otherwise(share + 1);
    check("1 % of the texts edited", &data, asked(share));

    let mut data = base.clone();
    made.problems[count..count + share].iter().cloned().for_each(|problem| data.add(problem));
    check("1 % added", &data, of_all(share));

    let mut data = base.clone();
    data.problems.truncate(count - share);
    data.samples.truncate(2 * (count - share));
    check("1 % deleted", &data, Units::new());

    let mut data = base.clone();
    data.problems.reverse();
    data.samples.rotate_left(2 * share);
    check("the files shuffled", &data, Units::new());

    let mut data = base.clone();
    let cases = data.problems[3]["tests"]["cases"].as_array_mut().expect("cases");
    cases.pop();
    // Prompts say no more of the tests than how a program is run, so that neither documents nor pairs are made anew.
    check("one problem's tests changed", &data, units(&[("clean", 1), ("verdicts", 2)]));

    let mut data = base.clone();
    for problem in &mut data.problems {
        problem["reviewed_by"] = "nobody".into();
    }
    check("a column added that nobody reads", &data, Units::new());

    let mut data = base.clone();
    made.problems[count..].iter().cloned().for_each(|problem| data.add(problem));
    let rest = count - share;
    check("the table doubled", &data, of_all(rest));

    if let Ok(path) = std::env::var("ABLATE_REUSE_RESULT") {
        let rows: Vec<Value> = table.iter().map(|(edit, units)| json!({ "edit": edit, "units": units })).collect();
        let result = json!({ "problems": count, "edits": rows });
        std::fs::write(&path, format!("{result:#}\n")).expect("the result can be written");
    }
}

#[test]
fn what_a_model_writes_is_reused_by_the_unit_too() {
    let lab = Lab::new();
    let mut data = Data::made(&lab, 12);
    lab.write("reuse.yaml", &format!("{PIPELINE}{WITH_MODEL}"));
    data.write(&lab);
    let cold = units_run(&run_in(&lab, "cache"));
    assert!(["middles", "answers", "scored"].iter().all(|stage| cold[*stage] >= 12), "{cold:?}");
    let num_blocks = lab.rows("reuse.yaml", "blocks").len() as u64;
    assert_eq!((cold["middles"], cold["answers"], cold["scored"]), (num_blocks, 12, 12));

    data.problems.rotate_left(5);
    data.samples.rotate_left(4);
    assert_eq!(after(&lab, &data, "shuffled"), Units::new());

    let id = data.problems[0]["problem_id"].as_str().expect("an id").to_owned();
    data.ask_otherwise(1);
    let done = after(&lab, &data, "one text edited");
    let blocks = lab.ok(&["show", "reuse.yaml", "blocks", "--rows", "9999", "--format", "json"]).stdout;
    let of_problem = blocks.lines().filter(|line| line.contains(&format!("\"{id}\""))).count() as u64;
    assert_eq!((done["middles"], done["answers"], done["scored"]), (of_problem, 1, 1), "{done:?}");
}
