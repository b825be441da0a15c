//! The work of a map stage: its units, which of them the cache has, and batches of the others.
//!
//! Any number of workers pull batches and deliver them; each is committed when it is delivered. Batches are sized by measured time.

use super::RunError;
use crate::cache::{
    BatchRecord, BatchUnit, Cache, Cost, Digest, Family, RECORD_FORMAT, Table, UnitOutcome, UnitPlace, host_name,
    row_digests,
};
use crate::plan::key::unit_key;
use ablate_stages::columns::Dropped;
use ablate_stages::job::{FinishedBatch, LookupTable, UnitAnswer, UnitBatch};
use ablate_stages::stage::StageError;
use arrow::array::{Array, RecordBatch, StringArray};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Below this a batch would cost as much to commit as to do.
const LEAST_S: f64 = 0.2;

/// A table in memory, whose rows are named by batch and row.
#[derive(Debug)]
pub(super) struct Rows {
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
}

/// A row of [`Rows`].
type Place = (usize, usize);

impl Rows {
    /// The batches of one table.
    pub(super) fn new(batches: Vec<RecordBatch>, schema: SchemaRef) -> Self {
        Self { batches, schema }
    }

    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.batches.iter().enumerate().flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| (batch, row)))
    }

    fn take(&self, places: &[Place]) -> Result<RecordBatch, StageError> {
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(SchemaRef::clone(&self.schema)));
        }
        Ok(interleave_record_batch(&self.batches.iter().collect::<Vec<_>>(), places)?)
    }

    fn digests(&self) -> Result<Vec<Vec<Digest>>, RunError> {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        self.batches.iter().map(|batch| Ok(row_digests(batch, &names)?)).collect()
    }

    /// A column's values as text, batch by batch.
    fn texts(&self, column: &str) -> Result<Vec<Vec<Option<String>>>, StageError> {
        self.batches
            .iter()
            .map(|batch| {
                let values = batch
                    .column_by_name(column)
                    .ok_or_else(|| StageError::failed(format!("column `{column}` is missing")))?;
                let texts = arrow::compute::cast(values, &DataType::Utf8)?;
                let texts = texts.as_any().downcast_ref::<StringArray>().expect("cast to strings above");
                Ok((0..texts.len()).map(|i| texts.is_valid(i).then(|| texts.value(i).to_owned())).collect())
            })
            .collect()
    }
}

/// A lookup port: its table, the id column, and whether an id may have any number of rows.
pub(super) struct LookupPort {
    /// The port.
    pub(super) name: String,
    /// The id column.
    pub(super) by: String,
    /// Whether an id may have any number of rows.
    pub(super) many: bool,
    /// The table.
    pub(super) rows: Rows,
}

#[derive(Debug)]
struct Unit {
    id: String,
    key: Digest,
    rows: Vec<Place>,
}

/// The work of one map stage.
pub(super) struct MapWork {
    port: String,
    rows: Rows,
    lookups: Vec<IndexedLookup>,
    units: Vec<Unit>,
    family: Digest,
    target_s: f64,
    state: Mutex<State>,
}

struct State {
    known: Family,
    pending: Vec<usize>,
    out: HashMap<u64, (Vec<usize>, Instant)>,
    next_batch: u64,
    num_done: u64,
    seconds_per_unit: Option<f64>,
    failures: Vec<(String, String)>,
    num_run: u64,
}

impl MapWork {
    /// Looks every unit up.
    ///
    /// # Errors
    /// Where an id is missing or not unique in a lookup table, or the cache cannot be read.
    pub(super) fn new(
        cache: &Cache,
        family: Digest,
        port: &str,
        rows: Rows,
        group_by: Option<&str>,
        lookups: Vec<LookupPort>,
        target_s: f64,
    ) -> Result<Self, RunError> {
        let digests = rows.digests()?;
        let id_column = group_by.map(str::to_owned).or_else(|| id_column(&rows.schema));
        let ids = id_column.map(|column| rows.texts(&column)).transpose()?;
        let id_of = |(batch, row): Place| match &ids {
            Some(ids) => ids[batch][row].clone().unwrap_or_default(),
            None => digests[batch][row].short(),
        };
        let mut groups: Vec<(String, Vec<Place>)> = Vec::new();
        let mut group_index: HashMap<String, usize> = HashMap::new();
        for place in rows.places() {
            let id = id_of(place);
            if group_by.is_some()
                && let Some(&group) = group_index.get(&id)
            {
                groups[group].1.push(place);
            } else {
                group_index.insert(id.clone(), groups.len());
                groups.push((id, vec![place]));
            }
        }
        let mut tables = Vec::new();
        for lookup in lookups {
            let wanted = rows.texts(&lookup.by)?;
            let mut index: HashMap<String, Vec<Place>> = HashMap::new();
            let ids = lookup.rows.texts(&lookup.by)?;
            for (batch, row) in lookup.rows.places() {
                if let Some(id) = &ids[batch][row] {
                    index.entry(id.clone()).or_default().push((batch, row));
                }
            }
            tables.push((lookup, index, wanted));
        }
        check_ids(&rows, &tables)?;
        let lookup_digests = tables.iter().map(|(lookup, ..)| lookup.rows.digests()).collect::<Result<Vec<_>, _>>()?;
        for (_, places) in &mut groups {
            // The rows of a unit come in an order of their own, not in that of the file.
            places.sort_by_key(|&(batch, row)| digests[batch][row]);
        }
        let units: Vec<Unit> = groups
            .into_iter()
            .map(|(id, places)| {
                let mut ports = vec![(port, places.iter().map(|&(b, r)| digests[b][r]).collect::<Vec<_>>())];
                for ((lookup, index, wanted), digests) in tables.iter().zip(&lookup_digests) {
                    let found: HashSet<Place> = places
                        .iter()
                        .filter_map(|&(b, r)| wanted[b][r].as_ref())
                        .filter_map(|id| index.get(id))
                        .flatten()
                        .copied()
                        .collect();
                    let mut found: Vec<Digest> = found.into_iter().map(|(b, r)| digests[b][r]).collect();
                    found.sort_unstable();
                    ports.push((&lookup.name, found));
                }
                Unit { key: unit_key(&ports), id, rows: places }
            })
            .collect();
        let known = cache.family(&family)?;
        let mut seen = HashSet::new();
        let mut pending: Vec<usize> =
            (0..units.len()).filter(|&i| known.get(&units[i].key).is_none() && seen.insert(units[i].key)).collect();
        // Taken from the end, so that the first rows are done first.
        pending.reverse();
        let num_done = (units.len() - pending.len()) as u64;
        let state = State {
            known,
            pending,
            out: HashMap::new(),
            next_batch: 0,
            num_done,
            seconds_per_unit: None,
            failures: Vec::new(),
            num_run: 0,
        };
        Ok(Self { port: port.to_owned(), rows, lookups: tables, units, family, target_s, state: Mutex::new(state) })
    }

    /// How many units there are.
    pub(super) fn num_units(&self) -> u64 {
        self.units.len() as u64
    }

    /// How many are done, by this run or earlier ones.
    pub(super) fn num_done(&self) -> u64 {
        self.state().num_done
    }

    /// How many units this run worked on.
    pub(super) fn num_run(&self) -> u64 {
        self.state().num_run
    }

    /// How many wait for a worker.
    pub(super) fn num_pending(&self) -> usize {
        self.state().pending.len()
    }

    /// The next batch for one of `workers` workers; none when nothing is left.
    ///
    /// # Errors
    /// Where rows cannot be taken together.
    pub(super) fn next(&self, workers: usize) -> Result<Option<UnitBatch>, StageError> {
        let (id, members) = {
            let mut state = self.state();
            if state.pending.is_empty() {
                return Ok(None);
            }
            // The first batch is small and measures; later ones take about the target time, and leave work for the others at the end.
            let within = |seconds: f64| state.seconds_per_unit.map_or(32, |s| (seconds / s.max(1e-6)) as usize);
            let fair = state.pending.len().div_ceil(2 * workers.max(1)).max(within(LEAST_S));
            let size = within(self.target_s).min(fair).clamp(1, 8192).min(state.pending.len());
            let at = state.pending.len() - size;
            let mut members = state.pending.split_off(at);
            members.reverse();
            let id = state.next_batch;
            state.next_batch += 1;
            state.out.insert(id, (members.clone(), Instant::now()));
            (id, members)
        };
        self.assemble(id, &members).map(Some)
    }

    fn assemble(&self, id: u64, members: &[usize]) -> Result<UnitBatch, StageError> {
        let (mut places, mut units, mut unit_ids) = (Vec::new(), Vec::new(), Vec::new());
        for &member in members {
            let unit = &self.units[member];
            let start = places.len() as u32;
            places.extend_from_slice(&unit.rows);
            units.push(start..places.len() as u32);
            unit_ids.push(unit.id.clone());
        }
        let mut lookups = BTreeMap::new();
        for (lookup, index, wanted) in &self.lookups {
            let mut taken: HashMap<&str, Range<u32>> = HashMap::new();
            let mut rows: Vec<Place> = Vec::new();
            let ranges = places
                .iter()
                .map(|&(batch, row)| {
                    let Some(id) = wanted[batch][row].as_deref() else { return 0..0 };
                    taken
                        .entry(id)
                        .or_insert_with(|| {
                            let start = rows.len() as u32;
                            rows.extend(index.get(id).into_iter().flatten());
                            start..rows.len() as u32
                        })
                        .clone()
                })
                .collect();
            lookups.insert(lookup.name.clone(), LookupTable { rows: lookup.rows.take(&rows)?, index: ranges });
        }
        let rows = self.rows.take(&places)?;
        Ok(UnitBatch { id, port: self.port.clone(), rows, unit_ids, units, lookups })
    }

    /// Commits a finished batch.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub(super) fn deliver(&self, cache: &Cache, finished: &FinishedBatch) -> Result<(), RunError> {
        let (members, started) = self.state().out.remove(&finished.id).expect("a batch is delivered once");
        let wall_s = started.elapsed().as_secs_f64();
        let mut failures = Vec::new();
        let mut units = Vec::new();
        for (&member, answer) in members.iter().zip(&finished.answers) {
            let unit = &self.units[member];
            let outcome = match answer {
                UnitAnswer::Rows(range) => UnitOutcome::Rows(u64::from(range.start)..u64::from(range.end)),
                UnitAnswer::Dropped { reason, detail } => {
                    UnitOutcome::Dropped { reason: reason.clone(), detail: detail.clone() }
                }
                UnitAnswer::Failed { message } => {
                    failures.push((unit.id.clone(), message.clone()));
                    continue;
                }
            };
            units.push(BatchUnit { key: unit.key, outcome });
        }
        let rows = if finished.rows.num_rows() == 0 {
            None
        } else {
            let mut writer = cache.table_writer(&finished.rows.schema())?;
            writer.write(&finished.rows)?;
            Some(writer.finish()?)
        };
        let record = BatchRecord {
            format: RECORD_FORMAT,
            family: self.family,
            rows,
            units,
            cost: Cost { wall_s, cpu_s: 0.0, peak_memory_bytes: None },
            host: host_name(),
            finished_unix_s: unix_s(),
        };
        if !record.units.is_empty() {
            cache.commit_batch(&record)?;
        }
        let mut state = self.state();
        state.known.add(&record);
        state.num_done += members.len() as u64;
        state.num_run += members.len() as u64;
        state.failures.extend(failures);
        let per_unit = wall_s / members.len() as f64;
        state.seconds_per_unit = Some(state.seconds_per_unit.map_or(per_unit, |known| 0.5 * (known + per_unit)));
        Ok(())
    }

    /// What failed: unit and message.
    pub(super) fn failures(&self) -> Vec<(String, String)> {
        self.state().failures.clone()
    }

    /// Where the stage's rows lie, and the units that gave none.
    ///
    /// # Errors
    /// Where a unit is not done.
    pub(super) fn result(&self) -> Result<(Table, Vec<Dropped>), RunError> {
        let state = self.state();
        let table = state
            .known
            .table(self.units.iter().map(|unit| &unit.key))
            .map_err(|unit| StageError::failed(format!("unit {} is not done", unit.short())))?;
        let dropped = self.units.iter().filter_map(|unit| match state.known.get(&unit.key) {
            Some(UnitPlace::Dropped { reason, detail }) => {
                Some(Dropped { unit_id: unit.id.clone(), reason: reason.clone(), detail: detail.clone() })
            }
            _ => None,
        });
        Ok((table, dropped.collect()))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The column that names a row: the first that ends in `_id`.
fn id_column(schema: &SchemaRef) -> Option<String> {
    schema.fields().iter().map(|field| field.name()).find(|name| name.ends_with("_id")).cloned()
}

type IndexedLookup = (LookupPort, HashMap<String, Vec<Place>>, Vec<Vec<Option<String>>>);

/// Every id that is looked up on a port that is not `many` has exactly one row.
fn check_ids(rows: &Rows, lookups: &[IndexedLookup]) -> Result<(), StageError> {
    for (lookup, index, wanted) in lookups.iter().filter(|(lookup, ..)| !lookup.many) {
        for (batch, row) in rows.places() {
            let Some(id) = &wanted[batch][row] else {
                return Err(StageError::input(&lookup.name, format!("a row has no `{}` to look up", lookup.by)));
            };
            match index.get(id).map_or(0, Vec::len) {
                1 => {}
                found => {
                    let problem = format!("{} `{id}` is looked up: expected one row, found {found}", lookup.by);
                    return Err(StageError::input(&lookup.name, problem));
                }
            }
        }
    }
    Ok(())
}

/// Now, in seconds since 1970; for histories and expected durations only.
#[expect(clippy::disallowed_methods, reason = "a record says when it was made")]
pub(super) fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}
