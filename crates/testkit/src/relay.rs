//! [`Relay`]: between a host and its guest, counting what they say.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What has gone through a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// ttrpc requests. Those that do not wait for each other are fewer round trips.
    pub requests: u64,
    /// Bytes to the guest, ttrpc's headers included.
    pub to_guest: u64,
    /// Bytes back.
    pub to_host: u64,
}

/// Passes on ttrpc's frames between unix sockets, until the process ends.
#[derive(Debug, Clone, Default)]
pub struct Relay(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    to_guest: AtomicU64,
    to_host: AtomicU64,
}

impl Relay {
    /// Listens at `listen` and passes on to `guest`.
    pub fn start(listen: &Path, guest: &Path) -> io::Result<Self> {
        let (relay, listener) = (Self::default(), UnixListener::bind(listen)?);
        let (own, guest) = (relay.clone(), guest.to_path_buf());
        thread::spawn(move || {
            for host in listener.incoming() {
                if let Err(error) = host.and_then(|host| own.connect(host, &guest)) {
                    eprintln!("relay to {}: {error}", guest.display());
                }
            }
        });
        Ok(relay)
    }

    /// So far.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { requests, to_guest, to_host } = &*self.0;
        Counts { requests: of(requests), to_guest: of(to_guest), to_host: of(to_host) }
    }

    fn connect(&self, host: UnixStream, guest: &PathBuf) -> io::Result<()> {
        let guest = UnixStream::connect(guest)?;
        let (from, to) = (host.try_clone()?, guest.try_clone()?);
        let counters = Arc::clone(&self.0);
        thread::spawn(move || pass(from, to, &counters.to_guest, Some(&counters.requests)));
        let counters = Arc::clone(&self.0);
        thread::spawn(move || pass(guest, host, &counters.to_host, None));
        Ok(())
    }
}

/// Frame by frame: <https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md>. Until one side ends,
/// and then both.
fn pass(mut from: UnixStream, mut to: UnixStream, bytes: &AtomicU64, frames: Option<&AtomicU64>) {
    const HEADER_BYTES: usize = 10;
    /// ttrpc's own limit.
    const FRAME_BYTES_MAX: u32 = 4 << 20;
    let mut frame = Vec::new();
    let mut one = || -> io::Result<()> {
        frame.resize(HEADER_BYTES, 0);
        from.read_exact(&mut frame)?;
        let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        frame.resize(HEADER_BYTES + length as usize, 0);
        from.read_exact(&mut frame[HEADER_BYTES..])?;
        bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        if let Some(frames) = frames {
            frames.fetch_add(1, Ordering::Relaxed);
        }
        to.write_all(&frame)
    };
    while one().is_ok() {}
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
