//! Keys and values of the rows that are being decoded: one slot a row.
//!
//! On the CPU in fp32 each slot is attended to alone, over exactly its own length, so its bits do not depend on what the other
//! slots hold. Elsewhere all slots are attended to in one padded product.

use tch::{Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::Result;
use crate::simd::{HeadCache, attend};
use crate::transformer::Projections;

/// Keys and values of a prompt, by layer: `[n, g, e]` each.
pub(crate) type PromptCache = Vec<(Tensor, Tensor)>;

/// Room for keys is taken in steps of so many positions.
const STEP: usize = 64;

/// Keys and values of all slots and layers.
#[derive(Debug)]
pub(crate) enum KvCache {
    /// fp32 on the CPU, slot by slot.
    Host(HostCache),
    /// Any kind and device, padded.
    Padded(PaddedCache),
}

impl KvCache {
    /// Takes the keys and values of a prompt into a slot that will hold at most `room` positions.
    pub(crate) fn fill(&mut self, slot: usize, prompt: &PromptCache, room: usize) -> Result<()> {
        match self {
            Self::Host(cache) => cache.fill(slot, prompt, room),
            Self::Padded(cache) => cache.fill(slot, prompt, room),
        }
    }

    /// Appends one position to every slot and attends to it: `lens` are the positions before; the result is `[slots, h * e]`.
    pub(crate) fn attend(&mut self, layer: usize, p: &Projections, lens: &[Option<usize>]) -> Result<Tensor> {
        match self {
            Self::Host(cache) => cache.attend(layer, p, lens),
            Self::Padded(cache) => cache.attend(layer, p, lens),
        }
    }
}

/// Sizes that both forms need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    slots: usize,
    layers: usize,
    heads: usize,
    groups: usize,
    head_dim: usize,
}

impl Sizes {
    pub(crate) fn new(config: &ModelConfig, slots: usize) -> Self {
        Self {
            slots,
            layers: config.num_layers as usize,
            heads: config.num_heads as usize,
            groups: config.num_kv_heads as usize,
            head_dim: config.head_dim as usize,
        }
    }

    fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }
}

/// See [`KvCache::Host`].
#[derive(Debug)]
pub(crate) struct HostCache {
    sizes: Sizes,
    slots: Vec<HostSlot>,
    scores: Vec<f32>,
}

/// One slot: per layer and key-value head, keys `[e, capacity]` and values `[capacity, e]`.
#[derive(Debug, Default, Clone)]
struct HostSlot {
    capacity: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl HostCache {
    pub(crate) fn new(sizes: Sizes) -> Self {
        Self { sizes, slots: vec![HostSlot::default(); sizes.slots], scores: Vec::new() }
    }

    fn fill(&mut self, slot: usize, prompt: &PromptCache, room: usize) -> Result<()> {
        let s = self.sizes;
        let slot = &mut self.slots[slot];
        slot.capacity = room.next_multiple_of(STEP);
        let head = s.head_dim * slot.capacity;
        // What a former row left behind is never read: every position is written before it counts.
        slot.keys.resize(s.layers * s.groups * head, 0.0);
        slot.values.resize(s.layers * s.groups * head, 0.0);
        for (layer, (key, value)) in prompt.iter().enumerate() {
            let (key, value) = (host_copy(key)?, host_copy(value)?);
            for (t, (key, value)) in
                key.chunks_exact(s.groups * s.head_dim).zip(value.chunks_exact(s.groups * s.head_dim)).enumerate()
            {
                slot.put(&s, layer, t, key, value);
            }
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize, p: &Projections, lens: &[Option<usize>]) -> Result<Tensor> {
        let s = self.sizes;
        let (mut query, key, value) = (host_copy(&p.query)?, host_copy(&p.key)?, host_copy(&p.value)?);
        let scale = s.scale() as f32;
        for q in &mut query {
            *q *= scale;
        }
        let (width, kv_width) = (s.heads * s.head_dim, s.groups * s.head_dim);
        let mut out = vec![0.0_f32; s.slots * width];
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(before) = lens[index] else { continue };
            let kv = index * kv_width..(index + 1) * kv_width;
            slot.put(&s, layer, before, &key[kv.clone()], &value[kv]);
            let shared = s.heads / s.groups;
            for head in 0..s.heads {
                let at = index * width + head * s.head_dim;
                let place = (layer * s.groups + head / shared) * s.head_dim * slot.capacity;
                let room = place..place + s.head_dim * slot.capacity;
                let cache = HeadCache {
                    keys: &slot.keys[room.clone()],
                    values: &slot.values[room],
                    capacity: slot.capacity,
                    len: before + 1,
                };
                attend(&query[at..at + s.head_dim], &cache, &mut self.scores, &mut out[at..at + s.head_dim]);
            }
        }
        Ok(Tensor::f_from_slice(&out)?.f_view([s.slots as i64, width as i64])?)
    }
}

impl HostSlot {
    /// Writes the keys and values of all heads, `[g, e]`, at position `t` of a layer.
    fn put(&mut self, s: &Sizes, layer: usize, t: usize, key: &[f32], value: &[f32]) {
        for group in 0..s.groups {
            let place = (layer * s.groups + group) * s.head_dim * self.capacity;
            let from = group * s.head_dim..(group + 1) * s.head_dim;
            for (d, &k) in key[from.clone()].iter().enumerate() {
                self.keys[place + d * self.capacity + t] = k;
            }
            let to = place + t * s.head_dim;
            self.values[to..to + s.head_dim].copy_from_slice(&value[from]);
        }
    }
}

fn host_copy(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.f_contiguous()?;
    let mut values = vec![0.0; tensor.numel()];
    let count = values.len();
    tensor.f_copy_data(&mut values, count)?;
    Ok(values)
}

/// See [`KvCache::Padded`]: per layer, keys and values `[slots, g, capacity, e]`.
#[derive(Debug)]
pub(crate) struct PaddedCache {
    sizes: Sizes,
    layers: PromptCache,
    capacity: usize,
    slot_ids: Tensor,
    options: (Kind, tch::Device),
    /// Of the step under way: padded length, index of the new positions, mask of what is seen `[slots, 1, 1, length]`.
    step: Option<(i64, Tensor, Tensor)>,
}

impl PaddedCache {
    pub(crate) fn new(sizes: Sizes, options: (Kind, tch::Device)) -> Result<Self> {
        let slot_ids = Tensor::f_arange(sizes.slots as i64, (Kind::Int64, options.1))?;
        let mut cache = Self { sizes, layers: Vec::new(), capacity: 0, slot_ids, options, step: None };
        cache.grow(STEP)?;
        Ok(cache)
    }

    /// Makes room for so many positions in every slot.
    fn grow(&mut self, capacity: usize) -> Result<()> {
        let s = self.sizes;
        let size = [s.slots as i64, s.groups as i64, capacity as i64, s.head_dim as i64];
        for layer in 0..s.layers {
            let (key, value) = (Tensor::f_zeros(size, self.options)?, Tensor::f_zeros(size, self.options)?);
            if self.capacity == 0 {
                self.layers.push((key, value));
            } else {
                let (old_key, old_value) = &self.layers[layer];
                key.f_narrow(2, 0, self.capacity as i64)?.f_copy_(old_key)?;
                value.f_narrow(2, 0, self.capacity as i64)?.f_copy_(old_value)?;
                self.layers[layer] = (key, value);
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    fn fill(&mut self, slot: usize, prompt: &PromptCache, room: usize) -> Result<()> {
        if room > self.capacity {
            self.grow(room.next_multiple_of(STEP).max(self.capacity * 3 / 2).next_multiple_of(STEP))?;
        }
        for ((key, value), (prompt_key, prompt_value)) in self.layers.iter().zip(prompt) {
            for (cache, prompt) in [(key, prompt_key), (value, prompt_value)] {
                let len = prompt.size()[0];
                cache.f_select(0, slot as i64)?.f_narrow(1, 0, len)?.f_copy_(&prompt.f_transpose(0, 1)?)?;
            }
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize, p: &Projections, lens: &[Option<usize>]) -> Result<Tensor> {
        let s = self.sizes;
        if layer == 0 || self.step.is_none() {
            let before: Vec<i64> = lens.iter().map(|len| len.unwrap_or(0) as i64).collect();
            let longest = before.iter().max().map_or(1, |len| len + 1);
            let padded = (longest as usize).next_multiple_of(STEP).min(self.capacity) as i64;
            let before = Tensor::f_from_slice(&before)?.f_to_device(self.options.1)?;
            let hidden = Tensor::f_arange(padded, (Kind::Int64, self.options.1))?
                .f_unsqueeze(0)?
                .f_gt_tensor(&before.f_unsqueeze(1)?)?;
            self.step = Some((padded, before, hidden.f_view([s.slots as i64, 1, 1, padded])?));
        }
        let (padded, before, hidden) = self.step.as_ref().expect("it was made above");
        let (key, value) = &mut self.layers[layer];
        let at = [Some(&self.slot_ids), None, Some(before)];
        let _ = key.f_index_put_(&at, &p.key, false)?;
        let _ = value.f_index_put_(&at, &p.value, false)?;
        let (slots, groups, size) = (s.slots as i64, s.groups as i64, s.head_dim as i64);
        let query = p.query.f_view([slots, groups, (s.heads / s.groups) as i64, size])?.f_mul_scalar(s.scale())?;
        let scores = query.f_matmul(&key.f_narrow(2, 0, *padded)?.f_transpose(2, 3)?)?.f_to_kind(Kind::Float)?;
        let weights =
            scores.f_masked_fill(hidden, f64::NEG_INFINITY)?.f_softmax(-1, Kind::Float)?.f_to_kind(self.options.0)?;
        Ok(weights.f_matmul(&value.f_narrow(2, 0, *padded)?)?.f_reshape([slots, s.heads as i64 * size])?)
    }
}
