//! `cargo xtask bench`: the speed promises, each as a ratio of two things measured in one run.
//!
//! Other work on the machine, its memory's state and its clock are shared by both sides of a
//! ratio: rounds alternate the order, the first round only warms up, and the median round counts.

mod broker;
mod kernel;
mod lab;
mod lines;
mod plain;
mod sample;
mod volumes;

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::target_dir;
use lab::{Lab, Sizes};

/// A promise and what was measured of it.
struct Line {
    bench: &'static str,
    what: String,
    measured: f64,
    unit: &'static str,
    bar: Bar,
}

#[derive(Clone, Copy)]
enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// Context for another line, promised nowhere.
    None,
}

impl Line {
    fn met(&self) -> Option<bool> {
        match self.bar {
            Bar::AtMost(bar) => Some(self.measured <= bar),
            Bar::AtLeast(bar) => Some(self.measured >= bar),
            Bar::None => None,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.met() {
            Some(true) => "ok",
            Some(false) => "miss",
            None => "",
        }
    }

    fn bar_text(&self) -> String {
        match self.bar {
            Bar::AtMost(bar) => format!("≤ {bar}"),
            Bar::AtLeast(bar) => format!("≥ {bar}"),
            Bar::None => String::new(),
        }
    }

    fn json(&self) -> String {
        let bar = match self.bar {
            Bar::AtMost(bar) => format!(r#"{{"at_most":{bar}}}"#),
            Bar::AtLeast(bar) => format!(r#"{{"at_least":{bar}}}"#),
            Bar::None => "null".into(),
        };
        let met = self.met().map_or("null".into(), |met| met.to_string());
        format!(
            r#"{{"bench":"{}","what":"{}","measured":{:.4},"unit":"{}","bar":{bar},"met":{met}}}"#,
            self.bench, self.what, self.measured, self.unit,
        )
    }
}

/// One bench: its name, the memory that it needs at `Sizes`, and how to run it.
type Bench = (&'static str, fn(&Sizes) -> u64, fn(&mut Lab) -> Result<Vec<Line>>);

const BENCHES: [Bench; 13] = [
    ("download", |sizes| 3 * sizes.model, lines::download),
    ("plain", |sizes| 3 * sizes.model, plain::plain),
    ("small", |sizes| sizes.gib, plain::small),
    ("upstream", |sizes| 7 * sizes.gib, lines::upstream),
    ("local", |sizes| 3 * sizes.gib, lines::local),
    ("tink", |sizes| 3 * sizes.gib, lines::tink),
    ("rage", |sizes| 4 * sizes.gib, lines::rage),
    ("seal", |sizes| 3 * sizes.gib, lines::seal),
    ("open", |sizes| 2 * sizes.gib, lines::open),
    ("memory", |sizes| 12 * sizes.gib, lines::memory),
    ("help", |_| 0, lines::help),
    ("broker", |_| 0, broker::broker),
    ("volumes", |sizes| 3 * sizes.gib, volumes::volumes),
];

struct Options {
    sizes: Sizes,
    rounds: usize,
    names: Vec<String>,
}

pub(crate) fn run(options: &[&str]) -> Result<()> {
    let Options { sizes, rounds, names } = parse(options)?;
    let models = names.is_empty() || names.iter().any(|name| name != "volumes");
    let mut lab = Lab::new(sizes, rounds, models)?;
    let (mut lines, mut skipped) = (Vec::new(), 0);
    for (name, needs, bench) in BENCHES {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        // A tenth and 1 GiB more than the bytes themselves: pages have their cost, others live too.
        let (needs, available) = (needs(lab.sizes()) / 10 * 11 + (1 << 30), available_memory()?);
        if needs > available {
            println!(
                "{name}: skipped, needs {}, {} available",
                lab::size(needs),
                lab::size(available)
            );
            skipped += 1;
            continue;
        }
        eprintln!("bench: {name}");
        lines.extend(bench(&mut lab).with_context(|| format!("bench {name}"))?);
    }
    if lab.sizes().is_smoke_test() {
        println!("Sizes are too small for the bars to mean anything: they are left out.");
        lines.iter_mut().for_each(|line| line.bar = Bar::None);
    }
    print!("{}", table(&lines));
    let json: Vec<String> = lines.iter().map(Line::json).collect();
    let report = target_dir()?.join("bench.json");
    fs::write(&report, format!("[\n{}\n]\n", json.join(",\n")))?;
    println!(
        "\n{} of {} bars met, {skipped} benches skipped; {}",
        lines.iter().filter(|line| line.met() == Some(true)).count(),
        lines.iter().filter(|line| line.met().is_some()).count(),
        report.display(),
    );
    Ok(())
}

fn exists(name: &str) -> bool {
    BENCHES.iter().any(|(known, ..)| *known == name)
}

fn parse(options: &[&str]) -> Result<Options> {
    let mut parsed = Options { sizes: Sizes::of(4 << 30), rounds: 5, names: Vec::new() };
    let mut words = options.iter();
    while let Some(&word) = words.next() {
        match word {
            "--quick" => (parsed.sizes, parsed.rounds) = (Sizes::of(64 << 20), 1),
            "--size" => {
                let bytes = words.next().context("--size BYTES")?.parse()?;
                parsed.sizes = Sizes::of(bytes);
            }
            "--rounds" => parsed.rounds = words.next().context("--rounds N")?.parse()?,
            name if exists(name) => parsed.names.push(name.to_owned()),
            other => {
                let known: Vec<&str> = BENCHES.iter().map(|(name, ..)| *name).collect();
                bail!("unknown bench {other}; there are {}", known.join(", "));
            }
        }
    }
    if parsed.rounds == 0 {
        bail!("--rounds is at least 1");
    }
    Ok(parsed)
}

fn table(lines: &[Line]) -> String {
    let mut table = String::new();
    for line in lines {
        let measured = format!("{:.2} {}", line.measured, line.unit);
        let _ = writeln!(
            table,
            "{:9} {:58} {measured:>12} {:>8}  {}",
            line.bench,
            line.what,
            line.bar_text(),
            line.verdict(),
        );
    }
    table
}

/// Bytes that the kernel could give us without swapping.
fn available_memory() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("/proc/meminfo")?;
    Ok(kib.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_met_up_to_its_bar() {
        let line =
            |measured, bar| Line { bench: "x", what: String::new(), measured, unit: "×", bar };
        assert_eq!(line(1.2, Bar::AtMost(1.2)).verdict(), "ok");
        assert_eq!(line(1.21, Bar::AtMost(1.2)).verdict(), "miss");
        assert_eq!(line(0.84, Bar::AtLeast(0.85)).verdict(), "miss");
        assert_eq!(line(9.0, Bar::None).verdict(), "");
    }

    #[test]
    fn refuses_a_bench_that_does_not_exist() {
        assert!(parse(&["dowload"]).is_err());
        assert!(parse(&["--rounds", "0"]).is_err());
        assert_eq!(parse(&["--quick", "seal"]).unwrap().names, ["seal"]);
    }
}
