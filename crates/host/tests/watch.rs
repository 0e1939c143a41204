//! Switches of thousands of volumes, each reported and nothing else.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use host::Error;
use host::watch::{Event, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use testkit::kubelet::{AtomicWriter, lay_out, payload};
use volumes::name::VolumeId;

fn id(name: &str) -> VolumeId {
    VolumeId::parse(name).unwrap()
}

/// Whether there is anything to read, now.
fn ready(watch: &Watch) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

/// Everything until the queue is empty, as the batches it came in.
fn drain(watch: &mut Watch, buffer: &mut [u8]) -> Vec<Vec<Event>> {
    let mut batches = Vec::new();
    while ready(watch) {
        batches.push(watch.read(buffer).unwrap());
    }
    batches
}

fn events(watch: &mut Watch) -> Vec<Event> {
    drain(watch, &mut [0; 65_536]).concat()
}

/// A volume of one file, which each call replaces.
struct Scene {
    top: tempfile::TempDir,
    generation: u64,
}

impl Scene {
    fn set() -> Self {
        Self { top: tempfile::tempdir().unwrap(), generation: 0 }
    }

    fn volume(&self, name: &str) -> std::path::PathBuf {
        let path = self.top.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn switch(&mut self, name: &str) {
        self.generation += 1;
        let writer = AtomicWriter::new(self.volume(name)).unwrap();
        assert!(writer.write(&payload(self.generation, &["a", "b"])).unwrap());
    }
}

#[test]
fn a_thousand_switches_among_three_thousand_volumes_are_all_reported() {
    let top = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let laid_out = lay_out(top.path(), 375, 8, &["a"]).unwrap();
    let mut watch = Watch::new().unwrap();
    let ids: Vec<_> =
        laid_out.iter().map(|volume| id(&format!("{}.{}", volume.pod_uid, volume.name))).collect();
    for (id, volume) in ids.iter().zip(&laid_out) {
        watch.add(id, volume.writer.target()).unwrap();
    }
    assert_eq!(watch.len(), 3_000);
    assert!(!ready(&watch), "nothing happened yet");
    assert!(watch.read(&mut [0; 4_096]).unwrap().is_empty());

    // Also with a buffer that holds one event at a time.
    let mut buffers = [vec![0; 65_536], vec![0; Watch::BUFFER_BYTES_MIN]];
    for (generation, buffer) in (1..).zip(&mut buffers) {
        let mut expected = BTreeSet::new();
        for index in (0..3_000).step_by(3) {
            laid_out[index].writer.write(&payload(generation, &["a", "new"])).unwrap();
            expected.insert(Event::Changed(ids[index].clone()));
        }
        let batches = drain(&mut watch, buffer);
        for batch in &batches {
            let once: BTreeSet<_> = batch.iter().collect();
            assert_eq!(once.len(), batch.len(), "coalesced within a batch");
        }
        let reported = batches.concat();
        assert_eq!(reported.iter().cloned().collect::<BTreeSet<_>>(), expected);
        assert_eq!(reported.len(), 1_000, "each once");
        // What is written again unchanged is not even a wake-up.
        for volume in laid_out.iter().step_by(3) {
            assert!(!volume.writer.write(&payload(generation, &["a", "new"])).unwrap());
        }
        assert!(!ready(&watch));
    }
}

#[test]
fn nothing_but_the_switch_is_reported() {
    let mut scene = Scene::set();
    let at = scene.volume("v");
    let mut watch = Watch::new().unwrap();
    watch.add(&id("v"), &at).unwrap();
    fs::create_dir(at.join("..2026")).unwrap();
    symlink("..2026", at.join("..data_tmp")).unwrap();
    fs::write(at.join("..2026/a"), "x").unwrap();
    symlink("..data/a", at.join("a")).unwrap();
    fs::write(at.join("..2026/..data"), "x").unwrap();
    assert_eq!(events(&mut watch), []);
    fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    assert_eq!(events(&mut watch), [Event::Changed(id("v"))]);
    fs::rename(at.join("..data"), at.join("..other")).unwrap();
    assert_eq!(events(&mut watch), []);
    for _ in 0..5 {
        scene.switch("v");
    }
    assert_eq!(events(&mut watch), [Event::Changed(id("v"))], "coalesced");
    // The first revision is a switch like any other.
    let at = scene.volume("w");
    watch.add(&id("w"), &at).unwrap();
    scene.switch("w");
    assert_eq!(events(&mut watch), [Event::Changed(id("w"))]);
}

#[test]
fn a_volume_that_vanishes_is_gone_and_can_come_back() {
    let mut scene = Scene::set();
    let mut watch = Watch::new().unwrap();
    let vanish: [fn(&Path); 3] = [
        |at| fs::remove_dir_all(at).unwrap(),
        |at| fs::rename(at, at.with_extension("deleting")).unwrap(),
        |at| fs::rename(at, at.with_extension("deleting2")).unwrap(),
    ];
    for vanish in vanish {
        let at = scene.volume("v");
        watch.add(&id("v"), &at).unwrap();
        scene.switch("v");
        vanish(&at);
        assert_eq!(events(&mut watch), [Event::Gone(id("v"))], "and not also changed");
        assert!(watch.is_empty());
        assert!(matches!(watch.add(&id("v"), &at), Err(Error::Gone { .. })));
        assert!(!watch.remove(&id("v")));
    }
    // Removed and made again before anybody looked.
    let at = scene.volume("v");
    watch.add(&id("v"), &at).unwrap();
    fs::remove_dir_all(&at).unwrap();
    scene.volume("v");
    watch.add(&id("v"), &at).unwrap();
    scene.switch("v");
    assert_eq!(events(&mut watch), [Event::Changed(id("v"))]);
}

#[test]
fn a_volume_that_is_mounted_over_or_unmounted_is_followed() {
    let mut scene = Scene::set();
    let at = scene.volume("v");
    let mut watch = Watch::new().unwrap();
    watch.add(&id("v"), &at).unwrap();
    if let Err(errno) = mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None) {
        testkit::skip(format!("cannot mount here: {errno}"));
        return;
    }
    scene.switch("v");
    let unseen = events(&mut watch);
    watch.add(&id("v"), &at).unwrap();
    scene.switch("v");
    let seen = events(&mut watch);
    let unmounted = unmount(&at, UnmountFlags::empty());
    assert_eq!(unmounted, Ok(()), "watching keeps no mount busy");
    assert_eq!(unseen, [], "the directory below was watched");
    assert_eq!(seen, [Event::Changed(id("v"))]);
    assert_eq!(events(&mut watch), [Event::Gone(id("v"))]);
}

#[test]
fn what_was_removed_is_not_reported() {
    let mut scene = Scene::set();
    let mut watch = Watch::new().unwrap();
    for name in ["v", "w"] {
        watch.add(&id(name), &scene.volume(name)).unwrap();
    }
    scene.switch("v");
    assert!(watch.remove(&id("v")));
    assert!(!watch.remove(&id("v")));
    scene.switch("v");
    scene.switch("w");
    fs::remove_dir_all(scene.volume("v")).unwrap();
    assert_eq!(events(&mut watch), [Event::Changed(id("w"))]);
}

#[test]
fn two_names_of_one_directory_are_both_told() {
    let mut scene = Scene::set();
    let at = scene.volume("v");
    let mut watch = Watch::new().unwrap();
    watch.add(&id("one"), &at).unwrap();
    watch.add(&id("two"), &at).unwrap();
    watch.add(&id("two"), &at).unwrap();
    scene.switch("v");
    assert_eq!(events(&mut watch), [Event::Changed(id("one")), Event::Changed(id("two"))]);
    watch.remove(&id("one"));
    scene.switch("v");
    assert_eq!(events(&mut watch), [Event::Changed(id("two"))]);
    // A name that moved to another directory is told of that one only.
    let other = scene.volume("other");
    watch.add(&id("two"), &other).unwrap();
    scene.switch("v");
    assert_eq!(events(&mut watch), []);
    scene.switch("other");
    assert_eq!(events(&mut watch), [Event::Changed(id("two"))]);
}

#[test]
fn only_directories_are_watched() {
    let scene = Scene::set();
    let at = scene.volume("v");
    symlink(&at, scene.top.path().join("link")).unwrap();
    fs::write(scene.top.path().join("file"), "").unwrap();
    let mut watch = Watch::new().unwrap();
    for name in ["link", "file", "file/below"] {
        let added = watch.add(&id("v"), &scene.top.path().join(name));
        assert!(matches!(added, Err(Error::Layout { .. })), "{name}: {added:?}");
    }
    let added = watch.add(&id("v"), &at.join("nothing"));
    assert!(matches!(added, Err(Error::Gone { .. })), "{added:?}");
    assert!(watch.is_empty());
}

#[test]
fn a_full_queue_is_an_overflow_and_the_watch_goes_on() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: u64 = limit.trim().parse().unwrap();
    if limit > 100_000 {
        testkit::skip(format!("fs.inotify.max_queued_events is {limit}, too many to fill"));
        return;
    }
    let mut scene = Scene::set();
    scene.top = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (full, after) = (scene.volume("full"), scene.volume("after"));
    let mut watch = Watch::new().unwrap();
    watch.add(&id("full"), &full).unwrap();
    watch.add(&id("after"), &after).unwrap();
    scene.switch("full");
    for index in 0..=limit {
        fs::write(full.join(index.to_string()), "").unwrap();
    }
    scene.switch("after");
    assert_eq!(events(&mut watch), [Event::Changed(id("full")), Event::Overflow]);
    scene.switch("after");
    assert_eq!(events(&mut watch), [Event::Changed(id("after"))]);
}
