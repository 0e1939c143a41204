//! [`Released`]: the guest's certificate and private key from its key source, which releases them
//! after attestation. So they are in no image and on no disk, and who speaks TLS in the guest's name
//! has attested.

use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use link::tls::{Error, Identity, Pem};

use crate::cdh::{self, Cdh};
use crate::server::lock;

/// How long what was released is used before it is asked for again. Strangers cause connections:
/// none of them causes an attestation.
const REFRESH: Duration = Duration::from_secs(300);

/// Two resources of a key source.
pub struct Released {
    source: Cdh,
    chain: String,
    key: String,
    state: Mutex<Option<Kept>>,
}

/// What was released.
struct Kept {
    pem: Pem,
    ask_at: Instant,
}

impl Released {
    /// The certificate's and the key's resources, `kbs:///<repository>/<type>/<tag>` each, as of
    /// [`is_resource`].
    pub fn new(source: Cdh, chain: String, key: String) -> Self {
        Self { source, chain, key, state: Mutex::default() }
    }

    fn ask(&self) -> Result<Pem, cdh::Error> {
        let chain = self.source.resource(&self.chain)?.to_vec();
        Ok(Pem { chain, key: self.source.resource(&self.key)? })
    }

    fn keep(&self, mut state: MutexGuard<'_, Option<Kept>>, pem: Pem) -> Pem {
        *state = Some(Kept { pem: pem.clone(), ask_at: Instant::now() + REFRESH });
        pem
    }
}

/// Whether a file's path is a resource's name instead.
pub fn is_resource(path: &str) -> bool {
    path.starts_with("kbs://")
}

impl Identity for Released {
    /// While it is asked for again, and when that fails, what was released before goes on.
    fn pem(&self) -> Result<Pem, Error> {
        let mut state = lock(&self.state);
        let Some(kept) = state.as_mut() else {
            // At the start: nothing goes on without.
            let pem = self.ask().map_err(|error| Error::Source(error.into()))?;
            return Ok(self.keep(state, pem));
        };
        let pem = kept.pem.clone();
        if Instant::now() < kept.ask_at {
            return Ok(pem);
        }
        kept.ask_at = Instant::now() + REFRESH;
        drop(state);
        match self.ask() {
            Ok(pem) => Ok(self.keep(lock(&self.state), pem)),
            Err(error) => {
                tracing::warn!(identity = %self, error = %volumes::chain(&error), "not released anew");
                Ok(pem)
            }
        }
    }
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.chain, self.key)
    }
}

impl fmt::Debug for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Released({self})")
    }
}
