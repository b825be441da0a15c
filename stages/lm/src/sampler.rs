//! Writing text with a model: many rows at once, each in a slot with its keys and values.
//!
//! A prompt is run once, alone; its samples share what it left in the cache, and each takes a slot as one becomes free. All
//! slots are then decoded together, always the full number of them, whether they are in use or not. So on the CPU in fp32 a
//! row's bits depend on its own prompt and random numbers only, whatever runs beside it: prompts are run alone, the matrix
//! products of a step always have the same shape, attention is done row by row, and the number that draws token t of a sample
//! belongs to the sample's key and t.

use std::collections::{BTreeSet, VecDeque};

use tch::{Device, Kind, Tensor};

use crate::cache::{HostCache, KvCache, PaddedCache, PromptCache, Sizes};
use crate::draw::{self, Drawn, Sampling};
use crate::error::{ModelError, Result};
use crate::random;
use crate::tokenizer::Tokenizer;
use crate::transformer::{Batch, Pack, Transformer};

/// Rows decoded at once on a CPU. Part of what a result's bits depend on.
pub const SLOTS_CPU: usize = 64;
/// Rows decoded at once on a GPU, where a step costs hardly more for more rows.
pub const SLOTS_CUDA: usize = 256;
/// Most likely tokens that are fetched from a GPU; the whole row is, where they do not suffice.
const FETCHED: i64 = 256;

/// A prompt to be continued.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The token ids, at least one.
    pub tokens: Vec<i64>,
    /// For each sample the key of its random numbers.
    pub keys: Vec<u64>,
    /// Most tokens of a sample.
    pub max_new: usize,
}

/// A sample that is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// What was written, without control tokens.
    pub text: String,
    /// The token ids, the one that ended it included.
    pub tokens: Vec<i64>,
    /// Whether the model ended by itself or the text was found complete; else it ran out of room.
    pub ended: bool,
    /// Sum of the sampled tokens' log-probabilities before temperature and the like, in nats.
    pub logprob: f64,
}

/// Where prompts come from and where completions go. Prompts are known by a number that the work gives them.
pub trait Work {
    /// What can go wrong with it.
    type Error: From<ModelError>;
    /// Returns the next prompt; none when there are no more.
    ///
    /// # Errors
    /// Whatever ends the whole run.
    fn next(&mut self) -> Result<Option<(usize, Prompt)>, Self::Error>;
    /// Returns whether a text, as far as it is written, holds all that will be used of it.
    fn is_complete(&self, prompt: usize, text: &str) -> bool;
    /// Takes a completion.
    ///
    /// # Errors
    /// Whatever ends the whole run.
    fn finished(&mut self, prompt: usize, sample: usize, completion: Completion) -> Result<(), Self::Error>;
}

/// A row being written.
struct Row {
    prompt: usize,
    sample: usize,
    key: u64,
    /// Positions in the cache.
    len: usize,
    max_new: usize,
    tokens: Vec<i64>,
    text: String,
    /// Tokens at the end that are not yet text, since a character is not whole.
    pending: Vec<i64>,
    logprob: f64,
}

/// A prompt that was run, and the samples of it that wait for a slot.
struct Waiting {
    prompt: usize,
    cache: PromptCache,
    logits: Tensor,
    len: usize,
    max_new: usize,
    samples: VecDeque<(usize, u64)>,
}

/// Writes text with one model.
pub struct Sampler<'a> {
    model: &'a Transformer,
    tokenizer: &'a Tokenizer,
    stop_ids: BTreeSet<i64>,
    how: Sampling,
    cache: KvCache,
    rows: Vec<Option<Row>>,
    scratch: Vec<f32>,
}

impl std::fmt::Debug for Sampler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("slots", &self.rows.len()).field("how", &self.how).finish_non_exhaustive()
    }
}

impl<'a> Sampler<'a> {
    /// Makes a sampler with the usual number of slots for the model's device.
    ///
    /// # Errors
    /// `Torch` if the memory does not suffice.
    pub fn new(model: &'a Transformer, tokenizer: &'a Tokenizer, how: Sampling) -> Result<Self> {
        let slots = if model.device() == Device::Cpu { SLOTS_CPU } else { SLOTS_CUDA };
        Self::with_slots(model, tokenizer, how, slots)
    }

    /// Makes a sampler that decodes so many rows at once.
    ///
    /// # Errors
    /// `Torch` if the memory does not suffice.
    pub fn with_slots(model: &'a Transformer, tokenizer: &'a Tokenizer, how: Sampling, slots: usize) -> Result<Self> {
        let sizes = Sizes::new(model.config(), slots);
        let cache = if model.device() == Device::Cpu && model.kind() == Kind::Float {
            KvCache::Host(HostCache::new(sizes))
        } else {
            KvCache::Padded(PaddedCache::new(sizes, (model.kind(), model.device()))?)
        };
        let rows = (0..slots).map(|_| None).collect();
        let stop_ids = tokenizer.stop_ids().clone();
        Ok(Self { model, tokenizer, stop_ids, how, cache, rows, scratch: Vec::new() })
    }

    /// Returns the longest prompt that leaves room for a token.
    pub fn longest_prompt(&self) -> usize {
        self.model.config().max_positions as usize - 1
    }

    /// Runs all prompts of the work, and hands over every completion as soon as it is done.
    ///
    /// # Errors
    /// What the work returns, and `Torch` or `Invalid` if the model cannot run a prompt.
    pub fn run<W: Work>(&mut self, work: &mut W) -> Result<(), W::Error> {
        let _no_grad = tch::no_grad_guard();
        let mut waiting: Option<Waiting> = None;
        let mut more = true;
        loop {
            while let Some(slot) = self.rows.iter().position(Option::is_none) {
                if waiting.is_none() && more {
                    waiting = match work.next()? {
                        Some((number, prompt)) => self.prefill(number, prompt)?,
                        None => {
                            more = false;
                            None
                        }
                    };
                    continue;
                }
                let Some(ready) = &mut waiting else { break };
                match ready.samples.pop_front() {
                    Some((sample, key)) => self.start(slot, ready, sample, key, work)?,
                    None => waiting = None,
                }
            }
            if self.rows.iter().all(Option::is_none) {
                return Ok(());
            }
            self.step(work)?;
        }
    }

    /// Runs a prompt alone and keeps what it left.
    fn prefill(&self, number: usize, prompt: Prompt) -> Result<Option<Waiting>> {
        let len = prompt.tokens.len();
        if len == 0 || len > self.longest_prompt() || prompt.max_new == 0 {
            let limit = self.longest_prompt();
            return Err(ModelError::Invalid(format!(
                "a prompt needs 1 to {limit} tokens and room for one more, got {len}"
            )));
        }
        let max_new = prompt.max_new.min(self.model.config().max_positions as usize - len);
        let batch = Batch::new(&[Pack { prompt: prompt.tokens, responses: Vec::new() }], self.model.device())?;
        let rope = self.model.rope(&batch)?;
        let mut x_nd = self.model.embed(&batch)?;
        let mut cache = Vec::with_capacity(self.model.num_layers());
        for layer in 0..self.model.num_layers() {
            let projections = self.model.project(layer, &x_nd, &rope)?;
            let attended = self.model.attend(&projections, &batch)?;
            // Behind the last layer's attention only the last position is needed.
            if layer + 1 == self.model.num_layers() {
                let last = len as i64 - 1;
                x_nd = self.model.finish_layer(layer, &x_nd.f_narrow(0, last, 1)?, &attended.f_narrow(0, last, 1)?)?;
            } else {
                x_nd = self.model.finish_layer(layer, &x_nd, &attended)?;
            }
            cache.push((projections.key, projections.value));
        }
        let logits = self.model.logits(&self.model.final_norm(&x_nd)?)?;
        let samples = prompt.keys.into_iter().enumerate().collect();
        Ok(Some(Waiting { prompt: number, cache, logits, len, max_new, samples }))
    }

    /// Gives a sample a slot and draws its first token from the prompt's logits.
    fn start<W: Work>(
        &mut self,
        slot: usize,
        from: &Waiting,
        sample: usize,
        key: u64,
        work: &mut W,
    ) -> Result<(), W::Error> {
        let row = Row {
            prompt: from.prompt,
            sample,
            key,
            len: from.len,
            max_new: from.max_new,
            tokens: Vec::new(),
            text: String::new(),
            pending: Vec::new(),
            logprob: 0.0,
        };
        self.cache.fill(slot, &from.cache, from.len + from.max_new)?;
        self.rows[slot] = Some(row);
        let drawn = self.draw(&from.logits, &[Some(random::uniform(key, 0, 0))])?;
        self.take(slot, drawn[0].expect("one number was given"), work)
    }

    /// Decodes one position in all slots.
    fn step<W: Work>(&mut self, work: &mut W) -> Result<(), W::Error> {
        let logits = self.decode()?;
        let uniforms: Vec<Option<f64>> = self
            .rows
            .iter()
            .map(|row| row.as_ref().map(|row| random::uniform(row.key, 0, row.tokens.len() as u32)))
            .collect();
        for (slot, drawn) in self.draw(&logits, &uniforms)?.into_iter().enumerate() {
            if let Some(drawn) = drawn {
                self.take(slot, drawn, work)?;
            }
        }
        Ok(())
    }

    /// Runs the last token of every row: the logits of the next ones, `[slots, v]`.
    fn decode(&mut self) -> Result<Tensor> {
        let device = self.model.device();
        let lens: Vec<Option<usize>> = self.rows.iter().map(|row| row.as_ref().map(|row| row.len)).collect();
        let tokens: Vec<i64> =
            self.rows.iter().map(|row| row.as_ref().and_then(|row| row.tokens.last().copied()).unwrap_or(0)).collect();
        let positions: Vec<i64> = lens.iter().map(|len| len.unwrap_or(0) as i64).collect();
        let rope = self.model.rope_at(&Tensor::f_from_slice(&positions)?.f_to_device(device)?)?;
        let mut x_sd = self.model.embed_tokens(&Tensor::f_from_slice(&tokens)?.f_to_device(device)?)?;
        for layer in 0..self.model.num_layers() {
            let projections = self.model.project(layer, &x_sd, &rope)?;
            let attended = self.cache.attend(layer, &projections, &lens)?;
            x_sd = self.model.finish_layer(layer, &x_sd, &attended)?;
        }
        for row in self.rows.iter_mut().flatten() {
            row.len += 1;
        }
        self.model.logits(&self.model.final_norm(&x_sd)?)
    }

    /// Draws a token for every row of logits that has a number.
    fn draw(&mut self, logits_sv: &Tensor, uniforms: &[Option<f64>]) -> Result<Vec<Option<Drawn>>> {
        let vocab = *logits_sv.size().last().expect("logits have two dimensions");
        if self.model.device() != Device::Cpu && vocab > FETCHED {
            return self.draw_fetched(logits_sv, uniforms);
        }
        let mut values = vec![0.0_f32; uniforms.len() * vocab as usize];
        let count = values.len();
        logits_sv.f_copy_data(&mut values, count)?;
        let rows = values.chunks_exact(vocab as usize).zip(uniforms);
        Ok(rows.map(|(row, uniform)| uniform.map(|u| draw::from_row(row, &self.how, u, &mut self.scratch))).collect())
    }

    /// The same where logits lie on a GPU: only the most likely tokens travel, the whole row where they do not suffice.
    fn draw_fetched(&mut self, logits_sv: &Tensor, uniforms: &[Option<f64>]) -> Result<Vec<Option<Drawn>>> {
        let temperature = if self.how.temperature == 0.0 { 1.0 } else { self.how.temperature };
        let (top, ids) = logits_sv.f_topk(FETCHED, 1, true, true)?;
        let fetch = |tensor: &Tensor| -> Result<Vec<f32>> {
            let mut values = vec![0.0; tensor.numel()];
            let count = values.len();
            tensor.f_to_device(Device::Cpu)?.f_copy_data(&mut values, count)?;
            Ok(values)
        };
        let plain = fetch(&logits_sv.f_logsumexp(1, false)?)?;
        let warped = fetch(&logits_sv.f_div_scalar(temperature)?.f_logsumexp(1, false)?)?;
        let top = fetch(&top)?;
        let mut id_values = vec![0_i64; top.len()];
        ids.f_to_device(Device::Cpu)?.f_copy_data(&mut id_values, top.len())?;
        let width = FETCHED as usize;
        let mut drawn = vec![None; uniforms.len()];
        for (slot, uniform) in uniforms.iter().enumerate() {
            let Some(uniform) = *uniform else { continue };
            let (top, ids) = (&top[slot * width..(slot + 1) * width], &id_values[slot * width..(slot + 1) * width]);
            let max = f64::from(top[0]);
            let mut likely: Vec<(f32, usize)> = top
                .iter()
                .zip(ids)
                .map(|(&logit, &id)| (((f64::from(logit) - max) / temperature).exp() as f32, id as usize))
                .collect();
            likely.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let token = if self.how.temperature == 0.0 {
                Some(likely[0].1)
            } else {
                let total = (f64::from(warped[slot]) - max / temperature).exp();
                draw::from_likely(&likely, total, &self.how, uniform, false)
            };
            drawn[slot] = Some(match token {
                Some(token) => {
                    let place =
                        ids.iter().position(|&id| id == token as i64).expect("the token is one of the likely ones");
                    Drawn { token: token as i64, logprob: f64::from(top[place] - plain[slot]) }
                }
                None => {
                    draw::from_row(&fetch(&logits_sv.f_select(0, slot as i64)?)?, &self.how, uniform, &mut self.scratch)
                }
            });
        }
        Ok(drawn)
    }

    /// Appends a token to a row; hands the row over and frees its slot if that was the last.
    fn take<W: Work>(&mut self, slot: usize, drawn: Drawn, work: &mut W) -> Result<(), W::Error> {
        let row = self.rows[slot].as_mut().expect("only rows in use are given tokens");
        row.tokens.push(drawn.token);
        row.logprob += drawn.logprob;
        let mut ended = self.stop_ids.contains(&drawn.token);
        if !ended {
            row.pending.push(drawn.token);
            let piece = self.tokenizer.decode(&row.pending)?;
            if !piece.ends_with('\u{fffd}') || row.pending.len() > 8 {
                row.pending.clear();
                row.text.push_str(&piece);
                ended = work.is_complete(row.prompt, &row.text);
            }
        }
        if !ended && row.tokens.len() < row.max_new {
            return Ok(());
        }
        let row = self.rows[slot].take().expect("it was there above");
        let text = if row.pending.is_empty() { row.text } else { row.text + &self.tokenizer.decode(&row.pending)? };
        let completion = Completion { text, tokens: row.tokens, ended, logprob: row.logprob };
        work.finished(row.prompt, row.sample, completion)
    }
}

#[cfg(test)]
mod tests;
