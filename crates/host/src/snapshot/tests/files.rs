//! Files that change, are replaced, or are too many or too large.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use testkit::kubelet::payload;
use volumes::tree::Limits;

use super::{OLD, at_every_call, is, read, write};
use crate::dir::Calls;
use crate::snapshot::{ATTEMPTS_MAX, Accepted, take};
use crate::{Error, Kind};

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_is_not_read_to_its_end() {
    // More than one chunk, so that it changes in the middle.
    let bytes = vec![b'x'; 300_000];
    for grows in [true, false] {
        let top = tempfile::tempdir().expect("a directory");
        let path = top.path().join("log");
        fs::write(&path, &bytes).expect("written");
        let (reads, all_reads) = (Cell::new(0_u64), Cell::new(0));
        let changing = |call| {
            let length = match (call, grows) {
                // A new attempt finds it as it was.
                ("openat", _) => {
                    reads.set(0);
                    bytes.len() as u64
                }
                ("read", true) => bytes.len() as u64 + (reads.get() + 1) * 100_000,
                ("read", false) => bytes.len() as u64 - (reads.get() + 1) * 1_000,
                _ => return Ok(()),
            };
            if call == "read" {
                reads.set(reads.get() + 1);
                all_reads.set(all_reads.get() + 1);
                assert!(all_reads.get() <= 7 * ATTEMPTS_MAX, "read on and on");
            }
            let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
            file.set_len(length).expect("resized");
            Ok(())
        };
        let result = read(top.path(), Accepted::Directories, &changing);
        assert!(matches!(result, Err(Error::Changing { .. })), "{result:?}");
    }
}

#[test]
fn a_file_replaced_between_two_calls_is_never_followed_or_waited_for() {
    let victim = tempfile::NamedTempFile::new().expect("a file");
    fs::write(victim.path(), "not yours").expect("written");
    let plant = |kind, at: &Path| match kind {
        Kind::Symlink => symlink(victim.path(), at).expect("linked"),
        _ => mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).expect("made"),
    };
    for name in ["a", "conf/app/x.yaml"] {
        for kind in [Kind::Symlink, Kind::Fifo] {
            let old = payload(1, &OLD);
            let refused = Cell::new(0);
            at_every_call(
                Accepted::Volumes,
                |top| write(top, &old),
                |top| {
                    let at = top.join("..data").join(name);
                    fs::remove_file(&at).expect("removed");
                    plant(kind, &at);
                    Ok(())
                },
                |step, result| match result {
                    Ok(snapshot) => assert!(is(&snapshot, &old), "at call {step}"),
                    Err(Error::Irregular { path, kind: found }) => {
                        assert_eq!((path.as_str(), found), (name, kind));
                        refused.set(refused.get() + 1);
                    }
                    Err(error) => panic!("at call {step}: {error:?}"),
                },
            );
            assert!(refused.get() > 20, "{refused:?}");
        }
    }
}

#[test]
fn limits_are_met_before_anything_is_opened() {
    let looked = |prepare: &dyn Fn(&Path), limits: Limits| {
        // On memory, since these are many.
        let top = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let top = top.expect("a directory");
        prepare(top.path());
        let calls = Cell::new(BTreeMap::<&'static str, u32>::new());
        let before = |call| {
            let mut counts = calls.take();
            assert_ne!(call, "read", "{counts:?}");
            *counts.entry(call).or_default() += 1;
            calls.set(counts);
            Ok(())
        };
        let result =
            take(top.path(), limits, Accepted::Directories, &|_| None, Calls(Some(&before)));
        let Err(Error::Refused { source: volumes::Error::Limit { what, .. }, .. }) = result else {
            panic!("{result:?}")
        };
        let calls = calls.take();
        (what, calls.get("newfstatat").copied().unwrap_or(0))
    };
    let many = |top: &Path| {
        for index in 0..100_000 {
            fs::write(top.join(index.to_string()), "").expect("written");
        }
    };
    assert_eq!(looked(&many, Limits::MAX), ("entries", 0));
    let sparse = |top: &Path| {
        let file = fs::File::create(top.join("huge")).expect("made");
        file.set_len(1 << 40).expect("resized");
    };
    assert_eq!(looked(&sparse, Limits::MAX), ("bytes", 1));
    // Nothing raises the limits.
    let unlimited = Limits { entries: u32::MAX, bytes: u64::MAX };
    assert_eq!(looked(&sparse, unlimited), ("bytes", 1));
    let few = |top: &Path| {
        for name in ["a/b", "c/d", "e"] {
            fs::create_dir_all(top.join(name)).expect("made");
        }
    };
    assert_eq!(looked(&few, Limits { entries: 4, ..Limits::MAX }), ("entries", 4));
    let two = |top: &Path| {
        fs::write(top.join("a"), [0; 60]).expect("written");
        fs::write(top.join("b"), [0; 41]).expect("written");
    };
    assert_eq!(looked(&two, Limits { bytes: 100, ..Limits::MAX }), ("bytes", 2));
}
