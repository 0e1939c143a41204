//! Whatever happens between any two system calls, a snapshot is one revision or an error.

mod files;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::io::Errno;
use testkit::kubelet::{AtomicWriter, Payload, payload};
use volumes::tree::{Digest, Limits, Node};

use super::{ATTEMPTS_MAX, Accepted, Snapshot, take};
use crate::dir::Calls;
use crate::{Error, Kind};

/// Two revisions that share names, lose some, gain some, and turn a file into a directory.
const OLD: [&str; 4] = ["a", "conf/app/x.yaml", "gone", "kind"];
const NEW: [&str; 4] = ["a", "conf/app/x.yaml", "conf/new", "kind/of"];

/// More calls than any of these snapshots makes.
const CALLS_MAX: u64 = 500;

fn read(
    path: &Path,
    accepted: Accepted,
    before: &dyn Fn(&'static str) -> Result<(), Errno>,
) -> Result<Snapshot, Error> {
    take(path, Limits::MAX, accepted, &|_| None, Calls(Some(before)))
}

/// Acts before the 1st, 2nd, … call, each time in a fresh directory that `prepare` made, and has
/// `judge` look at what came of it, until there are no more calls.
fn at_every_call(
    accepted: Accepted,
    prepare: impl Fn(&Path),
    act: impl Fn(&Path) -> Result<(), Errno>,
    judge: impl Fn(u64, Result<Snapshot, Error>),
) {
    for step in 1..CALLS_MAX {
        let top = tempfile::tempdir().expect("a directory");
        prepare(top.path());
        let calls = Cell::new(0);
        let before = |_| {
            calls.set(calls.get() + 1);
            if calls.get() == step { act(top.path()) } else { Ok(()) }
        };
        let result = read(top.path(), accepted, &before);
        judge(step, result);
        if calls.get() < step {
            assert!(step > 20, "the calls are seen");
            return;
        }
    }
    panic!("more calls than expected");
}

fn write(top: &Path, payload: &Payload) {
    AtomicWriter::new(top).expect("a volume").write(payload).expect("written");
}

/// Whether the files are exactly those of the payload.
fn is(snapshot: &Snapshot, payload: &Payload) -> bool {
    let files = snapshot.tree().nodes().iter().filter_map(|(path, node)| match node {
        Node::File { digest, bytes, .. } => Some((path.to_string(), (*bytes, *digest))),
        Node::Directory(_) => None,
    });
    let expected = payload
        .iter()
        .map(|(path, file)| (path.clone(), (file.bytes.len() as u64, Digest::of(&file.bytes))));
    files.collect::<BTreeMap<_, _>>() == expected.collect()
}

#[test]
fn a_switch_between_any_two_calls_gives_the_old_or_the_new_revision() {
    let (old, new) = (payload(1, &OLD), payload(2, &NEW));
    let was = Cell::new((0, 0));
    at_every_call(
        Accepted::Volumes,
        |top| write(top, &old),
        |top| {
            write(top, &new);
            Ok(())
        },
        |step, result| {
            let snapshot = result.unwrap_or_else(|error| panic!("at call {step}: {error}"));
            let found = (is(&snapshot, &old), is(&snapshot, &new));
            assert!(found.0 || found.1, "at call {step}: {snapshot:?}");
            let (olds, news) = was.get();
            was.set((olds + u32::from(found.0), news + u32::from(found.1)));
        },
    );
    assert!(was.get().0 > 0 && was.get().1 > 20, "{:?}", was.get());
}

#[test]
fn a_volume_that_is_written_and_removed_and_written_is_still_one_revision() {
    let (old, new) = (payload(1, &OLD), payload(3, &NEW));
    at_every_call(
        Accepted::Volumes,
        |top| write(top, &old),
        |top| {
            write(top, &payload(2, &["only", "conf/this"]));
            write(top, &new);
            Ok(())
        },
        |step, result| {
            let snapshot = result.unwrap_or_else(|error| panic!("at call {step}: {error}"));
            assert!(is(&snapshot, &old) || is(&snapshot, &new), "at call {step}");
        },
    );
}

#[test]
fn an_old_revision_that_stays_behind_is_not_taken_for_the_current_one() {
    // As when kubelet is killed after a switch, with nothing of the old one removed.
    let top = tempfile::tempdir().expect("a directory");
    let (old, new) = (payload(1, &["a"]), payload(2, &["a"]));
    for step in 1..CALLS_MAX {
        fs::remove_dir_all(top.path()).expect("empty");
        fs::create_dir(top.path()).expect("made");
        write(top.path(), &old);
        fs::create_dir(top.path().join("..new")).expect("made");
        fs::write(top.path().join("..new/a"), &new["a"].bytes).expect("written");
        symlink("..new", top.path().join("..data_tmp")).expect("linked");
        let (calls, last_read) = (Cell::new(0), Cell::new(0));
        let before = |call| {
            calls.set(calls.get() + 1);
            if call == "read" {
                last_read.set(calls.get());
            }
            if calls.get() == step {
                let rename = fs::rename(top.path().join("..data_tmp"), top.path().join("..data"));
                rename.expect("switched");
            }
            Ok(())
        };
        let snapshot = read(top.path(), Accepted::Volumes, &before).expect("read");
        if calls.get() < step {
            return;
        }
        // Where `..data` points to is asked after everything was read.
        let must_be_new = last_read.get() >= step;
        assert!(is(&snapshot, &new) || (!must_be_new && is(&snapshot, &old)), "at call {step}");
    }
}

#[test]
fn a_plain_directory_that_changes_between_any_two_calls_is_read_before_or_after() {
    let lay = |top: &Path, payload: &Payload| {
        for (path, file) in payload {
            let path = top.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, &file.bytes).expect("written");
        }
    };
    let names = ["a", "b/c", "d"];
    let old = payload(1, &names);
    // In place, with another length; replaced, with the same length; added and removed.
    type Change = (&'static str, fn(&Path), Payload);
    let changes: [Change; 3] = [
        (
            "in place",
            |top| {
                for (path, file) in payload(22, &["a", "b/c", "d"]) {
                    fs::write(top.join(path), file.bytes).expect("written");
                }
            },
            payload(22, &names),
        ),
        (
            "replaced",
            |top| {
                for (path, file) in payload(2, &["a", "b/c", "d"]) {
                    fs::write(top.join("b/new"), file.bytes).expect("written");
                    fs::rename(top.join("b/new"), top.join(path)).expect("renamed");
                }
            },
            payload(2, &names),
        ),
        (
            "added and removed",
            |top| {
                // The one is added where the walk begins, the other removed where it ends.
                let e = &payload(1, &["e"])["e"];
                fs::write(top.join("e"), &e.bytes).expect("written");
                fs::remove_file(top.join("b/c")).expect("removed");
            },
            payload(1, &["a", "d", "e"]),
        ),
    ];
    for (what, change, new) in changes {
        at_every_call(
            Accepted::Directories,
            |top| lay(top, &old),
            |top| {
                change(top);
                Ok(())
            },
            |step, result| {
                let snapshot = result.unwrap_or_else(|error| panic!("{what}, {step}: {error}"));
                assert!(is(&snapshot, &old) || is(&snapshot, &new), "{what}, at call {step}");
            },
        );
    }
}

#[test]
fn a_call_that_fails_is_an_error_and_one_that_is_interrupted_is_made_again() {
    let old = payload(1, &OLD);
    let judge = |errno| {
        let old = &old;
        move |step, result: Result<Snapshot, Error>| match (errno, result) {
            (_, Ok(snapshot)) => assert!(is(&snapshot, old), "at call {step}"),
            (Errno::IO, Err(Error::Io { .. } | Error::Changing { .. })) => {}
            // A call that finds nothing once: said of the volume itself, or tried again.
            (Errno::NOENT, Err(Error::Gone { .. } | Error::Unwritten { .. })) => {}
            (Errno::NOENT, Err(Error::Io { .. } | Error::Layout { .. })) => {}
            (errno, Err(error)) => panic!("{errno} at call {step}: {error:?}"),
        }
    };
    for errno in [Errno::IO, Errno::NOENT, Errno::INTR] {
        at_every_call(Accepted::Volumes, |top| write(top, &old), |_| Err(errno), judge(errno));
    }
    let interrupted = Cell::new(false);
    let top = tempfile::tempdir().expect("a directory");
    write(top.path(), &old);
    let every_other = |_| {
        interrupted.set(!interrupted.get());
        if interrupted.get() { Err(Errno::INTR) } else { Ok(()) }
    };
    assert!(is(&read(top.path(), Accepted::Volumes, &every_other).expect("read"), &old));
}

#[test]
fn without_openat2_everything_is_the_same() {
    let (old, new) = (payload(1, &OLD), payload(2, &NEW));
    let top = tempfile::tempdir().expect("a directory");
    write(top.path(), &old);
    let unknown = |call| if call == "openat2" { Err(Errno::NOSYS) } else { Ok(()) };
    let snapshot = read(top.path(), Accepted::Volumes, &unknown).expect("read");
    assert!(is(&snapshot, &old));
    let switches = Cell::new(0);
    let switching = |call| {
        if call == "read" && switches.replace(1) == 0 {
            write(top.path(), &new);
        }
        unknown(call)
    };
    assert!(is(&read(top.path(), Accepted::Volumes, &switching).expect("read"), &new));
    symlink("/etc/passwd", top.path().join("..data/conf/link")).expect("linked");
    let refused = read(top.path(), Accepted::Volumes, &unknown);
    assert!(matches!(refused, Err(Error::Irregular { kind: Kind::Symlink, .. })), "{refused:?}");
}

#[test]
fn what_never_rests_is_given_up() {
    let top = tempfile::tempdir().expect("a directory");
    write(top.path(), &payload(0, &OLD));
    let (generation, attempts) = (Cell::new(0), Cell::new(0));
    let switching = |call| {
        if call == "openat" {
            attempts.set(attempts.get() + 1);
        }
        if call == "read" {
            generation.set(generation.get() + 1);
            write(top.path(), &payload(generation.get(), &OLD));
        }
        Ok(())
    };
    let result = read(top.path(), Accepted::Volumes, &switching);
    assert!(matches!(result, Err(Error::Changing { .. })), "{result:?}");
    assert_eq!(attempts.get(), ATTEMPTS_MAX);
}
