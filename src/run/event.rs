//! What happens in a run, as events: progress lines, the JSON stream and the history are all made from these.

use serde::Serialize;
use std::collections::BTreeMap;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    RunStarted {
        /// The pipeline's name.
        pipeline: String,
        /// How many stages are asked for.
        stages: usize,
        /// `--limit`.
        limit: Option<u64>,
    },
    /// A stage's result was in the cache.
    StageCached {
        /// The stage.
        stage: String,
        /// Rows of its first table.
        rows: Option<u64>,
    },
    /// A stage began to run.
    StageStarted {
        /// The stage.
        stage: String,
        /// Units there are; none for a whole stage.
        units: Option<u64>,
        /// Units that are done already.
        reused: u64,
    },
    /// A stage waits for another process, or another stage, that does the same work.
    StageWaiting {
        /// The stage.
        stage: String,
        /// Who does it, as far as is known.
        holder: Option<String>,
    },
    /// A worker began to work ahead, on rows that the stage above has committed so far; or it ended.
    StageAhead {
        /// The stage.
        stage: String,
        /// Whether it began or ended.
        worker: Ahead,
        /// Units: those that wait when it begins, those that it did when it ends.
        units: u64,
    },
    /// A worker died; the batches that it had are handed out again.
    WorkerDied {
        /// The stage.
        stage: String,
        /// How it ended.
        how: String,
    },
    /// A stage came further.
    StageProgress {
        /// The stage.
        stage: String,
        /// Work done, in the stage's own units.
        done: u64,
        /// Work in all.
        total: u64,
        /// A short note.
        note: String,
    },
    /// A stage is done and recorded.
    StageFinished {
        /// The stage.
        stage: String,
        /// Rows of its first table.
        rows: Option<u64>,
        /// Seconds by the clock.
        wall_s: f64,
        /// Seconds of CPU.
        cpu_s: f64,
        /// Units that gave no rows, by reason.
        dropped: BTreeMap<String, u64>,
        /// Units that were worked on, 0 for a whole stage.
        units_run: u64,
    },
    /// A stage failed.
    StageFailed {
        /// The stage.
        stage: String,
        /// Why.
        error: String,
    },
    /// A stage was not run.
    StageSkipped {
        /// The stage.
        stage: String,
        /// The stage whose failure is the cause, or `cancelled`.
        because: String,
    },
    /// The run ended.
    RunFinished {
        /// Stages that ran.
        ran: usize,
        /// Stages found in the cache.
        cached: usize,
        /// Stages that failed or were skipped.
        failed: usize,
        /// Seconds by the clock.
        wall_s: f64,
    },
}

/// What a worker that works ahead does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ahead {
    /// It begins.
    Begins,
    /// It ends.
    Ends,
}

/// An event and its time: a line of the history and of `--format json`.
#[derive(Debug, Serialize)]
pub struct Timed<'a> {
    /// Seconds since the run began.
    pub at_s: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: &'a Event,
}

/// Receives events, from any thread.
pub trait Observer: Sync {
    /// Takes an event.
    fn observe(&self, timed: &Timed<'_>);
}
