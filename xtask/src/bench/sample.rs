//! What a run cost, and what several runs say together.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::test;

/// One run, as `tests/bench/measure.py` saw it. Seconds and bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) wall: f64,
    /// User and system time of the command and its descendants.
    pub(super) cpu: f64,
    /// Largest resident set of one process.
    pub(super) rss: f64,
    /// Anonymous memory of all processes and growth of the watched file system; 0 if none was.
    pub(super) memory: f64,
}

/// Runs `command` under `measure.py`; a failure is an error with what the command said.
pub(super) fn measure(
    python: &Path,
    scratch: &Path,
    watch: Option<&Path>,
    command: &Command,
) -> Result<Sample> {
    let mut measured = test::script(python, "tests/bench/measure.py");
    measured.arg(scratch);
    if let Some(directory) = watch {
        measured.arg("--watch").arg(directory);
    }
    measured.arg("--").arg(command.get_program()).args(command.get_args());
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => measured.env(variable, value),
            None => measured.env_remove(variable),
        };
    }
    let output = process::output(&mut measured)?;
    if !output.status.success() {
        bail!("failed: {}\n{}", process::line(command), process::said(&output));
    }
    let text = fs::read_to_string(scratch)?;
    let numbers: Vec<f64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("measure.py")?;
    let [_, wall, user, system, rss, memory] = numbers[..] else { bail!("measure.py: {text}") };
    Ok(Sample { wall, cpu: user + system, rss, memory })
}

/// The median over rounds of `of(a) / of(b)`: what both shared in a round cancels out.
pub(super) fn ratio(a: &[Sample], b: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    median(a.iter().zip(b).map(|(a, b)| of(a) / of(b)).collect())
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_bad_round() {
        assert_eq!(median(vec![1.0, 9.0, 1.2]), 1.2);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let runs =
            |walls: [f64; 3]| walls.map(|wall| Sample { wall, cpu: 0.0, rss: 0.0, memory: 0.0 });
        let (quiet_then_busy, twice) = (runs([1.0, 5.0, 50.0]), runs([2.0, 10.0, 100.0]));
        assert_eq!(ratio(&twice, &quiet_then_busy, |sample| sample.wall), 2.0);
    }
}
