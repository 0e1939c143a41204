//! A kill at every step of recovering from a kill: SPECIFICATION P6. Starts no process, because a
//! process that is just being started holds the locks of the one that starts it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{Every, Unwinding, memory, run, system};
use publish::{Call, Steps};
use rustix::io::Errno;
use testkit::kills::{Outcome, Publisher, Scene, Shape, check, enumerate, rerun, shapes};
use testkit::oracle::{Model, State, census};
use testkit::planted::Plain;

#[test]
fn survives_a_kill_at_every_step_of_recovering_from_one() {
    let began = Instant::now();
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let pairs = enumerate_pairs(&Unwinding::IN_MEMORY, &shape).unwrap();
    println!("{pairs} pairs in {:?}", began.elapsed());
    assert!(pairs > 2_000, "only {pairs}");
}

#[test]
#[ignore = "nightly: all shapes"]
fn survives_any_two_kills() {
    let began = Instant::now();
    let mut pairs = 0;
    for shape in shapes() {
        pairs += enumerate_pairs(&Unwinding::IN_MEMORY, &shape).unwrap();
    }
    println!("{pairs} pairs in {:?}", began.elapsed());
    assert!(pairs > 20_000, "only {pairs}");
}

#[test]
fn survives_a_kill_at_every_step_on_a_disk() {
    // Where flushes are steps too, and nothing staged is resumed.
    let top = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let kills = enumerate(&Unwinding::ON_DISK, &shape, top.path()).unwrap();
    println!("{kills} kills");
    assert!(kills > 80, "only {kills}");
}

#[test]
fn survives_a_kill_at_every_step_of_turning_to_another_model() {
    // The second run does not want what the first had staged: it has to undo and wipe it.
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let other = Shape { new: Model::new(3, &[("config.json", 9), ("x/y", 50)]), ..shape.clone() };
    let pairs = enumerate_pairs_of(&Unwinding::IN_MEMORY, &shape, &other).unwrap();
    println!("{pairs} pairs");
    assert!(pairs > 2_000, "only {pairs}");
}

#[test]
fn what_was_staged_before_a_kill_is_not_written_again() {
    // A3: a killed run costs at most the segment that it was in.
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let segments: u32 = shape.new.plan().files.iter().map(|file| file.segments).sum();
    for step in 1.. {
        let scene = Scene::set(memory(), &shape).unwrap();
        // How many segments each run has marked as done.
        let runs = [Some(step), None].map(|kill_at| {
            let (calls, marked) = (AtomicU64::new(0), Arc::new(AtomicU32::new(0)));
            let count = Arc::clone(&marked);
            let steps = Every(move |call: &Call<'_>| {
                let calls = calls.fetch_add(u64::from(call.mutates), Ordering::Relaxed) + 1;
                if call.mutates && Some(calls) == kill_at {
                    resume_unwind(Box::new("killed"));
                }
                let mark = call.name == "pwrite64" && call.path.ends_with("done");
                count.fetch_add(u32::from(mark), Ordering::Relaxed);
                Ok(())
            });
            let run = || run(&scene.destination, &shape.new, system(Arc::new(steps)));
            let killed = catch_unwind(AssertUnwindSafe(run)).is_err();
            (killed, marked.load(Ordering::Relaxed))
        });
        let [(killed, first), (_, second)] = runs;
        if !killed {
            break;
        }
        assert_eq!(first + second, segments, "killed at {step}: {first}, then {second}");
    }
}

#[test]
fn survives_a_kill_at_every_step_of_undoing_a_failed_switch() {
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let mut kills = 0;
    for failing in 1.. {
        let mut failed = true;
        for step in 1.. {
            let scene = Scene::set(memory(), &shape).unwrap();
            let steps = Arc::new(FailThenKill { failing, step, seen: Mutex::default() });
            let run = || run(&scene.destination, &shape.new, system(steps.clone()));
            let killed = catch_unwind(AssertUnwindSafe(run)).is_err();
            failed = steps.seen.lock().unwrap().0 >= failing;
            if !killed {
                break;
            }
            kills += 1;
            let tell = |error: anyhow::Error| {
                error.context(format!("move {failing} failed, killed {step} steps later"))
            };
            check(&scene.destination, &shape).map_err(tell).unwrap();
            let other = Model::new(3, &[("other", 1)]);
            let other = Shape { new: other, ..shape.clone() };
            rerun(&Unwinding::IN_MEMORY, &scene.destination, &other).map_err(tell).unwrap();
        }
        if !failed {
            break;
        }
    }
    println!("{kills} kills");
    assert!(kills > 100, "only {kills}");
}

/// Lets the `failing`th move fail, then kills before the `step`th step after it.
struct FailThenKill {
    failing: u64,
    step: u64,
    /// Moves, and steps after the one that failed.
    seen: Mutex<(u64, u64)>,
}

impl Steps for FailThenKill {
    fn before(&self, call: &Call<'_>) -> Result<(), Errno> {
        let mut seen = self.seen.lock().unwrap();
        if seen.0 < self.failing {
            seen.0 += u64::from(call.name == "renameat2");
            return if seen.0 == self.failing { Err(Errno::IO) } else { Ok(()) };
        }
        seen.1 += u64::from(call.mutates);
        if call.mutates && seen.1 == self.step {
            drop(seen);
            resume_unwind(Box::new("killed"));
        }
        Ok(())
    }
}

/// Kills at step i, then at step j of the run after it, for all i and j.
fn enumerate_pairs(publisher: &dyn Publisher, shape: &Shape) -> anyhow::Result<u64> {
    enumerate_pairs_of(publisher, shape, shape)
}

/// The same, where the second run is about another model in place of the same old one.
fn enumerate_pairs_of(
    publisher: &dyn Publisher,
    shape: &Shape,
    other: &Shape,
) -> anyhow::Result<u64> {
    let mut pairs = 0;
    for first in 1.. {
        let mut done = false;
        for second in 1.. {
            let scene = Scene::set(memory(), shape)?;
            let before = census(&scene.outside)?;
            let outcome = publisher.run(&scene.destination, &shape.new, Some(first));
            done = outcome == Outcome::Done;
            let replaced = check(&scene.destination, shape)?.state == State::New;
            let mut other = other.clone();
            if replaced && other.new != shape.new {
                other.old = Some(shape.new.clone());
            }
            let outcome = publisher.run(&scene.destination, &other.new, Some(second));
            let tell = |error: anyhow::Error| {
                error.context(format!("{}: killed at {first}, then at {second}", shape.name))
            };
            // Still what the first run left, or on the way from there.
            match check(&scene.destination, shape) {
                Ok(found) if found.state == State::New => {
                    anyhow::ensure!(replaced || other.new == shape.new, "published by another");
                }
                Ok(_) => {}
                Err(_) => {
                    check(&scene.destination, &other).map_err(tell)?;
                }
            }
            rerun(publisher, &scene.destination, &other).map_err(tell)?;
            anyhow::ensure!(census(&scene.outside)? == before, "something outside was touched");
            if outcome == Outcome::Done {
                break;
            }
            pairs += 1;
        }
        if done {
            break;
        }
    }
    Ok(pairs)
}

#[test]
fn two_kills_find_what_one_does_not() {
    let shape = shapes().into_iter().find(|shape| shape.name == "changed").unwrap();
    let error = enumerate_pairs(&Plain { bug: None }, &shape).unwrap_err();
    assert!(format!("{error:#}").contains("then at"), "{error:#}");
}
