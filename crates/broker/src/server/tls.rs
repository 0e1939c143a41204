//! TLS 1.2 and 1.3 by rustls, from PEM files that may be replaced while the broker runs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::config::TlsFiles;
use crate::error::Error;
use crate::files::{self, Stamp};

const PEM_BYTES_MAX: usize = 256 * 1024;
/// How often the files are looked at, while there are connections.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A certificate and its key, as the files have them.
pub(super) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// Of the files that were read last, whether they could be used or not.
    stamps: Option<[Stamp; 2]>,
    looked: Instant,
}

impl Tls {
    /// Reads certificate and key; they must belong together.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, Error> {
        let (stamps, acceptor) = (stamps(files).ok(), acceptor(files)?);
        let current = Current { acceptor, stamps, looked: Instant::now() };
        Ok(Self { files: files.clone(), current: Mutex::new(current) })
    }

    /// For a new connection. Files that were replaced count from now on, if they can be used: half of
    /// a rotation, or a broken one, leaves what there was, and says so once.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            match stamps(&self.files) {
                Ok(stamps) if current.stamps != Some(stamps) => {
                    current.stamps = Some(stamps);
                    match acceptor(&self.files) {
                        Ok(acceptor) => {
                            current.acceptor = acceptor;
                            info!("the TLS certificate was replaced");
                        }
                        Err(why) => error!(%why, "the new TLS files cannot be used"),
                    }
                }
                // In the middle of being replaced, or gone: what was read stays good.
                _ => {}
            }
        }
        current.acceptor.clone()
    }
}

fn stamps(files: &TlsFiles) -> io::Result<[Stamp; 2]> {
    Ok([Stamp::of(&files.certificates)?, Stamp::of(&files.key)?])
}

fn acceptor(tls: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let read = |path| files::read(path, PEM_BYTES_MAX).map_err(|source| Error::file(path, source));
    let certificates = CertificateDer::pem_slice_iter(&read(&tls.certificates)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key)?)
        .map_err(|error| Error::Tls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| Error::Tls(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}
