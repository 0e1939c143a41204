//! [`Released`]: the guest's certificate and private key from its key source, which releases them
//! after attestation. So they are in no image and on no disk, and who speaks TLS in the guest's name
//! has attested.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use link::tls::{self, Error, Identity, Pem};

use crate::cdh::Cdh;
use crate::server::lock;

/// How long what was released is used before it is asked for again. Strangers cause connections:
/// none of them causes an attestation.
const REFRESH: Duration = Duration::from_secs(300);

/// Stack of the thread that asks.
const STACK_BYTES: usize = 256 << 10;

/// Two resources of a key source.
pub struct Released(Arc<Resources>);

struct Resources {
    source: Cdh,
    chain: String,
    key: String,
    state: Mutex<Option<Kept>>,
}

/// What was released.
struct Kept {
    pem: Pem,
    /// `None`: it is being asked for.
    ask_at: Option<Instant>,
}

impl Released {
    /// The certificate's and the key's resources, `kbs:///<repository>/<type>/<tag>` each, as of
    /// [`is_resource`].
    pub fn new(source: Cdh, chain: String, key: String) -> Self {
        Self(Arc::new(Resources { source, chain, key, state: Mutex::default() }))
    }

    fn pem_at(&self, now: Instant) -> Result<Pem, Error> {
        let mut state = lock(&self.0.state);
        let Some(kept) = state.as_mut() else {
            // At the start: nothing goes on without.
            let pem = self.0.ask()?;
            *state = Some(Kept { pem: pem.clone(), ask_at: Some(now + REFRESH) });
            return Ok(pem);
        };
        if kept.ask_at.is_some_and(|at| at <= now) {
            let resources = Arc::clone(&self.0);
            let thread =
                std::thread::Builder::new().name("identity".into()).stack_size(STACK_BYTES);
            // On none that a peer waits for: a key source may take its time.
            kept.ask_at = match thread.spawn(move || resources.renew()) {
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, "no thread to have the certificate released anew");
                    Some(now + REFRESH)
                }
            };
        }
        Ok(kept.pem.clone())
    }
}

impl Resources {
    /// A pair that can be used: what is between two requests may be a rotation.
    fn ask(&self) -> Result<Pem, Error> {
        let resource = |uri| self.source.resource(uri).map_err(|error| Error::Source(error.into()));
        let pem = Pem { chain: resource(&self.chain)?.to_vec(), key: resource(&self.key)? };
        tls::check(&pem, self)?;
        Ok(pem)
    }

    fn renew(&self) {
        let asked = self.ask();
        let mut state = lock(&self.state);
        let Some(kept) = state.as_mut() else { return };
        kept.ask_at = Some(Instant::now() + REFRESH);
        match asked {
            Ok(pem) => kept.pem = pem,
            Err(error) => {
                tracing::warn!(identity = %self, error = %volumes::chain(&error), "not released anew");
            }
        }
    }
}

/// Whether a file's path is a resource's name instead.
pub fn is_resource(path: &str) -> bool {
    path.starts_with("kbs://")
}

impl Identity for Released {
    /// While it is asked for again, and when that fails, what was released before goes on.
    fn pem(&self) -> Result<Pem, Error> {
        self.pem_at(Instant::now())
    }
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.chain, self.key)
    }
}

impl fmt::Debug for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Released({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use testkit::tls::Authority;
    use volumes::wire::cdh::{Call, PAYLOAD_BYTES_MAX, answer_head};
    use volumes::wire::stream::read_frame_up_to;

    use super::*;

    const URIS: [&str; 2] = ["kbs:///pod/tls/cert", "kbs:///pod/tls/key"];

    type Store = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    fn serve(listener: UnixListener, store: Store) {
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut payload) = (stream.unwrap(), Vec::new());
                read_frame_up_to(&mut stream, &mut payload, PAYLOAD_BYTES_MAX).unwrap();
                let Ok(Call::Resource(uri)) = Call::decode(&payload) else { continue };
                let value = lock(&store)[uri].clone();
                stream.write_all(&[answer_head(1, value.len()), value].concat()).unwrap();
            }
        });
    }

    /// Asks again; what is released afterwards.
    fn renewed(released: &Released, store: &Store, pair: [&[u8]; 2]) -> Vec<u8> {
        let mut held = lock(store);
        *held = URIS.iter().zip(pair).map(|(uri, pem)| ((*uri).into(), pem.to_vec())).collect();
        let before = released.pem().unwrap().chain;
        // The key source cannot answer now, and nobody waits for it.
        assert_eq!(released.pem_at(Instant::now() + REFRESH).unwrap().chain, before);
        drop(held);
        while lock(&released.0.state).as_ref().unwrap().ask_at.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        released.pem().unwrap().chain
    }

    #[test]
    fn a_good_pair_is_replaced_by_a_good_pair_alone_and_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new().unwrap();
        let issue = || {
            let (chain, key) = (dir.path().join("chain"), dir.path().join("key"));
            authority.issue(&["guest"]).unwrap().write(&chain, &key).unwrap();
            let both = [&chain, &key].map(|path| std::fs::read(path).unwrap());
            std::fs::remove_file(key).unwrap();
            both
        };
        let ([chain, key], [next_chain, next_key]) = (issue(), issue());
        let store = Store::default();
        let path = dir.path().join("cdh.sock");
        serve(UnixListener::bind(&path).unwrap(), Arc::clone(&store));
        let source = Cdh::new(path, Duration::from_secs(60));
        let released = Released::new(source, URIS[0].into(), URIS[1].into());
        *lock(&store) = [(URIS[0].into(), chain.clone()), (URIS[1].into(), key.clone())].into();
        assert_eq!(released.pem().unwrap().chain, chain);
        for bad in [[&next_chain, &key[..]], [&chain, b"garbage"], [b"", &key]] {
            assert_eq!(renewed(&released, &store, bad), chain);
        }
        assert_eq!(renewed(&released, &store, [&next_chain, &next_key]), next_chain);
    }
}
