//! The memory-backed file system that is used where no destination is given. With one, `destination` and
//! `room` tell.

use rustix::fs::statvfs;

use super::finding::Finding;
use super::place::Machine;
use crate::progress::size;

const SHM: &str = "/dev/shm";

/// What `init` needs beside a model, so less holds no model.
const FREE_MIN: u64 = 128 << 20;

pub(crate) fn look(machine: &Machine<'_>) -> Finding {
    const ID: &str = "memory.shm";
    let Ok(mounts) = machine.text("/proc/self/mountinfo") else {
        return Finding::skipped(ID, "/proc/self/mountinfo is too long or cannot be read");
    };
    if !mounts.lines().any(is_shm) {
        return Finding::skipped(ID, "no tmpfs at /dev/shm");
    }
    match statvfs(machine.path(SHM)) {
        Ok(space) => judge(
            space.f_bavail.saturating_mul(space.f_frsize),
            space.f_blocks.saturating_mul(space.f_frsize),
            space.f_favail,
        ),
        Err(error) => Finding::skipped(ID, format!("{SHM}: {error}")),
    }
}

/// A line of mountinfo: `36 35 98:0 /root /point rw,… [optional…] - type source rw,…`.
fn is_shm(line: &str) -> bool {
    let Some((before, after)) = line.split_once(" - ") else { return false };
    before.split(' ').nth(4) == Some(SHM) && after.starts_with("tmpfs ")
}

fn judge(free: u64, total: u64, inodes: u64) -> Finding {
    const ID: &str = "memory.shm";
    let seen = format!("{} of {} free, {inodes} inodes", size(free), size(total));
    if free < FREE_MIN || inodes == 0 {
        let fix =
            "Open models into an emptyDir of medium Memory, or remount /dev/shm with a larger size";
        return Finding::warning(ID, seen, fix);
    }
    Finding::ok(ID, seen)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_small_shm_is_said() {
        assert_eq!(judge(1 << 30, 1 << 30, 9).level, Level::Ok);
        assert_eq!(judge(64 << 20, 64 << 20, 9).level, Level::Warning);
        assert_eq!(judge(1 << 30, 1 << 30, 0).level, Level::Warning);
        let line = "36 35 0:5 / /dev/shm rw shared:1 - tmpfs tmpfs rw";
        let at = "/proc/self/mountinfo";
        assert_eq!(look(&Fake::new(&[]).machine()).level, Level::Skipped);
        assert_eq!(look(&Fake::new(&[(at, line)]).machine()).level, Level::Skipped);
        let disk = line.replace("tmpfs tmpfs", "ext4 /dev/sda");
        let fake = Fake::new(&[(at, &disk), ("/dev/shm/x", "")]);
        assert_eq!(look(&fake.machine()).level, Level::Skipped);
        let fake = Fake::new(&[(at, line), ("/dev/shm/x", "")]);
        assert_ne!(look(&fake.machine()).level, Level::Skipped);
    }
}
