//! Caches on disks that are full or read-only: small file systems in memory, mounted where this process alone sees them.

use crate::lab::{Lab, Ran, ran, skipped};
use crate::run::lab;
use nix::unistd::geteuid;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sizes at which a run of `small.yaml` ends at its beginning, somewhere in the middle, and near its end.
const SIZES: [&str; 7] = ["8k", "16k", "32k", "64k", "96k", "128k", "192k"];

const STAGES: [&str; 4] = ["problems", "clean", "blocks", "programs"];

/// Runs a shell script in the lab's folder, with mounts of its own. `$0` is the command `ablate`.
fn with_own_mounts(lab: &Lab, script: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["sh", "-ec", script, env!("CARGO_BIN_EXE_ablate")]).args(arguments);
    command.current_dir(lab.path("")).env("ABLATE_CACHE", lab.path("cache"));
    command
        .output()
        .as_ref()
        .map_or_else(|error| Ran { code: -1, stdout: String::new(), stderr: error.to_string() }, ran)
}

/// Whether this machine lets the tests mount; says so where it does not.
fn can_mount(lab: &Lab) -> bool {
    let tried = with_own_mounts(lab, "mount -t tmpfs tmpfs .", &[]);
    if tried.code != 0 {
        skipped(&format!("no file systems can be mounted here: {}", tried.stderr.trim()));
    }
    tried.code == 0
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Nothing in a cache is cut off: objects are what their names say, records can be read, and nothing is left in `tmp/`.
fn assert_whole(cache: &Path) {
    for object in files(&cache.join("objects")) {
        let name: String =
            object.iter().rev().take(2).collect::<Vec<_>>().iter().rev().map(|part| part.to_string_lossy()).collect();
        let bytes = std::fs::read(&object).expect("an object can be read");
        assert_eq!(blake3::hash(&bytes).to_string(), name, "{}", object.display());
    }
    for folder in ["actions", "recipes", "maps", "digests"] {
        for record in files(&cache.join(folder)) {
            let bytes = std::fs::read(&record).expect("a record can be read");
            assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok(), "{}", record.display());
        }
    }
    assert_eq!(files(&cache.join("tmp")), Vec::<PathBuf>::new());
}

const FULL: &str = r#"
mount -t tmpfs -o "size=$1" tmpfs cache
code=0
"$0" run small.yaml 2>first.err || code=$?
echo "$code" >first.code
rm -rf left
cp -a cache left
mount -o remount,size=64m cache
"$0" run small.yaml
for stage in problems clean blocks programs; do
    "$0" show small.yaml "$stage" --rows 1000000 --format json | sort >"$stage.rows"
done
"#;

#[test]
fn a_full_disk_ends_a_run_with_what_to_do_and_the_next_run_goes_on() {
    let lab = lab();
    if !can_mount(&lab) {
        return;
    }
    lab.run("small.yaml", &[]);
    let expected: Vec<Vec<String>> = STAGES.iter().map(|stage| lab.rows("small.yaml", stage)).collect();
    let read = |name: &str| std::fs::read_to_string(lab.path(name)).expect("the script wrote it");
    let mut full = 0;
    for size in SIZES {
        let script = with_own_mounts(&lab, FULL, &[size]);
        assert_eq!(script.code, 0, "{size}: {}\nfirst run: {}", script.stderr, read("first.err"));
        if read("first.code").trim() != "0" {
            full += 1;
            assert_eq!(read("first.code").trim(), "4", "{size}: {}", read("first.err"));
            let cache = lab.path("cache").display().to_string();
            for words in ["error: ", "no space left", "free some space", "ABLATE_CACHE", &cache] {
                assert!(read("first.err").contains(words), "{size}: {words}: {}", read("first.err"));
            }
        }
        assert_whole(&lab.path("left"));
        for (stage, expected) in STAGES.iter().zip(&expected) {
            let mut rows: Vec<String> = read(&format!("{stage}.rows")).lines().map(str::to_owned).collect();
            rows.sort();
            assert_eq!(&rows, expected, "{size}: {stage}");
        }
    }
    assert!(full >= 3, "only {full} of the sizes were too small");
}

#[test]
fn a_read_only_cache_refuses_a_run_and_still_shows_what_it_has() {
    let lab = lab();
    if !can_mount(&lab) {
        return;
    }
    let empty = with_own_mounts(&lab, r#"mount -t tmpfs -o ro tmpfs cache; exec "$0" run small.yaml"#, &[]);
    assert_eq!(empty.code, 4, "{}", empty.stderr);
    for words in ["the file system is read-only", "ABLATE_CACHE", &lab.path("cache").display().to_string()] {
        assert!(empty.stderr.contains(words), "{words}: {}", empty.stderr);
    }
    let script = r#"
        mount -t tmpfs tmpfs cache
        "$0" run small.yaml
        mount -o remount,ro cache
        "$0" plan small.yaml
        "$0" run small.yaml
        "$0" show small.yaml blocks --rows 1
    "#;
    let complete = with_own_mounts(&lab, script, &[]);
    assert_eq!(complete.code, 0, "{}", complete.stderr);
    assert!(complete.stdout.contains("0 of 4 stages to run"), "{}", complete.stdout);
}
