//! Heavy kinds run in a worker: a process that serves one stage, asks for batches and gives them back.
//! It has a process group of its own, so that Ctrl-C reaches the runner alone; it dies with the runner.

use super::{Opening, Ran, Stopped};
use crate::run::RunError;
use ablate_stages::job::{Cancel, FinishedBatch, TableStream, UnitBatch, WholeSink};
use ablate_stages::stage::{Place, StageError};
use ablate_stages::worker::{
    FromWorker, OpenStage, ToWorker, batch_frame, decode_rows, encode_rows, read_frame, write_frame,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, BufWriter, ErrorKind};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

/// The workers that run, by process id.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Asks every running worker to stop: it saves what it has to and ends.
pub(crate) fn signal_workers() {
    for &pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // One that has just ended needs no asking.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Where the worker for torch kinds is: `ABLATE_LM`, else `ablate-lm` beside `ablate`.
///
/// # Errors
/// Where it is not there.
pub(crate) fn lm_worker() -> Result<PathBuf, StageError> {
    let named = std::env::var_os("ABLATE_LM").map(PathBuf::from);
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("ablate-lm"),
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(StageError::Missing {
            what: format!("the worker for language models, {},", path.display()),
            fix: "build it: make build, or cargo build --release -p lm".into(),
        })
    }
}

struct Worker {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: BufReader<ChildStdout>,
    cancel: Cancel,
    versions: BTreeMap<String, String>,
    /// How it ended, if it died.
    ended: Option<String>,
}

impl Worker {
    fn start(opening: Opening<'_>) -> Result<Self, RunError> {
        let mut command = match opening.declaration.place {
            Place::Torch => Command::new(lm_worker()?),
            Place::Sandbox | Place::Inline => {
                let mut command = Command::new(std::env::current_exe().map_err(StageError::from)?);
                command.arg("worker");
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(opening.log)
            .process_group(0)
            .spawn()
            .map_err(|error| StageError::failed(format!("starting a worker failed: {error}")))?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id() as i32);
        let to = BufWriter::new(child.stdin.take().expect("piped above"));
        let from = BufReader::new(child.stdout.take().expect("piped above"));
        let cx = opening.context;
        let mut worker = Self { child, to, from, cancel: cx.cancel.clone(), versions: BTreeMap::new(), ended: None };
        // Those that ran when the run was cancelled have been told; this one came too late to hear it.
        cx.cancel.check()?;
        let open = ToWorker::Open(OpenStage {
            kind: opening.bound.kind().name().to_owned(),
            params: opening.bound.params(),
            inputs: cx.inputs,
            models: cx.models,
            scratch: cx.scratch,
            state: cx.state,
            threads: cx.threads,
            device: cx.device,
        });
        worker.say(&open, &[])?;
        match worker.listen()? {
            (FromWorker::Opened { versions }, _) => worker.versions = versions,
            (FromWorker::Failed(failure), _) => return Err(StageError::from(failure).into()),
            (other, _) => return Err(unexpected(&other).into()),
        }
        Ok(worker)
    }

    fn say(&mut self, header: &ToWorker, parts: &[Vec<u8>]) -> Result<(), StageError> {
        write_frame(&mut self.to, header, parts).map_err(|_| self.death())
    }

    fn listen(&mut self) -> Result<(FromWorker, Vec<Vec<u8>>), StageError> {
        match read_frame(&mut self.from) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(self.death()),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe) => Err(self.death()),
            // It lives, and would wait for an answer to what nobody understood.
            Err(error) => {
                let _ = self.child.kill();
                Err(StageError::failed(format!(
                    "its worker speaks another language ({error}); build `ablate` and its worker from the same sources: make build"
                )))
            }
        }
    }

    /// How the worker ended, as an error.
    fn death(&mut self) -> StageError {
        match self.child.wait() {
            Ok(_) if self.cancel.is_cancelled() => StageError::Cancelled,
            Ok(status) => {
                let how = ending(status);
                self.ended = Some(how.clone());
                StageError::failed(format!("its worker {how} (see `ablate logs`)"))
            }
            Err(error) => StageError::failed(format!("its worker is gone: {error}")),
        }
    }

    /// What a failure means: the worker's death, or that of the stage.
    fn stopped(&mut self, error: StageError) -> Stopped {
        match self.ended.take() {
            Some(how) => Stopped::Died(how),
            None => Stopped::Failed(error.into()),
        }
    }

    fn ran(&mut self, cpu_s: f64, peak_memory_bytes: u64) -> Ran {
        Ran { versions: std::mem::take(&mut self.versions), cpu_s, peak_memory_bytes: Some(peak_memory_bytes) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker that said its last word ends by itself; any other has nobody to work for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&(self.child.id() as i32));
    }
}

/// How a process ended, in words.
fn ending(status: ExitStatus) -> String {
    match status.signal() {
        // Nobody but the kernel, short of memory, kills a worker so.
        Some(9) => "was killed by signal 9 (out of memory?)".to_owned(),
        Some(number) => {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            format!("was killed by signal {number} ({name})")
        }
        None => format!("ended early with {status}"),
    }
}

fn unexpected(frame: &FromWorker) -> StageError {
    StageError::failed(format!("its worker said {frame:?} out of turn; are `ablate` and its worker of one build?"))
}

pub(super) fn run_units(
    opening: Opening<'_>,
    next: &mut dyn FnMut() -> Result<Option<UnitBatch>, StageError>,
    deliver: &mut dyn FnMut(FinishedBatch) -> Result<(), StageError>,
) -> Result<Ran, Stopped> {
    // A worker that dies before it has opened the stage would die again.
    let mut worker = Worker::start(opening)?;
    serve_units(&mut worker, next, deliver).map_err(|error| worker.stopped(error))
}

fn serve_units(
    worker: &mut Worker,
    next: &mut dyn FnMut() -> Result<Option<UnitBatch>, StageError>,
    deliver: &mut dyn FnMut(FinishedBatch) -> Result<(), StageError>,
) -> Result<Ran, StageError> {
    loop {
        match worker.listen()? {
            (FromWorker::WantBatch, _) => match next()? {
                Some(batch) => {
                    let (header, parts) = batch_frame(&batch)?;
                    worker.say(&header, &parts)?;
                }
                None => worker.say(&ToWorker::End, &[])?,
            },
            (FromWorker::Finished { id, answers }, parts) if parts.len() == 1 => {
                deliver(FinishedBatch { id, rows: decode_rows(&parts[0])?, answers })?;
            }
            (FromWorker::Done { cpu_s, peak_memory_bytes }, _) => return Ok(worker.ran(cpu_s, peak_memory_bytes)),
            (FromWorker::Failed(failure), _) => return Err(StageError::from(failure)),
            (other, _) => return Err(unexpected(&other)),
        }
    }
}

pub(super) fn run_whole(
    opening: Opening<'_>,
    mut tables: BTreeMap<String, TableStream<'_>>,
    sink: &mut dyn WholeSink,
) -> Result<Ran, RunError> {
    let mut worker = Worker::start(opening)?;
    loop {
        match worker.listen()? {
            (FromWorker::WantRows { port }, _) => match tables.get_mut(&port).and_then(Iterator::next) {
                Some(rows) => {
                    let part = encode_rows(&rows?)?;
                    worker.say(&ToWorker::Rows, &[part])?;
                }
                None => worker.say(&ToWorker::End, &[])?,
            },
            (FromWorker::Rows { port }, parts) if parts.len() == 1 => sink.rows(&port, decode_rows(&parts[0])?)?,
            (FromWorker::Folder { port, folder, keep_in_place }, _) => sink.folder(&port, folder, keep_in_place)?,
            (FromWorker::Progress { done, total, note }, _) => sink.progress(done, total, &note),
            (FromWorker::Done { cpu_s, peak_memory_bytes }, _) => return Ok(worker.ran(cpu_s, peak_memory_bytes)),
            (FromWorker::Failed(failure), _) => return Err(StageError::from(failure).into()),
            (other, _) => return Err(unexpected(&other).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_says_what_a_signal_may_mean() {
        assert_eq!(ending(ExitStatus::from_raw(9)), "was killed by signal 9 (out of memory?)");
        assert_eq!(ending(ExitStatus::from_raw(11)), "was killed by signal 11 (SIGSEGV)");
        assert_eq!(ending(ExitStatus::from_raw(3 << 8)), "ended early with exit status: 3");
    }
}
