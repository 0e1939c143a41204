//! Readers in a guest while kubelet changes a volume on the node, through both agents:
//! SPECIFICATION P2. `SEALIFT_TORN_UPDATES` sets how many updates they watch.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::policy::Policy;
use guest::server::{Limits, Server};
use host::agent::{Agent, Options};
use host::kubelet::{Kubelet, Source};
use link::dial::Address;
use link::listen::{self, Listener};
use publish::volumes::{Mounter, PlainDirectories, Tmpfs};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, Payload, Projection, make_volume, pod_uid};
use testkit::torn::{Report, Setup, Writer, contents, watch};
use volumes::name::VolumeId;

/// As many as a test that runs with every change may take.
const UPDATES: u64 = 1_000;
const FIRST: u64 = 1;
/// The guest has three revisions at a time, so two updates fit into this.
const GRACE: Duration = Duration::from_millis(8);
const PATIENCE: Duration = Duration::from_secs(60);

fn updates() -> u64 {
    let number = |text: String| text.parse().expect("SEALIFT_TORN_UPDATES is a number");
    std::env::var("SEALIFT_TORN_UPDATES").map_or(UPDATES, number)
}

/// A volume on a node, both agents, and how kubelet is paced.
struct Node {
    dir: TempDir,
    host: Agent,
    kubelet: AtomicWriter,
    id: VolumeId,
    pace: Pace,
}

enum Pace {
    /// The next update comes when the guest has this one, and a moment after.
    Paced,
    /// As fast as files can be written, until this one, which is waited for.
    StormUntil(u64),
}

impl Node {
    fn new(grace: Duration, pace: Pace) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let address = guest(dir.path(), grace);
        let volume = make_volume(&dir.path().join("kubelet"), &pod_uid(1), "secret", "s").unwrap();
        volume.writer.write(&payload(FIRST)).unwrap();
        let kubelet = Kubelet::open(&dir.path().join("kubelet")).unwrap();
        let Source::Volume(found) = kubelet.classify(volume.writer.target()) else { panic!() };
        let host =
            Agent::start(Options { state_dir: dir.path().join("state"), ..Options::default() })
                .unwrap();
        let id = found.id.clone();
        host.attach(&[found], &address).unwrap();
        host.sync(&id, PATIENCE).unwrap();
        Self { dir, host, kubelet: volume.writer, id, pace }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("guest/volumes").join(self.id.as_str()).join("data")
    }
}

impl Writer for Node {
    fn publish(&mut self, generation: u64) -> anyhow::Result<()> {
        if generation.is_multiple_of(10_000) {
            // A long run that is cut short was without findings up to here.
            println!("generation {generation}");
        }
        self.kubelet.write(&payload(generation))?;
        match self.pace {
            Pace::Paced => {
                self.host.sync(&self.id, PATIENCE)?;
                std::thread::sleep(GRACE * 5 / 8);
            }
            Pace::StormUntil(last) if generation == last => self.host.sync(&self.id, PATIENCE)?,
            Pace::StormUntil(_) => {}
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let root = self.dir.path().join("guest");
        let volumes = root.join("volumes").join(self.id.as_str());
        for mount in [&volumes, &root] {
            let _ = unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

fn payload(generation: u64) -> Payload {
    let file = |bytes| Projection { bytes, mode: 0o644, uid: None };
    contents(generation).into_iter().map(|(path, bytes)| (path.to_owned(), file(bytes))).collect()
}

/// A guest agent, with mounts if it may have them.
fn guest(dir: &Path, grace: Duration) -> Address {
    let root = dir.join("guest");
    let mounter: Box<dyn Mounter> = match Tmpfs::prepare(&root, None) {
        Ok(mounter) => Box::new(mounter),
        Err(error) => {
            testkit::skip(format!("mounts; directories instead: {error}"));
            Box::new(PlainDirectories::prepare(&root, None).unwrap())
        }
    };
    let options = publish::volumes::Options { grace, ..Default::default() };
    let agent = guest::agent::Agent::open(&root, Policy::default(), options, mounter).unwrap();
    let agent = Arc::new(Mutex::new(agent));
    guest::agent::spawn_keeper(&agent).unwrap();
    let socket = dir.join("guest.sock");
    let listener = Listener::bind(&listen::Address::Unix(socket.clone()), None).unwrap();
    let server = Server::new(agent, Limits::default());
    std::thread::spawn(move || server.run(&listener));
    Address::Unix(socket)
}

fn faultless(report: &Report, updates: u64, began: Instant) {
    println!("{report:?} in {:?}", began.elapsed());
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert_eq!(report.updates, updates);
    assert!(report.passes >= 16);
}

#[test]
fn no_container_sees_half_of_what_kubelet_wrote() {
    let (began, updates) = (Instant::now(), updates());
    let mut node = Node::new(GRACE, Pace::Paced);
    let setup =
        Setup { data: node.data(), first: FIRST, updates, grace: GRACE, readers: [6, 6, 4] };
    let report = watch(&setup, &mut node).unwrap();
    faultless(&report, updates, began);
    assert!(report.events > 0);
}

/// Kubelet is faster than the agents, which read its volume while it switches and removes what they
/// read: revisions are passed over, never mixed.
#[test]
fn readers_by_path_survive_a_storm_of_kubelets() {
    let (began, updates) = (Instant::now(), updates());
    let mut node = Node::new(GRACE, Pace::StormUntil(FIRST + updates));
    let setup =
        Setup { data: node.data(), first: FIRST, updates, grace: GRACE, readers: [16, 0, 0] };
    faultless(&watch(&setup, &mut node).unwrap(), updates, began);
}
