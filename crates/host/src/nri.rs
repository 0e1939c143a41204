//! The agent as an NRI plugin of containerd or CRI-O: it learns which pods run in a guest, attaches
//! their volumes, and gives their containers the guest's directories in place of the host's.
//!
//! One thread reads what the runtime says; a container that is made has a thread of its own until
//! its volumes are there. The runtime waits for an answer for a limited time (2 s by default), then
//! drops the plugin and makes the container without it: so each request is answered after three
//! quarters of that time, with an error if need be, and after seven eighths whatever happens. When the runtime goes away, the
//! plugin comes back to it.
//!
//! | module | holds |
//! |---|---|
//! | [`mux`], [`message`] | the protocol, without sockets |
//! | [`shim`] | where a sandbox's agent listens |
//! | [`plugin`] | what is done about pods and containers |
//!
//! Source: containerd/nri, `pkg/stub/stub.go` and `pkg/adaptation/plugin.go`.

pub mod message;
pub mod mux;
pub mod plugin;
pub mod shim;

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use volumes::chain;
use volumes::wire::frame::{Header as FrameHeader, Kind, frame};
use volumes::wire::message::{Message, Request, Response};
use volumes::wire::stream::Broken;

use self::message::{Code, Configure, CreateContainer, Event, Pod, Synchronize};
use self::mux::{Connection, HEADER_BYTES, Header};
use self::plugin::Plugin;
use crate::lock;

/// Where runtimes listen for plugins.
pub const SOCKET: &str = "/var/run/nri/nri.sock";

/// How the agent introduces itself to a runtime.
#[derive(Debug, Clone)]
pub struct Options {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// The plugin's name: letters, digits and `_.+-`.
    pub name: String,
    /// Its place among plugins, below 100: lower ones are called first.
    pub index: u8,
    /// The longest pause between two attempts to reach the runtime.
    pub backoff_max: Duration,
}

/// Whether a runtime accepts this name: `CheckPluginName` of upstream's `pkg/api/plugin.go`.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

/// Starts a thread that is the runtime's plugin whenever the runtime is there.
pub fn start(plugin: Plugin, options: Options) -> io::Result<()> {
    plugin.agent().set_runtime(false);
    let plugin = Arc::new(plugin);
    spawn("nri", move || run(&plugin, &options))
}

/// The pause before a second attempt; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(100);

fn run(plugin: &Arc<Plugin>, options: &Options) -> ! {
    let mut pause = BACKOFF;
    let mut told = false;
    loop {
        let begun = Instant::now();
        plugin.agent().set_runtime(false);
        let ended = UnixStream::connect(&options.socket).map_err(Broken::from);
        let ended = ended.and_then(|stream| {
            told = false;
            Session::new(plugin, stream)?.run(options)
        });
        let error = match &ended {
            Ok(()) => "the runtime hung up".into(),
            Err(error) => chain(error),
        };
        // A runtime that is away is news once.
        match told {
            false => tracing::warn!(socket = %options.socket.display(), %error, "no NRI runtime"),
            true => tracing::debug!(%error, "no NRI runtime"),
        }
        told = true;
        // One that was there for a while is probably restarting.
        if begun.elapsed() > options.backoff_max {
            pause = BACKOFF;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(options.backoff_max);
    }
}

/// How long a runtime may take from its connection to the call of `Configure`, and for the rest of
/// what it has begun to say; how long we may take to be heard.
const PATIENCE: Duration = Duration::from_secs(10);
/// Upstream's default for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest request timeout that is believed.
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Containers that are made at a time.
const CONTAINERS_MAX: usize = 256;

/// A connection to a runtime.
struct Session {
    plugin: Arc<Plugin>,
    stream: UnixStream,
    answers: Arc<Answers>,
    request_timeout: Duration,
    pods: Vec<Pod>,
}

/// The way back, for several threads.
struct Answers {
    stream: Mutex<UnixStream>,
    /// Containers whose threads are at work.
    containers: AtomicUsize,
}

impl Answers {
    fn send(
        &self,
        connection: Connection,
        kind: Kind,
        number: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let bytes = mux::encode(connection, &frame(kind, number, payload));
        let written = lock(&self.stream).write_all(&bytes);
        if written.is_err() {
            // What was begun is not finished: nothing can follow it.
            let _ = lock(&self.stream).shutdown(std::net::Shutdown::Both);
        }
        written
    }

    /// The answer to the runtime's call.
    fn answer(&self, number: u32, answer: Answer) -> io::Result<()> {
        let payload = match answer {
            Ok(payload) => Response(Ok(&payload)).encode(),
            Err((code, what)) => message::refused(code, &what),
        };
        self.send(Connection::Plugin, Kind::Response, number, &payload)
    }
}

/// A message, or why there is none.
type Answer = Result<Vec<u8>, (Code, String)>;

fn invalid(error: &volumes::Error) -> (Code, String) {
    (Code::InvalidArgument, format!("sealift: {error}"))
}

impl Session {
    fn new(plugin: &Arc<Plugin>, stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let answers = Answers { stream: Mutex::new(stream.try_clone()?), containers: 0.into() };
        Ok(Self {
            plugin: Arc::clone(plugin),
            stream,
            answers: Arc::new(answers),
            request_timeout: REQUEST_TIMEOUT,
            pods: Vec::new(),
        })
    }

    /// Until the runtime hangs up.
    fn run(mut self, options: &Options) -> Result<(), Broken> {
        let register = message::register(&options.name, &format!("{:02}", options.index));
        let request = Request {
            service: message::RUNTIME_SERVICE,
            method: "RegisterPlugin",
            payload: &register,
            timeout_ns: 0,
        };
        self.answers.send(Connection::Runtime, Kind::Request, 1, &request.encode())?;
        let (mut plugin, mut runtime) = (mux::Stream::default(), mux::Stream::default());
        let mut payload = Vec::new();
        let mut configured = false;
        while let Some(header) = self.read(&mut payload, configured)? {
            let stream = match header.connection {
                Connection::Plugin => &mut plugin,
                Connection::Runtime => &mut runtime,
                Connection::Other => continue,
            };
            stream.push(&payload);
            while let Some((frame, message)) = stream.next_frame()? {
                match header.connection {
                    Connection::Plugin => {
                        configured |= self.called(frame, &message)?;
                        if configured {
                            self.plugin.agent().set_runtime(true);
                        }
                    }
                    _ => Self::registered(&message)?,
                }
            }
            if payload.len() > KEPT_BYTES {
                payload = Vec::new();
            }
        }
        Ok(())
    }

    /// One payload of the multiplexer's. `None`: the runtime has hung up.
    fn read(&mut self, payload: &mut Vec<u8>, configured: bool) -> Result<Option<Header>, Broken> {
        let mut header = [0; HEADER_BYTES];
        self.stream.set_read_timeout((!configured).then_some(PATIENCE))?;
        loop {
            match self.stream.read(&mut header[..1]) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.read_exact(&mut header[1..])?;
        let header = Header::parse(&header)?;
        payload.resize(header.payload_bytes, 0);
        self.stream.read_exact(payload)?;
        Ok(Some(header))
    }

    /// The answer to the only call that we make.
    fn registered(message: &[u8]) -> Result<(), Broken> {
        let Response(answer) = Response::decode(message)?;
        match answer {
            Ok(_) => Ok(()),
            Err(refusal) => Err(io::Error::other(format!("not registered: {refusal}")).into()),
        }
    }

    /// The runtime calls. True: it knows now what we want.
    fn called(&mut self, frame: FrameHeader, message: &[u8]) -> Result<bool, Broken> {
        if frame.kind != Kind::Request {
            return Err(volumes::Error::Frame("an answer to what was not asked").into());
        }
        let received = Instant::now();
        let number = frame.stream;
        let (method, answer) = match Request::decode(message) {
            Ok(request) if request.service != message::PLUGIN_SERVICE => {
                (request.method, Err((Code::Unimplemented, "no such service".into())))
            }
            Ok(request) if request.method == "CreateContainer" => {
                let said = Duration::from_nanos(request.timeout_ns);
                let longest = if said.is_zero() { self.request_timeout } else { said };
                let longest = longest.min(self.request_timeout);
                // What is late is said by whoever knows what it waits for, or else by us.
                let (until, last) = (received + longest / 4 * 3, received + longest / 8 * 7);
                match CreateContainer::decode(request.payload) {
                    Ok(container) => {
                        self.create_container(number, container, until, last)?;
                        return Ok(false);
                    }
                    Err(error) => (request.method, Err(invalid(&error))),
                }
            }
            Ok(request) => (request.method, self.answer(request.method, request.payload)),
            Err(error) => ("", Err(invalid(&error))),
        };
        if let Err((_, what)) = &answer {
            tracing::warn!(?method, what, "refused");
        }
        self.answers.answer(number, answer)?;
        Ok(method == "Configure")
    }

    /// All calls that are answered at once.
    fn answer(&mut self, method: &str, payload: &[u8]) -> Answer {
        let nothing = Ok(Vec::new());
        match method {
            "Configure" => {
                let configure = Configure::decode(payload).map_err(|error| invalid(&error))?;
                let said = Duration::from_millis(configure.request_timeout_ms);
                if !said.is_zero() {
                    self.request_timeout = said.min(REQUEST_TIMEOUT_MAX);
                }
                let Configure { runtime, version, .. } = configure;
                tracing::info!(?runtime, ?version, timeout = ?self.request_timeout, "NRI plugin");
                Ok(message::configured())
            }
            "Synchronize" => {
                let part = Synchronize::decode(payload).map_err(|error| invalid(&error))?;
                let answer = part.answer();
                if self.pods.len() + part.pods.len() > message::PODS_MAX {
                    return Err((
                        Code::InvalidArgument,
                        "sealift: more pods than a node has".into(),
                    ));
                }
                self.pods.extend(part.pods);
                if !part.more {
                    self.plugin.synchronized(std::mem::take(&mut self.pods));
                }
                Ok(answer)
            }
            "StateChange" => {
                let change = message::state_change(payload).map_err(|error| invalid(&error))?;
                if let Some((event, pod)) = change {
                    self.happened(event, &pod);
                }
                nothing
            }
            "RunPodSandbox" | "StopPodSandbox" | "RemovePodSandbox" => {
                let pod = Pod::of_request(payload).map_err(|error| invalid(&error))?;
                let event = match method {
                    "RunPodSandbox" => Event::RunPodSandbox,
                    _ => Event::StopPodSandbox,
                };
                self.happened(event, &pod);
                nothing
            }
            "Shutdown" => nothing,
            _ => Err((Code::Unimplemented, "no such call".into())),
        }
    }

    fn happened(&self, event: Event, pod: &Pod) {
        match event {
            Event::RunPodSandbox => self.plugin.started(pod),
            Event::StopPodSandbox | Event::RemovePodSandbox => self.plugin.stopped(pod),
            Event::CreateContainer => {}
        }
    }

    /// Answers on a thread of its own: the runtime may make several containers at a time.
    fn create_container(
        &self,
        number: u32,
        request: CreateContainer,
        until: Instant,
        last: Instant,
    ) -> io::Result<()> {
        let busy = || Err((Code::FailedPrecondition, "sealift: the node is too busy".into()));
        let place = Place::of(&self.answers);
        let (plugin, answers) = (Arc::clone(&self.plugin), Arc::clone(&self.answers));
        let waiter = place.map(|place| {
            spawn("nri-container", move || {
                let work = move || {
                    let _place = place;
                    adjusted(&plugin, &request, until)
                };
                let answer = in_time(work, last).unwrap_or_else(|| {
                    let what = "sealift: the host agent itself is late; see its log";
                    Err((Code::FailedPrecondition, what.into()))
                });
                if let Err(error) = answers.answer(number, answer) {
                    tracing::warn!(%error, "the runtime does not hear the answer");
                }
            })
        });
        match waiter {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.answers.answer(number, busy()),
        }
    }
}

/// One of [`CONTAINERS_MAX`], until the work is really done.
struct Place(Arc<Answers>);

impl Place {
    fn of(answers: &Arc<Answers>) -> Option<Self> {
        let place = Self(Arc::clone(answers));
        (answers.containers.fetch_add(1, Ordering::SeqCst) < CONTAINERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.containers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What `work` comes to; `None`, if that takes longer. A disk that does not answer, say, is not
/// waited for: the runtime would drop the plugin and make the container without it.
fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    last: Instant,
) -> Option<T> {
    let (done, result) = mpsc::sync_channel(1);
    // If nobody waits any more, nobody is to be told.
    let work = move || _ = done.send(work());
    spawn("nri-volumes", work).ok()?;
    result.recv_timeout(last.saturating_duration_since(Instant::now())).ok()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

fn adjusted(plugin: &Plugin, request: &CreateContainer, until: Instant) -> Answer {
    plugin.mounts(request, until).map(|mounts| message::adjustment(&mounts)).map_err(|error| {
        let Pod { namespace, name, .. } = &request.pod;
        let what = chain(&error);
        tracing::warn!(namespace, pod = name, container = request.name, what, "not made");
        (Code::FailedPrecondition, format!("sealift: {what}"))
    })
}

/// Memory that is kept from one message for the next.
const KEPT_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_work_that_does_not_end() {
        let begun = Instant::now();
        assert_eq!(in_time(|| 7, begun + Duration::from_secs(600)), Some(7));
        let (never, end) = mpsc::channel::<()>();
        let stuck = in_time(move || end.recv(), begun + Duration::from_millis(1));
        assert!(stuck.is_none());
        drop(never);
        // And work that comes to its end by a panic is no answer either.
        let panics = in_time(|| panic!("on purpose"), begun + Duration::from_secs(600));
        assert_eq!(panics, None::<()>);
    }

    #[test]
    fn names_are_those_that_runtimes_accept() {
        for (name, accepted) in
            [("sealift", true), ("A.b_c+d-1", true), ("", false), ("a b", false)]
        {
            assert_eq!(is_name(name), accepted, "{name}");
        }
    }
}
