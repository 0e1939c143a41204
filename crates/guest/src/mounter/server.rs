//! [`serve`]: the mounter's life.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use publish::volumes::{Mounter, Space};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use volumes::name::VolumeId;

use super::dial::Switchboard;
use super::wire::{Answer, REQUEST_BYTES, Request};

/// What a receiver may have, whatever it says.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Volumes at a time.
    pub volumes: usize,
    /// Room for each.
    pub space: Space,
}

/// Why a mounter has nothing more to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The receiver is gone.
    #[error("the receiver is gone")]
    Gone,
    /// It said what our receiver does not say: it is none any more, and is not to go on.
    #[error("the receiver said {bytes} bytes that are no request")]
    Malformed {
        /// How many; above the length of a request: more than that.
        bytes: usize,
    },
    /// The socket is broken.
    #[error("cannot hear the receiver")]
    Socket(#[source] io::Error),
}

/// Names below `root` that have a place, hidden or visible.
pub fn places(root: &Path) -> io::Result<BTreeSet<VolumeId>> {
    let mut found = BTreeSet::new();
    for place in ["new", "volumes"] {
        for entry in root.join(place).read_dir()? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|name| VolumeId::parse(name).ok()));
        }
    }
    Ok(found)
}

/// Does for the receiver at the other end of `socket` what it asks `mounter` for within `bounds`,
/// until it is gone. `places` are there already; see [`places`]. With a `switchboard` it gets
/// connections, too.
///
/// It never waits but for the receiver: whole messages come or none, and who does not take an answer
/// gets no other.
pub fn serve(
    socket: impl AsFd,
    mounter: &dyn Mounter,
    bounds: Bounds,
    mut places: BTreeSet<VolumeId>,
    switchboard: Option<&Switchboard>,
) -> Ended {
    let mut refused = 0_u64;
    loop {
        if let Some(switchboard) = switchboard {
            let sockets = [socket.as_fd(), switchboard.socket().as_fd()];
            let mut both = sockets.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN));
            if let Err(errno) = retry_on_intr(|| poll(&mut both, None)) {
                return Ended::Socket(errno.into());
            }
            let [mount, dial] = both.map(|socket| !socket.revents().is_empty());
            if dial && let Err(ended) = switchboard.answer() {
                return ended;
            }
            if !mount {
                continue;
            }
        }
        // A byte more than a request has, to see that there was more.
        let mut message = [0; REQUEST_BYTES + 1];
        let receive = || recv(&socket, &mut message[..], RecvFlags::empty());
        let length = match retry_on_intr(receive) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ended::Gone,
            Ok((length, _)) => length,
            Err(errno) => return Ended::Socket(errno.into()),
        };
        let Some(request) = Request::decode(&message[..length]) else {
            return Ended::Malformed { bytes: length };
        };
        let answer = match allowed(&request, bounds, &places) {
            true => act(request, mounter, &mut places),
            false => {
                refused = refused.saturating_add(1);
                // The receiver decides how often: powers of two are a few lines for any flood.
                if refused.is_power_of_two() {
                    tracing::warn!(count = refused, volume = %request.volume(), "refused to mount");
                }
                Answer::Refused
            }
        };
        match retry_on_intr(|| send(&socket, &answer.encode(), SendFlags::NOSIGNAL)) {
            Ok(_) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Ended::Gone,
            Err(errno) => return Ended::Socket(errno.into()),
        }
    }
}

fn allowed(request: &Request, bounds: Bounds, places: &BTreeSet<VolumeId>) -> bool {
    // To a tmpfs, zero means no limit.
    let fits = |space: &Space| {
        (1..=bounds.space.bytes).contains(&space.bytes)
            && (1..=bounds.space.inodes).contains(&space.inodes)
    };
    match request {
        Request::Create(id, _, space) => {
            fits(space) && (places.contains(id) || places.len() < bounds.volumes)
        }
        Request::Adjust(_, _, space) => fits(space),
        _ => true,
    }
}

fn act(request: Request, mounter: &dyn Mounter, places: &mut BTreeSet<VolumeId>) -> Answer {
    let result = match &request {
        Request::Create(id, may_run, space) => {
            // Before it succeeds: a failure may leave something, until it is removed.
            places.insert(id.clone());
            mounter.create(id, *may_run, *space)
        }
        Request::Adjust(id, may_run, space) => mounter.adjust(id, *may_run, *space),
        Request::Publish(id) => mounter.publish(id),
        Request::Tidy(id) => mounter.tidy(id),
        Request::IsPublished(id) => return Answer::of(mounter.is_published(id)),
        Request::Remove(id) => mounter.remove(id).inspect(|()| {
            places.remove(id);
        }),
    };
    Answer::of(result.map(|()| false))
}
