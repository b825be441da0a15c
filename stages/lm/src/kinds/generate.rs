//! `generate`, opened: problems are solved in a conversation.

use ablate_stages::code::prompts::Asked;
use ablate_stages::generate::{Generate, Params};
use ablate_stages::job::{Job, OpenContext, UnitBatch};
use ablate_stages::stage::{Stage, StageError};

use super::complete::{CompleteJob, Requests, Settings};
use crate::draw::Sampling;

/// Opens the job: loads the model, its tokenizer and its chat template.
///
/// # Errors
/// Where the model folder or the device cannot be used.
pub fn open(params: Params, cx: &OpenContext) -> Result<Job, StageError> {
    let settings = Settings {
        kind: Generate::NAME,
        samples: params.samples,
        max_tokens: params.max_tokens,
        seed: params.seed,
        how: Sampling { temperature: params.temperature, top_p: params.top_p, top_k: params.top_k.map(|k| k as usize) },
        dtype: params.dtype,
    };
    let ask = move |batch: &UnitBatch| -> Result<Requests, StageError> {
        let problems: Vec<Asked> = batch.rows()?;
        Ok(batch.units().map(|(unit, rows)| (unit, Ok(params.request(&problems[rows.start])))).collect())
    };
    Ok(Job::Map(Box::new(CompleteJob::open(settings, Box::new(ask), cx)?)))
}
