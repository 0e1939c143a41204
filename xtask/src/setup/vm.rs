//! What the virtual machine of the volumes demo is made of. The kernel and busybox are Debian
//! packages that are unpacked below `.tools` and not installed: nothing else here shall boot or run
//! them.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::debian::{self, Packages};
use super::{cargo_program, debian_program};
use crate::arch::Arch;
use crate::process;

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
        qemu: emulator(Arch::X86_64)?,
        kernel: kernel(Arch::X86_64)?,
        // Unoptimised: it builds in half the time, and the guest's emulated processor is slower.
        vhost_device_vsock: cargo_program("vhost-device-vsock", "0.3.0", &["--debug"])?,
    })
}

/// The guest's commands in one program without libraries.
pub(crate) fn busybox(arch: Arch) -> Result<PathBuf> {
    match process::which("busybox") {
        Some(path) if arch == Arch::here() && is_static(&path)? => Ok(path),
        _ => Ok(Packages::of(arch)?.unpacked("busybox-static")?.join("bin/busybox")),
    }
}

/// An emulator of a whole machine.
pub(crate) fn emulator(arch: Arch) -> Result<PathBuf> {
    let package = match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Aarch64 => "qemu-system-arm",
    };
    debian_program(&format!("qemu-system-{}", arch.machine()), package)
}

/// Debian's newest kernel for virtual machines of that kind, whatever it is called today.
pub(crate) fn kernel(arch: Arch) -> Result<PathBuf> {
    let any = format!("linux-image-cloud-{}", arch.name());
    let is_kernel = |name: &str| name.starts_with("linux-image-") && name.ends_with(arch.name());
    if let Ok(entries) = fs::read_dir(debian::directory()) {
        for entry in entries {
            let entry = entry?;
            if is_kernel(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    let packages = Packages::of(arch)?;
    let depends =
        packages.asked(|| process::capture(packages.apt("apt-cache")?.args(["depends", &any])))?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.find(|name| is_kernel(name));
    packages.unpacked(name.with_context(|| format!("{any} depends on no kernel"))?)
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
