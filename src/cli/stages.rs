//! `ablate stages`: the kinds there are, their parameters, ports, columns and an example.

use super::{EXIT_OK, EXIT_USAGE, Failure, Format, Outcome, print, print_json};
use crate::pipeline::error::nearest;
use crate::pipeline::reference::{KindReference, describe, kind_markdown, markdown};
use ablate_stages::STAGES;
use std::fmt::Write;

/// Lists the kinds of stages, or describes one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kind to describe; all in short without it
    kind: Option<String>,
    /// Prints the whole reference as Markdown, as in pipelines/README.md
    #[arg(long, conflicts_with_all = ["kind", "format"])]
    markdown: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if args.markdown {
        print(&markdown(STAGES))?;
        return Ok(EXIT_OK);
    }
    let kinds: Vec<KindReference> = match &args.kind {
        None => STAGES.iter().map(|&kind| describe(kind)).collect(),
        Some(name) => match ablate_stages::find(name) {
            Some(kind) => vec![describe(kind)],
            None => {
                let names: Vec<String> = STAGES.iter().map(|kind| kind.name().to_owned()).collect();
                let near = nearest(name, &names).map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
                return Err(Failure::new(EXIT_USAGE, format!("there is no kind `{name}`{near}")));
            }
        },
    };
    match (args.format, &args.kind) {
        (Format::Json, None) => print_json(&kinds)?,
        (Format::Json, Some(_)) => print_json(&kinds[0])?,
        (Format::Text, Some(_)) => print(&kind_markdown(&kinds[0]))?,
        (Format::Text, None) => print(&short(&kinds))?,
    }
    Ok(EXIT_OK)
}

fn short(kinds: &[KindReference]) -> String {
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for kind in kinds {
        let inputs: Vec<&str> = kind.inputs.iter().map(|port| port.name.as_str()).collect();
        let outputs: Vec<&str> = kind.outputs.iter().map(|port| port.name.as_str()).collect();
        let about = kind.about.split(". ").next().unwrap_or_default().trim_end_matches('.').replace('\n', " ");
        let arrow = if inputs.is_empty() { String::new() } else { format!("{} ", inputs.join(", ")) };
        let _ = writeln!(text, "{:width$}  {about}\n{:width$}  {arrow}-> {}", kind.name, "", outputs.join(", "));
    }
    text
}
