//! Running, planning and showing, as a user does.

use crate::lab::{Lab, stages};

const PIPELINE: &str = r#"
name: small
vars: { longest: 600 }
stages:
  problems: { use: load, with: { path: problems.jsonl } }
  clean:    { use: filter, from: problems, with: { where: "solution|length < longest|default(600)" } }
  blocks:   { use: segment, from: clean, with: { kinds: [if, for] } }
  programs: { use: references, from: clean }
"#;

/// A lab with a pipeline over some generated problems, written out as JSON lines.
pub(crate) fn lab() -> Lab {
    let lab = Lab::new();
    lab.write(
        "make.yaml",
        "name: make\nstages: { made: { use: synthesize, with: { split: align, count: 60, seed: 5 } } }\n",
    );
    lab.run("make.yaml", &[]);
    lab.ok(&["export", "make.yaml", "made", "problems.jsonl"]);
    lab.write("small.yaml", &PIPELINE.replace("longest|default(600)", "600").replace("vars: { longest: 600 }\n", ""));
    lab
}

#[test]
fn a_second_run_does_nothing_and_prints_the_same_plan() {
    let lab = lab();
    let first = lab.run("small.yaml", &[]);
    assert_eq!(stages(&first, "stage_finished"), ["blocks", "clean", "problems", "programs"]);
    let second = lab.run("small.yaml", &[]);
    assert_eq!(stages(&second, "stage_started"), [""; 0]);
    assert_eq!(stages(&second, "stage_cached"), ["blocks", "clean", "problems", "programs"]);
    assert!(lab.ok(&["plan", "small.yaml"]).stdout.ends_with("0 of 4 stages to run\n"));
}

#[test]
fn a_changed_parameter_reruns_what_depends_on_it_and_the_plan_says_why() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let set = ["--set", "blocks.def_filter=none"];
    let plan = lab.ok(&["plan", "small.yaml", set[0], set[1]]).stdout;
    assert!(plan.contains(r#"def_filter "dunder" -> "none""#), "{plan}");
    assert!(plan.ends_with("1 of 4 stages to run\n"), "{plan}");
    assert_eq!(stages(&lab.run("small.yaml", &set), "stage_started"), ["blocks"]);
}

/// The times of verdicts are in no digest, so what takes all columns of them neither sees nor promises those.
#[test]
fn verdicts_can_be_filtered_and_picked_from_without_their_times() {
    let lab = lab();
    let stages = "problems: { use: load, with: { path: problems.jsonl } }\n  \
                  programs: { use: references, from: problems }\n  \
                  verdicts: { use: execute, from: { programs: programs, problems: problems } }\n  \
                  passed: { use: filter, from: verdicts, with: { where: \"verdict == 'passed'\" } }\n  \
                  some: { use: take, from: verdicts, with: { count: 2, id: sample_id } }\n";
    lab.write("judged.yaml", &format!("name: judged\nstages:\n  {stages}"));
    lab.run("judged.yaml", &["--limit", "3"]);
    let columns = |stage: &str| {
        let shown = lab.rows_with("judged.yaml", stage, &["--limit", "3"]);
        let row: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(shown.first().expect("there are rows")).expect("a row is an object");
        row.keys().cloned().collect::<Vec<_>>()
    };
    let (all, seen) = (columns("verdicts"), columns("passed"));
    let measured: Vec<&String> = all.iter().filter(|column| !seen.contains(column)).collect();
    assert_eq!(measured, ["cpu_s", "peak_memory_bytes", "wall_s"]);
    assert_eq!(columns("some"), seen);
    let refused = lab.ablate(&["check", "judged.yaml", "--set", "passed.where=wall_s > 0"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("wall_s"), "{}", refused.stderr);
}

#[test]
fn an_export_as_parquet_leaves_nothing_in_the_cache_and_is_loaded_again() {
    let lab = lab();
    let blobs = || {
        let mut folders = vec![lab.path("cache/objects")];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the cache is there") {
                let entry = entry.expect("it can be read");
                if entry.path().is_dir() { folders.push(entry.path()) } else { count += 1 }
            }
        }
        count
    };
    let before = blobs();
    lab.ok(&["export", "make.yaml", "made", "problems.parquet"]);
    assert!(before > 0);
    assert_eq!(blobs(), before);
    lab.write("again.yaml", "name: again\nstages: { problems: { use: load, with: { path: problems.parquet } } }\n");
    lab.run("again.yaml", &[]);
    assert_eq!(lab.rows("again.yaml", "problems"), lab.rows("make.yaml", "made"));
    let refused = lab.ablate(&["export", "make.yaml", "made", "nowhere/problems.parquet"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("nowhere: the folder does not exist"), "{}", refused.stderr);
}

#[test]
fn another_python_judges_again_and_the_plan_says_why() {
    let lab = lab();
    let stages = "problems: { use: load, with: { path: problems.jsonl } }\n  \
                  programs: { use: references, from: problems }\n  \
                  verdicts: { use: execute, from: { programs: programs, problems: problems } }\n";
    lab.write("judged.yaml", &format!("name: judged\nstages:\n  {stages}"));
    lab.run("judged.yaml", &["--limit", "3"]);
    // A Python that says that it is another.
    let path = std::env::var("PATH").expect("a search path");
    let script = format!("#!/bin/sh\nPATH='{path}' python3 \"$@\" | sed 's/cpython [0-9.]*/cpython 3.99.0/'\n");
    std::fs::create_dir(lab.path("bin")).expect("a folder of the lab");
    lab.write_program("bin/python3", &script);
    let path = format!("{}:{path}", lab.path("bin").display());
    let output = lab.command(&["plan", "judged.yaml", "--limit", "3"]).env("PATH", path).output();
    let plan = crate::lab::ran(&output.expect("the command starts")).stdout;
    let verdicts = plan.lines().find(|line| line.starts_with("verdicts")).unwrap_or(&plan);
    assert!(verdicts.contains("python cpython 3.") && verdicts.contains("-> cpython 3.99.0"), "{plan}");
    assert!(plan.ends_with("1 of 3 stages to run\n"), "{plan}");
}

#[test]
fn equal_rows_rerun_nothing_below() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let again = lab.run("small.yaml", &["--set", r#"clean.where="solution|length < 600 and true""#]);
    assert_eq!(stages(&again, "stage_finished"), ["clean"]);
    assert_eq!(stages(&again, "stage_cached"), ["blocks", "problems", "programs"]);
}

#[test]
fn a_shuffled_file_reruns_the_load_alone_and_an_edited_row_its_own_units() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    let text = std::fs::read_to_string(lab.path("problems.jsonl")).expect("exported above");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.reverse();
    lab.write("problems.jsonl", &lines.join("\n"));
    assert_eq!(stages(&lab.run("small.yaml", &[]), "stage_finished"), ["problems"]);

    let edited = lines[7].replacen("\"question\":\"", "\"question\":\"Please: ", 1);
    assert_ne!(edited, lines[7]);
    lines[7] = &edited;
    lab.write("problems.jsonl", &lines.join("\n"));
    let events = lab.run("small.yaml", &[]);
    let clean = events.iter().find(|e| e["event"] == "stage_finished" && e["stage"] == "clean").expect("it ran");
    assert_eq!(clean["units_run"], 1, "{clean}");
    // `segment` does not read the question: its rows stay as they are.
    assert_eq!(stages(&events, "stage_finished"), ["clean", "problems"]);
}

#[test]
fn every_mistake_is_told_at_once_and_nothing_runs() {
    let lab = lab();
    let broken = PIPELINE.replace("use: segment", "use: segmnt").replace("from: problems", "from: problms");
    lab.write("broken.yaml", &broken);
    let ran = lab.ablate(&["run", "broken.yaml"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    for words in ["segmnt", "did you mean `segment`", "problms", "did you mean `problems`", "longest"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn a_failing_stage_stops_what_depends_on_it_alone() {
    let lab = lab();
    let pipeline = format!(
        "{PIPELINE}  bad: {{ use: load, with: {{ path: bad.jsonl }} }}\n  below: {{ use: references, from: bad }}\n"
    );
    lab.write("bad.jsonl", "{\"problem_id\": \"a\"\n");
    lab.write("half.yaml", &pipeline.replace("longest|default(600)", "600").replace("vars: { longest: 600 }\n", ""));
    let ran = lab.ablate(&["run", "half.yaml", "--format", "json"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let events = crate::lab::events(&ran.stdout);
    assert_eq!(stages(&events, "stage_failed"), ["bad"]);
    assert_eq!(stages(&events, "stage_skipped"), ["below"]);
    assert_eq!(stages(&events, "stage_finished"), ["blocks", "clean", "problems", "programs"]);
    assert!(ran.stderr.contains("bad.jsonl"), "{}", ran.stderr);
    assert!(ran.stderr.contains("line 1"), "{}", ran.stderr);
}

#[test]
fn a_smoke_run_is_small_and_marked_and_never_taken_for_a_whole_one() {
    let lab = lab();
    let smoke = lab.run("small.yaml", &["--limit", "5"]);
    let problems = smoke.iter().find(|e| e["event"] == "stage_finished" && e["stage"] == "problems").expect("it ran");
    assert_eq!(problems["rows"], 5);
    assert!(lab.ok(&["plan", "small.yaml", "--limit", "5"]).stdout.starts_with("smoke run: --limit 5\n"));
    assert_eq!(stages(&lab.run("small.yaml", &[]), "stage_finished").len(), 4);
}

#[test]
fn without_the_worker_for_language_models_nothing_begins() {
    let lab = lab();
    let stages = "  papers: { use: documents, from: problems }\n  fresh: { use: new-model, from: papers }\n";
    lab.write("lm.yaml", &format!("{}{stages}", PIPELINE.replace("longest|default(600)", "600")));
    let output = lab.command(&["run", "lm.yaml", "--format", "json"]).env("ABLATE_LM", lab.path("none")).output();
    let ran = crate::lab::ran(&output.expect("the command starts"));
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("cargo build --release -p lm"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "", "nothing ran");
}

#[test]
fn the_runner_does_not_need_libtorch() {
    let binary = std::fs::read(env!("CARGO_BIN_EXE_ablate")).expect("the command is built");
    for library in ["libtorch.so", "libtorch_cpu.so", "libc10.so"] {
        let found = binary.windows(library.len()).any(|bytes| bytes == library.as_bytes());
        assert!(!found, "the runner names {library}");
    }
}

#[test]
fn what_is_exported_is_what_is_shown() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    lab.ok(&["export", "small.yaml", "blocks", "blocks.jsonl"]);
    let text = std::fs::read_to_string(lab.path("blocks.jsonl")).expect("exported");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, lab.rows("small.yaml", "blocks"));
    assert!(lines.len() > 100, "{}", lines.len());
    let refused = lab.ablate(&["export", "small.yaml", "blocks", "blocks.jsonl"]);
    assert_eq!(refused.code, 2, "an existing file is never written over: {}", refused.stderr);
}

#[test]
fn a_file_that_changes_under_a_stage_is_an_error_and_nothing_is_recorded() {
    let lab = lab();
    lab.write("extra.txt", "first");
    let copy = "[bash, -c, 'cat extra.txt > seen; touch waiting; while [ -e waiting ]; do sleep 0.02; done; cp inputs/rows.parquet outputs/copy.parquet']";
    lab.write(
        "copy.yaml",
        &format!(
            "name: copy\nstages:\n  problems: {{ use: load, with: {{ path: problems.jsonl }} }}\n  copied:\n    use: command\n    from: problems\n    with: {{ run: {copy}, files: [extra.txt], outputs: {{ copy: {{ problem_id: string }} }} }}\n"
        ),
    );
    let mut child = lab.command(&["run", "copy.yaml"]).stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let waiting = lab.left_in_scratch("waiting");
    lab.write("extra.txt", "second");
    std::fs::remove_file(&waiting).expect("the program made it");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut said).expect("text");
    assert_eq!(child.wait().expect("it was started").code(), Some(4), "{said}");
    assert!(said.contains("extra.txt: the file changed while it was read"), "{said}");
    lab.write("extra.txt", "first");
    let plan = lab.ok(&["plan", "copy.yaml"]).stdout;
    assert!(plan.ends_with("1 of 2 stages to run\n"), "{plan}");
}

#[test]
fn a_cached_run_is_the_last_run_too() {
    let lab = lab();
    lab.run("small.yaml", &[]);
    lab.run("small.yaml", &["--set", "blocks.kinds=[if]"]);
    let again = lab.run("small.yaml", &[]);
    assert!(stages(&again, "stage_started").is_empty());
    let plan = lab.ok(&["plan", "small.yaml", "--set", "blocks.kinds=[while]"]).stdout;
    assert!(plan.contains(r#"kinds ["if","for"] -> ["while"]"#), "{plan}");
}

#[test]
fn a_worker_that_speaks_another_language_ends_the_stage_at_once() {
    let lab = lab();
    let worker = lab.path("worker");
    std::fs::write(
        &worker,
        "#!/bin/sh\nprintf '\\020\\000\\000\\000\\000\\000\\000\\000no frame of yours'\nsleep 600\n",
    )
    .expect("a script");
    std::fs::set_permissions(&worker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    lab.write(
        "lm.yaml",
        "name: lm\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  base: { use: model, with: { path: ../examples/models/tiny } }\n  answers: { use: generate, from: { problems: problems, model: base } }\n",
    );
    let output = lab.command(&["run", "lm.yaml"]).env("ABLATE_LM", &worker).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("its worker speaks another language"), "{said}");
}

#[test]
fn without_python_what_does_not_need_it_is_planned_shown_and_run() {
    let lab = lab();
    lab.write(
        "judge.yaml",
        "name: judge\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  programs: { use: references, from: problems }\n  verdicts: { use: execute, from: { programs: programs, problems: problems } }\n",
    );
    let without = |arguments: &[&str]| {
        crate::lab::ran(&lab.command(arguments).env("PATH", lab.path("")).output().expect("it starts"))
    };
    let checked = without(&["check", "judge.yaml"]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(checked.stdout.contains("1 thing is missing on this machine"), "{}", checked.stdout);
    assert!(checked.stderr.contains("kind `execute`"), "{}", checked.stderr);
    assert_eq!(without(&["run", "judge.yaml", "programs"]).code, 0);
    assert_eq!(without(&["show", "judge.yaml", "problems"]).code, 0);
    let ran = without(&["run", "judge.yaml"]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
}

#[test]
fn a_metric_that_will_not_be_measured_is_a_mistake_before_anything_runs() {
    let lab = lab();
    lab.write(
        "metric.yaml",
        "name: metric\nstages:\n  problems: { use: load, with: { path: problems.jsonl } }\n  programs: { use: references, from: problems }\n  verdicts: { use: execute, from: { programs: programs, problems: problems } }\n  scores: { use: score, from: verdicts }\ncompare: { metric: scores.pass@10, baseline: scores.share:pased }\n",
    );
    let checked = lab.ablate(&["check", "metric.yaml"]);
    assert_eq!(checked.code, 3, "{}", checked.stderr);
    assert!(checked.stderr.contains("unknown metric `pass@10` of stage `scores`"), "{}", checked.stderr);
    assert!(checked.stderr.contains("did you mean `share:passed`?"), "{}", checked.stderr);
    let wider = lab.ablate(&["check", "metric.yaml", "--set", "scores.k=[1,10]"]);
    assert!(!wider.stderr.contains("unknown metric `pass@10`"), "{}", wider.stderr);
}

#[test]
fn a_misspelt_stage_is_a_mistake_of_the_command_line_everywhere() {
    let lab = lab();
    for command in ["run", "show", "logs"] {
        let ran = lab.ablate(&[command, "small.yaml", "blockz"]);
        assert_eq!(ran.code, 2, "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains("no stage `blockz` (did you mean `blocks`?)"), "{command}: {}", ran.stderr);
    }
}

const STUDY: &str = r"
name: study
vars: { samples_seed: 5 }
stages:
  problems: { use: load, with: { path: problems.jsonl } }
  blocks:   { use: segment, from: problems, with: { kinds: [if, for] } }
  some:     { use: take, from: problems, with: { count: 20, seed: '${samples_seed}' } }
  programs: { use: references, from: some }
  verdicts: { use: execute, from: { programs: programs, problems: problems } }
  scores:   { use: score, from: { verdicts: verdicts } }
compare: { metric: scores.pass@1 }
seeds: { samples_seed: [5, 6] }
variants:
  loops: { blocks.kinds: [for] }
  ten: { some.count: 10 }
  none: { blocks: null }
";

#[test]
fn variants_and_seeds_are_one_graph_and_what_they_agree_on_is_done_once() {
    let lab = lab();
    lab.write("study.yaml", STUDY);
    let as_written = lab.run("study.yaml", &[]);
    let done = stages(&as_written, "stage_finished");
    assert_eq!(done.len(), 2 + 4 * 2, "{done:?}");
    assert!(
        done.iter().any(|name| name == "blocks") && done.iter().any(|name| name == "some@samples_seed=6"),
        "{done:?}"
    );

    // `none` lacks a stage and has no other; `loops` cuts other blocks, once for both seeds.
    let all = lab.run("study.yaml", &["--all"]);
    let done = stages(&all, "stage_finished");
    assert_eq!(done.len(), 1 + 4 * 2, "{done:?}");
    assert!(
        done.iter().any(|name| name == "blocks@loops") && done.iter().any(|name| name == "scores@ten,samples_seed=6"),
        "{done:?}"
    );
    assert_eq!(stages(&lab.run("study.yaml", &["--all"]), "stage_finished"), [""; 0]);
    assert!(lab.ok(&["plan", "study.yaml", "--all"]).stdout.ends_with("0 of 19 stages to run\n"));

    let shown = lab.ok(&["show", "study.yaml", "some", "--variant", "ten", "--set", "samples_seed=6", "--rows", "99"]);
    assert!(shown.stderr.contains("10 of 10 rows"), "{}", shown.stderr);
    let ambiguous = lab.ablate(&["show", "study.yaml", "some"]);
    assert_eq!(ambiguous.code, 2);
    assert!(ambiguous.stderr.contains("some@samples_seed=5  some@samples_seed=6"), "{}", ambiguous.stderr);
    lab.ok(&["show", "study.yaml", "some@samples_seed=6"]);
    assert!(lab.path("cache/runs/latest/some@ten,samples_seed=5").exists());
}

#[test]
fn variants_are_compared_over_their_seeds() {
    let lab = lab();
    lab.write("study.yaml", STUDY);
    lab.run("study.yaml", &[]);
    let part = lab.ok(&["compare", "study.yaml"]).stdout;
    assert!(part.contains("Not run yet: scores@ten,samples_seed=5"), "{part}");
    lab.run("study.yaml", &["--all"]);
    let table: serde_json::Value =
        serde_json::from_str(&lab.ok(&["compare", "study.yaml", "--format", "json"]).stdout).expect("JSON");
    assert_eq!(table["baseline"], "variant `default`");
    let rows = table["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["variant"].as_str()).collect();
    assert_eq!(names, ["default", "loops", "ten", "none"]);
    assert_eq!(rows[0]["spread"], serde_json::json!([0.0, 2]), "every reference passes: {table}");
    assert_eq!(rows[2]["against"]["difference"], 0.0);
    assert!(rows[0]["against"].is_null());

    // One variant is still held against what the file names, and a run of one stage is of that stage in all cases.
    let one = lab.ok(&["compare", "study.yaml", "--variant", "ten", "--format", "json"]).stdout;
    let one: serde_json::Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!(one["baseline"], serde_json::Value::Null, "no baseline is named");
    lab.write("study.yaml", &STUDY.replace("scores.pass@1 }", "scores.pass@1, baseline: none }"));
    let one = lab.ok(&["compare", "study.yaml", "--variant", "ten", "--format", "json"]).stdout;
    let one: serde_json::Value = serde_json::from_str(&one).expect("JSON");
    let names: Vec<&str> = one["rows"].as_array().expect("rows").iter().filter_map(|r| r["variant"].as_str()).collect();
    assert_eq!((names, &one["baseline"]), (vec!["none", "ten"], &serde_json::json!("variant `none`")));
}

#[test]
fn a_stage_that_is_asked_for_is_meant_in_every_case() {
    let lab = lab();
    lab.write("study.yaml", STUDY);
    let done = stages(&lab.run("study.yaml", &["blocks", "--all"]), "stage_finished");
    assert_eq!(done, ["blocks", "blocks@loops", "problems"]);
    let audited = lab.ok(&["audit", "study.yaml", "blocks", "--all"]);
    assert!(!audited.stderr.contains("blocks@loops"), "{}", audited.stderr);
}

#[test]
fn metrics_are_held_against_those_of_the_same_name_and_what_lacks_one_is_told() {
    let lab = lab();
    let text = STUDY
        .replace(
            "compare: { metric: scores.pass@1 }",
            "compare: { metric: [scores.pass@1, 'scores.share:passed'], baseline: others.pass@1 }",
        )
        .replace(
            "  verdicts:",
            "  others: { use: score, from: { verdicts: verdicts }, with: { k: [1] } }\n  verdicts:",
        );
    lab.write("study.yaml", &text);
    lab.run("study.yaml", &["--set", "samples_seed=5"]);
    let table =
        lab.ok(&["compare", "study.yaml", "--variant", "default", "--set", "samples_seed=5", "--format", "json"]);
    let table: serde_json::Value = serde_json::from_str(&table.stdout).expect("JSON");
    let row =
        |row: &serde_json::Value| format!("{}.{}", row["stage"].as_str().unwrap(), row["metric"].as_str().unwrap());
    let rows: Vec<String> = table["rows"].as_array().expect("rows").iter().map(row).collect();
    assert_eq!(rows, ["others.pass@1", "scores.pass@1", "others.share:passed", "scores.share:passed"]);
    // Of no problems nothing is measured: the others are compared all the same.
    let nobody = "  nobody: { some: { use: filter, from: problems, with: { where: 'problem_id == \"\"' } } }\n";
    lab.write("study.yaml", &format!("{STUDY}{nobody}"));
    lab.run("study.yaml", &["--variant", "nobody", "--variant", "default"]);
    let table = lab.ok(&["compare", "study.yaml", "--variant", "nobody", "--variant", "default"]).stdout;
    assert!(table.contains("Not compared: `scores@nobody") && table.contains("has no metric `pass@1`"), "{table}");
    assert!(table.contains("100.0 ± 0.0 (2)"), "{table}");
}
