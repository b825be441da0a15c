//! `fim-generate`, opened: blocks are written again between their prefix and suffix.

use ablate_stages::code::prompts::Asked;
use ablate_stages::code::request::BlockToFill;
use ablate_stages::fim_generate::{FimGenerate, Params};
use ablate_stages::job::{Job, OpenContext, UnitBatch};
use ablate_stages::stage::{Stage, StageError};

use super::complete::{CompleteJob, Requests, Settings};
use crate::draw::Sampling;

/// Opens the job: loads the model and its tokenizer.
///
/// # Errors
/// Where the model folder or the device cannot be used.
pub fn open(params: Params, cx: &OpenContext) -> Result<Job, StageError> {
    let settings = Settings {
        kind: FimGenerate::NAME,
        samples: params.samples,
        max_tokens: params.max_tokens,
        seed: params.seed,
        how: Sampling { temperature: params.temperature, top_p: params.top_p, top_k: params.top_k.map(|k| k as usize) },
        dtype: params.dtype,
    };
    let ask = move |batch: &UnitBatch| -> Result<Requests, StageError> {
        let blocks: Vec<BlockToFill> = batch.rows()?;
        let problems = batch.lookup::<Asked>("problems")?;
        let request = |row: usize| params.request(&blocks[row], problems.one(row)).map_err(|error| error.to_string());
        Ok(batch.units().map(|(unit, rows)| (unit, request(rows.start))).collect())
    };
    Ok(Job::Map(Box::new(CompleteJob::open(settings, Box::new(ask), cx)?)))
}
