//! Connections: one thread each, a few at a time, none of which can hold up the others.

use std::cmp::Reverse;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use link::listen::{Incoming, Listener};
use link::{Closer, Stream};
use volumes::chain;
use volumes::session::{Session, Volumes};
use volumes::wire::frame::Kind;
use volumes::wire::stream::{Broken, read_frame, write_frame};

/// How patient the server is, and with how many.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time. One more takes the place of the one that has been silent longest.
    pub connections: usize,
    /// From a frame's first byte to its last; also from accepting a connection to `Hello`.
    pub frame: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8, frame: Duration::from_secs(10) }
    }
}

/// Stack of a connection's thread: what it holds is on the heap, but for what a handshake computes.
const STACK_BYTES: usize = 256 << 10;
/// Peers at a time that have yet to prove who they are. They have places of their own: nobody of
/// whom nothing is known takes one from the host.
const STRANGERS_MAX: usize = 16;

/// Serves `volumes` to whoever connects.
#[derive(Debug)]
pub struct Server<V> {
    volumes: Arc<Mutex<V>>,
    limits: Limits,
    open: Arc<Mutex<Connections>>,
    last: AtomicU64,
    /// Strangers who did not prove who they are.
    refused: Arc<AtomicU64>,
}

/// Those that have a thread.
#[derive(Debug)]
struct Connections {
    all: Vec<Connection>,
    known_max: usize,
}

/// One of them, as the others see it.
#[derive(Debug)]
struct Connection {
    number: u64,
    closer: Closer,
    active: Instant,
    /// Where it comes from, until it has proven who it is.
    stranger: Option<IpAddr>,
    /// It made room for another. Its thread may still wait for the store.
    evicted: bool,
}

impl Connections {
    /// Takes one in, among the strangers or among the known. If those are as many as may be, it takes
    /// the place of the one that has been silent longest; among strangers, of one from where most
    /// come, so that a flood from one place displaces itself. False: even those that were evicted
    /// are too many.
    fn admit(&mut self, new: Connection) -> bool {
        let is_stranger = new.stranger.is_some();
        let max = if is_stranger { STRANGERS_MAX } else { self.known_max };
        let alike = || self.all.iter().filter(|one| one.stranger.is_some() == is_stranger);
        if alike().count() >= 2 * max {
            return false;
        }
        let live = || alike().filter(|one| !one.evicted);
        if live().count() >= max {
            let from = |address| live().filter(|one| one.stranger == address).count();
            let victim = live().min_by_key(|one| (Reverse(from(one.stranger)), one.active));
            let victim = victim.map(|one| one.number);
            if let Some(victim) = self.all.iter_mut().find(|one| Some(one.number) == victim) {
                victim.closer.close();
                victim.evicted = true;
            }
        }
        self.all.push(new);
        true
    }

    /// A stranger is known now. False: it was evicted before that.
    fn know(&mut self, number: u64) -> bool {
        let found = self.all.iter().position(|one| one.number == number && !one.evicted);
        let Some(index) = found else { return false };
        let known = self.all.swap_remove(index);
        self.admit(Connection { stranger: None, active: Instant::now(), ..known })
    }

    fn touch(&mut self, number: u64) {
        if let Some(own) = self.all.iter_mut().find(|one| one.number == number) {
            own.active = Instant::now();
        }
    }

    fn remove(&mut self, number: u64) {
        self.all.retain(|one| one.number != number);
    }
}

impl<V: Volumes + Send + 'static> Server<V> {
    /// Nobody is connected yet.
    pub fn new(volumes: Arc<Mutex<V>>, limits: Limits) -> Self {
        let open = Connections { all: Vec::new(), known_max: limits.connections };
        let (last, refused) = (AtomicU64::new(0), Arc::default());
        Self { volumes, limits, open: Arc::new(Mutex::new(open)), last, refused }
    }

    /// Accepts connections for ever. Returns only if the listener breaks.
    pub fn run(&self, listener: &Listener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok(Some(incoming)) => self.begin(incoming),
                Ok(None) => tracing::debug!("turned away a peer that is not the host"),
                Err(error) if is_passing(&error) => {
                    // Out of descriptors or memory: the next attempt may have some.
                    tracing::warn!(%error, "cannot accept a connection");
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves one connection on a thread of its own. One that cannot have a thread is closed.
    pub fn begin(&self, incoming: Incoming) {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let Ok(closer) = incoming.closer() else { return };
        let (active, stranger) = (Instant::now(), incoming.stranger());
        let connection = Connection { number, closer, active, stranger, evicted: false };
        if !lock(&self.open).admit(connection) {
            return;
        }
        let (volumes, open) = (Arc::clone(&self.volumes), Arc::clone(&self.open));
        let (frame, refused) = (self.limits.frame, Arc::clone(&self.refused));
        let thread = std::thread::Builder::new().name(format!("host-{number}"));
        let spawned = thread.stack_size(STACK_BYTES).spawn(move || {
            let until = active + frame;
            match incoming.authenticate(until) {
                Ok(stream) if stranger.is_none() || lock(&open).know(number) => {
                    let session = Session::new(number);
                    let touch = || lock(&open).touch(number);
                    if let Err(error) = serve(stream, session, &volumes, frame, until, touch) {
                        tracing::debug!(error = %chain(&error), "a connection ended");
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    // Anybody on the network causes this: powers of two are a few lines for a flood.
                    let count = refused.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                    if count.is_power_of_two() {
                        let error = chain(&error);
                        tracing::warn!(count, peer = ?stranger, %error, "a peer stayed unknown");
                    }
                }
            }
            lock(&open).remove(number);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a connection");
            lock(&self.open).remove(number);
        }
    }
}

/// One connection to its end.
fn serve<V: Volumes>(
    mut stream: Stream,
    mut session: Session,
    volumes: &Mutex<V>,
    frame: Duration,
    until: Instant,
    touch: impl Fn(),
) -> Result<(), Broken> {
    let mut payload = Vec::new();
    let mut timed = Timed { stream: &mut stream, frame, until: Some(until), rest: None };
    let result = loop {
        let header = match read_frame(&mut timed, &mut payload) {
            // The longest frame's memory is not kept for a connection that may be silent for days.
            Err(Broken::Io(error))
                if timed.rest.is_some() && error.kind() == io::ErrorKind::TimedOut =>
            {
                (payload, timed.rest) = (Vec::new(), None);
                continue;
            }
            Ok(Some(header)) if header.kind == Kind::Request => header,
            Ok(Some(_)) => {
                break Err(volumes::Error::Frame("a response that nobody asked for").into());
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        touch();
        let answer = session.answer(&payload, &mut *lock(volumes));
        timed.stream.set_deadline(Some(Instant::now() + frame));
        if let Err(error) = write_frame(timed.stream, Kind::Response, header.stream, &answer) {
            break Err(error.into());
        }
        if session.is_greeted() {
            timed.until = None;
            timed.rest = (payload.capacity() > KEPT_BYTES).then_some(REST_AFTER);
        }
    };
    session.end(&mut *lock(volumes));
    result
}

/// Of a connection's buffer while it is silent.
const KEPT_BYTES: usize = 4 << 10;
/// How long it is silent before it gives the rest back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// A reader with a deadline, which begins with the first byte unless there is one already.
struct Timed<'a> {
    stream: &'a mut Stream,
    frame: Duration,
    until: Option<Instant>,
    /// How long to wait for a frame's first byte; `None`: for ever.
    rest: Option<Duration>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.rest.map(|rest| Instant::now() + rest);
        self.stream.set_deadline(self.until.or(rest));
        let count = self.stream.read(buffer)?;
        self.rest = None;
        self.until.get_or_insert_with(|| Instant::now() + self.frame);
        Ok(count)
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::CONNABORTED
                | Errno::INTR
                | Errno::AGAIN
                // Of one connection's network, not of the listener's: accept(2).
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM
        )
    )
}

/// A thread that panicked has left the store's files in a state that the store itself repairs; its
/// own state is replaced as a whole at each change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
