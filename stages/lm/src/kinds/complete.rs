//! What `fim-generate` and `generate` share: requests are encoded, sampled in slots across batches, and answered unit by unit.

use std::collections::{BTreeMap, VecDeque};

use ablate_stages::code::request::Request;
use ablate_stages::columns::Sample;
use ablate_stages::job::{Cancel, MapJob, OpenContext, UnitBatch, UnitId, UnitSink, UnitSource};
use ablate_stages::stage::StageError;
use ablate_stages::train::Dtype;

use super::{failed, kind_of, model_folder, tch_device};
use crate::draw::Sampling;
use crate::sampler::{Completion, Prompt, Sampler, Work};
use crate::tokenizer::Tokenizer;
use crate::transformer::Transformer;

/// What is asked about the units of a batch; the words for a unit that nothing can be asked about.
pub(super) type Requests = Vec<(UnitId, Result<Request, String>)>;

/// Makes requests of the rows of a batch.
pub(super) type Ask = Box<dyn Fn(&UnitBatch) -> Result<Requests, StageError> + Send>;

/// How completions are drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// The kind's name, part of the key of every random stream.
    pub(super) kind: &'static str,
    pub(super) samples: u32,
    pub(super) max_tokens: u32,
    pub(super) seed: u64,
    pub(super) how: Sampling,
    pub(super) dtype: Dtype,
}

/// Completes requests with a model.
pub(super) struct CompleteJob {
    model: Transformer,
    tokenizer: Tokenizer,
    settings: Settings,
    ask: Ask,
    cancel: Cancel,
}

impl CompleteJob {
    /// Loads the model of the port `model`.
    pub(super) fn open(settings: Settings, ask: Ask, cx: &OpenContext) -> Result<Self, StageError> {
        let folder = model_folder(cx)?;
        let tokenizer = Tokenizer::load(&folder).map_err(failed)?;
        let model = Transformer::load(&folder, kind_of(settings.dtype), tch_device(cx)?).map_err(failed)?;
        Ok(Self { model, tokenizer, settings, ask, cancel: cx.cancel.clone() })
    }
}

impl MapJob for CompleteJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        let mut sampler = Sampler::new(&self.model, &self.tokenizer, self.settings.how).map_err(failed)?;
        let longest_prompt = sampler.longest_prompt();
        let mut flow = Flow {
            units,
            out,
            job: self,
            longest_prompt,
            asked: VecDeque::new(),
            open: BTreeMap::new(),
            next_number: 0,
        };
        sampler.run(&mut flow)
    }
}

/// Requests on their way through the sampler.
struct Flow<'a, 's> {
    units: &'a mut dyn UnitSource,
    out: &'a mut UnitSink<'s>,
    job: &'a CompleteJob,
    longest_prompt: usize,
    asked: VecDeque<(UnitId, Result<Request, String>)>,
    open: BTreeMap<usize, Open>,
    next_number: usize,
}

/// A request whose samples are being written.
struct Open {
    unit: UnitId,
    request: Request,
    samples: Vec<Option<Sample>>,
    missing: usize,
}

impl Work for Flow<'_, '_> {
    type Error = StageError;

    fn next(&mut self) -> Result<Option<(usize, Prompt)>, StageError> {
        let settings = self.job.settings;
        loop {
            self.job.cancel.check()?;
            let Some((unit, request)) = self.asked.pop_front() else {
                match self.units.next()? {
                    Some(batch) => self.asked.extend((self.job.ask)(&batch)?),
                    None => return Ok(None),
                }
                continue;
            };
            let request = match request {
                Ok(request) => request,
                Err(problem) => {
                    self.out.fail(unit, problem)?;
                    continue;
                }
            };
            let tokens = self.job.tokenizer.encode_segments(&request.prompt).map_err(failed)?.ids;
            if tokens.len() > self.longest_prompt {
                let detail = format!("{} tokens; the model takes {}", tokens.len(), self.longest_prompt);
                self.out.drop(unit, "prompt-too-long", Some(detail))?;
                continue;
            }
            let keys = (0..settings.samples)
                .map(|index| request.random(settings.seed, settings.kind, index).bits())
                .collect::<Vec<_>>();
            let samples = vec![None; keys.len()];
            let number = self.next_number;
            self.next_number += 1;
            let missing = samples.len();
            self.open.insert(number, Open { unit, request, samples, missing });
            return Ok(Some((number, Prompt { tokens, keys, max_new: settings.max_tokens as usize })));
        }
    }

    fn is_complete(&self, prompt: usize, text: &str) -> bool {
        self.open.get(&prompt).is_some_and(|open| open.request.is_complete(text))
    }

    fn finished(&mut self, prompt: usize, sample: usize, completion: Completion) -> Result<(), StageError> {
        self.job.cancel.check()?;
        let open = self.open.get_mut(&prompt).expect("a completion belongs to a request that was asked");
        let Completion { text, tokens, ended, logprob } = completion;
        let row = open.request.sample(sample as u32, &text, ended, tokens.len() as u32, Some(logprob));
        open.samples[sample] = Some(row);
        open.missing -= 1;
        if open.missing > 0 {
            return Ok(());
        }
        let open = self.open.remove(&prompt).expect("it was there above");
        let rows: Vec<Sample> = open.samples.into_iter().map(|row| row.expect("none is missing")).collect();
        self.out.emit(open.unit, &rows)
    }
}
