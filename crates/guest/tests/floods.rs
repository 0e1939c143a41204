//! The program itself under a host that gives it as much as it can, of everything at once: it refuses
//! with a code, serves the others, and takes no more memory, threads or descriptors than it says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::program::{Agent, World};
use common::{answer, frames, volume};
use volumes::name::{Category, TreePath};
use volumes::refusal::Reason;
use volumes::tree::{Digest, Limits, Meta, Node, Tree};
use volumes::wire::frame::PAYLOAD_BYTES_MAX;
use volumes::wire::message::{
    Chunk, CommitRequest, DropRequest, Entry, HelloRequest, Message, OpenRequest, PutRequest,
    VERSION,
};

/// What both processes together may take, at their worst moment.
const MEMORY_KIB: u64 = 32 << 10;
const VOLUMES: usize = 255;
const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0 };
const ONE: &[(&str, &[u8])] = &[("user", b"app-1")];
const TWO: &[(&str, &[u8])] = &[("user", b"app-2"), ("conf/new", b"key: value")];

/// A field of a process's status, in its unit.
fn status(process: i32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// The most that both processes ever had, in KiB.
fn peak(agent: &Agent) -> u64 {
    [agent.id(), agent.receiver()].map(|process| status(process, "VmHWM")).into_iter().sum()
}

/// A host that says whatever it is told.
struct Host(UnixStream);

impl Host {
    fn new(world: &World, agent: &mut Agent) -> Self {
        Self(world.connect(agent))
    }

    fn call(&mut self, method: &str, message: Vec<u8>) -> Result<(), Reason> {
        self.0.write_all(&frames(&[(method, message)])).unwrap();
        answer(&mut self.0).unwrap().map(drop).map_err(|refusal| refusal.reason)
    }

    fn open(&mut self, name: &str) {
        let (volume, limits) = (volume(name), Limits { entries: 0, bytes: 0 });
        let request = OpenRequest { volume, category: Category::ConfigMap, limits };
        self.call("Open", request.encode()).unwrap();
    }

    fn put(&mut self, name: &str, sequence: u64, entries: &[Entry]) -> Result<(), Reason> {
        for upserts in entries.chunks(200) {
            let (volume, upserts) = (volume(name), upserts.to_vec());
            let put = PutRequest { volume, sequence, upserts, removals: vec![], chunks: vec![] };
            self.call("Put", put.encode())?;
        }
        Ok(())
    }

    fn contents(&mut self, name: &str, chunks: &[Chunk<'_>]) -> Result<(), Reason> {
        for chunks in chunks.chunks(500) {
            let (volume, chunks) = (volume(name), chunks.to_vec());
            let put = PutRequest { volume, sequence: 1, upserts: vec![], removals: vec![], chunks };
            self.call("Put", put.encode())?;
        }
        Ok(())
    }

    fn commit(&mut self, name: &str, sequence: u64, tree: &Tree) -> Result<(), Reason> {
        let (volume, digest) = (volume(name), tree.digest());
        let commit = CommitRequest { volume, sequence, base: None, digest };
        self.call("Commit", commit.encode())
    }

    fn drop_all(&mut self) {
        for number in 0..VOLUMES {
            let request = DropRequest { volume: volume(&format!("v{number}")) };
            self.call("Drop", request.encode()).unwrap();
        }
    }
}

fn entries(tree: &Tree) -> Vec<Entry> {
    let nodes = tree.nodes().iter().map(|(path, node)| Entry::At(path.clone(), *node));
    [Entry::Root(tree.root())].into_iter().chain(nodes).collect()
}

/// As many and as long names as a volume may have.
fn longest(turn: u64) -> Tree {
    let mut nodes = BTreeMap::new();
    let mut above = String::new();
    for letter in ["p", "q", "r"] {
        above.push_str(&letter.repeat(254));
        nodes.insert(TreePath::parse(&above).unwrap(), Node::Directory(META));
        above.push('/');
    }
    while nodes.len() < 2_048 {
        let name = format!("{above}{:0>10}-{turn}-", nodes.len());
        let name = format!("{name:x<width$}", width = TreePath::BYTES_MAX - 10);
        nodes.insert(TreePath::parse(&name).unwrap(), Node::Directory(META));
    }
    Tree::new(META, nodes, Limits::MAX).unwrap()
}

/// Short names, each with a content of its own.
fn shortest(volume: usize) -> (Tree, Vec<String>) {
    let contents: Vec<String> = (0..2_048).map(|n| format!("{volume}-{n}")).collect();
    let node = |(n, content): (usize, &String)| {
        let digest = Digest::of(content.as_bytes());
        let node = Node::File { meta: META, bytes: content.len() as u64, digest };
        (TreePath::parse(&n.to_string()).unwrap(), node)
    };
    let nodes = contents.iter().enumerate().map(node).collect();
    (Tree::new(META, nodes, Limits::MAX).unwrap(), contents)
}

fn chunks(contents: &[String]) -> Vec<Chunk<'_>> {
    let chunk = |content: &String| (Digest::of(content.as_bytes()), content.len() as u64);
    let chunk = |content| {
        let (digest, total) = chunk(content);
        Chunk { digest, total, offset: 0, data: content.as_bytes() }
    };
    contents.iter().map(chunk).collect()
}

/// Does something with volume after volume until it is refused for want of memory; it must be before
/// the last.
fn until_refused(what: &str, mut one: impl FnMut(usize) -> Result<(), Reason>) -> usize {
    for number in 0..VOLUMES {
        match one(number) {
            Ok(()) => {}
            Err(Reason::Limit) => return number,
            Err(other) => panic!("{what}: {other}"),
        }
    }
    panic!("{what}: nothing was refused");
}

#[test]
fn everything_hostile_at_once_stays_within_its_memory() {
    let Some(world) = World::with_mounts() else { return };
    let mut agent = world.start(&["--log-level", "error"]);
    world.bring(&mut agent, "victim", 1, ONE);
    let begin = peak(&agent);
    let mut host = Host::new(&world, &mut agent);
    for number in 0..VOLUMES {
        host.open(&format!("v{number}"));
    }
    let opened = peak(&agent);

    // Half of the longest frames, on more connections than are served.
    let mut frame = u32::try_from(PAYLOAD_BYTES_MAX).unwrap().to_be_bytes().to_vec();
    frame.extend([0, 0, 0, 1, 1, 0]);
    frame.resize(PAYLOAD_BYTES_MAX / 2, 7);
    let mut half_sent = Vec::new();

    // Contents of which only the first byte comes.
    let begun = until_refused("contents", |number| {
        let contents: Vec<String> = (0..2_048).map(|n| format!("{number}-{n}")).collect();
        let mut chunks = chunks(&contents);
        chunks.iter_mut().for_each(|chunk| chunk.data = &chunk.data[..1]);
        host.contents(&format!("v{number}"), &chunks)
    });
    let contents = peak(&agent);
    host.drop_all();
    (0..VOLUMES).for_each(|number| host.open(&format!("v{number}")));

    // Parts of revisions that are never committed.
    let tree = longest(0);
    let drafted =
        until_refused("drafts", |number| host.put(&format!("v{number}"), 1, &entries(&tree)));
    let drafts = peak(&agent);
    drop(host);
    let mut host = Host::new(&world, &mut agent);

    // Many short names, then few that are as long as may be, which are replaced again and again.
    let short = until_refused("short names", |number| {
        let (tree, contents) = shortest(number);
        let name = format!("v{number}");
        host.contents(&name, &chunks(&contents))?;
        host.put(&name, 1, &entries(&tree))?;
        host.commit(&name, 1, &tree)
    });
    let files = peak(&agent);
    host.drop_all();
    (0..VOLUMES).for_each(|number| host.open(&format!("v{number}")));
    let long = until_refused("long names", |number| {
        let name = format!("v{number}");
        host.put(&name, 1, &entries(&tree))?;
        host.commit(&name, 1, &tree)
    });
    for _ in 0..5 {
        let mut stream = UnixStream::connect(world.0.path().join("socket")).unwrap();
        stream.write_all(&frame).unwrap();
        half_sent.push(stream);
    }
    for turn in 2..6 {
        let tree = longest(turn);
        let replaced =
            host.put("v0", turn, &entries(&tree)).and_then(|()| host.commit("v0", turn, &tree));
        assert!(matches!(replaced, Ok(()) | Err(Reason::Limit)), "{replaced:?}");
    }
    let all = peak(&agent);
    println!(
        "KiB: {begin} at the beginning, {opened} with {VOLUMES} volumes, {contents} after {begun} \
         volumes of contents, {drafts} after {drafted} of drafts, {files} after {short} of short \
         names, {all} after {long} of long ones"
    );
    assert!(all <= MEMORY_KIB, "{all} KiB");
    // Everybody else is served.
    world.bring(&mut agent, "victim", 2, TWO);
    world.shows("victim", TWO);
    agent.still_runs();
}

#[test]
fn floods_of_connections_and_a_put_that_never_ends_hold_up_nobody() {
    let Some(world) = World::with_mounts() else { return };
    let mut agent = world.start(&["--log-level", "error"]);
    world.bring(&mut agent, "victim", 1, ONE);
    let receiver = agent.receiver();
    let descriptors = || fs::read_dir(format!("/proc/{receiver}/fd")).unwrap().count();
    let (before, socket) = (descriptors(), world.0.path().join("socket"));

    let ended = Arc::new(AtomicBool::new(false));
    let dripping = {
        let (ended, socket) = (Arc::clone(&ended), socket.clone());
        // A whole frame's length is announced, and comes byte by byte.
        let length = u32::try_from(PAYLOAD_BYTES_MAX).unwrap().to_be_bytes();
        let frame = [&length[..], &[0, 0, 0, 1, 1, 0]].concat();
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let mut stream = UnixStream::connect(&socket).unwrap();
                let bytes = frame.iter().chain(std::iter::repeat(&7));
                for byte in bytes.take_while(|_| !ended.load(Ordering::Relaxed)) {
                    if stream.write_all(&[*byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        })
    };
    let too_long = [&u32::MAX.to_be_bytes()[..], &[0, 0, 0, 1, 1, 0]].concat();
    let empty = frames(&[("", vec![])]);
    let hello = frames(&[("Hello", HelloRequest { version: VERSION, after: None }.encode())]);
    let openings = [&[][..], &[0], &[0; 10], &too_long, &empty, &hello];
    let (mut open, mut most) = (VecDeque::new(), (0, 0));
    for number in 0..10_000_u64 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let opening = openings[usize::try_from(number).unwrap() % openings.len()];
        // It may have been closed already.
        let _ = stream.write_all(opening);
        // The youngest stay half-open.
        open.push_back(stream);
        if open.len() > 40 {
            open.pop_front();
        }
        if number % 1_000 == 999 {
            let files = if number % 2_000 == 999 { TWO } else { ONE };
            world.bring(&mut agent, "victim", 2 + number, files);
            world.shows("victim", files);
        }
        if number % 50 == 0 {
            let found = (descriptors(), status(receiver, "Threads"));
            most = (most.0.max(found.0), most.1.max(found.1));
        }
    }
    ended.store(true, Ordering::Relaxed);
    dripping.join().unwrap();
    println!("{before} descriptors before, at most {} and {} threads", most.0, most.1);
    // Those that are served and as many that are being closed, each with a second descriptor to be
    // closed by; what metrics are read through is among those before.
    assert!(most.0 <= before + 2 * 16 + 8, "{} descriptors", most.0);
    // Of a thread that is done the kernel may take a while to take leave.
    assert!(most.1 <= 64, "{} threads", most.1);
    assert!(peak(&agent) <= MEMORY_KIB);
    agent.still_runs();
}
