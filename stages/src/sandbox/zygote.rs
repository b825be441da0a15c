//! The zygote's other end: starts it, hands it programs, reads what became of them.

use super::isolation::Isolation;
use super::{Config, Limits, SandboxError, seccomp};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, recv, send, sendmsg, setsockopt,
    socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program that the zygote runs.
const SCRIPT: &str = include_str!("zygote.py");
/// Asks an interpreter what it is, and which of the machine's files it needs.
const ASK: &str = "\
import json, os, sys, sysconfig
get = sysconfig.get_config_var
paths = [sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib')]
if get('Py_ENABLE_SHARED'): paths.append(os.path.join(get('LIBDIR'), get('INSTSONAME')))
multi = get('MULTIARCH') or ''
paths += ['/lib', '/lib64', '/usr/lib64', '/usr/lib/' + multi, '/lib/' + multi] if multi else ['/lib', '/lib64', '/usr/lib', '/usr/lib64']
exe = os.path.realpath(sys.executable)
version = '%s %s' % (sys.implementation.name, '.'.join(map(str, sys.version_info[:3])))
print(json.dumps({'exe': exe, 'version': version, 'visible': [exe] + paths}))";

/// A real interpreter, found behind whatever shims there are.
#[derive(Debug, Clone, Deserialize)]
pub struct Interpreter {
    exe: PathBuf,
    version: String,
    visible: Vec<String>,
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
    /// Where Landlock alone guards the files, programs write here; emptied after each.
    work: PathBuf,
    _folder: tempfile::TempDir,
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
    pub(super) records: Vec<Record>,
    /// Whether the result is as large as an output may be: what came behind is lost.
    pub(super) is_full: bool,
}

/// A line of the result: what the child says of one case. The program can write here too: it speaks for itself alone.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: u8,
    pub(super) index: i64,
    pub(super) text: String,
}

impl Zygote {
    /// Starts a zygote; without namespaces where building the jail with them failed half-way.
    pub(super) fn start(interpreter: &Interpreter, config: &Config) -> Result<Self, SandboxError> {
        let mut disable: Vec<&str> = config.without.iter().map(|feature| feature.name()).collect();
        match Self::start_once(interpreter, &disable)? {
            Ok(zygote) => Ok(zygote),
            Err(problem) => {
                disable.push("namespaces");
                let mut zygote = Self::start_once(interpreter, &disable)?
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

    fn start_once(interpreter: &Interpreter, disable: &[&str]) -> Result<Result<Self, String>, SandboxError> {
        let folder = tempfile::Builder::new().prefix("ablate-sandbox-").tempdir()?;
        let (root, work) = (folder.path().join("root"), folder.path().join("work"));
        std::fs::create_dir(&root)?;
        std::fs::create_dir(&work)?;
        let config = json!({
            "root": root, "work": work, "visible": interpreter.visible, "disable": disable,
            "filters": seccomp::filters()?, "no_namespace_filter": seccomp::no_namespace_filter()?,
        });
        let (control, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let log = memory_file("log", b"")?;
        let child = Command::new(&interpreter.exe)
            .args(["-s", "-S", "-B", "-c", SCRIPT, &config.to_string()])
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
        let mut zygote = Self { child, control, isolation, work, _folder: folder };
        let answer = zygote.receive().map_err(|error| {
            let said = contents(log, 2000).unwrap_or_default();
            SandboxError::Start(format!("the zygote said nothing ({error}): {}", String::from_utf8_lossy(&said).trim()))
        })?;
        let hello: Hello = serde_json::from_slice(&answer).map_err(|error| SandboxError::Start(error.to_string()))?;
        if let Some(problem) = hello.failed {
            return Ok(Err(problem));
        }
        zygote.isolation = Isolation::graded(hello.in_force, &hello.missing);
        Ok(Ok(zygote))
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

    /// Runs one process. `Err(Gone)` where the zygote itself has died, `Err(Stuck)` where it does not answer.
    pub(super) fn run(&mut self, request: &Json, stdin: &[u8], limits: &Limits) -> Result<Ran, SandboxError> {
        let wall_s = limits.cpu_s * limits.wall_factor.max(5.0);
        let header = json!({
            "cpu": limits.cpu_s, "wall": wall_s, "memory": limits.memory_bytes, "output": limits.output_bytes,
            "tmpfs": limits.work_bytes, "processes": limits.processes,
        });
        let [stdout, stderr, result] = ["stdout", "stderr", "result"].map(|name| memory_file(name, b""));
        let (stdout, stderr, result) = (stdout?, stderr?, result?);
        let files = [
            &memory_file("request", request.to_string().as_bytes())?,
            &memory_file("stdin", stdin)?,
            &stdout,
            &stderr,
            &result,
        ];
        let fds = files.map(AsRawFd::as_raw_fd);
        let message = header.to_string();
        // The supervisor keeps the limits; this is for the case that it is itself stuck or stopped.
        setsockopt(&self.control, sockopt::ReceiveTimeout, &TimeVal::seconds(wall_s as i64 + 60))?;
        sendmsg::<SockaddrStorage>(
            self.control.as_raw_fd(),
            &[IoSlice::new(message.as_bytes())],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|_| SandboxError::Gone)?;
        let answer = self.receive().map_err(|error| match error {
            nix::Error::EAGAIN => SandboxError::Stuck,
            _ => SandboxError::Gone,
        })?;
        let ended: Ended = serde_json::from_slice(&answer).map_err(|error| SandboxError::Jail(error.to_string()))?;
        if let Some(problem) = ended.setup {
            return Err(SandboxError::Jail(problem));
        }
        if self.isolation.missing.iter().any(|missing| missing.feature == super::Feature::Namespaces) {
            empty(&self.work)?;
        }
        let most = limits.output_bytes + 1;
        let result = contents(result, most)?;
        Ok(Ran {
            exit: ended.exit,
            signal: ended.signal,
            reason: ended.reason,
            wall_s: ended.wall_s,
            cpu_s: ended.cpu_s,
            peak_memory_bytes: ended.peak_memory_bytes,
            stdout: contents(stdout, most)?,
            is_full: result.len() as u64 >= limits.output_bytes,
            records: records(&result),
        })
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

fn contents(mut file: File, most: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads records until the first that is cut off or malformed.
fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        let Ok(line) = std::str::from_utf8(&bytes[..end]) else { break };
        let mut words = line.split(' ');
        let (Some(kind), Some(index), Some(length)) = (words.next(), words.next(), words.next()) else { break };
        let (&[kind], Ok(index), Ok(length)) = (kind.as_bytes(), index.parse(), length.parse::<usize>()) else { break };
        let start = end + 1;
        let Some(text) = start.checked_add(length).and_then(|stop| bytes.get(start..stop)) else { break };
        records.push(Record { kind, index, text: String::from_utf8_lossy(text).into_owned() });
        bytes = bytes.get(start + length + 1..).unwrap_or_default();
    }
    records
}
