//! Volumes in containers that a real runtime, `runc`, makes with `sealift-guest hook`: mounted
//! read-only, shared by several, and current while they run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{conversation, say, volume};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use volumes::name::{Category, VolumeId};

const PATIENCE: Duration = Duration::from_secs(60);
const GUEST: &str = env!("CARGO_BIN_EXE_sealift-guest");

/// What every container runs: says what it reads until that is `two`, then how it is mounted and
/// whether it can be written.
const SCRIPT: &str = r#"
said=
i=0
while [ $i -lt 6000 ]; do
  now=$(cat /etc/db/key)
  if [ "$now" != "$said" ]; then echo "read $now"; said=$now; fi
  [ "$now" = two ] && break
  i=$((i + 1)); sleep 0.01
done
while read -r _ _ _ _ at flags _; do [ "$at" = /etc/db ] && echo "flags $flags"; done < /proc/self/mountinfo
( : > /etc/db/planted ) 2>/dev/null && echo written
echo over
"#;

/// A guest agent, and runc with containers of its own.
struct World {
    dir: TempDir,
    agent: Child,
}

impl World {
    /// `None`, having said why: containers cannot be made here.
    fn new() -> Option<Self> {
        let skip = |why: &str| {
            testkit::skip(why);
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("making containers takes root");
        }
        if Command::new("runc").arg("--version").output().is_err() {
            assert!(std::env::var_os("SEALIFT_TEST_STRICT").is_none(), "there is no runc");
            return skip("there is no runc");
        }
        let dir = tempfile::tempdir().unwrap();
        let agent = Command::new(GUEST)
            .args(["run", "--log-level", "warn", "--root"])
            .arg(dir.path().join("root"))
            .arg("--listen")
            .arg(format!("unix:{}", dir.path().join("socket").display()))
            .spawn()
            .unwrap();
        let world = Self { dir, agent };
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(world.socket()).is_err() {
            assert!(Instant::now() < until, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(world)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn publish(&self, volume: &VolumeId, sequence: u64, value: &str) {
        let messages =
            conversation(volume, Category::Secret, sequence, &[("key", value.as_bytes())]);
        let mut host = UnixStream::connect(self.socket()).unwrap();
        assert_eq!(say(&mut host, &messages), [None; 4]);
    }

    /// A bundle whose programs are those of this machine, read-only.
    fn bundle(&self, name: &str, annotation: &str) -> PathBuf {
        let bundle = self.dir.path().join(name);
        let rootfs = bundle.join("rootfs");
        for directory in ["usr", "proc", "etc", "dev"] {
            fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        for link in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), rootfs.join(link)).unwrap();
        }
        let hook = [GUEST, "hook", "--wait", "1", "--root"].map(String::from);
        let hook = [&hook[..], &[self.root().display().to_string()]].concat();
        let namespaces =
            ["pid", "mount", "ipc", "uts"].map(|kind| serde_json::json!({"type": kind}));
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 1000, "gid": 1000},
                "args": ["/bin/sh", "-c", SCRIPT],
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "annotations": {"volumes.sealift.dev/db": annotation},
            "hooks": {"createContainer": [{"path": GUEST, "args": hook}]},
            "linux": {"namespaces": namespaces},
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    fn run(&self, bundle: &Path) -> Container {
        let name = format!(
            "sealift-{}-{}",
            std::process::id(),
            bundle.file_name().unwrap().to_str().unwrap()
        );
        let mut runc = Command::new("runc")
            .arg("--root")
            .arg(self.dir.path().join("runc"))
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(name)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(runc.stdout.take().unwrap());
        Container { runc, lines }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        for point in points.filter(|point| point.starts_with(self.dir.path())).rev() {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

struct Container {
    runc: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Container {
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut why = String::new();
            self.runc.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("the container has ended: {why}");
        }
        line.trim_end().to_owned()
    }
}

#[test]
fn containers_that_share_a_volume_see_it_rotate_and_cannot_write_it() {
    let Some(world) = World::new() else { return };
    let db = volume("pod.db");
    world.publish(&db, 1, "one");
    // Their hooks run at the same time, with the same process ids.
    let bundles = ["a", "b", "c", "d"].map(|name| world.bundle(name, "pod.db=/etc/db"));
    let mut containers = bundles.map(|bundle| world.run(&bundle));
    for container in &mut containers {
        assert_eq!(container.line(), "read one");
    }
    world.publish(&db, 2, "two");
    for container in &mut containers {
        assert_eq!(container.line(), "read two");
        let flags = container.line();
        for flag in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(flags.strip_prefix("flags ").unwrap().split(',').any(|f| f == flag), "{flags}");
        }
        assert_eq!(container.line(), "over");
        assert!(container.runc.wait().unwrap().success());
    }
}

#[test]
fn a_container_whose_volume_has_not_come_does_not_start() {
    let Some(world) = World::new() else { return };
    let mut container = world.run(&world.bundle("none", "pod.none=/etc/db"));
    assert!(!container.runc.wait().unwrap().success());
    let mut why = String::new();
    container.runc.stderr.take().unwrap().read_to_string(&mut why).unwrap();
    assert!(why.contains("no volume pod.none is here yet"), "{why}");
    let left: Vec<_> = fs::read_dir(world.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_str().is_some_and(|name| name.starts_with("bind-")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// As somebody might who has taken the receiver over, and waits for root to mount it.
#[test]
fn a_link_in_a_volumes_place_is_mounted_nowhere() {
    let Some(world) = World::new() else { return };
    let (target, secret) = (world.dir.path().join("target"), world.dir.path().join("secret"));
    for directory in [&target, &secret, &world.root().join("volumes/evil")] {
        fs::create_dir(directory).unwrap();
    }
    symlink(&secret, world.root().join("volumes/evil/data")).unwrap();
    symlink("evil", world.root().join("volumes/other")).unwrap();
    for name in ["evil", "other"] {
        let mut bind = Command::new(GUEST);
        let output =
            bind.args(["bind", "--root"]).arg(world.root()).arg(name).arg(&target).output();
        let output = output.unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(42) && why.contains("openat2"), "{why}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(target.to_str().unwrap()), "{mounts}");
}

/// Below systemd every mount is shared, and nothing can be moved away from a shared one.
#[test]
fn a_volume_is_bound_where_mounts_are_shared() {
    let Some(world) = World::new() else { return };
    let db = volume("pod.db");
    world.publish(&db, 1, "one");
    let target = world.dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let script = format!(
        "mount --make-rshared / && {GUEST} bind --root {root} pod.db {target} \
         && cat {target}/key && ls {root} && ! touch {target}/x 2>&1",
        root = world.root().display(),
        target = target.display(),
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{why}");
    assert!(text.starts_with("one"), "{text}");
    assert!(!text.contains("bind-"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
}
