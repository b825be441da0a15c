//! Programs that mean harm, programs that are broken, and right programs that poor runners fail: the files of `tests/hostile/`.
//!
//! Each must get a verdict that its entry calls right, must leave the machine as it was, and must not trouble the program after it.

use crate::lab::Lab;
use ablate_stages::columns::{Case, Check, TestStyle, Tests};
use ablate_stages::sandbox::{Config, Limits, OutputComparator, Program, Sandbox, ValueComparator, Verdict};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const NOBODY: u32 = 65534;

/// A program and the verdicts that are right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Suspect {
    name: String,
    #[serde(default, rename = "about")]
    _about: Option<String>,
    #[serde(default = "stdio")]
    style: TestStyle,
    #[serde(default)]
    entry_point: Option<String>,
    program: String,
    #[serde(default)]
    cases: Vec<(String, String)>,
    #[serde(default)]
    code: Option<String>,
    expect: Vec<String>,
    #[serde(default = "one")]
    cpu_s: f64,
    #[serde(default = "memory_mib")]
    memory_mib: u64,
    #[serde(default = "one_mib")]
    output_mib: u64,
}

fn stdio() -> TestStyle {
    TestStyle::Stdio
}

fn one() -> f64 {
    1.0
}

fn memory_mib() -> u64 {
    256
}

fn one_mib() -> u64 {
    1
}

/// What of the machine must stay as it is.
#[derive(Debug, PartialEq)]
struct Host {
    processes: BTreeSet<u32>,
    mounts: String,
    cgroups: Vec<String>,
    descriptors: usize,
    files: usize,
}

impl Host {
    fn now() -> Self {
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let mut cgroups: Vec<String> = names("/sys/fs/cgroup").into_iter().collect();
        cgroups.push(std::fs::read_to_string("/proc/self/cgroup").expect("read"));
        // Programs run as nobody where the runner is root; what other tests leave there belongs to others.
        let of_nobody = |folder: &str| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == NOBODY)).count()
        };
        let files = ["/tmp", "/var/tmp", "/dev/shm", "/run"].into_iter().map(of_nobody).sum();
        Self {
            processes: descendants(),
            mounts: std::fs::read_to_string("/proc/self/mountinfo").expect("read"),
            cgroups,
            descriptors: names("/proc/self/fd").len(),
            files,
        }
    }
}

/// All processes that this one has started, and theirs.
fn descendants() -> BTreeSet<u32> {
    let mut parents = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("listed").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or_default());
    }
    let own = std::process::id();
    let is_ours = |mut pid: u32| {
        while let Some(&parent) = parents.get(&pid).filter(|&&parent| parent != 0) {
            if parent == own {
                return true;
            }
            pid = parent;
        }
        false
    };
    parents.keys().copied().filter(|&pid| is_ours(pid)).collect()
}

/// Processes that outlive their program, and their runner's sudden end: nothing of them is left.
#[test]
fn nothing_survives_a_runner_that_is_killed() {
    let lab = Lab::new();
    let problem = serde_json::json!({
        "problem_id": "a", "question": "Print x.", "solutions": [], "source": "here",
        "tests": { "style": "stdio", "cases": [{ "input": "", "output": "x" }] },
    });
    let program = "import os, signal, time\nfor number in range(1, 32):\n    try: signal.signal(number, signal.SIG_IGN)\n    \
                   except (OSError, ValueError): pass\nfor _ in range(4):\n    if os.fork() == 0: os.setsid()\ntime.sleep(1000)";
    lab.write("problems.jsonl", &problem.to_string());
    lab.write("samples.jsonl", &serde_json::json!({ "task_id": "a", "solution": program }).to_string());
    lab.write(
        "hostile.yaml",
        "name: hostile\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  \
         samples: { use: load, from: { problems: problems }, with: { path: samples.jsonl, format: samples } }\n  \
         verdicts: { use: execute, from: { programs: samples, problems: problems }, with: { cpu_limit_s: 100 } }\n",
    );
    let before = descendants();
    let mut command = lab.command(&["run", "hostile.yaml"]);
    let mut runner = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    // Runner, worker, zygotes, and sixteen processes of the program.
    let mut started = BTreeSet::new();
    while started.len() < 18 {
        assert!(runner.try_wait().expect("asked").is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
        started = descendants().difference(&before).copied().collect();
    }
    runner.kill().expect("it runs");
    runner.wait().expect("it ends");
    let is_alive = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    };
    for _ in 0..500 {
        started.retain(is_alive);
        if started.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("still alive: {started:?}");
}

/// Runs every program of a file, and an honest one after each.
fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(file);
    let entries: Vec<Suspect> = serde_yaml::from_str(&std::fs::read_to_string(path).expect("read")).expect("entries");
    assert!(entries.len() >= 20);
    let mut sandbox = Sandbox::open(Config::default()).expect("opens");
    let case = |(input, output): &(String, String)| Case {
        input: input.clone(),
        output: output.clone(),
        check: Check::Equal,
        tolerance: None,
    };
    let honest_tests =
        Tests { style: TestStyle::Stdio, cases: vec![case(&("7\n".into(), "49".into()))], code: None, setup: None };
    let honest = Program {
        source: "import os, sys\nn = int(input())\nprint(n * n if os.listdir('/tmp') == ['program.py'] and len(sys.argv) == 1 else 'troubled')",
        entry_point: None,
        tests: &honest_tests,
        output: OutputComparator::Lines,
        value: ValueComparator::PyEq,
        coverage: false,
    };
    let before = Host::now();
    let mut faults = Vec::new();
    for entry in &entries {
        let tests = Tests {
            style: entry.style,
            cases: entry.cases.iter().map(case).collect(),
            code: entry.code.clone(),
            setup: None,
        };
        let function = (entry.style != TestStyle::Stdio).then(|| entry.entry_point.as_deref().unwrap_or("f"));
        let program = Program { source: &entry.program, entry_point: function, tests: &tests, ..honest };
        // What is to pass has room to spare: a slow machine is not what this tests.
        let room = if entry.expect == ["passed"] { 3.0 } else { 1.0 };
        let limits = Limits {
            cpu_s: entry.cpu_s * room,
            memory_bytes: entry.memory_mib << 20,
            output_bytes: entry.output_mib << 20,
            ..Limits::default()
        };
        let judged = sandbox.run(&program, &limits);
        let is_right = judged.as_ref().is_ok_and(|judged| {
            entry.expect.iter().any(|expected| match expected.as_str() {
                "not-passed" => judged.verdict != Verdict::Passed,
                expected => judged.verdict.name() == expected,
            })
        });
        if !is_right {
            faults.push(format!("{}: expected {:?}, found {judged:?}", entry.name, entry.expect));
        }
        let next = sandbox.run(&honest, &Limits::default()).expect("judged");
        if next.verdict != Verdict::Passed {
            faults.push(format!("{}: the program after it: {next:?}", entry.name));
        }
        let after = Host::now();
        if after != before {
            faults.push(format!("{}: the machine was {before:?} and is {after:?}", entry.name));
            break;
        }
    }
    assert!(faults.is_empty(), "{} of {} entries:\n{}", faults.len(), entries.len(), faults.join("\n"));
}

#[test]
fn attacks_on_the_runner_come_to_nothing() {
    check("attacks.yaml");
}

#[test]
fn bombs_go_off_in_their_own_cell() {
    check("bombs.yaml");
}

#[test]
fn cheats_do_not_pass() {
    check("cheats.yaml");
}

#[test]
fn crashes_have_their_verdict() {
    check("crashes.yaml");
}

#[test]
fn honest_programs_pass() {
    check("honest.yaml");
}

#[test]
fn nothing_of_the_host_can_be_had() {
    check("host.yaml");
}

#[test]
fn odd_sources_are_what_python_takes_them_for() {
    check("sources.yaml");
}

#[test]
fn time_is_limited_however_it_is_spent() {
    check("time.yaml");
}
