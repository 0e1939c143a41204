//! The program, killed at every system call by which it changes anything, in either process:
//! SPECIFICATION P2 and P6. Restarted, it has exactly one revision, and after the host has said its
//! own again exactly the newest, with nothing left over. `SEALIFT_KILLS=all` takes every step.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::program::{Agent, World, gone, kill};
use common::{answer, conversation, frames, read, say, volume};
use testkit::steps::{Step, attach, counting, spread, steps, strace, strace_works};
use volumes::name::Category;
use volumes::wire::message::{DropRequest, Message};

/// Path and content.
type Files = &'static [(&'static str, &'static [u8])];

const OLD: Files = &[("user", b"app-1"), ("password", b"secret-1"), ("a/b", b"deep")];
const NEW: Files = &[("user", b"app-2"), ("password", b"secret-1"), ("conf/new", b"k")];

/// Every call that makes, changes, moves, mounts or removes something, or asks the other process to.
const CALLS: [&str; 23] = [
    "mkdirat",
    "openat",
    "openat2",
    "ftruncate",
    "pwrite64",
    "fchmod",
    "fchown",
    "renameat",
    "renameat2",
    "linkat",
    "symlinkat",
    "unlinkat",
    "unlink",
    "bind",
    "flock",
    "sendto",
    "recvfrom",
    "fsconfig",
    "fsmount",
    "move_mount",
    "mount",
    "umount2",
    "clone3",
];

/// Which process strace watches, and from when on.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// Both, from their start: with what a killed one has left.
    Either,
    /// One of those that run already.
    Receiver,
    Mounter,
}

/// A volume with a revision, one that is to be removed, one before its first revision, and parts of
/// the next revision; the agent that had them was killed.
fn left_behind() -> Option<World> {
    let world = World::with_mounts()?;
    let mut agent = world.start(&[]);
    world.bring(&mut agent, "v", 1, OLD);
    world.bring(&mut agent, "gone", 1, OLD);
    let mut host = world.connect(&mut agent);
    for (name, sequence) in [("v", 2), ("half", 1)] {
        let messages = conversation(&volume(name), Category::Secret, sequence, NEW);
        assert_eq!(say(&mut host, &messages[..3]), [None; 3]);
    }
    let receiver = agent.receiver();
    kill(agent.id());
    agent.0.as_mut().unwrap().wait().unwrap();
    gone(receiver);
    Some(world)
}

/// What the host says, until it is answered: a new revision, a new volume, and that one is gone.
/// False: the agent ended.
fn update(world: &World, agent: &mut Agent) -> bool {
    loop {
        if say_all(world).is_some() {
            return true;
        }
        // A killed one's socket may still take a connection, and one of two processes is about to go.
        if agent.0.as_mut().unwrap().try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `None`: the connection ended.
fn say_all(world: &World) -> Option<()> {
    let mut stream = UnixStream::connect(world.0.path().join("socket")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut messages = conversation(&volume("v"), Category::Secret, 2, NEW);
    messages.extend(conversation(&volume("w"), Category::ConfigMap, 1, OLD));
    messages.push(("Drop", DropRequest { volume: volume("gone") }.encode()));
    for message in messages {
        stream.write_all(&frames(std::slice::from_ref(&message))).ok()?;
        let answer = answer_or_end(&mut stream)?;
        // The mounter is gone, and with it this one in a moment.
        if answer.as_ref().is_some_and(|why| why.starts_with("internal")) {
            return None;
        }
        // What was committed before is not sent again; that it was, its commit says again.
        let is_there =
            message.0 == "Put" && answer.as_ref().is_some_and(|why| why.starts_with("stale"));
        assert!(answer.is_none() || is_there, "{}: {answer:?}", message.0);
    }
    Some(())
}

/// Why the next answer is a refusal. `None`: the connection ended.
fn answer_or_end(stream: &mut UnixStream) -> Option<Option<String>> {
    // A reset is an end, too.
    std::io::Read::read(&mut Peek(stream), &mut [0]).ok().filter(|count| *count > 0)?;
    Some(answer(stream)?.err().map(|refusal| refusal.to_string()))
}

/// Looks at the next byte and leaves it there.
struct Peek<'a>(&'a UnixStream);

impl std::io::Read for Peek<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let flags = rustix::net::RecvFlags::PEEK;
        Ok(rustix::net::recv(self.0, buffer, flags)?.0)
    }
}

/// One run up to its end or its kill. False: it was not killed.
fn run(world: &World, victim: Victim, arguments: &[String]) -> bool {
    let (mut agent, tracer) = match victim {
        Victim::Either => {
            let mut traced = strace(arguments);
            let program = world.command(&[]);
            traced.arg(program.get_program()).args(program.get_args()).stderr(Stdio::null());
            (Agent(Some(traced.spawn().unwrap())), None)
        }
        Victim::Receiver | Victim::Mounter => {
            let mut agent = world.start(&[]);
            drop(world.connect(&mut agent));
            let process = match victim {
                Victim::Receiver => agent.receiver(),
                _ => agent.id(),
            };
            let tracer = attach(process, arguments);
            (agent, Some(tracer))
        }
    };
    let updated = update(world, &mut agent);
    // Of a run that was not killed, the processes; of one that was, what is left.
    let own = agent.id();
    let children = |process: i32| -> Vec<i32> {
        let path = format!("/proc/{process}/task/{process}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().map(|id| id.parse().unwrap()).collect()
    };
    let mut all = vec![own];
    all.extend(children(own));
    let grandchildren: Vec<i32> = all[1..].iter().copied().flat_map(children).collect();
    all.extend(grandchildren);
    if updated {
        // strace last, or those that it traces go on.
        all.iter().rev().for_each(|process| kill_if_there(*process));
    }
    agent.0.as_mut().unwrap().wait().unwrap();
    all[1..].iter().for_each(|process| gone(*process));
    if let Some(mut tracer) = tracer {
        let _ = tracer.wait();
    }
    !updated
}

fn kill_if_there(process: i32) {
    let pid = rustix::process::Pid::from_raw(process).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// That a volume is one of these revisions, and nothing else.
fn exactly(world: &World, name: &str, revisions: &[(u64, Files)]) {
    let data = world.data(name);
    let link = fs::read_link(data.join("..data")).unwrap();
    let found = revisions.iter().find(|(sequence, _)| link == Path::new(&format!("..{sequence}")));
    let (sequence, files) = found.unwrap_or_else(|| panic!("{name} is {link:?}"));
    let contents: BTreeMap<_, _> =
        files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect();
    assert_eq!(read(&data), contents);
    let mut expected = set(&["..data", &format!("..{sequence}")]);
    expected.extend(files.iter().map(|(path, _)| path.split('/').next().unwrap().to_owned()));
    // One that is within its grace may still be there, until the agent's keeper has been at it.
    for _ in 0..1_000 {
        if names(&data) == expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(names(&data), expected);
    assert_eq!(names(&data.join("../staging")), set(&[]));
    assert_eq!(names(&data.join("../records")), set(&[&sequence.to_string()]));
    assert_eq!(names(&data.join("..")), set(&["data", "records", "staging"]));
}

/// Restarts after a run that ended anywhere, looks, says everything again, looks.
fn recovers(world: &World) {
    let mut agent = world.start(&[]);
    drop(world.connect(&mut agent));
    exactly(world, "v", &[(1, OLD), (2, NEW)]);
    let (mut mounts, mut places) = world.residue();
    mounts.sort();
    places.sort();
    assert_eq!(mounts, places.iter().map(|name| format!("volumes/{name}")).collect::<Vec<_>>());
    for name in &places {
        match name.as_str() {
            "v" => {}
            "gone" => exactly(world, "gone", &[(1, OLD)]),
            "w" => exactly(world, "w", &[(1, OLD)]),
            other => panic!("{other} is there"),
        }
    }
    assert!(update(world, &mut agent));
    exactly(world, "v", &[(2, NEW)]);
    exactly(world, "w", &[(1, OLD)]);
    let (mut mounts, mut places) = world.residue();
    mounts.sort();
    places.sort();
    assert_eq!(
        (mounts, places),
        (vec!["volumes/v".into(), "volumes/w".into()], vec!["v".into(), "w".into()])
    );
    assert_eq!(names(&world.root()), set(&["new", "status.sock", "volumes"]));
    agent.still_runs();
}

fn killed_everywhere(victim: Victim, at_most: usize, at_least: usize) {
    if !strace_works() {
        return;
    }
    let Some(world) = left_behind() else { return };
    let trace = world.0.path().join("trace");
    assert!(!run(&world, victim, &counting(&CALLS, &trace)));
    let all = steps(&trace);
    recovers(&world);
    let (count, mut kills) = (all.len(), 0);
    for step in spread(all, at_most) {
        let Some(world) = left_behind() else { return };
        let Step { call, n } = &step;
        println!("{victim:?}: {call} {n}");
        kills += usize::from(run(&world, victim, &step.arguments()));
        recovers(&world);
    }
    println!("{victim:?}: {kills} kills of {count} steps");
    assert!(kills >= at_least, "only {kills}");
}

#[test]
fn a_kill_of_the_receiver_at_any_call_loses_nothing() {
    killed_everywhere(Victim::Receiver, 40, 30);
}

#[test]
fn a_kill_of_the_mounter_at_any_call_loses_nothing() {
    killed_everywhere(Victim::Mounter, 25, 15);
}

#[test]
fn a_kill_at_any_call_of_a_start_loses_nothing() {
    killed_everywhere(Victim::Either, 40, 30);
}
