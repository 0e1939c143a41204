//! The program, confined, with nothing of its own on disk: its certificate and private key are
//! released by the key source, which also opens what is sealed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::program::unmount_below;
use common::{conversation, frames, volume};
use link::tls;
use publish::volumes::Tmpfs;
use rustix::net::sockopt::socket_peercred;
use tempfile::TempDir;
use testkit::tls::Authority;
use volumes::name::Category;
use volumes::refusal::Reason;
use volumes::wire::cdh::{Call, PAYLOAD_BYTES_MAX, answer_head};
use volumes::wire::message::{Message, Response};
use volumes::wire::stream::{read_frame, read_frame_up_to};

const PATIENCE: Duration = Duration::from_secs(60);
const CERT: &str = "kbs:///pod/tls/cert";
const KEY: &str = "kbs:///pod/tls/key";

struct World {
    dir: TempDir,
    /// What the key source was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    /// The processes that connected to it.
    peers: Arc<Mutex<BTreeSet<i32>>>,
    port: u16,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let authority = Authority::new().unwrap();
        fs::write(path("ca"), authority.pem()).unwrap();
        authority.issue(&["host"]).unwrap().write(&path("host.crt"), &path("host.key")).unwrap();
        let (crt, key) = (path("released.crt"), path("released.key"));
        authority.issue(&["127.0.0.1"]).unwrap().write(&crt, &key).unwrap();
        let resources: BTreeMap<String, Vec<u8>> = [(CERT, crt), (KEY, key)]
            .map(|(uri, file)| (uri.into(), fs::read(&file).unwrap()))
            .into();
        for file in ["released.crt", "released.key"] {
            fs::remove_file(path(file)).unwrap();
        }
        let (asked, peers) = (Arc::default(), Arc::default());
        let listener = UnixListener::bind(path("cdh.sock")).unwrap();
        serve(listener, resources, Arc::clone(&asked), Arc::clone(&peers));
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        Self { dir, asked, peers, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, cert: &str, key: &str, arguments: &[&str]) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealift-guest"));
        command.args(["run", "--listen"]);
        command.arg(format!("tls:127.0.0.1:{}", self.port));
        command.arg("--root").arg(self.path("root")).args(["--tls-cert", cert, "--tls-key", key]);
        command.arg("--tls-client-ca").arg(self.path("ca")).args(arguments);
        Agent(command.env_remove("SEALIFT_LOG").stderr(Stdio::piped()).spawn().unwrap())
    }

    fn key_source(&self) -> String {
        format!("unix:{}", self.path("cdh.sock").display())
    }

    fn connect(&self) -> link::Stream {
        let files = tls::Files { chain: self.path("host.crt"), key: self.path("host.key") };
        let host = tls::Client::new(Box::new(files), self.path("ca")).unwrap();
        let address: link::dial::Address = format!("tls:127.0.0.1:{}", self.port).parse().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            match address.connect(Some(&host), until) {
                Ok(mut stream) => {
                    stream.set_deadline(Some(until));
                    return stream;
                }
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        unmount_below(self.dir.path());
    }
}

/// A data hub: resources by name, and `sealed.x` is `opened x`.
fn serve(
    listener: UnixListener,
    resources: BTreeMap<String, Vec<u8>>,
    asked: Arc<Mutex<Vec<String>>>,
    peers: Arc<Mutex<BTreeSet<i32>>>,
) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut payload) = (stream.unwrap(), Vec::new());
            peers.lock().unwrap().insert(socket_peercred(&stream).unwrap().pid.as_raw_pid());
            let frame = read_frame_up_to(&mut stream, &mut payload, PAYLOAD_BYTES_MAX);
            let Ok(Some(header)) = frame else { continue };
            let value = match Call::decode(&payload).unwrap() {
                Call::Unseal(sealed) | Call::UnsealForItsFile(sealed) => {
                    [b"opened ", &sealed[b"sealed.".len()..]].concat()
                }
                Call::Resource(uri) => {
                    asked.lock().unwrap().push(uri.to_owned());
                    // One that is not there closes the connection, which is an error, too.
                    let Some(value) = resources.get(uri) else { continue };
                    value.clone()
                }
                Call::Other => continue,
            };
            let answer = [answer_head(header.stream, value.len()), value].concat();
            stream.write_all(&answer).unwrap();
        }
    });
}

struct Agent(Child);

impl Agent {
    /// Waits for its end, which is a failure; what it said.
    fn fails(mut self) -> String {
        let mut said = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(42), "{said}");
        said
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One message and its answer.
fn one(stream: &mut link::Stream, message: &(&'static str, Vec<u8>)) -> Result<(), Reason> {
    stream.write_all(&frames(std::slice::from_ref(message))).unwrap();
    let mut payload = Vec::new();
    read_frame(stream, &mut payload).unwrap().unwrap();
    Response::decode(&payload).unwrap().0.map(drop).map_err(|refusal| refusal.reason)
}

#[test]
fn a_released_identity_serves_tls_and_sealed_values_open() {
    opens(&World::new(), &["--plain-directories"]);
}

#[test]
fn in_two_processes_the_mounter_connects_to_the_key_source() {
    let world = World::new();
    match Tmpfs::prepare(&world.path("root"), None) {
        Ok(_) => opens(&world, &[]),
        Err(error) => testkit::skip(format!("mounts: {error}")),
    }
}

fn opens(world: &World, arguments: &[&str]) {
    let source = world.key_source();
    let arguments = [&["--key-source", &source, "--grace-ms", "0"], arguments].concat();
    let agent = world.start(CERT, KEY, &arguments);
    for sequence in 1..=3 {
        let value = format!("sealed.{sequence}");
        let files = [("plain", &b"text"[..]), ("password", value.as_bytes())];
        let messages = conversation(&volume("pod.db"), Category::Secret, sequence, &files);
        let mut stream = world.connect();
        let (commit, parts) = messages.split_last().unwrap();
        let until = Instant::now() + PATIENCE;
        parts.iter().for_each(|part| one(&mut stream, part).unwrap());
        while let Err(reason) = one(&mut stream, commit) {
            match reason {
                // The end of the connection before has swept it away.
                Reason::Missing => parts.iter().for_each(|part| one(&mut stream, part).unwrap()),
                Reason::Opening | Reason::TooSoon => {}
                other => panic!("{other}"),
            }
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(5));
        }
        let data = world.path("root/volumes/pod.db/data");
        assert_eq!(
            fs::read_to_string(data.join("password")).unwrap(),
            format!("opened {sequence}")
        );
        assert_eq!(fs::read_to_string(data.join("plain")).unwrap(), "text");
    }
    // Once for all connections, so that strangers cause no attestations.
    assert_eq!(*world.asked.lock().unwrap(), [CERT, KEY]);
    let first = i32::try_from(agent.0.id()).unwrap();
    assert_eq!(*world.peers.lock().unwrap(), [first].into(), "the process that was started");
}

#[test]
fn without_its_identity_the_agent_does_not_start() {
    let world = World::new();
    let said = world
        .start(
            CERT,
            "kbs:///pod/tls/none",
            &["--plain-directories", "--key-source", &world.key_source()],
        )
        .fails();
    assert!(said.contains("the certificate's source failed"), "{said}");
    assert!(said.contains(&world.path("cdh.sock").display().to_string()), "{said}");
    let said = world.start(CERT, KEY, &["--plain-directories"]).fails();
    assert!(said.contains("needs --key-source"), "{said}");
    let file = world.path("host.key");
    let said = world
        .start(
            CERT,
            file.to_str().unwrap(),
            &["--plain-directories", "--key-source", &world.key_source()],
        )
        .fails();
    assert!(said.contains("two files or two resources"), "{said}");
    assert!(!world.path("root/volumes/pod.db").exists());
}
