//! Running a pipeline: look every stage up, do what is missing, record it, and say so.
//!
//! ```text
//! planner     what the cache has
//! scheduler   what runs when: a pure state machine; driver passes words between it and the stages
//! stage       one stage: key, lock, record; whole and map do its work, ahead starts it on what the stage above has so far
//! units       the units of a map stage; chunks reads their rows where they lie
//! batch       which units are pending, out with a worker, done; claims keeps two stages from doing one twice
//! executor    who does the work: this process, or a worker
//! event       what happens, for progress and history
//! ```
//!
//! One failure stops what depends on it and nothing else.

mod ahead;
pub mod audit;
mod batch;
mod chunks;
mod claims;
mod driver;
pub mod event;
mod executor;
pub mod history;
mod map;
pub mod outlook;
pub mod planner;
mod reading;
mod scheduler;
mod stage;
mod units;
mod whole;

pub use map::{FailedUnit, FailedUnits};

pub(crate) use batch::unix_s;
pub(crate) use executor::lm_worker;

use crate::cache::{Cache, CacheError, Record, RunEntry};
use crate::pipeline::{Fault, Problem};
use crate::plan::schema::Checked;
use ablate_stages::job::Cancel;
use ablate_stages::stage::{Place, StageError};
use event::{Event, Observer, Timed};
use planner::Planned;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Why a run, or a stage of it, could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The stage itself.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Units that could not be worked on; all others are recorded.
    #[error("{0}")]
    Units(Box<FailedUnits>),
}

impl RunError {
    /// Whether something is missing on this machine (exit code 5).
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Stage(StageError::Missing { .. }))
    }

    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Stage(StageError::Cancelled))
    }
}

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Steps that are asked for, with all they need; empty for every step.
    pub only: Vec<usize>,
    /// How many CPUs may be kept busy; none for all.
    pub jobs: Option<usize>,
    /// Whether one failure ends the run.
    pub fail_fast: bool,
    /// `--limit`, for the record.
    pub limit: Option<u64>,
}

/// How a stage ended.
#[derive(Debug)]
pub enum Ended {
    /// It was in the cache.
    Cached(Record),
    /// It ran.
    Ran(Record),
    /// It failed.
    Failed(RunError),
    /// It was not started, because of this stage, or because the run was cancelled.
    Skipped(Option<String>),
    /// It was not asked for.
    NotAsked,
}

impl Ended {
    /// Its record, if it is done.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Cached(record) | Self::Ran(record) => Some(record),
            _ => None,
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// How each step ended.
    pub steps: Vec<Ended>,
    /// Seconds by the clock.
    pub wall_s: f64,
    /// Whether it was cancelled.
    pub cancelled: bool,
}

impl Report {
    /// Whether every stage that was asked for is done.
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(|ended| ended.record().is_some() || matches!(ended, Ended::NotAsked))
    }
}

/// Runs a planned pipeline.
///
/// # Errors
/// Where a worker or a file is missing, or the cache cannot be written. What a stage does wrong is in the report.
pub fn run(
    planned: &Planned,
    cache: &Cache,
    options: &Options,
    cancel: &Cancel,
    observer: &dyn Observer,
) -> Result<Report, RunError> {
    let began = Instant::now();
    let wanted = wanted(planned, &options.only);
    let mut index = cache.index(planned.name());
    let mut known = planned.lookup_in(cache, &mut index)?;
    preflight(planned, &wanted, &known)?;
    let mut teller = Teller { observer, entry: None, began };
    teller.tell(&Event::RunStarted { pipeline: planned.name().to_owned(), stages: wanted.len(), limit: options.limit });
    if wanted.iter().all(|&step| known[step].is_some()) {
        // The quick way out of a run with nothing to do: no thread, and a history entry only where the last run was another.
        let mut ended: Vec<Ended> = planned.steps.iter().map(|_| Ended::NotAsked).collect();
        for &step in &wanted {
            let record = known[step].take().expect("checked above");
            teller.tell(&cached(planned, step, &record));
            if record.recipe != planned.steps[step].recipe {
                cache.link_recipe(&planned.steps[step].recipe, &record.key)?;
            }
            ended[step] = Ended::Cached(record);
        }
        let report = Report { steps: ended, wall_s: began.elapsed().as_secs_f64(), cancelled: false };
        teller.tell(&finished(&report));
        history::note_cached(planned, cache, options.limit, &report)?;
        if !index.is_whole() {
            history::keep_index(planned, cache, &report)?;
        }
        return Ok(report);
    }
    #[expect(clippy::disallowed_methods, reason = "a run is filed under the time of its start")]
    let entry = cache.begin_run(planned.name(), SystemTime::now(), &history::resolved_text(planned))?;
    teller.entry = Some(&entry);
    let steps = driver::drive(planned, cache, options, cancel, &wanted, &entry, teller);
    let report = Report { steps, wall_s: began.elapsed().as_secs_f64(), cancelled: cancel.is_cancelled() };
    teller.tell(&finished(&report));
    let kept = history::finish(entry, planned, cache, options.limit, &report)
        .and_then(|()| history::keep_index(planned, cache, &report));
    // What stopped a run is worth more words than a history that could not be written after it.
    if report.is_complete() {
        kept?;
    }
    Ok(report)
}

/// Events go to who watches and to the history, each with its time.
#[derive(Clone, Copy)]
struct Teller<'a> {
    observer: &'a dyn Observer,
    entry: Option<&'a RunEntry>,
    began: Instant,
}

impl Teller<'_> {
    fn tell(&self, event: &Event) {
        // To the millisecond: a line is for reading, and for drawing.
        let timed = Timed { at_s: self.began.elapsed().as_millis() as f64 / 1e3, event };
        self.observer.observe(&timed);
        // A full disk is told by the stage that meets it; the history is not worth ending a run for.
        let _ = self.entry.map(|entry| entry.event(&timed));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The steps that are asked for, with all they need.
fn wanted(planned: &Planned, only: &[usize]) -> BTreeSet<usize> {
    if only.is_empty() {
        return (0..planned.steps.len()).collect();
    }
    let mut wanted = BTreeSet::new();
    let mut open = only.to_vec();
    while let Some(step) = open.pop() {
        if wanted.insert(step) {
            open.extend(&planned.steps[step].needs);
        }
    }
    wanted
}

/// What of the machine a pipeline needs and does not find: once each, at the first stage that needs it.
pub fn lacking(checked: &Checked) -> Vec<Problem> {
    let mut missing: Vec<Problem> = Vec::new();
    let (mut asked, mut asked_for_worker) = (BTreeSet::new(), false);
    for (case, index) in checked.cases.iter().flat_map(|case| case.order.iter().map(move |&index| (case, index))) {
        let stage = &case.pipeline.stages[index];
        let Some(declaration) = case.declarations.get(&stage.name) else { continue };
        let worker =
            (declaration.place == Place::Torch && !std::mem::replace(&mut asked_for_worker, true)).then(|| {
                match lm_worker() {
                    Err(StageError::Missing { what, fix }) => Some((what, fix)),
                    _ => None,
                }
            });
        let environment = declaration.environment.iter().filter(|need| asked.insert(*need));
        let tools = worker.into_iter().chain(environment.map(|need| planner::probe(need).err()));
        for (what, fix) in tools.flatten() {
            missing.push(Problem::new(Fault::MissingTool { kind: stage.kind, what, fix }, stage.place));
        }
    }
    missing
}

/// What would stop the run halfway is told before it begins.
fn preflight(planned: &Planned, wanted: &BTreeSet<usize>, known: &[Option<Record>]) -> Result<(), RunError> {
    for &step in wanted.iter().filter(|&&step| known[step].is_none()) {
        if let Some(path) = planned.steps[step].missing_files.first() {
            let what = format!("{} (of stage `{}`)", path.display(), planned.steps[step].name);
            return Err(StageError::Missing { what, fix: "put it there, or change the path".into() }.into());
        }
        if let Some((what, fix)) = planned.steps[step].missing_environment.clone() {
            return Err(StageError::Missing { what, fix }.into());
        }
        if planned.declaration(step).place == Place::Torch {
            lm_worker()?;
        }
    }
    Ok(())
}

/// The rows of a record's first table.
pub fn first_rows(planned: &Planned, step: usize, record: &Record) -> Option<u64> {
    let port = &planned.declaration(step).outputs.first()?.name;
    match record.outputs.get(port)? {
        crate::cache::Output::Table(table) => Some(table.table.rows),
        _ => None,
    }
}

fn cached(planned: &Planned, step: usize, record: &Record) -> Event {
    Event::StageCached { stage: planned.steps[step].name.clone(), rows: first_rows(planned, step, record) }
}

fn finished(report: &Report) -> Event {
    let count = |test: &dyn Fn(&Ended) -> bool| report.steps.iter().filter(|ended| test(ended)).count();
    Event::RunFinished {
        ran: count(&|ended| matches!(ended, Ended::Ran(_))),
        cached: count(&|ended| matches!(ended, Ended::Cached(_))),
        failed: count(&|ended| matches!(ended, Ended::Failed(_) | Ended::Skipped(_))),
        wall_s: report.wall_s,
    }
}
