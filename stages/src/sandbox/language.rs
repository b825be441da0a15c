//! Programs in other languages: what to compile and to run, as a small YAML file says.
//!
//! ```yaml
//! file: program.cpp                                        # what the program is saved as
//! compile: [g++, -O2, -o, program, program.cpp]            # left out where nothing is to be compiled
//! product: program                                         # the file that compiling makes, and running needs
//! run: [./program]
//! version: [g++, -dumpfullversion]                         # its first line is part of every verdict's key
//! home: [rustc, --print, sysroot]                          # optional: prints the folder that the tools lie in
//! ```
//!
//! Commands run in the jail, in an empty folder. They see the system's programs and libraries and the `home`, all of it read-only;
//! `home`/bin comes first in their PATH, `home`/lib among the libraries. Such programs are judged by what they print alone.

use super::Limits;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What of the system the tools of a language are made of.
const SYSTEM: [&str; 9] = [
    "/bin",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/etc/alternatives",
];
/// Least CPU time and memory of a compiler: it is no part of what is judged.
const COMPILE_CPU_S: f64 = 60.0;
const COMPILE_MEMORY_BYTES: u64 = 2 << 30;
/// The largest program that a compiler may make, and the room that it has for it and for what it needs on the way.
const COMPILE_OUTPUT_BYTES: u64 = 128 << 20;
const COMPILE_WORK_BYTES: u64 = 512 << 20;

/// How programs of a language are compiled and run: a file of `languages/`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// What the program is saved as.
    pub file: String,
    /// The command that compiles it.
    #[serde(default)]
    pub compile: Option<Vec<String>>,
    /// The file that compiling makes.
    #[serde(default)]
    pub product: Option<String>,
    /// The command that runs it.
    pub run: Vec<String>,
    /// The command that prints the version of the tools.
    pub version: Vec<String>,
    /// The command that prints the folder of the tools.
    #[serde(default)]
    pub home: Option<Vec<String>>,
}

/// Why a language cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// The file says something else than it should.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The tools are not there.
    #[error("{}: `{command}` does not run here: {problem}; install it", path.display())]
    Tools {
        /// The file that asks for them.
        path: PathBuf,
        /// What was tried.
        command: String,
        /// What happened.
        problem: String,
    },
}

impl Language {
    /// Reads a language's file.
    ///
    /// # Errors
    /// Where it cannot be read, or does not say what it should.
    pub fn read(path: &Path) -> Result<Self, LanguageError> {
        let text = std::fs::read_to_string(path).map_err(|error| LanguageError::File { path: path.into(), error })?;
        let invalid = |problem: String| LanguageError::Invalid { path: path.into(), problem };
        let found: Self = serde_yaml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let commands = [Some(&found.run), Some(&found.version), found.compile.as_ref(), found.home.as_ref()];
        if commands.into_iter().flatten().any(Vec::is_empty) {
            return Err(invalid("a command is empty: expected a list, the program first".into()));
        }
        if found.compile.is_some() != found.product.is_some() {
            return Err(invalid(
                "`compile` and `product` go together: what compiles, and the file that it makes".into(),
            ));
        }
        for name in [Some(&found.file), found.product.as_ref()].into_iter().flatten() {
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(invalid(format!("expected the name of a file, without folders; found `{name}`")));
            }
        }
        Ok(found)
    }
}

/// A language and the tools for it that this machine has.
#[derive(Debug, Clone)]
pub struct Toolchain {
    language: Language,
    version: String,
    home: Option<String>,
}

impl Toolchain {
    /// Asks the tools of a language's file what they are.
    ///
    /// # Errors
    /// Where the file is faulty, or the tools do not run.
    pub fn find(path: &Path) -> Result<Self, LanguageError> {
        let language = Language::read(path)?;
        let version = first_line(path, &language.version)?;
        let home = language.home.as_deref().map(|command| first_line(path, command)).transpose()?;
        Ok(Self { language, version, home })
    }

    /// The version, as the tools say it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What its programs are called, for messages.
    pub(super) fn name(&self) -> &str {
        &self.language.file
    }

    /// The paths that programs may read beside Python's.
    pub(super) fn visible(&self) -> Vec<String> {
        SYSTEM.into_iter().map(str::to_owned).chain(self.home.clone()).collect()
    }

    /// The process that compiles a program, if any does.
    pub(super) fn compile_request(&self, source: &str) -> Option<Json> {
        let command = self.language.compile.as_ref()?;
        Some(self.request(command, &[(&self.language.file, source)], None, self.language.product.as_deref()))
    }

    /// The process that runs it. What was compiled is handed over as a file.
    pub(super) fn run_request(&self, source: &str) -> Json {
        match &self.language.product {
            Some(product) => self.request(&self.language.run, &[], Some(product), None),
            None => self.request(&self.language.run, &[(&self.language.file, source)], None, None),
        }
    }

    fn request(
        &self,
        command: &[String],
        files: &[(&str, &str)],
        artifact: Option<&str>,
        product: Option<&str>,
    ) -> Json {
        let files: serde_json::Map<String, Json> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
        let home = self.home.as_deref();
        // Tools that look for their own libraries do so by /proc, which is not there.
        let libraries = home.map(|home| format!("{home}/lib")).unwrap_or_default();
        let first = home.map(|home| format!("{home}/bin:")).unwrap_or_default();
        json!({
            "mode": "command", "command": command, "files": files, "artifact": artifact, "product": product,
            "environment": { "PATH": format!("{first}/usr/bin:/bin"), "LD_LIBRARY_PATH": libraries },
        })
    }
}

/// What a compiler may take, of a program that may take so much.
pub(super) fn compile_limits(limits: &Limits) -> Limits {
    Limits {
        cpu_s: limits.cpu_s.max(COMPILE_CPU_S),
        memory_bytes: limits.memory_bytes.max(COMPILE_MEMORY_BYTES),
        output_bytes: limits.output_bytes.max(COMPILE_OUTPUT_BYTES),
        work_bytes: limits.work_bytes.max(COMPILE_WORK_BYTES),
        ..limits.clone()
    }
}

/// The first line that a command prints.
fn first_line(path: &Path, command: &[String]) -> Result<String, LanguageError> {
    let failed = |problem: String| LanguageError::Tools { path: path.into(), command: command.join(" "), problem };
    let output = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(failed(format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{Case, Check, TestStyle, Tests};
    use crate::sandbox::{
        Config, Judgement, OutputComparator, Program, Sandbox, SandboxError, ValueComparator, Verdict,
    };

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../languages").join(name)
    }

    /// A sandbox for a language; none where this machine has no tools for it.
    fn sandbox(name: &str) -> Option<Sandbox> {
        let language = match Toolchain::find(&file(name)) {
            Err(LanguageError::Tools { .. }) => return None,
            found => found.expect("the file is right"),
        };
        assert!(!language.version().is_empty());
        Some(Sandbox::open(Config { language: Some(language), ..Config::default() }).expect("opens"))
    }

    fn judged(sandbox: &mut Sandbox, source: &str, style: TestStyle) -> Result<Judgement, SandboxError> {
        let case = |input: &str, output: &str| Case {
            input: input.into(),
            output: output.into(),
            check: Check::Equal,
            tolerance: None,
        };
        let cases = vec![case("1 2\n", "3"), case("4 5\n", "9")];
        let tests = Tests { style, cases, code: None, setup: None };
        let (output, value) = (OutputComparator::Lines, ValueComparator::PyEq);
        let program = Program { source, entry_point: None, tests: &tests, output, value, coverage: false };
        let limits = Limits { cpu_s: 2.0, memory_bytes: 512 << 20, output_bytes: 1 << 20, ..Limits::default() };
        sandbox.run(&program, &limits)
    }

    /// Judges programs of one language, and that none of them reads the host's files.
    fn check(name: &str, programs: &[(&str, Verdict)]) {
        let Some(mut sandbox) = sandbox(name) else { return };
        for (source, verdict) in programs {
            let found = judged(&mut sandbox, source, TestStyle::Stdio).expect("judged");
            assert_eq!(found.verdict, *verdict, "{source}: {found:?}");
        }
        let refused = judged(&mut sandbox, programs[0].0, TestStyle::Call).expect_err("only what is printed is judged");
        assert!(refused.to_string().contains("`call`"), "{refused}");
    }

    #[test]
    fn programs_in_cpp_are_compiled_once_and_judged_by_what_they_print() {
        let begin = "#include <fstream>\n#include <iostream>\n#include <unistd.h>\nusing namespace std;\nint main() {\n    int a, b; cin >> a >> b;\n    ";
        let program = |body: &str| format!("{begin}{body}\n}}\n");
        check(
            "cpp.yaml",
            &[
                (&program("cout << a + b << endl;"), Verdict::Passed),
                (&program("cout << a * b << endl;"), Verdict::Wrong),
                (&program("cout << a + b << endl; return 3;"), Verdict::Error),
                (&program("cout << a + c << endl;"), Verdict::Error),
                (&program("volatile int x = 0; while (true) x++;"), Verdict::Timeout),
                (&program("abort();"), Verdict::Killed),
                (&program("*(volatile int *) 0 = 1;"), Verdict::Killed),
                (&program("while (true) cout << \"y\" << endl;"), Verdict::OutputLimit),
                (&program("ifstream f(\"/etc/passwd\"); cout << (f ? 0 : a + b) << endl;"), Verdict::Passed),
                (&program("if (fork()) { cout << a + b << endl; } else { setsid(); sleep(100); }"), Verdict::Passed),
            ],
        );
    }

    #[test]
    fn programs_in_rust_are_judged() {
        let read = "let line = std::io::stdin().lines().next().unwrap().unwrap();\n\
                    let n: Vec<i64> = line.split(' ').map(|w| w.parse().unwrap()).collect();\n";
        let program = |body: &str| format!("fn main() {{\n{read}{body}\n}}\n");
        check(
            "rust.yaml",
            &[
                (&program("println!(\"{}\", n[0] + n[1]);"), Verdict::Passed),
                (&program("println!(\"{}\", n[7]);"), Verdict::Error),
                (&program("println!(\"{}\", m[7]);"), Verdict::Error),
            ],
        );
    }

    #[test]
    fn programs_in_javascript_are_judged() {
        let read = "const [a, b] = require('fs').readFileSync(0, 'utf8').trim().split(' ').map(Number);\n";
        let program = |body: &str| format!("{read}{body}\n");
        check(
            "javascript.yaml",
            &[
                (&program("console.log(a + b);"), Verdict::Passed),
                (&program("console.log(a - b);"), Verdict::Wrong),
                (&program("throw new Error('no');"), Verdict::Error),
                (&program("for (;;) {}"), Verdict::Timeout),
                (
                    &program("try { require('fs').readFileSync('/etc/passwd'); } catch { console.log(a + b); }"),
                    Verdict::Passed,
                ),
            ],
        );
    }

    #[test]
    fn a_faulty_file_says_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().expect("made");
        let path = folder.path().join("x.yaml");
        for (text, expected) in [
            ("file: a\nrun: [./a]\n", "version"),
            ("file: a\nrun: []\nversion: [true]\n", "empty"),
            ("file: a\ncompile: [cc]\nrun: [./a]\nversion: [true]\n", "go together"),
            ("file: ../a\nrun: [./a]\nversion: [true]\n", "without folders"),
            ("file: a\nrun: [./a]\nversion: [a-tool-of-nowhere]\n", "a-tool-of-nowhere"),
            ("file: a\nrun: [./a]\nversion: [false]\n", "does not run"),
            ("file: a\nruns: [./a]\nversion: [true]\n", "runs"),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = Toolchain::find(&path).expect_err(text).to_string();
            assert!(error.contains(expected) && error.contains("x.yaml"), "{text}: {error}");
        }
    }
}
