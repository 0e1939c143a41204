//! A node with kubelet's directory, guests, and Kata's shims as far as they are asked.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::policy::Policy;
use guest::server::{Limits, Server};
use host::agent::{Agent, Options};
use host::guest::Protocol;
use host::nri::plugin::{self, Plugin};
use link::listen::Listener;
use publish::volumes::PlainDirectories;
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, Payload, make_volume, payload};

pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub dir: TempDir,
    pub agent: Agent,
}

impl World {
    /// With a plugin that looks for its runtime.
    pub fn new(change: impl FnOnce(&mut plugin::Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kubelet/pods")).unwrap();
        let agent = Agent::start(Options {
            state_dir: dir.path().join("state"),
            timeout: Duration::from_secs(10),
            rescan: Duration::from_secs(3600),
            backoff_max: Duration::from_millis(200),
            tls: None,
        })
        .unwrap();
        let mut plugin = plugin::Options {
            kubelet_root: dir.path().join("kubelet"),
            handlers: Vec::new(),
            shim_dirs: vec![dir.path().join("nothing"), dir.path().join("sbs")],
            protocol: Protocol::Sealift,
            port: 1027,
            guest_root: dir.path().to_path_buf(),
            refuse_subpaths: false,
        };
        change(&mut plugin);
        let options = host::nri::Options {
            socket: dir.path().join("nri.sock"),
            name: "sealift".into(),
            index: 50,
            backoff_max: Duration::from_millis(200),
        };
        host::nri::start(Plugin::new(agent.clone(), plugin), options).unwrap();
        Self { dir, agent }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn make(
        &self,
        uid: &str,
        plugin: &'static str,
        name: &str,
        files: &[&str],
    ) -> AtomicWriter {
        self.write(uid, plugin, name, &payload(1, files))
    }

    pub fn write(
        &self,
        uid: &str,
        plugin: &'static str,
        name: &str,
        payload: &Payload,
    ) -> AtomicWriter {
        let volume = make_volume(&self.path("kubelet"), uid, plugin, name).unwrap();
        volume.writer.write(payload).unwrap();
        volume.writer
    }

    /// A guest agent of ours, at `<name>.sock`.
    pub fn guest(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        let mounter = Box::new(PlainDirectories::prepare(&root, None).unwrap());
        let grace = Duration::from_millis(50);
        let options = publish::volumes::Options { grace, ..Default::default() };
        let agent = guest::agent::Agent::open(&root, Policy::default(), options, mounter).unwrap();
        let agent = Arc::new(Mutex::new(agent));
        guest::agent::spawn_keeper(&agent).unwrap();
        let socket = self.path(&format!("{name}.sock"));
        let listener = Listener::bind(&link::listen::Address::Unix(socket.clone()), None).unwrap();
        std::thread::spawn(move || Server::new(agent, Limits::default()).run(&listener));
        socket
    }

    /// The shim of a sandbox, which answers this to `GET /agent-url`.
    pub fn shim(&self, sandbox: &str, url: &str) {
        let dir = self.path("sbs").join(sandbox);
        fs::create_dir_all(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("shim-monitor.sock")).unwrap();
        let length = url.len();
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{url}");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    request.push(byte[0]);
                }
                // Who has given up meanwhile asks again.
                if request.ends_with(b"\r\n\r\n") {
                    let request = String::from_utf8(request).unwrap();
                    assert!(request.starts_with("GET /agent-url HTTP/1."), "{request}");
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
    }

    /// A VMM with hybrid vsock, behind which `guest` listens at a port.
    pub fn vmm(&self, name: &str, port: u32, guest: &Path) -> PathBuf {
        let path = self.path(name);
        let listener = UnixListener::bind(&path).unwrap();
        let guest = guest.to_path_buf();
        std::thread::spawn(move || {
            for host in listener.incoming() {
                let mut host = host.unwrap();
                let wanted = format!("CONNECT {port}\n");
                let mut greeting = vec![0; wanted.len()];
                host.read_exact(&mut greeting).unwrap();
                if greeting != wanted.as_bytes() {
                    continue;
                }
                host.write_all(b"OK 1073741824\n").unwrap();
                relay(host, UnixStream::connect(&guest).unwrap());
            }
        });
        path
    }
}

fn relay(one: UnixStream, other: UnixStream) {
    let pairs = [(one.try_clone(), other.try_clone()), (Ok(other), Ok(one))];
    for (from, to) in pairs {
        let (mut from, mut to) = (from.unwrap(), to.unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}

/// Waits until it is so.
#[track_caller]
pub fn until(what: &str, so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
