//! What the virtual machine of the volumes demo is made of. The kernel and busybox are Debian
//! packages that are unpacked below `.tools` and not installed: nothing else here shall boot or run
//! them.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Doing, cargo_program, debian_program, is_root};
use crate::process;
use crate::workspace::root;

/// Depends on Debian's newest kernel for virtual machines, whatever that is called today.
const KERNEL: &str = "linux-image-cloud-amd64";

/// A virtual machine's parts.
pub(crate) struct Machine {
    pub(crate) qemu: PathBuf,
    /// Serves the machine's vsock device, so that the host's kernel need not have one.
    pub(crate) vhost_device_vsock: PathBuf,
    /// Holds `boot/vmlinuz-*` and `lib/modules/*`.
    pub(crate) kernel: PathBuf,
}

/// Everything that [`Machine`] names, or why it cannot be had.
pub(crate) fn machine() -> Result<Machine> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the kernel package is for x86_64");
    }
    Ok(Machine {
        qemu: debian_program("qemu-system-x86_64", "qemu-system-x86")?,
        kernel: kernel()?,
        // Unoptimised: it builds in half the time, and the guest's emulated processor is slower.
        vhost_device_vsock: cargo_program("vhost-device-vsock", "0.3.0", &["--debug"])?,
    })
}

/// The guest's commands in one program without libraries.
pub(crate) fn busybox() -> Result<PathBuf> {
    match process::which("busybox") {
        Some(path) if is_static(&path)? => Ok(path),
        _ => Ok(unpacked("busybox-static")?.join("bin/busybox")),
    }
}

fn kernel() -> Result<PathBuf> {
    let is_kernel = |name: &str| name.starts_with("linux-image-") && name.ends_with("-amd64");
    if let Ok(entries) = fs::read_dir(unpacked_dir()) {
        for entry in entries {
            let entry = entry?;
            if is_kernel(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    let depends = with_package_lists(|| {
        process::capture(Command::new("apt-cache").args(["depends", KERNEL]))
    })?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.find(|name| is_kernel(name));
    unpacked(name.with_context(|| format!("{KERNEL} depends on no kernel"))?)
}

/// A Debian package's files, below `.tools`.
fn unpacked(package: &str) -> Result<PathBuf> {
    unpacked_as(package, package, |work| {
        let download = || {
            let mut download = Command::new("apt-get");
            process::capture(download.current_dir(work).args(["download", package]))
        };
        with_package_lists(download).map(drop)
    })
}

/// The same, called `name` there, of what `download` leaves in a directory.
pub(super) fn unpacked_as(
    name: &str,
    package: &str,
    download: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let target = unpacked_dir().join(name);
    if target.is_dir() {
        return Ok(target);
    }
    if process::which("apt-get").is_none() {
        bail!("{package} is missing, and there is no apt-get to download it");
    }
    let doing = Doing::new(format!("unpacking the Debian package {package} into .tools"));
    // Complete or not there: it gets its name when everything is in it.
    let work = unpacked_dir().join(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let files = work.join("files");
    let unpack = || -> Result<()> {
        download(&work)?;
        let entries: Vec<_> = fs::read_dir(&work)?.collect::<Result<_, _>>()?;
        let is_archive = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "deb");
        let archive = entries.iter().map(fs::DirEntry::path).find(is_archive);
        let archive = archive.with_context(|| format!("apt-get downloaded no {package}"))?;
        process::capture(Command::new("dpkg-deb").arg("--extract").args([&archive, &files]))?;
        Ok(fs::rename(&files, &target)?)
    };
    let done = unpack();
    fs::remove_dir_all(&work)?;
    done?;
    doing.done();
    Ok(target)
}

fn unpacked_dir() -> PathBuf {
    root().join(".tools/debian")
}

/// Does what needs apt's package lists; where that fails, they may be missing or old: fetches them,
/// and tries once more.
pub(super) fn with_package_lists(attempt: impl Fn() -> Result<String>) -> Result<String> {
    match attempt() {
        Err(_) if is_root()? => {
            process::capture(Command::new("apt-get").args(["update", "-qq"]))?;
            attempt()
        }
        done => done,
    }
}

/// Whether a program (ELF64, little-endian) runs without a loader, so also where there are no
/// libraries: whether it has no program header `PT_INTERP`.
pub(crate) fn is_static(program: &Path) -> Result<bool> {
    const INTERPRETER: u32 = 3;
    let file = fs::File::open(program).with_context(|| program.display().to_string())?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        bail!("{} is no 64-bit program", program.display());
    }
    let (table, rest) = (&header[32..40], &header[54..58]);
    let table = u64::from_le_bytes(table.try_into()?);
    let size = u16::from_le_bytes(rest[..2].try_into()?);
    let count = u16::from_le_bytes(rest[2..].try_into()?);
    for index in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table + u64::from(index) * u64::from(size))?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_a_loader() {
        let own = std::env::current_exe().unwrap();
        assert!(!is_static(&own).unwrap());
        assert!(is_static(Path::new(file!())).is_err());
    }
}
