//! [`Error`]: why the store refused or failed, by what the caller can do about it.

use std::time::Duration;

use ::volumes::name::{Category, TreePath, VolumeId};
use ::volumes::tree::Digest;

/// Why something was not done. The current revision is as it was, except after
/// [`Error::Untidy`], and nothing half-made can be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No volume of that name was created.
    #[error("there is no volume {id}")]
    Unknown {
        /// The name asked for.
        id: VolumeId,
    },
    /// The volume is of another kind than asked for. Remove it first.
    #[error("volume {id} is of {held}, not {asked}")]
    OtherCategory {
        /// The volume.
        id: VolumeId,
        /// Its category.
        held: Category,
        /// What was asked for.
        asked: Category,
    },
    /// The volume's record is not readable, so what it may hold is unknown until it is created
    /// again. What it holds stays readable.
    #[error("the record of volume {id} is damaged")]
    Damaged {
        /// The volume.
        id: VolumeId,
    },
    /// More than allowed.
    #[error("{what}: {found} is above the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A length that is not what was said before of the same contents. The sender's fault.
    #[error("contents {digest}: {found} bytes, where {said} belong")]
    Length {
        /// The contents.
        digest: Digest,
        /// The length in question.
        found: u64,
        /// What was said before, or what is there.
        said: u64,
    },
    /// A piece that does not continue where the last one ended. Send from `expected` on, or from 0.
    #[error("contents {digest}: a piece at {found}, where {expected} comes next")]
    Offset {
        /// The contents.
        digest: Digest,
        /// Where the piece begins.
        found: u64,
        /// Where it should.
        expected: u64,
    },
    /// The bytes are not those that were announced; they were removed. The sender's fault.
    #[error("contents {expected} have digest {found}")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Contents that have to be sent before.
    #[error("{count} contents are missing, {first} first")]
    Lacking {
        /// How many.
        count: usize,
        /// One of them.
        first: Digest,
    },
    /// Contents that are sealed and were not [replaced](super::Store::replace) by what is sealed in
    /// them: nobody may see them.
    #[error("{count} contents are sealed, {first} first")]
    Sealed {
        /// How many.
        count: usize,
        /// One of them.
        first: Digest,
    },
    /// Contents that were sealed for one path are at another.
    #[error("{path}: what is sealed in it is for the file {only_at} alone")]
    Bound {
        /// Where they are.
        path: TreePath,
        /// Where they may be.
        only_at: TreePath,
    },
    /// The sequence number is not above the current one's.
    #[error("revision {sequence} is not above {held}, which is current")]
    Stale {
        /// What was asked for.
        sequence: u64,
        /// What is current.
        held: u64,
    },
    /// Another revision of the same sequence number is current.
    #[error("revision {sequence} is current with digest {held}, not {asked}")]
    Conflict {
        /// The sequence number.
        sequence: u64,
        /// The digest of what is current.
        held: Digest,
        /// The digest of what was to be.
        asked: Digest,
    },
    /// As many revisions as may exist are still within their grace. Try again then.
    #[error("too many revisions within {retry_after:?}")]
    TooSoon {
        /// When the oldest one's grace is over.
        retry_after: Duration,
    },
    /// No space or inodes left in the volume's filesystem.
    #[error("the volume is full")]
    Full(#[source] crate::Error),
    /// The revision *is* current and complete, but what it replaced could not all be tidied away: a
    /// new name's link may be missing, or a removed one's left. Committing the same again, or
    /// [`expire`](super::Store::expire), finishes it.
    #[error("revision {sequence} is current, but not everything was tidied up")]
    Untidy {
        /// The revision.
        sequence: u64,
        /// What went wrong first.
        #[source]
        source: Box<Error>,
    },
    /// The system refused a call.
    #[error(transparent)]
    System(crate::Error),
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Full { .. } => Self::Full(error),
            other => Self::System(other),
        }
    }
}

/// Refuses a count above its limit.
pub(super) fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found > limit { Err(Error::Limit { what, found, limit }) } else { Ok(()) }
}
