//! The decoder of the Qwen2 and Llama families: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
//!
//! A batch is *packed*: the tokens of all its sequences lie one behind the other in one flat tensor `[n]`, so nothing is
//! padded. A [`Pack`] is a prompt that is run once and the responses that continue it: positions restart behind the prompt,
//! a response sees the prompt and itself. To rounding, that equals running each `prompt + response` alone.
//!
//! Shape letters: n tokens of a batch, d hidden size, h heads, g key-value heads, e size of a head, v vocabulary.
//! Parameters carry the names of the Hugging Face layout (`model.layers.0.self_attn.q_proj.weight`).
//! Everything is done in the kind of the parameters (fp32 or bf16), except variances, soft-maxes and logits: fp32.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::{random, weights};

/// A prompt that is run once, and the responses that continue it, as token ids.
///
/// A plain sequence is a pack with the sequence as its prompt and no response.
#[derive(Debug, Clone, Default)]
pub struct Pack {
    /// The tokens that all responses share.
    pub prompt: Vec<i64>,
    /// What follows the prompt; each sees the prompt and itself only.
    pub responses: Vec<Vec<i64>>,
}

/// Where a pack lies in a flat batch.
#[derive(Debug)]
struct Span {
    start: i64,
    prompt: i64,
    responses: Vec<i64>,
    /// For two responses and more: which keys a response token sees, `[responses, prompt + responses]`, bool.
    mask: Option<Tensor>,
}

/// Packs laid out flat: token ids, positions, and who sees whom.
#[derive(Debug)]
pub struct Batch {
    tokens_n: Tensor,
    positions_n: Tensor,
    spans: Vec<Span>,
    len: i64,
}

impl Batch {
    /// Lays out packs one behind the other: prompt, first response, second response, next prompt, ...
    ///
    /// # Errors
    /// `Invalid` if there is no token at all; `Torch` if a tensor cannot be made on `device`.
    pub fn new(packs: &[Pack], device: Device) -> Result<Self> {
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        let mut spans = Vec::with_capacity(packs.len());
        for pack in packs {
            let start = tokens.len() as i64;
            let prompt = pack.prompt.len() as i64;
            tokens.extend_from_slice(&pack.prompt);
            positions.extend(0..prompt);
            for response in &pack.responses {
                tokens.extend_from_slice(response);
                positions.extend(prompt..prompt + response.len() as i64);
            }
            let responses: Vec<i64> = pack.responses.iter().map(|response| response.len() as i64).collect();
            let mask = match responses.len() {
                0 | 1 => None,
                _ => Some(response_mask(prompt, &responses, device)?),
            };
            spans.push(Span { start, prompt, responses, mask });
        }
        if tokens.is_empty() {
            return Err(ModelError::Invalid("a batch needs at least one token, got none".into()));
        }
        Ok(Self {
            tokens_n: Tensor::f_from_slice(&tokens)?.f_to_device(device)?,
            positions_n: Tensor::f_from_slice(&positions)?.f_to_device(device)?,
            spans,
            len: tokens.len() as i64,
        })
    }

    /// Returns the number of tokens that are run.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Returns whether there is nothing to run; never true for a batch made by [`Batch::new`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the row of the hidden states whose logits predict token `token` of the prompt of `pack`;
    /// none for the first, which nothing predicts.
    pub fn prompt_row(&self, pack: usize, token: usize) -> Option<i64> {
        (token > 0).then(|| self.spans[pack].start + token as i64 - 1)
    }

    /// Returns the row of the hidden states whose logits predict token `token` of response `response` of `pack`;
    /// none for the first token behind an empty prompt.
    pub fn response_row(&self, pack: usize, response: usize, token: usize) -> Option<i64> {
        let span = &self.spans[pack];
        if token == 0 {
            return (span.prompt > 0).then(|| span.start + span.prompt - 1);
        }
        let before: i64 = span.responses[..response].iter().sum();
        Some(span.start + span.prompt + before + token as i64 - 1)
    }
}

/// Which keys each response token sees: the whole prompt, and its own response up to itself.
fn response_mask(prompt: i64, responses: &[i64], device: Device) -> Result<Tensor> {
    let total: i64 = responses.iter().sum();
    let width = (prompt + total) as usize;
    let mut mask = vec![false; total as usize * width];
    let mut row = 0;
    for &len in responses {
        let first = row;
        for _ in 0..len {
            let line = &mut mask[row * width..(row + 1) * width];
            line[..prompt as usize].fill(true);
            line[prompt as usize + first..=prompt as usize + row].fill(true);
            row += 1;
        }
    }
    Ok(Tensor::f_from_slice(&mask)?.f_view([total, prompt + total])?.f_to_device(device)?)
}

/// Cosines and sines of the rotary positions of a batch, `[n, 1, e]` each, in the kind of the model.
#[derive(Debug)]
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

/// The parameters of one decoder layer, sharing their storage with [`Transformer::parameters`].
#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Queries, keys and values of a layer, rotated: `[n, h, e]`, `[n, g, e]`, `[n, g, e]`.
#[derive(Debug)]
pub struct Projections {
    /// Queries, `[n, h, e]`.
    pub query: Tensor,
    /// Keys, `[n, g, e]`.
    pub key: Tensor,
    /// Values, `[n, g, e]`.
    pub value: Tensor,
}

/// A decoder and its parameters on one device.
#[derive(Debug)]
pub struct Transformer {
    config: ModelConfig,
    parameters: BTreeMap<String, Tensor>,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    inverse_frequencies: Tensor,
    rope_scale: f64,
    kind: Kind,
    device: Device,
}

impl Transformer {
    /// Reads the model in a Hugging Face folder.
    ///
    /// # Errors
    /// `Config` for an architecture that is not supported, `Weights` if a tensor is missing or has another shape than
    /// `config.json` says, `Io` and `Json` for files that cannot be read.
    pub fn load(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = ModelConfig::load(folder)?;
        let parameters = weights::read(folder, &config, kind, device)?;
        Self::from_parameters(config, parameters)
    }

    /// Makes a model of fresh random weights: embeddings with deviation 0.02, matrices with `1 / sqrt(inputs)`, the two
    /// that write into the residual stream scaled by `1 / sqrt(2 layers)` besides; norms one, biases zero.
    ///
    /// # Errors
    /// `Torch` if the memory does not suffice.
    pub fn random(config: ModelConfig, seed: u64, kind: Kind, device: Device) -> Result<Self> {
        let depth = 1.0 / (2.0 * config.num_layers as f64).sqrt();
        let mut parameters = BTreeMap::new();
        for (index, (name, shape)) in config.parameter_shapes().into_iter().enumerate() {
            let count = shape.iter().product::<i64>() as usize;
            let values = if name.ends_with("norm.weight") {
                vec![1.0; count]
            } else if name.ends_with("bias") {
                vec![0.0; count]
            } else {
                let deviation = if name.ends_with("embed_tokens.weight") {
                    0.02
                } else {
                    let residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                    (shape[1] as f64).powf(-0.5) * if residual { depth } else { 1.0 }
                };
                random::normals(seed, index as u32, count, deviation as f32)
            };
            let tensor =
                Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?.f_to_device(device)?.f_to_kind(kind)?;
            parameters.insert(name, tensor);
        }
        Self::from_parameters(config, parameters)
    }

    /// Builds a model from named parameters, all of one kind on one device.
    ///
    /// # Errors
    /// `Invalid` names a parameter that is missing, is one too many, or has another shape than `config` says.
    pub fn from_parameters(config: ModelConfig, parameters: BTreeMap<String, Tensor>) -> Result<Self> {
        let shapes = config.parameter_shapes();
        for (name, shape) in &shapes {
            match parameters.get(name) {
                None => return Err(ModelError::Invalid(format!("the model lacks the parameter {name} {shape:?}"))),
                Some(tensor) if tensor.size() != *shape => {
                    return Err(ModelError::Invalid(format!("{name}: expected {shape:?}, got {:?}", tensor.size())));
                }
                Some(_) => {}
            }
        }
        if let Some(name) = parameters.keys().find(|name| !shapes.contains_key(*name)) {
            return Err(ModelError::Invalid(format!("the model has no parameter {name}")));
        }
        let get = |name: &str| parameters[name].shallow_clone();
        let linear = |name: String| Linear {
            weight: get(&format!("{name}.weight")),
            bias: parameters.get(&format!("{name}.bias")).map(Tensor::shallow_clone),
        };
        let layers = (0..config.num_layers)
            .map(|index| {
                let at = format!("model.layers.{index}");
                Layer {
                    attention_norm: get(&format!("{at}.input_layernorm.weight")),
                    query: linear(format!("{at}.self_attn.q_proj")),
                    key: linear(format!("{at}.self_attn.k_proj")),
                    value: linear(format!("{at}.self_attn.v_proj")),
                    output: linear(format!("{at}.self_attn.o_proj")),
                    mlp_norm: get(&format!("{at}.post_attention_layernorm.weight")),
                    gate: linear(format!("{at}.mlp.gate_proj")),
                    up: linear(format!("{at}.mlp.up_proj")),
                    down: linear(format!("{at}.mlp.down_proj")),
                }
            })
            .collect();
        let embedding = get("model.embed_tokens.weight");
        let head = if config.tie_embeddings { embedding.shallow_clone() } else { get("lm_head.weight") };
        let (kind, device) = (embedding.f_kind()?, embedding.device());
        let (frequencies, rope_scale) = config.inverse_frequencies();
        Ok(Self {
            inverse_frequencies: Tensor::f_from_slice(&frequencies)?.f_to_device(device)?,
            rope_scale,
            norm: get("model.norm.weight"),
            embedding,
            layers,
            head,
            config,
            parameters,
            kind,
            device,
        })
    }

    /// Returns what `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns the parameters by their Hugging Face names. A tied head is not listed: it is the embedding.
    /// The tensors share their storage with the layers: writing into one in place changes the model.
    pub fn parameters(&self) -> &BTreeMap<String, Tensor> {
        &self.parameters
    }

    /// Returns the kind of parameters and activations: `Float` or `BFloat16`.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the device the model lies on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Turns the recording of gradients for all parameters on or off.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses.
    pub fn set_trainable(&self, trainable: bool) -> Result<()> {
        for tensor in self.parameters.values() {
            // The returned tensor is the same one; the flag sits on the shared implementation.
            let _same = tensor.f_set_requires_grad(trainable)?;
        }
        Ok(())
    }

    /// Returns the final hidden states of every token of the batch, normed: `[n, d]`.
    ///
    /// The same as [`embed`](Self::embed), every [`layer`](Self::layer), [`final_norm`](Self::final_norm) in a row.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses, most often for want of memory.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let rope = self.rope(batch)?;
        let mut x_nd = self.embed(batch)?;
        for index in 0..self.layers.len() {
            x_nd = self.layer(index, &x_nd, &rope, batch)?;
        }
        self.final_norm(&x_nd)
    }

    /// Returns the embeddings of the tokens of a batch, `[n, d]`.
    ///
    /// # Errors
    /// `Torch`, also for a token id outside the vocabulary (on CPU).
    pub fn embed(&self, batch: &Batch) -> Result<Tensor> {
        self.embed_tokens(&batch.tokens_n)
    }

    /// Returns the embeddings of token ids `[n]`, `[n, d]`.
    pub(crate) fn embed_tokens(&self, tokens_n: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(&self.embedding, tokens_n, -1, false, false)?)
    }

    /// Returns the rotary tables of a batch; computed once, used by every layer.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses.
    pub fn rope(&self, batch: &Batch) -> Result<Rope> {
        self.rope_at(&batch.positions_n)
    }

    /// Returns the rotary tables of positions `[n]`.
    pub(crate) fn rope_at(&self, positions_n: &Tensor) -> Result<Rope> {
        let angles =
            positions_n.f_to_kind(Kind::Float)?.f_unsqueeze(1)?.f_mul(&self.inverse_frequencies.f_unsqueeze(0)?)?;
        let angles = Tensor::f_cat(&[&angles, &angles], 1)?.f_unsqueeze(1)?;
        let table = |values: Tensor| -> Result<Tensor> {
            let scaled = if (self.rope_scale - 1.0).abs() < f64::EPSILON {
                values
            } else {
                values.f_mul_scalar(self.rope_scale)?
            };
            Ok(scaled.f_to_kind(self.kind)?)
        };
        Ok(Rope { cos: table(angles.f_cos()?)?, sin: table(angles.f_sin()?)? })
    }

    /// Returns the number of decoder layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Runs decoder layer `index` on the residual stream `[n, d]`.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses, most often for want of memory.
    pub fn layer(&self, index: usize, x_nd: &Tensor, rope: &Rope, batch: &Batch) -> Result<Tensor> {
        let projections = self.project(index, x_nd, rope)?;
        let attended_nd = self.attend(&projections, batch)?;
        self.finish_layer(index, x_nd, &attended_nd)
    }

    /// Returns queries, keys and values of layer `index`, rotated: the part of a layer before attention.
    pub(crate) fn project(&self, index: usize, x_nd: &Tensor, rope: &Rope) -> Result<Projections> {
        let layer = &self.layers[index];
        let c = &self.config;
        let normed = self.norm(x_nd, &layer.attention_norm)?;
        let n = x_nd.size()[0];
        let heads = |linear: &Linear, count: i64| -> Result<Tensor> {
            Ok(linear.apply(&normed)?.f_view([n, count, c.head_dim])?)
        };
        Ok(Projections {
            query: rotate(&heads(&layer.query, c.num_heads)?, rope)?,
            key: rotate(&heads(&layer.key, c.num_kv_heads)?, rope)?,
            value: heads(&layer.value, c.num_kv_heads)?,
        })
    }

    /// Returns the attention of every token over what it sees, `[n, h * e]`.
    pub(crate) fn attend(&self, p: &Projections, batch: &Batch) -> Result<Tensor> {
        let mut pieces = Vec::with_capacity(batch.spans.len());
        for span in &batch.spans {
            let responses: i64 = span.responses.iter().sum();
            let len = span.prompt + responses;
            let part = |x: &Tensor, start: i64, len: i64| -> Result<Tensor> {
                Ok(x.f_narrow(0, span.start + start, len)?.f_transpose(0, 1)?.f_unsqueeze(0)?)
            };
            match &span.mask {
                None if len == 0 => {}
                None => pieces.push(self.softmax_attention(
                    &part(&p.query, 0, len)?,
                    &part(&p.key, 0, len)?,
                    &part(&p.value, 0, len)?,
                    None,
                )?),
                Some(mask) => {
                    if span.prompt > 0 {
                        pieces.push(self.softmax_attention(
                            &part(&p.query, 0, span.prompt)?,
                            &part(&p.key, 0, span.prompt)?,
                            &part(&p.value, 0, span.prompt)?,
                            None,
                        )?);
                    }
                    if responses > 0 {
                        pieces.push(self.softmax_attention(
                            &part(&p.query, span.prompt, responses)?,
                            &part(&p.key, 0, len)?,
                            &part(&p.value, 0, len)?,
                            Some(mask),
                        )?);
                    }
                }
            }
        }
        match pieces.len() {
            1 => Ok(pieces.remove(0)),
            _ => Ok(Tensor::f_cat(&pieces, 0)?),
        }
    }

    /// Scaled dot-product attention of `[1, h, q, e]` over `[1, g, k, e]`, causal where there is no mask: `[q, h * e]`.
    fn softmax_attention(&self, query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let c = &self.config;
        let grouped = c.num_heads != c.num_kv_heads;
        let out = Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, mask.is_none(), None, grouped)?;
        Ok(out.f_squeeze_dim(0)?.f_transpose(0, 1)?.f_reshape([-1, c.num_heads * c.head_dim])?)
    }

    /// Adds attention and feed-forward to the residual stream: the part of layer `index` behind attention.
    pub(crate) fn finish_layer(&self, index: usize, x_nd: &Tensor, attended_nd: &Tensor) -> Result<Tensor> {
        let layer = &self.layers[index];
        let x_nd = x_nd.f_add(&layer.output.apply(attended_nd)?)?;
        let normed = self.norm(&x_nd, &layer.mlp_norm)?;
        let gated = layer.gate.apply(&normed)?.f_silu()?.f_mul(&layer.up.apply(&normed)?)?;
        Ok(x_nd.f_add(&layer.down.apply(&gated)?)?)
    }

    /// Returns the residual stream `[n, d]` behind the last norm.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses.
    pub fn final_norm(&self, x_nd: &Tensor) -> Result<Tensor> {
        self.norm(x_nd, &self.norm)
    }

    /// Returns the logits of chosen rows of the final hidden states, `[rows, d]` to `[rows, v]`, in fp32.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses, most often for want of memory.
    pub fn logits(&self, hidden_rd: &Tensor) -> Result<Tensor> {
        Ok(hidden_rd.f_linear(&self.head, None::<&Tensor>)?.f_to_kind(Kind::Float)?)
    }

    /// Returns the log-probabilities, in nats, of target tokens: `hidden_rd` are the rows that predict them, `[rows, d]`,
    /// `targets_r` their ids; `[rows]`, in fp32. The soft-max is taken in fp32 whatever the kind of the model.
    ///
    /// # Errors
    /// `Torch` if libtorch refuses, most often for want of memory: call it on a part of the rows at a time.
    pub fn log_probs(&self, hidden_rd: &Tensor, targets_r: &Tensor) -> Result<Tensor> {
        let logits_rv = self.logits(hidden_rd)?;
        let chosen_r = logits_rv.f_gather(1, &targets_r.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        Ok(chosen_r.f_sub(&logits_rv.f_logsumexp(1, false)?)?)
    }

    /// RMSNorm (Zhang & Sennrich 2019): the variance in fp32, the product with the weight in the model's kind.
    fn norm(&self, x_nd: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        if self.kind == Kind::Float {
            return Ok(x_nd.f_rms_norm([self.config.hidden_size], Some(weight), eps)?);
        }
        let x32 = x_nd.f_to_kind(Kind::Float)?;
        let scale = x32.f_square()?.f_mean_dim(-1, true, Kind::Float)?.f_add_scalar(eps)?.f_rsqrt()?;
        Ok(x32.f_mul(&scale)?.f_to_kind(self.kind)?.f_mul(weight)?)
    }
}

/// Rotates heads `[n, heads, e]` by the positions of their tokens, halves paired as in the Hugging Face layout.
fn rotate(x: &Tensor, rope: &Rope) -> Result<Tensor> {
    let half = x.size()[2] / 2;
    let (first, second) = (x.f_narrow(2, 0, half)?, x.f_narrow(2, half, half)?);
    let turned = Tensor::f_cat(&[second.f_neg()?, first], 2)?;
    Ok(x.f_mul(&rope.cos)?.f_add(&turned.f_mul(&rope.sin)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn model(config: ModelConfig) -> Transformer {
        Transformer::random(config, 7, Kind::Float, Device::Cpu).unwrap()
    }

    fn ids(seed: u64, len: usize) -> Vec<i64> {
        (0..len).map(|i| (random::uniform(seed, 0, i as u32) * 260.0) as i64).collect()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn responses_that_share_their_prompt_run_as_if_alone_with_gradients() {
        for config in [testing::tiny_config(), testing::tiny_llama_config()] {
            let model = model(config);
            model.set_trainable(true).unwrap();
            let (prompt, first, second) = (ids(1, 11), ids(2, 5), ids(3, 7));
            let targets = |batch: &Batch, packs: &[(usize, usize, usize)]| {
                let hidden = model.hidden(batch).unwrap();
                let rows: Vec<i64> = packs
                    .iter()
                    .map(|&(pack, response, token)| batch.response_row(pack, response, token).unwrap())
                    .collect();
                hidden.index_select(0, &Tensor::from_slice(&rows))
            };
            let places = |pack: usize, response: usize, len: usize| (0..len).map(move |token| (pack, response, token));
            let take_gradients = || -> Vec<Tensor> {
                model
                    .parameters()
                    .values()
                    .map(|p| {
                        let mut p = p.shallow_clone();
                        let g = p.grad().copy();
                        p.zero_grad();
                        g
                    })
                    .collect()
            };
            let other = Pack { prompt: ids(5, 4), responses: vec![] };
            let shared = Pack { prompt: prompt.clone(), responses: vec![first.clone(), second.clone()] };
            let together = Batch::new(&[other, shared], Device::Cpu).unwrap();
            let wanted: Vec<_> = places(1, 0, 5).chain(places(1, 1, 7)).collect();
            let h_together = targets(&together, &wanted);
            model.logits(&h_together).unwrap().sin().sum(Kind::Float).backward();
            let g_together = take_gradients();
            let alone: Vec<Pack> =
                [&first, &second].map(|r| Pack { prompt: prompt.clone(), responses: vec![r.clone()] }).to_vec();
            let apart = Batch::new(&alone, Device::Cpu).unwrap();
            let wanted: Vec<_> = places(0, 0, 5).chain(places(1, 0, 7)).collect();
            let h_apart = targets(&apart, &wanted);
            model.logits(&h_apart).unwrap().sin().sum(Kind::Float).backward();
            assert!(largest_difference(&h_together, &h_apart) < 1e-5);
            for ((name, a), b) in model.parameters().keys().zip(&g_together).zip(take_gradients()) {
                let difference = largest_difference(a, &b);
                let size = b.abs().max().double_value(&[]);
                assert!(difference < 1e-4 * (1.0 + size), "{name}: {difference} of {size}");
            }
        }
    }

    #[test]
    fn a_token_changes_nothing_before_itself() {
        let model = model(testing::tiny_config());
        let mut sequence = ids(4, 20);
        let run = |sequence: &[i64]| {
            model
                .hidden(&Batch::new(&[Pack { prompt: sequence.to_vec(), responses: vec![] }], Device::Cpu).unwrap())
                .unwrap()
        };
        let before = run(&sequence);
        sequence[12] = (sequence[12] + 1) % 200;
        let after = run(&sequence);
        assert!(largest_difference(&before.narrow(0, 0, 12), &after.narrow(0, 0, 12)) < 1e-6);
        assert!(largest_difference(&before.narrow(0, 12, 8), &after.narrow(0, 12, 8)) > 1e-3);
    }

    #[test]
    fn log_probs_are_those_of_a_soft_max_over_the_logits() {
        let model = model(testing::tiny_llama_config());
        let hidden =
            model.hidden(&Batch::new(&[Pack { prompt: ids(4, 6), responses: vec![] }], Device::Cpu).unwrap()).unwrap();
        let targets = Tensor::from_slice(&[1_i64, 2, 3, 4, 5, 6]);
        let logp = model.log_probs(&hidden, &targets).unwrap();
        let expected = model
            .logits(&hidden)
            .unwrap()
            .log_softmax(1, Kind::Float)
            .gather(1, &targets.unsqueeze(1), false)
            .squeeze();
        assert!(largest_difference(&logp, &expected) < 1e-5);
    }

    #[test]
    fn a_model_that_lacks_a_parameter_is_refused_by_its_name() {
        let model = model(testing::tiny_config());
        let mut parameters: BTreeMap<String, Tensor> =
            model.parameters().iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        parameters.remove("model.layers.1.mlp.up_proj.weight");
        let message = Transformer::from_parameters(testing::tiny_config(), parameters).unwrap_err().to_string();
        assert_eq!(message, "the model lacks the parameter model.layers.1.mlp.up_proj.weight [48, 32]");
    }
}
