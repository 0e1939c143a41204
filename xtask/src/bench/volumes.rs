//! The volume lane: how soon, with how little on the wire, how fast, and in how little memory.
//!
//! The guest agent has a mount namespace of its own, so that its mounts end with it, however the
//! bench does, and is looked into through `/proc/PID/root`.

mod agents;

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};

use self::agents::{Guest, Host};
use super::kernel::{cpu_seconds, memory_mib, peak_mib, resident_mib, voluntary_switches};
use super::lab::{Lab, same_files, size};
use super::sample::{Sample, median, ratio};
use super::{Bar, Line};
use crate::arch::Arch;
use crate::process;
use crate::vm::guest_program;
use crate::workspace::{Profile, build};

/// How much there is of everything.
struct Scale {
    attached: usize,
    many: usize,
    keys: usize,
    /// Rounds of the 2-key updates: of 20 of ours each.
    pace_rounds: usize,
    one_key_rounds: usize,
    idle: Duration,
    large_bytes: u64,
}

impl Scale {
    fn of(lab: &Lab) -> Self {
        let large_bytes = lab.sizes().gib / 2;
        match lab.sizes().is_smoke_test() {
            true => Self {
                attached: 40,
                many: 80,
                keys: 50,
                pace_rounds: 1,
                one_key_rounds: 1,
                idle: Duration::from_secs(1),
                large_bytes,
            },
            false => Self {
                attached: 1_000,
                many: 5_000,
                keys: 1_000,
                pace_rounds: 10 * lab.rounds(),
                one_key_rounds: 4 * lab.rounds(),
                idle: Duration::from_secs(5),
                large_bytes,
            },
        }
    }
}

fn line(what: &str, measured: f64, unit: &'static str, bar: Bar) -> Line {
    Line { bench: "volumes", what: what.into(), measured, unit, bar }
}

pub(super) fn volumes(lab: &mut Lab) -> Result<Vec<Line>> {
    build(&["sealift-host", "kubelet"], Profile::Release)?;
    // Not as the workspace builds it, where other crates' choices add to its own.
    let agent = guest_program(Arch::here())?;
    println!(
        "Kata's sequences are emulated: its runtimes' calls, order, triggers and timers, against a \
         kata-agent of ours that does with files what Kata's does. Neither Kata's own code nor a \
         virtual machine is in it. With Kata's own code, on another day, Go took 3 and 568 ms and runtime-rs 604 \
         and 1170 ms, for 2 and 1000 keys."
    );
    let scale = Scale::of(lab);
    let mut lines = many_volumes(lab, &scale, &agent)?;
    for files in [1, 512] {
        lines.extend(large_volume(lab, &scale, &agent, files)?);
    }
    Ok(lines)
}

/// Latency, what one changed key costs, and what the agents cost when nothing changes.
fn many_volumes(lab: &mut Lab, scale: &Scale, agent: &Path) -> Result<Vec<Line>> {
    let Scale { attached, many, .. } = *scale;
    let host = Host::start(lab, "host")?;
    let guest = Guest::start(lab, agent, "guest", &["--max-volumes", &many.to_string()])?;
    let laid_out = process::capture(
        lab.program("kubelet").arg("lay-out").arg(&host.kubelet_root).arg(many.to_string()),
    )?;
    let pods: Vec<&str> = laid_out.lines().collect();
    let (first, others) = pods.split_at(pods.len() * attached / many);
    first.iter().try_for_each(|pod| host.attach(lab, &guest, pod))?;

    let mut lines = pace(lab, scale, &host, &guest)?;

    // Earlier revisions stay for two seconds.
    sleep(Duration::from_secs(4));
    let before = voluntary_switches(&guest.pids)?;
    sleep(scale.idle);
    let woken = voluntary_switches(&guest.pids)? - before;
    let what = format!("guest agent's wake-ups in {} s, {attached} volumes", scale.idle.as_secs());
    lines.push(line(&what, woken as f64, "", Bar::AtMost(0.0)));
    // It is two processes of one program, whose pages a sum of resident sets would count twice.
    let what = format!("guest agent idle, {attached} volumes, memory");
    lines.push(line(&what, memory_mib(&guest.pids)?, "MiB", Bar::AtMost(8.0)));
    let what = "  the same as the sum of two resident sets";
    lines.push(line(what, resident_mib(&guest.pids)?, "MiB", Bar::None));

    let other = Guest::start(lab, agent, "guest-keys", &[])?;
    let what = "guest agent idle, no volumes, resident set";
    lines.push(line(what, resident_mib(&other.pids)?, "MiB", Bar::AtMost(8.0)));
    lines.extend(one_key(lab, scale, &host, &other)?);

    others.iter().try_for_each(|pod| host.attach(lab, &guest, pod))?;
    let what = format!("host agent, {many} volumes, resident set");
    lines.push(line(&what, resident_mib(&[host.pid])?, "MiB", Bar::AtMost(64.0)));
    let what = format!("guest agent, {many} volumes, resident set");
    lines.push(line(&what, resident_mib(&guest.pids)?, "MiB", Bar::None));
    Ok(lines)
}

/// Who brought an update, and what it took.
struct Update {
    by: String,
    milliseconds: f64,
    requests: f64,
    bytes: f64,
}

/// What `kubelet pace` and `kubelet one-key` print.
fn updates(printed: &str) -> Result<Vec<Update>> {
    let update = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [by, milliseconds, requests, to_guest, to_host] = words[..] else {
            bail!("kubelet: {line}");
        };
        let (to_guest, to_host): (f64, f64) = (to_guest.parse()?, to_host.parse()?);
        Ok(Update {
            by: by.into(),
            milliseconds: milliseconds.parse()?,
            requests: requests.parse()?,
            bytes: to_guest + to_host,
        })
    };
    printed.lines().map(update).collect()
}

fn of(updates: &[Update], by: &str, what: impl Fn(&Update) -> f64) -> Vec<f64> {
    updates.iter().filter(|update| update.by == by).map(what).collect()
}

fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    // The smallest value that so many percent of all do not exceed.
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

const KATA: [(&str, &str); 2] = [
    ("go", "Kata's Go sequence, emulated"),
    ("runtime-rs", "Kata's runtime-rs sequence, emulated"),
];

fn pace(lab: &mut Lab, scale: &Scale, host: &Host, guest: &Guest) -> Result<Vec<Line>> {
    let scratch = lab.memory("pace");
    std::fs::create_dir(&scratch)?;
    let pids: Vec<u32> = guest.pids.iter().copied().chain([host.pid]).collect();
    let before = cpu_seconds(&pids)?;
    let mut command = lab.program("kubelet");
    command.arg("pace").args([&host.kubelet_root, &guest.seen_root]);
    command.args([scale.attached, scale.pace_rounds].map(|count| count.to_string()));
    let updates = updates(&process::capture(command.arg(&scratch))?)?;
    let ours = of(&updates, "ours", |update| update.milliseconds);
    let cpu = (cpu_seconds(&pids)? - before) * 1000.0 / ours.len() as f64;
    let what = format!("from kubelet's rename to visible, {} volumes", scale.attached);
    let mut lines = vec![
        line(&format!("{what}, p50"), percentile(ours.clone(), 50), "ms", Bar::AtMost(5.0)),
        line(&format!("{what}, p99"), percentile(ours, 99), "ms", Bar::AtMost(20.0)),
        line(&format!("{what}, CPU of the agents"), cpu, "ms", Bar::None),
    ];
    for (by, name) in KATA {
        let volumes = if by == "go" { scale.attached } else { 1 };
        let took = of(&updates, by, |update| update.milliseconds);
        for percent in [50, 99] {
            let what = format!("  {name}, {volumes} volume{}", if volumes == 1 { "" } else { "s" });
            let measured = percentile(took.clone(), percent);
            lines.push(line(&format!("{what}, p{percent}"), measured, "ms", Bar::None));
        }
    }
    Ok(lines)
}

fn one_key(lab: &mut Lab, scale: &Scale, host: &Host, guest: &Guest) -> Result<Vec<Line>> {
    let scratch = lab.memory("one-key");
    std::fs::create_dir(&scratch)?;
    let attach = host.command(lab, &["attach", "--wait", "60", "--guest"]);
    let mut command = lab.program("kubelet");
    command.arg("one-key").args([&host.kubelet_root, &guest.seen_root, &guest.socket]);
    command.args([scale.keys, scale.one_key_rounds].map(|count| count.to_string()));
    command.arg(&scratch).arg(attach.get_program()).args(attach.get_args());
    let updates = updates(&process::capture(&mut command)?)?;
    let key_bytes = ((1 << 20) / scale.keys) as f64;
    let kib = |bytes: f64| bytes / 1024.0;
    let what = format!("1 of {} keys changes", scale.keys);
    // The largest that any update took, not the usual one: counts do not depend on the machine.
    let most = |by, of_update: fn(&Update) -> f64| {
        of(&updates, by, of_update).into_iter().fold(f64::NAN, f64::max)
    };
    let over = kib(most("ours", |update| update.bytes) - key_bytes);
    let calls = most("ours", |update| update.requests);
    let took = |by| percentile(of(&updates, by, |update| update.milliseconds), 50);
    let mut lines = vec![
        line(&format!("{what}, on the wire beside the key"), over, "KiB", Bar::AtMost(4.0)),
        line(&format!("{what}, requests"), calls, "", Bar::AtMost(3.0)),
        line(&format!("{what}, from rename to visible, p50"), took("ours"), "ms", Bar::None),
    ];
    for (by, name) in KATA {
        let over = kib(most(by, |update| update.bytes) - key_bytes);
        lines.push(line(&format!("  {name}, beside the key"), over, "KiB", Bar::None));
        let calls = most(by, |update| update.requests);
        lines.push(line(&format!("  {name}, requests"), calls, "", Bar::None));
        lines.push(line(&format!("  {name}, p50"), took(by), "ms", Bar::None));
    }
    Ok(lines)
}

/// From `attach` to its return, when the guest has and shows the whole volume, against `cp` of the
/// same files into a tmpfs of the same kind.
fn large_volume(lab: &mut Lab, scale: &Scale, agent: &Path, files: u64) -> Result<Vec<Line>> {
    let bytes = scale.large_bytes;
    let host = Host::start(lab, &format!("host-{files}"))?;
    let guest = Guest::start(lab, agent, &format!("guest-{files}"), &["--max-mib", "1024"])?;
    let mut large = lab.program("kubelet");
    large.arg("large").arg(&host.kubelet_root);
    large.args([files, bytes / files].map(|count| count.to_string()));
    let pod = process::capture(&mut large)?.trim().to_owned();
    let volume =
        host.kubelet_root.join(format!("pods/{pod}/volumes/kubernetes.io~configmap/large"));
    let source = volume.join("..data").canonicalize()?;
    let seen = guest.seen_root.join(format!("volumes/{pod}.large/data/..data/."));
    let pids: Vec<u32> = guest.pids.iter().copied().chain([host.pid]).collect();

    let attached = |lab: &Lab, check: bool| -> Result<Sample> {
        lab.touch_memory()?;
        let before = cpu_seconds(&pids)?;
        let attach = host.attach_command(lab, &guest, &pod);
        let sample = lab.measure(None, &attach)?;
        let cpu = sample.cpu + cpu_seconds(&pids)? - before;
        if check {
            same_files(&source, &seen)?;
        }
        process::capture(&mut host.command(lab, &["detach", "--pod", &pod]))?;
        Ok(Sample { cpu, ..sample })
    };
    let copied = |lab: &Lab| {
        let cp = |to: &Path| {
            let mut command = Command::new("cp");
            command.arg("--recursive").arg(source.join(".")).arg(to);
            command
        };
        lab.fill(cp, |_| Ok(()))
    };
    let (mut ours, mut cp) = (Vec::new(), Vec::new());
    for round in 0..=lab.rounds() {
        let first = (round % 2 == 0).then(|| copied(lab)).transpose()?;
        let attached = attached(lab, round == 0)?;
        let copied = first.map_or_else(|| copied(lab), Ok)?;
        if round > 0 {
            ours.push(attached);
            cp.push(copied);
        }
    }
    let rate = |samples: &[Sample]| {
        let walls = samples.iter().map(|sample| sample.wall).collect();
        bytes as f64 / f64::from(1 << 20) / median(walls)
    };
    let what = match files {
        1 => format!("a volume of {} in 1 file", size(bytes)),
        _ => format!("a volume of {} in {files} files", size(bytes)),
    };
    let one = |bar| if files == 1 { bar } else { Bar::None };
    let speed = ratio(&cp, &ours, |sample| sample.wall);
    let cpu = ratio(&cp, &ours, |sample| sample.cpu);
    Ok(vec![
        line(&format!("{what} / cp, rate"), speed, "×", one(Bar::AtLeast(0.5))),
        line("  cp's CPU / ours, both agents together", cpu, "×", Bar::None),
        line("  ours", rate(&ours), "MiB/s", Bar::None),
        line("  cp", rate(&cp), "MiB/s", Bar::None),
        line("  host agent, peak resident set", peak_mib(&[host.pid])?, "MiB", Bar::AtMost(16.0)),
        line("  guest agent, peak resident set", peak_mib(&guest.pids)?, "MiB", Bar::AtMost(16.0)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(values.clone(), 50), 100.0);
        assert_eq!(percentile(values, 99), 198.0);
        assert_eq!(percentile(vec![7.0], 99), 7.0);
    }

    #[test]
    fn an_update_is_five_words() {
        let [update] = &updates("go 2.500 4 900 100\n").unwrap()[..] else { panic!() };
        assert_eq!((update.milliseconds, update.requests, update.bytes), (2.5, 4.0, 1000.0));
        assert!(updates("go 2.500 4\n").is_err());
    }
}
