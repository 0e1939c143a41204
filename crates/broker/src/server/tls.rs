//! TLS 1.2 and 1.3 by rustls, from PEM files.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::error::Error;
use crate::files;

const PEM_BYTES_MAX: usize = 256 * 1024;

/// Reads certificate and key; they must belong together.
pub(super) fn acceptor(tls: &TlsFiles) -> Result<TlsAcceptor, Error> {
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
