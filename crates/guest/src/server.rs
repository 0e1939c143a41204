//! Connections: one thread each, a few at a time, none of which can hold up the others.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use volumes::session::{Session, Volumes};
use volumes::wire::frame::Kind;
use volumes::wire::stream::{Broken, read_frame, write_frame};

use crate::socket::{Listener, Stream};

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

/// Stack of a connection's thread: what it holds is on the heap.
const STACK_BYTES: usize = 128 << 10;

/// Serves `volumes` to whoever connects.
#[derive(Debug)]
pub struct Server<V> {
    volumes: Arc<Mutex<V>>,
    limits: Limits,
    open: Arc<Mutex<Vec<Connection>>>,
    /// Threads, those of evicted connections included, which may still wait for the store.
    threads: Arc<AtomicUsize>,
    last: AtomicU64,
}

/// One that is open, as the others see it.
#[derive(Debug)]
struct Connection {
    number: u64,
    stream: Stream,
    active: Instant,
}

impl<V: Volumes + Send + 'static> Server<V> {
    /// Nobody is connected yet.
    pub fn new(volumes: Arc<Mutex<V>>, limits: Limits) -> Self {
        Self {
            volumes,
            limits,
            open: Arc::default(),
            threads: Arc::default(),
            last: AtomicU64::new(0),
        }
    }

    /// Accepts connections for ever. Returns only if the listener breaks.
    pub fn run(&self, listener: &Listener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok(Some(stream)) => self.begin(stream),
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
    pub fn begin(&self, stream: Stream) {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let Ok(handle) = stream.try_clone() else { return };
        if self.threads.load(Ordering::SeqCst) >= 2 * self.limits.connections {
            return;
        }
        {
            let mut open = lock(&self.open);
            if open.len() >= self.limits.connections
                && let Some(silent) = open.iter().min_by_key(|connection| connection.active)
            {
                silent.stream.close();
                let number = silent.number;
                open.retain(|connection| connection.number != number);
            }
            open.push(Connection { number, stream: handle, active: Instant::now() });
        }
        let (volumes, open) = (Arc::clone(&self.volumes), Arc::clone(&self.open));
        let threads = Arc::clone(&self.threads);
        threads.fetch_add(1, Ordering::SeqCst);
        let frame = self.limits.frame;
        let thread = std::thread::Builder::new().name(format!("host-{number}"));
        let spawned = thread.stack_size(STACK_BYTES).spawn(move || {
            let touch = || {
                let mut open = lock(&open);
                if let Some(own) = open.iter_mut().find(|one| one.number == number) {
                    own.active = Instant::now();
                }
            };
            if let Err(error) = serve(&stream, &volumes, frame, touch) {
                tracing::debug!(%error, "a connection ended");
            }
            stream.close();
            lock(&open).retain(|connection| connection.number != number);
            threads.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a connection");
            self.threads.fetch_sub(1, Ordering::SeqCst);
            lock(&self.open).retain(|connection| connection.number != number);
        }
    }
}

/// One connection to its end.
fn serve<V: Volumes>(
    stream: &Stream,
    volumes: &Mutex<V>,
    frame: Duration,
    touch: impl Fn(),
) -> Result<(), Broken> {
    stream.set_write_timeout(frame)?;
    let mut session = Session::new();
    let mut payload = Vec::new();
    let mut timed = Timed { stream, frame, until: Some(Instant::now() + frame), rest: None };
    let result = loop {
        let header = match read_frame(&mut timed, &mut payload) {
            // The longest frame's memory is not kept for a connection that may be silent for days.
            Err(Broken::Io(error)) if timed.rest.is_some() && is_timeout(&error) => {
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
        if let Err(error) = write_frame(&mut &*stream, Kind::Response, header.stream, &answer) {
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
    stream: &'a Stream,
    frame: Duration,
    until: Option<Instant>,
    /// How long to wait for a frame's first byte; `None`: for ever.
    rest: Option<Duration>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = match self.until {
            Some(until) => match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => Some(left),
                _ => return Err(io::ErrorKind::TimedOut.into()),
            },
            None => self.rest,
        };
        self.stream.set_read_timeout(left)?;
        let count = { self.stream }.read(buffer)?;
        self.rest = None;
        self.until.get_or_insert_with(|| Instant::now() + self.frame);
        Ok(count)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
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
        )
    )
}

/// A thread that panicked has left the store's files in a state that the store itself repairs; its
/// own state is replaced as a whole at each change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
