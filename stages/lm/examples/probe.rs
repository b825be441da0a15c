//! What this crate makes of a model folder, as JSON, for comparison with other programs (`tests/interop/lm.py`).
//!
//! Reads one JSON object from standard input: `folder`, and any of `tokens` (a list of token-id lists: logits of every
//! position), `greedy` (how many tokens to continue each of them by), `texts` (to be encoded), `conversations` (lists of
//! messages: rendered by the folder's chat template, with `now` as the clock), `write` (a folder to write the model to).

use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;

use lm::chat::{ChatTemplate, Message};
use lm::draw::Sampling;
use lm::error::ModelError;
use lm::sampler::{Completion, Prompt, Sampler, Work};
use lm::tokenizer::Tokenizer;
use lm::transformer::{Batch, Pack, Transformer};
use lm::{device, weights};
use serde::Deserialize;
use serde_json::json;
use tch::{Device, Kind};

#[derive(Deserialize)]
struct Question {
    folder: String,
    #[serde(default)]
    tokens: Vec<Vec<i64>>,
    #[serde(default)]
    greedy: usize,
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    conversations: Vec<Vec<Message>>,
    #[serde(default)]
    now: Option<i64>,
    #[serde(default)]
    write: Option<String>,
}

struct Prompts {
    waiting: VecDeque<(usize, Prompt)>,
    done: Vec<Option<Completion>>,
}

impl Work for Prompts {
    type Error = ModelError;
    fn next(&mut self) -> Result<Option<(usize, Prompt)>, ModelError> {
        Ok(self.waiting.pop_front())
    }
    fn is_complete(&self, _prompt: usize, _text: &str) -> bool {
        false
    }
    fn finished(&mut self, prompt: usize, _sample: usize, completion: Completion) -> Result<(), ModelError> {
        self.done[prompt] = Some(completion);
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    device::set_threads(1);
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let question: Question = serde_json::from_str(&input)?;
    let folder = Path::new(&question.folder);
    let model = Transformer::load(folder, Kind::Float, Device::Cpu)?;
    let tokenizer = Tokenizer::load(folder)?;
    let mut logits = Vec::new();
    for tokens in &question.tokens {
        let batch = Batch::new(&[Pack { prompt: tokens.clone(), responses: Vec::new() }], Device::Cpu)?;
        let rows = model.logits(&model.hidden(&batch)?)?;
        logits.push(Vec::<Vec<f32>>::try_from(&rows)?);
    }
    let mut greedy = Vec::new();
    if question.greedy > 0 {
        let prompt = |tokens: &Vec<i64>| Prompt { tokens: tokens.clone(), keys: vec![0], max_new: question.greedy };
        let waiting: VecDeque<_> = question.tokens.iter().map(prompt).enumerate().collect();
        let mut prompts = Prompts { done: vec![None; waiting.len()], waiting };
        Sampler::new(&model, &tokenizer, Sampling::GREEDY)?.run(&mut prompts)?;
        greedy = prompts
            .done
            .into_iter()
            .flatten()
            .map(|done| json!({ "tokens": done.tokens, "text": done.text }))
            .collect();
    }
    let encoded = question.texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
    let decoded = encoded.iter().map(|text| tokenizer.decode(&text.ids)).collect::<Result<Vec<_>, _>>()?;
    let mut rendered = Vec::new();
    if let Some(template) = ChatTemplate::load(folder)? {
        for messages in &question.conversations {
            rendered.push(template.render(messages, true, question.now)?);
        }
    }
    if let Some(to) = &question.write {
        weights::export(Path::new(to), folder, model.parameters(), Kind::Float)?;
    }
    let ids: Vec<_> = encoded.into_iter().map(|text| text.ids).collect();
    println!("{}", json!({ "logits": logits, "greedy": greedy, "ids": ids, "decoded": decoded, "rendered": rendered }));
    Ok(())
}
