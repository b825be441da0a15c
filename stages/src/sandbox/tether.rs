//! Ties the life of a program, and of everything that it starts, to that of the process that starts it.
//!
//! Between the caller and the program stand two processes that never run foreign code. The *keeper* is the caller's child: it waits at
//! a pipe whose other end only the caller holds, so it learns of the caller's end however that came. The *init* is the first process
//! of a PID namespace of its own, with its own `/proc` and `/dev/shm`: when it ends, the kernel ends whatever is in the namespace.
//! Where namespaces are refused the keeper adopts what the program leaves behind (`PR_SET_CHILD_SUBREAPER`) and ends it process by
//! process; then only a kill of the keeper itself lets something survive. The log says which it is.
//!
//! All of this runs between fork and exec, where only system calls are allowed: no memory is taken, nothing is formatted.
#![expect(unsafe_code, reason = "between fork and exec only what is safe in a signal handler may be called")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

/// To read, list and run: all that the newly mounted `/proc` allows.
const READ_RIGHTS: u64 = 0b1101;
const NAMESPACES: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS;

/// A running program that ends, with everything that it has started, when this is dropped or its holder is killed.
#[derive(Debug)]
pub(crate) struct Tethered {
    keeper: Child,
    /// Its other end is the keeper's: closed, it is the order to end.
    lifeline: Option<OwnedFd>,
}

impl Tethered {
    /// Starts the program; `files` is the Landlock ruleset to be shut in by.
    ///
    /// # Errors
    /// Where it is not there or cannot be run.
    pub(crate) fn spawn(command: Command, files: Option<OwnedFd>) -> io::Result<Self> {
        Self::spawn_by(command, files, true)
    }

    fn spawn_by(mut command: Command, files: Option<OwnedFd>, namespaces: bool) -> io::Result<Self> {
        let (theirs, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let plan = Plan {
            namespaces,
            // A cache that lies in memory is not to be hidden from its own program.
            own_memory: !command.get_current_dir().is_some_and(is_in_memory),
            lifeline: theirs.as_raw_fd(),
            files: files.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            write_rights: write_rights(landlock_abi()),
            uid_map: format!("{uid} {uid} 1").into_bytes(),
            gid_map: format!("{gid} {gid} 1").into_bytes(),
        };
        // A group of its own, so that Ctrl-C at the terminal reaches the runner alone.
        command.process_group(0);
        // SAFETY: `tether` makes system calls on numbers and on memory that was laid out before the fork, and nothing else.
        unsafe { command.pre_exec(move || tether(&plan)) };
        let keeper = command.spawn()?;
        Ok(Self { keeper, lifeline: Some(ours) })
    }

    /// How the program ended, if it has; by then nothing that it started runs any more.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.keeper.try_wait()
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // One that has been waited for is not waited for again.
        let _ = self.keeper.wait();
    }
}

/// The version of Landlock that the kernel has; 0 for none.
pub(crate) fn landlock_abi() -> u32 {
    // SAFETY: asks for the version and passes no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1_u32) };
    u32::try_from(version).unwrap_or(0)
}

/// All that a version of Landlock can allow of files.
fn write_rights(abi: u32) -> u64 {
    let num_rights = match abi {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << num_rights) - 1
}

/// What the processes before the program need; laid out before the fork.
struct Plan {
    /// Whether namespaces are tried at all.
    namespaces: bool,
    /// Whether it gets a `/dev/shm` of its own.
    own_memory: bool,
    lifeline: RawFd,
    /// The Landlock ruleset; -1 for none.
    files: RawFd,
    write_rights: u64,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
}

/// What the init tells the keeper.
#[repr(C)]
#[derive(Clone, Copy)]
struct Word {
    tag: i32,
    value: i32,
}

const READY: i32 = 1;
const ENDED: i32 = 2;

/// Becomes the keeper, which never returns, and returns in the program.
fn tether(plan: &Plan) -> io::Result<()> {
    // Root needs no user namespace, and without one keeps what it may do.
    let tried: &[libc::c_int] = if plan.namespaces { &[0, libc::CLONE_NEWUSER] } else { &[] };
    for &user in tried {
        let mut pipe = [-1; 2];
        // SAFETY: the array has room for two descriptors.
        if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = fork(NAMESPACES | user);
        if pid == 0 {
            return init(plan, user != 0, pipe[1]);
        }
        close(pipe[1]);
        if pid > 0 {
            if read_word(pipe[0]).is_some_and(|word| word.tag == READY) {
                keep(plan.lifeline, pid, Some(pipe[0]));
            }
            wait_for(pid);
        }
        close(pipe[0]);
    }
    say(c"command: no PID namespace is allowed here; what the program leaves behind is looked for and ended\n");
    // SAFETY: a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    match fork(0) {
        0 => {
            die_with_parent();
            shut_in(plan.files)
        }
        program if program > 0 => keep(plan.lifeline, program, None),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first process of the namespace: sets it up, starts the program (in which this returns), and waits for whatever is left to it.
fn init(plan: &Plan, user: bool, tell: RawFd) -> io::Result<()> {
    die_with_parent();
    if (user && !map_user(plan)) || !mount_own(plan) {
        exit(1);
    }
    let program = fork(0);
    if program == 0 {
        return shut_in(plan.files);
    }
    if program < 0 {
        exit(1);
    }
    close_all_but(&mut [tell]);
    write_word(tell, Word { tag: READY, value: 0 });
    loop {
        let mut status = 0;
        // SAFETY: the status has a place.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == program || (ended < 0 && errno() != libc::EINTR) {
            write_word(tell, Word { tag: ENDED, value: status });
            exit(0);
        }
    }
}

/// Waits until `first` has ended or the caller is gone, ends all that is left, and ends as the program did.
fn keep(lifeline: RawFd, first: libc::pid_t, status_from: Option<RawFd>) -> ! {
    // SAFETY: takes two numbers.
    let watched = unsafe { libc::syscall(libc::SYS_pidfd_open, first, 0) } as RawFd;
    close_all_but(&mut [lifeline, watched, status_from.unwrap_or(-1)]);
    // Without a descriptor to wait at, and where orphans are to be reaped, it looks now and then.
    let often = watched < 0 || status_from.is_none();
    let mut status = None;
    loop {
        let mut polled = [
            libc::pollfd { fd: lifeline, events: 0, revents: 0 },
            libc::pollfd { fd: watched, events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: both entries are there.
        unsafe { libc::poll(polled.as_mut_ptr(), 2, if often { 20 } else { -1 }) };
        let ordered = polled[0].revents != 0;
        if ordered {
            kill(first);
        }
        while let Some((ended, how)) = reap() {
            if ended == first {
                status = Some(how);
            }
        }
        if ordered || status.is_some() {
            break;
        }
    }
    match status_from {
        Some(from) => {
            if status.is_none() {
                wait_for(first);
            }
            end_as(read_word(from).filter(|word| word.tag == ENDED).map(|word| word.value));
        }
        None => end_as(end_orphans(first).or(status)),
    }
}

/// Ends all children, and theirs as they are handed over; how `first` ended, if it was among them.
fn end_orphans(first: libc::pid_t) -> Option<libc::c_int> {
    let mut found = None;
    let mut text = [0_u8; 4096];
    loop {
        // SAFETY: the path ends with a zero.
        let list = unsafe { libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if list < 0 {
            // Nothing can be listed: the group is ended, and this process with it.
            kill(0);
        }
        // SAFETY: reads at most what there is room for.
        let length = unsafe { libc::read(list, text.as_mut_ptr().cast(), text.len()) };
        close(list);
        let mut pid = 0;
        for &byte in &text[..usize::try_from(length).unwrap_or(0)] {
            if byte.is_ascii_digit() {
                pid = pid * 10 + libc::pid_t::from(byte - b'0');
            } else if pid > 0 {
                kill(pid);
                pid = 0;
            }
        }
        while let Some((ended, how)) = reap() {
            if ended == first {
                found = Some(how);
            }
        }
        if errno() == libc::ECHILD {
            return found;
        }
        // SAFETY: a pause of a millisecond.
        unsafe { libc::usleep(1000) };
    }
}

/// Ends this process as the program ended: by the same signal, or with the same code.
fn end_as(status: Option<libc::c_int>) -> ! {
    match status {
        Some(status) if libc::WIFEXITED(status) => exit(libc::WEXITSTATUS(status)),
        Some(status) if libc::WIFSIGNALED(status) => {
            let signal = libc::WTERMSIG(status);
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: no memory image is left by it, and the signal does what it does by default.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::signal(signal, libc::SIG_DFL);
                libc::kill(libc::getpid(), signal);
            }
            exit(128 + signal)
        }
        // The init itself was killed, by the system or by order.
        _ => {
            // SAFETY: this process itself.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            exit(137)
        }
    }
}

/// Shuts this process in; nothing that it executes gets out again.
fn shut_in(files: RawFd) -> io::Result<()> {
    if files < 0 {
        return Ok(());
    }
    // SAFETY: a flag, and a ruleset that stays open until exec.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_landlock_restrict_self, files, 0_u32) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps user and group what they are; no other is known in the namespace.
fn map_user(plan: &Plan) -> bool {
    write_file(c"/proc/self/setgroups", b"deny")
        && write_file(c"/proc/self/uid_map", &plan.uid_map)
        && write_file(c"/proc/self/gid_map", &plan.gid_map)
}

/// A `/proc` that shows the namespace (a program that looks itself up there by its number is to find itself), and a `/dev/shm` that nobody else sees.
fn mount_own(plan: &Plan) -> bool {
    let none = std::ptr::null();
    let quiet = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all strings end with a zero.
    let (private, proc, shm) = unsafe {
        (
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
            libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), quiet | libc::MS_NOEXEC, none.cast()),
            if plan.own_memory {
                libc::mount(
                    c"shm".as_ptr(),
                    c"/dev/shm".as_ptr(),
                    c"tmpfs".as_ptr(),
                    quiet | libc::MS_NOEXEC,
                    c"mode=1777".as_ptr().cast(),
                )
            } else {
                -1
            },
        )
    };
    // A machine without shared memory has none to hide.
    private == 0
        && proc == 0
        && allow(plan.files, c"/proc", READ_RIGHTS)
        && (shm != 0 || allow(plan.files, c"/dev/shm", plan.write_rights))
}

/// Adds a folder to the ruleset: rules are for what is mounted at the time.
fn allow(files: RawFd, folder: &CStr, rights: u64) -> bool {
    #[repr(C, packed)]
    struct Beneath {
        rights: u64,
        folder: i32,
    }
    if files < 0 {
        return true;
    }
    // SAFETY: the path ends with a zero, and the rule is laid out as the kernel reads it.
    unsafe {
        let folder = libc::open(folder.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
        let rule = Beneath { rights, folder };
        let added = libc::syscall(libc::SYS_landlock_add_rule, files, 1_u32, &raw const rule, 0_u32) == 0;
        close(folder);
        added
    }
}

fn write_file(path: &CStr, text: &[u8]) -> bool {
    // SAFETY: the path ends with a zero, and no more is written than there is.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let written = file >= 0 && libc::write(file, text.as_ptr().cast(), text.len()) == text.len() as isize;
        close(file);
        written
    }
}

fn say(text: &CStr) {
    // SAFETY: no more is written than there is.
    unsafe { libc::write(2, text.as_ptr().cast(), text.count_bytes()) };
}

fn write_word(to: RawFd, word: Word) {
    // SAFETY: eight bytes, which a pipe takes whole.
    unsafe { libc::write(to, (&raw const word).cast(), size_of::<Word>()) };
}

/// The next word; none where the other end is closed.
fn read_word(from: RawFd) -> Option<Word> {
    let mut word = Word { tag: 0, value: 0 };
    loop {
        // SAFETY: there is room for eight bytes, and any eight bytes are two numbers.
        let length = unsafe { libc::read(from, (&raw mut word).cast(), size_of::<Word>()) };
        if length == size_of::<Word>() as isize {
            return Some(word);
        }
        if length >= 0 || errno() != libc::EINTR {
            return None;
        }
    }
}

/// A child that has ended, and how.
fn reap() -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the status has a place.
    let ended = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if ended == 0 {
        clear_errno();
    }
    (ended > 0).then_some((ended, status))
}

fn wait_for(pid: libc::pid_t) {
    // SAFETY: how it ended is not asked.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0 && errno() == libc::EINTR {}
}

/// Like fork(2), with flags of clone(2).
fn fork(flags: libc::c_int) -> libc::pid_t {
    // SAFETY: without a stack of its own the child goes on with a copy of this one.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags | libc::SIGCHLD), 0_usize, 0_usize, 0_usize, 0_usize)
    };
    pid as libc::pid_t
}

fn die_with_parent() {
    // SAFETY: a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

fn kill(pid: libc::pid_t) {
    // SAFETY: a number; one that has ended needs no killing, and is not yet reaped, so its number is no other's.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn close(file: RawFd) {
    // SAFETY: it was opened here.
    unsafe { libc::close(file) };
}

/// Closes all descriptors from 3 on but these: above all the pipe on which the caller waits for the program to start.
fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from = 3;
    for &mut kept in keep {
        if kept >= from {
            close_range(from, kept - 1);
            from = kept + 1;
        }
    }
    close_range(from, RawFd::MAX);
}

fn close_range(from: RawFd, to: RawFd) {
    if from > to {
        return;
    }
    // SAFETY: nothing of this process uses a descriptor that the caller opened.
    if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } < 0 {
        // A kernel before 5.9.
        (from..=to.min(1 << 16)).for_each(close);
    }
}

fn errno() -> libc::c_int {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

fn clear_errno() {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = 0 };
}

fn exit(code: libc::c_int) -> ! {
    // SAFETY: runs nothing at exit, as is due in a copy of another process.
    unsafe { libc::_exit(code) }
}

/// Whether a folder lies in the shared memory of the system, also behind a link.
fn is_in_memory(folder: &Path) -> bool {
    folder.canonicalize().is_ok_and(|real| real.starts_with("/dev/shm"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Stdio;

    fn start(folder: &Path, script: &str, namespaces: bool) -> Tethered {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::null());
        Tethered::spawn_by(command, None, namespaces).unwrap()
    }

    fn end(mut running: Tethered) -> ExitStatus {
        loop {
            if let Some(status) = running.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Processes that stand in a folder, the dead ones left out.
    fn processes_in(folder: &Path) -> Vec<String> {
        let stands =
            |pid: &String| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let all =
            std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        all.filter(|name| name.parse::<u32>().is_ok()).filter(stands).collect()
    }

    #[test]
    fn a_program_ends_as_if_nothing_stood_between() {
        use std::os::unix::process::ExitStatusExt;
        let folder = tempfile::tempdir().unwrap();
        for namespaces in [true, false] {
            let of = |script: &str| end(start(folder.path(), script, namespaces));
            assert!(of("exit 0").success());
            assert_eq!(of("exit 7").code(), Some(7));
            assert_eq!(of("kill -9 $$").signal(), Some(libc::SIGKILL));
            assert_eq!(of("kill -15 $$").signal(), Some(libc::SIGTERM));
            let missing = Tethered::spawn_by(Command::new("no-such-program"), None, namespaces);
            assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn what_a_program_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        for namespaces in [true, false] {
            // In sessions of their own, and orphans: neither the group nor the parent says whose they are.
            let left = "(setsid sleep 600 &) ; (setsid sh -c 'sleep 600 & sleep 600' &) ;";
            assert!(end(start(&home, &format!("{left} exit 0"), namespaces)).success());
            assert_eq!(processes_in(&home), [""; 0], "after its end, namespaces: {namespaces}");

            let ready = home.join("ready");
            let running = start(&home, &format!("{left} touch ready; sleep 600"), namespaces);
            while !ready.exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(!processes_in(&home).is_empty());
            drop(running);
            assert_eq!(processes_in(&home), [""; 0], "after it was ended, namespaces: {namespaces}");
            std::fs::remove_file(ready).unwrap();
        }
    }

    #[test]
    fn a_program_finds_itself_in_proc() {
        let folder = tempfile::tempdir().unwrap();
        let script = "test \"$(cat /proc/$$/comm)\" = sh && test -w /dev/shm";
        assert!(end(start(folder.path(), script, true)).success());
    }
}
