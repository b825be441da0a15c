//! What a run leaves behind besides its records: a summary by stage, which later plans are held against, and links to every output.

use super::planner::Planned;
use super::{Ended, Report, RunError};
use crate::cache::{Cache, CacheError, RunEntry, TableOutput};
use crate::digest::Digest;
use crate::plan::key::KeyFields;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

/// What a run came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Whether every stage of the pipeline is done.
    pub complete: bool,
    /// `--limit`: a smoke run.
    pub limit: Option<u64>,
    /// The names and recipes of the stages that are done, digested.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Seconds by the clock.
    pub wall_s: f64,
    /// The stages that are done.
    pub stages: BTreeMap<String, StageNote>,
    /// For each stage that failed because units of it did: these units, a table of `unit_id` and `message`.
    #[serde(default)]
    pub failed: BTreeMap<String, TableOutput>,
}

/// As much of a summary as says of what it is.
#[derive(Deserialize)]
struct Head {
    limit: Option<u64>,
    #[serde(default)]
    digest: Option<Digest>,
}

/// A stage of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageNote {
    /// What its recipe was made of.
    pub fields: KeyFields,
    /// Whether it ran, or was found in the cache.
    pub ran: bool,
    /// Seconds by the clock that it took when it ran, in this run or an earlier one.
    pub wall_s: f64,
    /// Seconds of CPU.
    #[serde(default)]
    pub cpu_s: f64,
    /// `cpu`, or the accelerator that did it.
    #[serde(default)]
    pub device: String,
    /// Rows of its first table.
    pub rows: Option<u64>,
}

/// The resolved pipeline as text, for the history.
pub fn resolved_text(planned: &Planned) -> String {
    let from = |(port, (maker, output)): (&String, &(usize, String))| {
        (port.clone(), format!("{}.{output}", planned.steps[*maker].name))
    };
    let stages: serde_json::Map<String, serde_json::Value> = planned
        .steps
        .iter()
        .enumerate()
        .map(|(place, step)| {
            let stage = planned.stage(place);
            let from: BTreeMap<String, String> = step.sources.iter().map(from).collect();
            let value = serde_json::json!({ "use": stage.kind, "from": from, "with": stage.bound.params() });
            (step.name.clone(), value)
        })
        .collect();
    let value = serde_json::json!({ "name": planned.name(), "stages": stages });
    // JSON is YAML.
    serde_json::to_string_pretty(&value).expect("a resolved pipeline is plain data")
}

/// Files a run that found everything in the cache, unless the newest run of the pipeline was of the same: `runs/latest` is then
/// what was asked for last. A cache that cannot be written is no reason to fail, since nothing had to be.
pub(super) fn note_cached(
    planned: &Planned,
    cache: &Cache,
    limit: Option<u64>,
    report: &Report,
) -> Result<(), RunError> {
    let name = planned.name();
    let digest = Some(digest_of(planned, report));
    // The whole summary of thousands of stages takes longer to read than everything else here.
    if cache.last_run::<Head>(name, |_| true)?.is_some_and(|(_, head)| head.limit == limit && head.digest == digest) {
        return Ok(());
    }
    let is_same = |summary: &Summary| {
        summary.limit == limit
            && report.steps.iter().enumerate().all(|(step, ended)| {
                let note = summary.stages.get(&planned.steps[step].name);
                ended.record().is_none() || note.is_some_and(|note| note.fields == planned.steps[step].fields)
            })
    };
    if cache.last_run::<Summary>(name, |_| true)?.is_some_and(|(_, newest)| is_same(&newest)) {
        return Ok(());
    }
    #[expect(clippy::disallowed_methods, reason = "a run is filed under the time of its start")]
    match cache.begin_run(name, SystemTime::now(), &resolved_text(planned)) {
        Ok(entry) => finish(entry, planned, cache, limit, report),
        Err(CacheError::ReadOnly { .. } | CacheError::NoPermission { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn digest_of(planned: &Planned, report: &Report) -> Digest {
    let steps = planned.steps.iter().zip(&report.steps).filter(|(_, ended)| ended.record().is_some());
    let parts = steps.flat_map(|(step, _)| [step.name.as_bytes(), step.recipe.as_bytes().as_slice()]);
    Digest::of_parts("ablate summary of a run", parts)
}

/// Keeps an index of all that is done, for the next lookup. A cache that cannot be written is looked up file by file.
pub(super) fn keep_index(planned: &Planned, cache: &Cache, report: &Report) -> Result<(), RunError> {
    let steps = planned.steps.iter().zip(&report.steps);
    let done = steps.filter(|(_, ended)| ended.record().is_some()).map(|(step, _)| step.recipe);
    match cache.keep_index(planned.name(), done) {
        Ok(()) | Err(CacheError::ReadOnly { .. } | CacheError::NoPermission { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends the history entry.
pub(super) fn finish(
    entry: RunEntry,
    planned: &Planned,
    cache: &Cache,
    limit: Option<u64>,
    report: &Report,
) -> Result<(), RunError> {
    let mut stages = BTreeMap::new();
    for (step, ended) in report.steps.iter().enumerate() {
        let Some(record) = ended.record() else { continue };
        let name = &planned.steps[step].name;
        for (place, port) in planned.declaration(step).outputs.iter().enumerate() {
            let link = if place == 0 { name.clone() } else { format!("{name}.{}", port.name) };
            entry.link_output(&link, &cache.view(&record.outputs[&port.name])?)?;
        }
        let note = StageNote {
            fields: planned.steps[step].fields.clone(),
            ran: matches!(ended, Ended::Ran(_)),
            wall_s: record.cost.wall_s,
            cpu_s: record.cost.cpu_s,
            device: record.machine.device.clone(),
            rows: super::first_rows(planned, step, record),
        };
        stages.insert(name.clone(), note);
    }
    let complete = stages.len() == planned.steps.len();
    let failed = planned.steps.iter().zip(&report.steps).filter_map(|(step, ended)| match ended {
        Ended::Failed(RunError::Units(units)) => Some((step.name.clone(), units.table.clone())),
        _ => None,
    });
    let failed = failed.collect();
    entry.finish(&Summary {
        complete,
        limit,
        digest: Some(digest_of(planned, report)),
        wall_s: report.wall_s,
        stages,
        failed,
    })?;
    Ok(())
}

/// The units of a stage that failed in the newest run of a pipeline, if any did: a table of `unit_id` and `message`.
///
/// # Errors
/// Where the history cannot be read.
pub fn last_failed(cache: &Cache, pipeline: &str, stage: &str) -> Result<Option<TableOutput>, RunError> {
    let newest = cache.last_run::<Summary>(pipeline, |_| true)?;
    Ok(newest.and_then(|(_, mut summary)| summary.failed.remove(stage)))
}

/// How many earlier runs are looked at for a stage that is not in the newest.
const RUNS_READ: usize = 16;

/// What is known of the steps from earlier runs of this pipeline with the same `--limit`, by the name that they had: from the last
/// complete run that has them, else from the newest that has.
///
/// # Errors
/// Where the history cannot be read.
pub fn last_notes(
    cache: &Cache,
    planned: &Planned,
    limit: Option<u64>,
) -> Result<HashMap<String, StageNote>, RunError> {
    let mut missing: HashSet<String> =
        (0..planned.steps.len()).flat_map(|step| super::outlook::names_of(planned, step)).collect();
    let (mut notes, mut incomplete) = (HashMap::new(), HashMap::new());
    for run in cache.past_runs()?.into_iter().rev().filter(|run| run.name == planned.name()).take(RUNS_READ) {
        let Some(summary) = cache.summary::<Summary>(&run)?.filter(|summary| summary.limit == limit) else { continue };
        for (name, note) in summary.stages {
            if !summary.complete {
                incomplete.entry(name).or_insert(note);
            } else if missing.remove(&name) {
                notes.insert(name, note);
            }
        }
        if missing.is_empty() {
            break;
        }
    }
    incomplete.extend(notes);
    Ok(incomplete)
}
