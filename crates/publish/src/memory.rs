//! [`tightest`]: how much more memory this process may be charged for.
//!
//! Pages of tmpfs are charged to the cgroup of whoever writes them, and to each of its ancestors; and
//! there have to be some.

use std::fs;
use std::path::{Path, PathBuf};

use crate::system::System;

/// v1 prints "no limit" as the largest multiple of the page size; nothing real comes near.
const UNLIMITED: u64 = 1 << 60;

/// A limit on memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Who says so: a cgroup's directory, or `/proc/meminfo` for the machine.
    pub by: PathBuf,
    /// Bytes that may still be allocated. Of a cgroup: limit − usage + what can be reclaimed at once,
    /// as which only cached file pages count that nobody used lately (`inactive_file`); pages of
    /// tmpfs never do. Of the machine: `MemAvailable`.
    pub available: u64,
}

/// The limit that allows the least, among those of the machine and of this process's cgroup and its
/// visible ancestors. `None` if there is none, or none can be read: this check exists to fail early,
/// not to protect.
pub(crate) fn tightest(system: &System) -> Option<MemoryLimit> {
    let own = fs::read_to_string(system.proc.join("self/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string(system.proc.join("self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let cgroups = own.lines().filter_map(membership).flat_map(|(files, path)| {
        let mounts = mounts.iter().filter(|mount| mount.files.limit == files.limit);
        mounts.flat_map(|mount| mount.limits(path)).collect::<Vec<_>>()
    });
    cgroups.chain(machine(&system.proc)).min_by_key(|limit| limit.available)
}

fn machine(proc: &Path) -> Option<MemoryLimit> {
    let by = proc.join("meminfo");
    let text = fs::read_to_string(&by).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(MemoryLimit { by, available: kib.saturating_mul(1024) })
}

/// What the two versions call the same things.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Counts descendants too.
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Files =
    Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" };

/// A line of `/proc/self/cgroup`: `0::/path` is version 2, `4:memory:/path` version 1.
fn membership(line: &str) -> Option<(&'static Files, &str)> {
    let (id, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    if id == "0" && controllers.is_empty() {
        return Some((&V2, path));
    }
    controllers.split(',').any(|name| name == "memory").then_some((&V1, path))
}

/// A cgroup hierarchy with a memory controller, as mounted here.
#[derive(Debug)]
struct Mount {
    files: &'static Files,
    /// Which cgroup is at `point`.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// A line of `/proc/self/mountinfo`: `36 35 98:0 /root /point rw,… [optional…] - type source rw,…`.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let files = match (after.next()?, after.nth(1)?) {
            ("cgroup2", _) => &V2,
            ("cgroup", options) if options.split(',').any(|name| name == "memory") => &V1,
            _ => return None,
        };
        Some(Self { files, root: unescape(before.next()?), point: unescape(before.next()?) })
    }

    /// The limits of the cgroup `path` and its ancestors, as far as they are visible here.
    fn limits<'a>(&'a self, path: &'a str) -> impl Iterator<Item = MemoryLimit> + 'a {
        // Inside a container the mount may begin at our own cgroup or at one that does not contain
        // it, for lack of a namespace. Then its top is the closest that can be seen.
        let below = Path::new(path).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let clean = !below.components().any(|c| c == std::path::Component::ParentDir);
        let below = if clean { below } else { Path::new("") };
        below.ancestors().filter_map(|below| self.limit(self.point.join(below)))
    }

    fn limit(&self, cgroup: PathBuf) -> Option<MemoryLimit> {
        let number = |name| fs::read_to_string(cgroup.join(name)).ok()?.trim().parse::<u64>().ok();
        // "max" is no number, and so no limit.
        let limit = number(self.files.limit).filter(|limit| *limit < UNLIMITED)?;
        let usage = number(self.files.usage)?;
        let stat = fs::read_to_string(cgroup.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == self.files.reclaimable)
            .and_then(|(_, bytes)| bytes.trim().parse().ok())
            .unwrap_or(0);
        let available = limit.saturating_sub(usage.saturating_sub(reclaimable));
        Some(MemoryLimit { by: cgroup, available })
    }
}

/// Undoes mountinfo's escapes, of which a path can have space, tab, newline and backslash.
fn unescape(field: &str) -> PathBuf {
    let mut path = field.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        path = path.replace(escape, character);
    }
    path.into()
}
