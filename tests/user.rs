//! The command as an ordinary user runs it: without root's rights, and with nothing of root's within reach.

use crate::lab::{Lab, Ran, ran, skipped};
use nix::unistd::geteuid;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A user and group without a name. Not `nobody`, whose files the tests of the sandbox count.
const SOMEBODY: u32 = 54_321;

/// A lab that belongs to an ordinary user: to one without a name where the tests run as root, else to whoever runs them.
struct Ordinary {
    lab: Lab,
}

impl Ordinary {
    fn new() -> Self {
        let lab = Lab::new();
        if geteuid().is_root() {
            // A copy of the command, since the folder in which it was built may be closed to others.
            std::fs::copy(env!("CARGO_BIN_EXE_ablate"), lab.path("ablate")).expect("a copy in the lab");
            let pipelines = lab.path("");
            for folder in [pipelines.as_path(), pipelines.parent().expect("the lab's own folder")] {
                chown(folder, Some(SOMEBODY), Some(SOMEBODY)).expect("root gives folders away");
            }
        }
        Self { lab }
    }

    fn ablate(&self, arguments: &[&str]) -> Ran {
        let mut command = if geteuid().is_root() {
            let mut command = Command::new(self.lab.path("ablate"));
            command
                .args(arguments)
                .current_dir(self.lab.path(""))
                .env_clear()
                .env("ABLATE_CACHE", self.lab.path("cache"))
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .uid(SOMEBODY)
                .gid(SOMEBODY);
            command
        } else {
            self.lab.command(arguments)
        };
        ran(&command.output().expect("the command starts"))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.ablate(arguments);
        assert_eq!(ran.code, 0, "ablate {arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// What the doctor says of one thing: the state, and what was found.
    fn examined(&self, what: &str) -> (String, String) {
        let findings: serde_json::Value =
            serde_json::from_str(&self.ok(&["doctor", "--format", "json"])).expect("findings are JSON");
        let finding = findings.as_array().into_iter().flatten().find(|finding| finding["what"] == what);
        let word = |key: &str| finding.and_then(|finding| finding[key].as_str()).unwrap_or_default().to_owned();
        (word("state"), word("found"))
    }
}

/// Reads a file of the host's and says whether it could; the test expects that it could not.
const NOSY: &str = "import os\n\
def solve(path):\n    \
    try:\n        \
        return bool(open(path).read())\n    \
    except OSError:\n        \
        return False\n";

#[test]
fn programs_are_shut_in_and_judged() {
    let user = Ordinary::new();
    let (state, found) = user.examined("python");
    if state == "missing" {
        skipped(&format!("no Python for ordinary users: {found}"));
        return;
    }
    let (state, found) = user.examined("isolation");
    assert_ne!(state, "missing", "{found}");
    let peek = serde_json::json!({
        "problem_id": "peek", "question": "Read it.", "solutions": [NOSY], "entry_point": "solve", "source": "test",
        "tests": { "style": "call", "cases": [{ "input": "('/etc/passwd',)", "output": "False", "check": "equal" }] },
    });
    user.lab.write("peek.jsonl", &format!("{peek}\n"));
    user.lab.write(
        "judged.yaml",
        "name: judged
stages:
  made:  { use: synthesize, with: { split: align, count: 20, seed: 3 } }
  clean: { use: filter, from: made, with: { parses: true, golden: must-pass } }
  peek:  { use: load, with: { path: peek.jsonl } }
  nosy:  { use: references, from: peek }
  shut:  { use: execute, from: { programs: nosy, problems: peek } }
",
    );
    user.ok(&["run", "judged.yaml"]);
    let rows = |stage| user.ok(&["show", "judged.yaml", stage, "--rows", "100", "--format", "json"]);
    assert_eq!(rows("clean").lines().count(), 20, "every reference solution passes");
    assert!(rows("shut").contains(r#""verdict":"passed""#), "the file was read: {}", rows("shut"));
}

#[test]
fn a_cache_of_somebody_else_is_refused_with_what_to_do() {
    let user = Ordinary::new();
    let cache = user.lab.path("cache");
    std::fs::create_dir(&cache).expect("a folder of the lab");
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o555)).expect("our own folder");
    user.lab.write(
        "small.yaml",
        "name: small\nstages: { made: { use: synthesize, with: { split: align, count: 5, seed: 3 } } }\n",
    );
    let ran = user.ablate(&["run", "small.yaml"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    for words in ["no permission", "ask the owner of the cache", "ABLATE_CACHE", &cache.display().to_string()] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert_eq!(std::fs::read_dir(&cache).expect("it is still there").count(), 0);
    assert_eq!(user.ablate(&["doctor"]).code, 5, "no pipeline runs here");
}

#[test]
fn a_command_is_kept_to_what_it_declared_and_ends_whole() {
    let user = Ordinary::new();
    user.lab.write("words.txt", "one\n");
    let script = "! cat $OTHER 2> /dev/null; cat words.txt /etc/passwd > /dev/null; (setsid sleep 600 &) ; cp inputs/rows.parquet outputs/copy.parquet";
    let run = serde_json::json!(["bash", "-ec", script]);
    let env = serde_json::json!({ "OTHER": user.lab.path("words.txt") });
    user.lab.write(
        "copy.yaml",
        &format!(
            "name: copy\nstages:\n  made: {{ use: synthesize, with: {{ split: align, count: 5, seed: 3 }} }}\n  copied:\n    use: command\n    from: made\n    with: {{ run: {run}, env: {env}, files: [words.txt], outputs: {{ copy: {{ problem_id: string }} }} }}\n"
        ),
    );
    user.ok(&["run", "copy.yaml"]);
    assert_eq!(user.lab.processes(), [""; 0]);
}
