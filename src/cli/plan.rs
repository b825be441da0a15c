//! `ablate plan`: each stage cached, to run, or depending on another; and the cause, as a difference to the last complete run (of a stage that is not in it, to the newest run).

use super::{EXIT_OK, Format, Outcome, PipelineArgs, planned, print, print_json};
use crate::plan::explain::differences;
use crate::run::history::last_notes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Arguments of `ablate plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Line {
    stage: String,
    kind: String,
    state: State,
    because: Vec<String>,
    rows: Option<u64>,
    /// Seconds that it took the last time.
    last_wall_s: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Cached,
    Run,
    DependsOn(Vec<String>),
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let records = planned.lookup(&cache)?;
    let notes = last_notes(&cache, planned.name(), args.pipeline.limit)?;
    let mut lines = Vec::new();
    for (index, step) in planned.steps.iter().enumerate() {
        let note = notes.get(&step.name);
        let open: Vec<String> = step
            .needs
            .iter()
            .filter(|&&need| records[need].is_none())
            .map(|&need| planned.steps[need].name.clone())
            .collect();
        let state = match (&records[index], open.is_empty()) {
            (Some(_), _) => State::Cached,
            (None, true) => State::Run,
            (None, false) => State::DependsOn(open),
        };
        let because = match (&state, note) {
            (State::Cached, _) => Vec::new(),
            (_, None) => vec!["never run".to_owned()],
            (State::Run, Some(note)) => {
                let sources = sources(&planned, index);
                let found = differences(&note.fields, &step.fields, &sources);
                if found.is_empty() { vec!["its result is no longer in the cache".to_owned()] } else { found }
            }
            (State::DependsOn(_), Some(note)) => {
                // Its inputs are not known yet: what differs besides them is its own doing.
                let mut now = step.fields.clone();
                now.inputs.clone_from(&note.fields.inputs);
                differences(&note.fields, &now, &BTreeMap::new())
            }
        };
        let rows = records[index].as_ref().and_then(|record| crate::run::first_rows(&planned, index, record));
        lines.push(Line {
            stage: step.name.clone(),
            kind: step.fields.kind.clone(),
            state,
            because,
            rows,
            last_wall_s: note.map(|note| note.wall_s),
        });
    }
    match args.format {
        Format::Json => print_json(&lines)?,
        Format::Text => print(&text(&lines, args.pipeline.limit))?,
    }
    Ok(EXIT_OK)
}

fn sources(planned: &crate::run::planner::Planned, step: usize) -> BTreeMap<String, String> {
    let sources = &planned.steps[step].sources;
    sources.iter().map(|(port, (maker, _))| (port.clone(), planned.steps[*maker].name.clone())).collect()
}

fn text(lines: &[Line], limit: Option<u64>) -> String {
    let width = lines.iter().map(|line| line.stage.len()).max().unwrap_or(0);
    let mut text = limit.map_or(String::new(), |limit| format!("smoke run: --limit {limit}\n"));
    let mut to_run = 0;
    for line in lines {
        let state = match &line.state {
            State::Cached => "cached".to_owned(),
            State::Run => "run".to_owned(),
            State::DependsOn(on) => format!("depends on {}", on.join(", ")),
        };
        to_run += usize::from(!matches!(line.state, State::Cached));
        let mut notes = line.because.clone();
        notes.extend(line.rows.map(|rows| format!("{rows} rows")));
        if let (false, Some(wall_s)) = (matches!(line.state, State::Cached), line.last_wall_s) {
            notes.push(format!("took {wall_s:.1} s the last time"));
        }
        let notes = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join("; ")) };
        writeln!(text, "{:width$}  {state}{notes}", line.stage).expect("writing to a string");
    }
    writeln!(text, "{to_run} of {} stages to run", lines.len()).expect("writing to a string");
    text
}
