//! A guest that shares no files with this machine: a virtual machine, or where none can run,
//! namespaces. In both the same script runs, `tests/vm/init`, which is steered over two lines, one
//! for the guest and one for the container in it: see [`Console`].

mod console;
pub(crate) mod image;
pub(crate) mod machine;
mod namespaces;
mod relay;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

pub(crate) use self::console::Console;
use self::image::Files;
pub(crate) use self::relay::Relay;
use crate::arch::Arch;
use crate::setup;
use crate::setup::vm::{Machine, busybox, is_static, machine};
use crate::workspace::{cargo, release};
use crate::world::World;

/// Where the guest keeps volumes.
pub(crate) const GUEST_ROOT: &str = "/run/sealift";

/// Which kind of guest can run here.
pub(crate) enum Kind {
    /// A virtual machine.
    Machine(Machine),
    /// Namespaces of this machine's kernel, and why it is not a virtual machine.
    Namespaces(String),
    /// Neither, and why.
    None(String),
}

/// One that runs.
pub(crate) struct Guest {
    /// Root's shell in the guest.
    pub(crate) control: Console,
    /// The container's own process, once `start_container` was said to [`control`](Self::control).
    pub(crate) container: Console,
    /// The socket file behind which the guest's agent is.
    pub(crate) channel: PathBuf,
    /// What comes before and after such a file in the address that the host's agent is given.
    pub(crate) address: [&'static str; 2],
}

impl Kind {
    /// The best one, after installing what it needs. `machines` are out of the question if false.
    pub(crate) fn find(machines: bool) -> Result<Self> {
        let missing = match machines {
            true => match machine().and_then(|machine| busybox(Arch::here()).map(|_| machine)) {
                Ok(machine) => return Ok(Self::Machine(machine)),
                Err(why) => format!("{why:#}"),
            },
            false => "namespaces were asked for".to_owned(),
        };
        Ok(match namespaces::why_not()? {
            None => Self::Namespaces(missing),
            Some(why) => Self::None(format!("{missing}; {why}")),
        })
    }

    /// Starts a guest of this kind, with the [agent](guest_program) in it, which may not listen yet.
    pub(crate) fn start(&self, world: &mut World, agent: &Path) -> Result<Guest> {
        let mut files = Files::new();
        files.program("bin/busybox", &busybox(Arch::here())?)?;
        files.program("bin/sealift-guest", agent)?;
        files.script("init", include_str!("../../tests/vm/init"));
        files.script("container", include_str!("../../tests/vm/container"));
        match self {
            Self::Machine(machine) => machine::start(world, machine, files),
            Self::Namespaces(_) => namespaces::start(world, &files),
            Self::None(why) => bail!("no guest can run here: {why}"),
        }
    }
}

/// The guest's agent, as it is released: without libraries, since the guest has none.
pub(crate) fn guest_program(arch: Arch) -> Result<PathBuf> {
    let building = setup::Doing::new("building sealift-guest");
    let mut build = cargo();
    // Alone, so that nothing of it is there for the sake of another program.
    build.args(["build", "--quiet", "--locked", "--package", "sealift-guest"]);
    let program = release(&mut build, arch)?.join("sealift-guest");
    if !is_static(&program)? {
        bail!("{} needs a loader and libraries", program.display());
    }
    building.done();
    Ok(program)
}
