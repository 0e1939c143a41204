//! [`Finding`]: one thing seen of the machine, how bad it is, and what to do.

use crate::code::Code;

/// Every finding's id, in the order in which they are printed. `docs/doctor.md` has the same ones.
#[cfg(test)]
pub(crate) const IDS: [&str; 18] = [
    "place",
    "machine.tee",
    "machine.kernel",
    "machine.landlock",
    "machine.seccomp",
    "machine.cores",
    "machine.swap",
    "memory.shm",
    "network.proxy",
    "network.ca",
    "network.keys",
    "credentials",
    "node.nri",
    "node.kata",
    "node.inotify",
    "cluster.version",
    "cluster.admission",
    "cluster.kserve",
];

/// How bad a finding is. Only an error changes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Ok,
    /// `init` goes on, with less protection or more risk than one may think.
    Warning,
    /// `init` would end with this code.
    Error(Code),
    /// Not to be known from here.
    Skipped,
}

/// What was seen, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Stable, `group.thing`.
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    pub(crate) seen: String,
    /// Empty where nothing is to be done.
    pub(crate) fix: &'static str,
}

impl Finding {
    pub(crate) fn ok(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, level: Level::Ok, seen: seen.into(), fix: "" }
    }

    pub(crate) fn skipped(id: &'static str, seen: impl Into<String>) -> Self {
        Self { id, level: Level::Skipped, seen: seen.into(), fix: "" }
    }

    pub(crate) fn warning(id: &'static str, seen: impl Into<String>, fix: &'static str) -> Self {
        Self { id, level: Level::Warning, seen: seen.into(), fix }
    }

    pub(crate) fn error(
        id: &'static str,
        code: Code,
        seen: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self { id, level: Level::Error(code), seen: seen.into(), fix }
    }
}
