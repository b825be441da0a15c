//! Kind `new-model`: an untrained model, with a tokenizer learned from the text of examples.
//!
//! Reads the text segments of `examples`; writes a Hugging Face folder: a Qwen2-like decoder with random weights (normal, drawn
//! by parameter name from the seed, so the same everywhere up to the last bit of `ln` and `cos`) and a byte-level BPE tokenizer
//! whose pieces never join a newline or an indentation with what follows, so that blocks cut at lines never cut a token. The
//! tokenizer knows the fill-in-the-middle tokens, the folder a chat template. `train` with `{ sft: {} }` makes a base model of it.

use crate::columns::Segment;
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, Place, Repeatable, SchemaError, Stage};
use crate::train::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind `new-model`.
#[derive(Debug)]
pub struct NewModel;

/// Parameters of `new-model`; the names are those of a Hugging Face `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Width of the residual stream.
    #[serde(default = "default_hidden_size")]
    pub hidden_size: u32,
    /// Width of the feed-forward layers.
    #[serde(default = "default_intermediate_size")]
    pub intermediate_size: u32,
    /// Number of layers.
    #[serde(default = "default_num_hidden_layers")]
    pub num_hidden_layers: u32,
    /// Attention heads; they divide `hidden_size` into even parts.
    #[serde(default = "default_num_attention_heads")]
    pub num_attention_heads: u32,
    /// Key and value heads; they divide `num_attention_heads`.
    #[serde(default = "default_num_key_value_heads")]
    pub num_key_value_heads: u32,
    /// Longest sequence, in tokens.
    #[serde(default = "default_max_position_embeddings")]
    pub max_position_embeddings: u32,
    /// Base of the rotary position embedding.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Added to the mean square in normalisations.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Tokens of the vocabulary, the special ones and the 256 bytes included.
    #[serde(default = "default_vocab_size")]
    pub vocab_size: u32,
    /// The tokenizer is learned from the first so many examples by `example_id`.
    #[serde(default = "default_tokenizer_examples")]
    pub tokenizer_examples: usize,
    /// Seed of the random weights.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// What the weights are stored in.
    #[serde(default = "default_dtype")]
    pub save_dtype: Dtype,
}

fn default_hidden_size() -> u32 {
    128
}

fn default_intermediate_size() -> u32 {
    384
}

fn default_num_hidden_layers() -> u32 {
    4
}

fn default_num_attention_heads() -> u32 {
    4
}

fn default_num_key_value_heads() -> u32 {
    2
}

fn default_max_position_embeddings() -> u32 {
    512
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_rms_norm_eps() -> f64 {
    1e-6
}

fn default_vocab_size() -> u32 {
    768
}

fn default_tokenizer_examples() -> usize {
    8000
}

fn default_seed() -> u64 {
    17
}

fn default_dtype() -> Dtype {
    Dtype::Float32
}

/// What `new-model` reads of an example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExampleText {
    /// Names the example, and orders it.
    pub example_id: String,
    /// What stands before the response.
    pub prompt: Vec<Segment>,
    /// The response.
    pub chosen: Vec<Segment>,
}

impl Stage for NewModel {
    type Params = Params;
    const NAME: &'static str = "new-model";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "makes an untrained model with a tokenizer learned from the text of examples";
    const EXAMPLE: &'static str = r"
problems: { use: synthesize, with: { split: base, count: 50, seed: 1 } }
documents: { use: documents, from: problems }
fresh: { use: new-model, from: { examples: documents }, with: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, vocab_size: 300 } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let heads = (params.num_attention_heads, params.num_key_value_heads);
        let checks = [
            ("num_hidden_layers", params.num_hidden_layers > 0, "at least 1".to_owned()),
            ("intermediate_size", params.intermediate_size > 0, "at least 1".to_owned()),
            ("num_attention_heads", heads.0 > 0, "at least 1".to_owned()),
            (
                "hidden_size",
                params.hidden_size > 0 && heads.0 > 0 && params.hidden_size.is_multiple_of(2 * heads.0),
                format!("a multiple of twice num_attention_heads ({})", 2 * heads.0),
            ),
            (
                "num_key_value_heads",
                heads.1 > 0 && heads.0.is_multiple_of(heads.1),
                format!("a divisor of num_attention_heads ({})", heads.0),
            ),
            ("vocab_size", params.vocab_size >= 280, "at least 280 (256 bytes, and special tokens)".to_owned()),
            ("max_position_embeddings", params.max_position_embeddings > 0, "at least 1".to_owned()),
            ("tokenizer_examples", params.tokenizer_examples > 0, "at least 1".to_owned()),
        ];
        if let Some((name, _, expected)) = checks.into_iter().find(|(_, right, _)| !right) {
            return Err(SchemaError::parameter(name, format!("expected {expected}")));
        }
        let inputs = vec![InputPort::table::<ExampleText>("examples", "the text that the tokenizer learns from")];
        let outputs = vec![OutputPort::model("model", "the untrained model, as a Hugging Face folder")];
        Ok(Declaration::whole(inputs, outputs).in_place(Place::Torch).repeatable(Repeatable::SameMachine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_do_not_divide_the_width_are_refused_by_name() {
        let params: Params = serde_json::from_value(serde_json::json!({ "hidden_size": 100 })).unwrap();
        let error = NewModel::declare(&params, &InputSchemas::new()).unwrap_err();
        assert_eq!(error.parameter.as_deref(), Some("hidden_size"));
        let right: Params = serde_json::from_value(serde_json::json!({})).unwrap();
        assert!(NewModel::declare(&right, &InputSchemas::new()).is_ok());
    }
}
