//! A kill at every step of a publication, and errors as somebody else injects them: SPECIFICATION P1,
//! P2 and P6. The tests that start processes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use common::{Child, Unwinding, memory};
use testkit::kills::{Outcome, Publisher, Scene, check, enumerate, rerun, shapes};
use testkit::oracle::{Model, State, census};

/// Not a test: what [`Child`] runs.
#[test]
fn child() {
    common::child();
}

/// A process that is just being started holds the locks of the one that starts it, so a test that
/// publishes by itself must not run beside one that starts processes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn survives_a_kill_at_every_step() {
    let _alone = alone();
    let began = Instant::now();
    let mut kills = 0;
    for shape in shapes() {
        kills += enumerate(&Child::plain(shape.name), &shape, memory()).unwrap();
    }
    println!("{kills} kills in {:?}", began.elapsed());
    assert!(kills > 400, "only {kills}");
}

#[test]
fn unwinding_is_as_good_as_a_kill() {
    let _alone = alone();
    // The same steps in the same order: what is shown with one holds with the other.
    for shape in shapes() {
        let unwound = enumerate(&Unwinding::IN_MEMORY, &shape, memory()).unwrap();
        for step in [1, unwound / 2, unwound] {
            let scenes =
                [Scene::set(memory(), &shape).unwrap(), Scene::set(memory(), &shape).unwrap()];
            Unwinding::IN_MEMORY.run(&scenes[0].destination, &shape.new, Some(step));
            Child::plain(shape.name).run(&scenes[1].destination, &shape.new, Some(step));
            let names = scenes.map(|scene| {
                let census = census(&scene.destination).unwrap();
                let top = scene.destination.display().to_string();
                census
                    .into_iter()
                    .map(|(name, (_, mode, size, _, _, content))| {
                        (name.replace(&top, ""), mode, size, content)
                    })
                    .collect::<Vec<_>>()
            });
            assert_eq!(names[0], names[1], "{} at step {step}", shape.name);
        }
    }
}

#[test]
fn survives_a_kill_at_every_system_call() {
    let _alone = alone();
    const CALLS: [&str; 9] = [
        "openat2",
        "mkdirat",
        "renameat",
        "renameat2",
        "unlinkat",
        "fchmod",
        "ftruncate",
        "pwrite64",
        "fsync",
    ];
    if !has_strace() {
        return;
    }
    let began = Instant::now();
    let mut kills = 0;
    for shape in shapes().into_iter().filter(|shape| ["changed", "hostile"].contains(&shape.name)) {
        for call in CALLS {
            kills += enumerate(&Strace { call, shape: shape.name }, &shape, memory()).unwrap();
        }
    }
    println!("{kills} kills in {:?}", began.elapsed());
    assert!(kills > 100, "only {kills}");
}

/// A kill at the entry of the nth `call`, by somebody who knows nothing of our steps.
struct Strace {
    call: &'static str,
    shape: &'static str,
}

impl Publisher for Strace {
    fn run(&self, destination: &Path, new: &Model, kill_at: Option<u64>) -> Outcome {
        let wrapper = kill_at.map_or(Vec::new(), |n| {
            let inject = format!("inject={}:signal=KILL:when={n}", self.call);
            let trace = format!("trace={}", self.call);
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]
                .map(str::to_owned)
                .to_vec()
        });
        Child { wrapper, shape: self.shape }.run(destination, new, None)
    }
}

#[test]
fn every_failing_system_call_as_strace_sees_it() {
    const CALLS: [&str; 12] = [
        "openat2",
        "openat",
        "mkdirat",
        "renameat",
        "renameat2",
        "unlinkat",
        "fchmod",
        "ftruncate",
        "pwrite64",
        "pread64",
        "newfstatat",
        "getdents64",
    ];
    let _alone = alone();
    if !has_strace() {
        return;
    }
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let mut failures = 0;
    for call in CALLS {
        for n in 1.. {
            let scene = Scene::set(memory(), &shape).unwrap();
            let errno = ["ENOSPC", "EIO", "EMFILE"][n % 3];
            let log = scene.outside.join("strace");
            let words = [
                "strace".to_owned(),
                "-f".to_owned(),
                "-qq".to_owned(),
                format!("-o{}", log.display()),
                format!("-etrace={call}"),
                format!("-einject={call}:error={errno}:when={n}"),
            ];
            let child = Child { wrapper: words.to_vec(), shape: shape.name };
            let output = child.output(&scene.destination, None);
            if !std::fs::read_to_string(&log).unwrap().contains("(INJECTED)") {
                break;
            }
            failures += 1;
            let at = format!("{errno} of {call} {n}: {}", String::from_utf8_lossy(&output.stderr));
            let found = check(&scene.destination, &shape).map_err(|e| format!("{at}: {e:#}"));
            let found = found.unwrap();
            match output.status.success() {
                true => assert_eq!(found.state, State::New, "{at}"),
                false => assert!(matches!(found.state, State::Old | State::New), "{at}"),
            }
            let clean = !found.residue || found.state == State::New;
            assert!(clean, "{at}");
            rerun(&Child::plain(shape.name), &scene.destination, &shape).unwrap();
        }
    }
    println!("{failures} failures");
    assert!(failures > 100, "only {failures}");
}

fn has_strace() -> bool {
    let found = Command::new("strace").arg("--version").output().is_ok();
    if !found {
        testkit::skip("strace is not installed");
    }
    found
}
