//! Running a pipeline: look every stage up, do what is missing, record it, and say so.
//!
//! [`planner`] knows what the cache has, [`scheduler`] decides what runs when, [`stage`] does one stage, [`executor`] does its work.
//! The driver here only passes words between them. One failure stops what depends on it and nothing else.

mod batch;
pub mod event;
mod executor;
pub mod history;
pub mod planner;
mod scheduler;
mod stage;

pub(crate) use executor::lm_worker;

use crate::cache::{Cache, CacheError, Record, RunEntry};
use crate::pipeline::{Fault, Problem};
use crate::plan::schema::Checked;
use ablate_stages::job::Cancel;
use ablate_stages::stage::{Place, StageError};
use event::{Event, Observer};
use planner::Planned;
use scheduler::{Do, Happened, Node, Scheduler};
use stage::StageRun;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
    #[error("{} of {total} units failed; the others are recorded and will not be done again{}", failures.len(), first(failures))]
    Units {
        /// Units there are.
        total: u64,
        /// Unit and message.
        failures: Vec<(String, String)>,
    },
}

fn first(failures: &[(String, String)]) -> String {
    failures.iter().take(5).map(|(unit, message)| format!("\n  {unit}: {message}")).collect()
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
    /// Stages that are asked for, with all they need; empty for every stage.
    pub only: Vec<String>,
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

enum Message<'a> {
    Has(usize, usize, Arc<StageRun<'a>>),
    HelperEnded(usize),
    Over(usize, Box<Result<(Record, bool), RunError>>),
}

/// Runs a planned pipeline.
///
/// # Errors
/// Where a stage that was asked for is not there, a worker or a file is missing, or the cache cannot be written. What a stage does wrong is in the report.
pub fn run(
    planned: &Planned,
    cache: &Cache,
    options: &Options,
    cancel: &Cancel,
    observer: &dyn Observer,
) -> Result<Report, RunError> {
    let started = Instant::now();
    let wanted = wanted(planned, &options.only)?;
    let known = planned.lookup(cache)?;
    preflight(planned, &wanted, &known)?;
    observer.observe(&Event::RunStarted {
        pipeline: planned.name().to_owned(),
        stages: wanted.len(),
        limit: options.limit,
    });
    let num_steps = planned.steps.len();
    let mut ended: Vec<Ended> = (0..num_steps).map(|_| Ended::NotAsked).collect();
    let everything_known = wanted.iter().all(|&step| known[step].is_some());
    if everything_known {
        // The quick way out of a run with nothing to do: no thread, and a history entry only where the last run was another.
        for &step in &wanted {
            let record = known[step].clone().expect("checked above");
            observer.observe(&cached(planned, step, &record));
            if record.recipe != planned.steps[step].recipe {
                cache.link_recipe(&planned.steps[step].recipe, &record.key)?;
            }
            ended[step] = Ended::Cached(record);
        }
        let report = Report { steps: ended, wall_s: started.elapsed().as_secs_f64(), cancelled: false };
        observer.observe(&finished(&report));
        history::note_cached(planned, cache, options.limit, &report)?;
        return Ok(report);
    }
    #[expect(clippy::disallowed_methods, reason = "a run is filed under the time of its start")]
    let entry = cache.begin_run(planned.name(), SystemTime::now(), &history::resolved_text(planned))?;
    let records: Mutex<BTreeMap<usize, Record>> = Mutex::new(BTreeMap::new());
    let cpus = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)) as u32;
    let nodes = (0..num_steps).map(|step| node(planned, step, wanted.contains(&step))).collect();
    let gpus = (0..num_steps).filter_map(|step| planned.stage(step).resources.gpus).max().unwrap_or(1);
    let mut scheduler = Scheduler::new(nodes, cpus, gpus, options.fail_fast);
    let mut cancelled = false;
    let watching = Both { observer, entry: &entry };
    std::thread::scope(|scope| {
        let (send, receive): (Sender<Message<'_>>, Receiver<Message<'_>>) = channel();
        let mut helping: BTreeMap<usize, Arc<StageRun<'_>>> = BTreeMap::new();
        let mut orders = scheduler.begin();
        loop {
            for order in orders.drain(..) {
                match order {
                    Do::Start(step) => {
                        let (send, records, watching, entry) = (send.clone(), &records, &watching, &entry);
                        let run = StageRun::new(planned, step, cache.clone(), cancel.clone(), cpus as usize);
                        scope.spawn(move || {
                            let run = Arc::new(run);
                            let ask = |room| {
                                // The driver outlives every stage.
                                let _ = send.send(Message::Has(step, room, Arc::clone(&run)));
                            };
                            let record = |need: usize| lock(records)[&need].clone();
                            let result = run.run(&record, entry, watching, &ask);
                            let _ = send.send(Message::Over(step, Box::new(result)));
                        });
                    }
                    Do::Help(step) => {
                        let (send, run, watching, entry) =
                            (send.clone(), Arc::clone(&helping[&step]), &watching, &entry);
                        scope.spawn(move || {
                            run.help(entry, watching);
                            let _ = send.send(Message::HelperEnded(step));
                        });
                    }
                    Do::Skip(step, because) => {
                        let because = because.map(|step| planned.steps[step].name.clone());
                        watching.observe(&Event::StageSkipped {
                            stage: planned.steps[step].name.clone(),
                            because: because.clone().unwrap_or_else(|| "cancelled".into()),
                        });
                        ended[step] = Ended::Skipped(because);
                    }
                }
            }
            if scheduler.is_over() {
                break;
            }
            let happened = match receive.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Has(step, room, run)) => {
                    helping.insert(step, run);
                    Happened::HasRoom(step, room)
                }
                Ok(Message::HelperEnded(step)) => Happened::HelperEnded(step),
                Ok(Message::Over(step, result)) => {
                    helping.remove(&step);
                    over(planned, step, *result, &mut ended, &records, &watching)
                }
                Err(_) if cancel.is_cancelled() && !cancelled => {
                    cancelled = true;
                    executor::signal_workers();
                    Happened::Cancelled
                }
                Err(_) => continue,
            };
            orders = scheduler.handle(happened);
        }
    });
    let report = Report { steps: ended, wall_s: started.elapsed().as_secs_f64(), cancelled: cancel.is_cancelled() };
    watching.observe(&finished(&report));
    let kept = history::finish(entry, planned, cache, options.limit, &report);
    // What stopped a run is worth more words than a history that could not be written after it.
    if report.is_complete() {
        kept?;
    }
    Ok(report)
}

fn over(
    planned: &Planned,
    step: usize,
    result: Result<(Record, bool), RunError>,
    ended: &mut [Ended],
    records: &Mutex<BTreeMap<usize, Record>>,
    observer: &dyn Observer,
) -> Happened {
    match result {
        Ok((record, was_cached)) => {
            if was_cached {
                observer.observe(&cached(planned, step, &record));
            }
            lock(records).insert(step, record.clone());
            ended[step] = if was_cached { Ended::Cached(record) } else { Ended::Ran(record) };
            Happened::Done(step)
        }
        Err(error) => {
            let stage = planned.steps[step].name.clone();
            observer.observe(&if error.is_cancelled() {
                Event::StageSkipped { stage, because: "cancelled".into() }
            } else {
                Event::StageFailed { stage, error: error.to_string() }
            });
            ended[step] = if error.is_cancelled() { Ended::Skipped(None) } else { Ended::Failed(error) };
            Happened::Failed(step)
        }
    }
}

/// Events go to who watches and to the history.
struct Both<'a> {
    observer: &'a dyn Observer,
    entry: &'a RunEntry,
}

impl Observer for Both<'_> {
    fn observe(&self, event: &Event) {
        self.observer.observe(event);
        // A full disk is told by the stage that meets it; the history is not worth ending a run for.
        let _ = self.entry.event(event);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The steps that are asked for, with all they need.
fn wanted(planned: &Planned, only: &[String]) -> Result<BTreeSet<usize>, RunError> {
    if only.is_empty() {
        return Ok((0..planned.steps.len()).collect());
    }
    let mut wanted = BTreeSet::new();
    let mut open = Vec::new();
    for name in only {
        open.extend(planned.all_named(name).map_err(StageError::failed)?);
    }
    while let Some(step) = open.pop() {
        if wanted.insert(step) {
            open.extend(&planned.steps[step].needs);
        }
    }
    Ok(wanted)
}

/// What of the machine a pipeline needs and does not find: once each, at the first stage that needs it.
pub fn lacking(checked: &Checked) -> Vec<Problem> {
    let mut missing: Vec<Problem> = Vec::new();
    let mut asked = BTreeSet::new();
    for (case, index) in checked.cases.iter().flat_map(|case| case.order.iter().map(move |&index| (case, index))) {
        let stage = &case.pipeline.stages[index];
        let Some(declaration) = case.declarations.get(&stage.name) else { continue };
        let worker = (declaration.place == Place::Torch && asked.insert("ablate-lm")).then(|| match lm_worker() {
            Err(StageError::Missing { what, fix }) => Some((what, fix)),
            _ => None,
        });
        let environment = declaration.environment.iter().filter(|need| asked.insert(need.name()));
        let tools = worker.into_iter().chain(environment.map(|&need| planner::probe(need).err()));
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

fn node(planned: &Planned, step: usize, wanted: bool) -> Node {
    let resources = &planned.stage(step).resources;
    let declaration = planned.declaration(step);
    Node {
        needs: planned.steps[step].needs.clone(),
        cpus: resources.cpus.unwrap_or(declaration.cpus),
        gpus: resources.gpus.unwrap_or(0),
        wanted,
    }
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
