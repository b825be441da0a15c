//! A folder with pipelines and a cache of its own, and the command `ablate` in it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The folder.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::at(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A lab in memory where there is room for one: for tests that write much and ask nothing of the disk.
    pub(crate) fn in_memory() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::at(folder.expect("a temporary folder"))
    }

    fn at(folder: tempfile::TempDir) -> Self {
        std::fs::create_dir(folder.path().join("pipelines")).expect("a folder in it");
        // Where the examples of kinds look for files: beside the folder of pipelines.
        std::os::unix::fs::symlink(repository().join("examples"), folder.path().join("examples"))
            .expect("a link in it");
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("pipelines").join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("writing into the lab");
    }

    /// As [`Lab::write`], of a program that can be run.
    pub(crate) fn write_program(&self, name: &str, text: &str) {
        self.write(name, text);
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).expect("our own file");
    }

    /// The command with these arguments; its cache is in the lab.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ablate"));
        command.args(arguments).current_dir(self.path("")).env("ABLATE_CACHE", self.path("cache"));
        command
    }

    pub(crate) fn ablate(&self, arguments: &[&str]) -> Ran {
        ran(&self.command(arguments).output().expect("the command starts"))
    }

    /// As [`Lab::ablate`], of a command that has to end well.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Ran {
        let ran = self.ablate(arguments);
        assert_eq!(ran.code, 0, "ablate {arguments:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    /// Runs a pipeline; the events of the run.
    pub(crate) fn run(&self, pipeline: &str, more: &[&str]) -> Vec<serde_json::Value> {
        let arguments: Vec<&str> = ["run", pipeline, "--format", "json"].iter().chain(more).copied().collect();
        events(&self.ok(&arguments).stdout)
    }

    /// A table as sorted JSON lines: what it means, whatever the order of its rows.
    pub(crate) fn rows(&self, pipeline: &str, stage: &str) -> Vec<String> {
        self.rows_with(pipeline, stage, &[])
    }

    /// As [`Lab::rows`], with more arguments.
    pub(crate) fn rows_with(&self, pipeline: &str, stage: &str, more: &[&str]) -> Vec<String> {
        let arguments = [&["show", pipeline, stage, "--rows", "1000000", "--format", "json"], more].concat();
        let shown = self.ok(&arguments);
        let mut rows: Vec<String> = shown.stdout.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    }
}

impl Lab {
    /// Waits until a program of a running stage has made a file of this name in its folder; not longer than a minute.
    pub(crate) fn left_in_scratch(&self, name: &str) -> PathBuf {
        let folders = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        for _ in 0..6000 {
            let found = folders(self.path("cache/tmp")).flat_map(folders).map(|folder| folder.join(name));
            if let Some(found) = found.into_iter().find(|path| path.exists()) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no program made {name}");
    }

    /// The processes that stand in the lab, by number and command line; dead ones stand nowhere.
    pub(crate) fn processes(&self) -> Vec<String> {
        let folder = self.folder.path().canonicalize().expect("it is there");
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let path = process.path();
            if std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder)) {
                let line = std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
                found.push(format!("{}: {}", process.file_name().display(), line.replace('\0', " ")));
            }
        }
        found
    }

    /// Waits until no process stands in the lab any more; those that still do after a minute are an error.
    pub(crate) fn wait_until_left(&self) {
        for _ in 0..6000 {
            if self.processes().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running: {:#?}", self.processes());
    }
}

pub(crate) fn ran(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Says what a test leaves out; past the test harness, which keeps to itself what tests that pass print.
pub(crate) fn skipped(what: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

pub(crate) fn events(stdout: &str) -> Vec<serde_json::Value> {
    stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The stages of these events, sorted.
pub(crate) fn stages(events: &[serde_json::Value], event: &str) -> Vec<String> {
    let of = events.iter().filter(|e| e["event"] == event);
    let mut stages: Vec<String> = of.filter_map(|e| e["stage"].as_str().map(str::to_owned)).collect();
    stages.sort();
    stages
}

/// The folder of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
