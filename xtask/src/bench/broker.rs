//! The broker: how many guests it serves, how soon, and in how little memory.

use std::fs;

use anyhow::{Result, bail};

use super::kernel::{cpu_seconds, peak_mib};
use super::lab::{Lab, RESOURCE};
use super::sample::median;
use super::{Bar, Line};
use crate::process;
use crate::workspace::{Profile, build};

/// Everything that attests may have every key: the bench is not about policies.
const ALLOW: &str = "package policy\nimport rego.v1\ndefault allow := false\nallow if input.iss\n";

fn line(what: &str, measured: f64, unit: &'static str, bar: Bar) -> Line {
    Line { bench: "broker", what: what.into(), measured, unit, bar }
}

/// Whole handshakes with the sample verifier, each over a connection of its own; the guests share the
/// machine with the broker, which flushes its audit log to disk.
pub(super) fn broker(lab: &mut Lab) -> Result<Vec<Line>> {
    build(&["sealift-broker", "releases"], Profile::Release)?;
    let broker = Broker::start(lab)?;
    let (many, few) = if lab.sizes().is_smoke_test() { (200, 20) } else { (10_000, 500) };
    let (mut busy, mut alone) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=lab.rounds() {
        let runs = (broker.releases(lab, many, 32)?, broker.releases(lab, few, 1)?);
        if round > 0 {
            busy.push(runs.0);
            alone.push(runs.1);
        }
    }
    let of = |runs: &[Run], what: fn(&Run) -> f64| median(runs.iter().map(what).collect());
    Ok(vec![
        line("releases, 32 guests at a time", of(&busy, |run| run.rate), "1/s", Bar::AtLeast(2e3)),
        line("  p50", of(&busy, |run| run.p50), "ms", Bar::None),
        line("  p99", of(&busy, |run| run.p99), "ms", Bar::AtMost(40.0)),
        line("  CPU of the broker, each", of(&busy, |run| run.broker_cpu), "ms", Bar::None),
        line("  CPU of the guest, each", of(&busy, |run| run.guest_cpu), "ms", Bar::None),
        line(
            "a release, one guest at a time, p50",
            of(&alone, |run| run.p50),
            "ms",
            Bar::AtMost(2.0),
        ),
        line("  p99", of(&alone, |run| run.p99), "ms", Bar::None),
        line("broker, peak resident set", peak_mib(&[broker.pid])?, "MiB", Bar::AtMost(64.0)),
    ])
}

/// What one run of many guests took: a second's worth, and milliseconds.
struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
    broker_cpu: f64,
    guest_cpu: f64,
}

struct Broker {
    pid: u32,
    url: String,
}

impl Broker {
    fn start(lab: &mut Lab) -> Result<Self> {
        let (data, keys) = (lab.path("broker"), lab.path("broker-keys"));
        process::capture(lab.program("sealift-broker").args(["init", "--data-dir"]).arg(&data))?;
        let (policy, ready) = (lab.path("broker.rego"), lab.path("broker-address"));
        fs::write(&policy, ALLOW)?;
        let mut serve = lab.program("sealift-broker");
        serve.args(["serve", "--insecure-dev", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
        serve.arg("--data-dir").arg(&data);
        serve.arg("--master-key-file").arg(keys.join("master.key"));
        serve.arg("--admin-public-key").arg(keys.join("admin.pub"));
        serve.arg("--policy").arg(&policy).arg("--ready-file").arg(&ready);
        let pid = lab.world().serve("broker", &mut serve)?;
        let address = lab.world().wait("broker", || fs::read_to_string(&ready).ok())?;
        let url = format!("http://{}", address.trim());
        let mut put = lab.program("sealift");
        put.args(["key", "put", "--resource-id", RESOURCE, "--kbs-url", &url, "--key-file"]);
        put.arg(lab.key_file()).arg("--admin-key").arg(keys.join("admin.key"));
        process::capture(&mut put)?;
        Ok(Self { pid, url })
    }

    fn releases(&self, lab: &Lab, count: usize, guests: usize) -> Result<Run> {
        let before = cpu_seconds(&[self.pid])?;
        let mut releases = lab.program("releases");
        releases.args([&self.url, RESOURCE]).args([count, guests].map(|count| count.to_string()));
        let printed = process::capture(&mut releases)?;
        let broker_cpu = cpu_seconds(&[self.pid])? - before;
        let seconds: Vec<f64> =
            printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [wall, p50, p99, guest_cpu] = seconds[..] else { bail!("releases: {printed}") };
        let each = |cpu: f64| cpu * 1000.0 / count as f64;
        Ok(Run {
            rate: count as f64 / wall,
            p50: p50 * 1000.0,
            p99: p99 * 1000.0,
            broker_cpu: each(broker_cpu),
            guest_cpu: each(guest_cpu),
        })
    }
}
