//! The guard of versions: the example of every kind is run, and what its stages give is held against what was kept.
//!
//! `versions.json` says of every use of a kind in its own example what went in and what came out, as digests by meaning.
//! Where the same went in and something else came out, a cache would go on giving the old rows: VERSION has to be raised.
//! Anything else that differs is a snapshot to renew: `make generate`, which refuses the first case too.
//!
//! Measured columns are in no digest of a table, so times and log-probabilities are left out by themselves. The version of
//! Python is left out of what went in: the solutions that `execute` runs here pass under any. What a language model
//! computes, and all that is made of it, differs by the type of machine: of those outputs counts and columns are kept.
//! A kind that is only short for others (`eval`) is run, and has no entry: its stages are of other kinds. `command` promises
//! nothing of the programs that it runs; the one of its example gives the same rows everywhere.

use crate::lab::{Lab, repository, skipped};
use ablate::cache::{Cache, Output, Record};
use ablate::pipeline::Choice;
use ablate::plan::schema::load;
use ablate::run::planner::Planned;
use ablate_stages::STAGES;
use ablate_stages::stage::{AnyStage, Place};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

/// A use of a kind, in its own example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    version: u32,
    /// Digest of parameters, files and input tables; none where a language model made some of it.
    input: Option<String>,
    /// By port: the digest of what came out, or what [`Kept`] says of it.
    outputs: BTreeMap<String, String>,
}

/// By `kind stage`.
type Snapshot = BTreeMap<String, Entry>;

#[test]
fn generated_snapshot_of_every_kind_is_up_to_date() {
    let lab = Lab::new();
    let has_lm = has_language_models(&lab);
    let mut found = Snapshot::new();
    let mut left_out = BTreeSet::new();
    for &kind in STAGES {
        let file = write_example(&lab, kind);
        let whole = planned(&lab, &file, &Scale::default());
        if let Some(lacking) = lacks(kind, &whole, has_lm) {
            skipped(&format!("the example of `{}`: {lacking}", kind.name()));
            left_out.insert(kind.name());
            continue;
        }
        let scale = Scale::of(&whole);
        lab.run(&file, &scale.arguments().iter().map(String::as_str).collect::<Vec<_>>());
        found.extend(entries(&lab, kind, &planned(&lab, &file, &scale)));
    }
    let path = repository().join("tests/versions.json");
    let kept: Snapshot = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).expect("the snapshot is JSON of our own"),
        Err(_) => Snapshot::new(),
    };
    for (name, entry) in kept.iter().filter(|(name, _)| left_out.contains(kind_of(name))) {
        found.insert(name.clone(), entry.clone());
    }
    let unraised: Vec<&str> = unraised(&kept, &found);
    assert!(
        unraised.is_empty(),
        "{} gives other rows for the same input: raise VERSION of the kind, or find the mistake; then `make generate`",
        unraised.join(", ")
    );
    if std::env::var_os("ABLATE_GENERATE").is_some() {
        let text = serde_json::to_string_pretty(&found).expect("a snapshot is plain data");
        std::fs::write(&path, text + "\n").expect("the repository can be written");
    } else {
        let stale = stale(&kept, &found);
        assert!(
            stale.is_empty(),
            "tests/versions.json is not up to date ({}); renew it: make generate",
            stale.join(", ")
        );
    }
}

/// Uses whose output changed, although VERSION and input did not.
fn unraised<'a>(kept: &Snapshot, found: &'a Snapshot) -> Vec<&'a str> {
    let is_unraised = |name: &str, now: &Entry| {
        kept.get(name)
            .is_some_and(|was| was.version == now.version && was.input == now.input && was.outputs != now.outputs)
    };
    found.iter().filter(|(name, now)| is_unraised(name, now)).map(|(name, _)| name.as_str()).collect()
}

/// Uses that the snapshot does not have as they are, and those that there are no more.
fn stale<'a>(kept: &'a Snapshot, found: &'a Snapshot) -> Vec<&'a str> {
    let names: BTreeSet<&String> = kept.keys().chain(found.keys()).collect();
    names.into_iter().filter(|&name| kept.get(name) != found.get(name)).map(String::as_str).collect()
}

fn kind_of(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

fn write_example(lab: &Lab, kind: &dyn AnyStage) -> String {
    let file = format!("{}.yaml", kind.name());
    lab.write(&file, &crate::kinds::example_pipeline(kind));
    file
}

/// How much of an example is run: all of it, or where a language model writes programs, which may never end, a little.
#[derive(Debug, Default)]
struct Scale {
    limit: Option<u64>,
    sets: Vec<String>,
}

impl Scale {
    fn of(planned: &Planned) -> Self {
        if !needs_lm(planned) {
            return Self::default();
        }
        let executes = planned.steps.iter().filter(|step| step.fields.kind == "execute" && !step.name.contains('/'));
        Self { limit: Some(8), sets: executes.map(|step| format!("{}.cpu_limit_s=1", step.name)).collect() }
    }

    fn arguments(&self) -> Vec<String> {
        let limit = self.limit.iter().flat_map(|limit| ["--limit".to_owned(), limit.to_string()]);
        limit.chain(self.sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()])).collect()
    }
}

fn needs_lm(planned: &Planned) -> bool {
    (0..planned.steps.len()).any(|step| planned.declaration(step).place == Place::Torch)
}

fn planned(lab: &Lab, file: &str, scale: &Scale) -> Planned {
    let checked =
        load(&lab.path(file), &scale.sets, &Choice::default()).unwrap_or_else(|problems| panic!("{problems}"));
    let cache = Cache::open(lab.path("cache")).expect("a folder of the lab");
    Planned::new(checked, &cache, scale.limit).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Whether there is an `ablate-lm` that runs.
fn has_language_models(lab: &Lab) -> bool {
    let findings: serde_json::Value =
        serde_json::from_str(&lab.ok(&["doctor", "--format", "json"]).stdout).expect("findings are JSON");
    findings
        .as_array()
        .into_iter()
        .flatten()
        .any(|finding| finding["what"] == "ablate-lm" && finding["state"] == "good")
}

/// What an example needs that is not here.
fn lacks(kind: &dyn AnyStage, planned: &Planned, has_lm: bool) -> Option<String> {
    if kind.name() == "command" && !has_pyarrow() {
        return Some("its program needs pyarrow, which `python3` does not have".into());
    }
    let missing = planned.steps.iter().flat_map(|step| &step.missing_files).next();
    match missing {
        Some(path) => Some(format!("{} is not there", path.display())),
        None if needs_lm(planned) && !has_lm => Some("ablate-lm is not built".into()),
        None => None,
    }
}

fn has_pyarrow() -> bool {
    let asked = Command::new("python3").args(["-c", "import pyarrow"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// The entries of a kind's uses, after its example has been run.
fn entries(lab: &Lab, kind: &dyn AnyStage, planned: &Planned) -> Snapshot {
    let cache = Cache::open(lab.path("cache")).expect("a folder of the lab");
    let records = planned.lookup(&cache).expect("the cache of the lab can be read");
    let record = |step: usize| records[step].clone().expect("the example has been run");
    let kept = kept(planned);
    let uses = (0..planned.steps.len()).filter(|&step| planned.steps[step].fields.kind == kind.name());
    uses.map(|step| {
        let input = (kept[step] != Kept::Columns).then(|| {
            let mut fields = planned.key_fields(step, &cache, &record).expect("inputs can be digested");
            fields.version = 0;
            fields.environment.clear();
            fields.digest("ablate version guard").to_string()
        });
        let outputs = outputs(planned, step, &record(step), kept[step]);
        let entry = Entry { version: kind.version(), input, outputs };
        (format!("{} {}", kind.name(), planned.steps[step].name), entry)
    })
    .collect()
}

/// What can be kept of a stage's outputs, the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    /// Their digests.
    Digests,
    /// Of a language model's own rows: how many, and their columns.
    Counts,
    /// Of what is made of such rows: the columns.
    Columns,
}

fn kept(planned: &Planned) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::new();
    for (step, found) in planned.steps.iter().enumerate() {
        let below = found.needs.iter().any(|&need| kept[need] != Kept::Digests);
        kept.push(match planned.declaration(step).place {
            _ if below => Kept::Columns,
            Place::Torch => Kept::Counts,
            Place::Inline | Place::Sandbox => Kept::Digests,
        });
    }
    kept
}

fn outputs(planned: &Planned, step: usize, record: &Record, kept: Kept) -> BTreeMap<String, String> {
    let first = &planned.declaration(step).outputs[0].name;
    let shown = |(port, output): (&String, &Output)| {
        let text = match output {
            _ if kept == Kept::Digests => output.content().to_string(),
            Output::Table(table) => {
                let names: Vec<&str> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
                let count = if kept == Kept::Counts { format!("{} rows of ", table.table.rows) } else { String::new() };
                format!("{count}{}", names.join(", "))
            }
            Output::Model(_) => "a model".into(),
            Output::Files(_) => "files".into(),
        };
        if let Output::Table(table) = output {
            assert!(table.table.rows > 0 || port != first, "{}.{port} has no rows", planned.steps[step].name);
        }
        (port.clone(), text)
    };
    record.outputs.iter().map(shown).collect()
}

#[test]
fn other_rows_of_the_same_version_and_input_are_told_from_a_stale_snapshot() {
    let entry = |version, input: &str, output: &str| Entry {
        version,
        input: Some(input.into()),
        outputs: BTreeMap::from([("rows".to_owned(), output.to_owned())]),
    };
    let one = |entry| Snapshot::from([("take some".to_owned(), entry)]);
    let kept = one(entry(1, "a", "x"));
    let found = one(entry(1, "a", "y"));
    assert_eq!(unraised(&kept, &found), ["take some"]);
    for renewed in [one(entry(2, "a", "y")), one(entry(1, "b", "y")), Snapshot::new()] {
        assert!(unraised(&kept, &renewed).is_empty());
        assert_eq!(stale(&kept, &renewed), ["take some"]);
    }
    assert!(stale(&kept, &kept).is_empty());
}
