//! The emulator, checked against what upstream's AtomicWriter promises: nothing else here means
//! anything if it is wrong.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use testkit::kubelet::{AtomicWriter, Payload, Projection, Step, payload, stamp};

/// What a container sees at each path, and whatever else is in the volume's directory.
fn visible(target: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let (mut files, mut hidden) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(target).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("..") {
            hidden.push(name);
            continue;
        }
        let link = fs::read_link(target.join(&name)).unwrap();
        assert_eq!(link, Path::new("..data").join(&name));
        let mut pending = vec![name];
        while let Some(path) = pending.pop() {
            let at = target.join(&path);
            if at.is_dir() {
                let below = fs::read_dir(at).unwrap();
                let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
                pending.extend(below.map(|entry| format!("{path}/{}", name(entry.unwrap()))));
            } else {
                files.insert(path, fs::read(at).unwrap());
            }
        }
    }
    hidden.sort();
    (files, hidden)
}

fn contents(payload: &Payload) -> BTreeMap<String, Vec<u8>> {
    payload.iter().map(|(path, file)| (path.clone(), file.bytes.clone())).collect()
}

#[test]
fn after_each_write_exactly_the_payload_is_visible() {
    let histories: [&[&[&str]]; 6] = [
        &[&["a"]],
        &[&["a", "b"], &["a", "b"]],
        &[&["a", "b"], &["a"], &["b", "c"]],
        &[&["conf/app/x.yaml"], &["conf/app/y.yaml", "conf/z"], &["conf"]],
        &[&["a"], &[], &["a/b"]],
        &[&["tls.crt", "tls.key"], &["tls.crt", "tls.key", "ca.crt"], &["tls.crt", ".hidden"]],
    ];
    for history in histories {
        let top = tempfile::tempdir().unwrap();
        let writer = AtomicWriter::new(top.path()).unwrap();
        for (generation, paths) in (1..).zip(history) {
            let payload = payload(generation, paths);
            let mut steps = Vec::new();
            assert!(writer.write_stepwise(&payload, &mut |step| steps.push(step)).unwrap());
            steps.dedup();
            let all = Step::ALL.iter().filter(|step| !paths.is_empty() || **step != Step::Written);
            assert!(steps.iter().eq(all), "{steps:?}");

            let (files, hidden) = visible(top.path());
            assert_eq!(files, contents(&payload), "{history:?}");
            let revision = fs::read_link(top.path().join("..data")).unwrap();
            let revision = revision.to_str().unwrap();
            assert!(revision.starts_with("..2026_11_22_10_00_00."), "{revision}");
            assert_eq!(hidden, [revision, "..data"], "one revision and nothing temporary");
        }
    }
}

#[test]
fn the_same_content_is_no_switch_whatever_its_mode() {
    let top = tempfile::tempdir().unwrap();
    let writer = AtomicWriter::new(top.path()).unwrap();
    let mut payload = payload(1, &["a", "conf/b"]);
    assert!(writer.write(&payload).unwrap());
    let before = fs::read_link(top.path().join("..data")).unwrap();
    // What an interrupted write may have left out is made good all the same.
    fs::remove_file(top.path().join("a")).unwrap();
    payload.get_mut("a").unwrap().mode = 0o600;
    assert!(!writer.write(&payload).unwrap());
    assert_eq!(fs::read_link(top.path().join("..data")).unwrap(), before);
    assert_eq!(visible(top.path()).0, contents(&payload));

    payload.remove("conf/b");
    assert!(writer.write(&payload).unwrap(), "a removal is a switch");
    assert_eq!(visible(top.path()).0, contents(&payload));
}

#[test]
fn readers_see_the_old_until_the_switch_and_the_new_from_then_on() {
    let top = tempfile::tempdir().unwrap();
    let writer = AtomicWriter::new(top.path()).unwrap();
    writer.write(&payload(1, &["a", "old"])).unwrap();
    let names =
        |step: Step| (top.path().join("new").exists(), top.path().join("old").is_symlink(), step);
    let mut seen = Vec::new();
    let look = &mut |step| {
        let generation = stamp(&fs::read(top.path().join("a")).unwrap()).unwrap();
        assert_eq!(generation, if step < Step::Switched { 1 } else { 2 }, "{step:?}");
        seen.push(names(step));
    };
    writer.write_stepwise(&payload(2, &["a", "new"]), look).unwrap();
    for (new, old, step) in seen {
        assert_eq!(new, step >= Step::Visible, "{step:?}");
        assert_eq!(old, step < Step::Pruned, "{step:?}");
    }
}

#[test]
fn invalid_paths_change_nothing() {
    let top = tempfile::tempdir().unwrap();
    let writer = AtomicWriter::new(top.path()).unwrap();
    writer.write(&payload(1, &["a"])).unwrap();
    let before = visible(top.path());
    let long = "a".repeat(256);
    for path in ["", "/a", "..", "../a", "a/../b", "..a", "..a/b", &long] {
        assert!(writer.write(&payload(2, &["a", path])).is_err(), "{path}");
        assert_eq!(visible(top.path()), before, "{path}");
    }
    writer.write(&payload(3, &["a..b", "./c//d"])).unwrap();
    assert!(top.path().join("c/d").exists());
}

#[test]
fn modes_owners_and_the_group_are_set_before_the_switch() {
    let top = tempfile::tempdir().unwrap();
    let file = |mode, uid| Projection { bytes: b"x".to_vec(), mode, uid };
    let root = rustix::process::geteuid().is_root();
    let uid = root.then_some(1_000);
    let payload: Payload =
        [("token".into(), file(0o600, uid)), ("conf/run.sh".into(), file(0o755, None))].into();
    let mode = |path: &str| {
        let found = fs::symlink_metadata(top.path().join("..data").join(path)).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    let writer = AtomicWriter::new(top.path()).unwrap();
    writer.write(&payload).unwrap();
    let (_, own_uid, own_gid) = mode(".");
    assert_eq!(mode(".").0, 0o755);
    assert_eq!(mode("conf").0, 0o755);
    assert_eq!(mode("token"), (0o600, uid.unwrap_or(own_uid), own_gid));
    assert_eq!(mode("conf/run.sh").0, 0o755);
    if !root {
        testkit::skip("owners and groups, which only root can set");
        return;
    }

    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let writer = writer.fs_group(2_000);
    let changed = testkit::kubelet::payload(2, &["token"]);
    let payload: Payload = payload.into_iter().filter(|(path, _)| path != "token").collect();
    let payload: Payload = payload.into_iter().chain(changed).collect();
    let look = &mut |step| {
        if step == Step::Linked {
            let new = fs::read_link(top.path().join("..data_tmp")).unwrap();
            let found = fs::metadata(top.path().join(new).join("token")).unwrap();
            assert_eq!((found.mode() & 0o7777, found.gid()), (0o644, 2_000));
        }
    };
    writer.write_stepwise(&payload, look).unwrap();
    assert_eq!(mode("."), (0o2755, own_uid, 2_000));
    assert_eq!(mode("conf"), (0o2755, own_uid, 2_000));
    assert_eq!(mode("conf/run.sh"), (0o755, own_uid, 2_000));
    let whole = fs::metadata(top.path()).unwrap();
    assert_eq!((whole.mode() & 0o7777, whole.gid()), (0o2777, 2_000));
}
