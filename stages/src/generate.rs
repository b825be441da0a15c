//! `generate`: has a model solve problems in a conversation.
//!
//! Columns in: `problems` (question, starter code, test style). Out: `samples`, whose text is the code inside the fence.
//! The answer is made to begin with the prefill (an open fence) and the problem's starter code; it ends at the closing fence.
//! Cost: the model's. Determinism: as `fim-generate`; the default is greedy.

use crate::code::prompts::{Asked, PromptStyle};
use crate::code::request::Request;
use crate::columns::{SAMPLE_MEASURED, Sample, columns_of};
use crate::fim_generate::check_sampling;
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Stage};
use crate::train::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Generate;

/// Parameters of `generate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Samples a problem.
    pub samples: u32,
    /// Softness of the choice of tokens; 0 takes the most likely one.
    pub temperature: f64,
    /// Tokens are drawn from the most likely ones that together have this probability.
    pub top_p: f64,
    /// Tokens are drawn from this many most likely ones; null for no limit.
    pub top_k: Option<u32>,
    /// Most tokens of a sample.
    pub max_tokens: u32,
    /// Seed of the draws.
    pub seed: u64,
    /// Strings that end the code besides the closing fence (`"\nassert"`).
    pub stop: Vec<String>,
    /// How problems are asked.
    pub prompt: PromptStyle,
    /// The type that the model computes in.
    pub dtype: Dtype,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            samples: 1,
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            max_tokens: 1024,
            seed: 17,
            stop: Vec::new(),
            prompt: PromptStyle::default(),
            dtype: Dtype::Float32,
        }
    }
}

impl Params {
    /// The request for a problem. Opened in the crate `lm`, which reads [`Asked`] rows from `problems`.
    pub fn request(&self, problem: &Asked) -> Request {
        Request::chat(&self.prompt, self.stop.clone(), problem)
    }
}

impl Stage for Generate {
    type Params = Params;
    const NAME: &'static str = "generate";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Has a model solve problems in a conversation; greedy by default.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/heldout.jsonl, limit: 12 } }
base: { use: model, with: { path: ../examples/models/tiny } }
answers: { use: generate, from: { problems: problems, model: base }, with: { max_tokens: 64 } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        check_sampling(params.samples, params.temperature, params.top_p, params.top_k, params.max_tokens)?;
        let inputs = vec![
            InputPort::rows::<Asked>("problems", "the problems to solve"),
            InputPort::model("model", "who solves them"),
        ];
        let samples =
            OutputPort::table("samples", columns_of::<Sample>(), "what was written, and the program it makes")
                .measured(SAMPLE_MEASURED);
        Ok(Declaration::map(inputs, samples).in_place(Place::Torch).repeatable(Repeatable::SameMachine))
    }
}
