//! An object of a store as something that blocking libraries can read.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use store::{ObjectStream, Store};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::retry::Backoff;
use crate::transfer::Limits;

/// One version of an object.
#[derive(Debug, Clone)]
pub(in crate::opening) struct Object {
    pub(in crate::opening) store: Store,
    pub(in crate::opening) name: String,
    pub(in crate::opening) bytes: u64,
    pub(in crate::opening) etag: Option<String>,
}

/// Reads it, from a thread that may block. A connection that breaks is made again, from where it
/// broke.
pub(super) struct Reader {
    object: Object,
    limits: Limits,
    deadline: Instant,
    runtime: Handle,
    /// Ends when nobody waits for the result any more.
    stopped: watch::Receiver<()>,
    at: u64,
    stream: Option<ObjectStream>,
    frame: Bytes,
}

impl Reader {
    /// Inside of a runtime.
    pub(super) fn new(object: Object, limits: Limits, stopped: watch::Receiver<()>) -> Self {
        let deadline = Instant::now() + limits.total;
        let runtime = Handle::current();
        let (stream, frame) = (None, Bytes::new());
        Self { object, limits, deadline, runtime, stopped, at: 0, stream, frame }
    }

    /// The next bytes; empty at the end.
    fn fill(&mut self) -> io::Result<()> {
        let mut backoff = Backoff::new();
        let mut attempt = 0;
        while self.frame.is_empty() && self.at < self.object.bytes {
            let Self { object, stream, stopped, at, .. } = self;
            let next = async {
                if stream.is_none() {
                    let range = *at..object.bytes;
                    *stream = Some(
                        object.store.stream(&object.name, range, object.etag.as_deref()).await?,
                    );
                }
                let frames = stream.as_mut().expect("it was opened");
                frames.next().await.expect("a stream ends with an error if it ends early")
            };
            let result = self.runtime.block_on(async {
                tokio::select! {
                    result = tokio::time::timeout_at(self.deadline, next) => result.ok(),
                    _ = stopped.changed() => None,
                }
            });
            match result {
                Some(Ok(frame)) => self.frame = frame,
                Some(Err(error)) => {
                    self.stream = None;
                    attempt += 1;
                    if attempt > self.limits.retries || !error.is_transient() {
                        return Err(io::Error::other(error));
                    }
                    tracing::warn!(object = %self.object.name, %error, attempt, "reading on");
                    let delay = backoff.next_delay(error.overload().unwrap_or_default());
                    self.runtime.block_on(async {
                        tokio::select! {
                            () = tokio::time::sleep(delay) => {}
                            _ = stopped.changed() => {}
                        }
                    });
                }
                None => return Err(io::Error::other("not finished in time, or stopped")),
            }
        }
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.fill()?;
        let length = buffer.len().min(self.frame.len());
        self.frame.copy_to_slice(&mut buffer[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.object.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if to != self.at {
            (self.stream, self.frame, self.at) = (None, Bytes::new(), to);
        }
        Ok(to)
    }
}
