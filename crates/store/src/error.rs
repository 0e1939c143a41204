//! What can go wrong, as decisions.
//!
//! | seen | error | try again |
//! | --- | --- | --- |
//! | 404, `NoSuchBucket`, `NoSuchKey`, no such file | [`Error::NotFound`] | no |
//! | 401, 403, 407, expired or unknown token, no credentials at all, `EACCES` | [`Error::Denied`] | no |
//! | 408, 425, 429, 5xx, `SlowDown`, `RequestTimeout`, `OperationAborted` | [`Error::Unavailable`] | yes |
//! | refused, reset, no route, no name, end of stream inside a body, garbled HTTP | [`Error::Network`] | yes |
//! | no byte within the connect or read timeout, or too few of them | [`Error::Timeout`] | yes |
//! | certificate not trusted, no common TLS version, not TLS at all | [`Error::Tls`] | no |
//! | 412, another `ETag` than the one asked for, a local file that was replaced | [`Error::Changed`] | no |
//! | 200 for a range, wrong `Content-Range` or length, `Content-Encoding`, 416, unclean listing | [`Error::Protocol`] | no |
//! | object above the caller's limit, too many entries or parts | [`Error::TooLarge`] | no |
//! | 405, 501, listing or writing over plain HTTP | [`Error::Unsupported`] | no |
//! | bad location or setting, wrong region (301, `AuthorizationHeaderMalformed`) | [`Error::Usage`] | no |
//! | any other failure of the local filesystem | [`Error::Local`] | no |

use std::error::Error as StdError;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// Why an object could not be read, written or listed.
///
/// A variant is a decision of the caller; [`Error::is_transient`] is the one between trying again
/// and giving up. `object` is the full address of what was asked for, without userinfo and query.
/// No variant holds a credential, nor text that a server chose freely.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object, or the bucket, is not there.
    #[error("{object}: no such {}", if *.bucket { "bucket" } else { "object" })]
    NotFound {
        /// What was asked for.
        object: String,
        /// The server said that the whole bucket is absent.
        bucket: bool,
    },
    /// The credentials are absent, wrong or not allowed to do this.
    #[error("{object}: access denied ({reason})")]
    Denied {
        /// What was asked for.
        object: String,
        /// The server's error code, or what is missing.
        reason: String,
    },
    /// The server said that it cannot answer now.
    #[error("{object}: the server is not available (HTTP {status})")]
    Unavailable {
        /// What was asked for.
        object: String,
        /// The HTTP status.
        status: u16,
        /// How long it wants to be left alone (`Retry-After`); zero if it does not say.
        after: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("{object}: the connection failed")]
    Network {
        /// What was asked for.
        object: String,
        /// What the socket said.
        #[source]
        cause: Cause,
    },
    /// Nothing, or too little, arrived in time.
    #[error("{object}: the server is too slow")]
    Timeout {
        /// What was asked for.
        object: String,
        /// Which limit was met.
        #[source]
        cause: Cause,
    },
    /// The server could not prove who it is.
    #[error("{object}: the server's TLS identity was not accepted")]
    Tls {
        /// What was asked for.
        object: String,
        /// What rustls said.
        #[source]
        cause: Cause,
    },
    /// The object is not the one whose `ETag` was given.
    #[error("{object}: the object was replaced while it was read")]
    Changed {
        /// What was asked for.
        object: String,
    },
    /// The server's answer contradicts the request or itself.
    #[error("{object}: {what}")]
    Protocol {
        /// What was asked for.
        object: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// A limit was met before the end.
    #[error("{object}: more than {limit} {unit}")]
    TooLarge {
        /// What was asked for.
        object: String,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        unit: &'static str,
    },
    /// This kind of place cannot do that.
    #[error("{object}: {what}")]
    Unsupported {
        /// What was asked for.
        object: String,
        /// What is not supported.
        what: &'static str,
    },
    /// A location, setting or environment variable is wrong; the text names it.
    #[error("{what}")]
    Usage {
        /// Which one, and what is wrong with it.
        what: String,
    },
    /// The local filesystem failed.
    #[error("{object}: cannot {what}")]
    Local {
        /// What was asked for.
        object: String,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        cause: Arc<io::Error>,
    },
}

impl Error {
    /// Whether the same request may succeed a little later with nothing changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Network { .. } | Self::Timeout { .. })
    }

    /// `Some` where the server said, or its slowness showed, that it is asked for too much: how long
    /// to leave it alone at least, zero if it does not say.
    #[must_use]
    pub fn overload(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { after, .. } => Some(*after),
            Self::Timeout { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into() }
    }

    /// A contradiction in an answer; the object is filled in by [`Error::at`].
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { object: String::new(), what: what.into() }
    }

    /// The same error about `address`. Failures are found in the transport, which does not know
    /// whom it serves.
    #[must_use]
    pub(crate) fn at(mut self, address: &str) -> Self {
        match &mut self {
            Self::NotFound { object, bucket: true } => {
                // `s3://bucket/prefix/object`: only the bucket is at fault.
                address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/").clone_into(object);
            }
            Self::NotFound { object, .. }
            | Self::Denied { object, .. }
            | Self::Unavailable { object, .. }
            | Self::Network { object, .. }
            | Self::Timeout { object, .. }
            | Self::Tls { object, .. }
            | Self::Changed { object }
            | Self::Protocol { object, .. }
            | Self::TooLarge { object, .. }
            | Self::Unsupported { object, .. }
            | Self::Local { object, .. } => address.clone_into(object),
            Self::Usage { .. } => {}
        }
        self
    }
}

/// A cause from another library, as one line of text: their errors hold URLs with queries, and
/// cannot be cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The innermost message of the chain below `error`. The outer ones ("error sending request",
    /// "client error (Connect)") say only which layer noticed.
    pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> Self {
        Self(chain(error).last().unwrap_or(error).to_string())
    }
}

/// An error and its causes. `io::Error::source` skips the error inside, which is just where rustls
/// and opendal put theirs.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => error.source(),
        }
    })
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}
