//! History: a folder for every run, with what was asked, what happened and what came out.
//!
//! ```text
//! runs/20251121T040312Z-quickstart/
//!   pipeline.yaml     as resolved
//!   events.jsonl      one event a line, appended as it happens
//!   summary.json      written last: its presence means that the run came to its end
//!   <stage>           link to the view of what the stage gave; <stage>.<port> for other ports than the first
//! runs/latest         link to the newest finished run, so that runs/latest/<stage> is its output
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cache;
use super::error::{CacheError, Damage};
use super::scratch::create_folders;
use crate::digest::Digest;

const PIPELINE: &str = "pipeline.yaml";
const EVENTS: &str = "events.jsonl";
const SUMMARY: &str = "summary.json";

/// The history entry of a run that goes on.
#[derive(Debug)]
pub struct RunEntry {
    cache: Cache,
    folder: PathBuf,
    events: Mutex<File>,
}

/// The history entry of a run that is over, however it ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PastRun {
    /// `20251121T040312Z-quickstart`; sorts by time.
    pub id: String,
    /// The pipeline's name.
    pub name: String,
    /// The entry's folder.
    pub folder: PathBuf,
    /// Whether it has a summary.
    pub has_summary: bool,
}

impl Cache {
    /// Starts a history entry for a run of the pipeline `name`, and keeps the resolved pipeline.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn begin_run(&self, name: &str, started: SystemTime, pipeline: &str) -> Result<RunEntry, CacheError> {
        let doing = "starting a history entry";
        self.session()?;
        create_folders(&self.layout().runs())?;
        let time = utc_compact(started);
        let mut folder = self.layout().run(&format!("{time}-{name}"));
        // Two runs within a second: the later one gets a letter behind its time, which keeps the order.
        for letter in 'a'.. {
            match fs::create_dir(&folder) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && letter < 'z' => {
                    folder = self.layout().run(&format!("{time}{letter}-{name}"));
                }
                Err(error) => return Err(CacheError::io(doing, &folder, error)),
            }
        }
        let begin = || {
            fs::write(folder.join(PIPELINE), pipeline)?;
            append(&folder.join(EVENTS))
        };
        match begin() {
            Ok(events) => Ok(RunEntry { cache: self.clone(), folder, events: Mutex::new(events) }),
            Err(error) => {
                // A run that did not begin is no part of the history.
                let _ = fs::remove_dir_all(&folder);
                Err(CacheError::io(doing, &folder, error))
            }
        }
    }

    /// Returns the history, oldest first.
    ///
    /// # Errors
    /// `NoPermission` or `Io`.
    pub fn past_runs(&self) -> Result<Vec<PastRun>, CacheError> {
        let folder = self.layout().runs();
        let failed = |error| CacheError::io("reading the history", &folder, error);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_string_lossy().into_owned();
            let is_link = entry.file_type().is_ok_and(|found| found.is_symlink());
            let Some((_, name)) = id.split_once('-').filter(|_| !is_link) else { continue };
            let (name, folder) = (name.to_owned(), entry.path());
            let has_summary = folder.join(SUMMARY).is_file();
            runs.push(PastRun { id, name, folder, has_summary });
        }
        runs.sort();
        Ok(runs)
    }

    /// Returns the newest run of a pipeline that came to its end and whose summary `accept`s, with the summary.
    ///
    /// # Errors
    /// `NoPermission` or `Io`.
    pub fn last_run<T: DeserializeOwned>(
        &self,
        name: &str,
        accept: impl Fn(&T) -> bool,
    ) -> Result<Option<(PastRun, T)>, CacheError> {
        for run in self.past_runs()?.into_iter().rev().filter(|run| run.name == name) {
            if let Some(summary) = self.summary::<T>(&run)?.filter(&accept) {
                return Ok(Some((run, summary)));
            }
        }
        Ok(None)
    }

    /// Returns the summary of a run; none if the run did not come to its end, or the summary cannot be understood.
    ///
    /// # Errors
    /// `NoPermission` or `Io`.
    pub fn summary<T: DeserializeOwned>(&self, run: &PastRun) -> Result<Option<T>, CacheError> {
        if !run.has_summary {
            return Ok(None);
        }
        let path = run.folder.join(SUMMARY);
        let text = fs::read(&path).map_err(|error| CacheError::io("reading the history", &path, error))?;
        let summary = serde_json::from_slice::<T>(&text);
        // An older version's summary, or a damaged one.
        Ok(summary
            .map_err(|error| self.note_damage(Damage { path, problem: format!("cannot be understood: {error}") }))
            .ok())
    }
}

impl PastRun {
    /// Returns the pipeline as it was resolved.
    ///
    /// # Errors
    /// `NoPermission` or `Io`.
    pub fn pipeline(&self) -> Result<String, CacheError> {
        let path = self.folder.join(PIPELINE);
        fs::read_to_string(&path).map_err(|error| CacheError::io("reading the history", &path, error))
    }

    /// Returns the path of the events.
    pub fn events_path(&self) -> PathBuf {
        self.folder.join(EVENTS)
    }

    /// Returns the path of what a stage's worker wrote.
    pub fn log_path(&self, stage: &str) -> PathBuf {
        log_path(&self.folder, stage)
    }
}

impl RunEntry {
    /// Returns the entry's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of what a stage's worker writes.
    pub fn log_path(&self, stage: &str) -> PathBuf {
        log_path(&self.folder, stage)
    }

    /// Opens what a stage's worker writes to, at its end.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn log(&self, stage: &str) -> Result<File, CacheError> {
        let path = self.log_path(stage);
        append(&path).map_err(|error| CacheError::io("opening the stage's log", &path, error))
    }

    /// Appends an event as one line.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn event<T: Serialize>(&self, event: &T) -> Result<(), CacheError> {
        let failed = |error: io::Error| CacheError::io("writing the history", &self.folder, error);
        let mut line = serde_json::to_vec(event).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        // One write a line: a killed run leaves whole lines, and at most one that is cut.
        self.events.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line).map_err(failed)
    }

    /// Links the view of a stage's output. `name` is `stage`, or `stage.port` for other ports than the first; a `/` in
    /// it (`after/generate`) becomes `+`, since `after` is a name too.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn link_output(&self, name: &str, view: &Path) -> Result<(), CacheError> {
        replace_link(&self.output_path(name), view)
    }

    /// Returns where [`RunEntry::link_output`] links an output.
    pub fn output_path(&self, name: &str) -> PathBuf {
        self.folder.join(file_name(name))
    }

    /// Writes the summary, which ends the entry, and makes it the latest.
    ///
    /// # Errors
    /// `DiskFull`, `NoPermission`, `ReadOnly` or `Io`.
    pub fn finish<T: Serialize>(self, summary: &T) -> Result<(), CacheError> {
        let path = self.folder.join(SUMMARY);
        let mut text = serde_json::to_vec_pretty(summary)
            .map_err(|error| CacheError::io("writing the history", &path, error.into()))?;
        text.push(b'\n');
        self.cache.write_whole(&path, &text, "writing the history")?;
        let id = self.folder.file_name().expect("a run's folder has a name");
        replace_link(&self.cache.layout().latest_run(), Path::new(id))
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn log_path(folder: &Path, stage: &str) -> PathBuf {
    folder.join(format!("{}.log", file_name(stage)))
}

/// The bytes that a name may have as that of a file; file systems give 255, some of which are for what is put behind it.
const MOST_NAME_BYTES: usize = 200;

/// What belongs to a stage or an output, as the name of a file. Files of a run lie in one folder: a `/` (`after/generate`) becomes
/// `+`. The end of a very long name, as a sweep over many parameters makes them, becomes a digest.
fn file_name(name: &str) -> String {
    let flat = name.replace('/', "+");
    if flat.len() <= MOST_NAME_BYTES {
        return flat;
    }
    let digest = Digest::of_bytes(name.as_bytes()).short();
    let end = flat.floor_char_boundary(MOST_NAME_BYTES - digest.len() - 1);
    format!("{}~{digest}", &flat[..end])
}

/// Makes a symbolic link, over an earlier one if there is one, without a moment in which there is none.
fn replace_link(path: &Path, target: &Path) -> Result<(), CacheError> {
    let failed = |error| CacheError::io("making a link", path, error);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let fresh = PathBuf::from(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    symlink(target, &fresh).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

/// Returns a time as `20251121T040312Z`.
fn utc_compact(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days, in years that begin in March: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_civil_dates() {
        let at = |seconds| utc_compact(UNIX_EPOCH + Duration::from_secs(seconds));
        // `date -u -d @N +%Y%m%dT%H%M%SZ`
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_399), "20000228T235959Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_763_697_792), "20251121T040312Z");
        assert_eq!(at(4_107_542_400), "21000301T000000Z");
    }

    #[test]
    fn a_finished_run_is_found_by_name_and_linked_as_latest() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let start = UNIX_EPOCH + Duration::from_secs(1_763_697_792);
        for complete in [true, true, false] {
            let entry = cache.begin_run("quick", start, "name: quick\n").unwrap();
            entry.event(&("started", 1)).unwrap();
            entry.link_output("after/generate", root.path()).unwrap();
            if complete {
                entry.finish(&entry_number(&cache)).unwrap();
            }
        }
        let runs = cache.past_runs().unwrap();
        assert_eq!(runs.iter().map(|run| run.has_summary).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(runs[0].pipeline().unwrap(), "name: quick\n");
        assert_eq!(fs::read_to_string(runs[0].events_path()).unwrap(), "[\"started\",1]\n");
        let (last, number) = cache.last_run::<usize>("quick", |_| true).unwrap().unwrap();
        assert_eq!((&last, number), (&runs[1], 2));
        assert_eq!(cache.last_run::<usize>("quick", |&number| number < 2).unwrap().unwrap().1, 1);
        assert!(cache.last_run::<usize>("slow", |_| true).unwrap().is_none());
        let link = root.path().join("runs/latest/after+generate");
        assert_eq!(fs::canonicalize(link).unwrap(), fs::canonicalize(root.path()).unwrap());
        assert!(root.path().join("runs/latest/summary.json").exists());
    }

    #[test]
    fn a_name_that_is_too_long_for_a_file_is_told_apart_by_a_digest() {
        let long = |last: &str| format!("aligned@{}{last}", "pairs.alpha=0.5,".repeat(40));
        let (one, other) = (file_name(&long("a")), file_name(&long("b")));
        assert!(one != other && one.len() <= MOST_NAME_BYTES && one.starts_with("aligned@pairs.alpha=0.5,"), "{one}");
        assert_eq!(file_name("after/generate"), "after+generate");
    }

    fn entry_number(cache: &Cache) -> usize {
        cache.past_runs().unwrap().len()
    }
}
