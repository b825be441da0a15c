//! Kind `train`: changes a model's weights so that an objective falls, on weighted spans of examples.
//!
//! Reads examples (whatever made them), the model to start from and, for objectives that compare with it, the start model's
//! log-probabilities (a stage `reference`, put in by itself where the pipeline names none). Writes the trained model folder, a
//! table of metrics with a row a step, and the examples it left out.
//!
//! Deterministic on one type of CPU: the order of examples comes from their `position` and the seed, a killed run goes on from
//! its saved state and ends with the same bits. On CUDA results differ by rounding from run to run.
//! Source: the forms of the objectives are given in the files of `stages/lm/src/objective`.

use crate::columns::{Dropped, Segment, columns_of};
use crate::stage::{
    AddedStage, Declaration, Expansion, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Source,
    Stage, UseSite,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The kind `train`.
#[derive(Debug)]
pub struct Train;

/// Parameters of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What is minimised: `{ dpo: { beta: 0.1 } }`, `{ sft: {} }`.
    pub objective: Objective,
    /// The rule of the steps: `{ rmsprop: {} }`, `{ adamw: { weight_decay: 0.01 } }`.
    #[serde(default = "default_optimizer")]
    pub optimizer: Optimizer,
    /// Peak learning rate.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// How the rate moves after warm-up: `constant`, `linear`, `cosine`, `{ cosine_with_min_lr: { min_ratio: 0.1 } }`.
    #[serde(default = "default_schedule")]
    pub schedule: Schedule,
    /// Share of all steps over which the rate climbs evenly to its peak; rounded up to whole steps.
    #[serde(default = "default_warmup_ratio")]
    pub warmup_ratio: f64,
    /// The same in steps; wins over `warmup_ratio`.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// How often every example is seen.
    #[serde(default = "default_epochs")]
    pub epochs: u32,
    /// Stops after so many steps, if that is sooner.
    #[serde(default)]
    pub max_steps: Option<u64>,
    /// Examples (pairs) that make one step. The last step takes what is left.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Tokens that go through the model at once. Changes memory and speed; the result by rounding only.
    #[serde(default = "default_micro_batch_tokens")]
    pub micro_batch_tokens: usize,
    /// Examples with a side (prompt and response) of more tokens are left out and counted, never cut.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// Gradients are scaled down to this global norm; null for no limit.
    #[serde(default = "default_clip")]
    pub clip: Option<f64>,
    /// Seed of the shuffle.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How epochs repeat the examples: `sweep`, or `per_bucket` (all epochs of a curriculum bucket before the next).
    #[serde(default = "default_repeat")]
    pub repeat: Repeat,
    /// Whether each epoch draws a new order (inside its bucket, with `per_bucket`) in place of the examples' `position`.
    #[serde(default)]
    pub shuffle: bool,
    /// What the model computes in.
    #[serde(default = "default_dtype")]
    pub dtype: Dtype,
    /// What the trained weights are stored in. `bfloat16` halves the folder and rounds away part of small steps.
    #[serde(default = "default_dtype")]
    pub save_dtype: Dtype,
    /// What to do at a loss or gradient that is not finite.
    #[serde(default = "default_on_nonfinite")]
    pub on_nonfinite: OnNonfinite,
    /// Minutes between saves of the full state, from which a killed run goes on.
    #[serde(default = "default_save_every_minutes")]
    pub save_every_minutes: f64,
}

/// What is minimised. One of the forms below, written `{ name: { parameters } }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Supervised: weighted mean negative log-likelihood of the chosen (or only) responses.
    Sft {},
    /// Direct preference optimization: sigmoid loss on summed log-probabilities against a frozen reference (the start model).
    Dpo {
        /// Strength of the pull towards the reference.
        #[serde(default = "default_beta")]
        beta: f64,
        /// Probability, from 0 to below 0.5, that a preference is the wrong way round (conservative DPO).
        #[serde(default)]
        label_smoothing: f64,
        /// Coefficient of the chosen responses' token-mean negative log-likelihood, added to the loss (RPO).
        #[serde(default)]
        nll: f64,
    },
}

/// The rule that turns gradients into steps, written `{ name: { parameters } }`. State and weights are kept in fp32.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// `RMSProp` as in `torch.optim`. It has no bias correction: the first steps are up to ten times the rate, so warm up.
    Rmsprop {
        /// Decay of the running mean of squares.
        #[serde(default = "default_alpha")]
        alpha: f64,
        /// Added to the root of that mean.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// `AdamW` as in `torch.optim`; vectors (norms, biases) are not decayed.
    Adamw {
        /// Decay of the running mean of gradients.
        #[serde(default = "default_beta1")]
        beta1: f64,
        /// Decay of the running mean of squares.
        #[serde(default = "default_beta2")]
        beta2: f64,
        /// Added to the root of that mean.
        #[serde(default = "default_eps")]
        eps: f64,
        /// Decoupled weight decay, as a fraction of the learning rate.
        #[serde(default)]
        weight_decay: f64,
    },
}

/// How the learning rate moves after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls evenly to 0.
    Linear,
    /// Falls along half a cosine to 0.
    Cosine,
    /// Falls along half a cosine to a floor.
    CosineWithMinLr {
        /// The floor, as a fraction of the peak.
        #[serde(default = "default_min_ratio")]
        min_ratio: f64,
    },
}

/// How epochs repeat the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// All examples in order, then all again.
    Sweep,
    /// Every epoch of one `bucket` before the next bucket, as `StructureCoder`'s code does.
    PerBucket,
}

/// The type that the model computes in. Weights and optimizer state are fp32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    Float32,
    /// 16 bits with the range of 32.
    Bfloat16,
}

/// What to do at a loss or gradient that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNonfinite {
    /// Stop, naming the step and its examples.
    Stop,
    /// Leave the step out, and count it.
    Skip,
}

impl Objective {
    /// The name in a pipeline file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sft {} => "sft",
            Self::Dpo { .. } => "dpo",
        }
    }

    /// Whether it compares with the start model, so that `train` needs a table of reference log-probabilities.
    pub fn needs_reference(&self) -> bool {
        match self {
            Self::Sft {} => false,
            Self::Dpo { .. } => true,
        }
    }
}

/// What `train` reads of an example. `bucket` and `position` come from `curriculum-sort`; without them the order is by `example_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainingExample {
    /// Names the example, in messages and for its reference log-probabilities.
    pub example_id: String,
    /// What stands before both sides.
    pub prompt: Vec<Segment>,
    /// The preferred side, or the only one.
    pub chosen: Vec<Segment>,
    /// The other side; empty where there is none.
    pub rejected: Vec<Segment>,
    /// Curriculum bucket.
    pub bucket: Option<u32>,
    /// Place in the whole order.
    pub position: Option<u32>,
}

/// One optimizer step: a row of the table `metrics`. Means are over the examples of the step's batch; log-probabilities are in nats.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainStep {
    /// The step, from 1.
    pub step: u64,
    /// Passes over the examples completed behind this step.
    pub epoch: f64,
    /// The objective over the batch; none where it was not finite and the step was skipped.
    pub loss: Option<f64>,
    /// Global norm of the gradient, before clipping; none as for `loss`.
    pub grad_norm: Option<f64>,
    /// The rate of this step.
    pub learning_rate: f64,
    /// Tokens in the batch that carry loss.
    pub num_weighted_tokens: u64,
    /// Tokens run so far, each shared prompt once.
    pub num_tokens: u64,
    /// Whether the step was left out because its loss or gradient was not finite.
    pub skipped: bool,
    /// Mean implicit reward of the chosen responses.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: Option<f64>,
    /// Mean implicit reward of the rejected responses.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: Option<f64>,
    /// Share of pairs whose chosen response has the higher implicit reward.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: Option<f64>,
    /// Mean difference of the two rewards.
    #[serde(rename = "rewards/margins")]
    pub rewards_margins: Option<f64>,
    /// Mean weighted log-probability of the chosen responses.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: Option<f64>,
    /// Mean weighted log-probability of the rejected responses.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: Option<f64>,
    /// Wall time of the step, in seconds. Measured.
    pub wall_s: f64,
}

impl Stage for Train {
    type Params = Params;
    const NAME: &'static str = "train";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "trains a model on weighted spans of examples: preference pairs (`dpo`) or single responses (`sft`)";
    const EXAMPLE: &'static str = r"
problems: { use: synthesize, with: { split: align, count: 20, seed: 1 } }
base: { use: model, with: { path: ../examples/models/tiny } }
blocks: { use: segment, from: problems, with: { full: false } }
middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { max_tokens: 64 } }
verdicts: { use: execute, from: { programs: middles, problems: problems }, with: { cpu_limit_s: 0.5, max_timeouts: 1 } }
pairs: { use: pair, from: { verdicts: verdicts, samples: middles, blocks: blocks, problems: problems } }
ordered: { use: curriculum-sort, from: pairs }
aligned: { use: train, from: { examples: ordered, model: base }, with: { objective: { dpo: { beta: 0.1 } }, learning_rate: 2.0e-5 } }
";
    const NOT_IN_KEY: &'static [&'static str] = &["micro_batch_tokens", "save_every_minutes"];

    fn declare(params: &Params, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        params.check()?;
        if params.repeat == Repeat::PerBucket
            && let Some(columns) = inputs.get("examples")
            && !columns.iter().any(|column| column.name == "bucket")
        {
            return Err(SchemaError::parameter(
                "repeat",
                "`per_bucket` needs examples with a column `bucket`: put a `curriculum-sort` before this stage, or repeat by `sweep`",
            ));
        }
        // Where the objective needs it and it is not connected, the expansion adds the stage that makes it.
        let reference = InputPort::table::<crate::columns::ReferenceLogprobs>(
            "reference",
            "the start model's log-probabilities, from `reference`",
        )
        .optional();
        let inputs = vec![
            InputPort::table::<TrainingExample>("examples", "what is trained on"),
            InputPort::model("model", "the model that training starts from"),
            reference,
        ];
        let outputs = vec![
            OutputPort::model("model", "the trained model, as a Hugging Face folder"),
            OutputPort::table("metrics", columns_of::<TrainStep>(), "a row a step").measured(&["wall_s"]),
            OutputPort::table("dropped", columns_of::<Dropped>(), "examples that were left out, and why"),
        ];
        Ok(Declaration::whole(inputs, outputs).in_place(Place::Torch).repeatable(Repeatable::SameMachine))
    }

    fn expand(params: &Params, site: &UseSite) -> Option<Expansion> {
        if !params.objective.needs_reference() || site.connected.iter().any(|port| port == "reference") {
            return None;
        }
        let given = |port| (String::from(port), Source::Given(port));
        let reference = AddedStage {
            suffix: "reference",
            kind: "reference",
            with: json!({ "max_tokens": params.max_tokens, "dtype": params.dtype }),
            from: BTreeMap::from([given("examples"), given("model")]),
        };
        let added = Source::Added { suffix: "reference", port: None };
        Some(Expansion {
            added: vec![reference],
            kind: Self::NAME,
            with: serde_json::to_value(params).expect("parameters came from JSON and go back to it"),
            from: BTreeMap::from([given("examples"), given("model"), ("reference".to_owned(), added)]),
        })
    }
}

impl Params {
    /// Finds parameters out of their range.
    fn check(&self) -> Result<(), SchemaError> {
        let mut checks = vec![
            ("learning_rate", self.learning_rate > 0.0 && self.learning_rate.is_finite(), "a rate above 0"),
            ("warmup_ratio", (0.0..=1.0).contains(&self.warmup_ratio), "a share from 0 to 1"),
            ("epochs", self.epochs > 0, "at least 1"),
            ("max_steps", self.max_steps != Some(0), "at least 1"),
            ("batch_size", self.batch_size > 0, "at least 1"),
            ("micro_batch_tokens", self.micro_batch_tokens > 0, "at least 1"),
            ("max_tokens", self.max_tokens > 0, "at least 1"),
            ("clip", self.clip.is_none_or(|clip| clip > 0.0), "a norm above 0, or null"),
            ("save_every_minutes", self.save_every_minutes >= 0.0, "0 or more"),
        ];
        match self.objective {
            Objective::Sft {} => {}
            Objective::Dpo { beta, label_smoothing, nll } => {
                checks.push(("objective.dpo.beta", beta > 0.0 && beta.is_finite(), "a number above 0"));
                let in_range = (0.0..0.5).contains(&label_smoothing);
                checks.push(("objective.dpo.label_smoothing", in_range, "a probability from 0 to below 0.5"));
                checks.push(("objective.dpo.nll", nll >= 0.0 && nll.is_finite(), "0 or more"));
            }
        }
        let decays = |values: &[f64]| values.iter().all(|value| (0.0..1.0).contains(value));
        match self.optimizer {
            Optimizer::Rmsprop { alpha, eps } => {
                checks.push(("optimizer.rmsprop.alpha", decays(&[alpha]), "a decay from 0 to below 1"));
                checks.push(("optimizer.rmsprop.eps", eps > 0.0, "a number above 0"));
            }
            Optimizer::Adamw { beta1, beta2, eps, weight_decay } => {
                checks.push(("optimizer.adamw.beta1", decays(&[beta1]), "a decay from 0 to below 1"));
                checks.push(("optimizer.adamw.beta2", decays(&[beta2]), "a decay from 0 to below 1"));
                checks.push(("optimizer.adamw.eps", eps > 0.0, "a number above 0"));
                checks.push(("optimizer.adamw.weight_decay", weight_decay >= 0.0, "0 or more"));
            }
        }
        if let Schedule::CosineWithMinLr { min_ratio } = self.schedule {
            checks.push((
                "schedule.cosine_with_min_lr.min_ratio",
                (0.0..=1.0).contains(&min_ratio),
                "a share from 0 to 1",
            ));
        }
        match checks.into_iter().find(|&(_, right, _)| !right) {
            Some((name, _, expected)) => Err(SchemaError::parameter(name, format!("expected {expected}"))),
            None => Ok(()),
        }
    }
}

fn default_optimizer() -> Optimizer {
    Optimizer::Rmsprop { alpha: default_alpha(), eps: default_eps() }
}

fn default_learning_rate() -> f64 {
    1e-6
}

fn default_schedule() -> Schedule {
    Schedule::Cosine
}

fn default_warmup_ratio() -> f64 {
    0.05
}

fn default_epochs() -> u32 {
    3
}

fn default_batch_size() -> usize {
    16
}

fn default_micro_batch_tokens() -> usize {
    4096
}

fn default_max_tokens() -> usize {
    2048
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional parameter")]
fn default_clip() -> Option<f64> {
    Some(1.0)
}

fn default_seed() -> u64 {
    17
}

fn default_repeat() -> Repeat {
    Repeat::Sweep
}

fn default_dtype() -> Dtype {
    Dtype::Float32
}

fn default_on_nonfinite() -> OnNonfinite {
    OnNonfinite::Stop
}

fn default_save_every_minutes() -> f64 {
    2.0
}

fn default_beta() -> f64 {
    0.1
}

fn default_alpha() -> f64 {
    0.99
}

fn default_eps() -> f64 {
    1e-8
}

fn default_beta1() -> f64 {
    0.9
}

fn default_beta2() -> f64 {
    0.999
}

fn default_min_ratio() -> f64 {
    0.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(with: serde_json::Value) -> Params {
        serde_json::from_value(with).unwrap()
    }

    #[test]
    fn dpo_without_a_reference_gets_a_reference_stage_of_its_own() {
        let params = params(json!({ "objective": { "dpo": {} }, "max_tokens": 512 }));
        let site = UseSite { connected: vec!["examples".into(), "model".into()] };
        let expansion = Train::expand(&params, &site).unwrap();
        assert_eq!(expansion.kind, "train");
        assert_eq!(expansion.added[0].kind, "reference");
        assert_eq!(expansion.added[0].with, json!({ "max_tokens": 512, "dtype": "float32" }));
        assert_eq!(expansion.from["reference"], Source::Added { suffix: "reference", port: None });
        let again: Params = serde_json::from_value(expansion.with).unwrap();
        assert_eq!(again, params);
        let connected = UseSite { connected: expansion.from.into_keys().collect() };
        assert!(Train::expand(&again, &connected).is_none());
    }

    #[test]
    fn sft_needs_no_reference() {
        let params = params(json!({ "objective": { "sft": {} } }));
        assert!(Train::expand(&params, &UseSite { connected: vec!["examples".into()] }).is_none());
        assert!(Train::declare(&params, &InputSchemas::new()).unwrap().inputs[2].optional);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let wrong = params(json!({ "objective": { "dpo": { "label_smoothing": 0.7 } } }));
        let error = Train::declare(&wrong, &InputSchemas::new()).unwrap_err();
        assert_eq!(error.parameter.as_deref(), Some("objective.dpo.label_smoothing"));
        let wrong = params(json!({ "objective": { "sft": {} }, "micro_batch_tokens": 0 }));
        let error = Train::declare(&wrong, &InputSchemas::new()).unwrap_err();
        assert_eq!(error.parameter.as_deref(), Some("micro_batch_tokens"));
    }

    #[test]
    fn per_bucket_wants_a_bucket_column() {
        let params = params(json!({ "objective": { "sft": {} }, "repeat": "per_bucket" }));
        let plain = InputSchemas::from([("examples".into(), columns_of::<crate::columns::Example>())]);
        assert_eq!(Train::declare(&params, &plain).unwrap_err().parameter.as_deref(), Some("repeat"));
        let ordered = InputSchemas::from([("examples".into(), columns_of::<crate::columns::OrderedExample>())]);
        assert!(Train::declare(&params, &ordered).is_ok());
    }
}
