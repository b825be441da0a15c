//! Tests of the sampler on random weights.

use super::*;
use crate::config::ModelConfig;
use crate::testing;

const SAMPLED: Sampling = Sampling { temperature: 1.0, top_p: 0.95, top_k: None };

struct Fixture {
    _folder: tempfile::TempDir,
    model: Transformer,
    tokenizer: Tokenizer,
}

fn fixture(config: &ModelConfig) -> Fixture {
    crate::device::set_threads(1);
    let folder = tempfile::tempdir().unwrap();
    testing::write_model(folder.path(), config, 11, Kind::Float).unwrap();
    let model = Transformer::load(folder.path(), Kind::Float, Device::Cpu).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    Fixture { _folder: folder, model, tokenizer }
}

/// A list of prompts, and what came out by prompt and sample.
#[derive(Default)]
struct List {
    prompts: VecDeque<(usize, Prompt)>,
    done: std::collections::BTreeMap<(usize, usize), Completion>,
    complete_at: Option<String>,
}

impl Work for List {
    type Error = ModelError;
    fn next(&mut self) -> Result<Option<(usize, Prompt)>> {
        Ok(self.prompts.pop_front())
    }
    fn is_complete(&self, _prompt: usize, text: &str) -> bool {
        self.complete_at.as_ref().is_some_and(|stop| text.contains(stop.as_str()))
    }
    fn finished(&mut self, prompt: usize, sample: usize, completion: Completion) -> Result<()> {
        assert!(self.done.insert((prompt, sample), completion).is_none());
        Ok(())
    }
}

fn prompt(seed: u64, len: usize, samples: u64, max_new: usize) -> Prompt {
    let tokens = (0..len).map(|i| 7 + (random::uniform(seed, 0, i as u32) * 250.0) as i64).collect();
    Prompt { tokens, keys: (0..samples).map(|sample| seed * 100 + sample).collect(), max_new }
}

fn run(sampler: &mut Sampler<'_>, prompts: &[(usize, Prompt)]) -> List {
    let mut list = List { prompts: prompts.to_vec().into(), ..List::default() };
    sampler.run(&mut list).unwrap();
    list
}

#[test]
fn a_row_is_the_same_bit_for_bit_whatever_runs_beside_it() {
    let fixture = fixture(&testing::tiny_config());
    let mut sampler = Sampler::with_slots(&fixture.model, &fixture.tokenizer, SAMPLED, 12).unwrap();
    let mut prompts: Vec<(usize, Prompt)> =
        (0..23).map(|i| (i, prompt(i as u64, 5 + 7 * i % 90, 3, 20 + i % 9))).collect();
    let together = run(&mut sampler, &prompts);
    assert_eq!(together.done.len(), 69);
    prompts.reverse();
    assert_eq!(run(&mut sampler, &prompts).done, together.done);
    for (number, prompt) in &prompts {
        let alone = run(&mut sampler, &[(*number, prompt.clone())]);
        for (place, completion) in alone.done {
            // Equal text, and log-probabilities that are equal to the last bit.
            assert_eq!(completion, together.done[&place]);
        }
    }
}

#[test]
fn greedy_decoding_takes_what_the_whole_sequence_makes_most_likely() {
    for config in [testing::tiny_config(), testing::tiny_llama_config()] {
        let fixture = fixture(&config);
        let start = prompt(3, 17, 1, 30);
        for padded in [false, true] {
            let mut sampler = Sampler::with_slots(&fixture.model, &fixture.tokenizer, Sampling::GREEDY, 4).unwrap();
            if padded {
                // The form that other devices use, here on the CPU.
                let sizes = Sizes::new(fixture.model.config(), 4);
                sampler.cache = KvCache::Padded(PaddedCache::new(sizes, (Kind::Float, Device::Cpu)).unwrap());
            }
            let list = run(&mut sampler, &[(0, start.clone()), (1, prompt(4, 70, 3, 9))]);
            let written = &list.done[&(0, 0)];
            let mut sequence = start.tokens.clone();
            let mut logprob = 0.0;
            for &token in &written.tokens {
                let batch =
                    Batch::new(&[Pack { prompt: sequence.clone(), responses: Vec::new() }], Device::Cpu).unwrap();
                let hidden = fixture.model.hidden(&batch).unwrap();
                let logits = fixture.model.logits(&hidden.narrow(0, sequence.len() as i64 - 1, 1)).unwrap();
                let logp = logits.log_softmax(-1, Kind::Float);
                assert_eq!(logp.argmax(-1, false).int64_value(&[0]), token, "padded: {padded}");
                logprob += logp.double_value(&[0, token]);
                sequence.push(token);
            }
            assert!(written.ended || written.tokens.len() == 30);
            assert!((written.logprob - logprob).abs() < 1e-3, "{} {logprob}", written.logprob);
        }
    }
}

#[test]
fn a_text_ends_at_a_stop_token_at_completeness_or_at_its_limit() {
    let fixture = fixture(&testing::tiny_config());
    let mut sampler = Sampler::with_slots(&fixture.model, &fixture.tokenizer, SAMPLED, 4).unwrap();
    let prompts: Vec<(usize, Prompt)> = (0..40).map(|i| (i, prompt(i as u64, 9, 1, 60))).collect();
    let list = run(&mut sampler, &prompts);
    let stops = fixture.tokenizer.stop_ids();
    for completion in list.done.values() {
        let (last, before) = completion.tokens.split_last().unwrap();
        assert_eq!(completion.ended, stops.contains(last));
        assert!(before.iter().all(|token| !stops.contains(token)));
        assert!(completion.ended || completion.tokens.len() == 60);
        assert_eq!(completion.text, fixture.tokenizer.decode(&completion.tokens).unwrap());
        assert!(completion.logprob < 0.0);
    }
    assert!(list.done.values().any(|completion| completion.ended));
    let some = list.done.values().find(|completion| completion.text.len() > 10).unwrap();
    let stop: String = some.text.chars().skip(4).take(1).collect();
    let mut list = List { prompts: prompts.into(), complete_at: Some(stop.clone()), ..List::default() };
    sampler.run(&mut list).unwrap();
    for completion in list.done.values() {
        assert!(completion.text.matches(&stop).count() <= 1);
        assert!(!completion.text.contains(&stop) || completion.ended);
    }
}

#[test]
fn room_ends_where_the_model_ends() {
    let fixture = fixture(&testing::tiny_config());
    let mut sampler = Sampler::with_slots(&fixture.model, &fixture.tokenizer, SAMPLED, 2).unwrap();
    assert_eq!(sampler.longest_prompt(), 255);
    let list = run(&mut sampler, &[(0, prompt(1, 250, 2, 60))]);
    assert!(list.done.values().all(|completion| completion.tokens.len() <= 6));
    let mut list = List { prompts: [(0, prompt(1, 256, 1, 5))].into(), ..List::default() };
    let message = sampler.run(&mut list).unwrap_err().to_string();
    assert_eq!(message, "a prompt needs 1 to 255 tokens and room for one more, got 256");
}

#[test]
fn few_fetched_tokens_choose_as_the_whole_row_does() {
    let fixture = fixture(&testing::tiny_config());
    let logits = Tensor::from_slice(&random::normals(3, 0, 4 * 1000, 2.0)).view([4, 1000]);
    for how in [
        Sampling::GREEDY,
        SAMPLED,
        Sampling { top_k: Some(5), ..SAMPLED },
        Sampling { temperature: 0.6, top_p: 1.0, top_k: None },
    ] {
        let mut sampler = Sampler::with_slots(&fixture.model, &fixture.tokenizer, how, 4).unwrap();
        for round in 0..50 {
            let uniforms: Vec<Option<f64>> =
                (0..4).map(|row| (row != 2).then(|| random::uniform(7, row, round))).collect();
            let whole = sampler.draw(&logits, &uniforms).unwrap();
            let fetched = sampler.draw_fetched(&logits, &uniforms).unwrap();
            for (a, b) in whole.iter().zip(&fetched) {
                assert_eq!(a.map(|drawn| drawn.token), b.map(|drawn| drawn.token), "{how:?}");
                let difference = a.map_or(0.0, |a| (a.logprob - b.expect("both or none").logprob).abs());
                assert!(difference < 1e-4);
            }
        }
    }
}
