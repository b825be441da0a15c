//! Kind `reference`: log-probabilities of the weighted tokens of examples under a frozen model.
//!
//! Preference objectives compare the model that is trained with the one it started from. What that one says never changes, so it
//! is computed once, kept, and used by every objective, beta and seed of a study; the reference model is not in memory during
//! training. Reads the columns of `examples` that make tokens, and a model; writes one row an example.
//! Examples too long to be trained on are dropped and counted. Log-probabilities differ by rounding between machines.

use crate::columns::{ReferenceLogprobs, Segment, columns_of};
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Stage};
use crate::train::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind `reference`.
#[derive(Debug)]
pub struct Reference;

/// Parameters of `reference`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Examples with a side (prompt and response) of more tokens are dropped, as `train` will leave them out.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What the model computes in; that of the training it is for.
    #[serde(default = "default_dtype")]
    pub dtype: Dtype,
}

fn default_max_tokens() -> usize {
    2048
}

fn default_dtype() -> Dtype {
    Dtype::Float32
}

/// What `reference` reads of an example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoredExample {
    /// Names the example.
    pub example_id: String,
    /// What stands before both sides.
    pub prompt: Vec<Segment>,
    /// The preferred side, or the only one.
    pub chosen: Vec<Segment>,
    /// The other side; empty where there is none.
    pub rejected: Vec<Segment>,
}

impl Stage for Reference {
    type Params = Params;
    const NAME: &'static str = "reference";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "gives the log-probabilities of the weighted tokens of examples under a frozen model, for `train`";
    const EXAMPLE: &'static str = r"
problems: { use: synthesize, with: { split: align, count: 20, seed: 1 } }
base: { use: model, with: { path: ../examples/models/tiny } }
blocks: { use: segment, from: problems, with: { full: false } }
middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { max_tokens: 64 } }
verdicts: { use: execute, from: { programs: middles, problems: problems }, with: { cpu_limit_s: 0.5, max_timeouts: 1 } }
pairs: { use: pair, from: { verdicts: verdicts, samples: middles, blocks: blocks, problems: problems } }
logprobs: { use: reference, from: { examples: pairs, model: base } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.max_tokens == 0 {
            return Err(SchemaError::parameter("max_tokens", "expected at least 1"));
        }
        let inputs = vec![
            InputPort::rows::<ScoredExample>("examples", "what is scored"),
            InputPort::model("model", "the frozen model"),
        ];
        let output = OutputPort::table("logprobs", columns_of::<ReferenceLogprobs>(), "a row an example");
        Ok(Declaration::map(inputs, output).in_place(Place::Torch).repeatable(Repeatable::SameMachine))
    }
}
