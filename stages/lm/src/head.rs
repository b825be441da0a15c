//! The language-model head over the positions that carry loss: log-probabilities, and their gradient in closed form.
//!
//! `l_t = logits[y_t] - ln sum exp(logits)`, so for `L = sum g_t l_t` the gradient of the logits is `g_t (onehot(y_t) - softmax)`.
//! Logits are made for a chunk of rows at a time and in fp32, whatever the batch; where all rows fit one chunk they are kept
//! from the first pass to the second, else they are made again.
//!
//! Shape letters: r rows (weighted tokens), d hidden size, v vocabulary.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::transformer::Transformer;

/// Logits that may be in memory at once: 256 MiB of fp32 on a CPU, 1 GiB on a GPU.
const fn max_logits(device: Device) -> i64 {
    match device {
        Device::Cpu => 1 << 26,
        _ => 1 << 28,
    }
}

/// The log-probabilities of a micro-batch's weighted tokens, and what the backward pass can use again.
#[derive(Debug)]
pub struct Scores {
    /// `l_t`, in nats.
    pub log_probs: Vec<f32>,
    /// Logits and their log-sum-exp, where they fit one chunk.
    kept: Option<(Tensor, Tensor)>,
}

/// Returns the name of the parameter that is the head.
pub fn parameter(model: &Transformer) -> &'static str {
    if model.config().tie_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" }
}

fn chunks(model: &Transformer, rows: i64) -> impl Iterator<Item = (i64, i64)> {
    let size = (max_logits(model.device()) / model.config().vocab_size).max(1);
    (0..rows).step_by(size as usize).map(move |start| (start, size.min(rows - start)))
}

/// Returns the log-probabilities of the targets under hidden states `[r, d]`; records no gradients.
///
/// # Errors
/// Where libtorch refuses, most often for want of memory.
pub fn score(model: &Transformer, hidden_rd: &Tensor, targets_r: &Tensor) -> Result<Scores> {
    let _guard = tch::no_grad_guard();
    let rows = hidden_rd.size()[0];
    let mut log_probs = Vec::with_capacity(rows as usize);
    let mut kept = None;
    for (start, len) in chunks(model, rows) {
        let logits_rv = model.logits(&hidden_rd.f_narrow(0, start, len)?)?;
        let normaliser_r = logits_rv.f_logsumexp(1, false)?;
        let targets = targets_r.f_narrow(0, start, len)?.f_unsqueeze(1)?;
        let chosen_r = logits_rv.f_gather(1, &targets, false)?.f_squeeze_dim(1)?;
        let values_r = chosen_r.f_sub(&normaliser_r)?.f_to_device(Device::Cpu)?;
        log_probs.extend(Vec::<f32>::try_from(&values_r)?);
        if len == rows {
            kept = Some((logits_rv, normaliser_r));
        }
    }
    Ok(Scores { log_probs, kept })
}

/// Returns the gradient of `sum_t g_t l_t` with respect to the hidden states, `[r, d]`, and adds that with respect to the
/// head's weight to `head_gradient` (`[v, d]`, fp32).
///
/// # Errors
/// Where libtorch refuses, most often for want of memory.
pub fn backward(
    model: &Transformer,
    hidden_rd: &Tensor,
    targets_r: &Tensor,
    scores: Scores,
    gradient: &[f32],
    head_gradient: &mut Tensor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let weight_vd = &model.parameters()[parameter(model)];
    let rows = hidden_rd.size()[0];
    let gradient_r = Tensor::f_from_slice(gradient)?.f_to_device(model.device())?;
    let mut kept = scores.kept;
    let mut parts = Vec::new();
    for (start, len) in chunks(model, rows) {
        let hidden = hidden_rd.f_narrow(0, start, len)?;
        let (mut logits_rv, normaliser_r) = match kept.take() {
            Some(kept) => kept,
            None => {
                let logits_rv = model.logits(&hidden)?;
                let normaliser_r = logits_rv.f_logsumexp(1, false)?;
                (logits_rv, normaliser_r)
            }
        };
        let targets = targets_r.f_narrow(0, start, len)?.f_unsqueeze(1)?;
        let g = gradient_r.f_narrow(0, start, len)?.f_unsqueeze(1)?;
        // softmax, then -g * softmax, then + g at the target, all in the memory of the logits
        let _ = logits_rv.f_sub_(&normaliser_r.f_unsqueeze(1)?)?;
        let _ = logits_rv.f_exp_()?;
        let _ = logits_rv.f_mul_(&g.f_neg()?)?;
        let _ = logits_rv.f_scatter_add_(1, &targets, &g)?;
        let logits_rv = logits_rv.f_to_kind(model.kind())?;
        parts.push(logits_rv.f_matmul(weight_vd)?);
        let weight_gradient = logits_rv.f_tr()?.f_matmul(&hidden)?;
        let _ = head_gradient.f_add_(&weight_gradient.f_to_kind(Kind::Float)?)?;
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn closed_form_gradients_equal_autograd() {
        for config in [testing::tiny_config(), testing::tiny_llama_config()] {
            let model = Transformer::random(config, 3, Kind::Float, Device::Cpu).unwrap();
            model.set_trainable(true).unwrap();
            let values = crate::random::normals(1, 9, 6 * 32, 1.0);
            let hidden = Tensor::from_slice(&values).view([6, 32]).set_requires_grad(true);
            let targets = Tensor::from_slice(&[3_i64, 200, 3, 17, 0, 9]);
            let g = [0.5_f32, -1.0, 0.25, 0.0, 2.0, -0.125];

            let expected = model.log_probs(&hidden, &targets).unwrap();
            (expected.shallow_clone() * Tensor::from_slice(&g)).sum(Kind::Float).backward();
            let head = &model.parameters()[parameter(&model)];

            let scores = score(&model, &hidden.detach(), &targets).unwrap();
            let found = Tensor::from_slice(&scores.log_probs);
            assert!((&found - expected.detach()).abs().max().double_value(&[]) < 1e-6);
            let mut head_gradient = head.grad().zeros_like();
            let dh = backward(&model, &hidden.detach(), &targets, scores, &g, &mut head_gradient).unwrap();
            assert!((dh - hidden.grad()).abs().max().double_value(&[]) < 1e-6);
            assert!((head_gradient - head.grad()).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
