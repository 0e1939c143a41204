//! [`harden_process`]: what a process holding keys switches off.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// What [`harden_process`] achieved, for the log and for `sealift doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardening {
    /// No core dump is written, and other processes of the same user cannot trace this one.
    pub undumpable: bool,
    /// `RLIMIT_CORE` is zero, for children too.
    pub no_core: bool,
}

/// Forbids core dumps and tracing. Never fails: a sandbox that already forbids these calls is no
/// reason to refuse work, and the caller logs what was not achieved.
pub fn harden_process() -> Hardening {
    let undumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
    let no_core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_ok();
    Hardening { undumpable, no_core }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_cannot_dump_core() {
        assert_eq!(harden_process(), Hardening { undumpable: true, no_core: true });
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}
