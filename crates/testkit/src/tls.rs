//! A certificate authority for tests.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::ServerConfig;

/// A certificate and its private key, in PEM form.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

impl Issued {
    /// Replaces the files, the key's with one that only its owner may read.
    ///
    /// # Errors
    /// As the system says.
    pub fn write(&self, certificate: &Path, key: &Path) -> std::io::Result<()> {
        std::fs::write(certificate, &self.certificate)?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(key)?;
        std::io::Write::write_all(&mut file, self.key.as_bytes())
    }
}

/// A private authority that nobody trusts by default.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Where issuer and subject have one name, OpenSSL takes a certificate for a self-signed one.
        params.distinguished_name.push(DnType::CommonName, "Sealift test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Its certificate, for a CA bundle.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate in these names: DNS names, IP addresses and, with `://` in them, URIs.
    ///
    /// # Errors
    /// If the names are not names, or a key cannot be made.
    pub fn issue(&self, names: &[&str]) -> Result<Issued> {
        self.sign(names, |_| {})
    }

    /// The same, expired long ago.
    ///
    /// # Errors
    /// If the names are not names, or a key cannot be made.
    pub fn issue_expired(&self, names: &[&str]) -> Result<Issued> {
        self.sign(names, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn sign(&self, names: &[&str], change: fn(&mut CertificateParams)) -> Result<Issued> {
        let (uris, others): (Vec<&str>, _) = names.iter().partition(|name| name.contains("://"));
        let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others)?;
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// What a server for these names or addresses needs.
    ///
    /// # Errors
    /// If the names are not names, or a key cannot be made.
    pub fn server(&self, names: &[&str]) -> Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .context("certificate and key do not match")?;
        Ok(Arc::new(config))
    }
}
