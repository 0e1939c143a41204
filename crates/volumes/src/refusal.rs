//! [`Refusal`]: why the guest says no, in words that the host can act on.

use std::fmt;

use crate::Error;

/// A request that was not granted. The volume's visible revision is what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the host may do about it.
    pub reason: Reason,
    /// What was refused, for people.
    pub what: String,
}

impl Refusal {
    /// Longest text that goes over the wire.
    const WHAT_BYTES_MAX: usize = 512;

    /// A refusal, whose text is cut to a length and has no control characters: it goes into the
    /// other side's logs, and onto its terminals.
    pub fn new(reason: Reason, what: impl Into<String>) -> Self {
        let mut what = what.into().replace(char::is_control, "\u{fffd}");
        if what.len() > Self::WHAT_BYTES_MAX {
            what.truncate(what.floor_char_boundary(Self::WHAT_BYTES_MAX));
        }
        Self { reason, what }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.what)
    }
}

impl std::error::Error for Refusal {}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let reason = match error {
            Error::Limit { .. } => Reason::Limit,
            _ => Reason::Invalid,
        };
        Self::new(reason, error.to_string())
    }
}

/// Why, as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It breaks a rule of names, modes or messages. Sending it again does not help.
    Invalid,
    /// More than a limit allows.
    Limit,
    /// Policy says no.
    Policy,
    /// No such service, method or version.
    Unsupported,
    /// No such volume: open it first.
    Unknown,
    /// The sequence is not above what was committed.
    Stale,
    /// The same sequence was committed with another digest.
    Conflict,
    /// The changes are made to a revision that the guest does not have: send it whole.
    Base,
    /// The result's digest is not the one announced.
    Digest,
    /// Contents are missing: send them, then commit again.
    Missing,
    /// Too many revisions are live: commit the newest a little later.
    TooSoon,
    /// No space or no inodes in the guest.
    NoSpace,
    /// Sealed values are being opened: commit again a moment later.
    Opening,
    /// A sealed value cannot be opened.
    Sealed,
    /// The guest failed.
    Internal,
    /// Something else, with its `google.rpc.Code`.
    Other(u32),
}

impl Reason {
    const ALL: [(Self, &'static str, u32); 15] = [
        (Self::Invalid, "invalid", 3),
        (Self::Limit, "limit", 8),
        (Self::Policy, "policy", 7),
        (Self::Unsupported, "unsupported", 12),
        (Self::Unknown, "unknown-volume", 5),
        (Self::Stale, "stale", 9),
        (Self::Conflict, "conflict", 6),
        (Self::Base, "base", 9),
        (Self::Digest, "digest", 3),
        (Self::Missing, "missing", 9),
        (Self::TooSoon, "too-soon", 14),
        (Self::NoSpace, "no-space", 8),
        (Self::Opening, "opening", 14),
        (Self::Sealed, "sealed", 9),
        (Self::Internal, "internal", 13),
    ];

    /// The `google.rpc.Code`.
    pub fn status(self) -> u32 {
        match self {
            Self::Other(code) => code,
            _ => self.row().2,
        }
    }

    /// The reverse of `Display`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == word).map(|(reason, ..)| *reason)
    }

    fn row(self) -> (Self, &'static str, u32) {
        let row = Self::ALL.into_iter().find(|(reason, ..)| *reason == self);
        row.unwrap_or((self, "other", 2))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for (reason, word, code) in Reason::ALL {
            assert_eq!(Reason::parse(word), Some(reason));
            assert_eq!((reason.to_string().as_str(), reason.status()), (word, code));
        }
    }

    #[test]
    fn no_text_forges_lines_or_moves_cursors() {
        let refusal = Refusal::new(Reason::Invalid, "a\nb\r\x1b[2Jc");
        assert!(!refusal.what.contains(char::is_control), "{refusal:?}");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let refusal = Refusal::new(Reason::Invalid, "ä".repeat(600));
        assert_eq!(refusal.what.len(), 512);
    }
}
