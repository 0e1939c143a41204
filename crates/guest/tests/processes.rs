//! The program itself: two processes, both confined, which live and die together.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::program::{Agent, PROGRAM, World, gone, kill};
use common::{conversation, conversation_of, own, volume};
use guest::confine::{MOUNTER, RECEIVER};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use volumes::name::Category;

const FIRST: &[(&str, &[u8])] = &[("user", b"app-1"), ("password", b"secret-1")];
const SECOND: &[(&str, &[u8])] = &[("user", b"app-2"), ("conf/new", b"key: value")];

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
    assert!(testkit::filter::is_hidden(process.cast_unsigned()), "{process} leaves cores");
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
/// Digests tell who can guess what is in a small file; whoever reads metrics need not have them.
#[test]
fn only_root_learns_more_than_metrics() {
    use link::pages::{Address, get};
    let world = World::new();
    let metrics = Address::Unix(world.0.path().join("metrics.sock"));
    let mut agent = world.start(&["--plain-directories", "--metrics", &metrics.to_string()]);
    world.bring(&mut agent, "pod.db", 1, FIRST);
    let own = Address::Unix(world.root().join("status.sock"));
    assert!(get(&own, "/status").unwrap().contains("digest"));
    assert!(get(&own, "/metrics").unwrap().contains("pod.db"));
    assert!(get(&metrics, "/metrics").unwrap().contains("pod.db"));
    assert!(get(&metrics, "/status").is_err());
}

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
