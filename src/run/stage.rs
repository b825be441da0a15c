//! Doing one stage: its key, its lock, its inputs, its record. The work itself is in `map.rs` and `whole.rs`.

use super::batch::unix_s;
use super::driver::{Context, Message};
use super::event::Event;
use super::executor::{Opening, Ran};
use super::map::MapPart;
use super::reading::Reading;
use super::{RunError, lock};
use crate::cache::{
    Blob, CacheError, Cost, Digest, FilesOutput, InputNote, Lock, Machine, Output, RECORD_FORMAT, Record, Take,
    host_name,
};
use crate::plan::key::{KEY, KeyFields, paths_in};
use ablate_stages::job::{Device, OpenContext};
use ablate_stages::stage::{Declaration, StageError, Work};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One stage on its way.
pub(super) struct StageRun<'a> {
    pub(super) run: &'a Context<'a>,
    pub(super) step: usize,
    /// What the workers of a map stage share, while it runs.
    pub(super) part: Mutex<Option<Arc<MapPart>>>,
    pub(super) helpers: AtomicUsize,
    /// Helpers that are to end.
    pub(super) to_release: AtomicUsize,
    pub(super) helper_error: Mutex<Option<RunError>>,
    /// The same for those that work ahead.
    pub(super) ahead: Mutex<Option<Arc<MapPart>>>,
    pub(super) opening_ahead: Mutex<()>,
    pub(super) units_ahead: AtomicU64,
    ran: Mutex<Ran>,
}

/// What running a stage made.
pub(super) struct Made {
    pub(super) outputs: BTreeMap<String, Output>,
    /// Units left out, by reason.
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) units_run: u64,
}

/// What came of asking for a key's lock.
enum Asked {
    Held(Lock),
    Done(Box<Record>),
}

impl<'a> StageRun<'a> {
    pub(super) fn new(run: &'a Context<'a>, step: usize) -> Self {
        Self {
            run,
            step,
            part: Mutex::default(),
            helpers: AtomicUsize::new(0),
            to_release: AtomicUsize::new(0),
            helper_error: Mutex::default(),
            ahead: Mutex::default(),
            opening_ahead: Mutex::default(),
            units_ahead: AtomicU64::new(0),
            ran: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.run.planned.steps[self.step].name
    }

    pub(super) fn declaration(&self) -> &'a Declaration {
        self.run.planned.declaration(self.step)
    }

    /// Does the stage; says whether it was done already.
    pub(super) fn run(&self) -> Result<(Record, bool), RunError> {
        let cache = self.run.cache;
        // By key, not by recipe: what a stage above made anew may differ from what the recipe's record was made of.
        let fields = self.run.planned.key_fields(self.step, cache, &|step| self.run.record(step))?;
        let key = fields.digest(KEY);
        if let Some(found) = self.known(&key)? {
            return Ok((found, true));
        }
        // Whoever computes holds the lock; it falls with its holder.
        let held = match self.ask_for(&key)? {
            Asked::Held(held) => held,
            Asked::Done(found) => return Ok((*found, true)),
        };
        let started = Instant::now();
        let inputs = self.run.inputs(self.step);
        let made = match &self.declaration().work {
            Work::Map { group_by } => self.map(group_by.as_deref(), &inputs)?,
            Work::Whole => self.whole(&key, fields.limit, &inputs)?,
        };
        self.check_unchanged(&inputs)?;
        let wall_s = started.elapsed().as_secs_f64();
        let (dropped, units_run) = (made.dropped.clone(), made.units_run);
        let done = cache.commit(self.record(key, &fields, made, wall_s)?)?;
        drop(held);
        if self.declaration().work == Work::Whole {
            cache.remove_state(&key)?;
        }
        self.run.tell(&Event::StageFinished {
            stage: self.name().to_owned(),
            rows: super::first_rows(self.run.planned, self.step, &done),
            wall_s,
            cpu_s: lock(&self.ran).cpu_s,
            dropped,
            units_run,
        });
        Ok((done, false))
    }

    /// Takes the key's lock. Whoever else holds it does the same work: until it is done, or is gone, the tokens are for others.
    fn ask_for(&self, key: &Digest) -> Result<Asked, RunError> {
        let (run, step) = (self.run, self.step);
        if let Some(held) = run.cache.try_lock(key)? {
            return Ok(self.known(key)?.map_or(Asked::Held(held), |found| Asked::Done(Box::new(found))));
        }
        let holder = run.cache.lock_holder(key);
        run.tell(&Event::StageWaiting { stage: self.name().to_owned(), holder });
        run.say(Message::Waits(step));
        loop {
            run.cancel.check()?;
            if run.gate(step).is_given_up() {
                return Err(StageError::Cancelled.into());
            }
            let held = run.cache.try_lock(key)?;
            if let Some(found) = self.known(key)? {
                return Ok(Asked::Done(Box::new(found)));
            }
            let Some(held) = held else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            run.say(Message::WantsOn(step));
            return if run.gate(step).wait() { Ok(Asked::Held(held)) } else { Err(StageError::Cancelled.into()) };
        }
    }

    fn record(&self, key: Digest, fields: &KeyFields, made: Made, wall_s: f64) -> Result<Record, RunError> {
        let step = &self.run.planned.steps[self.step];
        let ran = lock(&self.ran).clone();
        Ok(Record {
            format: RECORD_FORMAT,
            key,
            recipe: step.recipe,
            kind: fields.kind.clone(),
            version: fields.version,
            stage: self.name().to_owned(),
            parameters: fields.parameters.clone(),
            inputs: self.input_notes(fields),
            files: step.files.clone(),
            environment: fields.environment.clone(),
            outputs: made.outputs,
            dropped: made.dropped,
            cost: Cost { wall_s, cpu_s: ran.cpu_s, peak_memory_bytes: ran.peak_memory_bytes },
            machine: Machine {
                host: host_name(),
                device: ran.versions.get("device").cloned().unwrap_or_else(|| "cpu".into()),
                libraries: ran.versions,
            },
            log: self.log_blob()?,
            finished_unix_s: unix_s(),
        })
    }

    /// Checks that files and model folders that stay where the user has them are what the key says, now that they have been read.
    pub(super) fn check_unchanged(&self, inputs: &BTreeMap<String, Output>) -> Result<(), RunError> {
        let step = &self.run.planned.steps[self.step];
        let parameters = self.run.planned.stage(self.step).bound.params();
        let files = paths_in(&parameters).into_iter().filter_map(|(name, path)| Some((path, *step.files.get(&name)?)));
        let folders = inputs.values().filter_map(|input| match input {
            Output::Model(FilesOutput::Referenced { content, path })
            | Output::Files(FilesOutput::Referenced { content, path }) => Some((path.clone(), *content)),
            _ => None,
        });
        for (path, expected) in files.chain(folders) {
            if self.run.cache.digest_path(&path)?.digest != expected {
                return Err(CacheError::Unsettled { path }.into());
            }
        }
        Ok(())
    }

    fn known(&self, key: &Digest) -> Result<Option<Record>, RunError> {
        let found = self.run.cache.action(key);
        if found.is_some() {
            self.run.cache.link_recipe(&self.run.planned.steps[self.step].recipe, key)?;
        }
        Ok(found)
    }

    fn input_notes(&self, fields: &KeyFields) -> BTreeMap<String, InputNote> {
        let planned = self.run.planned;
        let sources = &planned.steps[self.step].sources;
        sources
            .iter()
            .map(|(port, (maker, output))| {
                let note = InputNote {
                    digest: fields.inputs[port],
                    columns: planned.columns_of(self.step, port),
                    source: format!("{}.{output}", planned.steps[*maker].name),
                };
                (port.clone(), note)
            })
            .collect()
    }

    pub(super) fn note(&self, ran: Ran) {
        let mut all = lock(&self.ran);
        all.cpu_s += ran.cpu_s;
        all.peak_memory_bytes = all.peak_memory_bytes.max(ran.peak_memory_bytes);
        all.versions.extend(ran.versions);
    }

    pub(super) fn opening(
        &self,
        models: &BTreeMap<String, PathBuf>,
        scratch: PathBuf,
        state: Option<PathBuf>,
    ) -> Result<Opening<'_>, RunError> {
        let stage = self.run.planned.stage(self.step);
        let device = match stage.resources.device.as_deref() {
            None => Device::Auto,
            Some("cpu") => Device::Cpu,
            Some(_) => Device::Cuda,
        };
        let threads = stage.resources.cpus.unwrap_or(self.declaration().cpus) as usize;
        Ok(Opening {
            bound: &*stage.bound,
            declaration: self.declaration(),
            context: OpenContext {
                inputs: self.run.planned.input_schemas(self.step),
                models: models.clone(),
                scratch,
                state,
                threads: threads.clamp(1, self.run.cpus.max(1)),
                device,
                cancel: self.run.cancel.clone(),
            },
            log: self.run.entry.log(self.name())?,
        })
    }

    pub(super) fn models(&self, inputs: &BTreeMap<String, Output>) -> Result<BTreeMap<String, PathBuf>, RunError> {
        let mut models = BTreeMap::new();
        for (port, input) in inputs {
            if !matches!(input, Output::Table(_)) {
                models.insert(port.clone(), self.run.cache.view(input)?);
            }
        }
        Ok(models)
    }

    pub(super) fn reading(&self) -> Reading<'_> {
        Reading { planned: self.run.planned, cache: self.run.cache, step: self.step }
    }

    fn log_blob(&self) -> Result<Option<Blob>, RunError> {
        let path = self.run.entry.log_path(self.name());
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > 0 => Ok(Some(self.run.cache.put_file(&path, Take::Copy)?)),
            _ => Ok(None),
        }
    }
}

/// A failure of the run as one of the stage, for whom only such can be told.
pub(super) fn to_stage_error(error: RunError) -> StageError {
    match error {
        RunError::Stage(error) => error,
        other => StageError::failed(other.to_string()),
    }
}
