//! The zygote's other end: starts it, hands it programs, reads what became of them.

use super::isolation::Isolation;
use super::records::{Heard, Listener, Record};
use super::{Config, Feature, Limits, SandboxError, Toolchain, seccomp};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, recv, send, sendmsg, setsockopt,
    socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::pipe2;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program that the zygote runs: five files that are one script.
const SCRIPT: &str = concat!(
    include_str!("python/jail.py"),
    include_str!("python/values.py"),
    include_str!("python/stand_ins.py"),
    include_str!("python/modes.py"),
    include_str!("python/zygote.py")
);
/// Has the zygote end what it runs.
const ENOUGH: &[u8] = b"enough";
/// How often is looked what a process has said. Not as soon as it says something: most end before the first look, and none is to be
/// interrupted for each word.
const LISTENING: Duration = Duration::from_millis(20);
const LISTENING_CLOSELY: Duration = Duration::from_millis(1);
/// Room for what was not yet heard.
const PIPE_BYTES: i32 = 1 << 20;
/// The place of the result among the files of a process.
const RESULT: usize = 4;
/// How much of the standard error is read, in bytes.
const MOST_STDERR: u64 = 2000;
/// Asks an interpreter what it is, and which of the machine's files it needs.
const ASK: &str = "\
import json, os, sys, sysconfig
get = sysconfig.get_config_var
paths = [sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib')]
if get('Py_ENABLE_SHARED'): paths.append(os.path.join(get('LIBDIR'), get('INSTSONAME')))
multi = get('MULTIARCH') or ''
paths += ['/lib', '/lib64', '/usr/lib64', '/usr/lib/' + multi, '/lib/' + multi] if multi else ['/lib', '/lib64', '/usr/lib', '/usr/lib64']
paths += ['/usr/lib/locale/C.utf8']
exe = os.path.realpath(sys.executable)
version = '%s %s' % (sys.implementation.name, '.'.join(map(str, sys.version_info[:3])))
print(json.dumps({'exe': exe, 'version': version, 'visible': [exe] + paths, 'is_new': sys.version_info >= (3, 10)}))";

/// A real interpreter, found behind whatever shims there are.
#[derive(Debug, Clone, Deserialize)]
pub struct Interpreter {
    exe: PathBuf,
    version: String,
    visible: Vec<String>,
    /// Whether the zygote can run on it.
    is_new: bool,
}

impl Interpreter {
    /// Asks the interpreter of this name what it is; takes as long as Python takes to start. `name` is as in [`Config::interpreter`].
    ///
    /// # Errors
    /// [`SandboxError::Interpreter`] where it does not run.
    pub fn find(name: &str) -> Result<Self, SandboxError> {
        let failed = |problem: String| SandboxError::Interpreter { name: name.into(), problem };
        let output = Command::new(name)
            .args(["-s", "-S", "-B", "-c", ASK])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let mut found: Self = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
        if !found.is_new {
            return Err(failed(format!("it is {}, and 3.10 or newer is needed", found.version)));
        }
        // A path below another that is shown whole needs no line of its own.
        let mut visible: Vec<String> = Vec::new();
        for path in std::mem::take(&mut found.visible) {
            let below = |whole: &String| path == *whole || path.starts_with(&format!("{whole}/"));
            let real = Path::new(&path);
            if real.exists() && !visible.iter().any(|whole| below(whole) && !Path::new(whole).is_symlink()) {
                // `/lib/x86_64-linux-gnu` where `/lib` is a link to `usr/lib`: seen through the link.
                if real.parent().is_none_or(|parent| !parent.is_symlink()) {
                    visible.push(path);
                }
            }
        }
        found.visible = visible;
        Ok(found)
    }

    /// The program itself.
    pub fn path(&self) -> &Path {
        &self.exe
    }

    /// Kind and version, as `cpython 3.11.7`: what verdicts depend on beside the programs.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// A running zygote.
#[derive(Debug)]
pub(super) struct Zygote {
    child: Child,
    control: OwnedFd,
    /// How programs are shut in.
    pub(super) isolation: Isolation,
    /// Where there are no namespaces, programs write here; emptied after each.
    work: Option<tempfile::TempDir>,
    /// Whether the addresses that a process reserves are limited too. Python uses what it reserves; other run times reserve a multiple.
    limits_addresses: bool,
}

#[derive(Deserialize)]
struct Hello {
    #[serde(default)]
    failed: Option<String>,
    #[serde(default)]
    in_force: Vec<String>,
    #[serde(default)]
    missing: BTreeMap<String, String>,
}

/// How a process ended, as the zygote tells it.
#[derive(Debug, Deserialize)]
struct Ended {
    setup: Option<String>,
    exit: Option<i32>,
    signal: Option<i32>,
    reason: Option<Reason>,
    wall_s: f64,
    cpu_s: f64,
    peak_memory_bytes: u64,
}

/// Which limit the supervisor ended a process for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    Cpu,
    Wall,
    Memory,
}

/// What a process is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process<'a> {
    /// What its mode is, and what that mode needs.
    pub(super) request: &'a Json,
    /// Its standard input.
    pub(super) stdin: &'a [u8],
    /// A file that was compiled before.
    pub(super) artifact: Option<&'a File>,
}

impl<'a> Process<'a> {
    /// A process without input.
    pub(super) fn of(request: &'a Json) -> Self {
        Self { request, stdin: b"", artifact: None }
    }
}

/// What became of one process.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) reason: Option<Reason>,
    pub(super) wall_s: f64,
    pub(super) cpu_s: f64,
    pub(super) peak_memory_bytes: u64,
    pub(super) stdout: Vec<u8>,
    /// The beginning of it.
    pub(super) stderr: Vec<u8>,
    /// What it wrote as its result: records, or the file that it was to make.
    pub(super) result: File,
    /// What it said there that no listener was told.
    pub(super) records: Vec<Record>,
    /// Whether the result is as large as an output may be: what came behind is lost.
    pub(super) is_full: bool,
}

impl Zygote {
    /// Starts a zygote; without namespaces where building the jail with them failed half-way.
    pub(super) fn start(interpreter: &Interpreter, config: &Config) -> Result<Self, SandboxError> {
        let mut disable: Vec<&str> = config.without.iter().map(|feature| feature.name()).collect();
        match Self::start_once(interpreter, config, &disable)? {
            Ok(zygote) => Ok(zygote),
            Err(problem) => {
                disable.push("namespaces");
                let mut zygote = Self::start_once(interpreter, config, &disable)?
                    .map_err(|again| SandboxError::Start(format!("{problem}; {again}")))?;
                for missing in &mut zygote.isolation.missing {
                    if problem.starts_with(missing.feature.name()) {
                        missing.why.clone_from(&problem);
                    }
                }
                Ok(zygote)
            }
        }
    }

    fn start_once(
        interpreter: &Interpreter,
        config: &Config,
        disable: &[&str],
    ) -> Result<Result<Self, String>, SandboxError> {
        let work = if disable.contains(&Feature::Namespaces.name()) {
            let folder = config.scratch.clone().unwrap_or_else(std::env::temp_dir);
            Some(tempfile::Builder::new().prefix("ablate-sandbox-").tempdir_in(folder)?)
        } else {
            None
        };
        let mut visible = interpreter.visible.clone();
        let more = config.language.as_ref().map(Toolchain::visible).unwrap_or_default();
        visible.extend(more.iter().filter(|path| !interpreter.visible.contains(path)).cloned());
        let settings = json!({
            "work": work.as_ref().map(tempfile::TempDir::path), "visible": visible, "disable": disable, "pinned": config.pinned,
            "filter": seccomp::filter(), "filter_without_namespaces": seccomp::filter_without_namespaces(),
        });
        let (control, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let log = memory_file("log", b"")?;
        let child = Command::new(&interpreter.exe)
            .args(["-s", "-S", "-B", "-c", SCRIPT, &settings.to_string()])
            .env_clear()
            .envs([("LANG", "C.UTF-8"), ("TZ", "UTC"), ("PYTHONHASHSEED", "0")])
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.try_clone()?))
            .spawn()
            .map_err(|error| SandboxError::Start(format!("{}: {error}", interpreter.exe.display())))?;
        setsockopt(&control, sockopt::ReceiveTimeout, &TimeVal::seconds(60))?;
        let isolation = Isolation::graded(Vec::new(), &BTreeMap::new());
        let mut zygote = Self { child, control, isolation, work, limits_addresses: config.language.is_none() };
        let answer = zygote.receive().map_err(|error| {
            let said = contents(&log, MOST_STDERR).unwrap_or_default();
            SandboxError::Start(format!("the zygote said nothing ({error}): {}", String::from_utf8_lossy(&said).trim()))
        })?;
        let hello: Hello = serde_json::from_slice(&answer).map_err(|error| SandboxError::Start(error.to_string()))?;
        if let Some(problem) = hello.failed {
            return Ok(Err(problem));
        }
        zygote.isolation = Isolation::graded(hello.in_force, &hello.missing);
        Ok(Ok(zygote))
    }

    /// Tells a listener what a process says, until the process has ended or is told to.
    fn listen(
        &self,
        listener: &mut dyn Listener,
        pipe: &mut File,
        heard: &mut Heard,
        limits: &Limits,
        latest: Instant,
    ) -> Result<(), SandboxError> {
        listener.begin();
        let mut part = vec![0; 1 << 16];
        let mut pause = LISTENING;
        loop {
            let has_ended = self.answers_until(latest.min(Instant::now() + pause))?;
            let (mut num_heard, mut goes_on) = (0, true);
            while goes_on {
                match pipe.read(&mut part) {
                    Ok(0) => break,
                    Ok(length) => {
                        heard.take(&part[..length]);
                        num_heard += length;
                        goes_on = heard.of_cases().into_iter().all(|record| listener.hear(record))
                            && !heard.is_full(limits.output_bytes);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if has_ended {
                return Ok(());
            }
            if !goes_on {
                send(self.control.as_raw_fd(), ENOUGH, MsgFlags::MSG_NOSIGNAL).map_err(|_| SandboxError::Gone)?;
                return Ok(());
            }
            if Instant::now() >= latest {
                return Err(SandboxError::Stuck);
            }
            // One that says much would wait for room in the pipe.
            pause = if num_heard >= PIPE_BYTES as usize / 4 { LISTENING_CLOSELY } else { LISTENING };
        }
    }

    /// Waits until the zygote says something or has ended; returns whether it did so in time.
    fn answers_until(&self, latest: Instant) -> Result<bool, SandboxError> {
        let mut control = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = latest.saturating_duration_since(Instant::now());
            // Rounded up: a poll of nothing would be asked over and over.
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut control, left) {
                Ok(answers) => return Ok(answers > 0),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&self) -> Result<Vec<u8>, nix::Error> {
        let mut buffer = vec![0; 16384];
        loop {
            match recv(self.control.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Err(nix::Error::EPIPE),
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs one process, or two that are linked, until the last one ends. `listener` is told of the cases that the first one comes
    /// through. `Err(Gone)` where the zygote itself has died, `Err(Stuck)` where it does not answer.
    pub(super) fn run(
        &mut self,
        processes: &[Process<'_>],
        limits: &Limits,
        listener: &mut Option<&mut dyn Listener>,
    ) -> Result<Vec<Ran>, SandboxError> {
        let wall_s = limits.wall_s();
        // A program that was compiled lies in the work folder beside what it writes.
        let artifact = match processes {
            [Process { artifact: Some(artifact), .. }] => Some(*artifact),
            _ => None,
        };
        let given = artifact.map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        let header = json!({
            "cpu": limits.cpu_s, "wall": wall_s, "memory": limits.memory_bytes,
            "address_space": self.limits_addresses.then(|| limits.memory_bytes * 4 + (2 << 30)),
            "output": limits.output_bytes.max(given), "tmpfs": limits.work_bytes + given, "processes": limits.processes,
            "linked": processes.len() == 2,
        });
        let mut files = Vec::with_capacity(processes.len());
        for process in processes {
            let request = memory_file("request", process.request.to_string().as_bytes())?;
            let stdin = memory_file("stdin", process.stdin)?;
            let [stdout, stderr, result] = ["stdout", "stderr", "result"].map(|name| memory_file(name, b""));
            files.push([request, stdin, stdout?, stderr?, result?]);
        }
        let mut fds: Vec<RawFd> = files.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        // Who is listened to says it through a pipe, which holds no more than was not yet heard.
        let (mut pipe, mut theirs) = (None, None);
        if listener.is_some() {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)); // less where this user has many
            fds[RESULT] = writer.as_raw_fd();
            (pipe, theirs) = (Some(File::from(reader)), Some(writer));
        }
        if let Some(mut artifact) = artifact {
            artifact.seek(SeekFrom::Start(0))?;
            fds.push(artifact.as_raw_fd());
        }
        let message = header.to_string();
        sendmsg::<SockaddrStorage>(
            self.control.as_raw_fd(),
            &[IoSlice::new(message.as_bytes())],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|_| SandboxError::Gone)?;
        drop(theirs);
        // The supervisor keeps the limits; this is for the case that it is itself stuck or stopped.
        let latest = Instant::now() + Duration::from_secs_f64(wall_s + 60.0);
        let mut heard = Heard::default();
        if let (Some(listener), Some(mut pipe)) = (listener, pipe) {
            self.listen(&mut **listener, &mut pipe, &mut heard, limits, latest)?;
        }
        if !self.answers_until(latest)? {
            return Err(SandboxError::Stuck);
        }
        let answer = self.receive().map_err(|_| SandboxError::Gone)?;
        let ended: Vec<Ended> =
            serde_json::from_slice(&answer).map_err(|error| SandboxError::Jail(error.to_string()))?;
        if let Some(problem) = ended.iter().find_map(|ended| ended.setup.clone()) {
            return Err(SandboxError::Jail(problem));
        }
        if let Some(work) = &self.work {
            empty(work.path())?;
        }
        let most = limits.output_bytes + 1;
        let ran = |(ended, [_, _, stdout, stderr, result]): (Ended, [File; 5])| {
            let mut heard = std::mem::take(&mut heard);
            heard.take(&contents(&result, most)?);
            Ok(Ran {
                exit: ended.exit,
                signal: ended.signal,
                reason: ended.reason,
                wall_s: ended.wall_s,
                cpu_s: ended.cpu_s,
                peak_memory_bytes: ended.peak_memory_bytes,
                stdout: contents(&stdout, most)?,
                stderr: contents(&stderr, MOST_STDERR)?,
                is_full: heard.is_full(limits.output_bytes) || result.metadata()?.len() >= limits.output_bytes,
                records: heard.records,
                result,
            })
        };
        ended.into_iter().zip(files).map(ran).collect()
    }
}

#[cfg(test)]
impl Zygote {
    /// The processes that the zygote has started and not reaped, or that were handed to it.
    pub(super) fn children(&self) -> std::io::Result<Vec<i32>> {
        let pid = self.child.id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Ends the zygote as an out-of-memory kill would.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // An empty message is the end. Were the zygote stuck, the kill would still end it and, by their death signal, its children.
        let _ = send(self.control.as_raw_fd(), b"", MsgFlags::MSG_NOSIGNAL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes whatever a program left in its folder.
fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn memory_file(name: &str, bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    if !bytes.is_empty() {
        file.write_all(bytes)?;
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(file)
}

fn contents(mut file: &File, most: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
