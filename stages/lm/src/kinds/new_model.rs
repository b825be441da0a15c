//! Opens the kind `new-model`.

use std::path::PathBuf;

use ablate_stages::job::{Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use ablate_stages::new_model::{ExampleText, Params};
use ablate_stages::stage::StageError;

use super::{failed, kind_of};
use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::{device, fresh};

/// Opens the job.
///
/// # Errors
/// Never; it has the form of the other kinds.
pub fn open(params: Params, cx: &OpenContext) -> Result<Job, StageError> {
    device::set_threads(cx.threads);
    Ok(Job::Whole(Box::new(NewModelJob { params, scratch: cx.scratch.clone() })))
}

struct NewModelJob {
    params: Params,
    scratch: PathBuf,
}

impl WholeJob for NewModelJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let mut examples: Vec<ExampleText> = inputs.read("examples")?;
        examples.sort_by(|a, b| a.example_id.cmp(&b.example_id));
        examples.truncate(self.params.tokenizer_examples);
        let segments = examples.iter().flat_map(|example| example.prompt.iter().chain(&example.chosen));
        let texts: Vec<&str> = segments.filter_map(|segment| segment.text.as_deref()).collect();
        if texts.is_empty() {
            return Err(StageError::input("examples", "there is no text to learn a tokenizer from"));
        }
        let tokenizer = fresh::learn_tokenizer(&texts, self.params.vocab_size).map_err(failed)?;
        let folder = self.scratch.join("model");
        std::fs::create_dir_all(&folder)?;
        let kind = kind_of(self.params.save_dtype);
        fresh::write(&folder, &config(&self.params), &tokenizer, self.params.seed, kind).map_err(failed)?;
        out.model("model", folder)
    }
}

/// Returns the configuration that the parameters describe.
fn config(params: &Params) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen2,
        vocab_size: params.vocab_size.into(),
        hidden_size: params.hidden_size.into(),
        intermediate_size: params.intermediate_size.into(),
        num_layers: params.num_hidden_layers.into(),
        num_heads: params.num_attention_heads.into(),
        num_kv_heads: params.num_key_value_heads.into(),
        head_dim: (params.hidden_size / params.num_attention_heads).into(),
        rms_norm_eps: params.rms_norm_eps,
        rope_theta: params.rope_theta,
        rope_scaling: RopeScaling::Default,
        max_positions: params.max_position_embeddings.into(),
        tie_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        eos_token_ids: vec![fresh::END],
        bos_token_id: None,
    }
}
