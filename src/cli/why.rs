//! `ablate why`: why a step would run, or from where its result is; against its last run or against another variant. With `--row`, what
//! one row came to in every step.

use super::plan::words;
use super::{EXIT_OK, EXIT_USAGE, Failure, Format, Outcome, PipelineArgs, planned, print, print_json};
use crate::pipeline::variants::DEFAULT;
use crate::plan::explain::own_differences;
use crate::report::trace::{Found, Trace, trace};
use crate::run::outlook::{Outlook, State, causes, outlook};
use crate::run::planner::{Planned, PlannedCase};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Arguments of `ablate why`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage
    #[arg(required_unless_present = "row")]
    stage: Option<String>,
    /// Hold the stage against the same stage of another variant (`default`: the pipeline as written)
    #[arg(long, value_name = "VARIANT", conflicts_with = "row")]
    against: Option<String>,
    /// Follow the row with this id through every step
    #[arg(long, value_name = "ID", conflicts_with = "stage")]
    row: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Outcome {
    let mut asked = args.pipeline.clone();
    if let Some(against) = &args.against {
        if asked.variants.is_empty() {
            asked.variants.push(DEFAULT.to_owned());
        }
        asked.variants.push(against.clone());
    }
    let (planned, cache) = planned(&asked)?;
    if let Some(id) = &args.row {
        let traces = trace(planned, &cache, &planned.lookup(&cache)?, id)?;
        if traces.is_empty() {
            let message = format!("no output of the pipeline has a row with the id `{id}`");
            return Err(Failure::new(EXIT_USAGE, message));
        }
        match args.format {
            Format::Json => print_json(&traces)?,
            Format::Text => print(&traces_text(&traces))?,
        }
        return Ok(EXIT_OK);
    }
    let stage = args.stage.as_deref().unwrap_or_default();
    let of = match &args.against {
        Some(_) => {
            let here = |case: &&PlannedCase| case.checked.variant.as_deref().unwrap_or(DEFAULT) == asked.variants[0];
            planned.cases.iter().find(here).and_then(|case| case.steps.get(stage).copied()).into_iter().collect()
        }
        None => Vec::new(),
    };
    let steps =
        if of.is_empty() { planned.all_named(stage).map_err(|problem| Failure::new(EXIT_USAGE, problem))? } else { of };
    if let Some(against) = &args.against {
        let lines = held_against(planned, steps[0], against);
        match args.format {
            Format::Json => print_json(&lines)?,
            Format::Text => {
                let none = vec![format!("nothing: `{stage}` is the same in `{against}`")];
                let lines = if lines.is_empty() { none } else { lines };
                print(&format!("{}\n", lines.join("\n")))?;
            }
        }
        return Ok(EXIT_OK);
    }
    let all = outlook(planned, &cache, asked.limit)?;
    let why: Vec<Why> = steps.iter().map(|&step| Why::of(planned, &all, step)).collect();
    match args.format {
        Format::Json => print_json(&why)?,
        Format::Text => print(&why.iter().map(Why::text).collect::<Vec<_>>().join("\n"))?,
    }
    Ok(EXIT_OK)
}

/// Why a step is what it is.
#[derive(Debug, Serialize)]
struct Why {
    step: Outlook,
    /// What it reads: the port, and the step that makes it.
    reads: Vec<(String, Outlook)>,
    /// The steps above that would run for reasons of their own.
    because_of: Vec<Outlook>,
    /// The steps below that wait for it.
    holds_up: Vec<String>,
}

impl Why {
    fn of(planned: &Planned, all: &[Outlook], step: usize) -> Self {
        let sources = planned.steps[step].sources.iter();
        let mut below = BTreeSet::from([step]);
        for (later, other) in planned.steps.iter().enumerate().skip(step + 1) {
            if other.needs.iter().any(|need| below.contains(need)) {
                below.insert(later);
            }
        }
        let is_open = all[step].state != State::Cached;
        let holds_up = below.into_iter().filter(|&other| is_open && other != step && all[other].state != State::Cached);
        let causes = causes(planned, all, step).into_iter().filter(|&cause| cause != step);
        Self {
            step: all[step].clone(),
            reads: sources.map(|(port, (maker, _))| (port.clone(), all[*maker].clone())).collect(),
            because_of: causes.map(|cause| all[cause].clone()).collect(),
            holds_up: holds_up.map(|other| all[other].stage.clone()).collect(),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.step.stage, words(&self.step.state));
        let mut line = |words: String| writeln!(text, "  {words}").expect("writing to a string");
        if let Some(made) = &self.step.made {
            line(format!("made by `{}` on {}, {}", made.stage, made.host, age(made.unix_s)));
        }
        let against = self.step.against.as_ref().map_or("its last run".to_owned(), |against| format!("`{against}`"));
        for because in &self.step.because {
            line(if because == "never run" { because.clone() } else { format!("{because}  (against {against})") });
        }
        if let Some(last) = &self.step.last {
            let rows = self.step.rows.map_or(String::new(), |rows| format!(", {rows} rows"));
            line(format!("the last time: {:.1} s, {:.1} CPU-s{rows}", last.wall_s, last.cpu_s));
        }
        for (port, source) in &self.reads {
            let rows = source.rows.map_or(String::new(), |rows| format!(", {rows} rows"));
            line(format!("reads {port} from {}: {}{rows}", source.stage, words(&source.state)));
        }
        for cause in &self.because_of {
            line(format!("because of {}: {} ({})", cause.stage, words(&cause.state), cause.because.join("; ")));
        }
        if !self.holds_up.is_empty() {
            line(format!("below it: {}", self.holds_up.join(", ")));
        }
        text
    }
}

/// What the clock says of a moment, roughly.
fn age(unix_s: f64) -> String {
    let seconds = (crate::run::unix_s() - unix_s).max(0.0);
    match seconds {
        s if s < 120.0 => format!("{s:.0} seconds ago"),
        s if s < 7200.0 => format!("{:.0} minutes ago", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} hours ago", s / 3600.0),
        s => format!("{:.0} days ago", s / 86_400.0),
    }
}

/// What of a step, and of all above it, is different in another variant.
fn held_against(planned: &Planned, step: usize, variant: &str) -> Vec<String> {
    let name = |case: &PlannedCase| case.checked.variant.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let here = planned.cases_of(step).next();
    let seeds = here.map(|case| &case.checked.seeds);
    let others = planned.cases.iter().filter(|case| name(case) == variant);
    let same_seeds = others.clone().find(|case| Some(&case.checked.seeds) == seeds);
    let (Some(here), Some(there)) = (here, same_seeds.or_else(|| others.clone().next())) else { return Vec::new() };
    let mut lines = Vec::new();
    let (above_here, above_there) = (above(planned, here, step), there.steps.get(&planned.stage(step).name));
    let above_there = above_there.map(|&step| above(planned, there, step)).unwrap_or_default();
    for stage in above_here.union(&above_there) {
        let line = match (above_here.contains(stage), above_there.contains(stage)) {
            (true, true) if here.steps[stage] == there.steps[stage] => continue,
            (true, true) => step_differences(planned, there.steps[stage], here.steps[stage]),
            (true, false) => format!("read here and not in `{variant}`"),
            _ => format!("read in `{variant}` and not here"),
        };
        if !line.is_empty() {
            lines.push(format!("{stage}: {line}"));
        }
    }
    lines
}

/// What of a step itself differs, the stages that it reads from included.
fn step_differences(planned: &Planned, was: usize, is: usize) -> String {
    let [was, is] = [was, is].map(|step| &planned.steps[step]);
    let mut differences = own_differences(&was.fields, &is.fields);
    let [read, reads] = [was, is].map(|step| {
        let from = |(port, (maker, output)): (&String, &(usize, String))| {
            format!("{port}: {}.{output}", planned.stage(*maker).name)
        };
        step.sources.iter().map(from).collect::<Vec<_>>().join(", ")
    });
    if read != reads {
        differences.push(format!("from {{{read}}} -> {{{reads}}}"));
    }
    differences.join("; ")
}

/// The names of a step's stage and of all above it.
fn above(planned: &Planned, case: &PlannedCase, step: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::from([step]);
    let mut open = vec![step];
    while let Some(next) = open.pop() {
        open.extend(planned.steps[next].needs.iter().copied().filter(|&need| seen.insert(need)));
    }
    case.steps.iter().filter(|(_, step)| seen.contains(step)).map(|(name, _)| name.clone()).collect()
}

fn traces_text(traces: &[Trace]) -> String {
    let names: Vec<String> = traces
        .iter()
        .map(|trace| if trace.port == "dropped" { format!("{}.dropped", trace.stage) } else { trace.stage.clone() })
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, trace) in names.iter().zip(traces) {
        let lines = match &trace.found {
            Found::NotRun => vec!["not run".to_owned()],
            Found::Nothing => vec!["nothing of it".to_owned()],
            Found::Rows(rows) => rows
                .iter()
                .map(|(key, values)| {
                    let values: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value}")).collect();
                    format!("{key}  {}", values.join(", "))
                })
                .collect(),
            Found::Many(count, columns) => {
                let column = |(name, values): (&String, &std::collections::BTreeMap<String, usize>)| {
                    let values: Vec<String> = values.iter().map(|(value, n)| format!("{value} x {n}")).collect();
                    format!("{name}: {}", values.join(", "))
                };
                vec![format!("{count} rows  {}", columns.iter().map(column).collect::<Vec<_>>().join("; "))]
            }
        };
        for (place, line) in lines.iter().enumerate() {
            let name = if place == 0 { name.as_str() } else { "" };
            writeln!(text, "{name:width$}  {}", line.trim_end()).expect("writing to a string");
        }
    }
    text
}
