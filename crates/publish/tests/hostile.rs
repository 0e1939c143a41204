//! What others put into the destination is never followed, opened for writing, or replaced:
//! SPECIFICATION P9.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Every, Unwinding, describe, fill, memory, run, system};
use publish::{Call, Destination, Error, Policy, System, wipe};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use testkit::kills::{Publisher, Scene, Shape, check, rerun, shapes};
use testkit::oracle::{State, census};
use testkit::planted::{Plain, Planted};

fn shape(name: &str) -> Shape {
    shapes().into_iter().find(|shape| shape.name == name).unwrap()
}

/// Puts something at a path; the second is a directory that nobody may touch.
type Plant = fn(&Path, &Path);

const PLANTS: [(&str, Plant); 8] = [
    ("link to a directory", |at, outside| symlink(outside, at).unwrap()),
    ("link to a file", |at, outside| symlink(outside.join("config.json"), at).unwrap()),
    ("link to nothing", |at, outside| symlink(outside.join("nothing"), at).unwrap()),
    ("link to itself", |at, _| symlink(at, at).unwrap()),
    ("hard link", |at, outside| fs::hard_link(outside.join("config.json"), at).unwrap()),
    ("fifo", |at, _| {
        rustix::fs::mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }),
    ("directory", |at, outside| {
        fs::create_dir(at).unwrap();
        symlink(outside, at.join("link")).unwrap();
    }),
    ("file", |at, _| fs::write(at, "{}").unwrap()),
];

#[test]
fn whatever_has_our_names_is_removed_and_not_followed() {
    let shape = shape("first-nested-and-empty");
    for name in [".sealift-staging", ".sealift-receipt.json"] {
        for (what, plant) in PLANTS {
            let scene = Scene::set(memory(), &shape).unwrap();
            // A hard link's count is part of the census' inode, its name is not.
            let before = census(&scene.outside).unwrap();
            plant(&scene.destination.join(name), &scene.outside);
            let result = run(&scene.destination, &shape.new, System::default());
            let refused = (name, what) == (".sealift-receipt.json", "directory");
            match result {
                Err(Error::NotEmpty { name: found, .. }) if refused => assert_eq!(found, name),
                Ok(()) if !refused => {
                    let found = check(&scene.destination, &shape).unwrap();
                    assert_eq!((found.state, found.residue), (State::New, false), "{name}: {what}");
                }
                other => panic!("{what} at {name}: {other:?}"),
            }
            assert_eq!(census(&scene.outside).unwrap(), before, "{what} at {name}");
        }
    }
}

#[test]
fn whatever_has_a_name_of_the_model_is_refused_and_not_touched() {
    let shape = shape("first-nested-and-empty");
    for name in ["a", "empty", "f", "foreign"] {
        for (what, plant) in PLANTS {
            let scene = Scene::set(memory(), &shape).unwrap();
            plant(&scene.destination.join(name), &scene.outside);
            let before = (census(&scene.destination).unwrap(), census(&scene.outside).unwrap());
            match run(&scene.destination, &shape.new, System::default()) {
                Err(Error::NotEmpty { name: found, .. }) => assert_eq!(found, name, "{what}"),
                other => panic!("{what} at {name}: {other:?}"),
            }
            let after = (census(&scene.destination).unwrap(), census(&scene.outside).unwrap());
            assert_eq!(after, before, "{what} at {name}");
        }
    }
}

#[test]
fn whatever_appears_during_the_work_is_refused_and_not_touched() {
    let shape = shape("changed");
    for (what, plant) in PLANTS {
        let scene = Scene::set(memory(), &shape).unwrap();
        let destination = Destination::open(&scene.destination, &Policy::default()).unwrap();
        let staging = destination.stage(&shape.new.plan()).unwrap();
        fill(&staging, &shape.new).unwrap();
        let foreign = scene.destination.join("foreign");
        plant(&foreign, &scene.outside);
        let before = census(&scene.outside).unwrap();
        let result = staging.publish(&shape.new.receipt());
        assert!(matches!(result, Err(Error::NotEmpty { .. })), "{what}: {result:?}");
        assert!(foreign.symlink_metadata().is_ok(), "{what}");
        assert_eq!(census(&scene.outside).unwrap(), before, "{what}");
        if foreign.is_dir() && !foreign.is_symlink() {
            fs::remove_dir_all(&foreign).unwrap();
        } else {
            fs::remove_file(&foreign).unwrap();
        }
        let found = check(&scene.destination, &shape).unwrap();
        assert_eq!((found.state, found.residue), (State::Old, false), "{what}");
    }
}

#[test]
fn what_appears_in_the_middle_of_the_switch_is_not_replaced() {
    let shape = shape("changed");
    let scene = Scene::set(memory(), &shape).unwrap();
    // Just when the old one is out and the new one is not in.
    let foreign = scene.destination.join("model.bin");
    let at = foreign.clone();
    let steps = Every(move |_: &Call<'_>| {
        if !at.exists() {
            fs::write(&at, "foreign").unwrap();
        }
        Ok(())
    });
    let result = run(&scene.destination, &shape.new, system(Arc::new(steps)));
    assert!(matches!(result, Err(Error::NotEmpty { .. })), "{result:?}");
    assert_eq!(fs::read(&foreign).unwrap(), b"foreign");
    // Nobody can undo it now without replacing the foreign file.
    let result = run(&scene.destination, &shape.new, System::default());
    assert!(matches!(result, Err(Error::NotEmpty { .. })), "{result:?}");
    assert_eq!(fs::read(&foreign).unwrap(), b"foreign");

    fs::remove_file(&foreign).unwrap();
    Destination::open(&scene.destination, &Policy::default()).unwrap().recover(None).unwrap();
    let found = check(&scene.destination, &shape).unwrap();
    assert_eq!((found.state, found.residue), (State::Old, false));
}

#[test]
fn whatever_replaces_part_of_the_staging_directory_is_wiped_and_not_followed() {
    let shape = shape("first-nested-and-empty");
    let parts = ["journal.json", "done", "tree", "old", "tree/a", "tree/a/b/d.json", "tree/f"];
    for part in parts {
        for (what, plant) in PLANTS {
            let scene = Scene::set(memory(), &shape).unwrap();
            let destination = Destination::open(&scene.destination, &Policy::default()).unwrap();
            destination.stage(&shape.new.plan()).unwrap().keep();
            drop(destination);
            let path = scene.destination.join(".sealift-staging").join(part);
            fs::rename(&path, scene.destination.join(".sealift-staging/aside")).unwrap();
            let before = census(&scene.outside).unwrap();
            plant(&path, &scene.outside);
            rerun(&Unwinding::IN_MEMORY, &scene.destination, &shape)
                .map_err(|error| format!("{what} at {part}: {error:#}"))
                .unwrap();
            assert_eq!(census(&scene.outside).unwrap(), before, "{what} at {part}");
        }
    }
}

#[test]
fn what_only_looks_like_a_staged_file_is_not_taken_for_it() {
    let shape = shape("first-nested-and-empty");
    let size = |path: &str| shape.new.files.get(path).map_or(1, |(_, content)| content.len());
    // `done` is one byte per file here.
    for (part, bytes) in
        [("tree/f", size("f")), ("tree/empty", 0), ("done", 5), ("journal.json", 0)]
    {
        for fifo in [false, true] {
            let scene = Scene::set(memory(), &shape).unwrap();
            let destination = Destination::open(&scene.destination, &Policy::default()).unwrap();
            destination.stage(&shape.new.plan()).unwrap().keep();
            drop(destination);
            let path = scene.destination.join(".sealift-staging").join(part);
            let twin = scene.outside.join("twin");
            let content =
                if part == "journal.json" { fs::read(&path).unwrap() } else { vec![b'x'; bytes] };
            fs::write(&twin, content).unwrap();
            fs::remove_file(&path).unwrap();
            if fifo {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)
                    .unwrap();
            } else {
                fs::hard_link(&twin, &path).unwrap();
            }
            rerun(&Unwinding::IN_MEMORY, &scene.destination, &shape)
                .map_err(|error| format!("{part}: {error:#}"))
                .unwrap();
            assert!(
                fs::read(&twin).unwrap().iter().all(|byte| part == "journal.json" || *byte == b'x')
            );
        }
    }
}

#[test]
fn what_somebody_adds_to_the_staged_tree_is_not_published() {
    let shape = shape("directory-to-file");
    for extra in ["tree/x", "tree/f/x"] {
        for (what, plant) in PLANTS {
            let scene = Scene::set(memory(), &shape).unwrap();
            let destination = Destination::open(&scene.destination, &Policy::default()).unwrap();
            let staging = destination.stage(&shape.new.plan()).unwrap();
            fill(&staging, &shape.new).unwrap();
            plant(&scene.destination.join(".sealift-staging").join(extra), &scene.outside);
            let before = census(&scene.outside).unwrap();
            let result = staging.publish(&shape.new.receipt());
            assert!(matches!(result, Err(Error::InTheWay { .. })), "{what} at {extra}: {result:?}");
            let found = check(&scene.destination, &shape).unwrap();
            assert_eq!((found.state, found.residue), (State::Old, false), "{what} at {extra}");
            drop(destination);

            // Nor by a run that resumes it, nor by undoing what another has begun.
            let destination = Destination::open(&scene.destination, &Policy::default()).unwrap();
            destination.stage(&shape.new.plan()).unwrap().keep();
            drop(destination);
            for part in [extra, "old/x"] {
                plant(&scene.destination.join(".sealift-staging").join(part), &scene.outside);
            }
            let inner = census(&scene.outside).unwrap();
            rerun(&Unwinding::IN_MEMORY, &scene.destination, &shape).unwrap();
            assert_eq!(census(&scene.outside).unwrap(), inner, "{what} at {extra}");
            assert_eq!(before.len(), inner.len());
        }
    }
}

#[test]
fn races_with_someone_who_plants_links_write_nothing_outside() {
    let (mut done, mut refused, mut races) = (0, 0, 0);
    // Who wins is the scheduler's to say: until each has won once.
    while (done == 0 || refused == 0) && races < 100 {
        races += 1;
        let untouched = race(2_000, |destination, shape| {
            match run(destination, &shape.new, System::default()) {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
        });
        assert!(untouched);
    }
    println!("{races} races: {done} runs done, {refused} refused");
    assert!(done > 0 && refused > 0);
}

#[test]
fn the_race_finds_a_publisher_that_follows_links() {
    let publisher = Plain { bug: Some(Planted::FollowsLinks) };
    let found = (0..20).any(|_| {
        !race(200, |destination, shape| {
            let _ = publisher.run(destination, &shape.new, None);
        })
    });
    assert!(found);
}

/// Publishes again and again while another thread puts links in the way. False: through one of them
/// something outside was touched.
fn race(rounds: usize, mut publish: impl FnMut(&Path, &Shape)) -> bool {
    let shape = shape("changed");
    let scene = Scene::set(memory(), &shape).unwrap();
    let (destination, outside) = (&scene.destination, &scene.outside);
    let before = census(outside).unwrap();
    let config = destination.join("config.json");
    let staging = destination.join(".sealift-staging");
    let (staged, tree) = (staging.join("tree/config.json"), staging.join("tree"));

    let (stop, runs) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 0..rounds {
                // Neither is to be done before the other has begun.
                while runs.load(Ordering::Relaxed) < round / 10 {
                    std::thread::yield_now();
                }
                let aside = destination.with_extension(round.to_string());
                // Each may fail: the other thread is at work.
                let _ = match round % 20 {
                    0 => symlink(outside.join("config.json"), &config),
                    1 => fs::remove_file(&config),
                    2 => symlink(outside, destination.join(".sealift-receipt.json")),
                    n if n % 4 == 0 => symlink(outside, &staging),
                    n if n % 4 == 1 => {
                        fs::rename(&staging, aside).and_then(|()| symlink(outside, &staging))
                    }
                    n if n % 4 == 2 => fs::remove_file(&staged)
                        .and_then(|()| symlink(outside.join("config.json"), &staged)),
                    _ => fs::rename(&tree, staging.join("aside"))
                        .and_then(|()| symlink(outside, &tree)),
                };
            }
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            publish(destination, &shape);
            runs.fetch_add(1, Ordering::Relaxed);
            // So that there is something to do.
            let _ = fs::remove_file(&config);
        }
    });
    census(outside).unwrap() == before
}

#[test]
fn a_link_as_the_destination_is_refused_but_one_above_it_is_followed() {
    let top = tempfile::tempdir_in(memory()).unwrap();
    let real = top.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, top.path().join("link")).unwrap();
    for path in ["link", "link/", "link/.", "./link//"] {
        let result = Destination::open(&top.path().join(path), &Policy::default());
        assert!(matches!(result, Err(Error::InTheWay { .. })), "{path}: {result:?}");
    }
    Destination::open(&top.path().join("link/new/newer"), &Policy::default()).unwrap();
    assert!(real.join("new/newer").is_dir());
    fs::write(real.join("file"), "").unwrap();
    for path in ["real/file", "real/file/x"] {
        let result = Destination::open(&top.path().join(path), &Policy::default());
        assert!(matches!(result, Err(Error::InTheWay { .. })), "{path}: {result:?}");
    }
}

#[test]
fn wiping_removes_a_tree_of_any_depth_and_width_and_follows_nothing() {
    let top = tempfile::tempdir_in(memory()).unwrap();
    let outside = tempfile::tempdir_in(memory()).unwrap();
    fs::write(outside.path().join("keep"), "keep").unwrap();
    let before = census(outside.path()).unwrap();

    // Deeper than a path can be long, and than a process has descriptors.
    let mut deep = std::os::fd::OwnedFd::from(fs::File::open(top.path()).unwrap());
    for _ in 0..3_000 {
        rustix::fs::mkdirat(&deep, "directory", Mode::RWXU).unwrap();
        deep = rustix::fs::openat(&deep, "directory", OFlags::RDONLY, Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat(outside.path(), &deep, "link").unwrap();
    for n in 0..3_000 {
        fs::write(top.path().join(n.to_string()), "").unwrap();
    }
    symlink(outside.path(), top.path().join("link")).unwrap();
    let odd: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\n\"");
    fs::create_dir(top.path().join(odd)).unwrap();
    fs::write(top.path().join(odd).join(odd), "").unwrap();

    wipe(std::os::fd::AsFd::as_fd(&fs::File::open(top.path()).unwrap())).unwrap();
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
    assert_eq!(census(outside.path()).unwrap(), before);
}

#[test]
fn staged_content_is_readable_by_its_owner_only() {
    let shape = shape("first");
    let scene = Scene::set(memory(), &shape).unwrap();
    let destination = Destination::open(&scene.destination, &Policy::default()).unwrap();
    let staging = destination.stage(&shape.new.plan()).unwrap();
    let mode = |path: &str| {
        fs::metadata(scene.destination.join(path)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode(".sealift-staging"), 0o700);
    fill(&staging, &shape.new).unwrap();
    staging.publish(&shape.new.receipt()).map_err(|error| describe(&error)).unwrap();
    assert_eq!(
        (mode("run.sh"), mode("model.bin"), mode(".sealift-receipt.json")),
        (0o755, 0o644, 0o644)
    );
}
