//! A virtual machine: QEMU, Debian's kernel, and everything else in its first memory.
//!
//! It has no disk, no network and no shared filesystem: two serial ports for the tests, one for its
//! log, and a vsock device, which is the channel between the agents. The device is a program of its
//! own, and its other side is a socket file, as with Firecracker and Cloud Hypervisor.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Console, Files, Guest};
use crate::arch::Arch;
use crate::process;
use crate::setup::vm::{Machine, busybox};
use crate::world::World;

/// Modules of the vsock device, each after those that it needs.
const MODULES: [&str; 8] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci",
    "vmw_vsock/vsock",
    "vmw_vsock/vmw_vsock_virtio_transport_common",
    "vmw_vsock/vmw_vsock_virtio_transport",
];

pub(super) fn start(world: &mut World, machine: &Machine, mut files: Files) -> Result<Guest> {
    for (index, module) in MODULES.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module);
        // The script loads them in the order of their names.
        files.program(
            &format!("modules/{index}-{name}.ko"),
            &find_module(world, machine, module)?,
        )?;
    }
    let image = world.path("initramfs");
    fs::write(&image, files.to_cpio()?)?;
    let (device, channel) = (world.path("vhost.sock"), world.path("vm.vsock"));
    let mut vhost = Command::new(&machine.vhost_device_vsock);
    vhost.args(["--guest-cid", "3", "--socket"]).arg(&device).arg("--uds-path").arg(&channel);
    world.serve("vhost-device-vsock", &mut vhost)?;
    world.wait("vhost-device-vsock", || device.exists().then_some(()))?;

    let socket = |id: &str, path: &Path| format!("socket,id={id},path={}", path.display());
    let port = |id: &str, path: &Path| socket(id, path) + ",server=on,wait=off";
    let (control, container) = (world.path("control.sock"), world.path("container.sock"));
    let mut qemu = Command::new(&machine.qemu);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        // Emulated also where the processor could do it: the same everywhere, and a boot takes
        // three seconds. `max` has an instruction for random numbers, which spares the wait for them.
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512M"])
        .args(["-object", "memory-backend-memfd,id=memory,size=512M,share=on"])
        .args(["-machine", "q35,memory-backend=memory", "-kernel"])
        .arg(kernel_image(&machine.kernel)?)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1"])
        .args(["-serial", "stdio", "-chardev", &port("control", &control)])
        .args(["-serial", "chardev:control", "-chardev", &port("container", &container)])
        .args(["-serial", "chardev:container", "-chardev", &socket("vsock", &device)])
        .args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
    world.serve("guest", &mut qemu)?;
    let connect = |path: &Path| UnixStream::connect(path).ok();
    let control = world.wait("guest", || connect(&control))?;
    let container = world.wait("guest", || connect(&container))?;
    let mut control = Console::new("guest", control.try_clone()?, control);
    world.wait("guest", || control.greeting())?;
    let container = Console::new("container", container.try_clone()?, container);
    Ok(Guest { control, container, channel, address: ["hvsock:", ":1027"] })
}

/// The kernel among the files of its package.
pub(crate) fn kernel_image(kernel: &Path) -> Result<PathBuf> {
    let boot = kernel.join("boot");
    for entry in fs::read_dir(&boot)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(entry.path());
        }
    }
    bail!("no kernel in {}", boot.display())
}

/// A module's file, without compression.
fn find_module(world: &World, machine: &Machine, module: &str) -> Result<PathBuf> {
    let versions = machine.kernel.join("lib/modules");
    let version = fs::read_dir(&versions)?.next().context("a kernel without modules")??;
    let (family, name) = module.split_once('/').context("a module's directory")?;
    let directory = match family {
        "virtio" => "drivers/virtio",
        _ => "net/vmw_vsock",
    };
    let plain = version.path().join("kernel").join(directory).join(format!("{name}.ko"));
    let packed = plain.with_extension("ko.xz");
    if plain.is_file() {
        return Ok(plain);
    }
    // As Debian packs them from version 13 on.
    let unpacked = world.path(&format!("{name}.ko"));
    let mut unpack = Command::new(busybox(Arch::here())?);
    let output = process::output(unpack.args(["xz", "-dc"]).arg(&packed))?;
    if !output.status.success() {
        bail!("cannot unpack {}: {}", packed.display(), process::said(&output));
    }
    fs::write(&unpacked, output.stdout)?;
    Ok(unpacked)
}
