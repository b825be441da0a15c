//! Opens the kind `train`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use ablate_stages::columns::{Dropped, ReferenceLogprobs};
use ablate_stages::job::{Cancel, Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use ablate_stages::stage::StageError;
use ablate_stages::train::{Params, TrainingExample};

use super::{failed, kind_of, model_folder, tch_device};
use crate::error::ModelError;
use crate::objective;
use crate::order::{Place, order};
use crate::render::{Rendered, render};
use crate::tokenizer::Tokenizer;
use crate::trainer::{self, Data, Saving, TrainError};
use crate::transformer::Transformer;
use crate::{device, weights};

/// Opens the job.
///
/// # Errors
/// Where the model folder is not connected or its tokenizer cannot be read, or the device is not there.
pub fn open(params: Params, cx: &OpenContext) -> Result<Job, StageError> {
    let folder = model_folder(cx)?;
    device::set_threads(cx.threads);
    Ok(Job::Whole(Box::new(TrainJob {
        tokenizer: Tokenizer::load(&folder).map_err(failed)?,
        device: tch_device(cx)?,
        folder,
        params,
        scratch: cx.scratch.clone(),
        state: cx.state.clone(),
        threads: cx.threads,
        cancel: cx.cancel.clone(),
    })))
}

struct TrainJob {
    params: Params,
    folder: PathBuf,
    tokenizer: Tokenizer,
    device: tch::Device,
    scratch: PathBuf,
    state: Option<PathBuf>,
    threads: usize,
    cancel: Cancel,
}

impl WholeJob for TrainJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let examples: Vec<TrainingExample> = inputs.read("examples")?;
        if examples.is_empty() {
            return Err(StageError::input(
                "examples",
                "there are no rows, so there is nothing to train on; the port `dropped` of the stages before says why",
            ));
        }
        let has_reference = inputs.has("reference") && self.params.objective.needs_reference();
        let reference = has_reference.then(|| inputs.read::<ReferenceLogprobs>("reference")).transpose()?;
        let model = Transformer::load(&self.folder, kind_of(self.params.dtype), self.device).map_err(failed)?;
        let limit = self.params.max_tokens.min(model.config().max_positions as usize);
        let (kept, dropped) = self.render_all(&examples, limit)?;
        let rendered_at: Vec<&TrainingExample> = kept.iter().map(|&(index, _)| &examples[index]).collect();
        let places: Vec<Place<'_>> = rendered_at
            .iter()
            .map(|row| Place { id: &row.example_id, bucket: row.bucket, position: row.position })
            .collect();
        let p = &self.params;
        let order = order(&places, p.repeat, p.epochs, p.shuffle, p.seed);
        let rendered: Vec<Rendered> = kept.into_iter().map(|(_, rendered)| rendered).collect();
        let reference = reference.map(|rows| align(&rendered, rows)).transpose()?;
        let data = Data { examples: rendered, reference, order };

        let saving = match &self.state {
            Some(folder) => {
                std::fs::create_dir_all(folder)?;
                Some(Saving {
                    folder: folder.clone(),
                    every: Duration::from_secs_f64(60.0 * self.params.save_every_minutes),
                })
            }
            None => None,
        };
        let trained =
            trainer::train(&model, &data, &self.params, self.threads, saving.as_ref(), &self.cancel, |row, total| {
                let note = match (row.loss, row.rewards_margins) {
                    (Some(loss), Some(margin)) => format!("loss {loss:.3}, margin {margin:.3}"),
                    (Some(loss), None) => format!("loss {loss:.3}"),
                    (None, _) => "step skipped: not finite".to_owned(),
                };
                out.progress(row.step, total, &note);
            })?;
        let folder = self.scratch.join("model");
        std::fs::create_dir_all(&folder)?;
        weights::export(&folder, &self.folder, &trained.weights, kind_of(self.params.save_dtype)).map_err(failed)?;
        out.model("model", folder)?;
        out.push("metrics", &trained.metrics)?;
        out.push("dropped", &dropped)
    }
}

/// The examples kept, each with its row, and those left out.
type RenderedExamples = (Vec<(usize, Rendered)>, Vec<Dropped>);

impl TrainJob {
    /// Renders every example; returns those kept, with their row, and those left out.
    fn render_all(&self, examples: &[TrainingExample], limit: usize) -> Result<RenderedExamples, StageError> {
        let objective = objective::build(&self.params.objective);
        let (mut kept, mut dropped, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (index, row) in examples.iter().enumerate() {
            self.cancel.check()?;
            let id = &row.example_id;
            if !seen.insert(id.as_str()) {
                return Err(StageError::input("examples", format!("the example_id {id} stands in two rows")));
            }
            if objective.scores_rejected() && row.rejected.is_empty() {
                let problem = format!(
                    "example {id} has no rejected response, and `{}` needs pairs; use `sft`, or examples made by `pair`",
                    objective.name()
                );
                return Err(StageError::input("examples", problem));
            }
            let rejected = objective.scores_rejected().then_some(row.rejected.as_slice());
            match render(&self.tokenizer, id, &row.prompt, &row.chosen, rejected, limit).map_err(failed)? {
                Ok(rendered) => kept.push((index, rendered)),
                Err(why) => {
                    dropped.push(Dropped { unit_id: id.clone(), reason: why.reason().into(), detail: why.detail() });
                }
            }
        }
        if kept.is_empty() {
            let counts = dropped.iter().fold(BTreeMap::<&str, usize>::new(), |mut counts, row| {
                *counts.entry(&row.reason).or_default() += 1;
                counts
            });
            let counts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let problem =
                format!("every example was left out ({}; at most {limit} tokens are taken)", counts.join(", "));
            return Err(StageError::input("examples", problem));
        }
        Ok((kept, dropped))
    }
}

/// Returns the reference log-probs in the order of the examples, chosen then rejected.
fn align(examples: &[Rendered], rows: Vec<ReferenceLogprobs>) -> Result<Vec<Vec<f32>>, StageError> {
    let mut by_id: BTreeMap<String, ReferenceLogprobs> =
        rows.into_iter().map(|row| (row.example_id.clone(), row)).collect();
    let problem = |text: String| StageError::input("reference", text);
    examples
        .iter()
        .map(|example| {
            let row = by_id
                .remove(&example.id)
                .ok_or_else(|| problem(format!("there is no row for the example {}", example.id)))?;
            let mut values = Vec::new();
            for (side, found) in [row.chosen, row.rejected].into_iter().enumerate().take(example.responses.len()) {
                let expected = example.sequence_weights(side).count();
                if found.len() != expected {
                    let name = ["chosen", "rejected"][side];
                    return Err(problem(format!(
                        "example {}, {name}: expected {expected} log-probs, one for each weighted token, got {}; is it from \
                         another model or other spans?",
                        example.id,
                        found.len()
                    )));
                }
                values.extend(found);
            }
            Ok(values)
        })
        .collect()
}

impl From<TrainError> for StageError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Cancelled => Self::Cancelled,
            TrainError::Model(ModelError::Io { path, source }) => Self::file(path, source.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}
