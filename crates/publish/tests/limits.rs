//! Space, inodes, memory and kinds of filesystem: SPECIFICATION P5. Real mounts where the tests may
//! mount, stand-in trees for what the kernel says of itself.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::{Unwinding, describe, fill, memory, run, run_under};
use publish::{Bound, Destination, Error, Filesystem, MEMORY_SLACK_BYTES, Policy, System};
use rustix::fs::{major, minor};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use testkit::kills::{Shape, check, rerun, shapes};
use testkit::oracle::{Model, State};

/// A filesystem of its own.
struct Mount {
    path: PathBuf,
    _top: tempfile::TempDir,
}

impl Mount {
    /// `None`: this process may not mount.
    fn new(kind: &str, options: &str) -> Option<Self> {
        let top = tempfile::tempdir_in(memory()).unwrap();
        let path = top.path().join("mount");
        fs::create_dir(&path).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        match mount("none", &path, kind, MountFlags::NOSUID, Some(options.as_c_str())) {
            Ok(()) => Some(Self { path, _top: top }),
            Err(errno) => {
                testkit::skip(format!("may not mount: {errno}"));
                None
            }
        }
    }

    fn resize(&self, options: &str) {
        mount_remount(&self.path, MountFlags::NOSUID, options).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn shape(name: &str) -> Shape {
    shapes().into_iter().find(|shape| shape.name == name).unwrap()
}

/// From nothing to more than enough in the smallest steps. With the preflight a run either is
/// refused before it begins or succeeds; without, it may also fail midway, and cleans up.
fn sweep(first: u64, step: u64, option: impl Fn(u64) -> String, of: &Bound) {
    let shape = shape("first-nested-and-empty");
    let Some(mount) = Mount::new("tmpfs", &option(first)) else { return };
    let (mut refused, mut failed, mut done) = (0, 0, 0);
    while done < 5 {
        let limit = first + refused * step + done * step;
        for preflight in [true, false] {
            mount.resize(&option(limit));
            let destination = mount.path.join("destination");
            let result = match preflight {
                true => run(&destination, &shape.new, System::default()),
                false => Destination::open(&destination, &Policy::default()).and_then(|opened| {
                    let staging = opened.stage(&shape.new.plan())?;
                    match fill(&staging, &shape.new) {
                        Ok(()) => staging.publish(&shape.new.receipt()),
                        Err(error) => staging.discard().and(Err(error)),
                    }
                }),
            };
            let state = match &result {
                Ok(()) => State::New,
                Err(Error::TooSmall { need, have, of: found }) if preflight => {
                    assert!(found == of && need > have, "{limit}");
                    State::Absent
                }
                // Without inodes there may be no destination yet.
                Err(Error::Full { .. }) if !preflight || !destination.exists() => State::Absent,
                Err(error) => panic!("{limit}: {}", describe(error)),
            };
            let found = check(&destination, &shape).unwrap();
            assert_eq!((found.state, found.residue), (state, false), "{limit}");
            match (&result, preflight) {
                (Ok(()), true) => done += 1,
                (Ok(()), false) => {}
                (Err(_), true) => refused += 1,
                (Err(_), false) => failed += 1,
            }
            let _ = fs::remove_dir_all(&destination);
        }
    }
    println!("{of}: {refused} sizes refused, {failed} ran out midway");
    assert!(refused > 0 && failed > 0);
    // The preflight may ask for a little more than is needed in the end, not for much.
    assert!(refused - failed <= 8, "{refused} refused, but only {failed} failed");
}

#[test]
fn a_tmpfs_of_any_size_is_refused_or_enough() {
    sweep(4_096, 4_096, |bytes| format!("size={bytes}"), &Bound::Space);
}

#[test]
fn a_tmpfs_of_any_number_of_inodes_is_refused_or_enough() {
    sweep(2, 1, |inodes| format!("size=1m,nr_inodes={inodes}"), &Bound::Inodes);
}

#[test]
fn what_is_staged_needs_no_space_again() {
    let model = Model::new(1, &[("weights", 400 << 10)]);
    let Some(mount) = Mount::new("tmpfs", "size=480k") else { return };
    let destination = Destination::open(&mount.path, &Policy::default()).unwrap();
    let fresh = destination.preflight(&model.plan()).unwrap();
    let staging = destination.stage(&model.plan()).unwrap();
    fill(&staging, &model).unwrap();
    staging.keep();
    let resumed = destination.preflight(&model.plan()).unwrap();
    assert_eq!(fresh.need_bytes - resumed.need_bytes, 400 << 10);
    assert!(resumed.need_inodes < fresh.need_inodes);
    drop(destination);
    run(&mount.path, &model, System::default()).unwrap();
}

#[test]
fn a_new_model_that_does_not_fit_beside_the_old_one_leaves_it_alone() {
    let (old, new) = (Model::new(1, &[("w", 300 << 10)]), Model::new(2, &[("w", 300 << 10)]));
    let Some(mount) = Mount::new("tmpfs", "size=500k") else { return };
    run(&mount.path, &old, System::default()).unwrap();
    let result = run(&mount.path, &new, System::default());
    assert!(matches!(result, Err(Error::TooSmall { of: Bound::Space, .. })), "{result:?}");
    let shape = Shape { name: "fit", old: Some(old), new, hostile: false };
    let found = check(&mount.path, &shape).unwrap();
    assert_eq!((found.state, found.residue), (State::Old, false));
    mount.resize("size=800k");
    rerun(&Unwinding::IN_MEMORY, &mount.path, &shape).unwrap();
}

#[test]
fn other_mounts_inside_the_destination_are_not_entered() {
    let Some(mount) = Mount::new("tmpfs", "size=1m") else { return };
    let shape = shape("first");
    let staging = mount.path.join(".sealift-staging");
    fs::create_dir(&staging).unwrap();
    fs::create_dir(staging.join("inner")).unwrap();
    super_mount(&staging.join("inner"), || {
        fs::write(staging.join("inner/keep"), "keep").unwrap();
        let result = run(&mount.path, &shape.new, System::default());
        assert!(matches!(result, Err(Error::InTheWay { .. } | Error::Io { .. })), "{result:?}");
        assert_eq!(fs::read(staging.join("inner/keep")).unwrap(), b"keep");
    });
    rerun(&Unwinding::IN_MEMORY, &mount.path, &shape).unwrap();
}

fn super_mount(path: &Path, work: impl FnOnce()) {
    mount("none", path, "tmpfs", MountFlags::NOSUID, None).unwrap();
    work();
    unmount(path, UnmountFlags::DETACH).unwrap();
}

#[test]
fn ramfs_is_memory_without_limits() {
    let Some(mount) = Mount::new("ramfs", "") else { return };
    let destination = Destination::open(&mount.path, &Policy::default()).unwrap();
    assert_eq!(destination.filesystem(), Filesystem::Ramfs);
    let shape = shape("first");
    let found = destination.preflight(&shape.new.plan()).unwrap();
    assert_eq!((found.space, found.inodes), (None, None));
    drop(destination);
    rerun(&Unwinding::IN_MEMORY, &mount.path, &shape).unwrap();
}

/// A directory on a disk.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn a_disk_is_refused_before_anything_is_made_on_it() {
    let top = disk();
    let shape = shape("first");
    for path in ["new", "new/newer", ""] {
        let path = top.path().join(path);
        match run(&path, &shape.new, System::default()) {
            Err(error @ Error::NotMemoryBacked { .. }) => {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
    let allow = Policy { allow_disk: true };
    run_under(&top.path().join("new/newer"), &shape.new, System::default(), &allow).unwrap();
}

#[test]
fn an_encrypted_disk_is_known_by_its_device_mapper_uuid() {
    let top = disk();
    let device = fs::metadata(top.path()).unwrap().dev();
    let sys = tempfile::tempdir().unwrap();
    let dm = sys.path().join(format!("dev/block/{}:{}/dm", major(device), minor(device)));
    fs::create_dir_all(&dm).unwrap();
    let system = || System { sys: sys.path().into(), ..System::default() };
    let cases = [
        ("CRYPT-LUKS2-0123456789abcdef-name\n", true),
        ("CRYPT-LUKS1-0123456789abcdef-name\n", true),
        ("CRYPT-PLAIN-name\n", true),
        ("CRYPT-VERITY-0123456789abcdef-name\n", false),
        ("CRYPT-INTEGRITY-name\n", false),
        ("CRYPT-LUKS2-OPAL-0123456789abcdef-name\n", false),
        ("LVM-0123456789abcdef\n", false),
        ("xCRYPT-LUKS2-\n", false),
        ("", false),
    ];
    for (uuid, encrypted) in cases {
        fs::write(dm.join("uuid"), uuid).unwrap();
        let opened = Destination::open_with(top.path(), &Policy::default(), system());
        match opened {
            Ok(destination) => {
                assert!(encrypted, "{uuid}");
                assert_eq!(destination.filesystem(), Filesystem::DmCrypt);
                assert!(!destination.filesystem().is_memory());
            }
            Err(error) => assert!(!encrypted, "{uuid}: {error}"),
        }
    }
    // Published there, but never resumed from there.
    fs::write(dm.join("uuid"), cases[0].0).unwrap();
    let model = shape("first").new;
    let destination = Destination::open_with(top.path(), &Policy::default(), system()).unwrap();
    let staging = destination.stage(&model.plan()).unwrap();
    fill(&staging, &model).unwrap();
    staging.keep();
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
    assert_eq!(destination.stage(&model.plan()).unwrap().resumed_bytes(), 0);
    drop(destination);
    run(top.path(), &model, system()).unwrap();
}

/// A stand-in for `/proc/self/{cgroup,mountinfo}` and the trees that they name.
struct Cgroups(tempfile::TempDir);

impl Cgroups {
    fn new(own: &str, mounts: &[(&str, &str)]) -> Self {
        let top = tempfile::tempdir().unwrap();
        let proc = top.path().join("proc/self");
        fs::create_dir_all(&proc).unwrap();
        fs::write(proc.join("cgroup"), own).unwrap();
        let lines: String = mounts
            .iter()
            .enumerate()
            .map(|(n, (root, kind))| {
                let point = top.path().join("a mount").join(n.to_string());
                fs::create_dir_all(&point).unwrap();
                let point = point.to_str().unwrap().replace(' ', "\\040");
                format!("3{n} 24 0:2{n} {root} {point} rw,relatime shared:9 - {kind}\n")
            })
            .collect();
        fs::write(proc.join("mountinfo"), lines).unwrap();
        Self(top)
    }

    fn set(&self, mount: usize, cgroup: &str, files: &[(&str, &str)]) {
        let path = self.at(mount, cgroup);
        fs::create_dir_all(&path).unwrap();
        for (name, content) in files {
            fs::write(path.join(name), content).unwrap();
        }
    }

    fn at(&self, mount: usize, cgroup: &str) -> PathBuf {
        let path = self.0.path().join("a mount").join(mount.to_string());
        if cgroup.is_empty() { path } else { path.join(cgroup) }
    }

    fn preflight(&self, bytes: usize) -> Result<publish::Preflight, Error> {
        let top = tempfile::tempdir_in(memory()).unwrap();
        let system = System { proc: self.0.path().join("proc"), ..System::default() };
        Destination::open_with(top.path(), &Policy::default(), system)
            .unwrap()
            .preflight(&Model::new(1, &[("weights", bytes)]).plan())
    }

    fn available(&self) -> Option<(PathBuf, u64)> {
        self.preflight(1).unwrap().memory.map(|limit| (limit.by, limit.available))
    }
}

const V2: &str = "cgroup2 cgroup2 rw,nsdelegate";
const V1: &str = "cgroup cgroup rw,memory";
const MIB: u64 = 1 << 20;

#[test]
fn the_tightest_cgroup_of_version_2_counts() {
    let cgroups = Cgroups::new("0::/pods/pod1/init\n", &[("/", V2)]);
    assert_eq!(cgroups.available(), None);
    cgroups.set(0, "pods/pod1/init", &[("memory.max", "max\n"), ("memory.current", "1048576\n")]);
    assert_eq!(cgroups.available(), None);
    cgroups.set(0, "pods", &[("memory.max", "419430400\n"), ("memory.current", "104857600\n")]);
    assert_eq!(cgroups.available(), Some((cgroups.at(0, "pods"), 300 * MIB)));
    let stat = "anon 5\ninactive_file 10485760\nactive_file 1\n";
    cgroups.set(
        0,
        "pods/pod1",
        &[("memory.max", "209715200\n"), ("memory.current", "104857600\n"), ("memory.stat", stat)],
    );
    assert_eq!(cgroups.available(), Some((cgroups.at(0, "pods/pod1"), 110 * MIB)));
    // A limit lowered below the usage.
    cgroups.set(0, "pods/pod1/init", &[("memory.max", "0\n")]);
    let error = cgroups.preflight(1).unwrap_err();
    assert!(matches!(error, Error::TooSmall { have: 0, .. }), "{error}");
}

#[test]
fn the_tightest_cgroup_of_version_1_counts() {
    let own = "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n";
    let cgroups =
        Cgroups::new(own, &[("/", "cgroup cgroup rw,cpu"), ("/", V1), ("/", "cgroup2 cgroup2 rw")]);
    let unlimited = "9223372036854771712\n";
    cgroups.set(1, "", &[("memory.limit_in_bytes", unlimited), ("memory.usage_in_bytes", "5\n")]);
    assert_eq!(cgroups.available(), None);
    cgroups.set(
        1,
        "docker/abc",
        &[
            ("memory.limit_in_bytes", "104857600\n"),
            ("memory.usage_in_bytes", "20971520\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 10485760\n"),
        ],
    );
    assert_eq!(cgroups.available(), Some((cgroups.at(1, "docker/abc"), 90 * MIB)));
}

#[test]
fn a_container_sees_its_cgroup_at_the_top_of_the_mount() {
    // With a cgroup namespace, without one, and with a mount that is not even of our own.
    for (own, root) in [("/", "/"), ("/pods/x", "/pods/x"), ("/pods/x", "/pods/y"), ("/../x", "/")]
    {
        let cgroups = Cgroups::new(&format!("0::{own}\n"), &[(root, V2)]);
        cgroups.set(0, "", &[("memory.max", "104857600\n"), ("memory.current", "0\n")]);
        assert_eq!(cgroups.available(), Some((cgroups.at(0, ""), 100 * MIB)), "{own} {root}");
    }
    let cgroups = Cgroups::new("0::/pods/x/y\n", &[("/pods/x", V2)]);
    cgroups.set(0, "", &[("memory.max", "104857600\n"), ("memory.current", "0\n")]);
    cgroups.set(0, "y", &[("memory.max", "52428800\n"), ("memory.current", "0\n")]);
    assert_eq!(cgroups.available(), Some((cgroups.at(0, "y"), 50 * MIB)));
}

#[test]
fn a_model_is_refused_that_the_cgroup_has_no_memory_for() {
    let cgroups = Cgroups::new("0::/\n", &[("/", V2)]);
    let (size, bytes) = (8 << 20, 8 * MIB);
    let set = |limit: u64| {
        cgroups.set(0, "", &[("memory.max", &limit.to_string()), ("memory.current", "0")]);
    };
    set(u64::MAX >> 8);
    let need = cgroups.preflight(size).unwrap().need_bytes + MEMORY_SLACK_BYTES;
    assert!(need >= bytes + MEMORY_SLACK_BYTES && need < bytes + MEMORY_SLACK_BYTES + MIB);
    set(need);
    cgroups.preflight(size).unwrap();
    set(need - 1);
    match cgroups.preflight(size) {
        Err(Error::TooSmall { need: asked, have, of: Bound::Memory(cgroup) }) => {
            assert_eq!((asked, have, cgroup), (need, need - 1, cgroups.at(0, "")));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_machines_memory_is_a_limit_too() {
    let cgroups = Cgroups::new("0::/\n", &[("/", V2)]);
    cgroups.set(0, "", &[("memory.max", "104857600\n"), ("memory.current", "0\n")]);
    let meminfo = cgroups.0.path().join("proc/meminfo");
    fs::write(&meminfo, "MemTotal:  204800 kB\nMemAvailable:   51200 kB\n").unwrap();
    assert_eq!(cgroups.available(), Some((meminfo.clone(), 50 * MIB)));
    fs::write(&meminfo, "MemAvailable:   512000 kB\n").unwrap();
    assert_eq!(cgroups.available(), Some((cgroups.at(0, ""), 100 * MIB)));
}

#[test]
fn unreadable_or_senseless_cgroups_are_no_limit() {
    let system = System { proc: "/nonexistent".into(), ..System::default() };
    let top = tempfile::tempdir_in(memory()).unwrap();
    let destination = Destination::open_with(top.path(), &Policy::default(), system).unwrap();
    assert_eq!(destination.preflight(&Model::new(1, &[("a", 1)]).plan()).unwrap().memory, None);

    for own in ["", "\n", "0\n", "0:\n", "0::\n", "::\n", "x:y:z\n", "0::/a\n\0\n"] {
        let cgroups = Cgroups::new(own, &[("/", V2), ("", ""), ("/", "-")]);
        cgroups.set(0, "", &[("memory.max", "-5\n"), ("memory.current", "x\n")]);
        assert_eq!(cgroups.available(), None, "{own:?}");
    }
}
