//! The kinds run as the runner runs them: rows in, rows and folders out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ablate_stages::columns::{Column, Dropped, OrderedExample, ReferenceLogprobs, Segment, Special, columns_of};
use ablate_stages::job::{
    Cancel, Device, Job, OpenContext, TableStream, UnitAnswer, UnitBatch, WholeInputs, WholeOutputs, WholeSink, run_map,
};
use ablate_stages::reference::ScoredExample;
use ablate_stages::stage::StageError;
use ablate_stages::train::TrainStep;
use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::open;
use crate::testing;
use crate::transformer::Transformer;

/// Keeps what a job writes.
#[derive(Default)]
struct Kept {
    tables: BTreeMap<String, Vec<RecordBatch>>,
    folders: BTreeMap<String, PathBuf>,
    progress: Vec<(u64, u64)>,
}

impl WholeSink for Kept {
    fn rows(&mut self, port: &str, rows: RecordBatch) -> Result<(), StageError> {
        self.tables.entry(port.to_owned()).or_default().push(rows);
        Ok(())
    }
    fn folder(&mut self, port: &str, folder: PathBuf, _keep_in_place: bool) -> Result<(), StageError> {
        self.folders.insert(port.to_owned(), folder);
        Ok(())
    }
    fn progress(&mut self, done: u64, total: u64, _note: &str) {
        self.progress.push((done, total));
    }
}

impl Kept {
    fn read<T: DeserializeOwned>(&self, port: &str) -> Vec<T> {
        let mut inputs = WholeInputs::default();
        inputs.tables.insert(port.to_owned(), stream(self.tables.get(port).cloned().unwrap_or_default()));
        inputs.read(port).unwrap()
    }
}

fn stream(batches: Vec<RecordBatch>) -> TableStream<'static> {
    Box::new(batches.into_iter().map(Ok))
}

/// Rows as a table.
fn table<T: Serialize + DeserializeOwned + JsonSchema>(rows: &[T]) -> Vec<RecordBatch> {
    let mut kept = Kept::default();
    WholeOutputs::new([("rows".to_owned(), columns_of::<T>())], &mut kept).push("rows", rows).unwrap();
    kept.tables.remove("rows").unwrap_or_default()
}

fn context(scratch: &Path, model: Option<&Path>) -> OpenContext {
    OpenContext {
        inputs: BTreeMap::new(),
        models: model.map(|folder| ("model".to_owned(), folder.to_path_buf())).into_iter().collect(),
        scratch: scratch.to_path_buf(),
        state: Some(scratch.join("state")),
        threads: 1,
        device: Device::Cpu,
        cancel: Cancel::default(),
    }
}

fn run_whole(
    kind: &str,
    with: Value,
    cx: &OpenContext,
    tables: BTreeMap<String, Vec<RecordBatch>>,
) -> Result<Kept, StageError> {
    let bound = ablate_stages::find(kind).unwrap().bind(with).unwrap();
    let columns: Vec<(String, Vec<Column>)> = match kind {
        "train" => {
            vec![("metrics".to_owned(), columns_of::<TrainStep>()), ("dropped".to_owned(), columns_of::<Dropped>())]
        }
        _ => Vec::new(),
    };
    let Job::Whole(mut job) = open(&*bound, cx)? else { panic!("{kind} is a whole kind") };
    let mut inputs = WholeInputs::default();
    inputs.tables.extend(tables.into_iter().map(|(port, batches)| (port, stream(batches))));
    let mut kept = Kept::default();
    job.run(&mut inputs, &mut WholeOutputs::new(columns, &mut kept))?;
    Ok(kept)
}

/// Pairs that differ in one sign, in the fill-in-the-middle format; the last is longer than 64 tokens.
fn examples() -> Vec<OrderedExample> {
    (0..9)
        .map(|i: u32| {
            let long = if i == 8 { "0123456789".repeat(8) } else { String::new() };
            OrderedExample {
                example_id: format!("example-{i}"),
                problem_id: format!("problem-{i}"),
                block_id: None,
                chosen_id: None,
                rejected_id: None,
                block_kind: None,
                num_lines: 1,
                depth: 0,
                format: "fim".into(),
                prompt: vec![
                    Segment::special(Special::FimPrefix),
                    Segment::text(format!("# {long}f{i}\n")),
                    Segment::special(Special::FimSuffix),
                    Segment::text("\n"),
                    Segment::special(Special::FimMiddle),
                ],
                chosen: vec![Segment::target(format!("x > {i}")), Segment::special_target(Special::End)],
                rejected: vec![Segment::target(format!("x < {i}")), Segment::special_target(Special::End)],
                bucket: i / 4,
                position: i,
            }
        })
        .collect()
}

fn reference(model: &Path, scratch: &Path, rows: &[OrderedExample]) -> (Vec<ReferenceLogprobs>, Vec<UnitAnswer>) {
    let bound = ablate_stages::find("reference").unwrap().bind(json!({ "max_tokens": 64 })).unwrap();
    let Job::Map(mut job) = open(&*bound, &context(scratch, Some(model))).unwrap() else { panic!("a map kind") };
    let scored: Vec<ScoredExample> = rows
        .iter()
        .cloned()
        .map(|row| ScoredExample {
            example_id: row.example_id,
            prompt: row.prompt,
            chosen: row.chosen,
            rejected: row.rejected,
        })
        .collect();
    let mut batches = vec![UnitBatch {
        id: 1,
        port: "examples".into(),
        rows: table(&scored).remove(0),
        unit_ids: scored.iter().map(|row| row.example_id.clone()).collect(),
        units: (0..scored.len() as u32).map(|row| row..row + 1).collect(),
        lookups: BTreeMap::new(),
    }];
    let mut finished = Vec::new();
    run_map(
        &mut *job,
        &columns_of::<ReferenceLogprobs>(),
        &Cancel::default(),
        &mut || Ok(batches.pop()),
        &mut |batch| {
            finished.push(batch);
            Ok(())
        },
    )
    .unwrap();
    let batch = finished.remove(0);
    let kept = Kept { tables: BTreeMap::from([("rows".to_owned(), vec![batch.rows])]), ..Kept::default() };
    (kept.read("rows"), batch.answers)
}

#[test]
fn a_model_is_made_taught_and_aligned_by_three_kinds() {
    let work = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = work.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let rows = examples();
    let tables = || BTreeMap::from([("examples".to_owned(), table(&rows))]);
    let size = json!({ "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 290 });
    let fresh = run_whole("new-model", size, &context(&folder("new"), None), tables()).unwrap();
    let fresh = &fresh.folders["model"];

    let taught = json!({
        "objective": { "sft": {} }, "optimizer": { "adamw": {} }, "learning_rate": 1e-2, "epochs": 6, "batch_size": 4,
        "max_tokens": 64, "save_dtype": "bfloat16", "shuffle": true
    });
    let taught = run_whole("train", taught, &context(&folder("sft"), Some(fresh)), tables()).unwrap();
    let steps: Vec<TrainStep> = taught.read("metrics");
    assert_eq!(steps.len(), 12);
    assert!(steps[11].loss.unwrap() < 0.8 * steps[0].loss.unwrap());
    assert_eq!(taught.progress.last(), Some(&(12, 12)));
    let dropped: Vec<Dropped> = taught.read("dropped");
    assert_eq!((dropped.len(), dropped[0].unit_id.as_str(), dropped[0].reason.as_str()), (1, "example-8", "too-long"));
    let base = &taught.folders["model"];

    let (logprobs, answers) = reference(base, &folder("reference"), &rows);
    assert_eq!(logprobs.len(), 8);
    assert!(matches!(&answers[8], UnitAnswer::Dropped { reason, .. } if reason == "too-long"));
    assert!(logprobs.iter().flat_map(|row| row.chosen.iter().chain(&row.rejected)).all(|&logp| logp < 0.0));

    let with = json!({
        "objective": { "dpo": {} }, "learning_rate": 1e-3, "batch_size": 4, "max_tokens": 64, "repeat": "per_bucket"
    });
    let mut inputs = tables();
    inputs.insert("reference".to_owned(), table(&logprobs));
    let aligned = run_whole("train", with, &context(&folder("dpo"), Some(base)), inputs).unwrap();
    let steps: Vec<TrainStep> = aligned.read("metrics");
    assert_eq!(steps.len(), 6);
    assert!(steps[0].rewards_margins.unwrap().abs() < 1e-4);
    assert!(steps[5].rewards_margins.unwrap() > 0.1, "{:?}", steps[5]);
    let model = Transformer::load(&aligned.folders["model"], tch::Kind::Float, tch::Device::Cpu).unwrap();
    assert_eq!(model.num_layers(), 2);
}

#[test]
fn train_refuses_what_it_cannot_learn_from_with_a_reason() {
    let work = tempfile::tempdir().unwrap();
    testing::write_model(work.path(), &testing::tiny_config(), 1, tch::Kind::Float).unwrap();
    let cx = context(work.path(), Some(work.path()));
    let refusal = |with: Value, rows: &[OrderedExample], logprobs: Option<Vec<ReferenceLogprobs>>| {
        let mut inputs = BTreeMap::from([("examples".to_owned(), table(rows))]);
        inputs.extend(logprobs.map(|rows| ("reference".to_owned(), table(&rows))));
        run_whole("train", with, &cx, inputs).map(|_| ()).unwrap_err().to_string()
    };
    let sft = json!({ "objective": { "sft": {} } });
    let dpo = json!({ "objective": { "dpo": {} } });
    let rows = examples();
    assert_eq!(
        refusal(sft.clone(), &[], None),
        "input `examples`: there are no rows, so there is nothing to train on; the port `dropped` of the stages before says why"
    );
    assert_eq!(
        refusal(sft, &[rows[0].clone(), rows[0].clone()], None),
        "input `examples`: the example_id example-0 stands in two rows"
    );
    let short = json!({ "objective": { "sft": {} }, "max_tokens": 4 });
    assert_eq!(
        refusal(short, &rows[..2], None),
        "input `examples`: every example was left out (2 too-long; at most 4 tokens are taken)"
    );
    let single = OrderedExample { rejected: Vec::new(), ..rows[0].clone() };
    assert!(refusal(dpo.clone(), &[single], Some(Vec::new())).contains("`dpo` needs pairs"));
    assert_eq!(
        refusal(dpo.clone(), &rows[..1], Some(Vec::new())),
        "input `reference`: there is no row for the example example-0"
    );
    let wrong = ReferenceLogprobs { example_id: "example-0".into(), chosen: vec![-1.0], rejected: vec![-1.0] };
    assert!(
        refusal(dpo, &rows[..1], Some(vec![wrong]))
            .contains("expected 6 log-probs, one for each weighted token, got 1")
    );
}
