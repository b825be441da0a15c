//! `ablate new`: a commented pipeline to start from.

use super::{EXIT_OK, EXIT_USAGE, Failure, Outcome, say};
use std::io::Write;
use std::path::PathBuf;

/// Writes a commented pipeline to start from
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The pipeline's name; the file is NAME.yaml
    name: PathBuf,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let file = if args.name.extension().is_some_and(|extension| extension == "yaml") {
        args.name.clone()
    } else {
        let mut name = args.name.clone().into_os_string();
        name.push(".yaml");
        PathBuf::from(name)
    };
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut out = match std::fs::File::create_new(&file) {
        Ok(out) => out,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::new(EXIT_USAGE, format!("{} is there already; nothing was written", file.display())));
        }
        Err(error) => return Err(Failure::new(EXIT_USAGE, format!("{}: {error}", file.display()))),
    };
    out.write_all(text(&name).as_bytes())?;
    say(&format!("wrote {0}; try: ablate check {0} && ablate run {0}", file.display()));
    Ok(EXIT_OK)
}

/// The pipeline's text.
pub(crate) fn text(name: &str) -> String {
    // A name may hold anything a file name may; in single quotes only the quote itself needs care.
    TEMPLATE.replace("NAME", &format!("'{}'", name.replace('\'', "''")))
}

const TEMPLATE: &str = "\
# `ablate check` says what is wrong with this file, `ablate plan` what would run, `ablate run` does it.
# Kinds of stages and their parameters: `ablate stages`, `ablate stages segment`.
name: NAME
about: Blocks of small generated programs

# Values that stages refer to; `--set count=100` changes one for a run.
vars: { count: 20, seed: 1 }

stages:
  # Problems with reference solutions and tests. To read your own: { use: load, with: { path: problems.jsonl } }
  problems: { use: synthesize, with: { split: align, count: \"${count}\", seed: \"${seed}\" } }

  # Keeps rows for which the expression is true; what it leaves out is `short.dropped`, with the reason.
  short: { use: filter, from: problems, with: { where: \"solution|length < 2000\" } }

  # Splits every solution into prefix, block and suffix.
  blocks: { use: segment, from: short, with: { kinds: [if, for, while] } }

# Then: ablate show <this file> blocks
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Choice;
    use crate::plan::schema::load;

    #[test]
    fn a_new_pipeline_passes_check() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["mine", "it's mine"] {
            let file = dir.path().join(format!("{name}.yaml"));
            run(&Args { name: dir.path().join(name) }).unwrap();
            let checked = load(&file, &[], &Choice::all()).unwrap_or_else(|problems| panic!("{problems}"));
            assert!(checked.problems.list.is_empty(), "{}", checked.problems);
            assert_eq!(checked.cases[0].pipeline.name, name);
        }
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.yaml");
        std::fs::write(&file, "mine").unwrap();
        assert_eq!(run(&Args { name: file.clone() }).unwrap_err().code, EXIT_USAGE);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
