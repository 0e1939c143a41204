//! The agent on this machine: its process, and what one may ask it.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::pod::Volume;
use crate::process;
use crate::world::World;

/// The program.
pub(super) const PROGRAM: &str = "sealift-host";

/// Started, killed and started again.
pub(super) struct HostAgent {
    socket: PathBuf,
    pid: u32,
    starts: u32,
}

impl HostAgent {
    /// Not started yet.
    pub(super) fn new(world: &World) -> Self {
        Self { socket: world.path("host.sock"), pid: 0, starts: 0 }
    }

    /// Starts it, with what the one before has left on disk.
    pub(super) fn start(&mut self, world: &mut World) -> Result<()> {
        self.starts += 1;
        let log = self.log();
        let mut run = self.command(world, &["run", "--kubelet-root"]);
        run.arg(kubelet_root(world)).arg("--state-dir").arg(world.path("host-state"));
        self.pid = world.serve(&log, &mut run)?;
        world.wait(&log, || UnixStream::connect(&self.socket).ok().map(drop))
    }

    /// Ends it without a warning.
    pub(super) fn kill(&self) -> Result<()> {
        process::capture(Command::new("kill").args(["-9", &self.pid.to_string()])).map(drop)
    }

    /// What the command `arguments` says.
    pub(super) fn ask(&self, world: &World, arguments: &[&str]) -> Result<String> {
        process::capture(&mut self.command(world, arguments))
    }

    /// How volumes are.
    pub(super) fn status(&self, world: &World) -> Result<Status> {
        self.ask(world, &["status", "--output", "json"]).map(Status)
    }

    /// The name of the log of the process that was started last.
    pub(super) fn log(&self) -> String {
        format!("host-{}", self.starts)
    }

    fn command(&self, world: &World, arguments: &[&str]) -> Command {
        let mut command = world.program(PROGRAM);
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }
}

/// Where kubelet keeps pods.
pub(super) fn kubelet_root(world: &World) -> PathBuf {
    world.path("kubelet")
}

/// The JSON of `status`, one member per line.
pub(super) struct Status(pub(super) String);

impl Status {
    /// What it says of a volume.
    pub(super) fn of(&self, volume: &Volume, member: &str) -> Option<&str> {
        let (_, report) = self.0.split_once(&format!("\"volume\": \"{}\"", volume.id()))?;
        let report = report.split('}').next()?;
        let (_, value) = report.split_once(&format!("\"{member}\": "))?;
        Some(value.lines().next()?.trim_end_matches(','))
    }

    /// Whether it says that the guest has what this machine has.
    pub(super) fn is_current(&self, volume: &Volume) -> Option<bool> {
        self.of(volume, "current")?.parse().ok()
    }
}
