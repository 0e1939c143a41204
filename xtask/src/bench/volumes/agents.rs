//! Our two agents.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::super::kernel::children;
use super::super::lab::Lab;
use crate::process;
use crate::setup;

/// A host agent with a kubelet of its own.
pub(super) struct Host {
    pub(super) pid: u32,
    pub(super) kubelet_root: PathBuf,
    socket: PathBuf,
}

impl Host {
    pub(super) fn start(lab: &mut Lab, name: &str) -> Result<Self> {
        // In memory, as kubelet's Secrets are.
        let kubelet_root = lab.memory(&format!("{name}-kubelet"));
        fs::create_dir_all(kubelet_root.join("pods"))?;
        let socket = lab.path(&format!("{name}.sock"));
        let mut host = Self { pid: 0, kubelet_root, socket };
        let mut run = host.command(lab, &["run", "--log-level", "warn", "--kubelet-root"]);
        run.arg(&host.kubelet_root);
        run.arg("--state-dir").arg(lab.path(&format!("{name}-state")));
        host.pid = lab.world().serve(name, &mut run)?;
        lab.world().wait(name, || UnixStream::connect(&host.socket).ok().map(drop))?;
        Ok(host)
    }

    pub(super) fn command(&self, lab: &Lab, arguments: &[&str]) -> Command {
        let mut command = lab.program("sealift-host");
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }

    pub(super) fn attach_command(&self, lab: &Lab, guest: &Guest, pod: &str) -> Command {
        let mut command = self.command(lab, &["attach", "--wait", "120", "--pod", pod, "--guest"]);
        command.arg(format!("unix:{}", guest.socket.display()));
        command
    }

    /// Returns when the guest has all of the pod's volumes.
    pub(super) fn attach(&self, lab: &Lab, guest: &Guest, pod: &str) -> Result<()> {
        process::capture(&mut self.attach_command(lab, guest, pod)).map(drop)
    }
}

/// A guest agent.
pub(super) struct Guest {
    /// Its processes.
    pub(super) pids: Vec<u32>,
    pub(super) socket: PathBuf,
    /// Where its volumes are, seen from here.
    pub(super) seen_root: PathBuf,
}

impl Guest {
    /// Mounts in a namespace of its own, or plain directories where we may not.
    pub(super) fn start(lab: &mut Lab, agent: &Path, name: &str, options: &[&str]) -> Result<Self> {
        const UNSHARE: [&str; 3] = ["--mount", "--propagation", "private"];
        let (root, socket) = (lab.memory(name), lab.path(&format!("{name}.sock")));
        fs::create_dir(&root)?;
        let mut attempt = Command::new("unshare");
        attempt.args(UNSHARE).arg("true");
        let mounts = setup::is_root()?
            && process::output(&mut attempt).is_ok_and(|output| output.status.success());
        let mut run = lab.program(if mounts { Path::new("/usr/bin/env") } else { agent });
        if mounts {
            run.arg("unshare").args(UNSHARE).arg(agent);
        }
        run.args(["run", "--log-level", "warn", "--listen"]);
        run.arg(format!("unix:{}", socket.display())).arg("--root").arg(&root).args(options);
        if !mounts {
            println!("{name}: plain directories and one process, as we may not mount here");
            run.arg("--plain-directories");
        }
        let pid = lab.world().serve(name, &mut run)?;
        lab.world().wait(name, || UnixStream::connect(&socket).ok().map(drop))?;
        let seen_root = match (mounts, root.strip_prefix("/")) {
            (true, Ok(below)) => PathBuf::from(format!("/proc/{pid}/root")).join(below),
            _ => root,
        };
        let pids = std::iter::once(pid).chain(children(pid)?).collect();
        Ok(Self { pids, socket, seen_root })
    }
}
