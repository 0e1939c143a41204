//! An audit log in parts, as commands write and verify it: SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;
use std::path::Path;

use audit::{Event, Log, PART_BYTES_MIN};
use common::{RESOURCE, Sealed, refuse, sealift, succeed, text};
use sealift::code::Code;

fn verify(arguments: &[&str]) -> std::process::Command {
    let mut verify = sealift();
    verify.args(["audit", "verify", "-o", "json"]).args(arguments);
    verify
}

fn verified(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_slice(&succeed(&mut verify(arguments)).stdout).unwrap()
}

#[test]
fn a_log_in_parts_is_written_and_verified_as_one() {
    let sealed = Sealed::new(&[("config.json", b"{}")]);
    let at = |name: &str| sealed.dir.path().join(name);
    let (log, archive) = (at("audit.log"), at("archive"));
    let earlier = Log::file_in_parts(&log, PART_BYTES_MIN).unwrap();
    let filler = || Event::PolicyChanged { digest: "x".repeat(600) };
    let part = |n: u64| at(&format!("audit.log.{n:020}"));
    let mut records = 0;
    while !part(1).exists() {
        earlier.record(filler()).unwrap();
        records += 1;
    }
    // Nearly full: the command's own records go over.
    let mut names = fs::read_dir(sealed.dir.path()).unwrap().count();
    while fs::metadata(&log).unwrap().len() < PART_BYTES_MIN - 1000 {
        earlier.record(filler()).unwrap();
        records += 1;
    }
    let mut open = sealift();
    open.args(["init", text(&sealed.bundle), text(&at("out")), "--resource-id", RESOURCE]);
    open.args(["--key-file", text(&sealed.key), "--termination-log", "/dev/null"]);
    open.args(["--audit-file", text(&log), "--audit-part-bytes", "16KiB"]);
    succeed(&mut open);
    // The model, and the next part.
    names += 2;
    assert_eq!(fs::read_dir(sealed.dir.path()).unwrap().count(), names);
    let whole = verified(&[text(&log)]);
    assert!(whole["seq"].as_u64().unwrap() > records, "{whole}");
    assert_eq!(whole["seq"], whole["records"]);

    // Archived: said, and good with what is known of it.
    fs::create_dir(&archive).unwrap();
    fs::rename(part(1), archive.join(part(1).file_name().unwrap())).unwrap();
    let missing = refuse(&mut verify(&[text(&log)]), Code::Mismatch);
    assert!(missing.contains("--after") && missing.contains("line 1"), "{missing}");
    let archived = archive.join("audit.log");
    let first = verified(&[text(&archived)]);
    let after = format!("{}:{}", first["seq"], first["head"].as_str().unwrap());
    assert_eq!(verified(&[text(&log), "--after", &after])["head"], whole["head"]);
    assert_eq!(verified(&[text(&archived), text(&log)]), whole);
    let wrong = after.replacen(':', "0:", 1);
    refuse(&mut verify(&[text(&log), "--after", &wrong]), Code::Mismatch);
    refuse(&mut verify(&["-", text(&log)]), Code::Usage);
    refuse(&mut verify(&[text(Path::new("/nonexistent"))]), Code::NotFound);
    for size in ["16383", "2GiB", "many"] {
        let mut open = sealift();
        open.args(["open", text(&sealed.bundle), "--audit-part-bytes", size]);
        assert_eq!(open.output().unwrap().status.code(), Some(2), "{size}");
    }
}
