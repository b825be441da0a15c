//! `config.json` of a Hugging Face model folder, for the two families that [`crate::transformer`] runs: Qwen2 and Llama.
//!
//! Whatever would change the numbers and is not implemented is refused by name: a model never runs almost right.
//! Both spellings of the rotary settings are read: `rope_theta` + `rope_scaling`, and the newer `rope_parameters`.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result, read_json};

/// The model classes that are supported, as `architectures` in `config.json` names them.
pub const ARCHITECTURES: [&str; 2] = ["Qwen2ForCausalLM", "LlamaForCausalLM"];

/// The kinds of rotary scaling that are supported, as `rope_type` names them.
pub const ROPE_TYPES: [&str; 4] = ["default", "linear", "llama3", "yarn"];

/// A model family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `Qwen2ForCausalLM`: biases on queries, keys and values.
    Qwen2,
    /// `LlamaForCausalLM`: no biases unless the configuration says so.
    Llama,
}

/// How rotary frequencies are stretched for contexts longer than the model was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As in Su et al. 2021.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, smooth in between.
    Llama3 {
        /// The stretch of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are left alone.
        high_freq_factor: f64,
        /// The context of the first training, in tokens.
        original_max_positions: f64,
    },
    /// `YaRN`, Peng et al. 2023.
    Yarn {
        /// The stretch.
        factor: f64,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is stretched.
        beta_slow: f64,
        /// The context of the first training, in tokens.
        original_max_positions: f64,
        /// Whether the borders of the ramp are rounded to whole dimensions.
        truncate: bool,
    },
}

/// What `config.json` says about a model.
#[expect(clippy::struct_excessive_bools, reason = "config.json has them")]
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding; may exceed the tokenizer's vocabulary.
    pub vocab_size: i64,
    /// Size of the residual stream.
    pub hidden_size: i64,
    /// Size of the feed-forward's inner layer.
    pub intermediate_size: i64,
    /// Number of decoder layers.
    pub num_layers: i64,
    /// Number of query heads.
    pub num_heads: i64,
    /// Number of key and value heads; divides `num_heads`.
    pub num_kv_heads: i64,
    /// Size of a head.
    pub head_dim: i64,
    /// Added to the variance in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How they are stretched.
    pub rope_scaling: RopeScaling,
    /// Longest sequence, in tokens.
    pub max_positions: i64,
    /// Whether the head is the embedding.
    pub tie_embeddings: bool,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward matrices have a bias.
    pub mlp_bias: bool,
    /// Token ids that end a text.
    pub eos_token_ids: Vec<i64>,
    /// The token id that opens a text, where the model has one.
    pub bos_token_id: Option<i64>,
}

impl ModelConfig {
    /// Reads `config.json` in a model folder.
    ///
    /// # Errors
    /// `Io` or `Json` if it cannot be read; `Config` says which setting is missing, wrong or not supported.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let value = read_json(&path)?;
        Self::from_json(&value).map_err(|problem| ModelError::config(&path, problem))
    }

    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// One sentence on the setting that is missing, wrong or not supported.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let map = value.as_object().ok_or("expected a JSON object")?;
        let architecture = architecture(map)?;
        let positive = |key: &str| -> Result<i64, String> {
            integer(map, key)?
                .ok_or_else(|| format!("{key} is missing"))
                .and_then(|n| if n > 0 { Ok(n) } else { Err(format!("{key}: expected a positive number, got {n}")) })
        };
        let hidden_size = positive("hidden_size")?;
        let num_heads = positive("num_attention_heads")?;
        let num_kv_heads = integer(map, "num_key_value_heads")?.unwrap_or(num_heads);
        let head_dim = match integer(map, "head_dim")? {
            Some(size) => size,
            None if hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => {
                return Err(format!("hidden_size {hidden_size} is not divisible by num_attention_heads {num_heads}"));
            }
        };
        if num_kv_heads <= 0 || num_heads % num_kv_heads != 0 {
            return Err(format!(
                "num_attention_heads {num_heads} is not divisible by num_key_value_heads {num_kv_heads}"
            ));
        }
        if head_dim <= 0 || head_dim % 2 != 0 {
            return Err(format!("head_dim: rotary positions need an even size, got {head_dim}"));
        }
        if let Some(act) = map.get("hidden_act").and_then(Value::as_str).filter(|act| *act != "silu") {
            return Err(format!("hidden_act: only silu is supported, got {act}"));
        }
        if flag(map, "use_sliding_window")?.unwrap_or(false) {
            return Err("use_sliding_window: sliding-window attention is not supported".into());
        }
        if map.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return Err("quantization_config: quantized weights are not supported; use the bf16 or fp32 model".into());
        }
        let max_positions = integer(map, "max_position_embeddings")?.unwrap_or(2048);
        let (rope_theta, rope_scaling) = rope(map, max_positions)?;
        let llama_bias = flag(map, "attention_bias")?.unwrap_or(false);
        Ok(Self {
            architecture,
            vocab_size: positive("vocab_size")?,
            hidden_size,
            intermediate_size: positive("intermediate_size")?,
            num_layers: positive("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: number(map, "rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_positions,
            tie_embeddings: flag(map, "tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: architecture == Architecture::Qwen2 || llama_bias,
            output_bias: architecture == Architecture::Llama && llama_bias,
            mlp_bias: architecture == Architecture::Llama && flag(map, "mlp_bias")?.unwrap_or(false),
            eos_token_ids: token_ids(map, "eos_token_id")?,
            bos_token_id: token_ids(map, "bos_token_id")?.first().copied(),
        })
    }

    /// Returns the `config.json` of a model made here, as `transformers` writes it.
    pub fn to_json(&self, dtype: &str) -> Value {
        let (class, model_type) = match self.architecture {
            Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Architecture::Llama => ("LlamaForCausalLM", "llama"),
        };
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "use_cache": true,
            "torch_dtype": dtype,
        });
        let map = config.as_object_mut().expect("the literal above is an object");
        if self.architecture == Architecture::Llama {
            map.insert("attention_bias".into(), json!(self.qkv_bias));
            map.insert("mlp_bias".into(), json!(self.mlp_bias));
        }
        let scaling = match &self.rope_scaling {
            RopeScaling::Default => None,
            RopeScaling::Linear { factor } => Some(json!({ "rope_type": "linear", "factor": factor })),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => Some(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": *original_max_positions as i64,
            })),
            RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original_max_positions, truncate } => {
                Some(json!({
                    "rope_type": "yarn", "factor": factor, "attention_factor": attention_factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
                    "truncate": truncate, "original_max_position_embeddings": *original_max_positions as i64,
                }))
            }
        };
        if let Some(scaling) = scaling {
            map.insert("rope_scaling".into(), scaling);
        }
        config
    }

    /// Returns every parameter's name in the Hugging Face layout and its shape. A tied head is not among them.
    pub fn parameter_shapes(&self) -> BTreeMap<String, Vec<i64>> {
        let (d, ff) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let mut shapes = BTreeMap::new();
        shapes.insert("model.embed_tokens.weight".to_string(), vec![self.vocab_size, d]);
        shapes.insert("model.norm.weight".to_string(), vec![d]);
        if !self.tie_embeddings {
            shapes.insert("lm_head.weight".to_string(), vec![self.vocab_size, d]);
        }
        for index in 0..self.num_layers {
            let at = format!("model.layers.{index}");
            shapes.insert(format!("{at}.input_layernorm.weight"), vec![d]);
            shapes.insert(format!("{at}.post_attention_layernorm.weight"), vec![d]);
            let matrices = [
                ("self_attn.q_proj", q, d, self.qkv_bias),
                ("self_attn.k_proj", kv, d, self.qkv_bias),
                ("self_attn.v_proj", kv, d, self.qkv_bias),
                ("self_attn.o_proj", d, q, self.output_bias),
                ("mlp.gate_proj", ff, d, self.mlp_bias),
                ("mlp.up_proj", ff, d, self.mlp_bias),
                ("mlp.down_proj", d, ff, self.mlp_bias),
            ];
            for (name, rows, columns, bias) in matrices {
                shapes.insert(format!("{at}.{name}.weight"), vec![rows, columns]);
                if bias {
                    shapes.insert(format!("{at}.{name}.bias"), vec![rows]);
                }
            }
        }
        shapes
    }

    /// Returns the number of parameters, and how many of them are not embedding or head.
    pub fn num_parameters(&self) -> (i64, i64) {
        let mut total = 0;
        let mut outer = 0;
        for (name, shape) in self.parameter_shapes() {
            let count: i64 = shape.iter().product();
            total += count;
            if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
                outer += count;
            }
        }
        (total, total - outer)
    }

    /// Returns the rotary frequencies, radians a token, `head_dim / 2` of them, and the factor on cosines and sines.
    pub fn inverse_frequencies(&self) -> (Vec<f32>, f64) {
        let size = self.head_dim as f64;
        let plain: Vec<f64> = (0..self.head_dim / 2).map(|i| self.rope_theta.powf(-2.0 * i as f64 / size)).collect();
        let (frequencies, scale): (Vec<f64>, f64) = match self.rope_scaling {
            RopeScaling::Default => (plain, 1.0),
            RopeScaling::Linear { factor } => (plain.into_iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let scaled = |f: f64| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength > original_max_positions / low_freq_factor {
                        f / factor
                    } else if wavelength < original_max_positions / high_freq_factor {
                        f
                    } else {
                        let smooth = (original_max_positions / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (plain.into_iter().map(scaled).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original_max_positions, truncate } => {
                let dimension = |rotations: f64| {
                    size * (original_max_positions / (rotations * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln())
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(size - 1.0));
                if (high - low).abs() < f64::EPSILON {
                    high += 0.001;
                }
                let mixed = plain.into_iter().enumerate().map(|(i, f)| {
                    let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * stretched + f * (1.0 - stretched)
                });
                (mixed.collect(), attention_factor)
            }
        };
        (frequencies.into_iter().map(|f| f as f32).collect(), scale)
    }
}

fn architecture(map: &Map<String, Value>) -> Result<Architecture, String> {
    let named =
        map.get("architectures").and_then(Value::as_array).and_then(|list| list.first()).and_then(Value::as_str);
    let model_type = map.get("model_type").and_then(Value::as_str);
    match (named, model_type) {
        (Some("Qwen2ForCausalLM"), _) | (None, Some("qwen2")) => Ok(Architecture::Qwen2),
        (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => Ok(Architecture::Llama),
        (None, None) => {
            Err(format!("neither architectures nor model_type is given; supported: {}", ARCHITECTURES.join(", ")))
        }
        (named, model_type) => {
            let found = named.or(model_type).expect("one of the two is given, else an arm above matched");
            Err(format!("architecture {found} is not supported; supported: {}", ARCHITECTURES.join(", ")))
        }
    }
}

fn rope(map: &Map<String, Value>, max_positions: i64) -> Result<(f64, RopeScaling), String> {
    let settings = ["rope_parameters", "rope_scaling"]
        .into_iter()
        .find_map(|key| map.get(key).and_then(Value::as_object).map(|found| (key, found)));
    let theta = match (number(map, "rope_theta")?, settings) {
        (Some(theta), _) => theta,
        (None, Some((_, found))) => number(found, "rope_theta")?.unwrap_or(10_000.0),
        (None, None) => 10_000.0,
    };
    let Some((at, found)) = settings else { return Ok((theta, RopeScaling::Default)) };
    let kind = found.get("rope_type").or_else(|| found.get("type")).and_then(Value::as_str).unwrap_or("default");
    let need =
        |key: &str| number(found, key)?.ok_or_else(|| format!("{at}.{key} is missing, and rope type {kind} needs it"));
    if let Some(part) = number(found, "partial_rotary_factor")?.or(number(map, "partial_rotary_factor")?)
        && (part - 1.0).abs() > f64::EPSILON
    {
        return Err(format!("partial_rotary_factor: only 1 is supported, got {part}"));
    }
    let original = number(found, "original_max_position_embeddings")?;
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_max_positions: need("original_max_position_embeddings")?,
        },
        "yarn" => {
            let original_max_positions = original.unwrap_or(max_positions as f64);
            let factor = match number(found, "factor")? {
                Some(factor) => factor,
                None => max_positions as f64 / original_max_positions,
            };
            let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let attention_factor = match (
                number(found, "attention_factor")?,
                number(found, "mscale")?,
                number(found, "mscale_all_dim")?,
            ) {
                (Some(given), ..) => given,
                (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
                _ => magnitude(1.0),
            };
            RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast: number(found, "beta_fast")?.unwrap_or(32.0),
                beta_slow: number(found, "beta_slow")?.unwrap_or(1.0),
                original_max_positions,
                truncate: flag(found, "truncate")?.unwrap_or(true),
            }
        }
        other => return Err(format!("{at}: rope type {other} is not supported; supported: {}", ROPE_TYPES.join(", "))),
    };
    Ok((theta, scaling))
}

/// Reads one token id or a list of them; absent and null are none.
pub(crate) fn token_ids(map: &Map<String, Value>, key: &str) -> Result<Vec<i64>, String> {
    let id = |value: &Value| value.as_i64().ok_or_else(|| format!("{key}: expected a token id, got {value}"));
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => Ok(vec![id(one)?]),
    }
}

fn integer(map: &Map<String, Value>, key: &str) -> Result<Option<i64>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| format!("{key}: expected a whole number, got {value}")),
    }
}

fn number(map: &Map<String, Value>, key: &str) -> Result<Option<f64>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("{key}: expected a number, got {value}")),
    }
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<Option<bool>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_bool().map(Some).ok_or_else(|| format!("{key}: expected true or false, got {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"], "vocab_size": 100, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true,
            "eos_token_id": [1, 2], "rope_theta": 10000.0,
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = tiny();
        config[key] = value;
        config
    }

    #[test]
    fn a_written_config_reads_back_the_same() {
        let config = ModelConfig::from_json(&tiny()).unwrap();
        assert_eq!(config.head_dim, 4);
        assert!(config.qkv_bias && !config.output_bias);
        assert_eq!(ModelConfig::from_json(&config.to_json("bfloat16")).unwrap(), config);
        let mut llama = config.clone();
        llama.architecture = Architecture::Llama;
        (llama.qkv_bias, llama.mlp_bias, llama.tie_embeddings) = (false, true, false);
        llama.rope_scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 64.0,
        };
        assert_eq!(ModelConfig::from_json(&llama.to_json("float32")).unwrap(), llama);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let cases = [
            (
                with("architectures", json!(["GPT2LMHeadModel"])),
                "architecture GPT2LMHeadModel is not supported; supported: Qwen2ForCausalLM, LlamaForCausalLM",
            ),
            (
                with("rope_scaling", json!({"rope_type": "longrope", "factor": 2.0})),
                "rope_scaling: rope type longrope is not supported; supported: default, linear, llama3, yarn",
            ),
            (
                with("rope_scaling", json!({"rope_type": "llama3", "factor": 2.0})),
                "rope_scaling.low_freq_factor is missing, and rope type llama3 needs it",
            ),
            (with("num_key_value_heads", json!(3)), "num_attention_heads 4 is not divisible by num_key_value_heads 3"),
            (with("hidden_act", json!("gelu")), "hidden_act: only silu is supported, got gelu"),
            (with("hidden_size", json!("big")), "hidden_size: expected a whole number, got \"big\""),
            (with("vocab_size", Value::Null), "vocab_size is missing"),
        ];
        for (config, message) in cases {
            assert_eq!(ModelConfig::from_json(&config).unwrap_err(), message);
        }
    }

    #[test]
    fn rotary_settings_are_read_in_both_spellings() {
        let old = ModelConfig::from_json(&with("rope_scaling", json!({"type": "linear", "factor": 2.0}))).unwrap();
        let mut value = with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}));
        value.as_object_mut().unwrap().remove("rope_theta");
        assert_eq!(ModelConfig::from_json(&value).unwrap(), old);
        assert_eq!(old.inverse_frequencies().0, vec![0.5, 0.005]);
    }
}
