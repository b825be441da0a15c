//! What a program of a stage may reach: the system, the installations that it runs on, and its own folder.
//!
//! A stage's key holds what the stage declares. A program that could read its neighbours' files, or be told things by the environment,
//! would give rows that the key knows nothing of. Landlock refuses it the files; the environment is made anew.
//! This keeps honest programs honest, and is no wall against hostile ones: `execute` has those.

use super::isolation::Feature;
use super::tether::landlock_abi;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, path_beneath_rules,
};
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Folders of the system: to read and to run.
const SYSTEM: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/etc",
    "/opt",
    "/proc",
    "/sys",
    "/dev",
    "/nix/store",
    "/gnu/store",
    "/snap",
    "/run/current-system",
    "/run/opengl-driver",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// Devices, and what programs share memory by: to write as well.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
    "/dev/dri",
    "/dev/kfd",
    "/dev/infiniband",
];
/// Names of folders of programs; what is installed with these lies beside them.
const PROGRAMS: &[&str] = &["bin", "sbin", "shims", "condabin"];
/// By one of these a folder is known for an installation, and is not a home that happens to have a `bin`.
const INSTALLED: &[&str] = &["lib", "lib64", "libexec", "pyvenv.cfg", "conda-meta"];
/// By one of these a folder is known for somebody's project, whatever else it has.
const PROJECT: &[&str] = &["ablate.toml", ".ablate"];
/// Files by which version managers choose what their shims stand for.
const CHOICES: &[&str] = &[".python-version", ".tool-versions", ".node-version", ".ruby-version"];
/// Variables that are passed on: where programs and libraries are installed, the language, and which devices are to be used.
const PASSED_ON: &[&str] = &["PATH", "LD_LIBRARY_PATH", "LANG", "LANGUAGE", "CUDA_VISIBLE_DEVICES"];

/// A folder of temporary files in the program's own, out of the way of what it declares.
const TEMPORARY: &str = ".tmp";

/// What a program may reach of the files; made before it starts.
#[derive(Debug)]
pub(crate) struct Reach {
    ruleset: Option<OwnedFd>,
    /// Why everything may be read, if so, and what would change that.
    pub(crate) problem: Option<String>,
}

impl Reach {
    /// The rules for a program that starts in `folder`.
    pub(crate) fn of(program: &str, folder: &Path) -> Self {
        let made = if landlock_abi() == 0 { Err("the kernel has none".to_owned()) } else { ruleset(program, folder) };
        match made {
            Ok(ruleset) => Self { ruleset: Some(ruleset), problem: None },
            Err(why) => Self {
                ruleset: None,
                problem: Some(format!(
                    "no Landlock, so files that are not declared can be read: {why}; {}",
                    Feature::Landlock.fix()
                )),
            },
        }
    }

    /// What shuts the program in, for the record.
    pub(crate) fn summary(&self) -> &'static str {
        if self.ruleset.is_some() { "landlock" } else { "none" }
    }

    /// The ruleset, if there is one.
    pub(crate) fn ruleset(&self) -> std::io::Result<Option<OwnedFd>> {
        self.ruleset.as_ref().map(OwnedFd::try_clone).transpose()
    }
}

/// The variables of a program that starts in `folder`, and no others.
///
/// # Errors
/// Where its folder for temporary files cannot be made.
pub(crate) fn environment(folder: &Path) -> std::io::Result<Vec<(OsString, OsString)>> {
    let temporary = folder.join(TEMPORARY);
    std::fs::create_dir_all(&temporary)?;
    let passed_on = |name: &str| PASSED_ON.contains(&name) || name.starts_with("LC_");
    let mut variables: Vec<_> = env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passed_on)).collect();
    variables.push(("HOME".into(), folder.into()));
    variables.push(("TMPDIR".into(), temporary.into()));
    Ok(variables)
}

fn ruleset(program: &str, folder: &Path) -> Result<OwnedFd, String> {
    let read = AccessFs::from_read(ABI::V1);
    let all = AccessFs::from_all(ABI::V5);
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut readable: BTreeSet<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    readable.extend(installed(program, &folder));
    readable.extend(folder.ancestors().flat_map(|above| CHOICES.iter().map(|name| above.join(name))));
    let mut writable: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
    writable.extend(nvidia_devices());
    writable.push(folder);
    let made = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|created| created.add_rules(path_beneath_rules(readable, read)))
        .and_then(|created| created.add_rules(path_beneath_rules(writable, all)))
        .map_err(|error| error.to_string())?;
    Option::from(made).ok_or_else(|| "the kernel has none".to_owned())
}

fn nvidia_devices() -> Vec<PathBuf> {
    let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    devices
        .filter(|device| device.file_name().to_string_lossy().starts_with("nvidia"))
        .map(|device| device.path())
        .collect()
}

/// The installations that a program may need: its own, those of its interpreter, those in `PATH`, and folders of libraries.
fn installed(program: &str, folder: &Path) -> BTreeSet<PathBuf> {
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let paths = |name: &str| env::split_paths(&variable(name)).filter(|path| path.is_absolute()).collect::<Vec<_>>();
    let search = paths("PATH");
    let mut finding = Finding {
        private: [Some(folder.to_owned()), env::home_dir(), Some(env::temp_dir())].into_iter().flatten().collect(),
        found: BTreeSet::new(),
    };
    for libraries in paths("LD_LIBRARY_PATH") {
        finding.folder(&libraries);
    }
    for programs in &search {
        finding.programs(programs);
    }
    let program = Path::new(program);
    if program.is_absolute() {
        finding.program(program);
    } else if program.components().count() == 1 {
        let on_path = search.iter().map(|programs| programs.join(program)).find(|path| path.is_file());
        on_path.iter().for_each(|path| finding.program(path));
    } else {
        // One of the files that are declared.
        finding.interpreter(&folder.join(program));
    }
    finding.found
}

/// Collects folders of installations.
struct Finding {
    /// What is never shown, and nothing that holds it.
    private: Vec<PathBuf>,
    found: BTreeSet<PathBuf>,
}

impl Finding {
    fn folder(&mut self, folder: &Path) -> bool {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let private = |private: &PathBuf| private.starts_with(&real) || private.starts_with(folder);
        !self.private.iter().any(private) && self.found.insert(folder.to_owned())
    }

    /// A folder of programs, with what is installed beside it.
    fn programs(&mut self, programs: &Path) {
        if !self.folder(programs) {
            return;
        }
        let Some(whole) = programs.parent().filter(|_| is_for_programs(programs)) else { return };
        if whole.ends_with(".local") {
            // Where users keep data too: of this only the libraries.
            self.folder(&whole.join("lib"));
        } else if has_any(whole, INSTALLED) && !has_any(whole, PROJECT) {
            self.folder(whole);
        }
        // A virtual environment of Python stands on another installation.
        let config = std::fs::read_to_string(whole.join("pyvenv.cfg")).unwrap_or_default();
        let home = config.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| name.trim() == "home");
        if let Some((_, home)) = home {
            self.programs(Path::new(home.trim()));
        }
    }

    /// A program behind whatever links, with its installation and that of its interpreter.
    fn program(&mut self, program: &Path) {
        let mut at = program.to_owned();
        // As many links as the system follows.
        for _ in 0..40 {
            self.found.insert(at.clone());
            self.beside(&at);
            let Ok(next) = std::fs::read_link(&at) else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(next);
        }
        if let Ok(real) = program.canonicalize() {
            self.beside(&real);
            self.interpreter(&real);
        }
    }

    /// What is installed with a program; one that lies somewhere else is shown alone.
    fn beside(&mut self, program: &Path) {
        let programs = program.parent().filter(|folder| is_for_programs(folder));
        programs.into_iter().for_each(|folder| self.programs(folder));
    }

    /// What the first line of a script names.
    fn interpreter(&mut self, script: &Path) {
        let Ok(file) = std::fs::File::open(script) else { return };
        let mut line = Vec::new();
        if BufReader::new(file.take(256)).read_until(b'\n', &mut line).is_err() {
            return;
        }
        let line = String::from_utf8_lossy(&line);
        let Some(interpreter) = line.strip_prefix("#!").and_then(|rest| rest.split_whitespace().next()) else { return };
        let interpreter = PathBuf::from(interpreter);
        if self.found.insert(interpreter.clone()) && interpreter.is_file() {
            self.program(&interpreter);
        }
    }
}

fn has_any(folder: &Path, names: &[&str]) -> bool {
    names.iter().any(|name| folder.join(name).exists())
}

fn is_for_programs(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| PROGRAMS.iter().any(|known| name == *known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn found(home: &Path, programs: &Path) -> Vec<String> {
        let mut finding = Finding { private: vec![home.to_owned()], found: BTreeSet::new() };
        finding.programs(programs);
        let relative = |path: PathBuf| path.strip_prefix(home).unwrap_or(&path).display().to_string();
        finding.found.into_iter().map(relative).collect()
    }

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for folder in ["bin", "lib", ".local/bin", ".local/lib", ".local/share", ".tool/bin", ".pyenv/versions/3/bin"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        for folder in ["venv/bin", "venv/lib", ".pyenv/versions/3/lib"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        let base = home.path().join(".pyenv/versions/3/bin");
        fs::write(home.path().join("venv/pyvenv.cfg"), format!("home = {}\nversion = 3\n", base.display())).unwrap();
        fs::write(base.join("python3"), "").unwrap();
        symlink(base.join("python3"), home.path().join("venv/bin/python3")).unwrap();
        home
    }

    #[test]
    fn an_installation_is_shown_and_the_home_around_it_is_not() {
        let home = home();
        let of = |programs: &str| found(home.path(), &home.path().join(programs));
        assert_eq!(of("bin"), ["bin"], "a home with a `bin` and a `lib` stays a home");
        assert_eq!(of(".local/bin"), [".local/bin", ".local/lib"]);
        assert_eq!(of(".tool/bin"), [".tool/bin"]);
        fs::create_dir_all(home.path().join("project/.ablate")).unwrap();
        fs::create_dir_all(home.path().join("project/lib")).unwrap();
        fs::create_dir_all(home.path().join("project/bin")).unwrap();
        assert_eq!(of("project/bin"), ["project/bin"], "a project is no installation");
        assert_eq!(of("venv/bin"), [".pyenv/versions/3", ".pyenv/versions/3/bin", "venv", "venv/bin"]);
    }

    #[test]
    fn the_installation_behind_a_link_is_shown() {
        let home = home();
        fs::remove_file(home.path().join("venv/pyvenv.cfg")).unwrap();
        let mut finding = Finding { private: vec![home.path().to_owned()], found: BTreeSet::new() };
        finding.program(&home.path().join("venv/bin/python3"));
        assert!(finding.found.contains(&home.path().join(".pyenv/versions/3")), "{:?}", finding.found);
    }
}
