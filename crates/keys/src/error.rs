//! [`Error`]: why there is no key.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use seal::name::KeyUri;

/// A cause of any type, for `#[source]`.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a key was not released. Each variant is a decision of the caller's. Text that a server sent
/// is shortened and stripped of control characters; key bytes never appear.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker does not accept this machine's evidence, or no longer accepts its session.
    #[error("{endpoint} does not accept this guest's attestation: {detail}")]
    Attestation {
        /// The broker's address.
        endpoint: String,
        /// What the broker says, if anything.
        detail: String,
    },
    /// The server does not accept who we say we are: a token that is wrong or has ended, a role that
    /// is not for us, credentials that it does not know.
    #[error("{endpoint} does not accept our login: {detail}")]
    Login {
        /// The server's address.
        endpoint: String,
        /// What it says, if anything.
        detail: String,
    },
    /// This machine cannot produce the evidence that was asked for.
    #[error("cannot produce {tee} evidence")]
    Evidence {
        /// The TEE, in the protocol's spelling.
        tee: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Attested, but the policy does not give this key to this guest.
    #[error("{resource} is denied by policy: {detail}")]
    Denied {
        /// The key asked for.
        resource: KeyUri,
        /// What the source says, if anything.
        detail: String,
    },
    /// The source has no such key.
    #[error("{resource} not found: {detail}")]
    NotFound {
        /// The key asked for.
        resource: KeyUri,
        /// What the source says, if anything.
        detail: String,
    },
    /// The key's holder has the key, and does not unwrap this with it: another key or another bundle
    /// it was wrapped for, or it was changed.
    #[error("{resource} does not unwrap what the bundle holds for it: {detail}")]
    Unwrap {
        /// The key that should have unwrapped.
        resource: KeyUri,
        /// What its holder says, if anything.
        detail: String,
    },
    /// CDH answers every failure alike: a missing key, a denied one, and a KBS that it cannot
    /// reach. Transient, since the last of these is; [`Retry`](crate::Retry) allows it few
    /// attempts, since each costs the KBS several attestations.
    #[error(
        "cdh did not release {resource} and does not say why (500 after {} ms): the name may be \
         wrong, the policy may deny it, or the kbs may be unreachable; cdh's log tells which",
        elapsed.as_millis()
    )]
    Opaque {
        /// The key asked for.
        resource: KeyUri,
        /// How long CDH took: it gives up on an unreachable KBS only after 4 s.
        elapsed: Duration,
    },
    /// No answer, or the answer that there is none now. Transient.
    #[error("{endpoint} is unreachable: {why}")]
    Unreachable {
        /// The address asked.
        endpoint: String,
        /// What happened, in a few words.
        why: String,
        /// The client's error, if there is one.
        #[source]
        source: Option<Cause>,
    },
    /// A server that has too much to do, and says when to come again. Transient.
    #[error("{endpoint} is busy: {why}")]
    Busy {
        /// The address asked.
        endpoint: String,
        /// What it says.
        why: String,
        /// How long it wants to be left alone (`Retry-After`).
        after: Duration,
    },
    /// Released, but without a single byte. Transient: a KBS that is replacing a key answers so.
    #[error("{resource} is empty")]
    Empty {
        /// The key asked for.
        resource: KeyUri,
    },
    /// The server's certificate does not verify, or the CA bundle is unusable.
    #[error("tls with {endpoint} failed")]
    Tls {
        /// The address asked.
        endpoint: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// An answer that breaks the protocol.
    #[error("unusable answer from {endpoint}: {why}")]
    Protocol {
        /// The address asked.
        endpoint: String,
        /// The rule that it breaks.
        why: String,
    },
    /// More bytes than a key, or an answer that carries one, may have.
    #[error("{what} is longer than {limit} bytes")]
    TooLarge {
        /// What is too long.
        what: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A key file that is there but cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a sealed secret that can be opened here. Its contents never appear.
    #[error("the sealed secret cannot be opened: {0}")]
    Sealed(String),
    /// Somebody else signed it, or it was changed since.
    #[error("the sealed secret's signature is not {signer}'s")]
    Signature {
        /// Who says to have signed it.
        signer: String,
    },
    /// Signed, but not for here.
    #[error("the sealed secret is not for here: {0}")]
    Audience(volumes::audience::Refused),
    /// What should be a signer's public key is none of P-256.
    #[error("{signer} is no public key of P-256 in JWK form, or `sealift_purposes` forbid `sign`")]
    SignerUnusable {
        /// Whose it should be.
        signer: String,
    },
    /// A key that may not be used so.
    #[error("the key of the sealed secret: {0}")]
    KeyUnusable(seal::Error),
    /// A setting that cannot or may not be used.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Empty { .. } | Self::Opaque { .. }
        )
    }

    /// [`Error::Protocol`].
    pub fn protocol(endpoint: &str, why: impl Into<String>) -> Self {
        Self::Protocol { endpoint: endpoint.to_owned(), why: why.into() }
    }
}

/// Longest text of a server's that is repeated, in characters.
const DETAIL_CHARS_MAX: usize = 256;

/// What a server said, fit for a log line: one line, printable, short.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| c.is_alphanumeric() || c.is_ascii_graphic() || *c == ' ')
        .take(DETAIL_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_text_cannot_forge_log_lines_or_drive_a_terminal() {
        assert_eq!(printable("no\r\nlevel=INFO \x1b[2Jok\u{202e}\0"), "no  level=INFO [2Jok");
        assert_eq!(printable(&"ü".repeat(1000)).chars().count(), DETAIL_CHARS_MAX);
    }
}
