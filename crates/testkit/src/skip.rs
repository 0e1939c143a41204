//! [`skip`]: a test that cannot do its work here says so where somebody hears it.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Names a file in which skipped tests are collected, one a line.
pub const COLLECTED: &str = "SEALIFT_TEST_SKIPPED";

/// Says that the calling test, or a part of it, is skipped, and why: on the process's own standard
/// error, which the harness does not swallow as it does what a passing test prints, and in the file
/// that [`COLLECTED`] names.
pub fn skip(why: impl Display) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    // One call each, so that lines of several processes do not mix.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os(COLLECTED) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("skips are collected");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Not a test, unless the one below has started it.
    #[test]
    fn child() {
        if std::env::var_os("SEALIFT_TEST_SKIPS").is_some() {
            super::skip("why");
        }
    }

    #[test]
    fn it_is_heard_though_the_test_passes() {
        let dir = tempfile::tempdir().expect("a directory");
        let collected = dir.path().join("skipped");
        let mut harness = Command::new(std::env::current_exe().expect("this program"));
        harness.args(["--exact", "skip::tests::child"]).env("SEALIFT_TEST_SKIPS", "1");
        let output = harness.env(super::COLLECTED, &collected).output().expect("it starts");
        assert!(output.status.success());
        let line = "skipped: skip::tests::child: why\n";
        assert_eq!(String::from_utf8_lossy(&output.stderr), line);
        assert_eq!(std::fs::read_to_string(collected).expect("it was made"), line);
    }
}
