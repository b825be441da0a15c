//! Doing a map stage: its units, its workers, its tables. What its workers have committed is offered to the stages that follow it.

use super::batch::MapWork;
use super::driver::Message;
use super::event::Event;
use super::executor::{self, Ran, Stopped};
use super::stage::{Made, StageRun, to_stage_error};
use super::{RunError, lock};
use crate::cache::{Output, TableOutput};
use ablate_stages::columns::{Dropped, columns_of, schema_of};
use ablate_stages::job::{FinishedBatch, conform};
use ablate_stages::stage::{ArtifactKind, Place, StageError};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a batch of a stage is to take: long enough that committing it costs nothing, short enough that little is lost.
const BATCH_INLINE_S: f64 = 2.0;
const BATCH_SANDBOX_S: f64 = 3.0;
const BATCH_TORCH_S: f64 = 10.0;
/// Units whose names are read at once.
const NAMED_AT_ONCE: usize = 4096;
/// Bytes of a worker's last words that go with a unit that killed it.
const LAST_WORDS_BYTES: u64 = 2000;

/// What the workers of a map stage share.
pub(super) struct MapPart {
    pub(super) work: MapWork,
    /// What is connected, for a look at whether it is still what it was.
    inputs: BTreeMap<String, Output>,
    models: BTreeMap<String, PathBuf>,
}

impl StageRun<'_> {
    /// Does a map stage.
    pub(super) fn map(&self, group_by: Option<&str>, inputs: &BTreeMap<String, Output>) -> Result<Made, RunError> {
        // What was done ahead is in the family.
        lock(&self.ahead).take();
        let part = Arc::new(self.open_part(group_by, inputs)?);
        *lock(&self.part) = Some(Arc::clone(&part));
        let made = self.map_part(&part);
        // Its memory is for the stages that still run.
        lock(&self.part).take();
        made
    }

    fn map_part(&self, part: &MapPart) -> Result<Made, RunError> {
        let (work, stage) = (&part.work, self.name().to_owned());
        let reused = work.num_done();
        self.run.tell(&Event::StageStarted { stage, units: Some(work.num_units()), reused });
        if reused > 0 && self.run.is_followed(self.step) {
            work.done_table().parts.into_iter().for_each(|rows| self.run.publish(self.step, &rows));
        }
        // A helper that was late may still hold units.
        while work.num_pending() > 0 || self.helpers.load(Ordering::SeqCst) > 0 {
            if work.has_work() {
                self.work_with_helpers(part)?;
            } else {
                // What is left another stage of this run does, or gives up.
                work.wait();
            }
            lock(&self.helper_error).take().map_or(Ok(()), Err)?;
            self.run.cancel.check()?;
        }
        let failures = work.failures();
        if !failures.is_empty() {
            return Err(self.dead_letters(work, &failures)?);
        }
        self.map_outputs(work)
    }

    fn work_with_helpers(&self, part: &MapPart) -> Result<(), RunError> {
        let room = (part.work.num_pending() / 16).min(self.run.cpus.saturating_sub(1));
        self.run.say(Message::Has(self.step, room));
        let result = self.work(part, &|| true);
        self.run.say(Message::Has(self.step, 0));
        while self.helpers.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        result
    }

    /// Works on units as one worker more, until there are none or its tokens are wanted elsewhere.
    pub(super) fn help(&self) {
        let Some(part) = lock(&self.part).clone() else { return };
        let _counted = Counted::in_(&self.helpers);
        let is_released = Cell::new(false);
        let goes_on = || {
            is_released.set(is_released.get() || self.is_released());
            !is_released.get()
        };
        if let Err(error) = self.work(&part, &goes_on) {
            lock(&self.helper_error).get_or_insert(error);
        }
        // Whoever ends, for whatever reason, is one that need not be told to.
        goes_on();
    }

    /// Ends the stage for what a helper met.
    pub(super) fn help_failed(&self, error: RunError) {
        lock(&self.helper_error).get_or_insert(error);
        if let Some(part) = lock(&self.part).clone() {
            part.work.close();
        }
    }

    /// Lets one helper end, once it has done what it has.
    pub(super) fn release_helper(&self) {
        self.to_release.fetch_add(1, Ordering::SeqCst);
    }

    fn is_released(&self) -> bool {
        let less = |wanted: usize| wanted.checked_sub(1);
        self.to_release.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// One worker's share of a map stage; in place of one that dies another is started.
    fn work(&self, part: &MapPart, goes_on: &dyn Fn() -> bool) -> Result<(), RunError> {
        let work = &part.work;
        while work.has_work() && goes_on() {
            self.run.cancel.check()?;
            let (worker, log) = (work.hire(), self.run.entry.log_path(self.name()));
            let log_start = std::fs::metadata(&log).map_or(0, |found| found.len());
            let mut deliver = |batch: &FinishedBatch| {
                if let Some(rows) = work.deliver(batch)? {
                    self.run.publish(self.step, &rows);
                }
                self.run.tell(&Event::StageProgress {
                    stage: self.name().to_owned(),
                    done: work.num_done(),
                    total: work.num_units(),
                    note: String::new(),
                });
                Ok(())
            };
            let mut next = || if goes_on() { work.next(worker, self.run.cpus) } else { Ok(None) };
            match self.serve(part, &mut next, &mut deliver) {
                Ok(ran) => self.note(ran),
                Err(Stopped::Died(how)) => {
                    self.run.tell(&Event::WorkerDied { stage: self.name().to_owned(), how: how.clone() });
                    work.bury(worker, &how, &last_words(&log, log_start), self.run.cpus)
                        .inspect_err(|_| work.close())?;
                }
                Err(Stopped::Failed(error)) => {
                    work.dismiss(worker);
                    work.close();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Runs one worker.
    pub(super) fn serve(
        &self,
        part: &MapPart,
        next: &mut dyn FnMut() -> Result<Option<ablate_stages::job::UnitBatch>, StageError>,
        deliver: &mut dyn FnMut(&FinishedBatch) -> Result<(), RunError>,
    ) -> Result<Ran, Stopped> {
        let scratch = self.run.cache.scratch().map_err(RunError::from)?;
        let opening = self.opening(&part.models, scratch.path().into(), None)?;
        let mut next = || if self.run.cancel.is_cancelled() { Ok(None) } else { next() };
        let mut deliver = |batch: FinishedBatch| {
            self.check_unchanged(&part.inputs).map_err(to_stage_error)?;
            deliver(&batch).map_err(to_stage_error)
        };
        executor::run_units(opening, &mut next, &mut deliver)
    }

    /// Looks the stage's units up. Without a table on its rows port there are none yet.
    pub(super) fn open_part(
        &self,
        group_by: Option<&str>,
        inputs: &BTreeMap<String, Output>,
    ) -> Result<MapPart, RunError> {
        let target_s = match self.declaration().place {
            Place::Inline => BATCH_INLINE_S,
            Place::Sandbox => BATCH_SANDBOX_S,
            Place::Torch => BATCH_TORCH_S,
        };
        let reading = self.reading();
        let units = reading.units(group_by, inputs)?;
        let work = MapWork::new(self.run.cache, &self.run.ledger, reading.family(inputs), units, target_s)?;
        Ok(MapPart { work, inputs: inputs.clone(), models: self.models(inputs)? })
    }

    fn map_outputs(&self, work: &MapWork) -> Result<Made, RunError> {
        let [first, second] = &self.declaration().outputs[..] else {
            return Err(
                StageError::failed("a map stage writes one table and `dropped`; this is a bug of the kind").into()
            );
        };
        let ArtifactKind::Table { columns, measured } = &first.artifact else {
            return Err(StageError::failed("a map stage writes a table; this is a bug of the kind").into());
        };
        let schema = schema_of(columns);
        // A table in many pieces is a table: whatever is wrong with the cache, the next lines will meet.
        let _ = work.compact(&schema);
        let table = self.run.cache.table_output(&schema, work.table()?, measured)?;
        let (dropped_table, dropped) = self.dropped_table(work)?;
        let outputs = BTreeMap::from([
            (first.name.clone(), Output::Table(table)),
            (second.name.clone(), Output::Table(dropped_table)),
        ]);
        let units_run = work.num_run() + self.units_ahead.load(Ordering::SeqCst);
        Ok(Made { outputs, dropped, units_run })
    }

    /// The units that gave no rows, and how many there are by reason.
    fn dropped_table(&self, work: &MapWork) -> Result<(TableOutput, BTreeMap<String, u64>), RunError> {
        let schema = schema_of(&columns_of::<Dropped>());
        let mut writer = self.run.cache.output_writer(&schema, &[])?;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for units in work.dropped().chunks(NAMED_AT_ONCE) {
            let dropped = work.reasons(units)?;
            for unit in &dropped {
                *counts.entry(unit.reason.clone()).or_default() += 1;
            }
            let rows = serde_arrow::to_record_batch(&schema.fields, &dropped).map_err(StageError::from)?;
            writer.write(&conform(&rows, &schema)?)?;
        }
        Ok((writer.finish_output()?, counts))
    }

    /// Puts the units that failed aside: a table of the run, which its history links.
    fn dead_letters(&self, work: &MapWork, failures: &[(u32, String)]) -> Result<RunError, RunError> {
        let schema = schema_of(&columns_of::<FailedUnit>());
        let mut writer = self.run.cache.output_writer(&schema, &[])?;
        let mut first = Vec::new();
        for failures in failures.chunks(NAMED_AT_ONCE) {
            let names = work.names_of(&failures.iter().map(|(unit, _)| *unit).collect::<Vec<_>>())?;
            let letters: Vec<FailedUnit> = names
                .into_iter()
                .zip(failures)
                .map(|(unit_id, (_, message))| FailedUnit { unit_id, message: message.clone() })
                .collect();
            let rows = serde_arrow::to_record_batch(&schema.fields, &letters).map_err(StageError::from)?;
            writer.write(&conform(&rows, &schema)?)?;
            first.extend(letters.into_iter().take(5_usize.saturating_sub(first.len())));
        }
        let table = writer.finish_output()?;
        let link = format!("{}.failed", self.name());
        self.run.entry.link_output(&link, &self.run.cache.view(&Output::Table(table.clone()))?)?;
        Ok(RunError::Units(Box::new(FailedUnits {
            total: work.num_units(),
            num_failed: failures.len() as u64,
            first,
            table,
            folder: self.run.entry.output_path(&link),
        })))
    }
}

/// One more, as long as this is there: also where its holder panics.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn in_(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A unit that could not be worked on, as it is put aside.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct FailedUnit {
    /// The unit's id: of its row, or the one that its rows share.
    pub unit_id: String,
    /// Why; with the last words of its worker, where it had one to itself and killed it.
    pub message: String,
}

/// Units of a stage that failed, while all others are recorded.
#[derive(Debug)]
pub struct FailedUnits {
    /// Units there are.
    pub total: u64,
    /// Units that failed.
    pub num_failed: u64,
    /// The first of them.
    pub first: Vec<FailedUnit>,
    /// All of them, as a table of [`FailedUnit`].
    pub table: TableOutput,
    /// Where that table is shown.
    pub folder: PathBuf,
}

impl std::fmt::Display for FailedUnits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { total, num_failed, first, folder, .. } = self;
        write!(f, "{num_failed} of {total} units failed; the others are recorded and will not be done again")?;
        for FailedUnit { unit_id, message } in first {
            write!(f, "\n  {unit_id}: {}", message.lines().next().unwrap_or_default())?;
        }
        write!(f, "\nall of them, with their messages: {}", folder.display())
    }
}

/// The end of what was written to a log since it had so many bytes.
fn last_words(log: &std::path::Path, start: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(LAST_WORDS_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A log that cannot be read takes nothing from the message but words.
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}
