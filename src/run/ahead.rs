//! Working ahead: a map stage starts on the rows that the stage above has committed so far, while that still runs.
//!
//! Its key is not known by then, but its family is: a unit that is done is found there when the stage runs. So workers that go
//! ahead take nothing from the stage's own run but work, and whatever goes wrong with them is left to it.

use super::event::{Ahead, Event};
use super::executor::Stopped;
use super::map::MapPart;
use super::stage::StageRun;
use super::{RunError, lock};
use crate::cache::{Table, TablePart};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Units that are worth a worker, as long as nobody knows how long they take.
const WORTH_UNITS: usize = 32;
/// Work that is worth a worker.
const WORTH_S: f64 = 1.0;

/// What the stage above has committed: where the rows are, never the rows.
#[derive(Default)]
pub(super) struct Feed {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Table,
    is_closed: bool,
}

impl Feed {
    /// Adds rows.
    pub(super) fn push(&self, rows: &TablePart) {
        let mut state = lock(&self.state);
        if !state.is_closed {
            state.waiting.rows += rows.rows();
            state.waiting.parts.push(rows.clone());
        }
    }

    /// Ends it: what is left is for the stage's own run.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.waiting = Table::default();
    }

    fn is_closed(&self) -> bool {
        lock(&self.state).is_closed
    }

    fn take(&self) -> Table {
        std::mem::take(&mut lock(&self.state).waiting)
    }

    fn num_rows(&self) -> usize {
        lock(&self.state).waiting.rows as usize
    }
}

impl StageRun<'_> {
    fn feed(&self) -> &Feed {
        self.run.feed(self.step)
    }

    /// How many workers could go ahead, those that do included.
    pub(super) fn workers_ahead(&self) -> usize {
        if self.feed().is_closed() {
            return 0;
        }
        let part = lock(&self.ahead).clone();
        let pending = part.as_ref().map_or(0, |part| part.work.num_pending());
        ((self.feed().num_rows() + pending) / worth(part.as_deref())).min(self.run.cpus)
    }

    /// Works ahead as one worker, until it starves. Returns how many units it did.
    pub(super) fn go_ahead(&self) -> u64 {
        let before = self.units_ahead.load(Ordering::SeqCst);
        if self.try_ahead().is_err() {
            // The stage's own run meets the same, and says so.
            self.feed().close();
        }
        self.units_ahead.load(Ordering::SeqCst) - before
    }

    fn try_ahead(&self) -> Result<(), RunError> {
        // The stage may run on its own by now.
        if self.feed().is_closed() {
            return Ok(());
        }
        let part = self.ahead_part()?;
        let (work, feed) = (&part.work, self.feed());
        work.extend(&feed.take())?;
        // What was published may be done already; no worker is started for nothing.
        if feed.is_closed() || !work.has_work() || work.num_pending() < worth(Some(&part)) {
            return Ok(());
        }
        let tell = |worker, units| {
            self.run.tell(&Event::StageAhead { stage: self.name().to_owned(), worker, units });
        };
        tell(Ahead::Begins, work.num_pending() as u64);
        let (worker, mut units) = (work.hire(), 0);
        let mut next = || {
            work.extend(&feed.take()).map_err(super::stage::to_stage_error)?;
            if feed.is_closed() { Ok(None) } else { work.next(worker, self.run.cpus) }
        };
        let mut deliver = |batch: &ablate_stages::job::FinishedBatch| {
            work.deliver(batch)?;
            units += batch.answers.len() as u64;
            self.units_ahead.fetch_add(batch.answers.len() as u64, Ordering::SeqCst);
            Ok(())
        };
        let served = self.serve(&part, &mut next, &mut deliver);
        work.dismiss(worker);
        tell(Ahead::Ends, units);
        match served {
            Ok(ran) => self.note(ran),
            Err(Stopped::Failed(error)) => return Err(error),
            Err(Stopped::Died(_)) => feed.close(),
        }
        Ok(())
    }

    /// What the workers that go ahead share: the stage without its rows yet.
    fn ahead_part(&self) -> Result<Arc<MapPart>, RunError> {
        let _opening = lock(&self.opening_ahead);
        if let Some(part) = lock(&self.ahead).clone() {
            return Ok(part);
        }
        let part = Arc::new(self.open_part(None, &self.run.known_inputs(self.step))?);
        *lock(&self.ahead) = Some(Arc::clone(&part));
        Ok(part)
    }
}

/// How many units are worth a worker.
fn worth(part: Option<&MapPart>) -> usize {
    let seconds = part.and_then(|part| part.work.seconds_per_unit());
    seconds.map_or(WORTH_UNITS, |seconds| ((WORTH_S / seconds.max(1e-6)) as usize).max(1))
}
