//! From runs to verdicts: every test of a program, in as few processes as its style allows.
//!
//! `stdio` runs one process a case. `call` runs all cases in one; a crash or a time-out costs the one case and the rest goes on
//! in a new process. A limit that was reached with earlier cases behind it says nothing about the case at hand, which is then
//! run again as the first of a process, so that each case has the whole limit. `assert` runs two linked processes, the program in
//! one and its test in the other; where the test needs what cannot cross between them, one process with both, trusted less.

use super::compare::{OutputComparator, ValueComparator};
use super::records::{Listener, Record};
use super::zygote::{Process, Ran, Reason};
use super::{Limits, Sandbox, SandboxError, Toolchain, language};
use crate::code::literal::Value;
use crate::columns::{Case, Check, TestStyle, Tests};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

/// How a program did; the worst over its tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every test was passed.
    Passed,
    /// It ran, and answered otherwise than expected.
    Wrong,
    /// It raised an exception, could not be compiled, or ended without an answer.
    Error,
    /// It wrote more than is allowed.
    OutputLimit,
    /// It took more memory than is allowed.
    Memory,
    /// It took more time than is allowed.
    Timeout,
    /// A signal ended it that no limit explains, such as a segmentation fault.
    Killed,
}

impl Verdict {
    /// All of them, from the best to the worst.
    pub const ALL: [Self; 7] =
        [Self::Passed, Self::Wrong, Self::Error, Self::OutputLimit, Self::Memory, Self::Timeout, Self::Killed];

    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Wrong => "wrong",
            Self::Error => "error",
            Self::OutputLimit => "output-limit",
            Self::Memory => "memory",
            Self::Timeout => "timeout",
            Self::Killed => "killed",
        }
    }
}

/// Where a verdict was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Outside the program's process, which never had the expected values.
    Full,
    /// By test code inside it.
    Weak,
}

impl Trust {
    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Weak => "weak",
        }
    }
}

/// A program and how it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The whole program.
    pub source: &'a str,
    /// The function that tests call, or the method of `Solution`.
    pub entry_point: Option<&'a str>,
    /// Its tests.
    pub tests: &'a Tests,
    /// How standard output is compared.
    pub output: OutputComparator,
    /// How returned values are compared.
    pub value: ValueComparator,
    /// Whether to say which lines the tests run. Costs a second, slower run; the verdict is of the first.
    pub coverage: bool,
}

/// What came of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The worst over all tests.
    pub verdict: Verdict,
    /// Tests that were passed.
    pub tests_passed: u32,
    /// Tests there are; 1 for test code.
    pub tests_total: u32,
    /// What went wrong first, in a line.
    pub first_failure: Option<String>,
    /// The comparator used.
    pub comparator: String,
    /// Where the verdict was made.
    pub trust: Trust,
    /// Wall time over all tests, in seconds.
    pub wall_s: f64,
    /// CPU time over all tests, in seconds.
    pub cpu_s: f64,
    /// Largest memory over all tests, in bytes.
    pub peak_memory_bytes: u64,
    /// The lines of the source, from 1, that ran under the tests, where it was asked. The program's own process says so: lines of a
    /// program that means to deceive may be false, unlike its verdict.
    pub covered_lines: Option<BTreeSet<u32>>,
}

/// What became of one test.
type Settled = (Verdict, String);

/// The tests of a program on their way to a judgement.
struct Tally {
    settled: Vec<Option<Settled>>,
    timeouts: u32,
    wall_s: f64,
    cpu_s: f64,
    peak_memory_bytes: u64,
    lines: BTreeSet<u32>,
}

impl Tally {
    fn new(tests: usize) -> Self {
        let settled = vec![None; tests];
        Self { settled, timeouts: 0, wall_s: 0.0, cpu_s: 0.0, peak_memory_bytes: 0, lines: BTreeSet::new() }
    }

    /// Counts what a process took and the lines that it ran, and takes the latter out of its records.
    fn count(&mut self, ran: &mut Ran) {
        // How it ended, where the process that the kernel tells of is not the one that a signal ended.
        if let Some(killed) = ran.records.iter().find(|record| record.kind == b'K') {
            ran.signal = i32::try_from(killed.index).ok();
        }
        ran.records.retain(|record| {
            let is_line = record.kind == b'L';
            self.lines.extend(u32::try_from(record.index).ok().filter(|_| is_line));
            !is_line
        });
        self.wall_s += ran.wall_s;
        self.cpu_s += ran.cpu_s;
        self.peak_memory_bytes = self.peak_memory_bytes.max(ran.peak_memory_bytes);
    }

    /// Settles a test, and the ones behind it where the limits say to stop. Returns whether to go on.
    fn settle(&mut self, test: usize, (verdict, note): Settled, limits: &Limits) -> bool {
        self.timeouts += u32::from(verdict == Verdict::Timeout);
        self.settled[test] = Some((verdict, note));
        let stop =
            (limits.stop_at_first_failure && verdict != Verdict::Passed) || self.timeouts >= limits.max_timeouts.max(1);
        if stop {
            self.settle_rest(&(verdict, "not run, as the limits say".into()));
        }
        !stop
    }

    fn settle_rest(&mut self, with: &Settled) {
        for slot in &mut self.settled {
            slot.get_or_insert_with(|| with.clone());
        }
    }

    fn judgement(self, comparator: String, trust: Trust) -> Judgement {
        let settled: Vec<Settled> = self.settled.into_iter().flatten().collect();
        let first_failure = settled.iter().position(|(verdict, _)| *verdict != Verdict::Passed).map(|test| {
            let note = &settled[test].1;
            if settled.len() == 1 { shown(note, 400) } else { format!("test {}: {}", test + 1, shown(note, 400)) }
        });
        Judgement {
            verdict: settled.iter().map(|(verdict, _)| *verdict).max().unwrap_or(Verdict::Error),
            tests_passed: settled.iter().filter(|(verdict, _)| *verdict == Verdict::Passed).count() as u32,
            tests_total: settled.len() as u32,
            first_failure,
            comparator,
            trust,
            wall_s: self.wall_s,
            cpu_s: self.cpu_s,
            peak_memory_bytes: self.peak_memory_bytes,
            covered_lines: Some(self.lines),
        }
    }
}

/// Tracing lines slows Python down by about this much.
const TRACING_SLOWDOWN: f64 = 20.0;

pub(super) fn run(sandbox: &mut Sandbox, program: &Program<'_>, limits: &Limits) -> Result<Judgement, SandboxError> {
    let judged = run_once(sandbox, &Program { coverage: false, ..*program }, limits)?;
    let covered_lines = if program.coverage {
        let slower = Limits { cpu_s: limits.cpu_s * TRACING_SLOWDOWN, ..limits.clone() };
        let num_lines = program.source.lines().count() as u32;
        let mut lines = run_once(sandbox, program, &slower)?.covered_lines.unwrap_or_default();
        lines.retain(|line| (1..=num_lines).contains(line));
        Some(lines)
    } else {
        None
    };
    Ok(Judgement { covered_lines, ..judged })
}

fn run_once(sandbox: &mut Sandbox, program: &Program<'_>, limits: &Limits) -> Result<Judgement, SandboxError> {
    match (program.tests.style, sandbox.config.language.clone()) {
        (TestStyle::Stdio, None) => run_stdio(sandbox, program, limits),
        (TestStyle::Stdio, Some(tools)) => run_compiled(sandbox, &tools, program, limits),
        (style, Some(tools)) => Err(no_tests(&format!(
            "programs in {} are judged by standard input and output alone, and these tests are of style `{}`",
            tools.name(),
            style.name()
        ))),
        (TestStyle::Call, None) => run_call(sandbox, program, limits),
        (TestStyle::Assert, None) => run_assert(sandbox, program, limits),
    }
}

fn no_tests(problem: &str) -> SandboxError {
    SandboxError::Test { index: 1, problem: problem.into() }
}

fn run_stdio(sandbox: &mut Sandbox, program: &Program<'_>, limits: &Limits) -> Result<Judgement, SandboxError> {
    let request = json!({ "mode": "stdio", "program": program.source, "coverage": program.coverage });
    run_scripts(sandbox, &request, None, program, limits)
}

/// Compiles a program if its language asks for it, and runs it.
fn run_compiled(
    sandbox: &mut Sandbox,
    tools: &Toolchain,
    program: &Program<'_>,
    limits: &Limits,
) -> Result<Judgement, SandboxError> {
    let mut artifact = None;
    if let Some(request) = tools.compile_request(program.source) {
        let limits = language::compile_limits(limits);
        let mut ran = sandbox.process(Process::of(&request), &limits)?;
        let failed = early_end(&ran, &limits).or_else(|| {
            let said = String::from_utf8_lossy(&ran.stderr);
            let written = || said.lines().filter(|line| !line.trim().is_empty());
            let said = written().find(|line| line.contains("error")).or_else(|| written().next());
            let said = said.unwrap_or("the compiler gave no reason");
            (ran.exit != Some(0)).then(|| (Verdict::Error, format!("does not compile: {said}")))
        });
        if let Some(failed) = failed {
            let mut tally = Tally::new(program.tests.cases.len());
            tally.count(&mut ran);
            tally.settle_rest(&failed);
            return Ok(tally.judgement(program.output.name(), Trust::Full));
        }
        artifact = Some(ran.result);
    }
    run_scripts(sandbox, &tools.run_request(program.source), artifact.as_ref(), program, limits)
}

/// One process a case; what it prints is compared.
fn run_scripts(
    sandbox: &mut Sandbox,
    request: &Json,
    artifact: Option<&File>,
    program: &Program<'_>,
    limits: &Limits,
) -> Result<Judgement, SandboxError> {
    let cases = &program.tests.cases;
    if cases.is_empty() {
        return Err(no_tests("there is none; a program without tests cannot be judged"));
    }
    let mut tally = Tally::new(cases.len());
    for (test, case) in cases.iter().enumerate() {
        let mut ran = sandbox.process(Process { request, stdin: case.input.as_bytes(), artifact }, limits)?;
        tally.count(&mut ran);
        if !tally.settle(test, printed(program, case, &ran, limits), limits) {
            break;
        }
    }
    Ok(tally.judgement(program.output.name(), Trust::Full))
}

/// Judges what a process printed.
fn printed(program: &Program<'_>, case: &Case, ran: &Ran, limits: &Limits) -> Settled {
    let error = ran.records.first().filter(|record| b"EMO".contains(&record.kind));
    if let Some(early) = early_end(ran, limits) {
        early
    } else if ran.stdout.len() as u64 >= limits.output_bytes {
        (Verdict::OutputLimit, format!("wrote more than {} bytes", limits.output_bytes))
    } else if let Some(error) = error {
        (error_verdict(error.kind), error.text.clone())
    } else if ran.exit != Some(0) {
        let said = String::from_utf8_lossy(&ran.stderr);
        let said =
            said.lines().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}")).unwrap_or_default();
        (Verdict::Error, format!("exit code {}{said}", ran.exit.unwrap_or(-1)))
    } else if program.output.accepts(&case.output, &ran.stdout) {
        (Verdict::Passed, String::new())
    } else {
        let found = String::from_utf8_lossy(&ran.stdout);
        (Verdict::Wrong, format!("expected {:?}, got {:?}", shown(&case.output, 120), shown(&found, 120)))
    }
}

fn run_call(sandbox: &mut Sandbox, program: &Program<'_>, limits: &Limits) -> Result<Judgement, SandboxError> {
    let cases = &program.tests.cases;
    if cases.is_empty() {
        return Err(no_tests("there is none; a program without tests cannot be judged"));
    }
    let Some(entry_point) = program.entry_point else {
        return Err(no_tests("tests of style `call` need an entry_point"));
    };
    let inputs: Vec<&str> = cases.iter().map(|case| case.input.as_str()).collect();
    let mut calls = Calls {
        program,
        limits,
        tally: Tally::new(cases.len()),
        start: 0,
        next: 0,
        is_open: false,
        is_over: false,
        is_deaf: false,
        fault: None,
    };
    while !calls.is_over {
        let start = calls.next;
        calls.start = start;
        let request = json!({
            "mode": "call", "program": program.source, "entry_point": entry_point, "inputs": &inputs[start..], "start": start,
            "coverage": program.coverage,
        });
        let mut ran = sandbox.listen(&request, limits, &mut calls)?;
        if let Some(fault) = calls.fault {
            return Err(fault);
        }
        calls.tally.count(&mut ran);
        calls.end(&ran);
    }
    Ok(calls.tally.judgement(program.value.name().into(), Trust::Full))
}

/// The cases of style `call`, settled one by one as a process comes through them.
struct Calls<'a> {
    program: &'a Program<'a>,
    limits: &'a Limits,
    tally: Tally,
    /// The first case of the process that runs.
    start: usize,
    /// The case that is the next to be settled.
    next: usize,
    /// Whether its call has begun.
    is_open: bool,
    /// Whether all cases are settled.
    is_over: bool,
    /// Whether the process has said what makes no sense: nothing that it says after that counts.
    is_deaf: bool,
    /// A fault of the test, which leaves nothing to judge.
    fault: Option<SandboxError>,
}

impl Listener for Calls<'_> {
    fn begin(&mut self) {
        self.tally.settled[self.start..].fill(None);
        self.next = self.start;
        (self.is_open, self.is_over, self.is_deaf) = (false, false, false);
    }

    fn hear(&mut self, record: Record) -> bool {
        let cases = &self.program.tests.cases;
        let is_at_begin = !self.is_open && self.next == self.start;
        if self.is_deaf || self.is_over {
        } else if record.kind == b'T' && is_at_begin {
            let test = usize::try_from(record.index).unwrap_or_default().min(cases.len() - 1);
            // Checked here too: a program could have written this.
            match Value::parse(&cases[test].input) {
                Err(error) => {
                    let problem = format!("the arguments are no Python literal: {error} (Python: {})", record.text);
                    self.fault = Some(SandboxError::Test { index: test + 1, problem });
                    self.is_over = true;
                }
                Ok(_) => self.settle_rest(&(Verdict::Error, format!("test {}: {}", test + 1, record.text))),
            }
        } else if record.index == -1 && b"EMO".contains(&record.kind) && is_at_begin {
            self.settle_rest(&(error_verdict(record.kind), record.text));
        } else if record.index != self.next as i64 {
            self.is_deaf = true;
        } else {
            match (record.kind, self.is_open) {
                (b'C', false) => self.is_open = true,
                (b'R', true) => match answer(self.program, self.next, &record.text) {
                    Ok(settled) => self.settle(settled),
                    Err(fault) => (self.fault, self.is_over) = (Some(fault), true),
                },
                (b'E' | b'M' | b'O', true) => self.settle((error_verdict(record.kind), record.text)),
                _ => self.is_deaf = true,
            }
        }
        !self.is_over
    }
}

impl Calls<'_> {
    /// Settles the next case.
    fn settle(&mut self, settled: Settled) {
        let goes_on = self.tally.settle(self.next, settled, self.limits);
        self.next += 1;
        self.is_open = false;
        self.is_over = !goes_on || self.next >= self.program.tests.cases.len();
    }

    fn settle_rest(&mut self, with: &Settled) {
        self.tally.settle_rest(with);
        self.is_over = true;
    }

    /// The process has ended. Where its last case was not answered, that is for how it ended.
    fn end(&mut self, ran: &Ran) {
        if self.is_over {
            return;
        }
        let early = early_end(ran, self.limits).unwrap_or_else(|| {
            (Verdict::Error, format!("ended by itself with exit code {} before it returned", ran.exit.unwrap_or(-1)))
        });
        let by_limit = matches!(early.0, Verdict::Timeout | Verdict::Memory | Verdict::OutputLimit);
        if by_limit && self.next > self.start {
            // Run again as the first of a process.
        } else if !self.is_open && self.next == self.start {
            // It never came to a case: no other case will fare better.
            self.settle_rest(&early);
        } else {
            self.settle(early);
        }
    }
}

/// Compares what a call returned.
fn answer(program: &Program<'_>, test: usize, text: &str) -> Result<Settled, SandboxError> {
    let case = &program.tests.cases[test];
    if ValueComparator::is_same_text(case, text) {
        return Ok((Verdict::Passed, String::new()));
    }
    let Ok(found) = Value::parse_encoded(text) else {
        return Ok((Verdict::Wrong, format!("returned what cannot be read: {}", shown(text, 120))));
    };
    let accepted = program
        .value
        .accepts(&program.tests.cases, test, &found)
        .map_err(|error| SandboxError::Test { index: test + 1, problem: format!("the expected value is {error}") })?;
    if accepted {
        return Ok((Verdict::Passed, String::new()));
    }
    let wanted = match case.check {
        Check::Equal => shown(&case.output, 120),
        Check::Truthy => "something true".into(),
        Check::Falsy => "something false".into(),
        Check::Close => format!("{} within {}", shown(&case.output, 120), case.tolerance.unwrap_or(1e-6)),
        Check::Root => format!("a root within {}", case.tolerance.unwrap_or(1e-6)),
    };
    Ok((Verdict::Wrong, format!("expected {wanted}, got {}", shown(text, 120))))
}

fn run_assert(sandbox: &mut Sandbox, program: &Program<'_>, limits: &Limits) -> Result<Judgement, SandboxError> {
    let Some(code) = program.tests.code.as_deref().filter(|code| !code.trim().is_empty()) else {
        return Err(no_tests("there is none; a program without tests cannot be judged"));
    };
    let serve = json!({
        "mode": "serve", "program": program.source, "entry_point": program.entry_point, "coverage": program.coverage,
    });
    let test = json!({
        "mode": "test", "code": code, "setup": program.tests.setup, "entry_point": program.entry_point, "most": limits.output_bytes,
    });
    let mut ran = sandbox.processes(&[Process::of(&serve), Process::of(&test)], limits, None)?;
    let (Some(mut tester), Some(mut candidate)) = (ran.pop(), ran.pop()) else { return Err(SandboxError::Gone) };
    let mut tally = Tally::new(1);
    tally.count(&mut candidate);
    let said = tester.records.pop();
    match said.as_ref().map(|said| said.kind) {
        Some(b'X') => return run_assert_beside(sandbox, program, code, limits),
        Some(b'T') => {
            let problem = said.map(|said| said.text).unwrap_or_default();
            return Err(SandboxError::Test { index: 1, problem: format!("the test code cannot be run: {problem}") });
        }
        _ => {}
    }
    // Nothing but what kept the program from starting is said by its own process.
    let not_loaded = candidate.records.iter().find(|record| b"EMO".contains(&record.kind));
    let settled = if let Some(early) = early_end(&candidate, limits) {
        early
    } else if let Some(error) = not_loaded {
        (error_verdict(error.kind), error.text.clone())
    } else if let Some(said) = said {
        match said.kind {
            b'P' if tester.exit == Some(0) => (Verdict::Passed, String::new()),
            b'W' => (Verdict::Wrong, said.text),
            kind => (error_verdict(kind), said.text),
        }
    } else {
        let (verdict, note) = early_end(&tester, limits).unwrap_or((Verdict::Error, "ended".into()));
        (verdict, format!("the process of the test, not the program's: {note}"))
    };
    tally.settle(0, settled, limits);
    Ok(tally.judgement("assert".into(), Trust::Full))
}

/// The weak mode: test code in the program's own process.
fn run_assert_beside(
    sandbox: &mut Sandbox,
    program: &Program<'_>,
    code: &str,
    limits: &Limits,
) -> Result<Judgement, SandboxError> {
    let mut secret = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let nonce: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let request = json!({
        "mode": "assert", "program": program.source, "entry_point": program.entry_point, "code": code,
        "setup": program.tests.setup, "nonce": nonce, "coverage": program.coverage,
    });
    let mut tally = Tally::new(1);
    let mut ran = sandbox.process(Process::of(&request), limits)?;
    tally.count(&mut ran);
    let settled = match (early_end(&ran, limits), ran.records.last()) {
        (Some(early), _) => early,
        (None, Some(record)) if record.kind == b'P' && record.text == nonce && ran.exit == Some(0) => {
            (Verdict::Passed, String::new())
        }
        (None, Some(record)) if record.kind == b'W' => (Verdict::Wrong, record.text.clone()),
        (None, Some(record)) if b"EMO".contains(&record.kind) => (error_verdict(record.kind), record.text.clone()),
        _ => {
            (Verdict::Error, format!("ended by itself with exit code {} before the test's end", ran.exit.unwrap_or(-1)))
        }
    };
    tally.settle(0, settled, limits);
    Ok(tally.judgement("assert".into(), Trust::Weak))
}

pub(super) fn parses(sandbox: &mut Sandbox, sources: &[&str]) -> Result<Vec<Option<String>>, SandboxError> {
    let limits = Limits { cpu_s: 10.0, ..Limits::default() };
    let mut found = Vec::with_capacity(sources.len());
    while found.len() < sources.len() {
        let start = found.len();
        let ran =
            sandbox.process(Process::of(&json!({ "mode": "parse", "sources": sources, "start": start })), &limits)?;
        for record in ran.records {
            match record.kind {
                b'R' => found.push(None),
                b'E' | b'M' | b'O' => found.push(Some(record.text)),
                _ => {}
            }
        }
        if found.len() == start {
            let why = early_end_of(ran.reason, ran.signal, &limits).map_or_else(|| "ended".into(), |(_, note)| note);
            found.push(Some(format!("the compiler did not survive it: {why}")));
        }
    }
    Ok(found)
}

/// The verdict of a process that did not end by itself.
pub(super) fn early_end(ran: &Ran, limits: &Limits) -> Option<Settled> {
    let full = || (Verdict::OutputLimit, format!("returned more than {} bytes", limits.output_bytes));
    early_end_of(ran.reason, ran.signal, limits).or_else(|| ran.is_full.then(full))
}

fn early_end_of(reason: Option<Reason>, signal: Option<i32>, limits: &Limits) -> Option<Settled> {
    Some(match (reason, signal) {
        (Some(Reason::Cpu), _) => (Verdict::Timeout, format!("took more than {} s of CPU time", limits.cpu_s)),
        (Some(Reason::Wall), _) => (
            Verdict::Timeout,
            format!("took more than {} s, most of it waiting", limits.cpu_s * limits.wall_factor.max(5.0)),
        ),
        (Some(Reason::Memory), _) => {
            (Verdict::Memory, format!("took more than {} bytes of memory", limits.memory_bytes))
        }
        (None, Some(libc::SIGXFSZ)) => (Verdict::OutputLimit, format!("wrote more than {} bytes", limits.output_bytes)),
        (None, Some(signal)) => (Verdict::Killed, format!("ended by signal {signal}")),
        (None, None) => return None,
    })
}

fn error_verdict(kind: u8) -> Verdict {
    match kind {
        b'M' => Verdict::Memory,
        b'O' => Verdict::OutputLimit,
        _ => Verdict::Error,
    }
}

/// A text on one line, of so many characters at most.
fn shown(text: &str, most: usize) -> String {
    let mut line: String = text.chars().take(most).collect();
    if text.chars().nth(most).is_some() {
        line.push_str("...");
    }
    line
}
