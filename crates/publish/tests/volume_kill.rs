//! A kill at every step of an agent's work on a volume, with and without mounts: SPECIFICATION P2
//! and P6. The tests that start processes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
mod volume_common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::at_call;
use publish::Call;
use volume_common::{
    GRACE, Kind, Model, Place, Shape, current, exactly, held, publish, read, shapes,
};

const ROOT: &str = "SEALIFT_TEST_ROOT";
const KIND: &str = "SEALIFT_TEST_KIND";
const SHAPE: &str = "SEALIFT_TEST_SHAPE";
const KILL_AT: &str = "SEALIFT_TEST_KILL_AT";
/// The new revision's number.
const NEW: u64 = 2;

/// Not a test, unless this process was started by [`killed`]: all that an agent does, from its
/// start to the expiry of the old revision.
#[test]
fn child() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let kind = Kind::parse(&std::env::var(KIND).unwrap());
    let name = std::env::var(SHAPE).unwrap();
    let shape = shapes().into_iter().find(|shape| shape.name == name).unwrap();
    let kill_at = std::env::var(KILL_AT).unwrap().parse().unwrap();
    let steps = at_call(kill_at, true, |_: &Call<'_>| {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        loop {
            std::thread::park();
        }
    });
    let now = Instant::now();
    let mut store = kind.open(Path::new(&root), Some(steps), now).unwrap();
    publish(&mut store, &shape.new, NEW, now).unwrap();
    let expiry = store.expire(now + GRACE);
    assert!(expiry.next.is_none() && expiry.failures.is_empty(), "{expiry:?}");
}

/// Whether the child was killed; false: it was done before.
fn killed(place: &Place, kind: Kind, shape: &Shape, step: u64) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--quiet", "--nocapture"])
        .env(ROOT, &place.root)
        .env(KIND, format!("{kind:?}"))
        .env(SHAPE, shape.name)
        .env(KILL_AT, step.to_string())
        .output()
        .unwrap();
    match (output.status.success(), output.status.signal()) {
        (true, _) => false,
        (_, Some(9)) => true,
        _ => panic!("{}: {}", shape.name, String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn a_volume_survives_a_kill_at_every_step() {
    let mut kills = 0;
    for kind in Kind::available() {
        for shape in shapes() {
            for step in 1.. {
                let place = Place::new();
                if let Some(old) = &shape.old {
                    let now = Instant::now();
                    publish(&mut kind.open(&place.root, None, now).unwrap(), old, 1, now).unwrap();
                }
                let was_killed = killed(&place, kind, &shape, step);
                recovers(&place, kind, &shape)
                    .map_err(|error| format!("{kind:?}, {}, step {step}: {error}", shape.name))
                    .unwrap();
                if !was_killed {
                    break;
                }
                kills += 1;
            }
        }
    }
    println!("{kills} kills");
    assert!(kills > 500, "only {kills}");
}

/// Looks at what a kill left, restarts, looks, commits again, looks.
fn recovers(place: &Place, kind: Kind, shape: &Shape) -> Result<(), String> {
    let data = place.data();
    let is_old = |found: &Option<Model>| *found == shape.old;
    let is_new = |found: &Option<Model>| found.as_ref() == Some(&shape.new);
    let before = current(&data)?;
    if !is_old(&before) && !is_new(&before) {
        return Err(format!("a reader finds {before:?}"));
    }
    let held_open = read(&data.join("..1")).ok();
    let now = Instant::now();
    let open = || kind.open(&place.root, None, now).map_err(|error| error.to_string());
    let mut store = open()?;
    if current(&data)? != before {
        return Err("recovery changed what is current".into());
    }
    if held_open.is_some() && held_open == shape.old && read(&data.join("..1")).ok() != held_open {
        return Err("recovery cut the grace of the old revision short".into());
    }
    let expiry = store.expire(now + GRACE);
    if expiry.next.is_some() || !expiry.failures.is_empty() {
        return Err(format!("{expiry:?}"));
    }
    match (held(&store), &shape.old) {
        (Some(NEW), _) => exactly(place, &shape.new, NEW)?,
        (Some(1), Some(old)) => exactly(place, old, 1)?,
        (None, None) if before.is_none() => {}
        (sequence, _) => return Err(format!("after recovery {sequence:?} is held")),
    }
    drop(store);
    let mut store = open()?;
    publish(&mut store, &shape.new, NEW, now).map_err(|error| format!("again: {error}"))?;
    let expiry = store.expire(now + GRACE);
    if expiry.next.is_some() || !expiry.failures.is_empty() {
        return Err(format!("{expiry:?}"));
    }
    exactly(place, &shape.new, NEW)
}
