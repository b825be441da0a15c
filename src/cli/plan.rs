//! `ablate plan`: each stage cached, to run as a whole or in part, or depending on another; and the cause, as a difference to the last
//! complete run (of a stage that is not in it, to the newest run).

use super::{EXIT_OK, Format, Outcome, PipelineArgs, planned, print, print_json};
use crate::run::outlook::{Outlook, State, outlook};
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

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let lines = outlook(planned, &cache, args.pipeline.limit)?;
    match args.format {
        Format::Json => print_json(&lines)?,
        Format::Text => print(&text(&lines, args.pipeline.limit))?,
    }
    Ok(EXIT_OK)
}

/// The state of a step in words.
pub(super) fn words(state: &State) -> String {
    match state {
        State::Cached => "cached".to_owned(),
        State::Run => "run".to_owned(),
        State::Partly { units, of } => format!("partly ({units} of {of} units)"),
        State::DependsOn(on) => format!("depends on {}", on.join(", ")),
    }
}

fn text(lines: &[Outlook], limit: Option<u64>) -> String {
    let width = lines.iter().map(|line| line.stage.len()).max().unwrap_or(0);
    let mut text = limit.map_or(String::new(), |limit| format!("smoke run: --limit {limit}\n"));
    let mut to_run = 0;
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    for line in lines {
        to_run += usize::from(line.state != State::Cached);
        let mut notes = Vec::new();
        if !line.because.is_empty() {
            let against = line.against.as_ref().map_or(String::new(), |against| format!(" against `{against}`"));
            notes.push(format!("{}{against}", line.because.join("; ")));
        }
        notes.extend(
            line.rows.map(|rows| format!("{rows} rows{}", if line.made.is_some() { "" } else { " the last time" })),
        );
        if let Some(last) = &line.last {
            notes.push(format!("took {:.1} s", last.wall_s));
            let share = match line.state {
                State::Partly { units, of } => units as f64 / of.max(1) as f64,
                _ => 1.0,
            };
            *seconds.entry(&last.device).or_default() += share * last.wall_s;
        }
        let notes = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join("; ")) };
        writeln!(text, "{:width$}  {}{notes}", line.stage, words(&line.state)).expect("writing to a string");
    }
    let expected: Vec<String> = seconds
        .iter()
        .filter(|(_, seconds)| **seconds >= 0.05)
        .map(|(device, seconds)| format!("{seconds:.1} s on {}", if device.is_empty() { "cpu" } else { device }))
        .collect();
    if !expected.is_empty() {
        writeln!(text, "one after the other, as the last time: {}", expected.join(", ")).expect("writing to a string");
    }
    writeln!(text, "{to_run} of {} stages to run", lines.len()).expect("writing to a string");
    text
}
