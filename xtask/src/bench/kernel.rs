//! What the kernel says of processes.

use std::fs;

use anyhow::{Context, Result};

/// Of one process.
pub(super) fn children(parent: u32) -> Result<Vec<u32>> {
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
