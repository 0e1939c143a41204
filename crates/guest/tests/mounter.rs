//! A receiver that was taken over, and what the mounter does for it: nothing outside its root,
//! nothing above its limits, and nothing more at all once it has said what no receiver says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use guest::cdh::Dial;
use guest::mounter::{
    ANSWER_BYTES_MAX, Bounds, Client, Ended, Passed, Request, Switchboard, places, serve,
};
use publish::volumes::{Error, Mounter, Options, Space, Store, Tmpfs};
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use tempfile::TempDir;
use volumes::name::{Category, VolumeId};
use volumes::tree::Limits;

const LIMITS: Limits = Limits { entries: 10, bytes: 1 << 16 };
const VOLUMES: usize = 3;

/// A mounter at work, its socket, and what it must not touch.
struct World {
    top: TempDir,
    socket: Option<OwnedFd>,
    dial: OwnedFd,
    mounter: Option<JoinHandle<Ended>>,
}

fn space() -> Space {
    Space::of(LIMITS, 3)
}

fn id(name: &str) -> VolumeId {
    VolumeId::parse(name).unwrap()
}

impl World {
    /// `None`, said aloud: nobody may mount here.
    fn start() -> Option<Self> {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = top.path().join("root");
        let tmpfs = match Tmpfs::prepare(&root, None) {
            Ok(tmpfs) => tmpfs,
            Err(error) => {
                testkit::skip(format!("mounts: {error}"));
                return None;
            }
        };
        fs::write(top.path().join("outside"), "untouched").unwrap();
        let pair = || {
            let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap()
        };
        let ((theirs, socket), (switchboard, dial)) = (pair(), pair());
        let switchboard = Switchboard::new(switchboard, top.path().join("source"));
        let bounds = Bounds { volumes: VOLUMES, space: space() };
        let mounter = std::thread::spawn(move || {
            let places: BTreeSet<_> = places(&root).unwrap();
            serve(theirs, &tmpfs, bounds, places, Some(&switchboard))
        });
        Some(Self { top, socket: Some(socket), dial, mounter: Some(mounter) })
    }

    fn root(&self) -> PathBuf {
        self.top.path().join("root")
    }

    fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        Client::new(self.socket().try_clone().unwrap())
    }

    fn send(&self, message: &[u8]) {
        send(self.socket(), message, SendFlags::NOSIGNAL).unwrap();
    }

    /// The outcome of the next answer.
    fn outcome(&self) -> u8 {
        let mut answer = [0; ANSWER_BYTES_MAX];
        let (length, _) = recv(self.socket(), &mut answer[..], RecvFlags::empty()).unwrap();
        assert!(length >= 4);
        answer[0]
    }

    /// Hangs up.
    fn end(&mut self) -> Ended {
        self.socket = None;
        self.mounter.take().unwrap().join().unwrap()
    }

    fn mounts(&self) -> Vec<String> {
        mounts_below(&self.root())
    }
}

/// Where something is mounted below `root`, itself aside.
fn mounts_below(root: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let prefix = format!("{}/", root.display());
    points.filter_map(|point| point.strip_prefix(&prefix)).map(str::to_owned).collect()
}

impl Drop for World {
    fn drop(&mut self) {
        self.socket = None;
        if let Some(mounter) = self.mounter.take() {
            let _ = mounter.join();
        }
        while unmount(self.root(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        let outside = fs::read_to_string(self.top.path().join("outside")).unwrap();
        assert_eq!(outside, "untouched");
    }
}

/// A good request, with other bytes at a place.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut message = Request::Create(id("v"), false, space()).encode().to_vec();
    message[at..at + bytes.len()].copy_from_slice(bytes);
    message
}

fn named(name: &[u8]) -> Vec<u8> {
    let mut message = changed(24, name);
    message[2] = u8::try_from(name.len()).unwrap();
    message
}

#[test]
fn what_is_no_request_ends_the_mounter_and_touches_nothing() {
    let good = Request::Remove(id("v")).encode();
    let bad = [
        ("one byte", b"\x01".to_vec()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("a trailing byte", [&good[..], b"\0"].concat()),
        ("two at once", [good, good].concat()),
        ("much too long", vec![1; 65_536]),
        ("an unknown operation", changed(0, &[7])),
        ("no operation", changed(0, &[0])),
        ("an unknown category", changed(1, &[4])),
        ("a name longer than there is room", changed(2, &[129])),
        ("a name that goes on after its end", changed(26, b"x")),
        ("a byte where none belongs", changed(7, &[1])),
        ("room for what needs none", [&[3][..], &changed(0, &[0])[1..]].concat()),
        ("no name", named(b"")),
        ("above", named(b"..")),
        ("a path", named(b"../../outside")),
        ("an absolute path", named(b"/etc")),
        ("here", named(b".")),
        ("a nul", named(b"a\0b")),
        ("capitals", named(b"Volume")),
        ("not UTF-8", named(b"\xff\xfe")),
    ];
    for (what, message) in bad {
        let Some(mut world) = World::start() else { return };
        world.client().create(&id("other"), false, space()).unwrap();
        world.send(&message);
        assert!(matches!(world.end(), Ended::Malformed { .. }), "{what}");
        assert_eq!(world.mounts(), ["new/other"], "{what}");
    }
    // An empty packet looks like the end.
    let Some(mut world) = World::start() else { return };
    world.send(b"");
    assert!(matches!(world.mounter.take().unwrap().join().unwrap(), Ended::Gone));
}

#[test]
fn more_than_the_policy_allows_is_refused_and_the_rest_goes_on() {
    let Some(mut world) = World::start() else { return };
    let Space { bytes, inodes } = space();
    let client = world.client();
    client.create(&id("v"), false, space()).unwrap();
    // Zero is no limit to a tmpfs.
    for (bytes, inodes) in
        [(bytes + 1, inodes), (bytes, inodes + 1), (u64::MAX, u64::MAX), (0, inodes), (bytes, 0)]
    {
        let space = Space { bytes, inodes };
        for request in
            [Request::Create(id("w"), false, space), Request::Adjust(id("v"), false, space)]
        {
            world.send(&request.encode());
            assert_eq!(world.outcome(), 6, "{request:?}");
        }
    }
    let error = client.create(&id("w"), false, Space { bytes: 0, inodes }).unwrap_err();
    assert_eq!(error.to_string(), "cannot have from the mounter w");
    // As many as there may be, and no more, until one goes.
    client.create(&id("w"), false, space()).unwrap();
    client.create(&id("x"), false, space()).unwrap();
    client.create(&id("y"), false, space()).unwrap_err();
    assert_eq!(world.mounts(), ["new/v", "new/w", "new/x"]);
    client.remove(&id("x")).unwrap();
    client.create(&id("y"), false, space()).unwrap();
    for name in ["v", "w", "y"] {
        client.remove(&id(name)).unwrap();
    }
    drop(client);
    assert_eq!(world.mounts(), [""; 0]);
    assert!(matches!(world.end(), Ended::Gone));
}

#[test]
fn a_flood_whose_answers_nobody_takes_ends_with_the_receiver() {
    let Some(mut world) = World::start() else { return };
    let requests = [Request::IsPublished(id("v")), Request::Adjust(id("v"), false, space())];
    // Until both directions are full; in between the mounter makes room.
    let (mut said, mut full) = (0, 0);
    for request in requests.iter().cycle() {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match send(world.socket(), &request.encode(), flags) {
            Ok(_) => (said, full) = (said + 1, 0),
            Err(_) if full == 10_000 => break,
            Err(_) => {
                full += 1;
                std::thread::yield_now();
            }
        }
    }
    assert!(said > 10, "{said}");
    assert_eq!(world.mounts(), [""; 0]);
    assert!(matches!(world.end(), Ended::Gone));
}

#[test]
fn requests_about_what_is_not_there_do_nothing() {
    let Some(world) = World::start() else { return };
    let client = world.client();
    // Names of mounts that everybody has.
    for name in ["proc", "dev", "sys", "outside"] {
        assert!(!client.is_published(&id(name)).unwrap());
        client.remove(&id(name)).unwrap();
        client.tidy(&id(name)).unwrap();
        let error = client.adjust(&id(name), false, space()).unwrap_err();
        assert!(matches!(error, Error::Unknown { id: unknown } if unknown == id(name)));
        client.publish(&id(name)).unwrap_err();
    }
    assert_eq!(world.mounts(), [""; 0]);
    assert!(Path::new("/proc/self").exists());
}

/// The store cannot tell it from a mounter of its own.
#[test]
fn a_store_works_through_it() {
    let Some(mut world) = World::start() else { return };
    let open = |world: &World| {
        let mounter = Box::new(world.client());
        Store::open(&world.root(), Options::default(), mounter, Instant::now()).unwrap()
    };
    let mut store = open(&world);
    store.create(&id("v"), Category::ConfigMap, LIMITS).unwrap();
    let meta = volumes::tree::Meta { mode: 0o755, uid: 0, gid: 0 };
    let tree = volumes::tree::Tree::new(meta, [].into(), LIMITS).unwrap();
    store.commit(&id("v"), 1, &tree, Instant::now).unwrap();
    assert_eq!(world.mounts(), ["volumes/v"]);
    // Smaller than what is there, if only by a byte: as the file system itself says it.
    store.create(&id("v"), Category::ConfigMap, Limits { entries: 9, ..LIMITS }).unwrap();
    let larger = Limits { entries: 11, ..LIMITS };
    store.create(&id("v"), Category::ConfigMap, larger).unwrap_err();
    drop(store);
    let mut store = open(&world);
    assert_eq!(store.held().count(), 1);
    store.remove(&id("v")).unwrap();
    drop(store);
    assert_eq!(world.mounts(), [""; 0]);
    assert!(matches!(world.end(), Ended::Gone));
}

#[test]
fn connections_are_made_to_the_one_place_and_passed() {
    let Some(mut world) = World::start() else { return };
    let passed = Passed::new(world.dial.try_clone().unwrap());
    let dial = || passed.dial(Instant::now());
    assert_eq!(dial().unwrap_err().kind(), ErrorKind::NotFound);
    let listener = UnixListener::bind(world.top.path().join("source")).unwrap();
    std::thread::scope(|scope| {
        // Concurrently, as threads do it, and mounts in between.
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = dial().unwrap();
                connection.write_all(b"question").unwrap();
                let mut answer = [0; 8];
                // It waits: the other side answers when all have asked.
                connection.read_exact(&mut answer).unwrap();
                assert_eq!(answer, *b"question");
            });
        }
        world.client().create(&id("v"), false, space()).unwrap();
        let asked = (0..8).map(|_| {
            let (mut connection, _) = listener.accept().unwrap();
            let mut question = [0; 8];
            connection.read_exact(&mut question).unwrap();
            (connection, question)
        });
        for (mut connection, question) in asked.collect::<Vec<_>>() {
            connection.write_all(&question).unwrap();
        }
    });
    world.client().remove(&id("v")).unwrap();
    assert!(matches!(world.end(), Ended::Gone));
    assert_eq!(dial().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_listener_that_takes_no_more_connections_holds_up_no_mount() {
    let Some(world) = World::start() else { return };
    let listener = UnixListener::bind(world.top.path().join("source")).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let passed = Passed::new(world.dial.try_clone().unwrap());
    let mut waiting = Vec::new();
    let error = loop {
        match passed.dial(Instant::now()) {
            Ok(connection) => waiting.push(connection),
            Err(error) => break error,
        }
    };
    assert_eq!((waiting.len(), error.kind()), (1, ErrorKind::WouldBlock));
    world.client().create(&id("v"), false, space()).unwrap();
    assert_eq!(world.mounts(), ["new/v"]);
}

#[test]
fn what_is_no_wish_for_a_connection_ends_the_mounter() {
    for message in [&b"x"[..], b"cc", b"/run/dbus/socket", &[0; 65_536]] {
        let Some(mut world) = World::start() else { return };
        let _listener = UnixListener::bind(world.top.path().join("source")).unwrap();
        send(&world.dial, message, SendFlags::NOSIGNAL).unwrap();
        let ended = world.mounter.take().unwrap().join().unwrap();
        assert!(matches!(ended, Ended::Malformed { .. }), "{message:?}");
    }
}
