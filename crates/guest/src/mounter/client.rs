//! [`Client`]: the mounter as the receiver knows it.

use std::os::fd::OwnedFd;

use publish::volumes::{Error, Mounter, Space};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use volumes::name::VolumeId;

use super::wire::{ANSWER_BYTES_MAX, Answer, Request};

/// A mounter in another process.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Over the receiver's end of the socket pair, which nobody else uses.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    fn ask(&self, request: &Request) -> Result<bool, Error> {
        let said = self.exchange(request).map_err(|errno| publish::Error::Io {
            call: "ask",
            path: "the mounter".into(),
            source: errno.into(),
        })?;
        said.into_result(request.volume())
    }

    fn exchange(&self, request: &Request) -> Result<Answer, Errno> {
        let request = request.encode();
        retry_on_intr(|| send(&self.socket, &request, SendFlags::NOSIGNAL))?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let receive = || recv(&self.socket, &mut answer[..], RecvFlags::empty());
        let (length, _) = retry_on_intr(receive)?;
        match length {
            0 => Err(Errno::PIPE),
            _ => Answer::decode(&answer[..length]).ok_or(Errno::PROTO),
        }
    }
}

impl Mounter for Client {
    fn create(&self, id: &VolumeId, may_run: bool, space: Space) -> Result<(), Error> {
        self.ask(&Request::Create(id.clone(), may_run, space)).map(drop)
    }

    fn adjust(&self, id: &VolumeId, may_run: bool, space: Space) -> Result<(), Error> {
        self.ask(&Request::Adjust(id.clone(), may_run, space)).map(drop)
    }

    fn publish(&self, id: &VolumeId) -> Result<(), Error> {
        self.ask(&Request::Publish(id.clone())).map(drop)
    }

    fn tidy(&self, id: &VolumeId) -> Result<(), Error> {
        self.ask(&Request::Tidy(id.clone())).map(drop)
    }

    fn is_published(&self, id: &VolumeId) -> Result<bool, Error> {
        self.ask(&Request::IsPublished(id.clone()))
    }

    fn remove(&self, id: &VolumeId) -> Result<(), Error> {
        self.ask(&Request::Remove(id.clone())).map(drop)
    }
}
