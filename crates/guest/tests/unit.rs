//! The systemd unit: systemd understands it, and it hides no mounts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;

const UNIT: &str = include_str!("../../../deploy/systemd/sealift-guest.service");

#[test]
fn the_unit_is_one_and_hides_no_mounts() {
    // systemd.exec(5): each of them gives the service a mount namespace of its own.
    let hiding =
        ["Protect", "Private", "ReadWrite", "ReadOnly", "Inaccessible", "Bind", "Root", "Mount"];
    for line in UNIT.lines().filter(|line| !line.starts_with('#')) {
        assert!(!hiding.iter().any(|word| line.starts_with(word)), "{line}");
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("sealift-guest.service");
    let program = env!("CARGO_BIN_EXE_sealift-guest");
    fs::write(&unit, UNIT.replace("/usr/bin/sealift-guest", program)).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output() {
        Err(error) => testkit::skip(format!("systemd-analyze: {error}")),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let ours: Vec<_> = said.lines().filter(|line| line.contains("sealift")).collect();
            assert!(output.status.success() && ours.is_empty(), "{said}");
        }
    }
}
