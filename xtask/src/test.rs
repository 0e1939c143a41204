//! `cargo xtask test`: every test of the workspace, then the suites that compare us with
//! implementations that we did not write.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::compare;
use crate::demo::volumes::{self, Place};
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

/// What all suites together say.
#[derive(Debug, Default)]
struct Report {
    totals: Totals,
    /// Suites that failed, or said nothing.
    broken: Vec<String>,
    /// Tests that failed or were skipped, and why.
    remarks: Vec<String>,
}

pub(crate) fn run() -> Result<()> {
    let python = setup::python()?;
    let mut report = Report::default();
    let skipped = root().join("target/skipped-tests");
    let compared = root().join("target/compared.jsonl");
    // What an earlier run left in them is not of this one.
    fs::write(&skipped, "")?;
    fs::write(&compared, "")?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    let tests = environment(&mut tests)?;
    tests.env("SEALIFT_TEST_SKIPPED", &skipped).env(compare::RESULTS, &compared);
    report.suite("cargo test", tests)?;
    report.skipped(&fs::read_to_string(&skipped)?);
    report.comparison(&compared);
    let ours =
        ["sealift", "sealift-broker", "sealift-host", "sealift-guest", "tinkfile", "josefile"];
    // The suite that needs it says aloud that it is missing.
    if let Err(why) = setup::prometheus() {
        println!("not ready: Prometheus: {why:#}");
    }
    let programs = build(&ours, Profile::Dev)?;
    let helm = setup::helm()?;
    // Large, and for one suite: without it, that says that it is skipped.
    let mlserver = setup::podman().and_then(|_| setup::mlserver());
    let mlserver = mlserver.inspect_err(|why| println!("not ready: MLServer: {why:#}")).ok();
    for path in interop_suites()? {
        let mut suite = script(&python, &path);
        suite.env("SEALIFT_PROGRAMS", &programs).env("SEALIFT_S3S_FS", setup::s3s_fs()?);
        suite.envs(mlserver.as_ref().map(|program| ("SEALIFT_MLSERVER", program)));
        report.suite(&path, suite.envs(helm.as_ref().map(|helm| ("SEALIFT_HELM", helm))))?;
    }
    let reader = "tests/reader/check_vectors.py";
    report.suite(reader, script(&python, reader).arg(root().join("tests/vectors")))?;
    report.vm();
    report.conclude()
}

/// With all that tests need beyond Rust, installed and named.
pub(crate) fn environment(tests: &mut Command) -> Result<&mut Command> {
    setup::runc()?;
    setup::softhsm()?;
    setup::jq()?;
    setup::curl()?;
    setup::openssl()?;
    Ok(tests
        .env("SEALIFT_S3S_FS", setup::s3s_fs()?)
        .env("SEALIFT_STRACE", setup::strace()?)
        .env("SEALIFT_SWTPM", setup::swtpm()?)
        .env("SEALIFT_PYTHON", setup::python()?)
        .env("SEALIFT_UPSTREAM", setup::upstream_python()?)
        .env("SEALIFT_BAO", setup::openbao()?)
        .env("SEALIFT_MOTO", setup::moto_server()?)
        .env("SEALIFT_GCS_EMULATOR", setup::gcs_emulator()?)
        .env("SEALIFT_AZURITE", setup::azurite()?)
        .env("SEALIFT_REGISTRY", setup::docker_registry()?)
        .env("SEALIFT_SKOPEO", setup::skopeo()?)
        .env("SEALIFT_CONTAINERD", setup::containerd::search_path()?)
        .env("SEALIFT_BUSYBOX", setup::vm::busybox(Arch::here())?)
        // What a test needs is here now, so nothing may be skipped for want of it.
        .env("SEALIFT_TEST_STRICT", "1"))
}

/// The suites' paths below the root.
fn interop_suites() -> Result<Vec<String>> {
    let mut suites = Vec::new();
    for entry in fs::read_dir(root().join("tests/interop"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with("_interop.py") {
            suites.push(format!("tests/interop/{name}"));
        }
    }
    suites.sort();
    Ok(suites)
}

impl Report {
    /// Runs one suite, shows what it says as it says it, and adds up its summaries.
    fn suite(&mut self, name: &str, command: &mut Command) -> Result<()> {
        println!("\n--- {name}");
        let line = process::line(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (mut summed, mut children) = (Totals::default(), 0);
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            summed += summary(&line).unwrap_or_default();
            match remark(&line) {
                Some(Remark::Child) => children += 1,
                Some(Remark::Noteworthy(text)) => self.remarks.push(text),
                None => {}
            }
        }
        summed.skipped = summed.skipped.saturating_sub(children);
        let ended_well = child.wait()?.success();
        // A suite that dies before its summary must not look like one with nothing to do.
        if !ended_well && summed.failed == 0 {
            summed.failed = 1;
        }
        if summed.failed > 0 || summed == Totals::default() {
            self.broken.push(name.to_owned());
        }
        self.totals += summed;
        Ok(())
    }

    /// Adds what tests have said by themselves that they did not do: to the harness they passed.
    /// Several may say the same of one thing.
    fn skipped(&mut self, lines: &str) {
        let lines: BTreeSet<&str> = lines.lines().collect();
        self.totals.skipped += u32::try_from(lines.len()).unwrap_or(u32::MAX);
        self.remarks.extend(lines.into_iter().map(str::to_owned));
    }

    /// README.md's table against what tests saw, as one test.
    fn comparison(&mut self, compared: &Path) {
        match compare::check(compared) {
            Ok(()) => self.totals.passed += 1,
            Err(error) => {
                self.totals.failed += 1;
                self.remarks.push(format!("failed: {error:#}"));
                self.broken.push("README.md".into());
            }
        }
    }

    /// The demo of volumes, as one test.
    fn vm(&mut self) {
        println!("\n--- vm");
        let place = volumes::play(true, Profile::Dev);
        let why_skipped = match place {
            Ok(Place::Machine) => None,
            // The same story took place, but without what this test is for.
            Ok(Place::Namespaces(why)) => Some(format!("vm, ran in namespaces only: {why}")),
            Ok(Place::Nowhere(why)) => Some(format!("vm: {why}")),
            Err(error) => {
                println!("{error:#}");
                self.totals.failed += 1;
                self.remarks.push("failed: vm".into());
                self.broken.push("vm".into());
                return;
            }
        };
        match why_skipped {
            None => self.totals.passed += 1,
            Some(why) => {
                self.totals.skipped += 1;
                self.remarks.push(format!("skipped: {why}"));
            }
        }
    }

    fn conclude(self) -> Result<()> {
        println!();
        self.remarks.iter().for_each(|remark| println!("{remark}"));
        let Totals { passed, failed, skipped } = self.totals;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if !self.broken.is_empty() {
            bail!("failed: {}", self.broken.join(", "));
        }
        Ok(())
    }
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

#[derive(Debug, PartialEq, Eq)]
enum Remark {
    /// Looks like a skipped test, but is a process that another test starts.
    Child,
    /// To be repeated at the end.
    Noteworthy(String),
}

/// Reads `test a ... FAILED`, `test a ... ignored, why` and `FAILED a`.
fn remark(line: &str) -> Option<Remark> {
    if let Some(name) = line.strip_prefix("FAILED ") {
        return Some(Remark::Noteworthy(format!("failed: {name}")));
    }
    let (name, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let why = verdict.strip_prefix("ignored");
    match (verdict, why) {
        ("FAILED", _) => Some(Remark::Noteworthy(format!("failed: {name}"))),
        (_, Some(why)) if why.starts_with(", a child process") => Some(Remark::Child),
        (_, Some(why)) => Some(Remark::Noteworthy(format!("skipped: {name}{why}"))),
        _ => None,
    }
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
    fn failed_and_skipped_tests_are_named_again() {
        let noteworthy = |text: &str| Some(Remark::Noteworthy(text.into()));
        assert_eq!(remark("test a::b ... FAILED"), noteworthy("failed: a::b"));
        assert_eq!(remark("FAILED Tink opens ours"), noteworthy("failed: Tink opens ours"));
        let skipped = "test a ... ignored, nightly: all shapes";
        assert_eq!(remark(skipped), noteworthy("skipped: a, nightly: all shapes"));
        let child = "test a ... ignored, a child process of the tests above";
        assert_eq!(remark(child), Some(Remark::Child));
        assert_eq!(remark("test a ... ok"), None);
    }

    #[test]
    fn what_tests_skip_by_themselves_is_counted_once_and_named() {
        let mut report = Report::default();
        report.skipped("skipped: a: no root\nskipped: b: no strace\nskipped: a: no root\n");
        assert_eq!(report.totals.skipped, 2);
        assert_eq!(report.remarks, ["skipped: a: no root", "skipped: b: no strace"]);
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["", "test a ... ok", "3 passed", "1 failed, 2 passed, 0 skipped"] {
            assert_eq!(summary(line), None, "{line}");
        }
    }
}
