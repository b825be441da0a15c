//! Opens the kind `reference`.

use ablate_stages::columns::ReferenceLogprobs;
use ablate_stages::job::{Cancel, Job, MapJob, OpenContext, UnitSink, UnitSource};
use ablate_stages::reference::{Params, ScoredExample};
use ablate_stages::stage::StageError;

use super::{failed, kind_of, model_folder, tch_device};
use crate::device;
use crate::error::Result as ModelResult;
use crate::render::{LeftOut, render};
use crate::tokenizer::Tokenizer;
use crate::trainer::log_probs;
use crate::transformer::Transformer;

/// Opens the job: loads the frozen model.
///
/// # Errors
/// Where the model folder is not connected or cannot be read, or the device is not there.
pub fn open(params: Params, cx: &OpenContext) -> Result<Job, StageError> {
    let folder = model_folder(cx)?;
    device::set_threads(cx.threads);
    let model = Transformer::load(&folder, kind_of(params.dtype), tch_device(cx)?).map_err(failed)?;
    let limit = params.max_tokens.min(model.config().max_positions as usize);
    let tokenizer = Tokenizer::load(&folder).map_err(failed)?;
    Ok(Job::Map(Box::new(ReferenceJob { tokenizer, model, limit, cancel: cx.cancel.clone() })))
}

struct ReferenceJob {
    tokenizer: Tokenizer,
    model: Transformer,
    limit: usize,
    cancel: Cancel,
}

impl MapJob for ReferenceJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        while let Some(batch) = units.next()? {
            let rows: Vec<ScoredExample> = batch.rows()?;
            for (unit, range) in batch.units() {
                self.cancel.check()?;
                // One row a unit; each example runs alone, so that its figures do not depend on its neighbours.
                match self.score(&rows[range.start]) {
                    Err(error) => out.fail(unit, error.to_string())?,
                    Ok(Err(why)) => out.drop(unit, why.reason(), why.detail())?,
                    Ok(Ok(row)) => out.emit(unit, &[row])?,
                }
            }
        }
        Ok(())
    }
}

impl ReferenceJob {
    fn score(&self, row: &ScoredExample) -> ModelResult<Result<ReferenceLogprobs, LeftOut>> {
        let rejected = (!row.rejected.is_empty()).then_some(row.rejected.as_slice());
        let example = match render(&self.tokenizer, &row.example_id, &row.prompt, &row.chosen, rejected, self.limit)? {
            Ok(example) => example,
            Err(why) => return Ok(Err(why)),
        };
        let mut sides = log_probs(&self.model, &example)?.into_iter();
        let chosen = sides.next().unwrap_or_default();
        let rejected = sides.next().unwrap_or_default();
        Ok(Ok(ReferenceLogprobs { example_id: row.example_id.clone(), chosen, rejected }))
    }
}
