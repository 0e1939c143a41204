//! The program itself: two processes, both confined, which live and die together.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use common::{answer, conversation, conversation_of, own, read, say, volume};
use guest::confine::{MOUNTER, RECEIVER};
use publish::volumes::Tmpfs;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use volumes::name::Category;
use volumes::wire::message::{DropRequest, HelloRequest, Message, VERSION};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sealift-guest");
const FIRST: &[(&str, &[u8])] = &[("user", b"app-1"), ("password", b"secret-1")];
const SECOND: &[(&str, &[u8])] = &[("user", b"app-2"), ("conf/new", b"key: value")];

/// A place for an agent, and the agents that were there.
struct World(TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    /// `None`, said aloud: nobody may mount here.
    fn with_mounts() -> Option<Self> {
        let world = Self::new();
        match Tmpfs::prepare(&world.root(), None) {
            Ok(_) => Some(world),
            Err(error) => {
                testkit::skip(format!("mounts: {error}"));
                None
            }
        }
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn data(&self, name: &str) -> PathBuf {
        self.root().join("volumes").join(name).join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let socket = self.0.path().join("socket");
        command.arg("run").arg("--root").arg(self.root());
        command.args(["--grace-ms", "0", "--listen"]).arg(format!("unix:{}", socket.display()));
        command.args(arguments).env_remove("SEALIFT_LOG").stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str]) -> Agent {
        Agent(Some(self.command(arguments).spawn().unwrap()))
    }

    /// A connection to the agent, which may still be starting.
    fn connect(&self, agent: &mut Agent) -> UnixStream {
        loop {
            if let Ok(mut stream) = UnixStream::connect(self.0.path().join("socket")) {
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                // A killed one's socket may still take a connection, and never answers.
                let hello = HelloRequest { version: VERSION, after: None }.encode();
                if std::io::Write::write_all(&mut stream, &common::frames(&[("Hello", hello)]))
                    .is_ok()
                    && answer(&mut stream).is_some_and(|answer| answer.is_ok())
                {
                    return stream;
                }
            }
            agent.still_runs();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn bring(&self, agent: &mut Agent, name: &str, sequence: u64, files: &[(&str, &[u8])]) {
        let messages = conversation(&volume(name), Category::Secret, sequence, files);
        self.say(agent, &messages);
    }

    /// Says a whole conversation on a connection of its own.
    fn say(&self, agent: &mut Agent, messages: &[(&str, Vec<u8>)]) {
        let refusals = say(&mut self.connect(agent), messages);
        assert!(refusals.iter().all(Option::is_none), "{refusals:?}");
    }

    fn shows(&self, name: &str, files: &[(&str, &[u8])]) {
        let files: BTreeMap<_, _> =
            files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect();
        assert_eq!(read(&self.data(name)), files);
    }

    fn drop_volume(&self, agent: &mut Agent, name: &str) {
        let hello = HelloRequest { version: VERSION, after: None }.encode();
        let request = DropRequest { volume: volume(name) }.encode();
        let messages = [("Hello", hello), ("Drop", request)];
        self.say(agent, &messages);
    }

    /// Where something is mounted below the root, and the names that are there.
    fn residue(&self) -> (Vec<String>, Vec<String>) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let prefix = format!("{}/", self.root().display());
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let mounts = points.filter_map(|point| point.strip_prefix(&prefix)).map(str::to_owned);
        let mut names = Vec::new();
        for place in ["new", "volumes"] {
            for entry in fs::read_dir(self.root().join(place)).unwrap() {
                names.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        (mounts.collect(), names)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.0.path())).rev() {
            let _ = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

/// One that was started; killed when the test forgets it.
struct Agent(Option<Child>);

impl Agent {
    fn id(&self) -> i32 {
        i32::try_from(self.0.as_ref().unwrap().id()).unwrap()
    }

    fn still_runs(&mut self) {
        let child = self.0.as_mut().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            let (_, said) = self.end();
            panic!("it ended, {status}: {said}");
        }
    }

    /// The process that it started.
    fn receiver(&self) -> i32 {
        let path = format!("/proc/{0}/task/{0}/children", self.id());
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Its end, awaited, and what it said.
    fn end(&mut self) -> (ExitStatus, String) {
        let mut child = self.0.take().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (child.wait().unwrap(), said)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kill(process: i32) {
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
}

/// Waits until a process that is not our child is gone, or waits for whoever should bury it.
fn gone(process: i32) {
    // Far longer than it takes: else it never ends.
    for _ in 0..12_000 {
        match fs::read_to_string(format!("/proc/{process}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    panic!("{process} goes on alone");
}

/// The lines of every thread's status that say how it is confined.
fn confinement(process: i32) -> Vec<BTreeMap<String, String>> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A connection's thread may end while we look.
    let status = |thread: PathBuf| {
        let text = fs::read_to_string(thread.join("status")).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        Some(lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    };
    threads.filter_map(|thread| status(thread.unwrap().path())).collect()
}

fn is_confined(process: i32, capabilities: u64, threads_min: usize) {
    let threads = confinement(process);
    assert!(threads.len() >= threads_min, "{}", threads.len());
    for status in threads {
        for (key, expected) in [
            ("CapInh", 0),
            ("CapPrm", capabilities),
            ("CapEff", capabilities),
            ("CapBnd", capabilities),
            ("CapAmb", 0),
        ] {
            assert_eq!(status[key], format!("{expected:016x}"), "{key} of {process}");
        }
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
    }
}

#[test]
fn a_volume_arrives_rotates_and_goes_with_both_processes_confined() {
    let Some(world) = World::with_mounts() else { return };
    let mut agent = world.start(&[]);
    world.bring(&mut agent, "v", 1, FIRST);
    world.shows("v", FIRST);
    is_confined(agent.id(), MOUNTER.bits(), 1);
    // Its first thread, the keeper and a listener.
    is_confined(agent.receiver(), RECEIVER.bits(), 3);
    assert_eq!(confinement(agent.receiver())[0]["Name"], "sealift-receive");
    world.bring(&mut agent, "v", 2, SECOND);
    world.shows("v", SECOND);
    assert_eq!(world.residue().0, ["volumes/v"]);
    world.drop_volume(&mut agent, "v");
    assert_eq!(world.residue(), (vec![], vec![]));
    agent.still_runs();
}

/// Owners and modes that only the four capabilities can give, and take away again.
#[test]
fn files_of_others_arrive_and_go() {
    let Some(world) = World::with_mounts() else { return };
    let mut agent = world.start(&[]);
    for (sequence, owner, files) in [(1, (1234, 4321), FIRST), (2, (1235, 4322), SECOND)] {
        let messages = conversation_of(owner, &volume("v"), Category::ConfigMap, sequence, files);
        world.say(&mut agent, &messages);
        world.shows("v", files);
        let metadata = fs::metadata(world.data("v").join("user")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), owner);
    }
    world.drop_volume(&mut agent, "v");
    assert_eq!(world.residue(), (vec![], vec![]));
}

#[test]
fn a_kill_of_either_ends_both_and_the_next_start_has_the_newest_revision() {
    for victim in ["mounter", "receiver"] {
        let Some(world) = World::with_mounts() else { return };
        let mut agent = world.start(&[]);
        world.bring(&mut agent, "v", 1, FIRST);
        world.bring(&mut agent, "v", 2, SECOND);
        // And one that has not got its first revision.
        let half = conversation(&volume("half"), Category::Secret, 1, FIRST);
        world.say(&mut agent, &half[..3]);
        // Half of the next one, too.
        let next = conversation(&volume("v"), Category::Secret, 3, FIRST);
        world.say(&mut agent, &next[..3]);

        let receiver = agent.receiver();
        match victim {
            "mounter" => kill(agent.id()),
            _ => kill(receiver),
        }
        // At once, as a supervisor may: what the killed one holds is waited for.
        let status = agent.0.as_mut().unwrap().wait().unwrap();
        let mut next = world.start(&[]);
        match victim {
            "mounter" => assert_eq!(status.code(), None),
            _ => assert_eq!(status.code(), Some(42)),
        }
        gone(receiver);
        drop(world.connect(&mut next));
        world.shows("v", SECOND);
        assert_eq!(world.residue(), (vec!["volumes/v".to_owned()], vec!["v".to_owned()]));
        assert_eq!(fs::read_dir(world.root().join("volumes/v/staging")).unwrap().count(), 0);
        world.bring(&mut next, "v", 3, FIRST);
        world.shows("v", FIRST);
        world.drop_volume(&mut next, "v");
        assert_eq!(world.residue(), (vec![], vec![]));
    }
}

/// As when the one before was killed, and the kernel has not yet taken everything from it.
#[test]
fn what_another_agent_still_holds_is_waited_for() {
    let Some(world) = World::with_mounts() else { return };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(world.root(), flags, Mode::empty()).unwrap();
    flock(&root, FlockOperation::LockExclusive).unwrap();
    let listener = UnixListener::bind(world.0.path().join("socket")).unwrap();
    let mut agent = world.start(&[]);
    // Its attempt to listen: it looks whether somebody else does.
    drop(listener.accept().unwrap());
    drop(listener);
    while UnixStream::connect(world.0.path().join("socket")).is_err() {
        agent.still_runs();
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    agent.still_runs();
    drop(root);
    world.bring(&mut agent, "v", 1, FIRST);
    world.drop_volume(&mut agent, "v");
}

#[test]
fn the_end_of_the_receiver_is_reported() {
    let Some(world) = World::with_mounts() else { return };
    let mut agent = world.start(&[]);
    drop(world.connect(&mut agent));
    kill(agent.receiver());
    let (status, said) = agent.end();
    assert_eq!(status.code(), Some(42));
    assert!(said.contains("E42: the receiver is gone: signal: 9"), "{said}");
    // What is in force was said by both.
    assert!(said.contains("mounter confined=seccomp, capabilities 0x200002"), "{said}");
    assert!(said.contains("receiver") && said.contains("capabilities 0x1b"), "{said}");
    // Its own refusal to start is its own to explain, and ends both.
    let mut agent = world.start(&["--listen", "unix:/nowhere/socket"]);
    let (status, said) = agent.end();
    assert_eq!(status.code(), Some(42));
    assert!(said.contains("unix:/nowhere/socket") && said.contains("exit status: 42"), "{said}");
}

#[test]
fn nobody_but_the_mounter_starts_a_receiver() {
    let world = World::new();
    let mut command = Command::new(PROGRAM);
    command.arg("receive").arg("--root").arg(world.root()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no mounter"), "{output:?}");
}

#[test]
fn confinement_can_be_switched_off_and_says_so() {
    let Some(world) = World::with_mounts() else { return };
    let mut agent = world.start(&["--confine", "nothing"]);
    world.bring(&mut agent, "v", 1, FIRST);
    assert_eq!(confinement(agent.receiver())[0]["Seccomp"], "0");
    world.drop_volume(&mut agent, "v");
    kill(agent.receiver());
    let (_, said) = agent.end();
    assert_eq!(said.matches("not at all").count(), 2, "{said}");
}

/// In one process, as root and as somebody who has no capabilities at all.
#[test]
fn plain_directories_are_confined_also_without_root() {
    let nobody = (65_534, 65_534);
    let both = [(own(), RECEIVER.bits()), (nobody, 0)];
    let owners = if own().0 == 0 { &both[..] } else { &[(own(), 0)][..] };
    for (owner, capabilities) in owners {
        let world = World::new();
        let mut command = world.command(&["--plain-directories"]);
        if *owner != own() {
            chown(world.0.path(), Some(owner.0), Some(owner.1)).unwrap();
            command.uid(owner.0).gid(owner.1);
        }
        let mut agent = match command.spawn() {
            Ok(child) => Agent(Some(child)),
            Err(error) => {
                testkit::skip(format!("{PROGRAM} as user {}: {error}", owner.0));
                continue;
            }
        };
        for (sequence, files) in [(1, FIRST), (2, SECOND)] {
            let messages = conversation_of(*owner, &volume("v"), Category::Secret, sequence, files);
            world.say(&mut agent, &messages);
            world.shows("v", files);
        }
        for status in confinement(agent.id()) {
            assert_eq!(status["CapEff"], format!("{capabilities:016x}"));
            assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
        }
        let children = format!("/proc/{0}/task/{0}/children", agent.id());
        assert_eq!(fs::read_to_string(children).unwrap(), "");
        world.drop_volume(&mut agent, "v");
        assert!(!Path::new(&world.data("v")).exists());
        agent.still_runs();
    }
}
