//! Small models for tests: random weights, a byte-level BPE tokenizer with FIM and chat tokens, a chat template.
//! Nothing is downloaded and nothing outside Rust is needed.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::error::{ModelError, Result};
use crate::transformer::Transformer;
use crate::weights;

/// The special tokens of the test tokenizer, in the order of their ids.
pub const SPECIALS: [&str; 7] =
    ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];

/// The chat template of the test models: `ChatML`, with a default system text.
pub const CHAT_TEMPLATE: &str = "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou write Python.<|im_end|>\\n' }}{%- endif %}\
{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

/// Returns a Qwen2 configuration of 2 layers and 32 dimensions over the test tokenizer's vocabulary.
pub fn tiny_config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen2,
        vocab_size: SPECIALS.len() as i64 + 256 + 2,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        max_positions: 256,
        tie_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        eos_token_ids: vec![3],
        bos_token_id: None,
    }
}

/// Returns a Llama configuration of the same size, with an untied head and scaled rotary positions.
pub fn tiny_llama_config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        tie_embeddings: false,
        qkv_bias: false,
        rope_scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 32.0,
        },
        ..tiny_config()
    }
}

/// Returns the `tokenizer.json` of the test models: all bytes, two merges (`de`, `def`), the special tokens.
pub fn tokenizer_json() -> Value {
    let mut vocab = serde_json::Map::new();
    for (id, token) in SPECIALS.iter().enumerate() {
        vocab.insert((*token).to_string(), json!(id));
    }
    let merges = ["d e", "de f"];
    for piece in byte_alphabet().into_iter().map(String::from).chain(merges.iter().map(|merge| merge.replace(' ', "")))
    {
        vocab.insert(piece, json!(vocab.len()));
    }
    let added: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, token)| json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": r"\n| {2,}| ?[A-Za-z_]+|[0-9]| ?[^\sA-Za-z0-9_]+| " }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false } ] },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges },
    })
}

/// The characters that byte-level BPE writes the 256 bytes as, by byte.
fn byte_alphabet() -> Vec<char> {
    let plain = |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut next = 256;
    (0..256)
        .map(|byte| {
            let code = if plain(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("codes below 512 are characters")
        })
        .collect()
}

/// Writes a model folder with random weights: configuration, weights in `kind`, tokenizer, chat template, generation settings.
///
/// # Errors
/// `Io` if a file cannot be written.
pub fn write_model(folder: &Path, config: &ModelConfig, seed: u64, kind: Kind) -> Result<()> {
    let model = Transformer::random(config.clone(), seed, kind, Device::Cpu)?;
    let write = |name: &str, value: &Value| {
        let path = folder.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(ModelError::io(&path))
    };
    write("config.json", &config.to_json(weights::dtype_name(kind)))?;
    write("tokenizer.json", &tokenizer_json())?;
    write(
        "tokenizer_config.json",
        &json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|pad|>",
            "clean_up_tokenization_spaces": false, "model_max_length": config.max_positions, "chat_template": CHAT_TEMPLATE }),
    )?;
    write("generation_config.json", &json!({ "eos_token_id": [3, 1], "pad_token_id": 0, "do_sample": false }))?;
    weights::write(folder, model.parameters(), kind, weights::MAX_SHARD_BYTES)?;
    Ok(())
}
