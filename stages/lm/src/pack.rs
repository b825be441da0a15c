//! Micro-batches: examples that go through the model together, each shared prompt once.
//!
//! Only what the loss needs is run: nothing from the last weighted token of a response on, and a prompt that several responses
//! share (the two of a pair; all pairs of one block) once. The layout lists, for every weighted token, the row of the hidden
//! states that predicts it.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Device, Tensor};

use crate::error::Result;
use crate::objective::Group;
use crate::render::{Rendered, Tokens};
use crate::transformer::{Batch, Pack};

/// One micro-batch, laid out.
#[derive(Debug)]
pub struct Layout {
    /// What the model runs.
    pub batch: Batch,
    /// For every weighted token, the row of the hidden states that predicts it.
    pub rows_r: Tensor,
    /// For every weighted token, its id.
    pub targets_r: Tensor,
    /// For every weighted token, its weight.
    pub weights: Vec<f32>,
    /// The weighted tokens of each sequence.
    pub sequences: Vec<Range<usize>>,
    /// The sequences of each example.
    pub groups: Vec<Group>,
    /// Which examples they are: indices into what was laid out.
    pub examples: Vec<usize>,
}

/// Cuts examples into micro-batches of at most `limit` tokens (one example at least), as packs of examples with equal prompts.
pub fn micro_batches(examples: &[&Rendered], limit: usize) -> Vec<Vec<Vec<usize>>> {
    let mut by_prompt: BTreeMap<&[i64], usize> = BTreeMap::new();
    let mut shared: Vec<Vec<usize>> = Vec::new();
    for (index, example) in examples.iter().enumerate() {
        let place = *by_prompt.entry(&example.prompt.ids).or_insert_with(|| {
            shared.push(Vec::new());
            shared.len() - 1
        });
        shared[place].push(index);
    }
    let mut batches: Vec<Vec<Vec<usize>>> = Vec::new();
    let mut filled = limit;
    for sharing in shared {
        let prompt = examples[sharing[0]].prompt.ids.len();
        let mut pack: Vec<usize> = Vec::new();
        for index in sharing {
            let responses: usize = examples[index].responses.iter().map(Tokens::run_len).sum();
            let prompt = if pack.is_empty() { prompt } else { 0 };
            if filled + prompt + responses > limit && !(pack.is_empty() && filled == 0) {
                if !pack.is_empty() {
                    batches.last_mut().expect("a pack was begun in it").push(std::mem::take(&mut pack));
                }
                batches.push(Vec::new());
                filled = examples[index].prompt.ids.len() + responses;
            } else {
                filled += prompt + responses;
            }
            pack.push(index);
        }
        batches.last_mut().expect("the first example begins one").push(pack);
    }
    batches
}

/// Lays out one micro-batch.
///
/// # Errors
/// Where the tensors do not fit the device.
pub fn lay_out(examples: &[&Rendered], packs: &[Vec<usize>], device: Device) -> Result<Layout> {
    let batch = {
        let packs: Vec<Pack> = packs
            .iter()
            .map(|pack| Pack {
                prompt: examples[pack[0]].prompt.ids.clone(),
                responses: pack
                    .iter()
                    .flat_map(|&index| &examples[index].responses)
                    .map(|response| response.ids[..response.run_len()].to_vec())
                    .collect(),
            })
            .collect();
        Batch::new(&packs, device)?
    };
    let (mut rows, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sequences, mut groups, mut order) = (Vec::new(), Vec::new(), Vec::new());
    for (pack, members) in packs.iter().enumerate() {
        let mut response_in_pack = 0;
        for &index in members {
            let example = examples[index];
            let first = sequences.len();
            for response in &example.responses {
                let start = rows.len();
                for token in example.prompt.weighted() {
                    rows.extend(batch.prompt_row(pack, token));
                    targets.push(example.prompt.ids[token]);
                    weights.push(example.prompt.weights[token]);
                }
                for token in response.weighted() {
                    rows.extend(batch.response_row(pack, response_in_pack, token));
                    targets.push(response.ids[token]);
                    weights.push(response.weights[token]);
                }
                sequences.push(start..rows.len());
                response_in_pack += 1;
            }
            groups.push(match example.responses.len() {
                1 => Group::Single(first),
                _ => Group::Pair { chosen: first, rejected: first + 1 },
            });
            order.push(index);
        }
    }
    debug_assert_eq!(rows.len(), targets.len(), "rendering gives no weight to a token that nothing predicts");
    Ok(Layout {
        batch,
        rows_r: Tensor::f_from_slice(&rows)?.f_to_device(device)?,
        targets_r: Tensor::f_from_slice(&targets)?.f_to_device(device)?,
        weights,
        sequences,
        groups,
        examples: order,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Tokens;

    fn tokens(ids: &[i64], weights: &[f32]) -> Tokens {
        Tokens { ids: ids.to_vec(), weights: weights.to_vec() }
    }

    fn pair(prompt: &[i64]) -> Rendered {
        Rendered {
            id: "x".into(),
            prompt: tokens(prompt, &vec![0.0; prompt.len()]),
            responses: vec![tokens(&[5, 6, 7], &[1.0, 1.0, 0.0]), tokens(&[8, 9, 10, 11], &[0.0, 2.0, 0.0, 0.0])],
        }
    }

    #[test]
    fn a_shared_prompt_is_run_once_and_nothing_behind_the_last_weight() {
        let (a, b) = (pair(&[1, 2, 3]), pair(&[1, 2, 3]));
        let examples = [&a, &b];
        let packs = micro_batches(&examples, 100);
        assert_eq!(packs, [[[0, 1]]]);
        let layout = lay_out(&examples, &packs[0], Device::Cpu).unwrap();
        // 3 of the prompt; of each pair [5] and [8] are run: the tokens behind them only predict what carries no loss
        assert_eq!(layout.batch.len(), 3 + 2 * (1 + 1));
        let rows: Vec<i64> = Vec::try_from(&layout.rows_r).unwrap();
        assert_eq!(rows, [2, 3, 4, 2, 5, 6]);
        let targets: Vec<i64> = Vec::try_from(&layout.targets_r).unwrap();
        assert_eq!(targets, [5, 6, 9, 5, 6, 9]);
        assert_eq!(layout.weights, [1.0, 1.0, 2.0, 1.0, 1.0, 2.0]);
        assert_eq!(layout.sequences, [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(layout.groups[1], Group::Pair { chosen: 2, rejected: 3 });
    }

    #[test]
    fn weight_in_the_prompt_counts_for_both_sides() {
        let mut example = pair(&[1, 2, 3]);
        example.prompt.weights[2] = 0.5;
        let layout = lay_out(&[&example], &[vec![0]], Device::Cpu).unwrap();
        assert_eq!(layout.weights, [0.5, 1.0, 1.0, 0.5, 2.0]);
        assert_eq!(Vec::<i64>::try_from(&layout.rows_r).unwrap(), [1, 2, 3, 1, 4]);
    }

    #[test]
    fn micro_batches_keep_to_the_limit_and_lose_nobody() {
        let examples: Vec<Rendered> = (0..7).map(|i| pair(&[i % 3; 4])).collect();
        let examples: Vec<&Rendered> = examples.iter().collect();
        for limit in [1, 6, 8, 13, 1000] {
            let batches = micro_batches(&examples, limit);
            let mut seen: Vec<usize> = batches.iter().flatten().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6], "limit {limit}");
            for batch in &batches {
                assert!(batch.iter().all(|pack| !pack.is_empty()));
                let len = lay_out(&examples, batch, Device::Cpu).unwrap().batch.len();
                assert!(len as usize <= limit.max(6), "limit {limit}: {len}");
            }
        }
        assert_eq!(micro_batches(&examples, 1000).len(), 1);
        assert!(micro_batches(&[], 10).is_empty());
    }
}
