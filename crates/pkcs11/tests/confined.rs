//! That the program has given up what no token's library needs before it hears a question.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::filter::{confinement, is_hidden};

#[test]
fn no_library_is_loaded_before_the_program_is_confined() {
    for confine in ["true", "false"] {
        let mut helper = Command::new(env!("CARGO_BIN_EXE_sealift-pkcs11"))
            .env("SEALIFT_CONFINE", confine)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let own = confinement(std::process::id());
        let expected = if confine == "true" { ["2", "1"].map(str::to_owned) } else { own };
        // It has heard nothing yet.
        while !(confinement(helper.id()) == expected && has_no_core(helper.id())) {
            assert_eq!(helper.try_wait().unwrap(), None, "it waits for a question");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(helper.stdin.take());
        helper.wait().unwrap();
    }
}

/// As root, whose processes always show themselves to root alone, it is the limit that is seen.
fn has_no_core(pid: u32) -> bool {
    !rustix::process::geteuid().is_root() || is_hidden(pid)
}
