//! Ties the life of a program to that of the process that starts it.
#![expect(unsafe_code, reason = "between fork and exec only what is safe in a signal handler may be called")]

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the system kill the program when the thread that starts it is gone, even if that was killed itself.
pub(crate) fn tie_to_parent(command: &mut Command) -> &mut Command {
    // SAFETY: one system call, and nothing is allocated.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) }
}
