//! The training loop: one for every objective.
//!
//! A step takes the next examples of the order and runs them in micro-batches. For each: forward; log-probabilities of the
//! weighted tokens; the objective turns them, on the host, into the loss and `g_t = dLoss/dl_t`; backward of `sum g_t l_t`.
//! Losses are normalised by sums over the whole step, so the cut into micro-batches changes them by rounding only. Gradients
//! are summed in fp32, clipped by their global norm and applied to fp32 master weights.
//!
//! The run is a function of the examples, the model and the parameters: on a CPU with a given number of threads, stopping and
//! resuming at any step ends with the same bits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ablate_stages::job::Cancel;
use ablate_stages::train::{OnNonfinite, Params, TrainStep};
use tch::{Kind, TchError, Tensor};

use crate::checkpoint::{self, Progress};
use crate::error::{ModelError, Result};
use crate::objective::{self, Metrics, Objective, ObjectiveError, Scored, Totals};
use crate::optimizer::{self, Optimizer};
use crate::pack::{self, Layout};
use crate::render::Rendered;
use crate::schedule::LearningRate;
use crate::transformer::Transformer;
use crate::{device, head};

/// Why a training run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The objective was given what it cannot work on.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// The model could not be run, or the state not be written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A loss or gradient was not a finite number.
    #[error(
        "step {step}: the {what} is {value}; its examples are {} (lower `learning_rate`, or set `on_nonfinite: skip`)",
        examples.join(", ")
    )]
    NonFinite {
        /// The step, from 1.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The examples concerned.
        examples: Vec<String>,
    },
    /// The run was cancelled; its state is saved where a state folder is given.
    #[error("cancelled")]
    Cancelled,
}

impl From<TchError> for TrainError {
    fn from(error: TchError) -> Self {
        Self::Model(error.into())
    }
}

/// What training reads.
#[derive(Debug)]
pub struct Data {
    /// The examples.
    pub examples: Vec<Rendered>,
    /// The reference log-probs of each example's weighted tokens, chosen then rejected; `None` where the objective needs none.
    pub reference: Option<Vec<Vec<f32>>>,
    /// The order of the whole run: indices into `examples`, every epoch written out.
    pub order: Vec<usize>,
}

/// Where and how often the state is saved.
#[derive(Debug, Clone)]
pub struct Saving {
    /// The folder of the two generations; it exists.
    pub folder: PathBuf,
    /// Least time between saves.
    pub every: Duration,
}

/// What a finished run leaves.
#[derive(Debug)]
pub struct Trained {
    /// The trained weights in fp32, by name.
    pub weights: BTreeMap<String, Tensor>,
    /// A row a step.
    pub metrics: Vec<TrainStep>,
}

/// Trains the model in place.
///
/// `on_step` sees every row as it is made, with the number of steps in all.
///
/// # Errors
/// See [`TrainError`].
pub fn train(
    model: &Transformer,
    data: &Data,
    params: &Params,
    threads: usize,
    saving: Option<&Saving>,
    cancel: &Cancel,
    mut on_step: impl FnMut(&TrainStep, u64),
) -> Result<Trained, TrainError> {
    let objective = objective::build(&params.objective);
    model.set_trainable(true)?;
    device::set_threads(threads);
    let mut run = Run {
        optimizer: Optimizer::new(
            params.optimizer,
            model.parameters().iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())),
        )?,
        gradients: Gradients::new(model)?,
        model,
        data,
        params,
        objective: objective.as_ref(),
    };
    let batches: Vec<&[usize]> = {
        let all = data.order.chunks(params.batch_size);
        all.take(params.max_steps.map_or(usize::MAX, |steps| steps as usize)).collect()
    };
    let total = batches.len() as u64;
    let rate = LearningRate::new(params.schedule, total, params.warmup_ratio, params.warmup_steps);
    let mut progress = Progress {
        format: checkpoint::FORMAT,
        step: 0,
        optimizer_steps: 0,
        total_steps: total,
        num_examples: data.examples.len() as u64,
        threads,
        metrics: Vec::new(),
    };
    if let Some(saving) = saving {
        run.resume(saving, &mut progress)?;
    }
    let (mut last_save, mut saved_step) = (Instant::now(), progress.step);
    while progress.step < total {
        if cancel.is_cancelled() {
            if let Some(saving) = saving.filter(|_| saved_step < progress.step) {
                checkpoint::save(&saving.folder, &progress, &run.optimizer.state())?;
            }
            return Err(TrainError::Cancelled);
        }
        let before = progress.metrics.last().map_or(0, |row| row.num_tokens);
        let batch = batches[progress.step as usize];
        let mut row = run.step(progress.step, batch, params.learning_rate * rate.factor(progress.step))?;
        row.num_tokens += before;
        let seen = (progress.step as usize * params.batch_size + batch.len()) as f64;
        row.epoch = seen / data.examples.len() as f64;
        on_step(&row, total);
        progress.metrics.push(row);
        progress.step += 1;
        progress.optimizer_steps = run.optimizer.steps();
        if let Some(saving) = saving.filter(|saving| last_save.elapsed() >= saving.every) {
            checkpoint::save(&saving.folder, &progress, &run.optimizer.state())?;
            (last_save, saved_step) = (Instant::now(), progress.step);
        }
    }
    model.set_trainable(false)?;
    let weights = run.optimizer.masters().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
    Ok(Trained { weights, metrics: progress.metrics })
}

/// Computes the loss of examples as one batch and the gradient of every parameter, and changes nothing: what a comparison with
/// another trainer needs.
///
/// # Errors
/// As [`train`].
pub fn loss_and_gradients(
    model: &Transformer,
    data: &Data,
    params: &Params,
) -> Result<(f64, BTreeMap<String, Tensor>), TrainError> {
    let objective = objective::build(&params.objective);
    model.set_trainable(true)?;
    let rule = params.optimizer;
    let mut run = Run {
        optimizer: Optimizer::new(rule, [])?,
        gradients: Gradients::new(model)?,
        model,
        data,
        params,
        objective: objective.as_ref(),
    };
    let result = run.accumulate(0, &data.order)?;
    let gradients = model.parameters().keys().cloned().zip(run.gradients.sums).collect();
    Ok((result.loss, gradients))
}

/// Returns the log-probabilities, in nats, of every weighted token of an example's sequences: chosen first.
///
/// The example runs alone, so the figures do not depend on what else is scored.
///
/// # Errors
/// Where libtorch refuses.
pub fn log_probs(model: &Transformer, example: &Rendered) -> Result<Vec<Vec<f32>>> {
    let _guard = tch::no_grad_guard();
    let layout = pack::lay_out(&[example], &[vec![0]], model.device())?;
    let hidden_rd = model.hidden(&layout.batch)?.f_index_select(0, &layout.rows_r)?;
    let scores = head::score(model, &hidden_rd, &layout.targets_r)?;
    Ok(layout.sequences.iter().map(|sequence| scores.log_probs[sequence.clone()].to_vec()).collect())
}

/// Gradients of all parameters, summed in fp32 over the micro-batches of a step.
struct Gradients {
    parameters: Vec<Tensor>,
    sums: Vec<Tensor>,
    /// Which parameter is the head; its gradient comes from [`head::backward`], not from libtorch.
    head: usize,
}

impl Gradients {
    fn new(model: &Transformer) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let parameters: Vec<Tensor> = model.parameters().values().map(Tensor::shallow_clone).collect();
        let sums = parameters
            .iter()
            .map(|tensor| Tensor::f_zeros(tensor.size(), (Kind::Float, model.device())))
            .collect::<Result<_, _>>()?;
        let head = model.parameters().keys().position(|name| name == head::parameter(model));
        Ok(Self { parameters, sums, head: head.expect("a transformer has its head among its parameters") })
    }

    /// Moves what the last backward pass left into the sums.
    fn take(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (parameter, sum) in self.parameters.iter().zip(&mut self.sums) {
            let mut gradient = parameter.f_grad()?;
            if gradient.defined() {
                let _ = sum.f_add_(&gradient.f_to_kind(Kind::Float)?)?;
                let _ = gradient.f_zero_()?;
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for sum in &mut self.sums {
            let _ = sum.f_zero_()?;
        }
        Ok(())
    }
}

/// What one step's micro-batches add up to.
struct StepResult {
    loss: f64,
    metrics: Metrics,
    num_tokens: u64,
    num_weighted_tokens: u64,
}

struct Run<'a> {
    model: &'a Transformer,
    data: &'a Data,
    params: &'a Params,
    objective: &'a dyn Objective,
    optimizer: Optimizer,
    gradients: Gradients,
}

impl Run<'_> {
    /// Takes up a saved state of this run, if there is one.
    fn resume(&mut self, saving: &Saving, progress: &mut Progress) -> Result<(), TrainError> {
        let Some(saved) = checkpoint::load(&saving.folder) else { return Ok(()) };
        let same =
            saved.progress.total_steps == progress.total_steps && saved.progress.num_examples == progress.num_examples;
        if !same {
            return Ok(());
        }
        self.optimizer
            .restore(saved.progress.optimizer_steps, |name| saved.tensors.get(name).map(Tensor::shallow_clone))?;
        device::set_threads(saved.progress.threads);
        *progress = saved.progress;
        Ok(())
    }

    /// Takes one optimizer step on `batch`.
    fn step(&mut self, step: u64, batch: &[usize], learning_rate: f64) -> Result<TrainStep, TrainError> {
        let started = Instant::now();
        let skip = self.params.on_nonfinite == OnNonfinite::Skip;
        self.gradients.clear()?;
        let mut row = TrainStep { step: step + 1, learning_rate, ..TrainStep::default() };
        match self.accumulate(step, batch) {
            Err(TrainError::NonFinite { .. }) if skip => {
                // What the failed backward pass left must not leak into the next step.
                self.gradients.take()?;
                row.skipped = true;
            }
            Err(error) => return Err(error),
            Ok(result) => {
                let norm = optimizer::global_norm(&self.gradients.sums)?;
                row.loss = Some(result.loss);
                row.grad_norm = norm.is_finite().then_some(norm);
                row.num_tokens = result.num_tokens;
                row.num_weighted_tokens = result.num_weighted_tokens;
                for (name, mean) in result.metrics.means() {
                    if let Some(column) = column(&mut row, name) {
                        *column = Some(mean);
                    }
                }
                if norm.is_finite() {
                    if let Some(max_norm) = self.params.clip {
                        optimizer::clip(&mut self.gradients.sums, norm, max_norm)?;
                    }
                    self.optimizer.step(&self.gradients.sums, learning_rate)?;
                } else if skip {
                    row.skipped = true;
                } else {
                    return Err(self.nonfinite(step, "gradient norm", norm, batch));
                }
            }
        }
        row.wall_s = started.elapsed().as_secs_f64();
        Ok(row)
    }

    /// Runs the micro-batches of `batch` forward and backward; gradients are left in the sums.
    fn accumulate(&mut self, step: u64, batch: &[usize]) -> Result<StepResult, TrainError> {
        let examples: Vec<&Rendered> = batch.iter().map(|&index| &self.data.examples[index]).collect();
        let chosen_weight = examples.iter().flat_map(|example| example.sequence_weights(0)).map(f64::from).sum();
        let totals = Totals { groups: examples.len(), chosen_weight };
        let mut result = StepResult { loss: 0.0, metrics: Metrics::default(), num_tokens: 0, num_weighted_tokens: 0 };
        for packs in pack::micro_batches(&examples, self.params.micro_batch_tokens) {
            let layout = pack::lay_out(&examples, &packs, self.model.device())?;
            let reference = self.data.reference.as_ref().map(|reference| {
                layout.examples.iter().flat_map(|&index| &reference[batch[index]]).copied().collect::<Vec<f32>>()
            });
            let hidden_nd = self.model.hidden(&layout.batch)?;
            let selected_rd = hidden_nd.f_index_select(0, &layout.rows_r)?;
            let leaf_rd = selected_rd.f_detach()?;
            let scores = head::score(self.model, &leaf_rd, &layout.targets_r)?;
            let outcome = self.objective.evaluate(&Scored {
                policy: &scores.log_probs,
                reference: reference.as_deref(),
                weights: &layout.weights,
                sequences: &layout.sequences,
                groups: &layout.groups,
                totals,
            })?;
            if !outcome.loss.is_finite() {
                let concerned: Vec<usize> = layout.examples.iter().map(|&index| batch[index]).collect();
                return Err(self.nonfinite(step, "loss", outcome.loss, &concerned));
            }
            self.backward(&layout, &selected_rd, &leaf_rd, scores, &outcome.gradient)?;
            result.loss += outcome.loss;
            result.metrics.merge(&outcome.metrics);
            result.num_tokens += layout.batch.len() as u64;
            result.num_weighted_tokens += layout.weights.len() as u64;
        }
        Ok(result)
    }

    fn backward(
        &mut self,
        layout: &Layout,
        selected_rd: &Tensor,
        leaf_rd: &Tensor,
        scores: head::Scores,
        gradient: &[f32],
    ) -> Result<()> {
        let head_sum = &mut self.gradients.sums[self.gradients.head];
        let cotangent_rd = head::backward(self.model, leaf_rd, &layout.targets_r, scores, gradient, head_sum)?;
        // libtorch seeds a backward pass with 1, so the cotangent goes in as a product.
        selected_rd.f_mul(&cotangent_rd)?.f_sum(Kind::Float)?.f_backward()?;
        self.gradients.take()
    }

    fn nonfinite(&self, step: u64, what: &'static str, value: f64, examples: &[usize]) -> TrainError {
        let examples = examples.iter().map(|&index| self.data.examples[index].id.clone()).collect();
        TrainError::NonFinite { step: step + 1, what, value, examples }
    }
}

/// Returns the column of a metric of an objective.
fn column<'a>(row: &'a mut TrainStep, name: &str) -> Option<&'a mut Option<f64>> {
    Some(match name {
        "rewards/chosen" => &mut row.rewards_chosen,
        "rewards/rejected" => &mut row.rewards_rejected,
        "rewards/accuracies" => &mut row.rewards_accuracies,
        "rewards/margins" => &mut row.rewards_margins,
        "logps/chosen" => &mut row.logps_chosen,
        "logps/rejected" => &mut row.logps_rejected,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
