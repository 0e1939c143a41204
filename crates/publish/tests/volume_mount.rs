//! Volumes that are filesystems of their own: what the mounts are like, that they are large enough
//! and no larger, and that containers keep what they have. SPECIFICATION P5.

#![allow(clippy::unwrap_used, reason = "a test")]

mod volume_common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use publish::volumes::{Error, Mounter, Options, Space, Store, Tmpfs};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use volume_common::{GRACE, Kind, Model, Place, current, exactly, id, other, publish, send};
use volumes::name::{Category, VolumeId};
use volumes::tree::Limits;

fn mounts() -> bool {
    Kind::available().contains(&Kind::Tmpfs)
}

/// The options of the mount at `path`: its own, then the filesystem's.
fn options(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == path.to_str())?;
    Some(line.split(' ').skip(5).collect::<Vec<_>>().join(" "))
}

#[test]
fn mounts_have_the_flags_of_their_category_and_a_size() {
    if !mounts() {
        return;
    }
    for category in Category::ALL {
        let (place, now) = (Place::new(), Instant::now());
        let mut store = Kind::Tmpfs.open(&place.root, None, now).unwrap();
        let limits = Limits { entries: 10, bytes: 1 << 20 };
        store.create(&id(), category, limits).unwrap();
        let model = Model::new(&[("a", "1")]);
        send(&mut store, &model).unwrap();
        store.commit(&id(), 1, &model.tree(), || now).unwrap();
        let volume = place.root.join("volumes").join(id().as_str());
        let found = options(&volume).unwrap();
        let flags: Vec<&str> = found.split(' ').next().unwrap().split(',').collect();
        assert!(flags.contains(&"nosuid") && flags.contains(&"nodev"), "{found}");
        assert_eq!(flags.contains(&"noexec"), !category.may_run(false), "{category}: {found}");
        let space = Space::of(limits, 3);
        assert!(found.contains(&format!("size={}k", space.bytes / 1024)), "{found}");
        assert!(found.contains(&format!("nr_inodes={}", space.inodes)), "{found}");
        if kernel_at_least(6, 4) {
            assert!(found.contains("noswap"), "{found}");
        }
        // Other limits, other size; the content stays.
        let limits = Limits { entries: 20, bytes: 2 << 20 };
        store.create(&id(), category, limits).unwrap();
        let found = options(&volume).unwrap();
        let size = format!("size={}k", Space::of(limits, 3).bytes / 1024);
        assert!(found.contains(&size) && found.contains("nosuid"), "{found}");
        assert_eq!(found.split(' ').next().unwrap().contains("noexec"), !category.may_run(false));
        assert_eq!(current(&place.data()).unwrap(), Some(model));
    }
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

#[test]
fn a_container_keeps_what_it_has_mounted_when_the_volume_is_removed() {
    if !mounts() {
        return;
    }
    let (place, now) = (Place::new(), Instant::now());
    let container = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut store = Kind::Tmpfs.open(&place.root, None, now).unwrap();
    let (old, new) = (Model::new(&[("a", "1")]), Model::new(&[("a", "2"), ("b", "3")]));
    publish(&mut store, &old, 1, now).unwrap();
    mount_bind(place.data(), container.path()).unwrap();
    publish(&mut store, &new, 2, now).unwrap();
    let read = |name: &str| fs::read_to_string(container.path().join(name)).unwrap();
    assert_eq!((read("a"), read("b")), ("2".into(), "3".into()));
    store.remove(&id()).unwrap();
    assert_eq!((read("a"), read("b")), ("2".into(), "3".into()));
    assert_eq!(fs::read_dir(place.root.join("volumes")).unwrap().count(), 0);
    assert_eq!(options(&place.root.join("volumes").join(id().as_str())), None);
    // And another one of that name can be made.
    publish(&mut store, &old, 1, now).unwrap();
    exactly(&place, &old, 1).unwrap();
    assert_eq!(read("a"), "2");
    unmount(container.path(), UnmountFlags::DETACH).unwrap();
}

/// Whoever may write below the root, and may not mount, does not get somebody else's mount changed
/// or removed by putting links in the way.
#[test]
fn links_below_the_root_lead_no_mounter_astray() {
    if !mounts() {
        return;
    }
    let (place, other) = (Place::new(), Place::new());
    let mounter = Tmpfs::prepare(&place.root, None).unwrap();
    let victim = Tmpfs::prepare(&other.root, None).unwrap();
    let space = Space::of(Limits { entries: 10, bytes: 1 << 20 }, 3);
    victim.create(&id(), true, space).unwrap();
    victim.publish(&id()).unwrap();
    let victims = other.root.join("volumes");
    let before = options(&victims.join(id().as_str()));

    let smaller = Space { bytes: 4_096, inodes: 10 };
    std::os::unix::fs::symlink(victims.join(id().as_str()), place.root.join("new/link")).unwrap();
    let link = VolumeId::parse("link").unwrap();
    mounter.adjust(&link, false, smaller).unwrap_err();
    for name in ["volumes", "new"] {
        fs::rename(place.root.join(name), place.root.join(format!("{name}.away"))).unwrap();
        std::os::unix::fs::symlink(&victims, place.root.join(name)).unwrap();
    }
    mounter.adjust(&id(), false, smaller).unwrap_err();
    mounter.remove(&id()).unwrap();
    // With a mount of that name of its own, it is its own that goes.
    mounter.create(&id(), true, space).unwrap();
    mounter.remove(&id()).unwrap();
    assert!(before.is_some());
    assert_eq!(options(&victims.join(id().as_str())), before);
}

/// A mounter that gives every volume the same room.
#[derive(Debug)]
struct Cramped(Tmpfs, Space);

impl Mounter for Cramped {
    fn create(&self, id: &VolumeId, may_run: bool, _: Space) -> Result<(), Error> {
        self.0.create(id, may_run, self.1)
    }
    fn adjust(&self, id: &VolumeId, may_run: bool, _: Space) -> Result<(), Error> {
        self.0.adjust(id, may_run, self.1)
    }
    fn publish(&self, id: &VolumeId) -> Result<(), Error> {
        self.0.publish(id)
    }
    fn tidy(&self, id: &VolumeId) -> Result<(), Error> {
        self.0.tidy(id)
    }
    fn is_published(&self, id: &VolumeId) -> Result<bool, Error> {
        self.0.is_published(id)
    }
    fn remove(&self, id: &VolumeId) -> Result<(), Error> {
        self.0.remove(id)
    }
}

/// From too little to enough in the smallest steps: a volume that is full keeps its old revision,
/// and has all its room back afterwards.
fn sweep(space: impl Fn(u64) -> Space) {
    if !mounts() {
        return;
    }
    let (mut full_first, mut full_second, mut done) = (0, 0, 0);
    let content = |byte: u8| vec![byte; 10_000];
    let model = |byte| {
        let model = Model::new(&[("d/e", "small")]);
        let model = model.with("a", &content(byte), 0o644, other());
        model.with("b", &content(byte + 1), 0o600, other()).with(
            &"l".repeat(200),
            b"x",
            0o600,
            other(),
        )
    };
    let (old, mut new) = (model(b'1'), model(b'3'));
    new.add("n/e/w", b"nested", 0o644, other());
    new.add(&"m".repeat(200), b"another link that takes a page", 0o644, other());
    for amount in 1.. {
        let (place, now) = (Place::new(), Instant::now());
        let tmpfs = Tmpfs::prepare(&place.root, None).unwrap();
        let mounter = Box::new(Cramped(tmpfs, space(amount)));
        let options = Options { grace: GRACE, ..Options::default() };
        let mut store = Store::open(&place.root, options, mounter, now).unwrap();
        let is_full = |result: &Result<_, Error>| match result {
            Ok(_) => false,
            Err(Error::Full(_)) => true,
            Err(other) => panic!("{amount}: {other:?}"),
        };
        if is_full(&publish(&mut store, &old, 1, now)) {
            assert!(!place.data().exists(), "{amount}");
            full_first += 1;
            continue;
        }
        if is_full(&publish(&mut store, &new, 2, now)) {
            full_second += 1;
            store.discard(&id()).unwrap();
            exactly(&place, &old, 1).map_err(|e| format!("{amount}: {e}")).unwrap();
        } else {
            assert_eq!(store.expire(now + GRACE).next, None);
            exactly(&place, &new, 2).map_err(|e| format!("{amount}: {e}")).unwrap();
            done += 1;
            if done == 3 {
                break;
            }
        }
    }
    println!("{full_first} too small for the first revision, {full_second} for the second");
    assert!(full_first > 3 && full_second > 3);
}

#[test]
fn a_full_tmpfs_keeps_the_old_revision() {
    sweep(|pages| Space { bytes: pages * 4_096, inodes: 1_000 });
}

#[test]
fn a_tmpfs_without_inodes_keeps_the_old_revision() {
    sweep(|inodes| Space { bytes: 1 << 20, inodes });
}

/// The room that is asked for is enough for what the limits allow, at its worst: every file ends
/// one byte after a page, every name takes a page for its link, every revision is another, and the
/// next one is staged while three live.
#[test]
fn the_room_is_enough_for_what_the_limits_allow() {
    if !mounts() {
        return;
    }
    let limits = Limits { entries: 40, bytes: 40 * 4_097 };
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Tmpfs.open(&place.root, None, now).unwrap();
    store.create(&id(), Category::Secret, limits).unwrap();
    let model = |sequence: u64| {
        let mut model = Model::new(&[]);
        for key in 0..40 {
            let name = format!("{}-{sequence}-{key}", "k".repeat(200));
            let content = [format!("{sequence}-{key}").as_bytes(), &[b'.'; 4_097]].concat();
            model.add(&name, &content[..4_097], 0o600, other());
        }
        model
    };
    for sequence in 1..=3 {
        send(&mut store, &model(sequence)).unwrap();
        store.commit(&id(), sequence, &model(sequence).tree(), || now).unwrap();
    }
    send(&mut store, &model(4)).unwrap();
    let soon = store.commit(&id(), 4, &model(4).tree(), || now + Duration::from_secs(1));
    assert!(matches!(soon, Err(Error::TooSoon { .. })), "{soon:?}");
    store.commit(&id(), 4, &model(4).tree(), || now + GRACE).unwrap();
    assert_eq!(store.expire(now + 2 * GRACE).next, None);
    exactly(&place, &model(4), 4).unwrap();
}

/// A service-account token is nothing to run, and a ConfigMap beside it may be.
#[test]
fn a_projected_volume_is_noexec_until_it_holds_something_to_run() {
    if !mounts() {
        return;
    }
    let (place, now) = (Place::new(), Instant::now());
    let limits = Limits { entries: 10, bytes: 1 << 20 };
    let volume = place.root.join("volumes").join(id().as_str());
    let noexec = || options(&volume).unwrap().split(' ').next().unwrap().contains("noexec");
    let mut store = Kind::Tmpfs.open(&place.root, None, now).unwrap();
    let commit = |store: &mut Store, sequence, mode| {
        let model = Model::new(&[("token", "t")]).with("run.sh", b"#!/bin/sh", mode, other());
        send(store, &model).unwrap();
        store.commit(&id(), sequence, &model.tree(), || now).unwrap();
        let _ = store.expire(now + GRACE);
    };
    store.create(&id(), Category::Projected, limits).unwrap();
    commit(&mut store, 1, 0o644);
    assert!(noexec());
    commit(&mut store, 2, 0o744);
    assert!(!noexec());
    // Whatever is said of its limits, and after a restart.
    drop(store);
    let mut store = Kind::Tmpfs.open(&place.root, None, now).unwrap();
    let larger = Limits { entries: 20, bytes: 2 << 20 };
    store.create(&id(), Category::Projected, larger).unwrap();
    assert!(!noexec());
    commit(&mut store, 3, 0o744);
    assert!(!noexec());
}
