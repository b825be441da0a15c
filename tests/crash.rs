//! Runners that are killed at any moment: the next run goes on, and ends with the same rows.
//!
//! The moments are drawn evenly over an undisturbed run; `ABLATE_CRASH_SEED` repeats a series, `ABLATE_CRASHES` says how many.

use crate::lab::Lab;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How many runners are killed.
const CRASHES: u64 = 200;
/// In so many labs at a time.
const LABS: u64 = 4;
/// What is asked for, and by how many of ten runners: everything (Python is slow to start), a program, and what the runner does itself.
const ASKED: [(&[&str], u64); 3] =
    [(&["verdicts", "copied"], 1), (&["copied", "programs"], 2), (&["blocks", "programs"], 7)];

/// Whole, map and sandbox stages, and a program. What differs from crash to crash is `tag`: a parameter that changes keys and not rows.
const PIPELINE: &str = r#"
name: small
stages:
  problems: { use: load, with: { path: problems.jsonl } }
  clean:    { use: filter, from: problems, with: { where: "solution|length < TAG" } }
  blocks:   { use: segment, from: clean, with: { kinds: [if, for] } }
  programs: { use: references, from: clean }
  copied:   { use: command, from: blocks, with: { run: [sh, -c, "sleep 0.01 & cp inputs/rows.parquet outputs/copy.parquet", "TAG"], outputs: { copy: { block_id: string, middle: string } } } }
  verdicts: { use: execute, from: { programs: programs, problems: clean }, with: { wall_factor: FACTOR } }
"#;

fn lab() -> Lab {
    // A killed process takes nothing with it that it has written, so a disk would only make the test slow.
    let lab = Lab::in_memory();
    lab.write(
        "make.yaml",
        "name: make\nstages: { made: { use: synthesize, with: { split: align, count: 12, seed: 5 } } }\n",
    );
    lab.run("make.yaml", &[]);
    lab.ok(&["export", "make.yaml", "made", "problems.jsonl"]);
    std::fs::remove_dir_all(lab.path("cache")).expect("the cache is there");
    lab
}

/// Writes the pipeline with parameters that no earlier run had: of old work nothing can be used.
fn write(lab: &Lab, tag: u64) {
    lab.write(
        "small.yaml",
        &PIPELINE.replace("TAG", &(10_000 + tag).to_string()).replace("FACTOR", &(100 + tag % 900).to_string()),
    );
}

#[test]
#[expect(clippy::print_stdout, reason = "the test harness shows it where the test fails")]
fn runners_killed_at_any_moment_leave_nothing_partial_and_the_next_run_ends_with_the_same_rows() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ABLATE_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let crashes = number("ABLATE_CRASHES").unwrap_or(CRASHES);
    println!("ABLATE_CRASH_SEED={seed}");
    // Side by side, since a runner mostly waits for the disk and for its workers.
    let struck: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..LABS).map(|lab| scope.spawn(move || series(seed + lab, crashes.div_ceil(LABS)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("its panic is told above")).sum()
    });
    println!("{struck} of {crashes} runners were running when they were killed");
}

/// Kills so many runners in one lab; how many were still running.
fn series(seed: u64, crashes: u64) -> u64 {
    let lab = lab();
    write(&lab, 0);
    // How long each takes undisturbed, from nothing; the first leaves what the others are held against.
    let mut times = [Duration::ZERO; ASKED.len()];
    let mut expected = BTreeMap::new();
    for ((stages, _), time) in ASKED.iter().zip(&mut times) {
        let started = Instant::now();
        lab.run("small.yaml", stages);
        *time = started.elapsed();
        expected.append(&mut contents(&lab));
        std::fs::remove_dir_all(lab.path("cache")).expect("nobody uses it");
    }
    assert_eq!(expected.len(), 6, "a record a stage: {expected:?}");
    let mut draws = Draws(seed);
    let mut struck = 0;
    for crash in 1..=crashes {
        // A step that has no divisor with ten, so that each is met with fresh caches and with old ones.
        let turn = crash * 3 % 10;
        let asked = usize::from(turn >= ASKED[0].1) + usize::from(turn >= ASKED[0].1 + ASKED[1].1);
        let (stages, time) = (ASKED[asked].0, times[asked]);
        if crash % 4 < 2 && lab.path("cache").exists() {
            std::fs::remove_dir_all(lab.path("cache")).expect("nobody uses it");
        }
        write(&lab, crash);
        let moment = time.mul_f64(draws.next());
        let context = format!("seed {seed}, crash {crash}, after {moment:?}");
        let arguments: Vec<&str> = ["run", "small.yaml"].iter().chain(stages).copied().collect();
        let mut command = lab.command(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts");
        std::thread::sleep(moment);
        // It may have ended already: then there is nothing to kill.
        struck += u64::from(child.try_wait().expect("it was started").is_none());
        let _ = child.kill();
        child.wait().expect("it was started");
        lab.wait_until_left();
        check_cache(&lab.path("cache"), &context);
        lab.run("small.yaml", stages);
        check_cache(&lab.path("cache"), &context);
        for (stage, means) in contents(&lab) {
            assert_eq!(Some(&means), expected.get(&stage), "{context}: {stage}");
        }
        // What was asked for is there: nothing is to be done any more.
        if crash % 5 == 0 {
            let again = lab.run("small.yaml", stages);
            assert_eq!(crate::lab::stages(&again, "stage_started"), [""; 0], "{context}");
            assert!(crate::lab::stages(&again, "stage_cached").len() >= 4, "{context}: {again:?}");
        }
    }
    struck
}

/// Numbers from 0 to 1 (splitmix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What every output of every stage means, by stage and port. Records of runs with other parameters are there too: they must mean the same.
fn contents(lab: &Lab) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files(&lab.path("cache/actions")) {
        let record = unsealed(&path, "reading what came out");
        for (port, output) in record["outputs"].as_object().expect("outputs") {
            let content = output.pointer("/table/content").and_then(Value::as_str).expect("a table").to_owned();
            let stage = found.entry(record["stage"].as_str().expect("a name").to_owned()).or_default();
            stage.insert(format!("{port}: {content}"));
        }
    }
    found
}

/// Every record is whole and is what was written, and whatever blob it names is there and has the bytes it is named by. Returns those blobs.
fn check_cache(cache: &Path, context: &str) -> Vec<PathBuf> {
    let mut blobs = BTreeSet::new();
    for folder in ["actions", "recipes", "maps"] {
        for path in files(&cache.join(folder)) {
            named_blobs(&unsealed(&path, context), &mut blobs);
        }
    }
    let check = |hash: String| {
        let path = cache.join("objects").join(&hash[..2]).join(&hash[2..]);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{context}: {}: {error}", path.display()));
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), hash, "{context}");
        path
    };
    blobs.into_iter().map(check).collect()
}

fn unsealed(path: &Path, context: &str) -> Value {
    let text = std::fs::read_to_string(path).expect("a record can be read");
    let record = text.split_once("\"record\":").and_then(|(_, rest)| rest.strip_suffix("}\n"));
    let record = record.unwrap_or_else(|| panic!("{context}: {} is not whole", path.display()));
    let whole = format!("{{\"check\":\"{}\",\"record\":{record}}}\n", blake3::hash(record.as_bytes()).to_hex());
    assert_eq!(text, whole, "{context}: {}", path.display());
    serde_json::from_str(record).expect("the text that was hashed")
}

/// Blobs are named by an object of a hash and a length, wherever it stands.
fn named_blobs(value: &Value, blobs: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::String(hash)), Some(Value::Number(_))) = (fields.get("hash"), fields.get("bytes")) {
                blobs.insert(hash.clone());
            }
            fields.values().for_each(|value| named_blobs(value, blobs));
        }
        Value::Array(values) => values.iter().for_each(|value| named_blobs(value, blobs)),
        _ => {}
    }
}

/// All files below a folder that have their final name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

// Of what the other test relies on.
#[test]
fn the_check_of_a_cache_sees_a_record_cut_short_and_a_blob_with_a_flipped_byte() {
    let lab = lab();
    write(&lab, 0);
    lab.run("small.yaml", &[]);
    let cache = lab.path("cache");
    let fails = |path: &Path, bytes: &[u8]| {
        let before = std::fs::read(path).expect("it is there");
        // Blobs are read-only.
        std::fs::remove_file(path).expect("ours");
        std::fs::write(path, bytes).expect("ours");
        let failed = std::panic::catch_unwind(|| check_cache(&cache, "damaged on purpose")).is_err();
        std::fs::write(path, before).expect("ours");
        failed
    };
    let blobs = check_cache(&cache, "as it was made");
    assert!(blobs.len() >= 6, "a table a stage: {blobs:?}");
    for path in files(&cache.join("actions")).into_iter().take(1).chain(blobs) {
        let mut bytes = std::fs::read(&path).expect("it is there");
        bytes[5] ^= 1;
        assert!(fails(&path, &bytes), "{}", path.display());
        assert!(fails(&path, &bytes[..bytes.len() / 2]), "{}", path.display());
    }
    check_cache(&cache, "as it was again");
}
