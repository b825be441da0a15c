//! `ablate cache`: looks after the cache.

use super::{EXIT_OK, Format, Outcome, print, print_json};
use crate::cache::{Cache, Status, find_root};
use indicatif::HumanBytes;
use std::path::PathBuf;

/// Arguments of `ablate cache`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Says where the cache is, what it holds and how large it is
    Status {
        /// A file or folder whose cache is meant
        #[arg(default_value = ".")]
        of: PathBuf,
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

pub(super) fn run(args: &Args) -> Outcome {
    let Command::Status { of, format } = &args.command;
    let cache = Cache::open(find_root(of)?)?;
    let status = cache.status()?;
    match format {
        Format::Text => print(&text(&status))?,
        Format::Json => print_json(&status)?,
    }
    Ok(EXIT_OK)
}

fn text(status: &Status) -> String {
    let lines = [
        ("objects", status.objects),
        ("finished stages", status.actions),
        ("recipes", status.recipes),
        ("finished batches", status.batches),
        ("views", status.views),
        ("runs", status.runs),
        ("saved states", status.states),
        ("unfinished", status.tmp),
    ];
    let mut text = format!("{}\n", status.root.display());
    for (name, amount) in lines {
        text.push_str(&format!("  {name:18} {:8}  {:>10}\n", amount.count, HumanBytes(amount.bytes).to_string()));
    }
    text
}
