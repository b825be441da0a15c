//! How well a machine lets programs be shut in, graded and with a reason for whatever is missing.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How well programs are shut in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Hard limits at best: a program can read and write what its user can.
    None,
    /// Either own namespaces, or Landlock with a system-call filter.
    Partial,
    /// Own user, pid, mount, IPC and host-name namespaces and no network, Landlock, and a system-call filter.
    Full,
}

/// Something that shuts programs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Namespaces for users, processes, mounts, IPC, host name, network; in them the program sees the interpreter and nothing else.
    Namespaces,
    /// Landlock: which files may be read and written, by path.
    Landlock,
    /// A filter of system calls.
    Seccomp,
}

impl Feature {
    /// Its name, as the zygote uses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    pub(super) fn fix(self) -> &'static str {
        match self {
            Self::Namespaces => {
                "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0, \
                 kernel.apparmor_restrict_unprivileged_userns=0; in a container run it with --security-opt seccomp=unconfined"
            }
            Self::Landlock => "use Linux 5.13 or later with `landlock` among the modules of the boot parameter lsm=",
            Self::Seccomp => "use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or arm64",
        }
    }
}

/// What shuts programs in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// How well.
    pub grade: Grade,
    /// What is in force, by name.
    pub in_force: Vec<String>,
    /// What is not.
    pub missing: Vec<MissingFeature>,
}

/// Something that would shut programs in better, and is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFeature {
    /// What.
    pub feature: Feature,
    /// Why it is not in force.
    pub why: String,
    /// How to get it.
    pub fix: String,
}

impl Isolation {
    /// Grade and what is in force in a line, as `full: network namespace, landlock, seccomp`.
    pub fn summary(&self) -> String {
        let grade = match self.grade {
            Grade::None => "none",
            Grade::Partial => "partial",
            Grade::Full => "full",
        };
        format!("{grade}: {}", self.in_force.join(", "))
    }

    /// What is missing, why, and how to get it, in a line.
    pub fn fixes(&self) -> String {
        let missing: Vec<String> = self
            .missing
            .iter()
            .map(|missing| format!("{:?}: {} ({})", missing.feature, missing.why, missing.fix))
            .collect();
        missing.join("; ")
    }

    /// Grades what the zygote reports.
    pub(super) fn graded(in_force: Vec<String>, missing: &BTreeMap<String, String>) -> Self {
        let has = |feature: Feature| !missing.contains_key(feature.name());
        let grade = match (has(Feature::Namespaces), has(Feature::Landlock), has(Feature::Seccomp)) {
            (true, true, true) => Grade::Full,
            (true, _, _) | (false, true, true) => Grade::Partial,
            _ => Grade::None,
        };
        let missing = [Feature::Namespaces, Feature::Landlock, Feature::Seccomp]
            .into_iter()
            .filter_map(|feature| {
                let why = missing.get(feature.name())?.clone();
                Some(MissingFeature { feature, why, fix: feature.fix().into() })
            })
            .collect();
        Self { grade, in_force, missing }
    }
}
