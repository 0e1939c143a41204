//! Calls to one guest: frames out, answers in, several on their way.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use link::dial::Address;
use link::{Stream, tls};
use volumes::name::VolumeId;
use volumes::refusal::Refusal;
use volumes::wire::frame::Kind;
use volumes::wire::message::{
    Held, HelloRequest, HelloResponse, Message, PutRequest, Request, Response, SERVICE,
    StatusRequest, StatusResponse, VERSION, VolumeStatus,
};
use volumes::wire::stream::{Broken, read_frame, write_frame};

use crate::kubelet::Kubelet;

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
    timeout: Duration,
    next: u32,
    waiting: VecDeque<u32>,
    payload: Vec<u8>,
    frame: Vec<u8>,
}

/// Readable while no answer is awaited: the guest has closed the connection, or broken its rules.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Client {
    /// Requests on their way at a time. Their answers, at their longest, fit into a socket's buffer:
    /// the guest must not wait for us to read while we wait for it.
    pub const WINDOW: usize = 4;

    /// Connects and asks what the guest holds; both within `timeout`, which is also how long each
    /// later answer may take. A `tls:` address needs `tls`.
    pub fn connect(
        address: &Address,
        tls: Option<&tls::Client>,
        timeout: Duration,
    ) -> Result<(Self, Vec<Held>), Error> {
        let until = Instant::now() + timeout;
        let mut client = Self::open(address, tls, timeout)?;
        let held = client.hello(until)?;
        Ok((client, held))
    }

    /// Connects, and says nothing yet.
    pub fn open(
        address: &Address,
        tls: Option<&tls::Client>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let stream = address.connect(tls, Instant::now() + timeout)?;
        let (waiting, payload, frame) = (VecDeque::new(), Vec::new(), Vec::new());
        Ok(Self { stream, timeout, next: 1, waiting, payload, frame })
    }

    fn hello(&mut self, until: Instant) -> Result<Vec<Held>, Error> {
        self.pages(
            until,
            |held: &Held| &held.volume,
            "Hello",
            |after| HelloRequest { version: VERSION, after }.encode(),
            |payload| {
                let HelloResponse { volumes, more, .. } = HelloResponse::decode(payload)?;
                Ok((volumes, more))
            },
        )
    }

    /// How the guest says that its volumes are.
    pub fn status(&mut self) -> Result<Vec<VolumeStatus>, Error> {
        let until = Instant::now() + self.timeout;
        self.pages(
            until,
            |status: &VolumeStatus| &status.held.volume,
            "Status",
            |after| StatusRequest { after }.encode(),
            |payload| {
                let StatusResponse { volumes, more, .. } = StatusResponse::decode(payload)?;
                Ok((volumes, more))
            },
        )
    }

    /// Rows of volumes, page after page; at most as many as a node can have, in order.
    fn pages<T>(
        &mut self,
        until: Instant,
        volume: impl Fn(&T) -> &VolumeId,
        method: &str,
        request: impl Fn(Option<VolumeId>) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<(Vec<T>, bool), Error>,
    ) -> Result<Vec<T>, Error> {
        let mut rows: Vec<T> = Vec::new();
        loop {
            let after = rows.last().map(|row| volume(row).clone());
            self.send(method, &request(after.clone()))?;
            let (page, more) = self.receive_until(until, &decode)?;
            let mut last = after.as_ref();
            for row in &page {
                if last.is_some_and(|last| last >= volume(row)) {
                    return Err(volumes::Error::Message("volumes that are not in order").into());
                }
                last = Some(volume(row));
            }
            let more = more && !page.is_empty();
            rows.extend(page);
            if rows.len() > Kubelet::VOLUMES_MAX {
                let (found, limit) = (rows.len() as u64, Kubelet::VOLUMES_MAX as u64);
                return Err(volumes::Error::Limit { what: "volumes", found, limit }.into());
            }
            if !more {
                return Ok(rows);
            }
        }
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
        self.send_to(SERVICE, method, message)
    }

    /// The same to a service that is not ours.
    pub fn send_to(&mut self, service: &str, method: &str, message: &[u8]) -> Result<(), Error> {
        let request = Request { service, method, payload: message, timeout_ns: 0 };
        let stream = self.next_stream();
        self.stream.set_deadline(Some(Instant::now() + self.timeout));
        write_frame(&mut self.stream, Kind::Request, stream, &request.encode())?;
        self.waiting.push_back(stream);
        Ok(())
    }

    /// Sends a `Put`. With `rest`, the last content goes on with that many bytes of that file.
    pub fn send_put(
        &mut self,
        request: &PutRequest<'_>,
        rest: Option<(&File, usize)>,
    ) -> Result<(), Error> {
        let stream = self.next_stream();
        request.frame_into(stream, rest.map_or(0, |(_, bytes)| bytes), &mut self.frame);
        self.stream.set_deadline(Some(Instant::now() + self.timeout));
        self.stream.write_all(&self.frame)?;
        if let Some((file, bytes)) = rest {
            self.stream.write_file(file, bytes as u64)?;
        }
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
        self.receive_until(Instant::now() + self.timeout, decode)
    }

    fn receive_until<T>(
        &mut self,
        until: Instant,
        decode: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.stream.set_deadline(Some(until));
        let header = read_frame(&mut self.stream, &mut self.payload)?;
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
