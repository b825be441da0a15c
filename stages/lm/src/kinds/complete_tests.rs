//! `fim-generate` and `generate` as a worker runs them, on random weights.

use std::collections::BTreeMap;
use std::path::Path;

use ablate_stages::code::prompts::{Asked, AskedTests};
use ablate_stages::code::request::BlockToFill;
use ablate_stages::columns::{Sample, TestStyle, columns_of};
use ablate_stages::job::{
    Cancel, Device, FinishedBatch, Job, LookupTable, OpenContext, TableStream, UnitAnswer, UnitBatch, WholeInputs,
    WholeOutputs, WholeSink, run_map,
};
use ablate_stages::stage::StageError;
use arrow::array::RecordBatch;
use serde_json::{Value, json};
use tch::Kind;

use super::open;
use crate::testing;

/// Keeps the one table that is written to it.
struct Kept(Vec<RecordBatch>);

impl WholeSink for Kept {
    fn rows(&mut self, _port: &str, rows: RecordBatch) -> Result<(), StageError> {
        self.0.push(rows);
        Ok(())
    }
    fn folder(&mut self, _port: &str, _folder: std::path::PathBuf, _keep_in_place: bool) -> Result<(), StageError> {
        Ok(())
    }
    fn progress(&mut self, _done: u64, _total: u64, _note: &str) {}
}

fn table<T: serde::Serialize + serde::de::DeserializeOwned + schemars::JsonSchema>(rows: &[T]) -> RecordBatch {
    let mut kept = Kept(Vec::new());
    WholeOutputs::new([("rows".to_owned(), columns_of::<T>())], &mut kept).push("rows", rows).unwrap();
    kept.0.remove(0)
}

fn samples(batches: &[FinishedBatch]) -> Vec<Sample> {
    let mut inputs = WholeInputs::default();
    let rows: Vec<_> = batches.iter().map(|batch| Ok(batch.rows.clone())).collect();
    inputs.tables.insert("samples".into(), Box::new(rows.into_iter()) as TableStream<'_>);
    let mut samples: Vec<Sample> = inputs.read("samples").unwrap();
    samples.sort_by(|a, b| (&a.problem_id, a.sample_index).cmp(&(&b.problem_id, b.sample_index)));
    samples
}

fn problem(index: usize) -> Asked {
    Asked {
        problem_id: format!("p{index:02}"),
        question: format!("Return {index}{}.", " and more".repeat(index % 3)),
        starter_code: None,
        tests: AskedTests { style: TestStyle::Call },
    }
}

fn block(index: usize) -> BlockToFill {
    BlockToFill {
        block_id: format!("b{index:02}"),
        problem_id: format!("p{index:02}"),
        kind: if index % 5 == 4 { "full" } else { "if" }.into(),
        prefix: "def f(x):\n".into(),
        middle: "    if x:\n        return 1".into(),
        suffix: "\n    return 2\n".into(),
    }
}

/// Runs `fim-generate` over blocks, cut into batches of the given sizes.
fn fill(model: &Path, with: &Value, sizes: &[usize], question: Option<&str>) -> Result<Vec<FinishedBatch>, StageError> {
    let bound = ablate_stages::find("fim-generate").unwrap().bind(with.clone()).unwrap();
    let mut first = 0;
    let mut batches: Vec<UnitBatch> = sizes
        .iter()
        .enumerate()
        .map(|(id, &size)| {
            let places = first..first + size;
            first += size;
            let mut problems: Vec<Asked> = places.clone().map(problem).collect();
            if let Some(question) = question {
                question.clone_into(&mut problems[0].question);
            }
            let lookup = LookupTable { rows: table(&problems), index: (0..size as u32).map(|i| i..i + 1).collect() };
            UnitBatch {
                id: id as u64,
                port: "blocks".into(),
                rows: table(&places.clone().map(block).collect::<Vec<_>>()),
                unit_ids: places.map(|i| format!("b{i:02}")).collect(),
                units: (0..size as u32).map(|i| i..i + 1).collect(),
                lookups: BTreeMap::from([("problems".to_owned(), lookup)]),
            }
        })
        .rev()
        .collect();
    let Job::Map(mut job) = open(&*bound, &context(model))? else { panic!("a map kind") };
    let mut done = Vec::new();
    let mut deliver = |batch: FinishedBatch| {
        done.push(batch);
        Ok(())
    };
    run_map(&mut *job, &columns_of::<Sample>(), &Cancel::default(), &mut || Ok(batches.pop()), &mut deliver)?;
    Ok(done)
}

fn context(model: &Path) -> OpenContext {
    crate::device::set_threads(1);
    OpenContext {
        inputs: BTreeMap::new(),
        models: BTreeMap::from([("model".to_owned(), model.to_path_buf())]),
        scratch: model.to_path_buf(),
        state: None,
        threads: 1,
        device: Device::Cpu,
        cancel: Cancel::default(),
    }
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    testing::write_model(folder.path(), &testing::tiny_config(), 5, Kind::Float).unwrap();
    folder
}

#[test]
fn samples_do_not_depend_on_how_units_are_cut_into_batches() {
    let model = model();
    let with = json!({ "samples": 3, "max_tokens": 12 });
    let whole = samples(&fill(model.path(), &with, &[12], None).unwrap());
    assert_eq!(whole.len(), 36);
    assert_eq!(whole, samples(&fill(model.path(), &with, &[1, 7, 4], None).unwrap()));
    let filled = &whole[0];
    assert!(filled.text.starts_with("    if") && filled.program.starts_with("def f(x):\n    if"), "{filled:?}");
    assert!(filled.program.ends_with("\n    return 2\n") && filled.logprob.unwrap() < 0.0);
    assert!(whole.iter().any(|sample| sample.sample_index == 2 && sample.text != whole[0].text));
    let other =
        samples(&fill(model.path(), &json!({ "samples": 3, "max_tokens": 12, "seed": 4 }), &[12], None).unwrap());
    assert_ne!(whole, other);
}

#[test]
fn a_prompt_that_does_not_fit_is_dropped_with_its_length() {
    let model = model();
    let question = "word ".repeat(400);
    let done = fill(model.path(), &json!({ "samples": 1, "max_tokens": 4 }), &[3], Some(&question)).unwrap();
    let UnitAnswer::Dropped { reason, detail } = &done[0].answers[0] else { panic!("{:?}", done[0].answers) };
    assert_eq!(reason, "prompt-too-long");
    assert!(detail.as_ref().unwrap().ends_with("the model takes 255"), "{detail:?}");
    assert!(matches!(done[0].answers[1], UnitAnswer::Rows(_)));
}

#[test]
fn a_tokenizer_without_fim_tokens_ends_the_stage_with_a_reason() {
    let model = model();
    let path = model.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("<|fim_suffix|>", "<|other|>");
    std::fs::write(&path, text).unwrap();
    let message = fill(model.path(), &json!({ "samples": 1 }), &[2], None).unwrap_err().to_string();
    assert!(message.contains("the tokenizer has no fill-in-the-middle tokens"), "{message}");
}

#[test]
fn problems_are_answered_greedily_in_a_conversation() {
    let model = model();
    let bound = ablate_stages::find("generate").unwrap().bind(json!({ "max_tokens": 8 })).unwrap();
    let run = || {
        let mut batches = vec![UnitBatch {
            id: 0,
            port: "problems".into(),
            rows: table(&[problem(0), problem(1)]),
            unit_ids: vec!["p00".into(), "p01".into()],
            units: vec![0..1, 1..2],
            lookups: BTreeMap::new(),
        }];
        let Job::Map(mut job) = open(&*bound, &context(model.path())).unwrap() else { panic!("a map kind") };
        let mut done = Vec::new();
        let mut deliver = |batch: FinishedBatch| {
            done.push(batch);
            Ok(())
        };
        run_map(&mut *job, &columns_of::<Sample>(), &Cancel::default(), &mut || Ok(batches.pop()), &mut deliver)
            .unwrap();
        samples(&done)
    };
    let answers = run();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|sample| sample.num_tokens > 0 && sample.num_tokens <= 8 && sample.block_id.is_none()));
    assert_eq!(answers, run());
}
