//! Our two agents, and what the kernel says of them.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

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

fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        // One that is gone by now is not ours: ours stay.
        if status(&format!("{pid}"), "PPid").is_ok_and(|of| of == u64::from(parent)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A number in `/proc/PROCESS/status`.
fn status(process: &str, field: &str) -> Result<u64> {
    number_in(&format!("/proc/{process}/status"), field)
}

fn number_in(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("{path}: {field}"))?.parse()?)
}

fn sum_mib(pids: &[u32], field: &str) -> Result<f64> {
    let kib = pids.iter().map(|pid| status(&pid.to_string(), field)).sum::<Result<u64>>()?;
    Ok(kib as f64 / 1024.0)
}

/// Together; pages that they share count for each of them.
pub(super) fn resident_mib(pids: &[u32]) -> Result<f64> {
    sum_mib(pids, "VmRSS")
}

/// Together; pages that they share count once, as the program's own do (Linux, `smaps_rollup`).
pub(super) fn memory_mib(pids: &[u32]) -> Result<f64> {
    let pss = |pid| number_in(&format!("/proc/{pid}/smaps_rollup"), "Pss");
    let kib = pids.iter().map(pss).sum::<Result<u64>>()?;
    Ok(kib as f64 / 1024.0)
}

/// The sum of each one's largest resident set since it started.
pub(super) fn peak_mib(pids: &[u32]) -> Result<f64> {
    sum_mib(pids, "VmHWM")
}

/// How often their threads have slept so far.
pub(super) fn voluntary_switches(pids: &[u32]) -> Result<u64> {
    let mut switches = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = format!("{pid}/task/{}", task?.file_name().to_string_lossy());
            switches += status(&task, "voluntary_ctxt_switches")?;
        }
    }
    Ok(switches)
}

/// What they have used so far, in steps of 10 ms.
pub(super) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    /// Linux's `USER_HZ` on all that we run on.
    const TICKS: f64 = 100.0;
    let mut ticks: u64 = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path)?;
        // The name before may hold anything.
        let (_, fields) = text.rsplit_once(')').context("stat")?;
        let times = fields.split_whitespace().skip(11).take(2);
        ticks += times.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    }
    Ok(ticks as f64 / TICKS)
}
