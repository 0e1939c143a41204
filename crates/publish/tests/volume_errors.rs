//! Every system call of an agent's work on a volume fails once, and every one from some call on:
//! SPECIFICATION P2 and P6.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
mod volume_common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{Every, at_call, describe};
use publish::volumes::{Error, Store};
use publish::{Call, Steps};
use rustix::io::Errno;
use volume_common::{GRACE, Kind, Model, Place, Shape, current, exactly, id, publish, shapes};

const ERRORS: [Errno; 5] = [Errno::NOSPC, Errno::IO, Errno::MFILE, Errno::NOMEM, Errno::INTR];

/// All that an agent does, from its start to the expiry of the old revision.
fn run(
    place: &Place,
    kind: Kind,
    new: &Model,
    steps: Arc<dyn Steps>,
) -> (Option<Store>, Result<(), Error>) {
    let now = Instant::now();
    let mut store = match kind.open(&place.root, Some(steps), now) {
        Ok(store) => store,
        Err(error) => return (None, Err(error)),
    };
    let result = publish(&mut store, new, 2, now).map(drop).and_then(|()| {
        let mut expiry = store.expire(now + GRACE);
        let failure = expiry.failures.pop().map(|(_, error)| Box::new(error));
        failure.map_or(Ok(()), |source| Err(Error::Untidy { sequence: 2, source }))
    });
    (Some(store), result)
}

/// The same again, by the same agent if it could start; then all must be as if nothing had failed.
fn run_again(place: &Place, kind: Kind, new: &Model, store: Option<Store>) -> Result<(), String> {
    let now = Instant::now();
    let text = |error: Error| describe(&error);
    let mut store = match store {
        Some(store) => store,
        None => kind.open(&place.root, None, now).map_err(text)?,
    };
    publish(&mut store, new, 2, now).map_err(text)?;
    let expiry = store.expire(now + 3 * GRACE);
    if expiry.next.is_some() || !expiry.failures.is_empty() {
        return Err(format!("{expiry:?}"));
    }
    exactly(place, new, 2)
}

fn set(kind: Kind, shape: &Shape) -> Place {
    let (place, now) = (Place::new(), Instant::now());
    if let Some(old) = &shape.old {
        publish(&mut kind.open(&place.root, None, now).unwrap(), old, 1, now).unwrap();
    }
    place
}

#[test]
fn every_failing_call_leaves_the_old_revision_and_a_retry_works() {
    let mut sites: BTreeMap<&'static str, u32> = BTreeMap::new();
    for kind in Kind::available() {
        for shape in shapes() {
            let thorough = ["first", "directory-to-file", "owner-and-mode"].contains(&shape.name);
            let errors = if thorough { &ERRORS[..] } else { &ERRORS[..1] };
            for errno in errors {
                for n in 1.. {
                    let place = set(kind, &shape);
                    let failed = Arc::new(Mutex::new(None));
                    let steps = at_call(n, false, {
                        let failed = Arc::clone(&failed);
                        move |call: &Call<'_>| {
                            *failed.lock().unwrap() = Some(call.name);
                            Err(*errno)
                        }
                    });
                    let (mut store, result) = run(&place, kind, &shape.new, steps);
                    let Some(call) = *failed.lock().unwrap() else { break };
                    *sites.entry(call).or_default() += 1;
                    let at = format!("{kind:?}, {}: {errno} of {call}, call {n}", shape.name);
                    judge(&place, &shape, *errno, result.as_ref().err(), &at);
                    if let (Some(store), Err(Error::Full(_) | Error::System(_))) =
                        (&mut store, &result)
                    {
                        let left = nothing_half_made(&place, &shape, store);
                        left.map_err(|error| format!("{at}: left: {error}")).unwrap();
                    }
                    let again = run_again(&place, kind, &shape.new, store);
                    again.map_err(|error| format!("{at}: again: {error}")).unwrap();
                }
            }
        }
    }
    println!("{} failures: {sites:?}", sites.values().sum::<u32>());
    assert!(sites.values().sum::<u32>() > 2_000);
}

/// After an error there is what was before, and what was staged for another attempt.
fn nothing_half_made(place: &Place, shape: &Shape, store: &mut Store) -> Result<(), String> {
    let staged = match store.discard(&id()) {
        Err(Error::Unknown { .. }) => return nothing_at_all(place),
        other => other,
    };
    staged.map_err(|error| describe(&error))?;
    match &shape.old {
        Some(old) => exactly(place, old, 1),
        None => {
            let hidden = place.root.join("new").join(id().as_str());
            ["data", "staging", "records"].iter().try_for_each(|name| empty(&hidden.join(name)))?;
            empty(&place.root.join("volumes"))
        }
    }
}

fn nothing_at_all(place: &Place) -> Result<(), String> {
    ["new", "volumes"].iter().try_for_each(|name| empty(&place.root.join(name)))
}

fn empty(directory: &Path) -> Result<(), String> {
    match fs::read_dir(directory).map_err(|error| error.to_string())?.count() {
        0 => Ok(()),
        count => Err(format!("{count} names in {}", directory.display())),
    }
}

fn judge(place: &Place, shape: &Shape, errno: Errno, error: Option<&Error>, at: &str) {
    let found = current(&place.data()).map_err(|e| format!("{at}: {e}")).unwrap();
    let Some(error) = error else {
        assert_eq!(found.as_ref(), Some(&shape.new), "{at}");
        return;
    };
    assert_ne!(errno, Errno::INTR, "{at}: an interrupted call is made again");
    let at = format!("{at}: {}", describe(error));
    match error {
        // Also how [`run`] says that something could not be removed when it expired.
        Error::Untidy { sequence: 2, .. } => {
            return assert_eq!(found.as_ref(), Some(&shape.new), "{at}");
        }
        Error::Full(_) => assert_eq!(errno, Errno::NOSPC, "{at}"),
        Error::System(_) => assert_ne!(errno, Errno::NOSPC, "{at}"),
        _ => panic!("{at}: not an error of the system"),
    }
    assert_eq!(found, shape.old, "{at}");
}

#[test]
fn when_nothing_works_any_more_the_volume_stays_readable() {
    for kind in Kind::available() {
        for shape in shapes() {
            for n in (1..).step_by(3) {
                let place = set(kind, &shape);
                let broken = Arc::new(AtomicBool::new(false));
                let first = at_call(n, false, {
                    let broken = Arc::clone(&broken);
                    move |_: &Call<'_>| {
                        broken.store(true, Ordering::Relaxed);
                        Err(Errno::IO)
                    }
                });
                let steps = {
                    let broken = Arc::clone(&broken);
                    Every(move |call: &Call<'_>| match broken.load(Ordering::Relaxed) {
                        true => Err(Errno::IO),
                        false => first.before(call),
                    })
                };
                let (store, result) = run(&place, kind, &shape.new, Arc::new(steps));
                if !broken.load(Ordering::Relaxed) {
                    break;
                }
                let at = format!("{kind:?}, {}: from call {n} on", shape.name);
                judge(&place, &shape, Errno::IO, result.as_ref().err(), &at);
                // The agent is replaced; nothing that it could not clean up hinders the next one.
                drop(store);
                let again = run_again(&place, kind, &shape.new, None);
                again.map_err(|error| format!("{at}: again: {error}")).unwrap();
            }
        }
    }
}
