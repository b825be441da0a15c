//! Progress on standard error: one line a running stage on a terminal, plain lines elsewhere, or events as JSON on standard output.

use crate::run::event::{Ahead, Event, Observer, Timed};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who watches a run: by JSON events, by bars, or by lines, as the terminal is.
pub fn observer(json: bool) -> Box<dyn Observer> {
    if json {
        Box::new(JsonEvents)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars { all: MultiProgress::new(), bars: Mutex::default() })
    } else {
        Box::new(Lines { said: Mutex::default(), cached: Mutex::default() })
    }
}

struct JsonEvents;

impl Observer for JsonEvents {
    fn observe(&self, timed: &Timed<'_>) {
        let line = serde_json::to_string(timed).expect("events are plain data");
        // A reader that is gone does not end the run.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// The least time between two lines about one stage.
const LINE_EVERY: Duration = Duration::from_secs(20);

struct Lines {
    /// When each running stage was last heard of.
    said: Mutex<BTreeMap<String, Instant>>,
    /// Lines about cached stages, which come by the thousand and at once: they are said together, before any other.
    cached: Mutex<String>,
}

impl Lines {
    /// Whether it is time for another line about a stage.
    fn is_due(&self, stage: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let last = said.entry(stage.to_owned()).or_insert_with(Instant::now);
        let is_due = last.elapsed() >= LINE_EVERY;
        if is_due {
            *last = Instant::now();
        }
        is_due
    }
}

impl Observer for Lines {
    fn observe(&self, timed: &Timed<'_>) {
        let line = match timed.event {
            Event::StageProgress { stage, done, total, note } => {
                self.is_due(stage).then(|| format!("  {stage:24} {done} of {total}  {note}"))
            }
            other => line(other),
        };
        let Some(line) = line else { return };
        let mut lines = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(line.trim_end());
        lines.push('\n');
        if !matches!(timed.event, Event::StageCached { .. }) {
            let _ = std::io::stderr().write_all(lines.as_bytes());
            lines.clear();
        }
    }
}

struct Bars {
    all: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    fn bar(&self, stage: &str) -> ProgressBar {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(stage.to_owned()).or_insert_with(|| {
            let style = "{prefix:20} {wide_bar} {human_pos} of {human_len}, {per_sec}, {eta} left {msg}";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = self.all.add(ProgressBar::new(0).with_style(style).with_prefix(stage.to_owned()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.clone()
    }
}

impl Observer for Bars {
    fn observe(&self, timed: &Timed<'_>) {
        let event = timed.event;
        match event {
            Event::StageStarted { stage, units, reused } => {
                let bar = self.bar(stage);
                bar.set_length(units.unwrap_or(0));
                bar.set_position(*reused);
                bar.reset_eta();
            }
            Event::StageProgress { stage, done, total, note } => {
                let bar = self.bar(stage);
                bar.set_length(*total);
                bar.set_position(*done);
                bar.set_message(note.clone());
            }
            Event::StageFinished { stage, .. } | Event::StageFailed { stage, .. } => {
                let bar = self.bars.lock().unwrap_or_else(PoisonError::into_inner).remove(stage);
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
        if let Some(line) = line(event).filter(|_| !matches!(event, Event::StageStarted { .. })) {
            // A terminal that is gone does not end the run.
            let _ = self.all.println(line);
        }
    }
}

/// An event as a line; progress itself is too frequent for one.
fn line(event: &Event) -> Option<String> {
    let rows = |rows: &Option<u64>| rows.map_or(String::new(), |rows| format!("{rows} rows"));
    Some(match event {
        Event::RunStarted { pipeline, stages, limit } => {
            let smoke = limit.map_or(String::new(), |limit| format!(" (smoke run: --limit {limit})"));
            format!("{pipeline}: {stages} stages{smoke}")
        }
        Event::StageCached { stage, rows: n } => format!("  {stage:24} cached    {}", rows(n)),
        Event::StageStarted { stage, units, reused } => {
            let units = units.map_or(String::new(), |units| match reused {
                0 => format!("{units} units"),
                reused => format!("{units} units, {reused} of them done before"),
            });
            format!("  {stage:24} runs      {units}")
        }
        Event::StageFinished { stage, rows: n, wall_s, cpu_s, dropped, .. } => {
            let dropped: Vec<String> = dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let dropped = if dropped.is_empty() { String::new() } else { format!("; dropped: {}", dropped.join(", ")) };
            format!("  {stage:24} done      {}  {wall_s:.1} s, {cpu_s:.1} CPU-s{dropped}", rows(n))
        }
        Event::StageWaiting { stage, holder } => {
            format!("  {stage:24} waits     for {}", holder.as_deref().unwrap_or("another process"))
        }
        Event::StageAhead { stage, worker: Ahead::Ends, units } => {
            format!("  {stage:24} ahead     {units} units done while the stage above runs")
        }
        Event::WorkerDied { stage, how } => {
            format!("  {stage:24} worker    {how}; what it had is handed out again")
        }
        Event::StageFailed { stage, error } => format!("  {stage:24} FAILED    {error}"),
        Event::StageSkipped { stage, because } => format!("  {stage:24} skipped   because of {because}"),
        Event::RunFinished { ran, cached, failed, wall_s } => {
            let failed = if *failed == 0 { String::new() } else { format!(", {failed} failed or skipped") };
            format!("{ran} stages ran, {cached} cached{failed}, {wall_s:.1} s")
        }
        Event::StageProgress { .. } | Event::StageAhead { worker: Ahead::Begins, .. } => return None,
    })
}
