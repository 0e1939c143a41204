//! Every system call fails once, with every error that it might: SPECIFICATION P2 and P6. A failed
//! run leaves the old model whole and takes no space, and the next run succeeds.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Every, Unwinding, at_call, describe, memory, run_under, system};
use publish::{Call, Error, Policy};
use rustix::io::Errno;
use testkit::kills::{Scene, Shape, check, rerun, shapes};
use testkit::oracle::{State, census};

const ERRORS: [Errno; 8] = [
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::IO,
    Errno::MFILE,
    Errno::NOMEM,
    Errno::INTR,
    Errno::ROFS,
    Errno::ACCESS,
];

#[test]
fn every_failing_call_leaves_the_old_model_and_no_residue() {
    let mut sites = BTreeMap::new();
    for shape in shapes() {
        let errors = if shape.name == "changed" { &ERRORS[..] } else { &ERRORS[..1] };
        for errno in errors {
            fail_each(&shape, *errno, memory(), &Unwinding::IN_MEMORY, &mut sites);
        }
    }
    println!("{} failures: {sites:?}", sites.values().sum::<u32>());
    assert!(sites.values().sum::<u32>() > 1_500);
}

#[test]
fn every_failing_call_on_a_disk_too() {
    let mut sites = BTreeMap::new();
    let top = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for shape in shapes().iter().filter(|shape| shape.name == "changed") {
        for errno in [Errno::IO, Errno::NOSPC] {
            fail_each(shape, errno, top.path(), &Unwinding::ON_DISK, &mut sites);
        }
    }
    assert!(sites["fsync"] > 10, "{sites:?}");
}

fn fail_each(
    shape: &Shape,
    errno: Errno,
    top: &Path,
    again: &Unwinding,
    sites: &mut BTreeMap<&'static str, u32>,
) {
    for n in 1.. {
        let scene = Scene::set(top, shape).unwrap();
        let outside = census(&scene.outside).unwrap();
        let failed = Arc::new(Mutex::new(None));
        let steps = at_call(n, false, {
            let failed = Arc::clone(&failed);
            move |call: &Call<'_>| {
                *failed.lock().unwrap() = Some(call.name);
                Err(errno)
            }
        });
        let result = run_under(&scene.destination, &shape.new, system(steps), &again.policy);
        let Some(call) = *failed.lock().unwrap() else { break };
        *sites.entry(call).or_default() += 1;

        let at = format!("{}: {errno} of {call}, call {n}", shape.name);
        let found = check(&scene.destination, shape).map_err(|e| format!("{at}: {e:#}")).unwrap();
        match &result {
            Ok(()) => assert_eq!((found.state, found.residue), (State::New, false), "{at}"),
            Err(Error::Residue(_)) => assert_eq!(found.state, State::New, "{at}"),
            Err(error) => {
                assert_ne!(errno, Errno::INTR, "{at}: an interrupted call is made again");
                let before = if shape.old.is_some() { State::Old } else { State::Absent };
                assert_eq!(found.state, before, "{at}: {}", describe(error));
                // What was planted is there until a run gets as far as removing it.
                assert!(!found.residue || shape.hostile, "{at}: {}", describe(error));
                let full = matches!(error, Error::Full { .. });
                assert_eq!(full, matches!(errno, Errno::NOSPC | Errno::DQUOT), "{at}");
            }
        }
        rerun(again, &scene.destination, shape).map_err(|e| format!("{at}: {e:#}")).unwrap();
        assert_eq!(census(&scene.outside).unwrap(), outside, "{at}");
    }
}

#[test]
fn works_without_the_newer_system_calls() {
    // Linux before 5.6, an old seccomp filter, a network filesystem.
    let missing = [
        ("openat2", Errno::NOSYS),
        ("openat2", Errno::PERM),
        ("renameat2", Errno::INVAL),
        ("flock", Errno::OPNOTSUPP),
    ];
    for (call, errno) in missing {
        for shape in shapes() {
            let scene = Scene::set(memory(), &shape).unwrap();
            let steps = Arc::new(Every(move |made: &Call<'_>| match made.name == call {
                true => Err(errno),
                false => Ok(()),
            }));
            run_under(&scene.destination, &shape.new, system(steps), &Policy::default())
                .map_err(|error| format!("{call} {errno}: {}", describe(&error)))
                .unwrap();
            rerun(&Unwinding::IN_MEMORY, &scene.destination, &shape).unwrap();
        }
    }
}
