//! The program, killed at every system call by which it changes or tells anything: SPECIFICATION P2
//! and P6. Restarted, it ends in exactly what kubelet has, and nothing is left over.
//! `SEALIFT_KILLS=all` takes every step.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest::policy::Policy;
use guest::server::{Limits, Server};
use host::api::{Answer, Request, ask};
use link::listen::{Address, Listener};
use publish::volumes::PlainDirectories;
use rustix::process::Signal;
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, make_volume, payload, pod_uid};
use testkit::steps::{
    Step, confined_calls, counting, numbering, signal_traced, spread, steps, strace, strace_works,
};

const WAIT_SECONDS: u64 = 30;

/// Every call that makes, changes or removes something, or says something to somebody.
const CALLS: [&str; 18] = [
    "mkdir",
    "mkdirat",
    "openat",
    "openat2",
    "write",
    "writev",
    "sendto",
    "sendmsg",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "bind",
    "connect",
    "inotify_add_watch",
    "inotify_rm_watch",
    "clone3",
    "flock",
];

/// Killed when the test forgets it.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node on which three volumes are attached and one is about to be, and a guest that lives on.
struct World {
    dir: TempDir,
    writers: BTreeMap<&'static str, AtomicWriter>,
}

impl World {
    /// The agent was killed; since then kubelet has written.
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = dir.path().join("guest");
        let mounter = Box::new(PlainDirectories::prepare(&root, None).unwrap());
        let options = publish::volumes::Options { grace: Duration::ZERO, ..Default::default() };
        let agent = guest::agent::Agent::open(&root, Policy::default(), options, mounter).unwrap();
        let agent = Arc::new(Mutex::new(agent));
        guest::agent::spawn_keeper(&agent).unwrap();
        let listener = Listener::bind(&Address::Unix(dir.path().join("guest.sock")), None).unwrap();
        let server = Server::new(agent, Limits::default());
        std::thread::spawn(move || server.run(&listener));
        let make = |name| {
            let volume = make_volume(&dir.path().join("kubelet"), &pod_uid(1), "secret", name);
            (name, volume.unwrap().writer)
        };
        let writers = BTreeMap::from(["changed", "gone", "new", "same"].map(make));
        for writer in writers.values() {
            writer.write(&payload(1, &["a", "b/c"])).unwrap();
        }
        let world = Self { dir, writers };
        let mut program = world.start(Command::new(env!("CARGO_BIN_EXE_sealift-host")));
        for name in ["changed", "gone", "same"] {
            assert!(world.say(&mut program, &world.attach(name)).is_some());
        }
        drop(program);
        world.writers["changed"].write(&payload(2, &["a", "d"])).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `command` is the program, or strace with the program as its argument.
    fn start(&self, mut command: Command) -> Program {
        command.arg("--socket").arg(self.path("host.sock"));
        command.arg("run").arg("--kubelet-root").arg(self.path("kubelet"));
        command.arg("--state-dir").arg(self.path("state"));
        Program(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn attach(&self, name: &str) -> Request {
        Request::Attach {
            guest: format!("unix:{}", self.path("guest.sock").display()),
            pod: None,
            path: Some(self.writers[name].target().to_path_buf()),
            wait_seconds: WAIT_SECONDS,
        }
    }

    /// The answer, as soon as there is one. `None`: the program ended.
    fn say(&self, program: &mut Program, request: &Request) -> Option<Answer> {
        loop {
            if let Ok(answer) = ask(&self.path("host.sock"), request) {
                return Some(answer);
            }
            if program.0.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One volume comes, one goes, all are current. `None`: the program ended.
    fn update(&self, program: &mut Program) -> Option<()> {
        let gone = format!("{}.gone", pod_uid(1));
        let sync = Request::Sync { volume: None, wait_seconds: WAIT_SECONDS };
        self.succeeds(program, &self.attach("new"))?;
        // Failing means that it is done already.
        self.say(program, &Request::Detach { pod: None, volume: Some(gone) })?;
        self.succeeds(program, &sync)
    }

    fn succeeds(&self, program: &mut Program, request: &Request) -> Option<()> {
        match self.say(program, request)? {
            Answer::Failed { what, .. } => panic!("{what}"),
            _ => Some(()),
        }
    }

    /// That the guest has what kubelet has, and that nothing else is anywhere.
    fn is_exact(&self) {
        let volumes = self.path("guest/volumes");
        let id = |name: &str| format!("{}.{name}", pod_uid(1));
        assert_eq!(names(&volumes), ["changed", "new", "same"].map(id).into());
        assert_eq!(names(&self.path("guest/new")), BTreeSet::new());
        for name in ["changed", "new", "same"] {
            let volume = volumes.join(id(name));
            assert_eq!(visible(&volume.join("data")), visible(self.writers[name].target()));
            assert_eq!(names(&volume.join("staging")), BTreeSet::new());
        }
        assert_eq!(names(&self.path("state")), ["attached.json".to_owned()].into());
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Path and content of each file below a volume's visible names.
fn visible(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![data.join("..data")]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pending.push(path),
                false => {
                    let name = path.strip_prefix(data).unwrap().to_path_buf();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
    }
    found
}

/// Runs the program below strace up to its end or its kill, then as it is. False: not killed.
fn killed(world: &World, arguments: &[String]) -> bool {
    let mut traced = strace(arguments);
    traced.arg(env!("CARGO_BIN_EXE_sealift-host"));
    let mut program = world.start(traced);
    let killed = world.update(&mut program).is_none();
    if !killed {
        signal_traced(&program.0, Signal::KILL);
    }
    program.0.wait().unwrap();
    let mut program = world.start(Command::new(env!("CARGO_BIN_EXE_sealift-host")));
    assert!(world.update(&mut program).is_some(), "it goes on");
    world.is_exact();
    killed
}

#[test]
fn the_agents_work_makes_no_call_that_is_not_on_its_list() {
    if !strace_works() {
        return;
    }
    let world = World::new();
    let trace = world.path("trace");
    let mut traced = strace(&numbering(&trace));
    traced.arg(env!("CARGO_BIN_EXE_sealift-host"));
    let mut program = world.start(traced);
    assert!(world.update(&mut program).is_some());
    signal_traced(&program.0, Signal::KILL);
    program.0.wait().unwrap();
    let made = confined_calls(&trace);
    for call in [libc::SYS_inotify_add_watch, libc::SYS_accept4, libc::SYS_flock] {
        assert!(made.contains(&call), "{made:?}");
    }
}

#[test]
fn a_kill_at_any_call_loses_nothing() {
    if !strace_works() {
        return;
    }
    let world = World::new();
    let trace = world.path("trace");
    assert!(!killed(&world, &counting(&CALLS, &trace)));
    let all = steps(&trace);
    let (count, mut kills) = (all.len(), 0);
    for step in spread(all, 60) {
        let Step { call, n } = &step;
        println!("{call} {n}");
        kills += usize::from(killed(&World::new(), &step.arguments()));
    }
    println!("{kills} kills of {count} steps");
    assert!(kills >= 30, "only {kills}");
}
