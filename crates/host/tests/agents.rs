//! The two agents together, over a socket file that can be cut and counts what goes through it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::policy::Policy;
use guest::server::{Limits, Server};
use host::agent::{Agent, Options, VolumeReport};
use host::kubelet::{Kubelet, Source};
use link::dial::Address;
use link::listen::{self, Listener};
use publish::volumes::PlainDirectories;
use rustix::process::{getegid, geteuid};
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, Payload, make_volume, payload, pod_uid, stamp};
use volumes::name::VolumeId;
use volumes::wire::frame::{HEADER_BYTES, Header};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node with kubelet's directory, a guest, and the way between them.
struct World {
    dir: TempDir,
    relay: Arc<Relay>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("guest");
        let mounter = Box::new(PlainDirectories::prepare(&root, None).unwrap());
        let grace = Duration::from_millis(50);
        let options = publish::volumes::Options { grace, ..Default::default() };
        let agent = guest::agent::Agent::open(&root, Policy::default(), options, mounter).unwrap();
        let agent = Arc::new(Mutex::new(agent));
        guest::agent::spawn_keeper(&agent).unwrap();
        let inner = dir.path().join("inner.sock");
        let listener = Listener::bind(&listen::Address::Unix(inner.clone()), None).unwrap();
        let server = Server::new(agent, Limits::default());
        std::thread::spawn(move || server.run(&listener));
        let relay = Relay::start(&dir.path().join("guest.sock"), inner);
        Self { dir, relay }
    }

    fn kubelet(&self) -> PathBuf {
        self.dir.path().join("kubelet")
    }

    fn address(&self) -> Address {
        Address::Unix(self.dir.path().join("guest.sock"))
    }

    /// The host agent; dropping it is its end.
    fn agent(&self) -> Agent {
        Agent::start(Options {
            state_dir: self.dir.path().join("state"),
            timeout: Duration::from_secs(10),
            rescan: Duration::from_secs(3600),
            backoff_max: Duration::from_millis(200),
            tls: None,
        })
        .unwrap()
    }

    fn make(&self, plugin: &'static str, name: &str, payload: &Payload) -> Written {
        let volume = make_volume(&self.kubelet(), &pod_uid(1), plugin, name).unwrap();
        volume.writer.write(payload).unwrap();
        let id = VolumeId::parse(&format!("{}.{name}", pod_uid(1))).unwrap();
        Written { id, writer: volume.writer }
    }

    fn attach(&self, agent: &Agent, written: &Written) {
        let kubelet = Kubelet::open(&self.kubelet()).unwrap();
        let Source::Volume(found) = kubelet.classify(written.writer.target()) else { panic!() };
        agent.attach(&[found], &self.address()).unwrap();
    }

    fn data(&self, id: &VolumeId) -> PathBuf {
        self.dir.path().join("guest/volumes").join(id.as_str()).join("data")
    }
}

struct Written {
    id: VolumeId,
    writer: AtomicWriter,
}

/// What is visible below a volume's directory, in the layout that both sides have: path, mode,
/// owner, content.
fn visible(dir: &Path) -> BTreeMap<String, (u32, u32, u32, Vec<u8>)> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, (u32, u32, u32, Vec<u8>)>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if prefix.is_empty() && name.starts_with("..") {
                continue;
            }
            let (path, full) = (dir.join(&name), format!("{prefix}{name}"));
            let stat = fs::metadata(&path).unwrap();
            let content = if stat.is_dir() { vec![] } else { fs::read(&path).unwrap() };
            found.insert(full.clone(), (stat.mode(), stat.uid(), stat.gid(), content));
            if stat.is_dir() {
                walk(&path, &format!("{full}/"), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

/// Whether the guest sees what the host sees, in the end.
#[track_caller]
fn converges(world: &World, written: &Written) {
    let (host, guest) = (written.writer.target().to_path_buf(), world.data(&written.id));
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        // In between the guest is one revision; reading file by file may see two.
        if std::panic::catch_unwind(|| visible(&host) == visible(&guest)).unwrap_or(false) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(visible(&guest), visible(&host));
}

fn report(agent: &Agent, written: &Written) -> VolumeReport {
    let mut all = agent.status().into_iter();
    all.find(|report| report.volume == written.id.as_str()).unwrap()
}

fn files(generation: u64, paths: &[&str]) -> Payload {
    payload(generation, paths)
}

#[test]
fn what_kubelet_does_the_guest_sees() {
    let world = World::new();
    let agent = world.agent();
    let secret = world.make("secret", "db", &files(1, &["password", "user"]));
    let config = world.make("configmap", "app", &files(1, &["conf/app/x.yaml", "conf/y", "z"]));
    for volume in [&secret, &config] {
        world.attach(&agent, volume);
        agent.sync(&volume.id, PATIENCE).unwrap();
        converges(&world, volume);
    }
    // Changed, added, removed; a file becomes a directory and the other way round.
    for (generation, paths) in [
        (2, &["conf/app/x.yaml", "conf/y", "z"][..]),
        (3, &["conf/app/x.yaml", "conf/y", "z", "new"]),
        (4, &["conf/y", "new"]),
        (5, &["conf", "new/deep/er"]),
        (6, &["conf/y", "new"]),
    ] {
        assert!(config.writer.write(&files(generation, paths)).unwrap());
        converges(&world, &config);
    }
    let mut odd = files(7, &["empty", "binary", "script"]);
    odd.get_mut("empty").unwrap().bytes.clear();
    odd.get_mut("binary").unwrap().bytes = (0..=255).collect();
    odd.get_mut("script").unwrap().mode = 0o550;
    config.writer.write(&odd).unwrap();
    converges(&world, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    let status = report(&agent, &config);
    assert!(status.current && status.failure.is_none() && status.sequence >= 7, "{status:?}");
    // The other one was left alone.
    assert_eq!(report(&agent, &secret).sequence, 1);
    converges(&world, &secret);
}

#[test]
fn owners_and_groups_arrive_as_they_are() {
    if !geteuid().is_root() {
        testkit::skip("only root may give files away");
        return;
    }
    let world = World::new();
    let agent = world.agent();
    let volume = make_volume(&world.kubelet(), &pod_uid(1), "projected", "token").unwrap();
    let writer = volume.writer.fs_group(4321);
    let mut token = files(1, &["token"]);
    let file = token.get_mut("token").unwrap();
    (file.mode, file.uid) = (0o400, Some(1000));
    writer.write(&token).unwrap();
    let id = VolumeId::parse(&format!("{}.token", pod_uid(1))).unwrap();
    let written = Written { id, writer };
    world.attach(&agent, &written);
    converges(&world, &written);
    let (_, uid, gid, _) = visible(&world.data(&written.id))["token"];
    assert_eq!((uid, gid), (1000, 4321));
    assert_ne!((uid, gid), (geteuid().as_raw(), getegid().as_raw()));
}

#[test]
fn a_change_of_one_key_of_a_thousand_costs_its_own_bytes() {
    let world = World::new();
    let agent = world.agent();
    let names: Vec<String> = (0..1000).map(|n| format!("key-{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut large = files(1, &names);
    large.values_mut().for_each(|file| file.bytes.resize(1048, b'.'));
    let config = world.make("configmap", "large", &large);
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    converges(&world, &config);
    let (bytes, calls) = world.relay.counted();
    assert!(bytes > 1 << 20, "all of it went through the relay");
    large.get_mut("key-0500").unwrap().bytes = vec![b'!'; 1048];
    config.writer.write(&large).unwrap();
    converges(&world, &config);
    let (bytes_after, calls_after) = world.relay.counted();
    let (bytes, calls) = (bytes_after - bytes, calls_after - calls);
    eprintln!("one key of 1048 bytes among 1000: {bytes} bytes, {calls} calls");
    assert!(bytes <= 4096 + 1048, "{bytes} bytes");
    assert!(calls <= 3, "{calls} calls");
}

#[test]
fn large_files_are_read_once_and_sent_once() {
    let world = World::new();
    let agent = world.agent();
    let mut large = files(1, &["blob", "same", "other", "small"]);
    for (name, byte) in [("blob", b'a'), ("same", b'a'), ("other", b'b')] {
        // More than a thread's worth, and not a multiple of any message.
        large.get_mut(name).unwrap().bytes = vec![byte; (5 << 20) + 7];
    }
    let config = world.make("configmap", "large", &large);
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    converges(&world, &config);
    // Looking again reads what was sent without a digest, and finds what the guest has said.
    let (sent, calls) = world.relay.counted();
    agent.sync(&config.id, PATIENCE).unwrap();
    assert_eq!(world.relay.counted(), (sent, calls));
    assert_eq!(report(&agent, &config).sequence, 1);
    // One of another length is sent alone; so is, after that, one of the same.
    for (generation, bytes) in [(2, vec![b'c'; 3 << 20]), (3, vec![b'd'; 3 << 20])] {
        let (before, _) = world.relay.counted();
        large.get_mut("other").unwrap().bytes = bytes;
        config.writer.write(&large).unwrap();
        converges(&world, &config);
        agent.sync(&config.id, PATIENCE).unwrap();
        let sent = world.relay.counted().0 - before;
        assert!((3 << 20..4 << 20).contains(&sent), "{sent} bytes for revision {generation}");
        assert_eq!(report(&agent, &config).sequence, generation);
    }
}

#[test]
fn a_cut_connection_is_made_up_for() {
    let world = World::new();
    let agent = world.agent();
    let config = world.make("configmap", "app", &files(1, &["a", "b"]));
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    for generation in 2..8 {
        world.relay.close(true);
        config.writer.write(&files(generation, &["a", "c"])).unwrap();
        let refused = agent.sync(&config.id, Duration::from_millis(500)).unwrap_err();
        assert!(refused.to_string().contains("not current"), "{refused}");
        let status = report(&agent, &config);
        assert!(!status.current && status.failure.is_some(), "{status:?}");
        world.relay.close(false);
        converges(&world, &config);
    }
    agent.sync(&config.id, PATIENCE).unwrap();
    assert!(report(&agent, &config).failure.is_none());
}

#[test]
fn a_connection_cut_at_any_byte_ends_in_the_newest_revision() {
    let world = World::new();
    let agent = world.agent();
    let config = world.make("configmap", "app", &files(1, &["a", "b"]));
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    let before = world.relay.counted().0;
    config.writer.write(&files(2, &["a", "b"])).unwrap();
    converges(&world, &config);
    let bytes = world.relay.counted().0 - before;
    for (turn, after) in (1..=bytes).step_by(47).enumerate() {
        world.relay.cut_after(after);
        let generation = 3 + turn as u64;
        config.writer.write(&files(generation, &["a", "b"])).unwrap();
        converges(&world, &config);
        let stamped = stamp(&fs::read(world.data(&config.id).join("a")).unwrap());
        assert_eq!(stamped, Some(generation));
    }
}

#[test]
fn a_restarted_host_agent_goes_on_where_it_was() {
    let world = World::new();
    let config = world.make("configmap", "app", &files(1, &["a", "b"]));
    let agent = world.agent();
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    drop(agent);
    // Nothing changed: nothing is sent but the question what the guest holds, and where.
    let before = world.relay.counted().0;
    let agent = world.agent();
    agent.sync(&config.id, PATIENCE).unwrap();
    let asked = world.relay.counted().0 - before;
    assert!(asked < 400, "{asked} bytes");
    drop(agent);
    config.writer.write(&files(2, &["a", "c"])).unwrap();
    let agent = world.agent();
    converges(&world, &config);
    agent.detach(std::slice::from_ref(&config.id)).unwrap();
    assert!(!world.data(&config.id).exists());
    drop(agent);
    assert!(world.agent().status().is_empty(), "that is remembered, too");
}

#[test]
fn a_volume_that_cannot_be_read_says_so_and_holds_up_no_other() {
    let world = World::new();
    let agent = world.agent();
    let good = world.make("configmap", "good", &files(1, &["a"]));
    let bad = world.make("configmap", "bad", &files(1, &["a"]));
    for volume in [&good, &bad] {
        world.attach(&agent, volume);
        agent.sync(&volume.id, PATIENCE).unwrap();
    }
    // What kubelet would never write.
    let current = bad.writer.target().join("..data/fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &current, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refused = agent.sync(&bad.id, Duration::from_millis(300)).unwrap_err().to_string();
    assert!(refused.contains("FIFO"), "{refused}");
    good.writer.write(&files(2, &["a", "b"])).unwrap();
    converges(&world, &good);
    let held = visible(&world.data(&bad.id));
    assert_eq!(held.keys().collect::<Vec<_>>(), ["a"], "the last good revision stays");
    fs::remove_file(current).unwrap();
    agent.sync(&bad.id, PATIENCE).unwrap();
}

#[test]
fn both_sides_say_how_a_volume_is() {
    let world = World::new();
    let agent = world.agent();
    let written = world.make("secret", "db", &files(1, &["user", "password"]));
    world.attach(&agent, &written);
    converges(&world, &written);
    agent.sync(&written.id, PATIENCE).unwrap();
    let text = agent.metrics();
    let labels = format!("{{volume=\"{}\",guest=\"{}\"}}", written.id, world.address());
    for (name, value) in [
        ("sealift_volume_current", "1"),
        ("sealift_volume_sequence", "1"),
        ("sealift_volume_lag_seconds", "0"),
        ("sealift_volume_failing", "0"),
    ] {
        let line = format!("{name}{labels} {value}");
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(text.lines().any(|line| line == "sealift_revision_lag_seconds_count 1"), "{text}");

    let [of_guest] = &agent.ask(&world.address()).unwrap()[..] else { panic!() };
    let of_host = report(&agent, &written);
    assert_eq!(of_guest.volume, of_host.volume);
    assert_eq!(of_guest.digest, of_host.digest);
    assert_eq!(of_guest.sequence, 1);
    assert_eq!(of_guest.entries, 2);

    world.relay.close(true);
    written.writer.write(&files(2, &["user"])).unwrap();
    let until = Instant::now() + PATIENCE;
    while report(&agent, &written).failure.is_none() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = agent.metrics();
    let line = format!("sealift_volume_failing{labels} 1");
    assert!(text.lines().any(|found| found == line), "{line} in {text}");
    assert!(agent.ask(&world.address()).is_err());
}

#[test]
fn a_storm_ends_in_its_last_revision_and_few_are_kept() {
    let world = World::new();
    let agent = world.agent();
    let config = world.make("configmap", "app", &files(1, &["a", "b"]));
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    let data = world.data(&config.id);
    for generation in 2..500 {
        config.writer.write(&files(generation, &["a", "b"])).unwrap();
        let names = fs::read_dir(&data).unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            (name.starts_with("..") && !name.starts_with("..data")).then_some(name)
        });
        let live = names.count();
        assert!(live <= 3, "{live} revisions");
    }
    converges(&world, &config);
    assert!(report(&agent, &config).sequence < 499, "those in between were passed over");
}

/// A guest that agrees to everything and then hangs up, again and again.
#[test]
fn a_guest_that_breaks_off_is_asked_less_and_less_and_its_volumes_can_move() {
    let world = World::new();
    let agent = world.agent();
    let config = world.make("configmap", "app", &files(1, &["a"]));
    world.relay.break_every(300);
    world.attach(&agent, &config);
    let refused = agent.sync(&config.id, Duration::from_secs(2)).unwrap_err();
    let rounds = world.relay.connections();
    assert!((2..=30).contains(&rounds), "{rounds} connections in 2 s: {refused}");
    // Its sandbox was made again, elsewhere; the old guest is not there any more.
    world.relay.close(true);
    let gone = Instant::now() + PATIENCE;
    while !report(&agent, &config).failure.is_some_and(|why| why.contains("connection failed")) {
        assert!(Instant::now() < gone);
        std::thread::sleep(Duration::from_millis(5));
    }
    let Source::Volume(found) =
        Kubelet::open(&world.kubelet()).unwrap().classify(config.writer.target())
    else {
        panic!()
    };
    let elsewhere = Address::Unix(world.dir.path().join("inner.sock"));
    let until = Instant::now() + PATIENCE;
    while agent.attach(std::slice::from_ref(&found), &elsewhere).is_err() {
        assert!(Instant::now() < until, "an unreachable guest keeps its volume");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.sync(&config.id, PATIENCE).unwrap();
    converges(&world, &config);
}

#[test]
fn a_guest_that_was_given_up_keeps_no_detached_volume() {
    let world = World::new();
    let agent = world.agent();
    let config = world.make("configmap", "app", &files(1, &["a"]));
    world.attach(&agent, &config);
    agent.sync(&config.id, PATIENCE).unwrap();
    std::fs::remove_file(world.dir.path().join("guest.sock")).unwrap();
    world.relay.close(true);
    // Many attempts later: those that a detached volume waits for are over.
    let failing = |agent: &Agent| {
        let text = agent.metrics();
        let line = text.lines().find(|line| line.starts_with("sealift_guest_failures_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let until = Instant::now() + PATIENCE;
    while failing(&agent) < 8 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.detach(std::slice::from_ref(&config.id)).unwrap();
    let Source::Volume(found) =
        Kubelet::open(&world.kubelet()).unwrap().classify(config.writer.target())
    else {
        panic!()
    };
    let elsewhere = Address::Unix(world.dir.path().join("inner.sock"));
    let until = Instant::now() + PATIENCE;
    while let Err(error) = agent.attach(std::slice::from_ref(&found), &elsewhere) {
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.sync(&config.id, PATIENCE).unwrap();
}

#[test]
fn what_is_detached_while_it_is_sent_is_gone_in_the_end() {
    let world = World::new();
    let agent = world.agent();
    let names: Vec<String> = (0..100).map(|n| format!("key-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for generation in 0..8 {
        let config = world.make("configmap", "app", &files(generation, &names));
        world.attach(&agent, &config);
        std::thread::sleep(Duration::from_millis(generation));
        agent.detach(std::slice::from_ref(&config.id)).unwrap();
        assert!(!world.data(&config.id).exists(), "{generation}");
        assert!(agent.status().is_empty());
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(fs::read_dir(world.dir.path().join("guest/volumes")).unwrap().count(), 0);
}

#[test]
fn hundreds_of_volumes_each_get_their_own() {
    let world = World::new();
    let agent = world.agent();
    let volumes: Vec<_> =
        (0..200).map(|n| world.make("secret", &format!("s{n}"), &files(n, &["key"]))).collect();
    volumes.iter().for_each(|volume| world.attach(&agent, volume));
    for volume in &volumes {
        agent.sync(&volume.id, PATIENCE).unwrap();
    }
    for (n, volume) in volumes.iter().enumerate() {
        volume.writer.write(&files(1000 + n as u64, &["key"])).unwrap();
    }
    volumes.iter().for_each(|volume| converges(&world, volume));
}

/// Between host and guest: counts, and cuts.
#[derive(Default)]
struct Relay {
    closed: AtomicBool,
    bytes: AtomicU64,
    calls: AtomicU64,
    /// Bytes from the host after which connections are cut, once; 0: none are.
    cut_after: AtomicU64,
    /// Bytes after which each connection is cut; 0: none is.
    every: AtomicU64,
    connections: AtomicU64,
    open: Mutex<Vec<UnixStream>>,
}

impl Relay {
    fn start(path: &Path, inner: PathBuf) -> Arc<Self> {
        let relay = Arc::new(Self::default());
        let listener = UnixListener::bind(path).unwrap();
        let own = Arc::clone(&relay);
        std::thread::spawn(move || {
            for host in listener.incoming() {
                let host = host.unwrap();
                if own.closed.load(Ordering::SeqCst) {
                    continue;
                }
                own.connections.fetch_add(1, Ordering::SeqCst);
                own.cut_after.fetch_max(own.every.load(Ordering::SeqCst), Ordering::SeqCst);
                let guest = UnixStream::connect(&inner).unwrap();
                own.open
                    .lock()
                    .unwrap()
                    .extend([host.try_clone().unwrap(), guest.try_clone().unwrap()]);
                let (mut host_in, mut guest_out) =
                    (host.try_clone().unwrap(), guest.try_clone().unwrap());
                let counting = Arc::clone(&own);
                std::thread::spawn(move || counting.forward(&mut host_in, &mut guest_out));
                let (mut guest_in, mut host_out) = (guest, host);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut guest_in, &mut host_out);
                    let _ = host_out.shutdown(Shutdown::Both);
                });
            }
        });
        relay
    }

    fn forward(&self, host: &mut UnixStream, guest: &mut UnixStream) {
        let mut pending: Vec<u8> = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(mut count @ 1..) = host.read(&mut buffer) {
            let cut_after = self.cut_after.load(Ordering::SeqCst);
            let cut = cut_after > 0 && count as u64 >= cut_after;
            if cut {
                count = usize::try_from(cut_after).unwrap() - 1;
                self.cut_after.store(0, Ordering::SeqCst);
            } else if cut_after > 0 {
                self.cut_after.fetch_sub(count as u64, Ordering::SeqCst);
            }
            self.bytes.fetch_add(count as u64, Ordering::SeqCst);
            pending.extend(&buffer[..count]);
            while let Some(header) = pending.first_chunk::<HEADER_BYTES>() {
                let whole = HEADER_BYTES + Header::parse(header).unwrap().payload_bytes;
                if pending.len() < whole {
                    break;
                }
                pending.drain(..whole);
                self.calls.fetch_add(1, Ordering::SeqCst);
            }
            if guest.write_all(&buffer[..count]).is_err() || cut {
                break;
            }
        }
        let _ = guest.shutdown(Shutdown::Both);
        let _ = host.shutdown(Shutdown::Both);
    }

    /// Cuts what is open and lets nothing through, or lets it through again.
    fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn break_every(&self, bytes: u64) {
        self.every.store(bytes, Ordering::SeqCst);
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    fn cut_after(&self, bytes: u64) {
        self.cut_after.store(bytes, Ordering::SeqCst);
    }

    fn counted(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::SeqCst), self.calls.load(Ordering::SeqCst))
    }
}
