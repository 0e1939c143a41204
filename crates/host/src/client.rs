//! Calls to one guest: frames out, answers in, several on their way.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use volumes::name::VolumeId;
use volumes::refusal::Refusal;
use volumes::wire::frame::Kind;
use volumes::wire::message::{
    Held, HelloRequest, HelloResponse, Message, PutRequest, Request, Response, SERVICE, VERSION,
};
use volumes::wire::stream::{Broken, read_frame, write_frame};

use crate::address::{Address, Stream};

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest says no. The connection goes on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection is of no use any more.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<volumes::Error> for Error {
    fn from(error: volumes::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// A connection to a guest's agent.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    next: u32,
    waiting: VecDeque<u32>,
    payload: Vec<u8>,
    /// Of this start of the guest's agent.
    instance: [u8; 16],
    frame: Vec<u8>,
}

/// Readable while no answer is awaited: the guest has closed the connection, or broken its rules.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Client {
    /// Requests on their way at a time: enough to keep the guest busy, little enough to hold.
    pub const WINDOW: usize = 8;
    /// More pages than any guest has volumes for: a guest that goes on for ever is broken.
    const PAGES_MAX: usize = 1024;

    /// Connects and asks what the guest holds.
    pub fn connect(address: &Address, timeout: Duration) -> Result<(Self, Vec<Held>), Error> {
        let stream = address.connect(timeout)?;
        let mut client = Self {
            stream,
            next: 1,
            waiting: VecDeque::new(),
            payload: Vec::new(),
            instance: [0; 16],
            frame: Vec::new(),
        };
        let held = client.hello()?;
        Ok((client, held))
    }

    fn hello(&mut self) -> Result<Vec<Held>, Error> {
        let mut held: Vec<Held> = Vec::new();
        for _ in 0..Self::PAGES_MAX {
            let after: Option<VolumeId> = held.last().map(|held| held.volume.clone());
            let request = HelloRequest { version: VERSION, after };
            let response: HelloResponse = self.call("Hello", &request.encode())?;
            self.instance = response.instance;
            let more = response.more && !response.volumes.is_empty();
            held.extend(response.volumes);
            if !more {
                return Ok(held);
            }
        }
        Err(volumes::Error::Message("a list without an end").into())
    }

    /// Which start of the guest's agent this is.
    pub fn instance(&self) -> [u8; 16] {
        self.instance
    }

    /// One call and its answer; none may be on its way.
    pub fn call<M: for<'a> Message<'a>>(
        &mut self,
        method: &str,
        message: &[u8],
    ) -> Result<M, Error> {
        self.send(method, message)?;
        self.receive(|payload| Ok(M::decode(payload)?))
    }

    /// Sends a request. At most [`Client::WINDOW`] may be on their way.
    pub fn send(&mut self, method: &str, message: &[u8]) -> Result<(), Error> {
        let request = Request { service: SERVICE, method, payload: message, timeout_ns: 0 };
        let stream = self.next_stream();
        write_frame(&mut &self.stream, Kind::Request, stream, &request.encode())?;
        self.waiting.push_back(stream);
        Ok(())
    }

    /// Sends a `Put`, whose contents may be long.
    pub fn send_put(&mut self, request: &PutRequest<'_>) -> Result<(), Error> {
        let stream = self.next_stream();
        request.frame_into(stream, &mut self.frame);
        (&self.stream).write_all(&self.frame)?;
        self.waiting.push_back(stream);
        Ok(())
    }

    fn next_stream(&mut self) -> u32 {
        let stream = self.next;
        self.next = self.next.checked_add(2).unwrap_or(1);
        stream
    }

    /// Frees what only a busy connection needs.
    pub fn rest(&mut self) {
        (self.frame, self.payload) = (Vec::new(), Vec::new());
    }

    /// How many requests are on their way.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Reads and forgets the answers that are still to come.
    pub fn drain(&mut self) -> Result<(), Error> {
        while self.waiting() > 0 {
            match self.receive(|_| Ok(())) {
                Ok(()) | Err(Error::Refused(_)) => {}
                Err(broken) => return Err(broken),
            }
        }
        Ok(())
    }

    /// The answer to the oldest request on its way.
    pub fn receive<T>(
        &mut self,
        decode: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let header = read_frame(&mut &self.stream, &mut self.payload)?;
        let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let header = header.ok_or_else(closed)?;
        // Our guest answers in order. Another order is another protocol.
        if header.kind != Kind::Response || self.waiting.pop_front() != Some(header.stream) {
            return Err(volumes::Error::Frame("an answer to another request").into());
        }
        let Response(result) = Response::decode(&self.payload)?;
        decode(result?)
    }
}
