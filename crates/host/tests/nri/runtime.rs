//! containerd's side of NRI, laid down from upstream's `api.proto`, `mux.go` and ttrpc's
//! `PROTOCOL.md`, and not from ours: what the plugin says is understood here by another decoder.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::proto::{bytes_of, number_of, put, put_number, text_of};

const PATIENCE: Duration = Duration::from_secs(30);
/// `PluginServiceConn` and `RuntimeServiceConn`.
const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;

/// The runtime's socket.
pub struct Runtime {
    listener: UnixListener,
    path: PathBuf,
}

impl Runtime {
    pub fn start(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        Self { listener: UnixListener::bind(path).unwrap(), path: path.to_path_buf() }
    }

    /// Waits for the plugin and its registration.
    pub fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection { stream, next: 1, received: [Vec::new(), Vec::new()] };
        let (stream, kind, request) = connection.frame(RUNTIME).expect("a registration");
        assert_eq!((stream % 2, kind), (1, 1), "a client's request");
        assert_eq!(text_of(&request, 1).unwrap(), "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(text_of(&request, 2).unwrap(), "RegisterPlugin");
        let register = bytes_of(&request, 3).unwrap().pop().unwrap();
        assert_eq!(text_of(register, 1).unwrap(), "sealift");
        assert_eq!(text_of(register, 2).unwrap(), "50");
        connection.write(RUNTIME, &frame(stream, 2, &[]));
        connection
    }

    /// Waits for the plugin, and goes through all that comes before the first pod.
    pub fn greet(&self, request_timeout_ms: u64, pods: &[Vec<u8>]) -> Connection {
        let mut connection = self.accept();
        let mut configure = Vec::new();
        put(&mut configure, 1, "some: yaml");
        put(&mut configure, 2, "containerd");
        put(&mut configure, 3, "v2.1.4");
        put_number(&mut configure, 4, 5000);
        put_number(&mut configure, 5, request_timeout_ms);
        put(&mut configure, 6, "v0.9.0");
        let configured = connection.call("Configure", &configure).unwrap();
        // RUN_POD_SANDBOX, STOP_POD_SANDBOX, REMOVE_POD_SANDBOX, CREATE_CONTAINER.
        assert_eq!(configured, [0x10, 0x0f]);
        let mut synchronize = Vec::new();
        pods.iter().for_each(|pod| put(&mut synchronize, 1, pod));
        put(&mut synchronize, 2, container("other", &[]));
        assert_eq!(connection.call("Synchronize", &synchronize).unwrap(), [0_u8; 0]);
        connection
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A connection to the plugin.
pub struct Connection {
    stream: UnixStream,
    next: u32,
    received: [Vec<u8>; 2],
}

impl Connection {
    /// The answer, or a refusal's code and text.
    pub fn call(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, (u64, String)> {
        self.call_within(method, payload, 0)
    }

    /// The same, saying how long the runtime waits.
    pub fn call_within(
        &mut self,
        method: &str,
        payload: &[u8],
        timeout_ns: u64,
    ) -> Result<Vec<u8>, (u64, String)> {
        let number = self.send(method, payload, timeout_ns);
        let (stream, answer) = self.answer();
        assert_eq!(stream, number);
        answer
    }

    /// Calls without waiting for the answer.
    pub fn send(&mut self, method: &str, payload: &[u8], timeout_ns: u64) -> u32 {
        let mut request = Vec::new();
        put(&mut request, 1, "nri.pkg.api.v1alpha1.Plugin");
        put(&mut request, 2, method);
        put(&mut request, 3, payload);
        if timeout_ns > 0 {
            put_number(&mut request, 4, timeout_ns);
        }
        let number = self.next;
        self.next += 2;
        self.write(PLUGIN, &frame(number, 1, &request));
        number
    }

    /// The next answer, and to which call.
    pub fn answer(&mut self) -> (u32, Result<Vec<u8>, (u64, String)>) {
        let (stream, kind, response) = self.frame(PLUGIN).expect("an answer");
        assert_eq!(kind, 2, "a response");
        let status = bytes_of(&response, 1).unwrap().pop().unwrap_or_default();
        let answer = match number_of(status, 1).unwrap() {
            0 => Ok(bytes_of(&response, 2).unwrap().pop().unwrap_or_default().to_vec()),
            code => Err((code, text_of(status, 2).unwrap())),
        };
        (stream, answer)
    }

    /// As Go's buffered writer cuts it: 4096 bytes, then the rest at once.
    fn write(&mut self, connection: u32, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(4096));
        for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
            let length = u32::try_from(piece.len()).unwrap();
            let header = [connection.to_be_bytes(), length.to_be_bytes()].concat();
            self.stream.write_all(&[&header, piece].concat()).unwrap();
        }
    }

    /// Any bytes.
    pub fn write_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Whether the plugin hangs up, with nothing more to say.
    pub fn hangs_up(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// The next ttrpc frame on a connection: stream, type, payload.
    fn frame(&mut self, connection: u32) -> Option<(u32, u8, Vec<u8>)> {
        loop {
            let received = &mut self.received[connection as usize - 1];
            if let Some(header) = received.first_chunk::<10>() {
                let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
                let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
                let (kind, flags) = (header[8], header[9]);
                assert_eq!(flags, 0);
                if received.len() >= 10 + length {
                    let payload = received[10..10 + length].to_vec();
                    received.drain(..10 + length);
                    return Some((stream, kind, payload));
                }
            }
            let mut header = [0; 8];
            self.stream.read_exact(&mut header).ok()?;
            let from = u32::from_be_bytes(header[..4].try_into().unwrap());
            let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
            assert!(length <= 4096, "Go's buffered reader has no room for {length} bytes");
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).ok()?;
            self.received[from as usize - 1].extend(payload);
        }
    }
}

fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

/// `PodSandbox`, with fields that nobody here needs and one that does not exist yet.
pub fn pod(id: &str, uid: &str, handler: &str, annotation: Option<&str>) -> Vec<u8> {
    let map = |key: &str, value: &str| {
        let mut entry = Vec::new();
        put(&mut entry, 1, key);
        put(&mut entry, 2, value);
        entry
    };
    let mut pod = Vec::new();
    put(&mut pod, 1, id);
    put(&mut pod, 2, "web-0");
    put(&mut pod, 3, uid);
    put(&mut pod, 4, "shop");
    put(&mut pod, 5, map("app", "web"));
    put(&mut pod, 6, map("kubernetes.io/config.seen", "2026-11-22"));
    if let Some(value) = annotation {
        put(&mut pod, 6, map("sealift.dev/volumes", value));
    }
    put(&mut pod, 7, handler);
    put(&mut pod, 8, map("x", "y"));
    put_number(&mut pod, 9, 4711);
    put(&mut pod, 10, "10.0.0.7");
    put(&mut pod, 4711, "of a later release");
    pod
}

/// A mount: destination and source.
pub type Asked<'a> = (&'a str, &'a Path);

/// `Container`.
pub fn container(name: &str, mounts: &[Asked<'_>]) -> Vec<u8> {
    let mut container = Vec::new();
    put(&mut container, 1, "c0ffee");
    put(&mut container, 2, "some sandbox");
    put(&mut container, 3, name);
    put_number(&mut container, 4, 1);
    put(&mut container, 8, "PATH=/bin");
    for (destination, source) in mounts {
        let mut mount = Vec::new();
        put(&mut mount, 1, destination);
        put(&mut mount, 2, "bind");
        put(&mut mount, 3, source.to_str().unwrap());
        ["rbind", "rprivate", "ro"].iter().for_each(|option| put(&mut mount, 4, option));
        put(&mut container, 9, mount);
    }
    container
}

/// `CreateContainerRequest`.
pub fn create(pod: &[u8], container: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    put(&mut request, 1, pod);
    put(&mut request, 2, container);
    request
}

/// The requests about a pod that have a call of their own in later releases.
pub fn about(pod: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    put(&mut request, 1, pod);
    request
}

/// `StateChangeEvent`.
pub fn state_change(event: u64, pod: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    put_number(&mut request, 1, event);
    put(&mut request, 2, pod);
    request
}

/// A mount of an adjustment: destination, type, source, options.
pub type Adjusted = (String, String, String, Vec<String>);

/// What is removed, and what is added, of a `CreateContainerResponse`.
pub fn adjusted(response: &[u8]) -> (Vec<String>, Vec<Adjusted>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let adjust = bytes_of(response, 1).unwrap().pop().unwrap_or_default();
    for mount in bytes_of(adjust, 3).unwrap() {
        let destination = text_of(mount, 1).unwrap();
        // `IsMarkedForRemoval`.
        match destination.strip_prefix('-') {
            Some(destination) => removed.push(destination.to_owned()),
            None => {
                let options = bytes_of(mount, 4).unwrap().into_iter();
                let options = options.map(|option| String::from_utf8(option.to_vec()).unwrap());
                let (kind, source) = (text_of(mount, 2).unwrap(), text_of(mount, 3).unwrap());
                added.push((destination, kind, source, options.collect()));
            }
        }
    }
    (removed, added)
}
