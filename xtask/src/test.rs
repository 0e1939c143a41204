//! `cargo xtask test`: every test of the workspace, then the suites that compare us with
//! implementations that we did not write.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup;
use crate::workspace::{Profile, build, cargo, root};

/// What a suite's own summary says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

pub(crate) fn run() -> Result<()> {
    let python = setup::python()?;
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .env("SEALIFT_S3S_FS", setup::s3s_fs()?)
        .env("SEALIFT_STRACE", setup::strace()?)
        .env("SEALIFT_PYTHON", &python)
        // What a test needs is here now, so nothing may be skipped for want of it.
        .env("SEALIFT_TEST_STRICT", "1");
    let mut totals = Totals::default();
    let mut broken = Vec::new();
    suite("cargo test", &mut command, &mut totals, &mut broken)?;
    for script in interop_suites()? {
        let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        println!("\ninterop: {name}");
        let programs = build(&["sealift", "tinkfile", "josefile"], Profile::Dev)?;
        let mut command = Command::new(&python);
        command.arg(&script).env("SEALIFT_PROGRAMS", programs);
        suite(&name, &mut command, &mut totals, &mut broken)?;
    }
    println!("\ninterop: the independent reader on the public vectors");
    let mut reader = script(&python, "tests/reader/check_vectors.py");
    suite("check_vectors", reader.arg(root().join("tests/vectors")), &mut totals, &mut broken)?;
    println!();
    for name in &broken {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if !broken.is_empty() || totals.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

fn interop_suites() -> Result<Vec<std::path::PathBuf>> {
    let mut suites = Vec::new();
    for entry in fs::read_dir(root().join("tests/interop"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("_interop.py") {
            suites.push(path);
        }
    }
    suites.sort();
    Ok(suites)
}

/// Runs one suite, shows what it says as it says it, and adds up its summaries.
fn suite(
    name: &str,
    command: &mut Command,
    totals: &mut Totals,
    broken: &mut Vec<String>,
) -> Result<()> {
    let line = process::line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {line}"))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut summed = Totals::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        summed += summary(&line).unwrap_or_default();
    }
    let ended_well = child.wait()?.success();
    // A suite that dies before its summary must not look like one with nothing to do.
    if !ended_well && summed.failed == 0 {
        summed.failed = 1;
    }
    if !ended_well || summed.failed > 0 || summed == Totals::default() {
        broken.push(name.to_owned());
    }
    *totals += summed;
    Ok(())
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …` and `3 passed, 0 failed, 1 skipped`.
fn summary(line: &str) -> Option<Totals> {
    let counts = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None => line,
    };
    let mut parts = counts.split([';', ',']);
    let mut count = |names: &[&str]| {
        let (count, name) = parts.next()?.trim().split_once(' ')?;
        if names.contains(&name) { count.parse().ok() } else { None }
    };
    Some(Totals {
        passed: count(&["passed"])?,
        failed: count(&["failed"])?,
        skipped: count(&["ignored", "skipped"])?,
    })
}

/// The interpreter for scripts that the recipes run themselves.
pub(crate) fn script(python: &Path, path: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(root().join(path));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_summary() {
        let cargo =
            "test result: FAILED. 4 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        assert_eq!(summary(cargo), Some(Totals { passed: 4, failed: 1, skipped: 2 }));
        let ours = "106 passed, 0 failed, 3 skipped";
        assert_eq!(summary(ours), Some(Totals { passed: 106, failed: 0, skipped: 3 }));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["", "test a ... ok", "3 passed", "1 failed, 2 passed, 0 skipped"] {
            assert_eq!(summary(line), None, "{line}");
        }
    }
}
