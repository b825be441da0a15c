//! Several sandboxes at work on one list.

use super::{Config, Grade, Isolation, Sandbox, SandboxError};
use crate::job::{Cancel, OpenContext};
use crate::stage::StageError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a stage's sandboxes are to be; below the grade `partial` only where that is allowed.
pub(crate) fn config(cx: &OpenContext, allow_unsafe: bool) -> Config {
    let floor = if allow_unsafe { Grade::None } else { Grade::Partial };
    Config { floor, scratch: Some(cx.scratch.clone()).filter(|scratch| scratch.is_dir()), ..Config::default() }
}

/// Opens sandboxes for programs.
///
/// # Errors
/// Where one does not open, or the machine shuts programs in too badly.
pub(crate) fn open(config: &Config, count: usize) -> Result<Vec<Sandbox>, StageError> {
    Sandbox::open_many(config, count).map_err(|error| match error {
        SandboxError::Isolation { .. } => StageError::failed(format!(
            "{error}; `allow_unsafe: true` runs the programs all the same, with the rights of this user"
        )),
        other => other.into(),
    })
}

/// How the programs are shut in. All sandboxes are opened alike; should one have come out worse, it is the one to know of.
pub(crate) fn worst(sandboxes: &[Sandbox]) -> Option<&Isolation> {
    sandboxes.iter().map(Sandbox::isolation).min_by_key(|isolation| isolation.grade)
}

/// Tells the log where programs are not shut in fully.
pub(crate) fn warn_of(kind: &str, sandboxes: &[Sandbox]) {
    if let Some(isolation) = worst(sandboxes).filter(|isolation| isolation.grade < Grade::Full) {
        let (summary, fixes) = (isolation.summary(), isolation.fixes());
        tell(&format!("{kind}: programs are not shut in fully: isolation is {summary}; missing: {fixes}"));
    }
}

/// A line in the stage's log.
#[expect(clippy::print_stderr, reason = "the worker's standard error is the stage's log")]
pub(crate) fn tell(line: &str) {
    eprintln!("{line}");
}

/// Has each sandbox take the next item that none has taken. The answers come in the order of the items.
///
/// # Errors
/// Where the run is cancelled.
pub(crate) fn share<T: Sync, A: Send>(
    sandboxes: &mut [Sandbox],
    items: &[T],
    cancel: &Cancel,
    work: impl Fn(&mut Sandbox, &T) -> A + Sync,
) -> Result<Vec<A>, StageError> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<Option<A>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for sandbox in sandboxes {
            let (next, answers, work) = (&next, &answers, &work);
            scope.spawn(move || {
                while !cancel.is_cancelled() {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let answer = work(sandbox, item);
                    if let Ok(mut answers) = answers.lock() {
                        answers[at] = Some(answer);
                    }
                }
            });
        }
    });
    cancel.check()?;
    let answers = answers.into_inner().map_err(|_| StageError::failed("a thread of the sandbox panicked"))?;
    answers.into_iter().map(|answer| answer.ok_or(StageError::Cancelled)).collect()
}
