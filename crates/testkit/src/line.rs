//! A line between a client and any HTTP server, real or not, that goes bad on purpose: what the
//! server itself would never do.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longest head of a request or an answer that is read.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// How long either side may be silent before the line gives up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What the line does to the body of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bend {
    /// The connection is closed after so many bytes.
    Cut {
        /// Bytes that arrive.
        after: u64,
    },
    /// Nothing comes after so many bytes, and the connection stays open.
    Stall {
        /// Bytes that arrive.
        after: u64,
    },
    /// So many bytes more or fewer than the server sends; `Content-Length` tells it as if it were
    /// right.
    Length {
        /// Added to the true length.
        off_by: i64,
    },
}

/// Passes on HTTP/1.1, one request for each connection; ends when dropped.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    bend: Mutex<Option<Bend>>,
    /// Bodies below that length pass as they are.
    bytes_min: u64,
    ended: AtomicBool,
}

impl Line {
    /// A line to `server`. It leaves answers alone whose bodies are below `bytes_min`: listings, for
    /// instance.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(server: SocketAddr, bytes_min: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let bend = Mutex::default();
        let shared = Arc::new(Shared { server, bend, bytes_min, ended: AtomicBool::new(false) });
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if own.ended.load(Ordering::Relaxed) {
                    return;
                }
                let own = Arc::clone(&own);
                // How a connection ends is the business of its ends.
                thread::spawn(move || client.and_then(|client| own.pass(client)));
            }
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Goes bad so from now on, or is good again.
    pub fn bend(&self, bend: Option<Bend>) {
        *self.shared.bend.lock().unwrap_or_else(PoisonError::into_inner) = bend;
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn pass(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(self.server)?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(SILENCE_MAX))?;
            end.set_nodelay(true)?;
        }
        let (head, rest) = head(&mut client)?;
        let length = length(&head).unwrap_or(0);
        server.write_all(closing(&head).as_bytes())?;
        server.write_all(&rest)?;
        io::copy(&mut (&mut client).take(length.saturating_sub(rest.len() as u64)), &mut server)?;

        let asks_for_head = head.starts_with("HEAD ");
        let (head, rest) = self::head(&mut server)?;
        let length = self::length(&head);
        let bend = *self.bend.lock().unwrap_or_else(PoisonError::into_inner);
        let bend = bend.filter(|_| !asks_for_head && length.is_some_and(|it| it >= self.bytes_min));
        let (head, sent) = match bend {
            None => (head, u64::MAX),
            Some(Bend::Cut { after } | Bend::Stall { after }) => (head, after),
            Some(Bend::Length { off_by }) => {
                let claimed = length.unwrap_or(0).saturating_add_signed(off_by);
                (with_length(&head, claimed), claimed)
            }
        };
        client.write_all(closing(&head).as_bytes())?;
        let body = (&rest[..]).chain(&mut server).take(sent);
        // Bytes too many are made here.
        let more = if matches!(bend, Some(Bend::Length { .. })) { sent } else { 0 };
        let copied = io::copy(&mut { body }, &mut client)?;
        io::copy(&mut io::repeat(0xa5).take(more.saturating_sub(copied)), &mut client)?;
        if let Some(Bend::Stall { .. }) = bend {
            // Until the client gives up.
            while client.read(&mut [0; 64])? > 0 {}
        }
        client.shutdown(Shutdown::Both)
    }
}

/// Up to the empty line, and what was read beyond it.
fn head(from: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let found = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = found {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok((head, rest));
        }
        match from.read(&mut piece)? {
            read @ 1.. if bytes.len() < HEAD_BYTES_MAX => bytes.extend_from_slice(&piece[..read]),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn lines_but<'a>(head: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = move |line: &&str| {
        line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
    };
    head.trim_end().split("\r\n").filter(move |line| !named(line))
}

fn length(head: &str) -> Option<u64> {
    let value = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    })?;
    value.trim().parse().ok()
}

fn with_length(head: &str, length: u64) -> String {
    let lines: Vec<_> = lines_but(head, "content-length").collect();
    format!("{}\r\nContent-Length: {length}\r\n\r\n", lines.join("\r\n"))
}

/// A head after whose message the connection ends.
fn closing(head: &str) -> String {
    let lines: Vec<_> = lines_but(head, "connection").collect();
    format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))
}
