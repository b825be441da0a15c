//! Programs as stages: what they can reach, what they are told, and that they end.

use crate::lab::{Lab, Ran};

/// A lab with a table of problems and a pipeline of one command over it.
struct Program {
    lab: Lab,
}

impl Program {
    fn new() -> Self {
        let lab = Lab::new();
        let problem = serde_json::json!({
            "problem_id": "a", "question": "Double it.", "solutions": [], "entry_point": "solve", "source": "test",
            "tests": { "style": "call", "cases": [{ "input": "(1,)", "output": "2", "check": "equal" }] },
        });
        lab.write("problems.jsonl", &format!("{problem}\n"));
        Self { lab }
    }

    /// Writes a pipeline whose command runs this script and then copies its input.
    fn write(&self, name: &str, script: &str, more: &str) {
        let script = serde_json::json!(format!("set -e\n{script}\ncp inputs/rows.parquet outputs/copy.parquet"));
        let text = format!(
            "name: {name}\nstages:\n  problems: {{ use: load, with: {{ path: problems.jsonl }} }}\n  copied:\n    \
             use: command\n    from: problems\n    with: {{ run: [bash, -c, {script}], {more} outputs: {{ copy: {{ problem_id: string }} }} }}\n"
        );
        self.lab.write(&format!("{name}.yaml"), &text);
    }

    fn run(&self, script: &str, more: &str) -> Ran {
        self.write("copy", script, more);
        self.lab.ablate(&["run", "copy.yaml"])
    }

    fn log(&self) -> String {
        self.lab.ablate(&["logs", "copy.yaml", "copied"]).stdout
    }
}

#[test]
fn a_file_that_is_not_declared_is_refused_and_the_message_says_to_declare_it() {
    let program = Program::new();
    program.lab.write("words.txt", "one\n");
    let whole = program.lab.path("words.txt").display().to_string();
    let read = |path: &str| format!("python3 -c 'print(open(\"{path}\").read())'");
    let refused = program.run(&read(&whole), "");
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("belongs in `files`"), "{}", refused.stderr);
    assert!(program.log().contains("PermissionError"), "{}", program.log());
    // Declaring it is not enough to read the original: what is in the key is the copy.
    assert_eq!(program.run(&read(&whole), "files: [words.txt],").code, 4);
    let declared = program.run(&read("words.txt"), "files: [words.txt],");
    assert_eq!(declared.code, 0, "{}\n{}", declared.stderr, program.log());
}

#[test]
fn an_output_that_is_no_file_of_its_folder_is_refused() {
    let program = Program::new();
    assert_eq!(program.run("true", "").code, 0);
    let elsewhere = program.lab.path("elsewhere.parquet").display().to_string();
    program.lab.write("elsewhere.parquet", "somebody's");
    for leave in [&format!("ln -s {elsewhere} $2"), "mkfifo $2", "mkdir $2"] {
        let ran = program.run(&format!("cp() {{ {leave}; }}"), "");
        assert_eq!(ran.code, 4, "{leave}: {}", ran.stderr);
        assert!(ran.stderr.contains("outputs/copy.parquet: expected a file in the program's folder"), "{}", ran.stderr);
    }
    // A link to what it made itself is as good as a file.
    let linked = program.run("cp() { command cp $1 made.parquet; ln -s ../made.parquet $2; }", "");
    assert_eq!(linked.code, 0, "{}", linked.stderr);
}

#[test]
fn the_system_is_there_and_the_folder_is_its_own() {
    let program = Program::new();
    let script = "
        cat /etc/passwd /proc/self/status /proc/cpuinfo > /dev/null
        head -c 8 /dev/urandom > random; rm random
        test \"$HOME\" = \"$PWD\"; mktemp > /dev/null; case \"$TMPDIR\" in \"$PWD\"/*) ;; *) exit 1 ;; esac
        mkdir -p deep/er; mv inputs deep/er; mv deep/er/inputs inputs
        python3 -c 'import json, multiprocessing; multiprocessing.Lock()'
        ! ls .. 2> /dev/null; ! ls /tmp 2> /dev/null; ! ls / 2> /dev/null
        ! touch ../beside 2> /dev/null; ! touch /tmp/beside 2> /dev/null; ! touch /dev/shm/../beside 2> /dev/null";
    let ran = program.run(script, "");
    assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, program.log());
}

#[test]
fn a_variable_that_is_not_declared_is_not_passed_on() {
    let program = Program::new();
    let run = |more: &str, script: &str| {
        program.write("copy", script, more);
        let output = program.lab.command(&["run", "copy.yaml"]).env("THRESHOLD", "3").env("LC_TIME", "C").output();
        let ran = crate::lab::ran(&output.expect("the command starts"));
        assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, program.log());
    };
    run("", "test -z \"$THRESHOLD\"; test \"$LC_TIME\" = C; test -n \"$PATH\"");
    run("env: { THRESHOLD: \"4\" },", "test \"$THRESHOLD\" = 4");
}

#[test]
fn the_folder_of_another_program_is_not_readable() {
    let program = Program::new();
    program.write("waits", "echo mine > secret; touch waiting; while [ -e waiting ]; do sleep 0.02; done", "");
    let mut other = program.lab.command(&["run", "waits.yaml"]).spawn().expect("it starts");
    let waiting = program.lab.left_in_scratch("waiting");
    let secret = waiting.with_file_name("secret");
    assert!(secret.exists());
    let ran = program.run(&format!("cat {}", secret.display()), "");
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(program.log().contains("Permission denied"), "{}", program.log());
    std::fs::remove_file(waiting).expect("the program made it");
    assert!(other.wait().expect("it was started").success());
}

#[test]
fn the_record_says_how_a_program_was_shut_in() {
    let program = Program::new();
    assert_eq!(program.run("true", "").code, 0);
    let actions = std::fs::read_dir(program.lab.path("cache/actions")).expect("records");
    let texts = actions.flatten().map(|entry| std::fs::read_to_string(entry.path()).expect("a record"));
    let records: Vec<serde_json::Value> = texts.map(|text| serde_json::from_str(&text).expect("JSON")).collect();
    let record = records.iter().map(|sealed| &sealed["record"]).find(|record| record["kind"] == "command");
    let record = record.expect("the command's record");
    assert_eq!(record["machine"]["libraries"]["isolation"], "landlock", "{record}");
}

#[test]
fn a_command_and_what_it_started_end_with_the_run() {
    for signal in ["-INT", "-KILL"] {
        let program = Program::new();
        program.write("waits", "setsid sleep 600 & (setsid sleep 600 &) ; touch waiting; sleep 600", "");
        let mut child = program.lab.command(&["run", "waits.yaml"]).spawn().expect("it starts");
        program.lab.left_in_scratch("waiting");
        let killed = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
        assert_ne!(child.wait().expect("it was started").code(), Some(0));
        if signal == "-KILL" {
            // Nobody is left to wait for: each ends as it hears of the death above it.
            program.lab.wait_until_left();
        }
        assert_eq!(program.lab.processes(), [""; 0], "after {signal}");
    }
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    let program = Program::new();
    let ran = program.run("(setsid sleep 600 &)", "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(program.lab.processes(), [""; 0]);
}
