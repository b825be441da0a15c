//! Variants, seeds, sweeps and files that extend others: what they come to, and every mistake in them.

use super::resolve::{Case, Resolution, resolve_text};
use super::testing::KINDS;
use super::variants::Choice;
use crate::plan::schema::{self, Checked};
use insta::assert_snapshot;
use std::path::Path;

const BASE: &str = "name: p
vars: { heat: 0.5, train_seed: 17, folder: . }
stages:
  base: { use: model, with: { path: \"${folder}/tiny\" } }
  problems: { use: load, with: { path: problems.jsonl } }
  blocks: { use: segment, from: problems, with: { kinds: [if, for] } }
  middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { temperature: \"${heat}\" } }
  aligned: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: 0.1 } }, learning_rate: \"${train_seed}\" } }
  after: { use: eval, from: { problems: problems, model: aligned } }
compare: { metric: after.pass@1 }
";

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("problems.jsonl"), "").unwrap();
    std::fs::create_dir(dir.path().join("tiny")).unwrap();
    dir
}

fn resolved(dir: &Path, text: &str, sets: &[&str], choice: &Choice) -> Resolution {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    resolve_text(&dir.join("p.yaml"), text, &sets, choice, KINDS)
}

fn checked_with(more: &str, sets: &[&str], choice: &Choice) -> Checked {
    let dir = folder();
    let resolution = resolved(dir.path(), &format!("{BASE}{more}"), sets, choice);
    schema::check(resolution).unwrap_or_else(|problems| panic!("{problems}"))
}

fn checked(more: &str) -> Checked {
    checked_with(more, &[], &Choice::all())
}

fn cases(checked: &Checked) -> Vec<String> {
    let name = |case: &schema::CheckedCase| {
        let seeds: Vec<String> = case.seeds.iter().map(|(var, value)| format!(" {var}={value}")).collect();
        format!("{}{}", case.variant.as_deref().unwrap_or("default"), seeds.concat())
    };
    checked.cases.iter().map(name).collect()
}

fn problems_with(text: &str, choice: &Choice) -> String {
    let dir = folder();
    let problems = match schema::check(resolved(dir.path(), text, &[], choice)) {
        Ok(checked) => checked.problems,
        Err(problems) => problems,
    };
    problems.render(false).replace(&format!("{}/", dir.path().display()), "")
}

fn problems(more: &str) -> String {
    problems_with(&format!("{BASE}{more}"), &Choice::all())
}

#[test]
fn a_variant_sets_parameters_and_vars_and_changes_adds_and_drops_stages() {
    let checked = checked(
        "variants:
  hot: { heat: 0.9, middles.samples: 7 }
  sft: { aligned: { with: { objective: { sft: {} } } } }
  whole: { blocks: null, middles: { use: generate, from: { problems: problems, model: base } } }
  twice: { again: { use: train, from: { examples: middles, model: aligned }, with: { objective: { sft: {} } } }, after: { from: { model: again } } }
",
    );
    assert_eq!(cases(&checked), ["default", "hot", "sft", "whole", "twice"]);
    let with = |case: usize, stage: &str| checked.cases[case].pipeline.stage(stage).unwrap().with.to_string();
    assert_eq!(with(0, "middles"), r#"{"temperature":0.5}"#);
    assert_eq!(with(1, "middles"), r#"{"samples":7,"temperature":0.9}"#);
    // A parameter is replaced as a whole: `objective` has one tag, not two.
    assert_eq!(with(2, "aligned"), r#"{"learning_rate":17,"objective":{"sft":{}}}"#);
    assert!(checked.cases[3].pipeline.stage("blocks").is_none());
    assert_eq!(checked.cases[3].pipeline.stage("middles").unwrap().kind, "generate");
    let generate = checked.cases[4].pipeline.stage("after/generate").unwrap();
    assert_eq!(
        (generate.from["model"].stage.as_str(), generate.from["problems"].stage.as_str()),
        ("again", "problems")
    );
}

#[test]
fn every_variant_takes_every_seed_unless_it_sets_one() {
    let checked =
        checked("seeds: { train_seed: [17, 18, 19] }\nvariants: { hot: { heat: 0.9 }, fixed: { train_seed: 5 } }\n");
    let names = ["default", "hot"].iter().flat_map(|v| (17..20).map(move |seed| format!("{v} train_seed={seed}")));
    assert_eq!(cases(&checked), names.chain(["fixed".to_owned()]).collect::<Vec<_>>());
    let rate = |case: usize| checked.cases[case].pipeline.stage("aligned").unwrap().with["learning_rate"].clone();
    assert_eq!((rate(1), rate(6)), (18.into(), 5.into()));
    assert_eq!(
        cases(&checked_with("seeds: { train_seed: [17, 18] }\n", &["train_seed=4"], &Choice::all())),
        ["default"]
    );
}

#[test]
fn only_what_is_asked_for_is_resolved_and_the_pipeline_as_written() {
    let more = "variants: { hot: { heat: 0.9 }, cold: { heat: 0.1 } }\n";
    let asked = |variants: &[&str]| {
        let choice = Choice { variants: variants.iter().map(|&name| name.to_owned()).collect(), all: false };
        let checked = checked_with(more, &[], &choice);
        let asked: Vec<bool> = checked.cases.iter().map(|case| case.is_asked).collect();
        (cases(&checked).join(" "), asked)
    };
    assert_eq!(asked(&[]), ("default".to_owned(), vec![true]));
    assert_eq!(asked(&["cold"]), ("default cold".to_owned(), vec![false, true]));
    assert_eq!(asked(&["cold", "default"]), ("default cold".to_owned(), vec![true, true]));
}

#[test]
fn a_sweep_is_a_product_with_points_left_out_and_put_in() {
    let checked = checked(
        "sweep:
  heat: [0.1, 0.9]
  middles.samples: [1, 2]
  exclude: [{ heat: 0.9, middles.samples: 2 }]
  include: [{ heat: 0.3, middles.samples: 9 }]
",
    );
    let names = ["heat=0.1,middles.samples=1", "heat=0.1,middles.samples=2", "heat=0.9,middles.samples=1"];
    assert_eq!(cases(&checked)[..4], ["default", names[0], names[1], names[2]]);
    assert_eq!(cases(&checked)[4..], ["heat=0.3,middles.samples=9"]);
    let middles = checked.cases[3].pipeline.stage("middles").unwrap();
    assert_eq!(middles.with.to_string(), r#"{"samples":1,"temperature":0.9}"#);
}

#[test]
fn points_of_a_sweep_are_compared_as_numbers_and_what_excludes_nothing_is_told() {
    let one = "sweep:\n  heat: [0.5, 1.0]\n  middles.samples: [1, 2]\n  exclude: [{ heat: 1 }]\n";
    assert_eq!(cases(&checked(one)).len(), 3);
    let text = problems("sweep:\n  heat: [0.1, 0.9]\n  exclude: [{ heat: 0.2 }, 7]\n  include: [heat]\n");
    for expected in [
        "`exclude` of `sweep`: no combination has these values",
        "a point in `exclude` of `sweep`: expected a map",
        "a point in `include` of `sweep`: expected a map",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_product_that_nobody_could_count_is_refused() {
    let values = vec!["0"; 1000].join(", ");
    let axes: String = (0..20).map(|i| format!("  middles.samples{i}: [{values}]\n")).collect();
    let text = problems(&format!("sweep:\n{axes}"));
    assert!(text.contains("products in `sweep`: at most 10000 are run"), "{text}");
}

#[test]
fn a_file_extends_another_and_paths_are_relative_to_where_they_are_written() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    std::fs::write(dir.path().join("base.yaml"), BASE).unwrap();
    std::fs::write(dir.path().join("mine/own.jsonl"), "").unwrap();
    let path = dir.path().join("mine/p.yaml");
    let text = "extends: ../base.yaml
name: mine
vars: { heat: 0.25, folder: .. }
stages:
  after: null
  middles: { with: { samples: 3 } }
  more: { use: load, with: { path: own.jsonl } }
compare: { metric: more-after.pass@1 }
variants: { own: { more-after: { from: { problems: problems } } } }
";
    let text =
        text.replace("compare", "  more-after: { use: eval, from: { problems: more, model: aligned } }\ncompare");
    let resolution = resolve_text(&path, &text, &[], &Choice::all(), KINDS);
    let checked = schema::check(resolution).unwrap_or_else(|problems| panic!("{problems}"));
    let pipeline = &checked.cases[0].pipeline;
    assert_eq!(pipeline.name, "mine");
    assert!(pipeline.stage("after").is_none());
    let unnamed = resolve_text(&path, &text.replace("name: mine\n", ""), &[], &Choice::all(), KINDS);
    assert_eq!(unnamed.cases[0].pipeline.name, "p", "by its name its runs are known");
    assert_eq!(pipeline.stage("middles").unwrap().with.to_string(), r#"{"samples":3,"temperature":0.25}"#);
    let path = |stage: &str| pipeline.stage(stage).unwrap().bound.params().to_string();
    assert!(path("problems").contains("mine/../problems.jsonl"), "{}", path("problems"));
    assert!(path("more").contains("mine/own.jsonl"), "{}", path("more"));
    // The var is the child's, so its folder is.
    assert!(path("base").contains("mine/../tiny"), "{}", path("base"));
    let own = checked.cases[1].pipeline.stage("more-after/generate").unwrap();
    assert_eq!(own.from["problems"].stage, "problems");
}

#[test]
fn files_that_extend_each_other_are_named() {
    let dir = folder();
    std::fs::write(dir.path().join("p.yaml"), "extends: q.yaml\n").unwrap();
    std::fs::write(dir.path().join("q.yaml"), "extends: p.yaml\nstages: {}\n").unwrap();
    let Resolution { problems, .. } = resolved(dir.path(), "extends: q.yaml\n", &[], &Choice::all());
    let text = problems.render(false);
    assert!(text.contains("files extend each other: p.yaml -> q.yaml -> p.yaml"), "{text}");
    let Resolution { problems, .. } = resolved(dir.path(), "extends: none.yaml\n", &[], &Choice::all());
    assert!(problems.render(false).contains("none.yaml: No such file"), "{problems}");
}

#[test]
fn every_mistake_in_a_variant_is_told_with_its_place() {
    assert_snapshot!(problems("variants:
  hot: { haet: 0.9, midles.samples: 7 }
  gone: { nothing: null }
  typo: { middles.sample: 7 }
  dangling: { blocks: null }
  default: {}
  odd: 3
seeds: { trian_seed: [1], heat: 3 }
"), @r#"
     × in variant `dangling`: unknown stage `blocks`
      ╭─[p.yaml:7:49]
    6 │   blocks: { use: segment, from: problems, with: { kinds: [if, for] } }
    7 │   middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { temperature: "${heat}" } }
      ·                                                 ──────
    8 │   aligned: { use: train, from: { examples: middles, model: base }, with: { objective: { dpo: { beta: 0.1 } }, learning_rate: "${train_seed}" } }
      ╰────
     help: there are `after`, `after/generate`, `aligned`, `base`, `middles` and `problems`

     × unknown var `haet`
       ╭─[p.yaml:12:10]
    11 │ variants:
    12 │   hot: { haet: 0.9, midles.samples: 7 }
       ·          ────
    13 │   gone: { nothing: null }
       ╰────
     help: did you mean `heat`?

     × unknown stage `midles`
       ╭─[p.yaml:12:21]
    11 │ variants:
    12 │   hot: { haet: 0.9, midles.samples: 7 }
       ·                     ──────
    13 │   gone: { nothing: null }
       ╰────
     help: did you mean `middles`?

     × unknown stage `nothing`
       ╭─[p.yaml:13:11]
    12 │   hot: { haet: 0.9, midles.samples: 7 }
    13 │   gone: { nothing: null }
       ·           ───────
    14 │   typo: { middles.sample: 7 }
       ╰────
     help: there are `base`, `problems`, `blocks`, `middles`, `aligned` and `after`

     × in variant `typo`: unknown parameter `sample` of `fim-generate`
       ╭─[p.yaml:14:19]
    13 │   gone: { nothing: null }
    14 │   typo: { middles.sample: 7 }
       ·                   ──────
    15 │   dangling: { blocks: null }
       ╰────
     help: did you mean `samples`?

     × `default` cannot be the name of a variant
       ╭─[p.yaml:16:3]
    15 │   dangling: { blocks: null }
    16 │   default: {}
       ·   ───────
    17 │   odd: 3
       ╰────
     help: the name of a variant begins with a small letter and goes on with small letters, digits and `-`, `_`
           and `.`; `default` is the pipeline as written

     × variant `odd`: expected a map like `{ stage.parameter: value }`, found the number 3
       ╭─[p.yaml:17:8]
    16 │   default: {}
    17 │   odd: 3
       ·        ─
    18 │ seeds: { trian_seed: [1], heat: 3 }
       ╰────

     × unknown var `trian_seed`
       ╭─[p.yaml:18:10]
    17 │   odd: 3
    18 │ seeds: { trian_seed: [1], heat: 3 }
       ·          ──────────
       ╰────
     help: did you mean `train_seed`?

     × `heat` of `seeds`: expected a list of plain values like `[17, 18, 19]`, found the number 3
       ╭─[p.yaml:18:33]
    17 │   odd: 3
    18 │ seeds: { trian_seed: [1], heat: 3 }
       ·                                 ─
       ╰────
    "#);
}

#[test]
fn a_sweep_of_a_million_products_is_refused_with_the_count() {
    let axis = (0..100).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    let sweep = format!("sweep: {{ heat: [{axis}], middles.samples: [{axis}], aligned.learning_rate: [{axis}] }}\n");
    let text = problems(&sweep);
    assert!(text.contains("1000000 products in `sweep`: at most 10000 are run"), "{text}");
}

#[test]
fn an_unknown_variant_is_told_with_the_nearest() {
    let choice = Choice { variants: vec!["hto".into()], all: false };
    let text = problems_with(&format!("{BASE}variants: {{ hot: {{ heat: 0.9 }} }}\n"), &choice);
    assert!(text.contains("unknown variant `hto`") && text.contains("did you mean `hot`?"), "{text}");
}

#[test]
fn what_only_some_variants_have_can_be_set() {
    let more = "variants: { twice: { again: { use: train, from: { examples: middles, model: aligned }, with: { objective: { sft: {} } } } } }\n";
    let checked = checked_with(more, &["again.learning_rate=0.5"], &Choice::all());
    let again = checked.cases[1].pipeline.stage("again").unwrap();
    assert_eq!(again.with["learning_rate"], 0.5);
    let Resolution { problems, cases } =
        resolved(folder().path(), &format!("{BASE}{more}"), &["agian.learning_rate=1"], &Choice::all());
    assert!(problems.render(false).contains("unknown stage `agian`"), "{problems}");
    assert_eq!(cases.iter().filter(|case: &&Case| case.variant.is_some()).count(), 1);
}

#[test]
fn what_suits_only_the_variant_that_is_asked_for_can_be_set() {
    let more = "variants: { short: { middles: { use: take, from: blocks, with: { count: 9 } } } }\n";
    let short = Choice { variants: vec!["short".into()], all: false };
    // `middles` of the pipeline as written has no `count`.
    let dir = folder();
    let text = format!("{BASE}{more}")
        .replace("use: take", "use: segment")
        .replace("from: blocks, with: { count: 9 }", "from: problems");
    let resolution = resolved(dir.path(), &text, &["middles.kinds=[if]"], &short);
    let asked: Vec<bool> = resolution.cases.iter().map(|case| case.is_asked).collect();
    assert_eq!(asked, [true], "{}", resolution.problems);
    let all = resolved(dir.path(), &text, &["middles.kinds=[if]"], &Choice::all());
    assert!(all.problems.render(false).contains("unknown parameter `kinds` of `fim-generate`"), "{}", all.problems);
}
