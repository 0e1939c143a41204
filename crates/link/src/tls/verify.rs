//! Whom the guest hears, beyond the CA's word.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::EndEntityCert;

/// The chain as rustls verifies it, then the names. Here and not after the handshake, so that who is
/// refused is told so (`access_denied`).
#[derive(Debug)]
pub(super) struct Named {
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl Named {
    /// Without names every certificate of the CA will do.
    pub(super) fn new(chain: Arc<dyn ClientCertVerifier>, names: Vec<String>) -> Self {
        Self { chain, names }
    }

    /// DNS names whatever their case, URIs as they are; a wildcard is not a name.
    fn knows(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let broken = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let certificate = EndEntityCert::try_from(certificate).map_err(broken)?;
        Ok(self.names.iter().any(|name| {
            certificate.valid_dns_names().any(|dns| dns.eq_ignore_ascii_case(name))
                || certificate.valid_uri_names().any(|uri| uri == name)
        }))
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if !self.names.is_empty() && !self.knows(end_entity)? {
            let refused = CertificateError::ApplicationVerificationFailure;
            return Err(Error::InvalidCertificate(refused));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
