//! What a run would do with each step, why, and what it took before. Reads the cache, changes nothing.

use super::RunError;
use super::history::{self, StageNote};
use super::planner::Planned;
use super::reading::known_units;
use crate::cache::{Cache, Output, Record, TableOutput, row_digests};
use crate::plan::explain::{differences, own_differences};
use crate::plan::key::RECIPE;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Tables with more rows than this are not read to count what changed in them.
const COUNTED_ROWS: u64 = 200_000;

/// What a run would do with a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its result is in the cache.
    Cached,
    /// It would run.
    Run,
    /// It would run on the units that are not in the cache.
    Partly {
        /// Units that are to be done.
        units: u64,
        /// Units in all.
        of: u64,
    },
    /// Whether it runs depends on what these give.
    DependsOn(Vec<String>),
}

/// A step of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Outlook {
    /// The step's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// What would happen to it.
    pub state: State,
    /// Why, as differences to what it was.
    pub because: Vec<String>,
    /// What `because` is held against, where that is not an earlier run of the same step.
    pub against: Option<String>,
    /// Rows of its first table; what it gave the last time, where it would run.
    pub rows: Option<u64>,
    /// What it took the last time, where it would run.
    pub last: Option<Took>,
    /// Where its result comes from, where it is cached.
    pub made: Option<Made>,
}

/// What a step took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Took {
    /// Seconds by the clock.
    pub wall_s: f64,
    /// Seconds of CPU.
    pub cpu_s: f64,
    /// `cpu`, or the accelerator.
    pub device: String,
}

/// Where a recorded result was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Made {
    /// The step's name then.
    pub stage: String,
    /// The machine.
    pub host: String,
    /// When, in seconds since 1970.
    pub unix_s: f64,
}

/// The outlook of every step.
///
/// # Errors
/// Where the cache or the history cannot be read.
pub fn outlook(planned: &Planned, cache: &Cache, limit: Option<u64>) -> Result<Vec<Outlook>, RunError> {
    let records = planned.lookup(cache)?;
    let is_open = records.iter().any(Option::is_none);
    let notes = if is_open { history::last_notes(cache, planned, limit)? } else { HashMap::new() };
    (0..planned.steps.len()).map(|step| of_step(planned, cache, step, &records, &notes)).collect()
}

fn of_step(
    planned: &Planned,
    cache: &Cache,
    step: usize,
    records: &[Option<Record>],
    notes: &HashMap<String, StageNote>,
) -> Result<Outlook, RunError> {
    let this = &planned.steps[step];
    let mut outlook = Outlook {
        stage: this.name.clone(),
        kind: this.fields.kind.clone(),
        state: State::Cached,
        because: Vec::new(),
        against: None,
        rows: None,
        last: None,
        made: None,
    };
    if let Some(record) = &records[step] {
        outlook.rows = super::first_rows(planned, step, record);
        outlook.made = Some(Made {
            stage: record.stage.clone(),
            host: record.machine.host.clone(),
            unix_s: record.finished_unix_s,
        });
        return Ok(outlook);
    }
    let open: Vec<String> =
        this.needs.iter().filter(|&&need| records[need].is_none()).map(|&n| name(planned, n)).collect();
    outlook.state = if open.is_empty() { State::Run } else { State::DependsOn(open) };
    if outlook.state == State::Run
        && let Some((done, of)) = known_units(planned, cache, step, records)?.filter(|&(done, _)| done > 0)
    {
        outlook.state = State::Partly { units: of - done, of };
    }
    let Some((note, against)) = note_of(planned, step, notes) else {
        outlook.because = vec!["never run".to_owned()];
        return Ok(outlook);
    };
    outlook.because = match &outlook.state {
        // Its inputs are not known yet: what differs besides them is its own doing.
        State::DependsOn(_) => own_differences(&note.fields, &this.fields),
        _ => because(planned, cache, step, records, note, notes)?,
    };
    if outlook.because.is_empty() && !matches!(outlook.state, State::DependsOn(_)) {
        outlook.because.push("its result is no longer in the cache".to_owned());
    }
    if against.is_none() {
        let (wall_s, cpu_s, device) = (note.wall_s, note.cpu_s, note.device.clone());
        (outlook.rows, outlook.last) = (note.rows, Some(Took { wall_s, cpu_s, device }));
    }
    outlook.against = against;
    Ok(outlook)
}

/// The note of the step's last run; else of the stage in the pipeline as written, with words that say so.
fn note_of<'a>(
    planned: &Planned,
    step: usize,
    notes: &'a HashMap<String, StageNote>,
) -> Option<(&'a StageNote, Option<String>)> {
    let [own, plain, as_written] = names_of(planned, step);
    if let Some(note) = notes.get(&own) {
        return Some((note, None));
    }
    [as_written, plain].iter().find_map(|name| Some((notes.get(name)?, Some(name.clone()))))
}

/// The names under which earlier runs may know a step: its own; its stage's, from before there were seeds; and that of the same
/// stage and seeds in the pipeline as written.
pub(super) fn names_of(planned: &Planned, step: usize) -> [String; 3] {
    let (own, plain) = (name(planned, step), planned.stage(step).name.clone());
    let seeds: Vec<&str> = own
        .split_once('@')
        .map_or("", |(_, parts)| parts)
        .split(',')
        .filter(|part| is_seed(planned, step, part))
        .collect();
    let as_written = if seeds.is_empty() { plain.clone() } else { format!("{plain}@{}", seeds.join(",")) };
    [own, plain, as_written]
}

fn is_seed(planned: &Planned, step: usize, part: &str) -> bool {
    let Some((var, value)) = part.split_once('=') else { return false };
    planned.cases_of(step).any(|case| case.checked.seeds.get(var).is_some_and(|of| of == value))
}

fn name(planned: &Planned, step: usize) -> String {
    planned.steps[step].name.clone()
}

/// What differs to the last run; of inputs, how many rows.
fn because(
    planned: &Planned,
    cache: &Cache,
    step: usize,
    records: &[Option<Record>],
    note: &StageNote,
    notes: &HashMap<String, StageNote>,
) -> Result<Vec<String>, RunError> {
    let this = &planned.steps[step];
    let mut changed = BTreeMap::new();
    for (port, (maker, output)) in &this.sources {
        let source = name(planned, *maker);
        if note.fields.inputs.get(port) == this.fields.inputs.get(port) {
            continue;
        }
        let before = note_of(planned, *maker, notes).and_then(|(note, _)| cache.recipe(&note.fields.digest(RECIPE)));
        let tables = (
            before.as_ref().and_then(|r| r.outputs.get(output)),
            records[*maker].as_ref().and_then(|r| r.outputs.get(output)),
        );
        let words = match tables {
            (Some(Output::Table(before)), Some(Output::Table(now))) => {
                rows_changed(cache, before, now, &planned.columns_of(step, port))?
            }
            _ => None,
        };
        changed.insert(port.clone(), (source, words));
    }
    Ok(differences(&note.fields, &this.fields, &changed))
}

/// `12 rows changed, 3 added`, in the columns that are read; none where the tables are too large to look.
fn rows_changed(
    cache: &Cache,
    before: &TableOutput,
    now: &TableOutput,
    columns: &[String],
) -> Result<Option<String>, RunError> {
    let has_all = |table: &TableOutput| columns.iter().all(|column| table.schema.field_with_name(column).is_ok());
    if before.table.rows.max(now.table.rows) > COUNTED_ROWS || !has_all(before) || !has_all(now) {
        return Ok(None);
    }
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut balance: HashMap<crate::digest::Digest, i64> = HashMap::new();
    for (table, sign) in [(before, -1), (now, 1)] {
        for batch in cache.read_table(table, Some(&columns))? {
            for row in row_digests(&batch?, &columns)? {
                *balance.entry(row).or_default() += sign;
            }
        }
    }
    let sum = |sign: i64| balance.values().map(|count| (count * sign).max(0)).sum::<i64>();
    let (added, removed) = (sum(1), sum(-1));
    let changed = added.min(removed);
    let parts: Vec<String> = [(changed, "changed"), (added - changed, "added"), (removed - changed, "removed")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} row{} {word}", if count == 1 { "" } else { "s" }))
        .collect();
    Ok(Some(if parts.is_empty() { "the same rows".to_owned() } else { parts.join(", ") }))
}

/// The steps above a step, itself included, that would run for reasons of their own: why it is not cached.
pub fn causes(planned: &Planned, outlook: &[Outlook], step: usize) -> Vec<usize> {
    let mut seen = BTreeSet::from([step]);
    let mut open = vec![step];
    while let Some(next) = open.pop() {
        let above = planned.steps[next].needs.iter().copied().filter(|&need| outlook[need].state != State::Cached);
        open.extend(above.filter(|&need| seen.insert(need)));
    }
    seen.retain(|&step| {
        matches!(outlook[step].state, State::Run | State::Partly { .. }) || !outlook[step].because.is_empty()
    });
    seen.into_iter().collect()
}
