//! Loss and per-parameter gradients of one DPO batch given as token ids: what `tests/interop/trl_dpo.py` compares with TRL.
//!
//! usage: `dpo_gradients POLICY_FOLDER REFERENCE_FOLDER BATCH.json OUT_FOLDER`
//!
//! `BATCH.json`: `{"beta": 0.1, "label_smoothing": 0.0, "pairs": [{"prompt": [ids], "chosen": [ids], "rejected": [ids]}, ..]}`.
//! Writes `gradients.safetensors` (fp32, Hugging Face names) and `loss.json` into `OUT_FOLDER`.

use std::error::Error;
use std::path::Path;

use ablate_stages::train::{Objective, Params};
use lm::error::ModelError;
use lm::render::{Rendered, Tokens};
use lm::trainer::{self, Data};
use lm::transformer::Transformer;
use lm::weights;
use serde::Deserialize;
use serde_json::json;
use tch::{Device, Kind};

#[derive(Deserialize)]
struct BatchFile {
    beta: f64,
    label_smoothing: f64,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    prompt: Vec<i64>,
    chosen: Vec<i64>,
    rejected: Vec<i64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policy, reference, batch, out] = arguments.as_slice() else {
        return Err("usage: dpo_gradients POLICY_FOLDER REFERENCE_FOLDER BATCH.json OUT_FOLDER".into());
    };
    lm::device::set_threads(1);
    let batch: BatchFile = serde_json::from_str(&std::fs::read_to_string(batch)?)?;
    let tokens = |ids: Vec<i64>, weight| Tokens { weights: vec![weight; ids.len()], ids };
    let examples: Vec<Rendered> = batch
        .pairs
        .into_iter()
        .enumerate()
        .map(|(index, pair)| Rendered {
            id: index.to_string(),
            prompt: tokens(pair.prompt, 0.0),
            responses: vec![tokens(pair.chosen, 1.0), tokens(pair.rejected, 1.0)],
        })
        .collect();
    let load = |folder: &str| Transformer::load(Path::new(folder), Kind::Float, Device::Cpu);
    let frozen = load(reference)?;
    let reference = examples
        .iter()
        .map(|example| Ok(trainer::log_probs(&frozen, example)?.concat()))
        .collect::<Result<Vec<_>, ModelError>>()?;
    let mut params: Params = serde_json::from_value(json!({ "objective": { "dpo": {} } }))?;
    params.objective = Objective::Dpo { beta: batch.beta, label_smoothing: batch.label_smoothing, nll: 0.0 };
    let data = Data { order: (0..examples.len()).collect(), examples, reference: Some(reference) };
    let (loss, gradients) = trainer::loss_and_gradients(&load(policy)?, &data, &params)?;
    let out = Path::new(out);
    weights::write(out, &gradients, Kind::Float, weights::MAX_SHARD_BYTES)?;
    std::fs::rename(out.join(weights::SINGLE_FILE), out.join("gradients.safetensors"))?;
    std::fs::write(out.join("loss.json"), json!({ "loss": loss }).to_string())?;
    Ok(())
}
