//! The driver of a run: starts what the scheduler orders, and tells it what happened.

use super::ahead::Feed;
use super::claims::Ledger;
use super::event::Event;
use super::planner::Planned;
use super::scheduler::{Do, Happened, Node, Scheduler};
use super::stage::StageRun;
use super::{Ended, Options, RunError, Teller, cached, executor, lock};
use crate::cache::{Cache, Output, Record, RunEntry, TablePart};
use ablate_stages::job::Cancel;
use ablate_stages::stage::{Role, StageError, Work};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;

/// What stages say to the driver.
pub(super) enum Message {
    /// The stage has work for so many workers more.
    Has(usize, usize),
    /// A worker more of the stage ended.
    HelperEnded(usize),
    /// There is more for the stage to work on ahead.
    Published(usize),
    /// A worker that went ahead ended, after so many units.
    AheadEnded(usize, u64),
    /// The stage waits for somebody outside.
    Waits(usize),
    /// The stage need not wait any longer.
    WantsOn(usize),
    /// The stage ended: its record, and whether that was there already.
    Over(usize, Box<Result<(Record, bool), RunError>>),
}

/// What all stages of a run share.
pub(super) struct Context<'a> {
    pub(super) planned: &'a Planned,
    pub(super) cache: &'a Cache,
    pub(super) cancel: &'a Cancel,
    pub(super) cpus: usize,
    pub(super) entry: &'a RunEntry,
    pub(super) ledger: Ledger,
    teller: Teller<'a>,
    send: Sender<Message>,
    records: Mutex<BTreeMap<usize, Record>>,
    gates: Vec<Gate>,
    feeds: Vec<Feed>,
    /// For each step the one on whose rows it can work while that still runs.
    follows: Vec<Option<usize>>,
}

impl Context<'_> {
    pub(super) fn tell(&self, event: &Event) {
        self.teller.tell(event);
    }

    pub(super) fn say(&self, message: Message) {
        // The driver outlives every stage.
        let _ = self.send.send(message);
    }

    /// The record of a step that is done.
    pub(super) fn record(&self, step: usize) -> Record {
        lock(&self.records)[&step].clone()
    }

    /// What is connected to a step, all of whose makers are done.
    pub(super) fn inputs(&self, step: usize) -> BTreeMap<String, Output> {
        let sources = &self.planned.steps[step].sources;
        sources
            .iter()
            .map(|(port, (maker, output))| (port.clone(), self.record(*maker).outputs[output].clone()))
            .collect()
    }

    /// What is connected to a step by now: the outputs of makers that are done.
    pub(super) fn known_inputs(&self, step: usize) -> BTreeMap<String, Output> {
        let records = lock(&self.records);
        let sources = self.planned.steps[step].sources.iter();
        sources
            .filter_map(|(port, (maker, output))| Some((port.clone(), records.get(maker)?.outputs[output].clone())))
            .collect()
    }

    /// Where a step that waits is told to go on.
    pub(super) fn gate(&self, step: usize) -> &Gate {
        &self.gates[step]
    }

    /// What a step can work on ahead.
    pub(super) fn feed(&self, step: usize) -> &Feed {
        &self.feeds[step]
    }

    /// Whether steps work ahead on what this one commits.
    pub(super) fn is_followed(&self, step: usize) -> bool {
        self.followers(step).next().is_some()
    }

    fn followers(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.follows.len()).filter(move |&follower| self.follows[follower] == Some(step))
    }

    /// Offers rows that a step has committed to those that follow it.
    pub(super) fn publish(&self, step: usize, rows: &TablePart) {
        for follower in self.followers(step) {
            self.feeds[follower].push(rows);
            self.say(Message::Published(follower));
        }
    }
}

/// Where a stage waits for the driver's word.
#[derive(Default)]
pub(super) struct Gate {
    /// Whether it is to go on; none until there is a word.
    word: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    fn open(&self, go_on: bool) {
        *lock(&self.word) = Some(go_on);
        self.changed.notify_all();
    }

    /// Waits for the word: whether to go on.
    pub(super) fn wait(&self) -> bool {
        let word = self.changed.wait_while(lock(&self.word), |word| word.is_none());
        word.unwrap_or_else(PoisonError::into_inner).unwrap_or_default()
    }

    /// Whether the stage is not to run any more.
    pub(super) fn is_given_up(&self) -> bool {
        *lock(&self.word) == Some(false)
    }
}

/// Runs the wanted steps; how each step ended.
pub(super) fn drive(
    planned: &Planned,
    cache: &Cache,
    options: &Options,
    cancel: &Cancel,
    wanted: &BTreeSet<usize>,
    entry: &RunEntry,
    teller: Teller<'_>,
) -> Vec<Ended> {
    let num_steps = planned.steps.len();
    let cpus = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let follows: Vec<Option<usize>> = (0..num_steps).map(|step| follows(planned, step)).collect();
    let nodes = (0..num_steps).map(|step| node(planned, step, follows[step], wanted.contains(&step))).collect();
    let gpus = (0..num_steps).filter_map(|step| planned.stage(step).resources.gpus).max().unwrap_or(1);
    let mut scheduler = Scheduler::new(nodes, cpus as u32, gpus, options.fail_fast);
    let (send, receive) = channel();
    let run = Context {
        planned,
        cache,
        cancel,
        cpus,
        entry,
        ledger: Ledger::default(),
        teller,
        send,
        records: Mutex::default(),
        gates: (0..num_steps).map(|_| Gate::default()).collect(),
        feeds: (0..num_steps).map(|_| Feed::default()).collect(),
        follows,
    };
    let stages: Vec<StageRun<'_>> = (0..num_steps).map(|step| StageRun::new(&run, step)).collect();
    let mut ended: Vec<Ended> = (0..num_steps).map(|_| Ended::NotAsked).collect();
    let mut cancelled = false;
    std::thread::scope(|scope| {
        let mut orders = scheduler.begin();
        loop {
            for order in orders.drain(..) {
                obey(order, &run, &stages, scope, &mut ended);
            }
            if scheduler.is_over() {
                break;
            }
            if cancel.is_cancelled() && !cancelled {
                cancelled = true;
                executor::signal_workers();
                orders = scheduler.handle(Happened::Cancelled);
                continue;
            }
            if let Ok(message) = receive.recv_timeout(Duration::from_millis(100)) {
                for happened in happened(message, &run, &stages, &mut ended) {
                    orders.extend(scheduler.handle(happened));
                }
            }
        }
    });
    ended
}

fn obey<'scope, 'env: 'scope>(
    order: Do,
    run: &'env Context<'_>,
    stages: &'env [StageRun<'env>],
    scope: &'scope Scope<'scope, 'env>,
    ended: &mut [Ended],
) {
    match order {
        // Whatever panics, the driver hears of its end: nobody waits for a thread that is gone.
        Do::Start(step) => {
            scope.spawn(move || {
                let result = contained(|| stages[step].run()).and_then(|result| result);
                run.say(Message::Over(step, Box::new(result)));
            });
        }
        Do::Help(step) => {
            scope.spawn(move || {
                contained(|| stages[step].help()).unwrap_or_else(|bug| stages[step].help_failed(bug));
                run.say(Message::HelperEnded(step));
            });
        }
        Do::GoAhead(step) => {
            scope.spawn(move || {
                // The stage's own run meets the same, and says so.
                let units = contained(|| stages[step].go_ahead()).unwrap_or_else(|_| {
                    run.feed(step).close();
                    0
                });
                run.say(Message::AheadEnded(step, units));
            });
        }
        Do::Release(step) => stages[step].release_helper(),
        Do::GoOn(step) => run.gate(step).open(true),
        Do::GiveUp(step) => run.gate(step).open(false),
        Do::Skip(step, because) => {
            let because = because.map(|step| run.planned.steps[step].name.clone());
            run.tell(&Event::StageSkipped {
                stage: run.planned.steps[step].name.clone(),
                because: because.clone().unwrap_or_else(|| "cancelled".into()),
            });
            ended[step] = Ended::Skipped(because);
        }
    }
}

/// Does it; a panic, which is a bug of ours or of a kind's, becomes the error of the stage that met it.
fn contained<T>(work: impl FnOnce() -> T) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        StageError::failed(format!("{text}; this is a bug, please report it")).into()
    })
}

/// What a message means to the scheduler.
fn happened(message: Message, run: &Context<'_>, stages: &[StageRun<'_>], ended: &mut [Ended]) -> Vec<Happened> {
    match message {
        Message::Has(step, room) => vec![Happened::HasRoom(step, room)],
        Message::HelperEnded(step) => vec![Happened::HelperEnded(step)],
        Message::Published(step) => vec![Happened::CanGoAhead(step, stages[step].workers_ahead())],
        Message::AheadEnded(step, units) => {
            // One that found nothing to do would find nothing again, until there is more.
            let workers = if units == 0 { 0 } else { stages[step].workers_ahead() };
            vec![Happened::CanGoAhead(step, workers), Happened::AheadEnded(step)]
        }
        Message::Waits(step) => vec![Happened::Waits(step)],
        Message::WantsOn(step) => vec![Happened::WantsOn(step)],
        Message::Over(step, result) => {
            // Those that follow it run on their own from now on, with as many workers as they can use.
            run.followers(step).for_each(|follower| run.feeds[follower].close());
            vec![over(step, *result, run, ended)]
        }
    }
}

fn over(step: usize, result: Result<(Record, bool), RunError>, run: &Context<'_>, ended: &mut [Ended]) -> Happened {
    match result {
        Ok((record, was_cached)) => {
            if was_cached {
                run.tell(&cached(run.planned, step, &record));
            }
            lock(&run.records).insert(step, record.clone());
            ended[step] = if was_cached { Ended::Cached(record) } else { Ended::Ran(record) };
            Happened::Done(step)
        }
        Err(error) => {
            let stage = run.planned.steps[step].name.clone();
            run.tell(&if error.is_cancelled() {
                Event::StageSkipped { stage, because: "cancelled".into() }
            } else {
                Event::StageFailed { stage, error: error.to_string() }
            });
            ended[step] = if error.is_cancelled() { Ended::Skipped(None) } else { Ended::Failed(error) };
            Happened::Failed(step)
        }
    }
}

fn node(planned: &Planned, step: usize, follows: Option<usize>, wanted: bool) -> Node {
    let resources = &planned.stage(step).resources;
    let declaration = planned.declaration(step);
    Node {
        needs: planned.steps[step].needs.clone(),
        follows,
        cpus: resources.cpus.unwrap_or(declaration.cpus),
        gpus: resources.gpus.unwrap_or(0),
        wanted,
    }
}

/// The step on whose rows this one can work while that still runs: both go by units, this one row by row, and all else that it
/// reads comes from others.
fn follows(planned: &Planned, step: usize) -> Option<usize> {
    let declaration = planned.declaration(step);
    if declaration.work != (Work::Map { group_by: None }) {
        return None;
    }
    let port = declaration.inputs.iter().find(|port| port.role == Role::Rows)?;
    let sources = &planned.steps[step].sources;
    let (above, output) = sources.get(&port.name)?;
    let maker = planned.declaration(*above);
    let is_first = maker.outputs.first().is_some_and(|first| first.name == *output);
    let alone = sources.values().filter(|(maker, _)| maker == above).count() == 1;
    (matches!(maker.work, Work::Map { .. }) && is_first && alone).then_some(*above)
}
