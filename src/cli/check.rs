//! `ablate check`: everything that is wrong with a pipeline, nothing run.

use super::{EXIT_OK, EXIT_PIPELINE, Format, Outcome, print, print_json, say};
use crate::pipeline::{Choice, Problems, Severity};
use crate::plan::schema::load;
use crate::run::lacking;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Says what is wrong with a pipeline, all at once; runs nothing
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The pipeline files
    #[arg(required = true)]
    pipelines: Vec<PathBuf>,
    /// Sets a parameter (stage.param=value) or a var (var=value); may be given again
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let colour = std::io::stderr().is_terminal();
    let mut records = Vec::new();
    let mut wrong = false;
    for pipeline in &args.pipelines {
        let (problems, checked) = match load(pipeline, &args.sets, &Choice::all()) {
            Ok(mut checked) => {
                let lacking = lacking(&checked);
                checked.problems.list.extend(lacking);
                (checked.problems, Some((checked.cases[0].pipeline.stages.len(), checked.cases.len())))
            }
            Err(problems) => (problems, None),
        };
        wrong |= checked.is_none();
        match args.format {
            Format::Json => records.extend(problems.records()),
            Format::Text => {
                if !problems.list.is_empty() {
                    say(&problems.render(colour));
                }
                print(&format!("{}: {}\n", pipeline.display(), summary(&problems, checked)))?;
            }
        }
    }
    if args.format == Format::Json {
        print_json(&records)?;
    }
    Ok(if wrong { EXIT_PIPELINE } else { EXIT_OK })
}

/// A line: `12 stages, nothing wrong`, or what was found.
fn summary(problems: &Problems, checked: Option<(usize, usize)>) -> String {
    let counted = |severity, one: &str, many: &str| match problems.count(severity) {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let found: Vec<String> = [
        counted(Severity::Error, "mistake", "mistakes"),
        counted(Severity::Warning, "warning", "warnings"),
        counted(Severity::Note, "thing is missing on this machine", "things are missing on this machine"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let found = if found.is_empty() { "nothing wrong".into() } else { found.join(", ") };
    let count = |n: usize, thing: &str| if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") };
    match checked {
        Some((stages, 1)) => format!("{}, {found}", count(stages, "stage")),
        Some((stages, cases)) => {
            format!("{}, {} of variants and seeds, {found}", count(stages, "stage"), count(cases, "case"))
        }
        None => found,
    }
}
