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

/// Receives events, from any thread.
pub trait Observer: Sync {
    /// Takes an event.
    fn observe(&self, event: &Event);
}
