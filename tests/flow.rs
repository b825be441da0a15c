//! How work flows: stages that overlap, that share units, that wait for another run, that lose a worker, that fail in part.

use crate::lab::{Lab, events, ran, stages};
use crate::run::lab;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

/// An expression that is true, and takes a while to find that out.
const SLOWLY: &str = "range(100000)|map('string')|join|length > 3";

/// Rewrites the lab's problems: each line as JSON, with its number.
fn rewrite(lab: &Lab, change: impl Fn(usize, &mut Value)) {
    let text = std::fs::read_to_string(lab.path("problems.jsonl")).expect("exported by the lab");
    let lines = text.lines().enumerate().map(|(number, line)| {
        let mut problem = serde_json::from_str(line).expect("JSON lines");
        change(number, &mut problem);
        format!("{problem}\n")
    });
    lab.write("problems.jsonl", &lines.collect::<String>());
}

fn place(events: &[Value], event: &str, stage: &str) -> usize {
    let found = events.iter().position(|e| e["event"] == event && e["stage"] == stage);
    found.unwrap_or_else(|| panic!("no {event} of {stage} in {events:#?}"))
}

fn units_run(events: &[Value], stage: &str) -> u64 {
    events[place(events, "stage_finished", stage)]["units_run"].as_u64().expect("a number")
}

#[test]
fn a_stage_works_ahead_on_what_the_one_above_has_committed() {
    let lab = lab();
    // The first batch of 32 is committed while the others wait; the third token is for who goes ahead.
    lab.write(
        "ahead.yaml",
        &format!(
            "name: ahead\nstages:\n  problems: {{ use: load, with: {{ path: problems.jsonl }} }}\n  \
             slow: {{ use: filter, from: problems, with: {{ where: \"{SLOWLY}\" }}, resources: {{ cpus: 2 }} }}\n  \
             programs: {{ use: references, from: slow }}\n"
        ),
    );
    let events = lab.run("ahead.yaml", &["--jobs", "3"]);
    let ended = events.iter().position(|e| e["event"] == "stage_ahead" && e["worker"] == "ends" && e["units"] != 0);
    let ended = ended.unwrap_or_else(|| panic!("nobody went ahead: {events:#?}"));
    assert_eq!(events[ended]["stage"], "programs");
    assert!(ended < place(&events, "stage_finished", "slow"), "{events:#?}");
    let started = &events[place(&events, "stage_started", "programs")];
    assert!(started["reused"].as_u64() >= Some(32), "{started}");
    assert_eq!(units_run(&events, "programs"), 60, "each unit once, ahead or not");
    assert!(events.iter().all(|e| e["at_s"].is_number()), "{events:#?}");
    let straight = crate::run::lab();
    std::fs::copy(lab.path("ahead.yaml"), straight.path("ahead.yaml")).expect("a file of the lab");
    straight.run("ahead.yaml", &["--jobs", "1"]);
    assert_eq!(straight.rows("ahead.yaml", "programs"), lab.rows("ahead.yaml", "programs"));
}

#[test]
fn stages_that_share_units_do_each_once() {
    let lab = lab();
    rewrite(&lab, |number, problem| problem["difficulty"] = (number % 10).to_string().into());
    lab.write(
        "shared.yaml",
        &format!(
            "name: shared\nstages:\n  problems: {{ use: load, with: {{ path: problems.jsonl }} }}\n  \
             low: {{ use: filter, from: problems, with: {{ where: \"difficulty|int < 7\" }} }}\n  \
             high: {{ use: filter, from: problems, with: {{ where: \"difficulty|int >= 3\" }} }}\n  \
             lows: {{ use: filter, from: low, with: {{ where: \"{SLOWLY}\" }} }}\n  \
             highs: {{ use: filter, from: high, with: {{ where: \"{SLOWLY}\" }} }}\n"
        ),
    );
    let events = lab.run("shared.yaml", &["--jobs", "4"]);
    let rows = |stage: &str| events[place(&events, "stage_finished", stage)]["rows"].as_u64().expect("a number");
    assert_eq!((rows("lows"), rows("highs")), (42, 42));
    assert_eq!(units_run(&events, "lows") + units_run(&events, "highs"), 60, "{events:#?}");
}

#[test]
fn units_that_fail_are_put_aside_and_only_they_are_done_again() {
    let lab = lab();
    rewrite(&lab, |number, problem| problem["difficulty"] = if number % 10 == 0 { "hard" } else { "3" }.into());
    lab.write(
        "letters.yaml",
        "name: letters\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  \
         easy: { use: filter, from: problems, with: { where: \"difficulty|int < 5\" } }\n  \
         programs: { use: references, from: easy }\n",
    );
    let failed = lab.ablate(&["run", "letters.yaml", "--format", "json"]);
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    let link = std::fs::canonicalize(lab.path("cache/runs/latest")).expect("a run").join("easy.failed");
    assert!(failed.stderr.contains("6 of 60 units failed"), "{}", failed.stderr);
    assert!(failed.stderr.contains(&link.display().to_string()), "{} in {}", link.display(), failed.stderr);
    assert!(link.join("part-00000.parquet").is_file());
    let summary = std::fs::read_to_string(lab.path("cache/runs/latest/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["failed"]["easy"]["table"]["rows"], 6);
    assert_eq!(stages(&events(&failed.stdout), "stage_skipped"), ["programs"]);

    let again = lab.ablate(&["run", "letters.yaml", "--format", "json"]);
    let started = events(&again.stdout);
    let easy = &started[place(&started, "stage_started", "easy")];
    assert_eq!((&easy["units"], &easy["reused"]), (&60.into(), &54.into()));
    rewrite(&lab, |_, problem| problem["difficulty"] = "3".into());
    let mended = lab.run("letters.yaml", &[]);
    assert_eq!(units_run(&mended, "easy"), 6);
}

/// A run that goes on, whose events are read one by one.
struct Going {
    child: Child,
    lines: BufReader<ChildStdout>,
    seen: Vec<Value>,
}

impl Going {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads on until this happens to the stage.
    fn until(&mut self, event: &str, stage: &str) -> &Value {
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).expect("a pipe");
            assert!(count > 0, "no {event} of {stage} in {:#?}", self.seen);
            self.seen.extend(events(&line));
            if self.seen.last().is_some_and(|seen| seen["event"] == event && seen["stage"] == stage) {
                return self.seen.last().expect("it was just seen");
            }
        }
    }

    /// Reads to the end of a run that ends well.
    fn finish(mut self) -> Vec<Value> {
        let (mut rest, mut said) = (String::new(), String::new());
        self.lines.read_to_string(&mut rest).expect("a pipe");
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("a pipe");
        assert!(self.child.wait().expect("it was started").success(), "{said}");
        self.seen.extend(events(&rest));
        self.seen
    }
}

/// A pipeline whose stage `copied` makes the file `waiting` in its folder and waits until that is gone; with more stages.
fn waiting_pipeline(more: &str) -> String {
    let wait = "touch waiting; while [ -e waiting ]; do sleep 0.02; done; cp inputs/rows.parquet outputs/copy.parquet";
    format!(
        "name: waits\nstages:\n  problems: {{ use: load, with: {{ path: problems.jsonl }} }}\n  copied:\n    \
         use: command\n    from: problems\n    with: {{ run: [bash, -c, '{wait}'], outputs: {{ copy: {{ problem_id: string }} }} }}\n{more}"
    )
}

#[test]
fn a_run_waits_for_what_another_does_and_lets_other_stages_run_meanwhile() {
    let lab = lab();
    lab.write("waits.yaml", &waiting_pipeline(""));
    lab.write("waits-too.yaml", &waiting_pipeline("  programs: { use: references, from: problems }\n"));
    let first = Going::start(lab.command(&["run", "waits.yaml", "--format", "json"]));
    let waiting = lab.left_in_scratch("waiting");
    let mut second = Going::start(lab.command(&["run", "waits-too.yaml", "--jobs", "1", "--format", "json"]));
    let holder = second.until("stage_waiting", "copied")["holder"].clone();
    assert!(holder.as_str().is_some_and(|holder| holder.contains(&first.child.id().to_string())), "{holder}");
    // Its only token is free for this one.
    if place_of(&second.seen, "stage_finished", "programs").is_none() {
        second.until("stage_finished", "programs");
    }
    std::fs::remove_file(waiting).expect("the program made it");
    assert_eq!(stages(&first.finish(), "stage_finished"), ["copied", "problems"]);
    let second = second.finish();
    assert_eq!(stages(&second, "stage_finished"), ["programs"]);
    assert_eq!(stages(&second, "stage_cached"), ["copied", "problems"]);
}

fn place_of(events: &[Value], event: &str, stage: &str) -> Option<usize> {
    events.iter().position(|e| e["event"] == event && e["stage"] == stage)
}

#[test]
fn a_run_takes_over_from_one_that_is_killed() {
    let lab = lab();
    lab.write("waits.yaml", &waiting_pipeline(""));
    let mut first = Going::start(lab.command(&["run", "waits.yaml", "--format", "json"]));
    let waiting = lab.left_in_scratch("waiting");
    let mut second = Going::start(lab.command(&["run", "waits.yaml", "--format", "json"]));
    second.until("stage_waiting", "copied");
    first.child.kill().expect("it runs");
    first.child.wait().expect("it was started");
    // What the dead run left may be swept at any time; what stands after this is the other's.
    std::fs::remove_file(waiting).ok();
    second.until("stage_started", "copied");
    std::fs::remove_file(lab.left_in_scratch("waiting")).expect("the program made it");
    let second = second.finish();
    assert_eq!(stages(&second, "stage_finished"), ["copied"]);
    assert_eq!(lab.rows("waits.yaml", "copied").len(), 60);
}

/// The workers that a process has started.
fn workers_of(pid: u32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("a list of processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_worker = |child: &i32| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{child}/{file}")).unwrap_or_default();
        let parent =
            read("stat").rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parent == Some(pid) && read("cmdline").contains("worker")
    };
    pids.filter(is_worker).collect()
}

#[test]
fn a_worker_that_is_killed_costs_nothing_but_what_it_had() {
    const COLUMNS: [&str; 8] = [
        "--rows",
        "1000",
        "--columns",
        "sample_id,problem_id,verdict,tests_passed",
        "--format",
        "json",
        "show",
        "judged.yaml",
    ];
    let judged = "name: judged\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  \
                  programs: { use: references, from: problems }\n  \
                  verdicts: { use: execute, from: { programs: programs, problems: problems } }\n";
    let verdicts = |lab: &Lab| {
        let shown = lab.ok(&[&COLUMNS[6..], &["verdicts"], &COLUMNS[..6]].concat());
        let mut rows: Vec<String> = shown.stdout.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    // Programs that take a while, so that the second batch is out when the first is done.
    let slow = |lab: &Lab| {
        rewrite(lab, |_, problem| {
            let solution = problem["solutions"][0].as_str().expect("a solution").to_owned();
            problem["solutions"][0] = format!("import time\ntime.sleep(0.05)\n{solution}").into();
        });
        lab.write("judged.yaml", judged);
    };
    let undisturbed = lab();
    slow(&undisturbed);
    undisturbed.run("judged.yaml", &[]);

    let lab = lab();
    slow(&lab);
    let mut run = Going::start(lab.command(&["run", "judged.yaml", "--jobs", "1", "--format", "json"]));
    run.until("stage_progress", "verdicts");
    let workers = workers_of(run.child.id());
    assert_eq!(workers.len(), 1, "{workers:?}");
    let killed = Command::new("kill").args(["-KILL", &workers[0].to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let events = run.finish();
    let died = &events[place(&events, "worker_died", "verdicts")];
    assert_eq!(died["how"], "was killed by signal 9 (out of memory?)");
    assert_eq!(units_run(&events, "verdicts"), 60);
    assert_eq!(verdicts(&lab), verdicts(&undisturbed));
}

#[test]
fn a_worker_that_dies_at_its_start_is_a_failure_of_the_stage() {
    let lab = lab();
    lab.write_program("worker", "#!/bin/sh\nexit 3\n");
    lab.write(
        "lm.yaml",
        "name: lm\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  base: { use: model, with: { path: ../examples/models/tiny } }\n  answers: { use: generate, from: { problems: problems, model: base } }\n",
    );
    let output = lab.command(&["run", "lm.yaml"]).env("ABLATE_LM", lab.path("worker")).output();
    let ran = ran(&output.expect("the command starts"));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("its worker ended early with exit status: 3"), "{}", ran.stderr);
}
