//! Every message once, as a user sees it; and what resolving promises.

use super::resolve::{Resolution, resolve_text};
use super::testing::KINDS;
use super::variants::Choice;
use crate::plan::schema::{self, Checked};
use insta::assert_snapshot;
use proptest::prelude::*;
use std::path::Path;

/// A folder with the files that the pipelines below name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("problems.jsonl"), "").unwrap();
    std::fs::create_dir(dir.path().join("tiny")).unwrap();
    dir
}

fn resolution(dir: &Path, text: &str, sets: &[&str]) -> Resolution {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    resolve_text(&dir.join("p.yaml"), text, &sets, &Choice::all(), KINDS)
}

fn load(text: &str, sets: &[&str]) -> Result<Checked, super::Problems> {
    let dir = folder();
    schema::check(resolution(dir.path(), text, sets))
}

/// All problems as text, the folder's name left out.
fn problems_with(text: &str, sets: &[&str]) -> String {
    let dir = folder();
    let problems = match schema::check(resolution(dir.path(), text, sets)) {
        Ok(checked) => checked.problems,
        Err(problems) => problems,
    };
    problems.render(false).replace(&format!("{}/", dir.path().display()), "")
}

fn problems(text: &str) -> String {
    problems_with(text, &[])
}

/// A pipeline without mistakes, and one more stage.
fn with(line: &str) -> String {
    format!(
        "name: p
stages:
  base: {{ use: model, with: {{ path: tiny }} }}
  problems: {{ use: load, with: {{ path: problems.jsonl }} }}
  blocks: {{ use: segment, from: problems, with: {{ kinds: [if, for] }} }}
  middles: {{ use: fim-generate, from: {{ blocks: blocks, problems: problems, model: base }}, with: {{ samples: 2 }} }}
{line}
"
    )
}

#[test]
fn a_right_pipeline_has_no_problems() {
    let text = with("  aligned: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: 0.1 } }, learning_rate: 1e-6 } }
  after: { use: eval, from: { problems: problems, model: aligned } }
compare: { metric: after.pass@1 }");
    let checked = load(&text, &[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(checked.problems.list.is_empty(), "{}", checked.problems);
    let names: Vec<&str> = checked.cases[0].pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["after", "after/generate", "aligned", "base", "blocks", "middles", "problems"]);
    let after = checked.cases[0].pipeline.stage("after").unwrap();
    assert_eq!((after.kind, after.from["samples"].to_string().as_str()), ("score", "after/generate.samples"));
    let generate = checked.cases[0].pipeline.stage("after/generate").unwrap();
    assert_eq!(generate.from["model"].to_string(), "aligned.model");
    assert_eq!(generate.expanded_from.as_deref(), Some("after"));
    assert_eq!(checked.cases[0].pipeline.compare.as_ref().unwrap().metrics[0].output.to_string(), "after.metrics");
    let positions: Vec<&str> =
        checked.cases[0].order.iter().map(|&i| checked.cases[0].pipeline.stages[i].name.as_str()).collect();
    let position = |name| positions.iter().position(|&found| found == name).unwrap();
    assert!(position("problems") < position("blocks") && position("after/generate") < position("after"));
}

#[test]
fn paths_are_relative_to_the_file() {
    let dir = folder();
    let resolution = resolution(dir.path(), &with(""), &[]);
    let params = resolution.cases[0].pipeline.stage("problems").unwrap().bound.params();
    assert_eq!(params["path"]["$path"], dir.path().join("problems.jsonl").to_str().unwrap());
}

#[test]
fn vars_keep_their_types_and_can_be_set() {
    let text = "vars: { seed: 17, who: me, heat: 0.5 }
stages:
  base: { use: model, with: { path: tiny } }
  problems: { use: load, with: { path: problems.jsonl } }
  blocks: { use: segment, from: problems, with: { kinds: [if] } }
  middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { seed: \"${seed}\", temperature: \"${heat}\", system: \"$${x} ${who} ${seed}\" } }
";
    let with = |sets: &[&str]| {
        load(text, sets).unwrap_or_else(|p| panic!("{p}")).cases[0].pipeline.stage("middles").unwrap().with.clone()
    };
    assert_eq!(with(&[]), serde_json::json!({"seed": 17, "temperature": 0.5, "system": "${x} me 17"}));
    assert_eq!(
        with(&["seed=3", "who=you", "middles.samples=9"]),
        serde_json::json!({"seed": 3, "temperature": 0.5, "system": "${x} you 3", "samples": 9})
    );
}

#[test]
fn broken_yaml() {
    assert_snapshot!(problems("stages:\n  a: { use: load\n  b: 1\n"), @r#"
     × not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'
      ╭─[p.yaml:3:4]
    2 │   a: { use: load
    3 │   b: 1
      ·    ▲
      ╰────
    "#);
    assert_snapshot!(problems(""), @r#"
      × a pipeline file: expected a map with the key `stages`, found nothing
    "#);
    assert_snapshot!(problems("- a\n"), @r#"
     × a pipeline file: expected a map with the key `stages`, found a list
      ╭─[p.yaml:1:1]
    1 │ - a
      · ▲
      ╰────
    "#);
}

#[test]
fn unreadable_file() {
    let problems = super::resolve(Path::new("no-such-folder/p.yaml"), &[], &Choice::all()).problems;
    assert_snapshot!(problems.render(false), @r#"
      × the pipeline file cannot be read: no-such-folder/p.yaml: No such file or directory (os error 2)
    "#);
}

#[test]
fn two_stages_with_one_name() {
    assert_snapshot!(problems(&with("  base: { use: load, with: { path: problems.jsonl } }")), @r#"
     × the key `base` is written twice
      ╭─[p.yaml:7:3]
    2 │ stages:
    3 │   base: { use: model, with: { path: tiny } }
      ·   ──┬─
      ·     ╰── first here
    4 │   problems: { use: load, with: { path: problems.jsonl } }
    5 │   blocks: { use: segment, from: problems, with: { kinds: [if, for] } }
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   base: { use: load, with: { path: problems.jsonl } }
      ·   ────
      ╰────
    "#);
}

#[test]
fn unknown_keys_kinds_ports_and_parameters_are_all_reported_at_once() {
    let text = "nmae: p
vars: {}
stages:
  base: { use: modle, with: { path: tiny } }
  problems: { use: load, with: { paht: problems.jsonl } }
  Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
  middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
  lost: { from: problems }
";
    assert_snapshot!(problems(text), @r#"
     × unknown key `nmae`
      ╭─[p.yaml:1:1]
    1 │ nmae: p
      · ────
    2 │ vars: {}
      ╰────
     help: did you mean `name`?

     × unknown kind `modle`
      ╭─[p.yaml:4:16]
    3 │ stages:
    4 │   base: { use: modle, with: { path: tiny } }
      ·                ─────
    5 │   problems: { use: load, with: { paht: problems.jsonl } }
      ╰────
     help: did you mean `model`?

     × unknown parameter `paht` of `load`
      ╭─[p.yaml:5:34]
    4 │   base: { use: modle, with: { path: tiny } }
    5 │   problems: { use: load, with: { paht: problems.jsonl } }
      ·                                  ────
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
      ╰────
     help: did you mean `path`?

     × `Blocks` cannot be the name of a stage
      ╭─[p.yaml:6:3]
    5 │   problems: { use: load, with: { paht: problems.jsonl } }
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
      ·   ──────
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
      ╰────
     help: the name of a stage begins with a small letter and goes on with small letters, digits and `-`

     × unknown key `form` of stage `Blocks`
      ╭─[p.yaml:6:27]
    5 │   problems: { use: load, with: { paht: problems.jsonl } }
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
      ·                           ────
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
      ╰────
     help: did you mean `from`?

     × unknown choice `fro` for `kinds[1]` of `segment`
      ╭─[p.yaml:6:63]
    5 │   problems: { use: load, with: { paht: problems.jsonl } }
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
      ·                                                               ───
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
      ╰────
     help: did you mean `for`?

     × unknown input `block` of `fim-generate`
      ╭─[p.yaml:7:41]
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
      ·                                         ─────
    8 │   lost: { from: problems }
      ╰────
     help: did you mean `blocks`?

     × unknown stage `blocks`
      ╭─[p.yaml:7:48]
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
      ·                                                ──────
    8 │   lost: { from: problems }
      ╰────
     help: did you mean `Blocks`?

     × unknown stage `problem`
      ╭─[p.yaml:7:66]
    6 │   Blocks: { use: segment, form: problems, with: { kinds: [if, fro] } }
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
      ·                                                                  ───────
    8 │   lost: { from: problems }
      ╰────
     help: did you mean `problems`?

     × stage `lost` lacks the key `use`
      ╭─[p.yaml:8:3]
    7 │   middles: { use: fim-generate, from: { block: blocks, problems: problem.rowz, model: base } }
    8 │   lost: { from: problems }
      ·   ────
      ╰────
     help: use: the kind of stage; `ablate stages` lists them
    "#);
}

#[test]
fn unknown_outputs_and_inputs() {
    assert_snapshot!(problems(&with("  a: { use: filter, from: blocks.droped }
  b: { use: fim-generate, from: { blocks: blocks, problem: problems, model: base } }
  c: { use: load, from: problems, with: { path: problems.jsonl } }
  d: { use: filter, from: [problems] }
  e: { use: train, from: problems, with: { objective: { sft: {} } } }")), @r#"
     × unknown output `droped` of stage `blocks`
      ╭─[p.yaml:7:34]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: filter, from: blocks.droped }
      ·                                  ──────
    8 │   b: { use: fim-generate, from: { blocks: blocks, problem: problems, model: base } }
      ╰────
     help: did you mean `dropped`?

     × unknown input `problem` of `fim-generate`
      ╭─[p.yaml:8:51]
    7 │   a: { use: filter, from: blocks.droped }
    8 │   b: { use: fim-generate, from: { blocks: blocks, problem: problems, model: base } }
      ·                                                   ───────
    9 │   c: { use: load, from: problems, with: { path: problems.jsonl } }
      ╰────
     help: did you mean `problems`?

     × `load` has no inputs
       ╭─[p.yaml:9:25]
     8 │   b: { use: fim-generate, from: { blocks: blocks, problem: problems, model: base } }
     9 │   c: { use: load, from: problems, with: { path: problems.jsonl } }
       ·                         ────────
    10 │   d: { use: filter, from: [problems] }
       ╰────
     help: remove `from`

     × `from` of stage `d`: expected the name of a stage, or a map of inputs and stages, found a list
       ╭─[p.yaml:10:27]
     9 │   c: { use: load, from: problems, with: { path: problems.jsonl } }
    10 │   d: { use: filter, from: [problems] }
       ·                           ─
    11 │   e: { use: train, from: problems, with: { objective: { sft: {} } } }
       ╰────

     × `from` must say which input is which: `train` has the inputs `examples` and `model`
       ╭─[p.yaml:11:26]
    10 │   d: { use: filter, from: [problems] }
    11 │   e: { use: train, from: problems, with: { objective: { sft: {} } } }
       ·                          ────────
       ╰────
     help: write `from: { examples: <stage>, model: <stage> }`
    "#);
}

#[test]
fn wrong_values() {
    assert_snapshot!(problems(&with("  a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: many, temperature: [1], seed: x } }
  b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
  c: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: high, gamma: 1 } } } }
  d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
  e: { use: segment, from: problems, with: 7 }
  f: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 0 } }
  g: 5")), @r#"
     × `samples` of `fim-generate`: expected a whole number, found the text `many`
      ╭─[p.yaml:7:103]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: many, temperature: [1], seed: x } }
      ·                                                                                                       ────
    8 │   b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
      ╰────

     × `temperature` of `fim-generate`: expected a number, found a list
      ╭─[p.yaml:7:122]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: many, temperature: [1], seed: x } }
      ·                                                                                                                          ─
    8 │   b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
      ╰────

     × `seed` of `fim-generate`: expected a whole number or nothing, found the text `x`
      ╭─[p.yaml:7:133]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: many, temperature: [1], seed: x } }
      ·                                                                                                                                     ─
    8 │   b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
      ╰────

     × unknown choice `dop` for `objective` of `train`
      ╭─[p.yaml:8:83]
    7 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: many, temperature: [1], seed: x } }
    8 │   b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
      ·                                                                                   ───
    9 │   c: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: high, gamma: 1 } } } }
      ╰────
     help: did you mean `dpo`?

     × `objective.dpo.beta` of `train`: expected a number, found the text `high`
       ╭─[p.yaml:9:96]
     8 │   b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
     9 │   c: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: high, gamma: 1 } } } }
       ·                                                                                                ────
    10 │   d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
       ╰────

     × unknown parameter `gamma` in `objective.dpo` of `train`
       ╭─[p.yaml:9:102]
     8 │   b: { use: train, from: { examples: middles, model: base }, with: { objective: { dop: { beta: 0.1 } } } }
     9 │   c: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: high, gamma: 1 } } } }
       ·                                                                                                      ─────
    10 │   d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
       ╰────
     help: there is `beta`

     × `objective` of `train`: expected `sft: ..` or `dpo: ..`, found the number 3
       ╭─[p.yaml:10:81]
     9 │   c: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: high, gamma: 1 } } } }
    10 │   d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
       ·                                                                                 ─
    11 │   e: { use: segment, from: problems, with: 7 }
       ╰────

     × `learning_rate` of `train`: expected a number or nothing, found the text `fast`
       ╭─[p.yaml:10:99]
     9 │   c: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: high, gamma: 1 } } } }
    10 │   d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
       ·                                                                                                   ────
    11 │   e: { use: segment, from: problems, with: 7 }
       ╰────

     × `segment` lacks the parameter `kinds`
       ╭─[p.yaml:11:3]
    10 │   d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
    11 │   e: { use: segment, from: problems, with: 7 }
       ·   ─
    12 │   f: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 0 } }
       ╰────
     help: kinds: Kinds of blocks.

     × `with` of stage `e`: expected a map of parameters, found the number 7
       ╭─[p.yaml:11:44]
    10 │   d: { use: train, from: { examples: middles, model: base }, with: { objective: 3, learning_rate: fast } }
    11 │   e: { use: segment, from: problems, with: 7 }
       ·                                            ─
    12 │   f: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 0 } }
       ╰────

     × `samples` of `fim-generate`: expected at least 1, found the number 0
       ╭─[p.yaml:12:103]
    11 │   e: { use: segment, from: problems, with: 7 }
    12 │   f: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 0 } }
       ·                                                                                                       ─
    13 │   g: 5
       ╰────

     × stage `g`: expected a map with the key `use`, found the number 5
       ╭─[p.yaml:13:6]
    12 │   f: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 0 } }
    13 │   g: 5
       ·      ─
       ╰────
    "#);
}

#[test]
fn what_only_the_type_itself_refuses() {
    assert_snapshot!(problems(&with("  a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 5000000000 } }")), @r#"
     × `samples` of `fim-generate`: invalid value: integer `5000000000`, expected u32
      ╭─[p.yaml:7:103]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 5000000000 } }
      ·                                                                                                       ──────────
      ╰────
    "#);
}

#[test]
fn vars() {
    let text = format!("vars: {{ sed: 1, spare: 2, Bad: 3, list: [1], nested: '${{sed}}' }}\n{}", with("  a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { seed: '${seed}', system: 'x ${list} y' } }
  b: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { system: 'open ${sed' } }
  c: { use: load, with: { path: '${}' } }"));
    assert_snapshot!(problems(&text), @r#"
     ⚠ the var `sed` is not used
      ╭─[p.yaml:1:9]
    1 │ vars: { sed: 1, spare: 2, Bad: 3, list: [1], nested: '${sed}' }
      ·         ───
    2 │ name: p
      ╰────
     help: write `${sed}` where it is meant, or remove it

     ⚠ the var `spare` is not used
      ╭─[p.yaml:1:17]
    1 │ vars: { sed: 1, spare: 2, Bad: 3, list: [1], nested: '${sed}' }
      ·                 ─────
    2 │ name: p
      ╰────
     help: write `${spare}` where it is meant, or remove it

     × `Bad` cannot be the name of a var
      ╭─[p.yaml:1:27]
    1 │ vars: { sed: 1, spare: 2, Bad: 3, list: [1], nested: '${sed}' }
      ·                           ───
    2 │ name: p
      ╰────
     help: the name of a var begins with a small letter and goes on with small letters, digits and `_`

     ⚠ the var `nested` is not used
      ╭─[p.yaml:1:46]
    1 │ vars: { sed: 1, spare: 2, Bad: 3, list: [1], nested: '${sed}' }
      ·                                              ──────
    2 │ name: p
      ╰────
     help: write `${nested}` where it is meant, or remove it

     × the var `nested` refers to another var
      ╭─[p.yaml:1:54]
    1 │ vars: { sed: 1, spare: 2, Bad: 3, list: [1], nested: '${sed}' }
      ·                                                      ────────
    2 │ name: p
      ╰────
     help: a var holds a plain value

     × unknown var `seed`
      ╭─[p.yaml:8:101]
    7 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    8 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { seed: '${seed}', system: 'x ${list} y' } }
      ·                                                                                                     ───────
    9 │   b: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { system: 'open ${sed' } }
      ╰────
     help: did you mean `sed`?

     × the var `list` is a list, which cannot stand inside a text
      ╭─[p.yaml:8:122]
    7 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    8 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { seed: '${seed}', system: 'x ${list} y' } }
      ·                                                                                                                          ───────
    9 │   b: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { system: 'open ${sed' } }
      ╰────

     × `${sed` is no reference to a var
       ╭─[p.yaml:9:102]
     8 │   a: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { seed: '${seed}', system: 'x ${list} y' } }
     9 │   b: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { system: 'open ${sed' } }
       ·                                                                                                      ────────────
    10 │   c: { use: load, with: { path: '${}' } }
       ╰────
     help: write `${name}`, or `$${` for the characters themselves

     × `${}` is no reference to a var
       ╭─[p.yaml:10:33]
     9 │   b: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { system: 'open ${sed' } }
    10 │   c: { use: load, with: { path: '${}' } }
       ·                                 ─────
       ╰────
     help: write `${name}`, or `$${` for the characters themselves
    "#);
}

#[test]
fn cycles_are_named_as_a_path() {
    assert_snapshot!(problems("stages:
  a: { use: filter, from: c }
  b: { use: filter, from: a }
  c: { use: filter, from: b }
  d: { use: filter, from: d }
"), @r#"
     × stages wait for each other: a -> b -> c -> a
      ╭─[p.yaml:2:27]
    1 │ stages:
    2 │   a: { use: filter, from: c }
      ·                           ─
    3 │   b: { use: filter, from: a }
      ╰────

     × stages wait for each other: d -> d
      ╭─[p.yaml:5:27]
    4 │   c: { use: filter, from: b }
    5 │   d: { use: filter, from: d }
      ·                           ─
      ╰────
    "#);
}

#[test]
fn resources() {
    assert_snapshot!(problems(&with("  a: { use: filter, from: problems, resources: { cpu: 2, gpus: -1, memory: much, device: tpu } }")), @r#"
     × unknown resource `cpu` of stage `a`
      ╭─[p.yaml:7:50]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: filter, from: problems, resources: { cpu: 2, gpus: -1, memory: much, device: tpu } }
      ·                                                  ───
      ╰────
     help: did you mean `cpus`?

     × `gpus` in `resources` of stage `a`: expected a whole number from 0, found the number -1
      ╭─[p.yaml:7:64]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: filter, from: problems, resources: { cpu: 2, gpus: -1, memory: much, device: tpu } }
      ·                                                                ──
      ╰────

     × `memory` in `resources` of stage `a`: expected a size like `8 GiB`, found the text `much`
      ╭─[p.yaml:7:76]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: filter, from: problems, resources: { cpu: 2, gpus: -1, memory: much, device: tpu } }
      ·                                                                            ────
      ╰────

     × `device` in `resources` of stage `a`: expected `cpu`, `cuda` or `cuda:N`, found the text `tpu`
      ╭─[p.yaml:7:90]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: filter, from: problems, resources: { cpu: 2, gpus: -1, memory: much, device: tpu } }
      ·                                                                                          ───
      ╰────
    "#);
}

#[test]
fn sets() {
    assert_snapshot!(problems_with(&with(""), &["middels.samples=3", "middles.sample=3", "middles.samples=three", "seed=1", "nothing"]), @r#"
     × unknown stage `middels`
      ╭─[--set:1:1]
    1 │ middels.samples=3
      · ───────
      ╰────
     help: did you mean `middles`?

     × unknown parameter `sample` of `fim-generate`
      ╭─[--set:1:9]
    1 │ middles.sample=3
      ·         ──────
      ╰────
     help: did you mean `samples`?

     × `samples` of `fim-generate`: expected a whole number, found the text `three`
      ╭─[--set:1:17]
    1 │ middles.samples=three
      ·                 ─────
      ╰────

     × unknown var `seed`
      ╭─[--set:1:1]
    1 │ seed=1
      · ────
      ╰────
     help: there is no var here

     × `--set nothing` has no `=`
      ╭─[--set:1:1]
    1 │ nothing
      · ───────
      ╰────
     help: write `--set stage.parameter=value` or `--set var=value`
    "#);
}

#[test]
fn compare() {
    assert_snapshot!(problems(&with("  after: { use: eval, from: { problems: problems, model: base } }
compare: { metric: aftre.pass@1, baseline: middles.pass@1 }")), @r#"
     × unknown stage `aftre`
      ╭─[p.yaml:8:20]
    7 │   after: { use: eval, from: { problems: problems, model: base } }
    8 │ compare: { metric: aftre.pass@1, baseline: middles.pass@1 }
      ·                    ─────
      ╰────
     help: did you mean `after`?

     × `middles` has no metrics to compare: `fim-generate` writes `samples` and `dropped`
      ╭─[p.yaml:8:44]
    7 │   after: { use: eval, from: { problems: problems, model: base } }
    8 │ compare: { metric: aftre.pass@1, baseline: middles.pass@1 }
      ·                                            ──────────────
      ╰────
     help: compare what a stage of kind `eval` or `score` measured
    "#);
    assert_snapshot!(problems(&with("compare: { metric: middles, base: 3 }")), @r#"
     × `middles` names no metric
      ╭─[p.yaml:7:20]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │ compare: { metric: middles, base: 3 }
      ·                    ───────
      ╰────
     help: write `stage.metric`, like `after.pass@1`

     × unknown key `base` in `compare`
      ╭─[p.yaml:7:29]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │ compare: { metric: middles, base: 3 }
      ·                             ────
      ╰────
     help: did you mean `baseline`?
    "#);
}

#[test]
fn files_that_are_not_there() {
    assert_snapshot!(problems("stages:
  problems: { use: load, with: { path: problms.jsonl } }
  base: { use: model, with: { path: ../large } }
"), @r#"
     × `path` of `load`: there is no file `problms.jsonl`
      ╭─[p.yaml:2:40]
    1 │ stages:
    2 │   problems: { use: load, with: { path: problms.jsonl } }
      ·                                        ─────────────
    3 │   base: { use: model, with: { path: ../large } }
      ╰────
     help: paths are relative to the pipeline file

     ☞ `path` of `model`: there is no folder `../large` on this machine
      ╭─[p.yaml:3:37]
    2 │   problems: { use: load, with: { path: problms.jsonl } }
    3 │   base: { use: model, with: { path: ../large } }
      ·                                     ────────
      ╰────
     help: paths are relative to the pipeline file; the rest of the pipeline is checked without it
    "#);
}

#[test]
fn columns() {
    assert_snapshot!(problems(&with("  a: { use: segment, from: blocks, with: { kinds: [if] } }
  b: { use: eval, from: { problems: base, model: problems } }
  c: { use: filter, from: blocks, with: { column: prefx } }
  d: { use: segment, from: a, with: { kinds: [if] } }")), @r#"
     × stage `a` needs the columns `question` (text), `solutions` (list of text), `tests` (struct of style,
     │ cases, code, setup), `source` (text) in `problems`, which `blocks.blocks` does not have
      ╭─[p.yaml:7:28]
    6 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2 } }
    7 │   a: { use: segment, from: blocks, with: { kinds: [if] } }
      ·                            ──────
    8 │   b: { use: eval, from: { problems: base, model: problems } }
      ╰────
     help: `blocks.blocks` is made by `segment` and has the columns `block_id`, `problem_id`, `kind`, `depth`,
           `start_byte`, `end_byte`, `num_lines`, `prefix`, `middle` and `suffix`

     × stage `b/generate` needs a table at `problems`, but `base.model` is a model
      ╭─[p.yaml:8:37]
    7 │   a: { use: segment, from: blocks, with: { kinds: [if] } }
    8 │   b: { use: eval, from: { problems: base, model: problems } }
      ·                                     ────
    9 │   c: { use: filter, from: blocks, with: { column: prefx } }
      ╰────

     × stage `b/generate` needs a model at `model`, but `problems.rows` is a table
      ╭─[p.yaml:8:50]
    7 │   a: { use: segment, from: blocks, with: { kinds: [if] } }
    8 │   b: { use: eval, from: { problems: base, model: problems } }
      ·                                                  ────────
    9 │   c: { use: filter, from: blocks, with: { column: prefx } }
      ╰────

     × stage `c`: the table has no column `prefx`
       ╭─[p.yaml:9:51]
     8 │   b: { use: eval, from: { problems: base, model: problems } }
     9 │   c: { use: filter, from: blocks, with: { column: prefx } }
       ·                                                   ─────
    10 │   d: { use: segment, from: a, with: { kinds: [if] } }
       ╰────
    "#);
}

#[test]
fn programs_read_problems_with_their_places() {
    let problems = load(&with("  a: { use: fliter, from: problems }"), &[]).err().unwrap();
    let record = &problems.records()[0];
    assert_eq!((record.line, record.column, record.text.as_str(), record.code), (7, 13, "fliter", "unknown-name"));
    assert_eq!(record.help.as_deref(), Some("did you mean `filter`?"));
}

proptest! {
    #[test]
    fn the_order_of_stages_changes_nothing(order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle()) {
        let stages = [
            "  base: { use: model, with: { path: tiny } }",
            "  problems: { use: load, with: { path: problems.jsonl } }",
            "  blocks: { use: segment, from: problems, with: { kinds: [if, for] } }",
            "  middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base } }",
            "  aligned: { use: train, from: { examples: middles, model: base }, with: { objective: { sft: {} } } }",
            "  after: { use: eval, from: { problems: problems, model: aligned } }",
        ];
        let resolved = |order: &[usize]| {
            let lines: Vec<&str> = order.iter().map(|&index| stages[index]).collect();
            let dir = folder();
            let resolution = resolution(dir.path(), &format!("stages:\n{}\n", lines.join("\n")), &[]);
            prop_assert!(resolution.problems.list.is_empty(), "{}", resolution.problems);
            Ok(resolution.cases[0].pipeline.stages.iter().map(|s| (s.name.clone(), s.kind, s.with.clone(), s.from.clone())).collect::<Vec<_>>())
        };
        prop_assert_eq!(resolved(&order)?, resolved(&[0, 1, 2, 3, 4, 5])?);
    }
}
