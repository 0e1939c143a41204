//! An HTTP server whose answers a test writes, byte for byte: a server library would not let us
//! break its rules. One request for each connection.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest request that is read: a piece of an upload.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`, `POST`, ….
    pub method: String,
    /// Without its query.
    pub path: String,
    /// Behind `?`, or empty.
    pub query: String,
    /// The names in lower case.
    pub headers: BTreeMap<String, String>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The members of a body that is a form, or of a query.
    #[must_use]
    pub fn form(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let unescaped = |text: &str| Self::unescaped(&text.replace('+', " "));
        pairs.map(|(name, value)| (unescaped(name), unescaped(value))).collect()
    }

    /// A path as it is meant.
    #[must_use]
    pub fn unescaped(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let digits = after
                .get(..2)
                .and_then(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok());
            match (first, digits) {
                (b'%', Some(byte)) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                (byte, _) => {
                    bytes.push(*byte);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A whole answer.
#[must_use]
pub fn reply(status: u16, body: &[u8]) -> Vec<u8> {
    reply_with(status, "", body)
}

/// A whole answer with more headers, each with its end of line.
#[must_use]
pub fn reply_with(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} fake\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// What an honest server answers to a GET or HEAD of a file, with or without a range.
#[must_use]
pub fn file(asked: &Asked, headers: &str, content: &[u8]) -> Vec<u8> {
    let Some(range) = asked.header("range").strip_prefix("bytes=") else {
        let mut answer = reply_with(200, headers, content);
        if asked.method == "HEAD" {
            answer.truncate(answer.len() - content.len());
        }
        return answer;
    };
    let (first, last) = range.split_once('-').unwrap_or((range, ""));
    let (first, total) = (first.parse().unwrap_or(usize::MAX), content.len());
    let end = last.parse::<usize>().map_or(total, |last| total.min(last.saturating_add(1)));
    if first >= end {
        return reply_with(416, headers, b"");
    }
    let headers = format!("{headers}Content-Range: bytes {first}-{}/{total}\r\n", end - 1);
    reply_with(206, &headers, &content[first..end])
}

/// A running server on loopback; ends when dropped.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Answers each request with what `answer` makes of it.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(
        mut answer: impl FnMut(&Asked) -> Vec<u8> + Send + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                if let Some(asked) = read(&mut stream) {
                    // A client may have enough before it has all.
                    let _ = stream.write_all(&answer(&asked));
                }
            }
        });
        Ok(Self { address, ended, thread: Some(thread) })
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    stream.set_read_timeout(Some(SILENCE_MAX)).ok()?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(asked) = parse(&bytes) {
            return Some(asked);
        }
        match stream.read(&mut chunk) {
            Ok(read @ 1..) if bytes.len() < REQUEST_BYTES_MAX => {
                bytes.extend_from_slice(&chunk[..read]);
            }
            _ => return None,
        }
    }
}

/// `None` if it is not whole yet.
fn parse(bytes: &[u8]) -> Option<Asked> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = bytes.get(end + 4..end + 4 + length)?.to_vec();
    Some(Asked { method, path: path.into(), query: query.into(), headers, body })
}
