//! `ablate audit`: does a stage twice from nothing, and names the columns and rows in which the results differ.

use super::{EXIT_OK, EXIT_STAGE, EXIT_USAGE, Failure, Format, Outcome, PipelineArgs, planned, print, print_json, say};
use crate::cache::{Cache, Record};
use crate::report::difference::{Difference, difference};
use crate::report::progress;
use crate::run::audit::again;
use ablate_stages::job::Cancel;
use ablate_stages::stage::Repeatable;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Arguments of `ablate audit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage; what it reads must have been run
    stage: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What came of an audit.
#[derive(Debug, Serialize)]
struct Audit {
    stage: String,
    /// What the kind promises.
    repeatable: Repeatable,
    /// Whether both times gave the same.
    equal: bool,
    /// The two times held against each other, by output port.
    between: BTreeMap<String, Difference>,
    /// The recorded result held against the first time, where there is one.
    recorded: Option<BTreeMap<String, Difference>>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (planned, cache) = planned(&args.pipeline)?;
    let step = planned.named(&args.stage).map_err(|problem| Failure::new(EXIT_USAGE, problem))?;
    let recorded = planned.lookup(&cache)?.swap_remove(step);
    let cancel = Cancel::default();
    let observer = progress::observer(false);
    let [first, second] = [1, 2].map(|time| {
        say(&format!("{}: time {time} of 2, from nothing", args.stage));
        again(planned, &cache, step, &cancel, &*observer)
    });
    let (first, second) = (first?, second?);
    drop(observer);
    let between = differences((&first.side.cache, &first.record), (&second.side.cache, &second.record))?;
    let recorded =
        recorded.map(|record| differences((&cache, &record), (&first.side.cache, &first.record))).transpose()?;
    let is_real = |found: &BTreeMap<String, Difference>| found.values().any(Difference::is_real);
    let audit = Audit {
        stage: planned.steps[step].name.clone(),
        repeatable: planned.declaration(step).repeatable,
        equal: !is_real(&between) && !recorded.as_ref().is_some_and(is_real),
        between,
        recorded,
    };
    match args.format {
        Format::Json => print_json(&audit)?,
        Format::Text => print(&text(&audit))?,
    }
    Ok(if audit.equal { EXIT_OK } else { EXIT_STAGE })
}

fn differences(first: (&Cache, &Record), second: (&Cache, &Record)) -> Result<BTreeMap<String, Difference>, Failure> {
    let ports = first.1.outputs.iter().filter_map(|(port, output)| Some((port, output, second.1.outputs.get(port)?)));
    let of = |(port, a, b): (&String, _, _)| Ok((port.clone(), difference((first.0, a), (second.0, b))?));
    ports.map(of).collect()
}

fn text(audit: &Audit) -> String {
    let mut text = String::new();
    let mut tell = |title: &str, found: &BTreeMap<String, Difference>| {
        for (port, found) in found {
            let words = if found.is_real() { "DIFFERS" } else { "the same" };
            writeln!(text, "{title}, {port}: {words}").expect("writing to a string");
            for line in lines(found) {
                writeln!(text, "  {line}").expect("writing to a string");
            }
        }
    };
    tell("first and second time", &audit.between);
    if let Some(recorded) = &audit.recorded {
        tell("recorded and first time", recorded);
    }
    let promise = match audit.repeatable {
        Repeatable::Bits => "equal rows everywhere",
        Repeatable::SameMachine => "equal rows on machines of one kind",
        Repeatable::No => "nothing",
    };
    let verdict = if audit.equal { "gave the same each time" } else { "did NOT give the same each time" };
    writeln!(text, "`{}` {verdict}; its kind promises {promise}", audit.stage).expect("writing to a string");
    text
}

fn lines(found: &Difference) -> Vec<String> {
    let rows = |(count, named): &(usize, Vec<String>)| {
        let more = if *count > named.len() { ", .." } else { "" };
        format!("{count} row{}: {}{more}", if *count == 1 { "" } else { "s" }, named.join(", "))
    };
    let mut lines: Vec<String> = found
        .columns
        .iter()
        .map(|(column, differing)| format!("column {column} differs in {}", rows(differing)))
        .collect();
    for (which, only) in ["first", "second"].iter().zip(&found.only).filter(|(_, only)| only.0 > 0) {
        lines.push(format!("only the {which} has {}", rows(only)));
    }
    if !found.files.is_empty() {
        lines.push(format!("files that differ: {}", found.files.join(", ")));
    }
    if !found.measured.is_empty() {
        let names = found.measured.iter().cloned().collect::<Vec<_>>().join(", ");
        lines.push(format!("measured, so free to differ: {names}"));
    }
    lines
}
