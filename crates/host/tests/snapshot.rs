//! What a snapshot holds, and that it is one revision however fast kubelet writes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use host::Error;
use host::snapshot::{Layout, Snapshot};
use testkit::kubelet::{AtomicWriter, Projection, Step, payload, stamp};
use volumes::name::TreePath;
use volumes::tree::{Digest, Limits, Meta, Node};

fn path(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

fn content(snapshot: &Snapshot, at: &TreePath) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    snapshot.open(at)?.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

#[test]
fn a_snapshot_has_every_path_mode_owner_and_content() {
    let top = tempfile::tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    let mut writer = AtomicWriter::new(top.path()).unwrap();
    if root {
        writer = writer.fs_group(2_000);
    } else {
        testkit::skip("owners and groups, which only root can set");
    }
    let file = |bytes: &[u8], mode| Projection { bytes: bytes.to_vec(), mode, uid: None };
    let payload = [
        ("token".to_owned(), Projection { uid: root.then_some(1_000), ..file(b"secret", 0o600) }),
        ("conf/app/x.yaml".to_owned(), file(&[7; 200_000], 0o644)),
        ("conf/run.sh".to_owned(), file(b"#!", 0o755)),
        ("empty".to_owned(), file(b"", 0o444)),
        (".dockerconfigjson".to_owned(), file(b"{}", 0o400)),
    ];
    writer.write(&payload.clone().into()).unwrap();
    let snapshot = Snapshot::of_volume(top.path(), Limits::MAX).unwrap();
    assert_eq!(snapshot.layout(), Layout::Switched);

    let revision = top.path().join(fs::read_link(top.path().join("..data")).unwrap());
    let meta = |below: &str| {
        let found = fs::metadata(revision.join(below)).unwrap();
        Meta { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() }
    };
    let tree = snapshot.tree();
    assert_eq!(tree.root(), meta(""));
    assert_eq!(tree.root().mode, if root { 0o2755 } else { 0o755 });
    let names: Vec<_> = tree.nodes().keys().map(TreePath::as_str).collect();
    let expected = [
        ".dockerconfigjson",
        "conf",
        "conf/app",
        "conf/app/x.yaml",
        "conf/run.sh",
        "empty",
        "token",
    ];
    assert_eq!(names, expected);
    for directory in ["conf", "conf/app"] {
        assert_eq!(tree.nodes()[directory], Node::Directory(meta(directory)));
    }
    for (name, file) in &payload {
        let (meta, bytes) = (meta(name), file.bytes.len() as u64);
        let digest = Digest::of(&file.bytes);
        assert_eq!(tree.nodes()[name.as_str()], Node::File { meta, bytes, digest }, "{name}");
        assert_eq!(content(&snapshot, &path(name)).unwrap(), file.bytes);
    }
    for none in ["conf", "missing"] {
        assert!(matches!(snapshot.open(&path(none)), Err(Error::Gone { .. })), "{none}");
    }
    let again = Snapshot::of_directory(top.path(), Limits::MAX).unwrap();
    assert_eq!(again.layout(), Layout::Switched);
    assert_eq!(again.into_tree(), *tree);
}

#[test]
fn each_step_of_an_update_shows_the_old_or_the_new_revision() {
    let top = tempfile::tempdir().unwrap();
    let writer = AtomicWriter::new(top.path()).unwrap();
    let unwritten = &mut |step| {
        let taken = Snapshot::of_volume(top.path(), Limits::MAX);
        match taken {
            Err(Error::Unwritten { .. }) if step < Step::Switched => {}
            Ok(_) if step >= Step::Switched => {}
            other => panic!("{step:?}: {other:?}"),
        }
        // Half a revision is never taken for a plain directory.
        let taken = Snapshot::of_directory(top.path(), Limits::MAX);
        assert_eq!(taken.is_ok(), step >= Step::Switched, "{step:?}: {taken:?}");
    };
    writer.write_stepwise(&payload(1, &["a", "old", "conf/x"]), unwritten).unwrap();
    let old = Snapshot::of_volume(top.path(), Limits::MAX).unwrap();
    let mut trees = Vec::new();
    let look = &mut |step| {
        trees.push((step, Snapshot::of_volume(top.path(), Limits::MAX).unwrap().into_tree()));
    };
    writer.write_stepwise(&payload(2, &["a", "new", "conf/x"]), look).unwrap();
    let new = Snapshot::of_volume(top.path(), Limits::MAX).unwrap();
    assert_ne!(old.tree().digest(), new.tree().digest());
    for (step, tree) in trees {
        assert_eq!(&tree, if step < Step::Switched { old.tree() } else { new.tree() }, "{step:?}");
    }
    for (at, generation) in [("a", 2), ("new", 2), ("conf/x", 2)] {
        assert_eq!(stamp(&content(&new, &path(at)).unwrap()), Some(generation));
        assert!(matches!(old.open(&path("a")), Err(Error::Gone { .. })));
    }
}

#[test]
fn a_file_is_opened_only_as_it_was_hashed() {
    let top = tempfile::tempdir().unwrap();
    AtomicWriter::new(top.path()).unwrap().write(&payload(1, &["a", "b", "c"])).unwrap();
    let snapshot = Snapshot::of_volume(top.path(), Limits::MAX).unwrap();
    let at = |name: &str| top.path().join("..data").join(name);
    fs::write(at("a"), "generation 9 of a\n").unwrap();
    fs::write(at("new"), "generation 1 of b\n").unwrap();
    fs::rename(at("new"), at("b")).unwrap();
    fs::remove_file(at("c")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("c")).unwrap();
    for name in ["a", "b", "c"] {
        let opened = snapshot.open(&path(name));
        assert!(matches!(opened, Err(Error::Changing { .. })), "{name}: {opened:?}");
    }
}

#[test]
fn a_plain_directory_is_taken_as_it_stands() {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir_all(top.path().join("model/shards")).unwrap();
    fs::write(top.path().join("model/config.json"), "{}").unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(top.path().join("model/shards/0"), &large).unwrap();
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    let snapshot = Snapshot::of_directory(top.path(), Limits::MAX).unwrap();
    assert_eq!(snapshot.layout(), Layout::Plain);
    assert_eq!(snapshot.tree().root().mode, 0o2770);
    assert_eq!(snapshot.tree().bytes(), large.len() as u64 + 2);
    assert_eq!(content(&snapshot, &path("model/shards/0")).unwrap(), large);
    let none = Snapshot::of_volume(top.path(), Limits::MAX);
    assert!(matches!(none, Err(Error::Unwritten { .. })), "{none:?}");
    let empty = tempfile::tempdir().unwrap();
    assert!(Snapshot::of_directory(empty.path(), Limits::MAX).unwrap().tree().nodes().is_empty());
    let gone = Snapshot::of_volume(&empty.path().join("nothing"), Limits::MAX);
    assert!(matches!(gone, Err(Error::Gone { .. })), "{gone:?}");
}

/// Every generation has its own set of names besides the common ones.
fn names(generation: u64) -> Vec<String> {
    let common = ["tls.crt", "tls.key", "conf/app/x.yaml", "conf/app/y.yaml"];
    let own = (0..generation % 5).map(|index| format!("extra/{}/{index}", generation % 7));
    common.into_iter().map(str::to_owned).chain(own).collect()
}

fn write(writer: &AtomicWriter, generation: u64) {
    let names = names(generation);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    writer.write(&payload(generation, &names)).unwrap();
}

/// The one generation that everything in the snapshot is of. Contents are known by their digests:
/// the files themselves may be gone by now.
fn generation(snapshot: &Snapshot, from: u64, to: u64) -> Option<u64> {
    let of = |generation: &u64| {
        let names = names(*generation);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let files = snapshot.tree().nodes().iter().filter_map(|(path, node)| match node {
            Node::File { digest, .. } => Some((path.to_string(), *digest)),
            Node::Directory(_) => None,
        });
        let expected = payload(*generation, &names);
        let expected = expected.iter().map(|(path, file)| (path.clone(), Digest::of(&file.bytes)));
        files.eq(expected)
    };
    (from..=to).find(of)
}

/// Tells the other thread that this one is done, also when a check failed.
struct Done<F: Fn()>(F);

impl<F: Fn()> Drop for Done<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Reads while kubelet writes at full speed, until both have done enough.
fn race(top: &Path, fs_group: Option<u32>) {
    const UPDATES_MIN: u64 = 2_000;
    const UPDATES_MAX: u64 = 200_000;
    const SNAPSHOTS_MIN: usize = 200;
    let mut writer = AtomicWriter::new(top).unwrap();
    if let Some(gid) = fs_group {
        writer = writer.fs_group(gid);
    }
    write(&writer, 0);
    let (written, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut seen, mut gave_up, mut opened) = (BTreeSet::new(), 0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(|| written.store(u64::MAX, Ordering::Release));
            for update in 1..=UPDATES_MAX {
                if update > UPDATES_MIN && enough.load(Ordering::Relaxed) {
                    break;
                }
                write(&writer, update);
                written.store(update, Ordering::Release);
            }
        });
        let _done = Done(|| enough.store(true, Ordering::Relaxed));
        let mut first = 0;
        while let now @ ..UPDATES_MAX = written.load(Ordering::Acquire) {
            let snapshot = match Snapshot::of_volume(top, Limits::MAX) {
                Ok(snapshot) => snapshot,
                Err(Error::Changing { .. }) => {
                    gave_up += 1;
                    continue;
                }
                Err(error) => panic!("after {now} updates: {error:?}"),
            };
            // It may be that the writer has switched and not yet said so.
            let latest = match written.load(Ordering::Acquire) {
                u64::MAX => UPDATES_MAX,
                latest => latest + 1,
            };
            let found = generation(&snapshot, first.max(now), latest);
            first = found.unwrap_or_else(|| panic!("{snapshot:?} is none of {now}..={latest}"));
            seen.insert(first);
            for at in names(first) {
                match content(&snapshot, &path(&at)) {
                    Ok(bytes) => {
                        assert_eq!(stamp(&bytes), Some(first), "{at}");
                        opened += 1;
                    }
                    Err(Error::Gone { .. } | Error::Changing { .. }) => break,
                    Err(error) => panic!("{at}: {error:?}"),
                }
            }
            if seen.len() >= SNAPSHOTS_MIN {
                enough.store(true, Ordering::Relaxed);
            }
        }
    });
    eprintln!("{} revisions seen, {opened} files opened, {gave_up} given up", seen.len());
    assert!(seen.len() >= SNAPSHOTS_MIN, "{} revisions, {gave_up} given up", seen.len());
    let hidden = fs::read_dir(top).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("..2026")
    });
    assert_eq!(hidden.count(), 1);
}

/// On memory, as Secrets are, so that updates are fast.
fn fast() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn snapshots_are_one_revision_while_kubelet_writes_at_full_speed() {
    race(fast().path(), None);
}

#[test]
fn snapshots_are_one_revision_while_kubelet_also_sets_groups() {
    if !rustix::process::geteuid().is_root() {
        testkit::skip("only root can give files to a group");
        return;
    }
    race(fast().path(), Some(2_000));
}
