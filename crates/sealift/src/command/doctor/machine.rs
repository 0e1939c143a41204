//! What the kernel offers, and where a model's plaintext could leave memory.

use std::fs::File;
use std::io::ErrorKind;

use super::finding::Finding;
use super::place::Machine;

/// Where the kernel shows what a guest can attest with, and whether it has to be opened to use it.
const SIGNS: [(&str, &str, bool); 4] = [
    ("configfs-tsm", "/sys/kernel/config/tsm/report", false),
    ("SNP", "/dev/sev-guest", true),
    ("TDX", "/dev/tdx_guest", true),
    ("TPM", "/dev/tpmrm0", true),
];

/// The first kernel with Landlock, and the first whose Landlock restricts TCP.
const LANDLOCK: [(u32, u32); 2] = [(5, 13), (6, 7)];

pub(crate) fn look(machine: &Machine<'_>) -> Vec<Finding> {
    vec![
        tee(machine),
        kernel(machine),
        landlock(machine),
        seccomp(machine),
        cores(machine),
        swap(machine),
    ]
}

fn tee(machine: &Machine<'_>) -> Finding {
    const ID: &str = "machine.tee";
    let mut seen = Vec::new();
    let mut refused = false;
    for (name, path, opened) in SIGNS {
        if !machine.has(path) {
            continue;
        }
        let open = || File::options().read(true).write(true).open(machine.path(path));
        match opened.then(open) {
            Some(Err(error)) => {
                refused |= error.kind() == ErrorKind::PermissionDenied;
                seen.push(format!("{name} ({path}: {error})"));
            }
            _ => seen.push(name.to_owned()),
        }
    }
    if seen.is_empty() {
        return Finding::ok(
            ID,
            "no SNP, TDX, TPM or configfs-tsm: no confidential guest, or its agent alone attests",
        );
    }
    let seen = seen.join(", ");
    if refused {
        let fix = "Let the data hub attest (--key-source cdh), or give this user the device";
        return Finding::warning(ID, seen, fix);
    }
    Finding::ok(ID, seen)
}

/// `6.1.0-13-amd64` as its first two numbers.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn release(machine: &Machine<'_>) -> Option<String> {
    machine.text("/proc/sys/kernel/osrelease").ok()
}

fn kernel(machine: &Machine<'_>) -> Finding {
    const ID: &str = "machine.kernel";
    match release(machine).map(|release| (version(&release), release)) {
        Some((Some(found), release)) if found >= LANDLOCK[1] => Finding::ok(ID, release),
        Some((Some(_), release)) => Finding::warning(
            ID,
            format!(
                "Linux {release} is older than 6.7: Landlock cannot restrict TCP, or is not there"
            ),
            "Take a guest kernel from 6.7 on",
        ),
        _ => Finding::skipped(ID, "/proc/sys/kernel/osrelease does not tell"),
    }
}

fn landlock(machine: &Machine<'_>) -> Finding {
    const ID: &str = "machine.landlock";
    let off = "Build the kernel with CONFIG_SECURITY_LANDLOCK and put landlock into lsm= on its command line";
    match machine.text("/sys/kernel/security/lsm") {
        Ok(modules) if modules.split(',').any(|module| module == "landlock") => {
            Finding::ok(ID, "on")
        }
        Ok(modules) => Finding::warning(ID, format!("not among the modules {modules}"), off),
        Err(_) => match release(machine).as_deref().and_then(version) {
            Some(found) if found < LANDLOCK[0] => {
                Finding::warning(ID, "this kernel is older than Landlock (5.13)", off)
            }
            _ => Finding::skipped(ID, "/sys/kernel/security/lsm cannot be read here"),
        },
    }
}

fn seccomp(machine: &Machine<'_>) -> Finding {
    const ID: &str = "machine.seccomp";
    let Ok(status) = machine.text("/proc/self/status") else {
        return Finding::skipped(ID, "/proc/self/status cannot be read");
    };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    match field("Seccomp").as_deref() {
        Some("2") => Finding::ok(ID, "a filter is in force"),
        Some("0" | "1") => Finding::ok(ID, "filters can be set; the runtime has set none"),
        _ => Finding::warning(
            ID,
            "this kernel has no seccomp",
            "Build the kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// Our own processes leave no core. The model server, which has the plaintext too, is not ours.
fn cores(machine: &Machine<'_>) -> Finding {
    const ID: &str = "machine.cores";
    let Ok(pattern) = machine.text("/proc/sys/kernel/core_pattern") else {
        return Finding::skipped(ID, "/proc/sys/kernel/core_pattern cannot be read");
    };
    let handler = pattern.strip_prefix('|').map(|rest| rest.split_whitespace().next());
    match handler {
        Some(Some("/bin/false" | "/usr/bin/false")) => Finding::ok(ID, "thrown away"),
        _ if pattern.is_empty() => Finding::ok(ID, "not written"),
        _ => Finding::warning(
            ID,
            format!("`{pattern}`: a model server that crashes leaves the model there"),
            "In the guest: sysctl -w kernel.core_pattern='|/bin/false', or start the server with \
             ulimit -c 0 where the pattern is a file",
        ),
    }
}

/// A warning, in a guest too: `init` does not refuse swap, and a volume can be mounted `noswap`.
fn swap(machine: &Machine<'_>) -> Finding {
    const ID: &str = "machine.swap";
    let Ok(swaps) = machine.text("/proc/swaps") else {
        return Finding::skipped(ID, "/proc/swaps cannot be read");
    };
    let areas: Vec<_> =
        swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let (memory, disk): (Vec<_>, Vec<_>) =
        areas.into_iter().partition(|area| area.starts_with("/dev/zram"));
    match (memory.is_empty(), disk.is_empty()) {
        (true, true) => Finding::ok(ID, "none"),
        (false, true) => Finding::ok(ID, "zram only"),
        _ => Finding::warning(
            ID,
            format!("{}: pages of a memory-backed volume can be written there", disk.join(", ")),
            "swapoff -a, or mount the volume with noswap (Linux 6.4 and later)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Level;
    use super::*;

    #[track_caller]
    fn level(check: fn(&Machine<'_>) -> Finding, files: &[(&str, &str)]) -> Level {
        let finding = check(&Fake::new(files).machine());
        let silent = matches!(finding.level, Level::Ok | Level::Skipped);
        assert_eq!(finding.fix.is_empty(), silent, "{finding:?}");
        finding.level
    }

    #[test]
    fn what_a_guest_attests_with_is_seen() {
        assert!(tee(&Fake::new(&[]).machine()).seen.starts_with("no SNP"));
        let fake = Fake::new(&[("/dev/sev-guest", ""), ("/dev/tpmrm0", "")]);
        assert_eq!(tee(&fake.machine()), Finding::ok("machine.tee", "SNP, TPM"));
        // A directory is no device; its opening fails, and that is said.
        let fake = Fake::new(&[("/dev/tdx_guest/x", "")]);
        assert!(tee(&fake.machine()).seen.starts_with("TDX (/dev/tdx_guest: "));
    }

    #[test]
    fn kernels_are_old_or_new_enough() {
        let at = "/proc/sys/kernel/osrelease";
        assert_eq!(level(kernel, &[(at, "6.7.0\n")]), Level::Ok);
        assert_eq!(level(kernel, &[(at, "6.12-rc1")]), Level::Ok);
        assert_eq!(level(kernel, &[(at, "6.1.0-13-amd64")]), Level::Warning);
        assert_eq!(level(kernel, &[(at, "linux")]), Level::Skipped);
        assert_eq!(level(kernel, &[]), Level::Skipped);
        let lsm = "/sys/kernel/security/lsm";
        assert_eq!(level(landlock, &[(lsm, "capability,landlock,bpf")]), Level::Ok);
        assert_eq!(level(landlock, &[(lsm, "capability,yama")]), Level::Warning);
        assert_eq!(level(landlock, &[(at, "5.10.0")]), Level::Warning);
        assert_eq!(level(landlock, &[(at, "6.1.0")]), Level::Skipped);
    }

    #[test]
    fn seccomp_is_there_or_not() {
        let at = "/proc/self/status";
        assert_eq!(
            level(seccomp, &[(at, "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1")]),
            Level::Ok
        );
        assert_eq!(level(seccomp, &[(at, "Seccomp:\t0\n")]), Level::Ok);
        assert_eq!(level(seccomp, &[(at, "Name:\tx\n")]), Level::Warning);
        assert_eq!(level(seccomp, &[]), Level::Skipped);
    }

    #[test]
    fn plaintext_may_leave_memory_by_cores_and_by_swap() {
        let at = "/proc/sys/kernel/core_pattern";
        assert_eq!(level(cores, &[(at, "|/bin/false\n")]), Level::Ok);
        assert_eq!(level(cores, &[(at, "\n")]), Level::Ok);
        assert_eq!(level(cores, &[(at, "core\n")]), Level::Warning);
        assert_eq!(level(cores, &[(at, "|/usr/lib/systemd/systemd-coredump %P")]), Level::Warning);
        assert_eq!(level(cores, &[]), Level::Skipped);
        let (at, head) = ("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        let swaps = |areas: &str| level(swap, &[(at, &format!("{head}{areas}"))]);
        assert_eq!(swaps(""), Level::Ok);
        assert_eq!(swaps("/dev/zram0 partition 8 0 100\n"), Level::Ok);
        assert_eq!(
            swaps("/dev/zram0 partition 8 0 100\n/dev/sda2 partition 8 0 -2\n"),
            Level::Warning
        );
        assert_eq!(level(swap, &[]), Level::Skipped);
    }
}
