//! Filling a tree, resuming it, and what a destination says of itself.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Every, Unwinding, at_call, describe, fill, memory, run, run_under, system};
use publish::{Call, Destination, Error, PlannedFile, Policy, StagedFile, Staging, System};
use rustix::io::Errno;
use testkit::kills::{Scene, Shape, check, rerun, shapes};
use testkit::oracle::{Model, SEGMENT_BYTES, State, census, segments};

fn shape(name: &str) -> Shape {
    shapes().into_iter().find(|shape| shape.name == name).unwrap()
}

fn open(path: &Path) -> Destination {
    Destination::open(path, &Policy::default()).unwrap()
}

#[test]
fn handles_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Destination>();
    shared::<Staging>();
    shared::<StagedFile>();
}

#[test]
fn nothing_is_published_unless_every_segment_was_written() {
    let shape = shape("changed");
    let plan = shape.new.plan();
    for (index, file) in plan.files.iter().enumerate() {
        for missing in 0..file.segments {
            let scene = Scene::set(memory(), &shape).unwrap();
            let staging = open(&scene.destination).stage(&plan).unwrap();
            for (other, content) in shape.new.files.values().enumerate() {
                let staged = staging.open_file(other).unwrap();
                for (segment, offset, bytes) in segments(&content.1) {
                    if (other, segment) != (index, missing) {
                        staged.write_segment(segment, offset, bytes).unwrap();
                    }
                }
            }
            match staging.publish(&shape.new.receipt()) {
                Err(Error::Incomplete { path, segment }) => {
                    assert_eq!((path.as_str(), segment), (file.path.as_str(), missing));
                }
                other => panic!("{other:?}"),
            }
            let found = check(&scene.destination, &shape).unwrap();
            assert_eq!((found.state, found.residue), (State::Old, false));
        }
    }
}

#[test]
fn nothing_is_published_with_a_receipt_of_another_tree() {
    let shape = shape("first");
    type Change = fn(&mut publish::Receipt);
    let changes: [Change; 4] = [
        |receipt| receipt.manifest_digest = "00".repeat(32),
        |receipt| drop(receipt.files.pop()),
        |receipt| receipt.files[0].bytes += 1,
        |receipt| receipt.files[0].mode = 0o755,
    ];
    for change in changes {
        let scene = Scene::set(memory(), &shape).unwrap();
        let staging = open(&scene.destination).stage(&shape.new.plan()).unwrap();
        fill(&staging, &shape.new).unwrap();
        let mut receipt = shape.new.receipt();
        change(&mut receipt);
        let result = staging.publish(&receipt);
        assert!(matches!(result, Err(Error::InvalidPlan(_))), "{result:?}");
        let found = check(&scene.destination, &shape).unwrap();
        assert_eq!((found.state, found.residue), (State::Absent, false));
    }
}

#[test]
fn a_segment_outside_its_file_is_refused_and_not_done() {
    let shape = shape("first");
    let scene = Scene::set(memory(), &shape).unwrap();
    let staging = open(&scene.destination).stage(&shape.new.plan()).unwrap();
    let file = staging.open_file(0).unwrap();
    for (segment, offset, bytes) in
        [(1, 0, 1), (u32::MAX, 0, 0), (0, 0, 701), (0, 700, 1), (0, u64::MAX, 1), (0, 1 << 63, 0)]
    {
        let result = file.write_segment(segment, offset, &vec![0; bytes]);
        assert!(matches!(result, Err(Error::OutOfRange { .. })), "{segment} {offset} {bytes}");
    }
    assert!(!staging.is_done(0, 0));
    assert!(!staging.is_done(0, 1) && !staging.is_done(9, 0));
    assert!(matches!(staging.open_file(9), Err(Error::InvalidPlan(_))));
    staging.discard().unwrap();
}

#[test]
fn nothing_is_written_after_the_end() {
    let shape = shape("first");
    type End = fn(Staging, &Model);
    let ends: [(End, bool); 3] = [
        (|staging, model| staging.publish(&model.receipt()).unwrap(), true),
        (|staging, _| staging.discard().unwrap(), false),
        (|staging, _| staging.keep(), true),
    ];
    for (end, stays) in ends {
        let scene = Scene::set(memory(), &shape).unwrap();
        let staging = open(&scene.destination).stage(&shape.new.plan()).unwrap();
        fill(&staging, &shape.new).unwrap();
        let file = staging.open_file(0).unwrap();
        end(staging, &shape.new);
        let before = census(&scene.destination).unwrap();
        let result = file.write_segment(0, 0, b"late");
        assert!(matches!(result, Err(Error::Closed { .. })), "{result:?}");
        assert_eq!(census(&scene.destination).unwrap(), before);
        assert_eq!(before.len() > 1, stays);
    }
}

#[test]
fn a_kept_tree_is_resumed_with_what_was_done() {
    let model = Model::new(1, &[("a/weights", 20 * SEGMENT_BYTES + 5), ("b", 3), ("empty", 0)]);
    let top = tempfile::tempdir_in(memory()).unwrap();
    let staging = open(top.path()).stage(&model.plan()).unwrap();
    assert_eq!(staging.resumed_bytes(), 0);
    let file = staging.open_file(0).unwrap();
    let content = &model.files["a/weights"].1;
    for (segment, offset, bytes) in segments(content).filter(|(segment, ..)| segment % 3 == 0) {
        file.write_segment(segment, offset, bytes).unwrap();
    }
    staging.keep();

    let staging = open(top.path()).stage(&model.plan()).unwrap();
    for segment in 0..21 {
        assert_eq!(staging.is_done(0, segment), segment % 3 == 0, "{segment}");
    }
    assert!(!staging.is_done(1, 0) && !staging.is_done(2, 0));
    assert_eq!(staging.resumed_bytes(), content.len() as u64 * 7 / 21);
    fill(&staging, &model).unwrap();
    staging.publish(&model.receipt()).unwrap();
    let shape = Shape { name: "resumed", old: None, new: model, hostile: false };
    let found = check(top.path(), &shape).unwrap();
    assert_eq!((found.state, found.residue), (State::New, false));
}

#[test]
fn what_was_staged_of_another_tree_is_never_resumed() {
    let model = Model::new(1, &[("a", 5_000), ("b", 3)]);
    type Change = fn(&mut publish::Plan);
    let changes: [Change; 5] = [
        |plan| plan.digest = [9; 32],
        |plan| plan.files[0].path = "c".into(),
        |plan| plan.files[0].mode = 0o755,
        |plan| plan.files[0].segments += 1,
        |plan| drop(plan.files.pop()),
    ];
    for change in changes {
        let top = tempfile::tempdir_in(memory()).unwrap();
        let staging = open(top.path()).stage(&model.plan()).unwrap();
        fill(&staging, &model).unwrap();
        staging.keep();
        let mut plan = model.plan();
        change(&mut plan);
        let staging = open(top.path()).stage(&plan).unwrap();
        assert_eq!(staging.resumed_bytes(), 0);
        assert!(!staging.is_done(0, 0));
        staging.discard().unwrap();
    }
}

#[test]
fn a_changed_staging_directory_is_not_resumed() {
    let model = Model::new(1, &[("a/b", 5_000), ("c", 3)]);
    type Change = fn(&Path);
    let changes: [Change; 8] = [
        |staging| fs::remove_file(staging.join("tree/c")).unwrap(),
        |staging| fs::write(staging.join("tree/c"), "longer").unwrap(),
        |staging| {
            fs::set_permissions(staging.join("tree/c"), fs::Permissions::from_mode(0o666)).unwrap();
        },
        |staging| fs::remove_file(staging.join("done")).unwrap(),
        |staging| fs::write(staging.join("done"), "xxx").unwrap(),
        |staging| fs::write(staging.join("journal.json"), "{}").unwrap(),
        |staging| fs::remove_dir(staging.join("old")).unwrap(),
        |staging| fs::remove_dir_all(staging.join("tree/a")).unwrap(),
    ];
    for change in changes {
        let top = tempfile::tempdir_in(memory()).unwrap();
        let staging = open(top.path()).stage(&model.plan()).unwrap();
        fill(&staging, &model).unwrap();
        staging.keep();
        change(&top.path().join(".sealift-staging"));
        let staging = open(top.path()).stage(&model.plan()).unwrap();
        assert_eq!(staging.resumed_bytes(), 0);
        fill(&staging, &model).unwrap();
        staging.publish(&model.receipt()).unwrap();
    }
}

#[test]
fn recovering_keeps_only_what_is_asked_for() {
    let model = Model::new(1, &[("a", 5)]);
    for (keep, kept) in [(None, false), (Some([2; 32]), false), (Some([1; 32]), true)] {
        let top = tempfile::tempdir_in(memory()).unwrap();
        open(top.path()).stage(&model.plan()).unwrap().keep();
        open(top.path()).recover(keep).unwrap();
        assert_eq!(fs::read_dir(top.path()).unwrap().count() == 1, kept, "{keep:?}");
    }
}

#[test]
fn a_failure_to_tidy_up_is_told_and_made_good_by_the_next_run() {
    let shape = shape("changed");
    for loses_receipt in [false, true] {
        let scene = Scene::set(memory(), &shape).unwrap();
        let is_removal = |call: &Call<'_>| match call.name {
            "unlinkat" if call.path.join("old/config.json").exists() => Err(Errno::IO),
            _ => Ok(()),
        };
        let steps = Arc::new(Every(is_removal));
        let result = run(&scene.destination, &shape.new, system(steps));
        assert!(matches!(result, Err(Error::Residue(_))), "{result:?}");
        let found = check(&scene.destination, &shape).unwrap();
        assert_eq!((found.state, found.residue), (State::New, true));
        if loses_receipt {
            // Then nobody knows that it is whole, and it goes.
            fs::remove_file(scene.destination.join(".sealift-receipt.json")).unwrap();
            open(&scene.destination).recover(None).unwrap();
            assert_eq!(check(&scene.destination, &shape).unwrap().state, State::Old);
        }
        rerun(&Unwinding::IN_MEMORY, &scene.destination, &shape).unwrap();
    }
}

#[test]
fn the_journal_is_the_first_to_be_removed() {
    // With it, the rest still means something; half of the rest would mean something else.
    let model = Model::new(1, &[("a", 5)]);
    let top = tempfile::tempdir_in(memory()).unwrap();
    open(top.path()).stage(&model.plan()).unwrap().keep();
    let staging = top.path().join(".sealift-staging");
    // Newer than the journal, as directories may be listed by age.
    fs::write(staging.join("newer"), "").unwrap();
    let second = at_call(2, true, |_: &Call<'_>| Err(Errno::IO));
    let destination = Destination::open_with(top.path(), &Policy::default(), system(second));
    destination.unwrap().recover(None).unwrap_err();
    let names = ["journal.json", "newer", "tree", "done", "old"].map(|name| staging.join(name));
    assert_eq!(names.map(|name| name.exists()), [false, true, true, true, true]);
}

#[test]
fn what_threads_have_written_is_whole_at_whatever_moment_they_end() {
    let model = Model::new(1, &[("a", 64 * SEGMENT_BYTES), ("b", 30 * SEGMENT_BYTES + 1)]);
    let mut work = Vec::new();
    for (index, (_, content)) in model.files.values().enumerate() {
        work.extend(
            segments(content).map(|(segment, offset, bytes)| (index, segment, offset, bytes)),
        );
    }
    // Far from each other, so that the threads share bytes of the bitmap.
    work.sort_by_key(|(index, segment, ..)| (segment % 8, *index));
    for count in [0, 1, 7, 40, 94, 95] {
        let top = tempfile::tempdir_in(memory()).unwrap();
        let staging = open(top.path()).stage(&model.plan()).unwrap();
        let next = AtomicUsize::new(0);
        let write = || {
            while let Some(piece) = work[..count].get(next.fetch_add(1, Ordering::Relaxed)) {
                let (index, segment, offset, bytes) = *piece;
                staging.open_file(index).unwrap().write_segment(segment, offset, bytes).unwrap();
            }
        };
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(write);
            }
        });
        let done = |piece: &&(usize, u32, u64, &[u8])| staging.is_done(piece.0, piece.1);
        assert_eq!(work.iter().filter(done).count(), count);
        // As if killed: neither kept nor discarded.
        drop(staging);

        let staging = open(top.path()).stage(&model.plan()).unwrap();
        let tree = top.path().join(".sealift-staging/tree");
        let files = ["a", "b"].map(|name| fs::read(tree.join(name)).unwrap());
        for (index, segment, _, bytes) in &work {
            if staging.is_done(*index, *segment) {
                assert_eq!(
                    files[*index].chunks(SEGMENT_BYTES).nth(*segment as usize),
                    Some(*bytes)
                );
            }
        }
        staging.discard().unwrap();
    }
}

#[test]
fn one_process_at_a_time_works_on_a_destination() {
    let model = Model::new(1, &[("a", 5)]);
    let top = tempfile::tempdir_in(memory()).unwrap();
    let first = open(top.path());
    let staging = first.stage(&model.plan()).unwrap();
    let second = open(top.path());
    assert!(matches!(second.stage(&model.plan()), Err(Error::Busy { .. })));
    assert!(matches!(second.recover(None), Err(Error::Busy { .. })));
    // Looking is allowed.
    assert_eq!(second.receipt().unwrap(), None);
    second.preflight(&model.plan()).unwrap();
    drop(first);
    assert!(matches!(second.recover(None), Err(Error::Busy { .. })));
    fill(&staging, &model).unwrap();
    staging.publish(&model.receipt()).unwrap();
    second.recover(None).unwrap();
    assert_eq!(second.receipt().unwrap(), Some(model.receipt()));
}

#[test]
fn holds_says_whether_exactly_the_tree_is_there() {
    let model = Model::new(1, &[("a/b/c", 10), ("a/d*", 5_000), ("e", 0)]);
    type Change = fn(&Path);
    let changes: [(bool, Change); 14] = [
        (true, |_| {}),
        (true, |top| fs::create_dir(top.join("lost+found")).unwrap()),
        (false, |top| fs::write(top.join("x"), "").unwrap()),
        (false, |top| fs::write(top.join("a/b/x"), "").unwrap()),
        (false, |top| fs::create_dir(top.join("a/x")).unwrap()),
        (false, |top| fs::create_dir(top.join(".sealift-staging")).unwrap()),
        (false, |top| fs::remove_file(top.join("e")).unwrap()),
        (false, |top| fs::remove_dir_all(top.join("a/b")).unwrap()),
        (false, |top| fs::write(top.join("a/b/c"), "123456789").unwrap()),
        (false, |top| {
            fs::set_permissions(top.join("a/d"), fs::Permissions::from_mode(0o644)).unwrap();
        }),
        (false, |top| {
            fs::remove_file(top.join("e")).unwrap();
            symlink("a/b/c", top.join("e")).unwrap();
        }),
        (false, |top| {
            fs::rename(top.join("a"), top.with_extension("aside")).unwrap();
            symlink(top.with_extension("aside"), top.join("a")).unwrap();
        }),
        (false, |top| {
            fs::remove_dir_all(top.join("a/b")).unwrap();
            fs::write(top.join("a/b"), "").unwrap();
        }),
        (false, |top| {
            fs::remove_file(top.join("e")).unwrap();
            fs::create_dir(top.join("e")).unwrap();
        }),
    ];
    for (n, (holds, change)) in changes.into_iter().enumerate() {
        let above = tempfile::tempdir_in(memory()).unwrap();
        let top = above.path().join("destination");
        run(&top, &model, System::default()).unwrap();
        change(&top);
        assert_eq!(open(&top).holds(&model.receipt()).unwrap(), holds, "change {n}");
    }
}

#[test]
fn a_damaged_tree_is_published_again() {
    let model = Model::new(1, &[("a/b", 10), ("c", 5)]);
    let top = tempfile::tempdir_in(memory()).unwrap();
    run(top.path(), &model, System::default()).unwrap();
    fs::remove_file(top.path().join("c")).unwrap();
    fs::write(top.path().join("a/extra"), "of the model server").unwrap();
    run(top.path(), &model, System::default()).unwrap();
    assert!(open(top.path()).holds(&model.receipt()).unwrap());
}

#[test]
fn a_whole_tree_is_left_alone() {
    let model = Model::new(1, &[("a/b", 10), ("c", 5)]);
    let top = tempfile::tempdir_in(memory()).unwrap();
    run(top.path(), &model, System::default()).unwrap();
    let before = census(top.path()).unwrap();
    run(top.path(), &model, System::default()).unwrap();
    assert_eq!(census(top.path()).unwrap(), before);
}

#[test]
fn a_receipt_that_is_not_ours_is_none() {
    let model = Model::new(1, &[("a", 10)]);
    let good = serde_json::to_string(&model.receipt()).unwrap();
    let bad = [
        String::new(),
        "{}".into(),
        good[..good.len() - 1].into(),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace("\"version\":1", "\"version\":1,\"more\":1"),
        good.replace(&"01".repeat(32), "01"),
        good.replace("\"path\":\"a\"", "\"path\":\"../a\""),
        good.replace("0644", "8888"),
    ];
    for json in bad {
        let top = tempfile::tempdir_in(memory()).unwrap();
        fs::write(top.path().join(".sealift-receipt.json"), &json).unwrap();
        assert_eq!(open(top.path()).receipt().unwrap(), None, "{json}");
        // Nothing else is there, so it is about nothing.
        run(top.path(), &model, System::default()).unwrap();
        // With a file, that is foreign.
        fs::write(top.path().join(".sealift-receipt.json"), &json).unwrap();
        let result = run(top.path(), &model, System::default());
        assert!(matches!(result, Err(Error::NotEmpty { .. })), "{json}: {result:?}");
    }
    let top = tempfile::tempdir_in(memory()).unwrap();
    fs::write(top.path().join(".sealift-receipt.json"), good).unwrap();
    assert_eq!(open(top.path()).receipt().unwrap(), Some(model.receipt()));
}

#[test]
fn the_receipt_is_readable_json() {
    let receipt = Model::new(1, &[("run*", 1)]).receipt();
    let json = serde_json::to_value(&receipt).unwrap();
    assert_eq!(json["files"][0], serde_json::json!({"path": "run", "bytes": 1, "mode": "0755"}));
    assert_eq!(json["manifest_digest"], "01".repeat(32));
}

#[test]
fn lost_and_found_is_not_foreign() {
    let shape = shape("changed");
    let scene = Scene::set(memory(), &shape).unwrap();
    fs::create_dir(scene.destination.join("lost+found")).unwrap();
    run(&scene.destination, &shape.new, System::default()).unwrap();
    assert_eq!(check(&scene.destination, &shape).unwrap().state, State::New);
}

#[test]
fn a_plan_that_breaks_a_rule_is_refused_before_anything_is_made() {
    let top = tempfile::tempdir_in(memory()).unwrap();
    let destination = open(top.path());
    let mut plan = Model::new(1, &[("a", 10)]).plan();
    let evil = PlannedFile { path: "../escape".into(), mode: 0o644, bytes: 0, segments: 1 };
    plan.files.push(evil);
    assert!(matches!(destination.stage(&plan), Err(Error::InvalidPlan(_))));
    assert!(matches!(destination.preflight(&plan), Err(Error::InvalidPlan(_))));
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn errors_say_what_and_where_in_one_line() {
    let top = tempfile::tempdir_in(memory()).unwrap();
    fs::write(top.path().join("foreign"), "").unwrap();
    let model = Model::new(1, &[("a", 10)]);
    let error = run(top.path(), &model, System::default()).unwrap_err();
    let path = top.path().display();
    assert_eq!(describe(&error), format!("{path} holds \"foreign\", which is not ours"));
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = disk.path().join("file");
    fs::write(&file, "").unwrap();
    let allow = Policy { allow_disk: true };
    let error = run_under(&file, &model, System::default(), &allow).unwrap_err();
    assert_eq!(
        describe(&error),
        format!("something other than a plain file or directory of ours is at {}", file.display())
    );
}
