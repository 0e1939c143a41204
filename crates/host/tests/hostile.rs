//! What may not be in a volume is refused, the whole of it, without following, opening or waiting.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use host::snapshot::Snapshot;
use host::{Error, Kind};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, payload};
use volumes::tree::Limits;

/// A volume with one revision; what is planted below `..data` is in it.
fn volume() -> TempDir {
    let top = tempfile::tempdir().unwrap();
    AtomicWriter::new(top.path()).unwrap().write(&payload(1, &["a", "conf/app/x.yaml"])).unwrap();
    Snapshot::of_volume(top.path(), Limits::MAX).unwrap();
    top
}

fn take(top: &TempDir) -> Result<Snapshot, Error> {
    Snapshot::of_volume(top.path(), Limits::MAX)
}

fn special(at: &Path, kind: FileType, device: u64) -> bool {
    match mknodat(CWD, at, kind, Mode::RUSR, device) {
        Ok(()) => true,
        Err(Errno::PERM) => {
            testkit::skip(format!("only root can make a {kind:?}"));
            false
        }
        Err(errno) => panic!("{errno}"),
    }
}

/// Puts something at a path. False: this user cannot.
type Plant = fn(&Path) -> bool;

const PLANTS: [(Kind, Plant); 9] = [
    (Kind::Symlink, |at| symlink("/etc/passwd", at).is_ok()),
    (Kind::Symlink, |at| symlink("/etc", at).is_ok()),
    (Kind::Symlink, |at| symlink("../a", at).is_ok()),
    (Kind::Symlink, |at| symlink(at, at).is_ok()),
    (Kind::Symlink, |at| symlink("nothing", at).is_ok()),
    (Kind::Fifo, |at| special(at, FileType::Fifo, 0)),
    (Kind::Socket, |at| special(at, FileType::Socket, 0)),
    // `full`, and a loop device.
    (Kind::CharacterDevice, |at| special(at, FileType::CharacterDevice, makedev(1, 7))),
    (Kind::BlockDevice, |at| special(at, FileType::BlockDevice, makedev(7, 0))),
];

#[test]
fn irregular_files_are_named_and_the_volume_refused() {
    for below in ["", "conf/", "conf/app/"] {
        for (expected, plant) in PLANTS {
            let top = volume();
            let name = format!("{below}planted");
            if !plant(&top.path().join("..data").join(&name)) {
                continue;
            }
            for result in [take(&top), Snapshot::of_directory(top.path(), Limits::MAX)] {
                let Err(Error::Irregular { path, kind }) = result else { panic!("{result:?}") };
                assert_eq!((path, kind), (name.clone(), expected));
            }
        }
    }
    let top = volume();
    let _listening = UnixListener::bind(top.path().join("..data/socket")).unwrap();
    assert!(matches!(take(&top), Err(Error::Irregular { kind: Kind::Socket, .. })));
}

#[test]
fn what_is_beside_the_revision_does_not_matter() {
    let top = volume();
    let before = take(&top).unwrap().into_tree();
    symlink("/etc/passwd", top.path().join("planted")).unwrap();
    symlink("/etc/passwd", top.path().join("..data_tmp")).unwrap();
    mknodat(CWD, top.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    fs::create_dir(top.path().join("..2026_old")).unwrap();
    assert_eq!(take(&top).unwrap().into_tree(), before);
}

#[test]
fn another_mount_in_a_volume_is_refused() {
    let top = volume();
    let outside = tempfile::tempdir_in(top.path().parent().unwrap()).unwrap();
    fs::write(outside.path().join("secret"), "not yours").unwrap();
    for (at, from) in [("conf", outside.path().to_path_buf()), ("a", outside.path().join("secret"))]
    {
        // Of the same file system, so that only the mount differs.
        let at = top.path().join("..data").join(at);
        if let Err(errno) = mount_bind(&from, &at) {
            testkit::skip(format!("cannot mount here: {errno}"));
            return;
        }
        let result = take(&top);
        unmount(&at, UnmountFlags::DETACH).unwrap();
        assert!(matches!(result, Err(Error::Irregular { kind: Kind::Mount, .. })), "{result:?}");
    }
    // A revision that is a mount.
    let revision = top.path().join(fs::read_link(top.path().join("..data")).unwrap());
    mount("tmpfs", &revision, "tmpfs", MountFlags::empty(), None).unwrap();
    let result = take(&top);
    unmount(&revision, UnmountFlags::DETACH).unwrap();
    assert!(matches!(result, Err(Error::Layout { .. })), "{result:?}");
    take(&top).unwrap();
}

#[test]
fn a_volume_that_is_itself_a_mount_is_read() {
    let top = tempfile::tempdir().unwrap();
    if let Err(errno) = mount("tmpfs", top.path(), "tmpfs", MountFlags::empty(), None) {
        testkit::skip(format!("cannot mount here: {errno}"));
        return;
    }
    AtomicWriter::new(top.path()).unwrap().write(&payload(1, &["a"])).unwrap();
    let result = take(&top);
    // Held, it would keep kubelet from this.
    let busy = unmount(top.path(), UnmountFlags::empty());
    let read = result.map(Snapshot::into_tree);
    let free = unmount(top.path(), UnmountFlags::empty());
    assert_eq!((busy, free), (Err(Errno::BUSY), Ok(())));
    assert_eq!(read.unwrap().nodes().len(), 1);
}

#[test]
fn data_must_point_to_a_revision_in_the_volume() {
    type Change = fn(&Path);

    let targets = [
        "../..",
        "..",
        ".",
        "/",
        "/etc",
        "..data",
        "./..data",
        "a",
        "conf",
        "..2026/x",
        "..2026/",
        "...",
        "..nothing",
        "..file",
        "..link",
        "..fifo",
        "..data/",
        "../2026",
    ];
    for target in targets {
        let top = volume();
        fs::remove_file(top.path().join("..data")).unwrap();
        fs::create_dir(top.path().join("..2026")).unwrap();
        fs::write(top.path().join("..file"), "").unwrap();
        symlink("/etc", top.path().join("..link")).unwrap();
        mknodat(CWD, top.path().join("..fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        symlink(target, top.path().join("..data")).unwrap();
        for result in [take(&top), Snapshot::of_directory(top.path(), Limits::MAX)] {
            assert!(matches!(result, Err(Error::Layout { .. })), "{target}: {result:?}");
        }
    }
    let instead: [Change; 3] = [
        |at| fs::create_dir(at).unwrap(),
        |at| fs::write(at, "").unwrap(),
        |at| mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap(),
    ];
    for change in instead {
        let top = volume();
        let data = top.path().join("..data");
        fs::remove_file(&data).unwrap();
        change(&data);
        assert!(matches!(take(&top), Err(Error::Layout { .. })));
    }
}

#[test]
fn the_volume_itself_is_no_link_and_no_file() {
    let top = volume();
    let beside = tempfile::tempdir().unwrap();
    let link = beside.path().join("link");
    symlink(top.path(), &link).unwrap();
    let file = beside.path().join("file");
    fs::write(&file, "").unwrap();
    let fifo = beside.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    for path in [link, file, fifo] {
        for result in
            [Snapshot::of_volume(&path, Limits::MAX), Snapshot::of_directory(&path, Limits::MAX)]
        {
            assert!(matches!(result, Err(Error::Layout { .. })), "{path:?}: {result:?}");
        }
    }
}

#[test]
fn names_and_modes_that_break_a_rule_are_refused() {
    let names: [&[u8]; 7] =
        [b"a\nb", b"\xff\xfe", b"a\x1b[2J", b"..hidden", b"\x7f", b"a\r", "a\u{85}".as_bytes()];
    for name in names {
        let top = volume();
        fs::write(top.path().join("..data").join(OsStr::from_bytes(name)), "").unwrap();
        let Err(error) = take(&top) else { panic!("{name:?}") };
        assert!(matches!(&error, Error::Refused { source: volumes::Error::Name { .. }, .. }));
        let shown = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
    for (name, mode) in
        [("a", 0o4755), ("a", 0o2755), ("a", 0o1644), ("conf", 0o1777), (".", 0o4755)]
    {
        let top = volume();
        let at = top.path().join("..data").join(name);
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
        let refused = take(&top);
        let mode =
            matches!(refused, Err(Error::Refused { source: volumes::Error::Mode { .. }, .. }));
        assert!(mode, "{name}: {refused:?}");
    }
}

#[test]
fn a_tree_of_any_depth_is_refused_at_the_first_too_deep() {
    let top = volume();
    let mut at = openat(CWD, top.path().join("..data"), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..10_000 {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
    let refused = take(&top);
    // By the only means that copes with it, before anything can fail.
    let own = fs::File::open(top.path()).unwrap();
    publish::wipe(own.as_fd()).unwrap();
    let name = matches!(refused, Err(Error::Refused { source: volumes::Error::Name { .. }, .. }));
    assert!(name, "{refused:?}");
}

#[test]
fn sixteen_levels_are_read() {
    let top = volume();
    let deepest = ["d"; 16].join("/");
    AtomicWriter::new(top.path()).unwrap().write(&payload(2, &[&deepest])).unwrap();
    assert_eq!(take(&top).unwrap().tree().nodes().len(), 16);
    let (top, deeper) = (volume(), ["d"; 17].join("/"));
    AtomicWriter::new(top.path()).unwrap().write(&payload(2, &[&deeper])).unwrap();
    assert!(matches!(take(&top), Err(Error::Refused { .. })));
}
