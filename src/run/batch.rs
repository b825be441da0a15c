//! The work of a map stage: which of its units the cache has, batches of the others, and what becomes of them.
//!
//! Any number of workers pull batches and deliver them; each is committed when it is delivered. Batches are sized by measured time.
//! When a worker dies, its unfinished batches are cut in halves and handed out again, each to a worker that gets nothing else:
//! so a unit that kills its workers is found by bisection, and fails alone.

use super::claims::{Claim, Claims, Ledger};
use super::units::Units;
use super::{RunError, lock};
use crate::cache::{
    BatchRecord, BatchUnit, Cache, Cost, Digest, RECORD_FORMAT, Table, TablePart, UnitOutcome, UnitPlace, host_name,
};
use ablate_stages::columns::Dropped;
use ablate_stages::job::{FinishedBatch, UnitAnswer, UnitBatch};
use ablate_stages::stage::StageError;
use arrow::datatypes::Schema;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Below this a batch would cost as much to commit as to do.
const LEAST_S: f64 = 0.2;
/// Units of the first batch, which measures.
const FIRST_UNITS: usize = 32;
/// Units of a batch, at most.
const MOST_UNITS: usize = 8192;
/// How often a unit that a worker has to itself may kill it.
const MOST_KILLS: u32 = 2;
/// How often workers may die before one of them delivers something again; where there are many workers, twice each.
const MOST_DEATHS: u32 = 24;

/// The work of one map stage.
pub(super) struct MapWork {
    cache: Cache,
    units: RwLock<Units>,
    claims: Arc<Claims>,
    owner: u64,
    target_s: f64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Taken from the end.
    pending: Vec<u32>,
    /// Batches that were out with a worker when it died.
    suspects: Vec<Vec<u32>>,
    out: BTreeMap<u64, Out>,
    /// Workers that have a suspect batch and get no other.
    with_suspects: BTreeSet<u64>,
    kills: BTreeMap<u32, u32>,
    deaths: u32,
    next_batch: u64,
    next_worker: u64,
    num_done: u64,
    num_run: u64,
    seconds_per_unit: Option<f64>,
    failures: Vec<(u32, String)>,
    is_closed: bool,
}

/// A batch that is being worked on.
struct Out {
    members: Vec<u32>,
    worker: u64,
    started: Instant,
}

impl MapWork {
    /// Looks every unit up.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub(super) fn new(
        cache: &Cache,
        ledger: &Ledger,
        family: Digest,
        units: Units,
        target_s: f64,
    ) -> Result<Self, RunError> {
        let (claims, owner) = ledger.open(cache, family)?;
        let (cache, state) = (cache.clone(), Mutex::default());
        let work = Self { cache, units: RwLock::new(units), claims, owner, target_s, state };
        work.enlist(0..work.num_units() as usize);
        // Taken from the end, so that the first rows are done first.
        work.state().pending.reverse();
        Ok(work)
    }

    /// Adds a table's rows as units.
    ///
    /// # Errors
    /// Where the table cannot be read, or an id that it looks up is missing.
    pub(super) fn extend(&self, table: &Table) -> Result<(), RunError> {
        if table.rows == 0 {
            return Ok(());
        }
        let new = {
            let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
            let before = units.len();
            units.extend(table)?;
            before..units.len()
        };
        self.enlist(new);
        Ok(())
    }

    /// Makes pending what is not done of these units.
    fn enlist(&self, new: Range<usize>) {
        let (units, mut state) = (self.units(), self.state());
        let claims = self.claims.state();
        let mut seen = HashSet::new();
        let before = state.pending.len();
        for unit in new.clone() {
            let key = &units.keys()[unit];
            if !claims.known.has(key) && seen.insert(key) {
                state.pending.push(unit as u32);
            }
        }
        state.num_done += (new.len() - (state.pending.len() - before)) as u64;
    }

    /// How many units there are.
    pub(super) fn num_units(&self) -> u64 {
        self.units().len() as u64
    }

    /// How many are done, by this run or earlier ones.
    pub(super) fn num_done(&self) -> u64 {
        self.state().num_done
    }

    /// How many units were worked on here.
    pub(super) fn num_run(&self) -> u64 {
        self.state().num_run
    }

    /// How many wait for a worker.
    pub(super) fn num_pending(&self) -> usize {
        let state = self.state();
        state.pending.len() + state.suspects.iter().map(Vec::len).sum::<usize>()
    }

    /// Seconds by the clock that a worker takes for a unit, once that is known.
    pub(super) fn seconds_per_unit(&self) -> Option<f64> {
        self.state().seconds_per_unit
    }

    /// A number for a worker that begins.
    pub(super) fn hire(&self) -> u64 {
        let mut state = self.state();
        state.next_worker += 1;
        state.next_worker
    }

    /// The next batch for a worker, one of `workers`; none when there is nothing for it.
    ///
    /// # Errors
    /// Where rows cannot be read.
    pub(super) fn next(&self, worker: u64, workers: usize) -> Result<Option<UnitBatch>, StageError> {
        let Some((id, members)) = self.pick(worker, workers) else { return Ok(None) };
        self.units().batch(id, &members).map(Some)
    }

    fn pick(&self, worker: u64, workers: usize) -> Option<(u64, Vec<u32>)> {
        let (units, mut state) = (self.units(), self.state());
        if state.is_closed || state.with_suspects.contains(&worker) {
            return None;
        }
        let mut members = Vec::new();
        // A worker that has work already would take others down with the suspects.
        if let Some(suspects) = (!state.has_work(worker)).then(|| state.suspects.pop()).flatten() {
            state.with_suspects.insert(worker);
            members = suspects;
        } else {
            // Later batches than the first take about the target time, and leave work for the others at the end.
            let within =
                |seconds: f64| state.seconds_per_unit.map_or(FIRST_UNITS, |s| (seconds / s.max(1e-6)) as usize);
            let fair = state.pending.len().div_ceil(2 * workers.max(1)).max(within(LEAST_S));
            let size = within(self.target_s).min(fair).clamp(1, units.most_in_batch().min(MOST_UNITS));
            let mut claims = self.claims.state();
            let mut taken = Vec::new();
            while let Some(unit) = (members.len() < size).then(|| state.pending.pop()).flatten() {
                match claims.claim(units.key_of(unit), self.owner) {
                    Claim::Ours => members.push(unit),
                    Claim::Known => state.num_done += 1,
                    Claim::Taken => taken.push(unit),
                }
            }
            state.pending.extend(taken.into_iter().rev());
        }
        if members.is_empty() {
            return None;
        }
        let id = state.next_batch;
        state.next_batch += 1;
        state.out.insert(id, Out { members: members.clone(), worker, started: Instant::now() });
        Some((id, members))
    }

    /// Commits a finished batch; gives what of it was stored, for those who read on from there.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub(super) fn deliver(&self, finished: &FinishedBatch) -> Result<Option<TablePart>, RunError> {
        let out = self.state().out.remove(&finished.id);
        let Out { members, started, .. } =
            out.ok_or_else(|| StageError::failed("a batch came back that was not out; this is a bug of the kind"))?;
        let wall_s = started.elapsed().as_secs_f64();
        let (mut failures, mut done) = (Vec::new(), Vec::new());
        let keys = self.keys_of(&members);
        for ((&unit, &key), answer) in members.iter().zip(&keys).zip(&finished.answers) {
            let outcome = match answer {
                UnitAnswer::Rows(range) => UnitOutcome::Rows(u64::from(range.start)..u64::from(range.end)),
                UnitAnswer::Dropped { reason, detail } => {
                    UnitOutcome::Dropped { reason: reason.clone(), detail: detail.clone() }
                }
                UnitAnswer::Failed { message } => {
                    failures.push((unit, message.clone()));
                    continue;
                }
            };
            done.push(BatchUnit { key, outcome });
        }
        let rows = if finished.rows.num_rows() == 0 {
            None
        } else {
            let mut writer = self.cache.table_writer(&finished.rows.schema())?;
            writer.write(&finished.rows)?;
            Some(writer.finish()?)
        };
        let record = BatchRecord {
            format: RECORD_FORMAT,
            family: self.claims.family(),
            rows: rows.clone(),
            units: done,
            cost: Cost { wall_s, cpu_s: 0.0, peak_memory_bytes: None },
            host: host_name(),
            finished_unix_s: unix_s(),
        };
        if !record.units.is_empty() {
            self.cache.commit_batch(&record)?;
        }
        self.claims.done(&record, keys);
        let mut state = self.state();
        state.deaths = 0;
        state.num_done += members.len() as u64;
        state.num_run += members.len() as u64;
        state.failures.extend(failures);
        let per_unit = wall_s / members.len() as f64;
        state.seconds_per_unit = Some(state.seconds_per_unit.map_or(per_unit, |known| 0.5 * (known + per_unit)));
        Ok(rows)
    }

    /// Takes back what was out with a worker that died. `how`: how it ended; `said`: the last of what it said; `num_workers`: how many
    /// there are at most.
    ///
    /// # Errors
    /// Where workers keep dying and none delivers anything.
    pub(super) fn bury(&self, worker: u64, how: &str, said: &str, num_workers: usize) -> Result<(), RunError> {
        let (units, mut state) = (self.units(), self.state());
        state.deaths += 1;
        let most = MOST_DEATHS.max(2 * num_workers as u32);
        if state.deaths > most {
            let words = format!("its workers die one after the other, {most} by now; the last one {how}");
            return Err(StageError::failed(words).into());
        }
        let lost = state.take_out(worker);
        match lost.as_slice() {
            [alone] if alone.len() == 1 => {
                let unit = alone[0];
                let kills = state.kills.entry(unit).or_default();
                *kills += 1;
                if *kills < MOST_KILLS {
                    state.suspects.push(vec![unit]);
                } else {
                    let said = if said.is_empty() { String::new() } else { format!("; it said:\n{said}") };
                    state.failures.push((unit, format!("a worker that had this unit alone {how}{said}")));
                    state.num_done += 1;
                    state.num_run += 1;
                    self.claims.give_up([units.key_of(unit)]);
                }
            }
            _ => {
                for members in lost {
                    let (first, second) = members.split_at(members.len().div_ceil(2));
                    state
                        .suspects
                        .extend([second, first].iter().filter(|half| !half.is_empty()).map(|half| half.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Takes back what a worker left that ended without an error of its own.
    pub(super) fn dismiss(&self, worker: u64) {
        let lost: Vec<u32> = self.state().take_out(worker).into_iter().flatten().collect();
        self.claims.give_up(self.keys_of(&lost));
        self.state().pending.extend(lost.into_iter().rev());
    }

    /// Whether there is anything that a further worker could do: what others did meanwhile is done, what they do is theirs.
    pub(super) fn has_work(&self) -> bool {
        let (units, mut state) = (self.units(), self.state());
        let claims = self.claims.state();
        let before = state.pending.len();
        state.pending.retain(|&unit| !claims.known.has(&units.key_of(unit)));
        state.num_done += (before - state.pending.len()) as u64;
        !state.is_closed
            && (!state.suspects.is_empty() || state.pending.iter().any(|&unit| !claims.is_claimed(&units.key_of(unit))))
    }

    /// Hands out nothing more.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }

    /// Waits until a unit that another stage has claimed is done or given up, or for a short while.
    pub(super) fn wait(&self) {
        self.claims.wait();
    }

    /// The units that failed, with their messages, in the order of the table.
    pub(super) fn failures(&self) -> Vec<(u32, String)> {
        let mut failures = self.state().failures.clone();
        failures.sort();
        failures
    }

    /// The names of units.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn names_of(&self, units: &[u32]) -> Result<Vec<String>, StageError> {
        self.units().names_of(units)
    }

    /// Where the rows of those units lie that are done.
    pub(super) fn done_table(&self) -> Table {
        let (units, claims) = (self.units(), self.claims.state());
        let done = units.keys().iter().filter(|key| claims.known.has(key));
        claims.known.table(done).unwrap_or_default()
    }

    /// Writes the rows into few blobs, if they lie in many small ones.
    ///
    /// # Errors
    /// Where the cache cannot be read or written: what was there before is there then.
    pub(super) fn compact(&self, schema: &Schema) -> Result<(), RunError> {
        if !self.table()?.is_fragmented() {
            return Ok(());
        }
        let (units, known) = {
            let (units, claims) = (self.units(), self.claims.state());
            (units.keys().to_vec(), claims.known.only(units.keys()))
        };
        let records = self.cache.compact_units(&self.claims.family(), schema, &units, &known)?;
        let mut claims = self.claims.state();
        records.iter().for_each(|record| claims.known.move_to(record));
        Ok(())
    }

    /// Where the stage's rows lie.
    ///
    /// # Errors
    /// Where a unit is not done.
    pub(super) fn table(&self) -> Result<Table, RunError> {
        let (units, claims) = (self.units(), self.claims.state());
        let table = claims.known.table(units.keys());
        Ok(table.map_err(|unit| StageError::failed(format!("unit {} is not done", unit.short())))?)
    }

    /// The numbers of units that gave no rows for a reason.
    pub(super) fn dropped(&self) -> Vec<u32> {
        let (units, claims) = (self.units(), self.claims.state());
        let dropped = |(unit, key)| claims.known.is_dropped(key).then_some(unit as u32);
        units.keys().iter().enumerate().filter_map(dropped).collect()
    }

    /// Why these units gave no rows.
    ///
    /// # Errors
    /// Where their names cannot be read.
    pub(super) fn reasons(&self, dropped: &[u32]) -> Result<Vec<Dropped>, StageError> {
        let units = self.units();
        let names = units.names_of(dropped)?;
        let claims = self.claims.state();
        let reason = |(unit_id, &unit)| match claims.known.get(&units.key_of(unit)) {
            Some(UnitPlace::Dropped { reason, detail }) => Some(Dropped { unit_id, reason, detail }),
            _ => None,
        };
        Ok(names.into_iter().zip(dropped).filter_map(reason).collect())
    }

    fn keys_of(&self, units: &[u32]) -> Vec<Digest> {
        let known = self.units();
        units.iter().map(|&unit| known.key_of(unit)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Locked before the state, and that before the claims.
    fn units(&self) -> RwLockReadGuard<'_, Units> {
        self.units.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_work(&self, worker: u64) -> bool {
        self.out.values().any(|out| out.worker == worker)
    }

    fn take_out(&mut self, worker: u64) -> Vec<Vec<u32>> {
        let gone: Vec<u64> = self.out.iter().filter(|(_, out)| out.worker == worker).map(|(&id, _)| id).collect();
        gone.iter().filter_map(|id| self.out.remove(id)).map(|out| out.members).collect()
    }
}

impl Drop for MapWork {
    fn drop(&mut self) {
        self.claims.give_up_all(self.owner);
    }
}

/// Now, in seconds since 1970; for histories and expected durations only.
#[expect(clippy::disallowed_methods, reason = "a record says when it was made")]
pub(crate) fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
