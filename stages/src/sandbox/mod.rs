//! Running programs that a model wrote, and telling truly how they did.
//!
//! A [`Sandbox`] is one warm Python interpreter, the zygote. For every program it forks a child into new user, pid, mount, IPC
//! and host-name namespaces without a network, in which nothing of the host is to be seen but the interpreter, read-only; a
//! tmpfs of limited size is its working folder; rlimits, Landlock and a filter of system calls shut it in further
//! ([`Isolation`] says what is in force, and why what is missing is missing). The child is pid 1 of its namespace: when it ends,
//! everything that it started ends, and when the runner is killed, so are the zygote and the child.
//!
//! **A verdict is made here, in Rust, from serialised outputs.** Expected values never enter the process that runs a program,
//! nor any memory that it inherits: the zygote sees neither programs nor tests. Test code (style `assert`) runs in a second jailed
//! process that calls the program's functions from afar. The named exception is test code that needs what cannot cross between two
//! processes: it runs next to the program, and its verdicts say `trust: weak`.
//!
//! Memory is limited per process by `RLIMIT_DATA`, and over all processes of a program by the supervisor, which looks every
//! 10-50 ms; a control group would be tighter and is not used yet.

mod compare;
mod isolation;
mod judge;
mod language;
mod outputs;
mod pool;
mod reach;
mod records;
mod seccomp;
mod tether;
mod zygote;

#[cfg(test)]
mod tests;

pub use compare::{OutputComparator, ValueComparator};
pub use isolation::{Feature, Grade, Isolation, MissingFeature};
pub use judge::{Judgement, Program, Trust, Verdict};
pub use language::{Language, LanguageError, Toolchain};
pub use outputs::Outputs;
pub use zygote::Interpreter;

use crate::stage::StageError;
pub(crate) use pool::{config, open, share, tell, warn_of, worst};
pub(crate) use reach::{Reach, environment};
use records::Listener;
use serde_json::Value as Json;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
pub(crate) use tether::Tethered;
use zygote::{Process, Ran, Reason, Zygote};

/// What a sandbox is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Python to judge by: a name that is looked up in `PATH`, or a path. Shims and virtual environments are seen through:
    /// programs get the real interpreter and its standard library.
    pub interpreter: String,
    /// The grade below which the sandbox refuses to open.
    pub floor: Grade,
    /// Features to do without even where the machine has them.
    pub without: Vec<Feature>,
    /// What programs are written in, where it is not Python.
    pub language: Option<Toolchain>,
    /// The core that programs run on, so that what they take can be compared; any where it is not said.
    pub pinned: Option<usize>,
    /// Where programs write if the machine has no namespaces; the system's folder for temporary files where it is not said.
    pub scratch: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interpreter: "python3".into(),
            floor: Grade::Partial,
            without: Vec::new(),
            language: None,
            pinned: None,
            scratch: None,
        }
    }
}

/// What a program may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// CPU seconds of one test, over all processes of the program.
    pub cpu_s: f64,
    /// Wall time is limited to this times the CPU time, at least 5 times; a backstop for programs that wait.
    pub wall_factor: f64,
    /// Memory over all processes of the program, in bytes.
    pub memory_bytes: u64,
    /// Largest output, and largest file, in bytes.
    pub output_bytes: u64,
    /// Size of the working folder, in bytes.
    pub work_bytes: u64,
    /// Processes and threads at a time.
    pub processes: u32,
    /// Ends at the first test that is not passed; the others count as not passed.
    pub stop_at_first_failure: bool,
    /// After so many time-outs the other tests are not run, and count as not passed.
    pub max_timeouts: u32,
}

impl Limits {
    /// Wall seconds of one process.
    pub(crate) fn wall_s(&self) -> f64 {
        self.cpu_s * self.wall_factor.max(5.0)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_s: 4.0,
            wall_factor: 5.0,
            memory_bytes: 1 << 30,
            output_bytes: 16 << 20,
            work_bytes: 32 << 20,
            processes: 64,
            stop_at_first_failure: false,
            max_timeouts: 2,
        }
    }
}

/// Why a program could not be judged. Never a fault of the program.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no such interpreter.
    #[error("the Python interpreter `{name}` does not run: {problem}")]
    Interpreter {
        /// As it was named.
        name: String,
        /// What happened.
        problem: String,
    },
    /// The machine shuts programs in less well than is asked for.
    #[error("programs cannot be shut in well enough here: isolation is {:?}, at least {floor:?} is asked for; {}", isolation.grade, isolation.fixes())]
    Isolation {
        /// What the machine gives.
        isolation: Isolation,
        /// What is asked for.
        floor: Grade,
    },
    /// The zygote did not start.
    #[error("the sandbox did not start: {0}")]
    Start(String),
    /// A child could not be shut in; its program did not run.
    #[error("a program could not be shut in and was not run: {0}")]
    Jail(String),
    /// The zygote died, and so did the one started in its place.
    #[error("the sandbox died twice at the same program; the machine may be out of memory")]
    Gone,
    /// The zygote lives and did not answer, and neither did the one started in its place.
    #[error(
        "the sandbox gave no answer twice at the same program, a minute after its time was up; the machine may be overloaded"
    )]
    Stuck,
    /// A test cannot be read.
    #[error("test {index}: {problem}")]
    Test {
        /// Number of the test, from 1.
        index: usize,
        /// What is wrong.
        problem: String,
    },
    /// The machine refused something.
    #[error("the sandbox: {0}")]
    Io(#[from] std::io::Error),
    /// The machine refused something.
    #[error("the sandbox: {0}")]
    System(#[from] nix::Error),
}

impl From<LanguageError> for StageError {
    fn from(error: LanguageError) -> Self {
        match error {
            LanguageError::Tools { path, command, problem } => Self::Missing {
                what: format!("what `{command}` of {} runs", path.display()),
                fix: format!("install it, or mend it: {problem}"),
            },
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<SandboxError> for StageError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Interpreter { name, problem } => Self::Missing {
                what: format!("the Python interpreter `{name}`"),
                fix: format!("install Python 3, or mend it: {problem}"),
            },
            other => Self::failed(other.to_string()),
        }
    }
}

/// A place to run untrusted programs in. Several at a time are several sandboxes.
#[derive(Debug)]
pub struct Sandbox {
    interpreter: Interpreter,
    config: Config,
    zygote: Zygote,
    /// Held for reading while a process runs, for writing while one is to be alone.
    crowd: Arc<RwLock<()>>,
}

impl Sandbox {
    /// Starts a zygote; takes about 0.2 s.
    ///
    /// # Errors
    /// Where the interpreter does not run, or the machine shuts programs in less well than `config.floor` asks for.
    pub fn open(config: Config) -> Result<Self, SandboxError> {
        let interpreter = Interpreter::find(&config.interpreter)?;
        let zygote = Zygote::start(&interpreter, &config)?;
        if zygote.isolation.grade < config.floor {
            return Err(SandboxError::Isolation { isolation: zygote.isolation.clone(), floor: config.floor });
        }
        Ok(Self { interpreter, config, zygote, crowd: Arc::default() })
    }

    /// Opens so many sandboxes to be used at a time, at least one. They know of each other: what has only waited too long in one is
    /// run again while the others stand still.
    ///
    /// # Errors
    /// As [`Sandbox::open`].
    pub fn open_many(config: &Config, count: usize) -> Result<Vec<Self>, SandboxError> {
        let crowd = Arc::<RwLock<()>>::default();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (0..count.max(1))
            .map(|number| {
                let pinned = config.pinned.map(|first| (first + number) % cores);
                Ok(Self { crowd: crowd.clone(), ..Self::open(Config { pinned, ..config.clone() })? })
            })
            .collect()
    }

    /// The interpreter that programs run on.
    pub fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    /// How programs are shut in here.
    pub fn isolation(&self) -> &Isolation {
        &self.zygote.isolation
    }

    /// Runs a program against its tests.
    ///
    /// # Errors
    /// Where it could not be judged; whatever the program does wrong is a verdict.
    pub fn run(&mut self, program: &Program<'_>, limits: &Limits) -> Result<Judgement, SandboxError> {
        judge::run(self, program, limits)
    }

    /// For each source whether CPython's own `compile` takes it: none, or the message.
    ///
    /// # Errors
    /// Where the sandbox fails.
    pub fn parses(&mut self, sources: &[&str]) -> Result<Vec<Option<String>>, SandboxError> {
        judge::parses(self, sources)
    }

    /// One process; as [`Sandbox::processes`].
    fn process(&mut self, process: Process<'_>, limits: &Limits) -> Result<Ran, SandboxError> {
        self.processes(&[process], limits, None)?.pop().ok_or(SandboxError::Gone)
    }

    /// One process that is listened to; as [`Sandbox::processes`].
    fn listen(&mut self, request: &Json, limits: &Limits, listener: &mut dyn Listener) -> Result<Ran, SandboxError> {
        self.processes(&[Process::of(request)], limits, Some(listener))?.pop().ok_or(SandboxError::Gone)
    }

    /// One process or two that are linked. Where one has only waited too long, all of it is run again while no other sandbox runs
    /// anything: a machine that is busy must not fail a program. Returns what became of each.
    fn processes(
        &mut self,
        processes: &[Process<'_>],
        limits: &Limits,
        mut listener: Option<&mut dyn Listener>,
    ) -> Result<Vec<Ran>, SandboxError> {
        let crowd = self.crowd.clone();
        let ran = {
            let _one_of_many = crowd.read().unwrap_or_else(PoisonError::into_inner);
            self.once(processes, limits, &mut listener)?
        };
        if ran.iter().all(|ran| ran.reason != Some(Reason::Wall)) {
            return Ok(ran);
        }
        let _alone = crowd.write().unwrap_or_else(PoisonError::into_inner);
        self.once(processes, limits, &mut listener)
    }

    /// A zygote that has died or does not answer is replaced once.
    fn once(
        &mut self,
        processes: &[Process<'_>],
        limits: &Limits,
        listener: &mut Option<&mut dyn Listener>,
    ) -> Result<Vec<Ran>, SandboxError> {
        match self.zygote.run(processes, limits, listener) {
            Err(SandboxError::Gone | SandboxError::Stuck) => {
                self.zygote = Zygote::start(&self.interpreter, &self.config)?;
                self.zygote.run(processes, limits, listener)
            }
            other => other,
        }
    }
}
