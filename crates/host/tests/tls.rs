//! The two agents joined by a network: volumes and certificates rotate, connections are cut, and what
//! is refused says why.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::policy::Policy;
use guest::server::{Limits, Server};
use host::agent::{Agent, Error, Options, VolumeReport};
use host::kubelet::{FoundVolume, Kubelet, Source};
use link::dial::Address;
use link::listen::Listener;
use link::tls;
use publish::volumes::PlainDirectories;
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, make_volume, payload, pod_uid, stamp};
use testkit::tls::Authority;
use volumes::name::VolumeId;

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    dir: TempDir,
    relay: Relay,
    writer: AtomicWriter,
    id: VolumeId,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        issue(dir.path(), "hosts", "host", "node-1.example");
        issue(dir.path(), "guests", "guest", "guest-7.pods.example");
        let root = dir.path().join("guest");
        let mounter = Box::new(PlainDirectories::prepare(&root, None).unwrap());
        let options = publish::volumes::Options::default();
        let agent = guest::agent::Agent::open(&root, Policy::default(), options, mounter).unwrap();
        let names = vec!["node-1.example".to_owned()];
        let ca = dir.path().join("hosts.pem");
        let server = tls::Server::new(Box::new(files(dir.path(), "guest")), ca, names).unwrap();
        let any = "tls:127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&any, Some(&Arc::new(server))).unwrap();
        let relay = Relay::start(listener.tcp_address().unwrap());
        let server = Server::new(Arc::new(Mutex::new(agent)), Limits::default());
        std::thread::spawn(move || server.run(&listener));
        let volume = make_volume(&dir.path().join("kubelet"), &pod_uid(1), "secret", "db").unwrap();
        let id = VolumeId::parse(&format!("{}.db", pod_uid(1))).unwrap();
        Self { dir, relay, writer: volume.writer, id }
    }

    fn options(&self) -> Options {
        let identity = Box::new(files(self.dir.path(), "host"));
        let tls = tls::Client::new(identity, self.dir.path().join("guests.pem")).unwrap();
        Options {
            state_dir: self.dir.path().join("state"),
            timeout: Duration::from_secs(10),
            rescan: Duration::from_secs(3600),
            backoff_max: Duration::from_millis(200),
            tls: Some(Arc::new(tls)),
        }
    }

    /// The guest by its own name, wherever it is.
    fn address(&self) -> Address {
        format!("tls:guest-7.pods.example@{}", self.relay.address).parse().unwrap()
    }

    fn write(&self, generation: u64) {
        self.writer.write(&payload(generation, &["password"])).unwrap();
    }

    fn found(&self) -> FoundVolume {
        let kubelet = Kubelet::open(&self.dir.path().join("kubelet")).unwrap();
        let Source::Volume(found) = kubelet.classify(self.writer.target()) else { panic!() };
        found
    }

    #[track_caller]
    fn arrives(&self, generation: u64) {
        let volume = self.dir.path().join("guest/volumes").join(self.id.as_str());
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = fs::read(volume.join("data/password")).ok().and_then(|text| stamp(&text));
            if seen == Some(generation) {
                return;
            }
            assert!(Instant::now() < until, "{seen:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The volume's report as soon as it gives this reason.
    #[track_caller]
    fn fails(&self, agent: &Agent, reason: &str) -> VolumeReport {
        let until = Instant::now() + PATIENCE;
        loop {
            let report = agent.status().pop().unwrap();
            if report.failure.as_ref().is_some_and(|failure| failure.contains(reason)) {
                return report;
            }
            assert!(Instant::now() < until, "{report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A new CA, and a new certificate of it, in the files that may be there.
fn issue(dir: &Path, ca: &str, name: &str, identity: &str) {
    let authority = Authority::new().unwrap();
    fs::write(dir.join(format!("{ca}.pem")), authority.pem()).unwrap();
    let tls::Files { chain, key } = files(dir, name);
    authority.issue(&[identity]).unwrap().write(&chain, &key).unwrap();
}

fn files(dir: &Path, name: &str) -> tls::Files {
    let path = |end: &str| -> PathBuf { dir.join(format!("{name}.{end}")) };
    tls::Files { chain: path("crt"), key: path("key") }
}

#[test]
fn a_guest_on_the_network_is_kept_current_over_cuts_and_new_certificates() {
    let world = World::new();
    let agent = Agent::start(world.options()).unwrap();
    world.write(1);
    agent.attach(&[world.found()], &world.address()).unwrap();
    agent.sync(&world.id, PATIENCE).unwrap();
    world.arrives(1);
    world.write(2);
    world.arrives(2);
    // Over the one connection that there is: nothing made the host take it for a broken one.
    assert_eq!(world.relay.connections(), 1);
    world.relay.cut();
    world.write(3);
    world.arrives(3);
    // Both sides anew, while the connection lasts, and then without it.
    issue(world.dir.path(), "hosts", "host", "node-1.example");
    issue(world.dir.path(), "guests", "guest", "guest-7.pods.example");
    world.write(4);
    world.arrives(4);
    world.relay.cut();
    world.write(5);
    world.arrives(5);
    assert!(agent.status()[0].failure.is_none());
    drop(agent);
    // What is attached is remembered with its name.
    let agent = Agent::start(world.options()).unwrap();
    assert_eq!(agent.status()[0].guest, world.address().to_string());
    world.write(6);
    world.arrives(6);
}

#[test]
fn whoever_is_not_known_gets_nothing_and_the_reason_is_shown() {
    let world = World::new();
    let agent = Agent::start(world.options()).unwrap();
    world.write(1);
    agent.attach(&[world.found()], &world.address()).unwrap();
    agent.sync(&world.id, PATIENCE).unwrap();
    // Another guest is there now, in the same place: of the right CA, and not the one that is meant.
    issue(world.dir.path(), "guests", "guest", "guest-8.pods.example");
    world.relay.cut();
    world.write(2);
    world.fails(&agent, "not valid for name");
    issue(world.dir.path(), "guests", "guest", "guest-7.pods.example");
    world.arrives(2);
    // And another host.
    issue(world.dir.path(), "hosts", "host", "node-2.example");
    world.relay.cut();
    world.write(3);
    let report = world.fails(&agent, "AccessDenied");
    assert!(!report.current);
    world.arrives(2);
    issue(world.dir.path(), "hosts", "host", "node-1.example");
    world.arrives(3);
}

#[test]
fn a_network_address_without_certificates_is_refused_at_once() {
    let world = World::new();
    world.write(1);
    let agent = Agent::start(Options { tls: None, ..world.options() }).unwrap();
    let refused = agent.attach(&[world.found()], &world.address()).unwrap_err();
    assert!(matches!(refused, Error::NoTls(_)), "{refused}");
    assert!(agent.status().is_empty());
}

/// Between host and guest: passes everything on, until it is cut.
struct Relay {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    count: Arc<Mutex<usize>>,
}

impl Relay {
    fn start(guest: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Self { address, open: Arc::default(), count: Arc::default() };
        let (open, count) = (Arc::clone(&relay.open), Arc::clone(&relay.count));
        std::thread::spawn(move || {
            for host in listener.incoming() {
                let (host, guest) = (host.unwrap(), TcpStream::connect(guest).unwrap());
                *count.lock().unwrap() += 1;
                let clone = |stream: &TcpStream| stream.try_clone().unwrap();
                open.lock().unwrap().extend([clone(&host), clone(&guest)]);
                for (mut from, mut to) in [(clone(&host), clone(&guest)), (guest, host)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn connections(&self) -> usize {
        *self.count.lock().unwrap()
    }
}
