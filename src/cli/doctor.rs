//! `ablate doctor`: what this machine gives, what is missing, and what to do about it.
//!
//! Nothing is guessed: the cache is written to, a sandbox is opened, and the worker for language models is asked, as a run does.

use super::{EXIT_MISSING, EXIT_OK, Format, Outcome, print, print_json};
use crate::cache::{Cache, CacheError, find_root};
use crate::run::lm_worker;
use ablate_stages::sandbox::{Config, Grade, Interpreter, Isolation, Sandbox, Toolchain};
use ablate_stages::stage::StageError;
use ablate_stages::worker::LmDescription;
use indicatif::HumanBytes;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Less free space than this is worth a word: one table of generated samples can take as much.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;

/// Arguments of `ablate doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file or folder whose cache is meant
    #[arg(default_value = ".")]
    of: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// What to do about it, where something is to be done.
    fix: Option<String>,
    /// Whether no pipeline runs without it.
    needed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    Limited,
    Missing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, state: State::Good, found: found.into(), fix: None, needed: false }
    }

    fn limited(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, state: State::Limited, found: found.into(), fix: Some(fix.into()), needed: false }
    }

    fn missing(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, state: State::Missing, found: found.into(), fix: Some(fix.into()), needed: false }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    let mut findings = vec![cores(), memory(), cache(&args.of)];
    findings.extend(sandbox());
    findings.extend(languages(&args.of));
    findings.extend(language_models());
    match args.format {
        Format::Text => print(&text(&findings))?,
        Format::Json => print_json(&findings)?,
    }
    let stuck = findings.iter().any(|finding| finding.needed && finding.state == State::Missing);
    Ok(if stuck { EXIT_MISSING } else { EXIT_OK })
}

fn cores() -> Finding {
    match std::thread::available_parallelism() {
        Ok(cores) => Finding::good("cores", cores.to_string()),
        Err(error) => Finding::limited("cores", format!("not known: {error}"), "say how many: ablate run --jobs N"),
    }
}

fn memory() -> Finding {
    let sizes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| Some((meminfo_bytes(&text, "MemTotal")?, meminfo_bytes(&text, "MemAvailable")?)));
    match sizes {
        Some((total, available)) => {
            Finding::good("memory", format!("{}, {} available", HumanBytes(total), HumanBytes(available)))
        }
        None => Finding::limited("memory", "not known", "mount /proc: the sandbox needs it too"),
    }
}

/// A line of /proc/meminfo, `MemTotal:  8000000 kB`, in bytes.
fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn cache(of: &Path) -> Finding {
    let finding = examine_cache(of).unwrap_or_else(|error| {
        // The message says where, and what to do, in one sentence; so it has no second line here.
        Finding { fix: None, ..Finding::missing("cache", error.to_string(), "") }
    });
    Finding { needed: true, ..finding }
}

fn examine_cache(of: &Path) -> Result<Finding, CacheError> {
    let cache = Cache::open(find_root(of)?)?;
    cache.check_writable()?;
    let room = cache.room()?;
    let root = cache.layout().root();
    let not_yet = if root.is_dir() { "" } else { ", made by the first run" };
    let free = HumanBytes(room.free_bytes);
    let found = format!("{}{not_yet}; {free} of {} free", root.display(), HumanBytes(room.total_bytes));
    Ok(if room.free_bytes < LITTLE_SPACE_BYTES {
        Finding::limited("cache", found, "free some space, or choose a folder on another disk by ABLATE_CACHE")
    } else {
        Finding::good("cache", found)
    })
}

/// The interpreter that judges programs, and how well programs are shut in.
fn sandbox() -> Vec<Finding> {
    let config = Config { floor: Grade::None, ..Config::default() };
    let python = match Interpreter::find(&config.interpreter) {
        Ok(python) => Finding::good("python", format!("{}, {}", python.version(), python.path().display())),
        Err(error) => {
            let fix = "install Python 3: `execute`, and all that judges programs, needs it";
            return vec![Finding::missing("python", error.to_string(), fix)];
        }
    };
    match Sandbox::open(config) {
        Ok(sandbox) => [python].into_iter().chain(isolation(sandbox.isolation())).collect(),
        Err(error) => {
            let fix = "the sandbox needs a writable folder for temporary files (TMPDIR) and a mounted /proc";
            vec![python, Finding::missing("isolation", error.to_string(), fix)]
        }
    }
}

/// The tools of each language that is described in the nearest folder `languages`.
fn languages(of: &Path) -> Vec<Finding> {
    let of = of.canonicalize().unwrap_or_default();
    let Some(folder) = of.ancestors().map(|folder| folder.join("languages")).find(|folder| folder.is_dir()) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let examine = |path: &PathBuf| match Toolchain::find(path) {
        Ok(tools) => Finding::good("language", format!("{}: {}", path.display(), tools.version())),
        Err(error) => Finding::missing("language", error.to_string(), "only programs in that language need it"),
    };
    files.iter().map(examine).collect()
}

/// The grade, and each thing that keeps it from being full.
fn isolation(isolation: &Isolation) -> Vec<Finding> {
    let in_force = isolation.in_force.join(", ");
    let graded = match isolation.grade {
        Grade::Full => Finding::good("isolation", format!("full: {in_force}")),
        Grade::Partial => Finding::limited(
            "isolation",
            format!("partial: {in_force}"),
            "programs run; what is below shuts them in better",
        ),
        Grade::None => {
            let fix = "`execute` refuses to run programs unless `allow_unsafe: true` is set; see below";
            Finding::missing("isolation", format!("none: {in_force}"), fix)
        }
    };
    let missing = isolation
        .missing
        .iter()
        .map(|missing| Finding::missing(missing.feature.name(), missing.why.clone(), missing.fix.clone()));
    [graded].into_iter().chain(missing).collect()
}

/// The worker for language models, and the devices that it sees.
fn language_models() -> Vec<Finding> {
    let worker = match lm_worker() {
        Ok(worker) => worker,
        Err(StageError::Missing { what, fix }) => {
            return vec![Finding::missing("ablate-lm", format!("{what} is not there"), fix)];
        }
        Err(error) => return vec![Finding::missing("ablate-lm", error.to_string(), "name it by ABLATE_LM")],
    };
    match ask(&worker) {
        Ok(description) => described(&worker, &description),
        Err(problem) => {
            let found = format!("{}: {problem}", worker.display());
            vec![Finding::missing("ablate-lm", found, "build it from the same sources as `ablate`: make build")]
        }
    }
}

fn ask(worker: &Path) -> Result<LmDescription, String> {
    let output = Command::new(worker)
        .arg("--describe")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("does not start: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("does not run ({}): {}", output.status, said.trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| "does not say what it is".into())
}

fn described(worker: &Path, found: &LmDescription) -> Vec<Finding> {
    let libtorch = found.libtorch.as_deref().unwrap_or("of unknown version");
    let text = format!("{}, libtorch {libtorch}, {}", found.version, worker.display());
    let itself = if found.version == env!("CARGO_PKG_VERSION") {
        Finding::good("ablate-lm", text)
    } else {
        let fix = format!("build it from the same sources as this `ablate`, {}: make build", env!("CARGO_PKG_VERSION"));
        Finding::limited("ablate-lm", text, fix)
    };
    let cuda = match (found.cuda_devices, &found.cuda_problem) {
        (0, problem) => {
            let problem = problem.as_deref().unwrap_or("no device");
            Finding::limited(
                "cuda",
                format!("none: {problem}"),
                "nothing to do, unless there is a GPU: models run on the CPU",
            )
        }
        (1, _) => Finding::good("cuda", "1 device"),
        (count, _) => Finding::good("cuda", format!("{count} devices")),
    };
    vec![itself, cuda]
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { what, state, found, fix, .. } in findings {
        writeln!(text, "{what:width$}  {:7}  {found}", state.word()).expect("writing to a string");
        if let Some(fix) = fix {
            writeln!(text, "{:width$}  {:7}  -> {fix}", "", "").expect("writing to a string");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_stages::sandbox::{Feature, MissingFeature};

    #[test]
    fn sizes_of_memory_are_read_in_kilobytes() {
        let text = "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    4000000 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(8_192_000_000));
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(4_096_000_000));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
    }

    #[test]
    fn what_keeps_isolation_from_being_full_is_named_with_its_fix() {
        let missing =
            MissingFeature { feature: Feature::Landlock, why: "an old kernel".into(), fix: "a new one".into() };
        let in_force = vec!["seccomp".to_owned(), "rlimits".to_owned()];
        let found = isolation(&Isolation { grade: Grade::Partial, in_force, missing: vec![missing] });
        assert_eq!(
            text(&found),
            "isolation  limited  partial: seccomp, rlimits\n\
             \x20                   -> programs run; what is below shuts them in better\n\
             landlock   missing  an old kernel\n\
             \x20                   -> a new one\n"
        );
    }
}
