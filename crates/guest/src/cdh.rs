//! [`Cdh`]: the guest's key source on a unix socket, upstream's Confidential Data Hub or
//! `sealift unsealer`. One connection a call, one deadline for all of it, bounded answers.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use link::Stream;
use link::dial::Address;
use volumes::wire::cdh::{Call, ERROR_PREFIX, PAYLOAD_BYTES_MAX, Status, decode_answer};
use volumes::wire::frame::Kind;
use volumes::wire::stream::{Broken, read_frame_up_to, write_frame};
use zeroize::Zeroizing;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key source says no, in its own words: one line, printable, cut.
    #[error("{0}")]
    Refused(String),
    /// Nobody listens, nobody answers in time, or not to what was asked.
    #[error("the key source at {path:?}")]
    Broken {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        #[source]
        source: Broken,
    },
}

/// How connections to the key source are made.
pub trait Dial: fmt::Debug + Send + Sync {
    /// One without a deadline. Gives up at `until` at the latest.
    fn dial(&self, until: Instant) -> io::Result<Stream>;
}

/// By this process itself.
#[derive(Debug)]
struct Own(PathBuf);

/// A data hub's socket.
#[derive(Debug, Clone)]
pub struct Cdh {
    dial: Arc<dyn Dial>,
    path: PathBuf,
    timeout: Duration,
}

/// Longest text of the key source's that is repeated, in characters.
const MESSAGE_CHARS_MAX: usize = 256;

impl Cdh {
    /// Where it listens, and how long a call may take from connecting to the answer's last byte.
    pub fn new(path: impl Into<PathBuf>, timeout: Duration) -> Self {
        let path = path.into();
        Self::through(Arc::new(Own(path.clone())), path, timeout)
    }

    /// The same with connections that somebody else makes; `path` is for errors.
    pub fn through(dial: Arc<dyn Dial>, path: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { dial, path: path.into(), timeout }
    }

    /// Opens a sealed secret, of at most [`volumes::wire::cdh::VALUE_BYTES_MAX`] bytes. The caller
    /// sees to its [audience](volumes::audience::Audience).
    pub fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.call(Call::UnsealForItsFile(sealed))
    }

    /// A resource of the key broker: `kbs:///<repository>/<type>/<tag>`.
    pub fn resource(&self, uri: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.call(Call::Resource(uri))
    }

    fn call(&self, call: Call<'_>) -> Result<Zeroizing<Vec<u8>>, Error> {
        match self.exchange(call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => Err(Error::Refused(printable(&status))),
            Err(source) => Err(Error::Broken { path: self.path.clone(), source }),
        }
    }

    fn exchange(&self, call: Call<'_>) -> Result<Result<Zeroizing<Vec<u8>>, Status>, Broken> {
        const STREAM: u32 = 1;
        let until = Instant::now() + self.timeout;
        let mut stream = self.dial.dial(until)?;
        stream.set_deadline(Some(until));
        let timeout_ns = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        write_frame(&mut stream, Kind::Request, STREAM, &call.encode(timeout_ns))?;
        let mut payload = Zeroizing::new(Vec::new());
        let header = read_frame_up_to(&mut stream, &mut payload, PAYLOAD_BYTES_MAX)?
            .ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if (header.kind, header.stream) != (Kind::Response, STREAM) {
            return Err(volumes::Error::Frame("an answer to something else").into());
        }
        Ok(decode_answer(&payload)?.map(|value| Zeroizing::new(value.to_vec())))
    }
}

impl Dial for Own {
    fn dial(&self, until: Instant) -> io::Result<Stream> {
        Address::Unix(self.0.clone()).connect(None, until)
    }
}

fn printable(status: &Status) -> String {
    let text = status.message.strip_prefix(ERROR_PREFIX).unwrap_or(&status.message);
    let text: String = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| c.is_alphanumeric() || c.is_ascii_graphic() || *c == ' ')
        .take(MESSAGE_CHARS_MAX)
        .collect();
    match text.trim() {
        "" => format!("the key source refused with code {} and no word", status.code),
        text => text.to_owned(),
    }
}
