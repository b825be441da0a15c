//! `fim-generate`: has a model write blocks again, several times each.
//!
//! Columns in: `blocks` (`block_id`, `problem_id`, `kind`, `prefix`, `middle`, `suffix`), `problems` (question, starter code, test style). Out: `samples`.
//! A block is a hole between prefix and suffix, with the question as a comment before the prefix; a `full` block is a conversation.
//! Cost: the model's. Determinism: every sample has a random stream of its own; what a model computes differs by rounding between machines.
//! Source: `StructureCoder`, <https://arxiv.org/abs/2508.19532>, section 3.2 and its released code (5 samples, temperature 0.7, top-p 0.95, 512 tokens).

use crate::code::cut::{Cut, CutBy};
use crate::code::prompts::{Asked, PromptStyle};
use crate::code::request::{BlockToFill, Request, UnknownKind};
use crate::columns::{SAMPLE_MEASURED, Sample, columns_of};
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Stage};
use crate::train::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct FimGenerate;

/// Parameters of `fim-generate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Samples a block.
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
    /// Whether the model has to begin with the indentation and the keyword of the reference block.
    pub force_start: bool,
    /// How the end of the generated block is found.
    pub cut: CutBy,
    /// Whether a generated `for` or `while` keeps its `else`.
    pub loop_else: bool,
    /// How problems are asked.
    pub prompt: PromptStyle,
    /// The type that the model computes in.
    pub dtype: Dtype,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            samples: 5,
            temperature: 0.7,
            top_p: 0.95,
            top_k: None,
            max_tokens: 512,
            seed: 17,
            force_start: true,
            cut: CutBy::Statement,
            loop_else: true,
            prompt: PromptStyle::default(),
            dtype: Dtype::Float32,
        }
    }
}

impl Params {
    /// The request for a block. Opened in the crate `lm`, which reads [`BlockToFill`] rows from `blocks` and [`Asked`] from `problems`.
    ///
    /// # Errors
    /// Where the block's kind is none.
    pub fn request(&self, block: &BlockToFill, problem: &Asked) -> Result<Request, UnknownKind> {
        let cut = Cut { by: self.cut, loop_else: self.loop_else };
        Request::fill(&self.prompt, cut, self.force_start, block, problem)
    }
}

/// Refuses settings of a sampler that mean nothing.
pub(crate) fn check_sampling(
    samples: u32,
    temperature: f64,
    top_p: f64,
    top_k: Option<u32>,
    max_tokens: u32,
) -> Result<(), SchemaError> {
    let refuse = |name, problem: String| Err(SchemaError::parameter(name, problem));
    if samples == 0 {
        return refuse("samples", "expected at least 1, got 0".into());
    }
    if !(temperature >= 0.0 && temperature.is_finite()) {
        return refuse("temperature", format!("expected 0 or more, got {temperature}"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return refuse("top_p", format!("expected more than 0 and at most 1, got {top_p}"));
    }
    if top_k == Some(0) {
        return refuse("top_k", "expected at least 1, or null for no limit, got 0".into());
    }
    if max_tokens == 0 {
        return refuse("max_tokens", "expected at least 1, got 0".into());
    }
    if temperature == 0.0 && samples > 1 {
        return refuse(
            "samples",
            format!("expected 1 at temperature 0, where all samples are equal, got {samples}; raise the temperature"),
        );
    }
    Ok(())
}

impl Stage for FimGenerate {
    type Params = Params;
    const NAME: &'static str = "fim-generate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Has a model write blocks again as holes between their prefix and suffix, several times each.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl, limit: 12 } }
base: { use: model, with: { path: ../examples/models/tiny } }
blocks: { use: segment, from: problems }
middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 2, max_tokens: 64 } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        check_sampling(params.samples, params.temperature, params.top_p, params.top_k, params.max_tokens)?;
        let inputs = vec![
            InputPort::rows::<BlockToFill>("blocks", "the blocks to write again"),
            InputPort::lookup::<Asked>("problems", "problem_id", "the problems they belong to"),
            InputPort::model("model", "who writes"),
        ];
        let samples =
            OutputPort::table("samples", columns_of::<Sample>(), "what was written, and the program it makes")
                .measured(SAMPLE_MEASURED);
        Ok(Declaration::map(inputs, samples).in_place(Place::Torch).repeatable(Repeatable::SameMachine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::AnyStage;
    use serde_json::json;

    #[test]
    fn settings_without_meaning_are_refused_by_name() {
        let refused = |with: serde_json::Value| {
            let bound = FimGenerate.bind(with).expect("the types are right");
            let error = bound.declare(&InputSchemas::new()).expect_err("the values are not");
            error.parameter.expect("a parameter is named")
        };
        assert_eq!(refused(json!({ "samples": 0 })), "samples");
        assert_eq!(refused(json!({ "temperature": -1.0 })), "temperature");
        assert_eq!(refused(json!({ "top_p": 0.0 })), "top_p");
        assert_eq!(refused(json!({ "top_k": 0 })), "top_k");
        assert_eq!(refused(json!({ "max_tokens": 0 })), "max_tokens");
        assert_eq!(refused(json!({ "temperature": 0.0 })), "samples");
    }
}
