//! `cargo xtask demo arm64`: the programs of the images for arm64, on an emulated machine of that
//! kind. It has no disk and no network; its first process is a script that tells both lanes' stories
//! in short, `tests/vm/story`, and every program is confined as on real machines.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::image;
use crate::setup::vm::{busybox, emulator, is_static, kernel};
use crate::vm::image::Files;
use crate::vm::machine::kernel_image;
use crate::workspace::root;
use crate::world::World;

const ARCH: Arch = Arch::Aarch64;

/// Emulation takes some twenty times as long as the processor would.
const TIME_MAX: Duration = Duration::from_secs(600);

pub(crate) fn run() -> Result<()> {
    let mut files = Files::new();
    for (name, program) in image::build(ARCH)? {
        if !is_static(&program)? {
            bail!("{} needs a loader and libraries", program.display());
        }
        files.program(&format!("bin/{name}"), &program)?;
        if name == "sealift" {
            files.program("bin/storage-initializer", &program)?;
        }
    }
    files.program("bin/busybox", &busybox(ARCH)?)?;
    files.program("init", &root().join("tests/vm/story"))?;
    files.script("etc/ssl/certs/ca-certificates.crt", &String::from_utf8(image::authorities()?)?);

    let (kernel, emulator) = (kernel_image(&kernel(ARCH)?)?, emulator(ARCH)?);
    let mut world = World::new("arm64", 1 << 20, Default::default())?;
    let memory = world.path("initramfs");
    fs::write(&memory, files.to_cpio()?)?;
    let mut qemu = Command::new(emulator);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-machine", "virt", "-accel", "tcg", "-cpu", "max,pauth-impdef=on"])
        .args(["-smp", "2", "-m", "1G", "-serial", "stdio", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(memory)
        .args(["-append", "console=ttyAMA0 quiet loglevel=4 panic=-1"]);
    let booting = Instant::now();
    world.serve("guest", &mut qemu)?;
    let mut said = 0;
    loop {
        let log = world.log("guest").replace('\r', "");
        let steps: Vec<_> = log.lines().filter_map(|line| line.strip_prefix("STEP ")).collect();
        for step in &steps[said..] {
            println!("  {step:72}{:6.1} s", booting.elapsed().as_secs_f64());
        }
        said = steps.len();
        if log.lines().any(|line| line == "DONE") {
            println!("\nAll as promised, on {}.", ARCH.name());
            return Ok(());
        }
        let failed = log.contains("FAILED:") || log.contains("Kernel panic");
        if failed || booting.elapsed() > TIME_MAX {
            bail!("it does not hold on {}:\n{log}", ARCH.name());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
