//! Who is believed.

use std::fmt;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};

use crate::Error;
use crate::certificate;
use crate::error::excerpt;
use crate::key::PublicKey;

/// Most keys, authorities and identities, each.
const TRUSTED_MAX: usize = 256;

/// Public keys, and authorities with the identities that they vouch for. Empty, it believes nobody.
#[derive(Debug, Default)]
pub struct Trust {
    keys: Vec<PublicKey>,
    authorities: Vec<TrustAnchor<'static>>,
    identities: Vec<String>,
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The holder of a key: its [fingerprint](PublicKey::fingerprint).
    Key(String),
    /// The holder of a certificate: the identity that was asked for.
    Certificate(String),
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(fingerprint) => write!(f, "key sha256:{fingerprint}"),
            Self::Certificate(identity) => write!(f, "certificate {identity}"),
        }
    }
}

impl Trust {
    /// Believes every public key of a PEM file, which must have at least one.
    pub fn add_keys(&mut self, pem: &[u8]) -> Result<(), Error> {
        let unusable = |why| Error::Unusable { what: "public keys", why };
        let before = self.keys.len();
        for spki in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let spki = spki.map_err(|_| unusable("not PEM"))?;
            self.keys.push(PublicKey::from_spki(&spki)?);
        }
        check_number(before, self.keys.len()).ok_or_else(|| {
            unusable("the file holds none (`-----BEGIN PUBLIC KEY-----`), or too many")
        })
    }

    /// Believes every certificate of a PEM file, which must have at least one, as an authority.
    pub fn add_authorities(&mut self, pem: &[u8]) -> Result<(), Error> {
        let unusable = |why| Error::Unusable { what: "authorities", why };
        let before = self.authorities.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| unusable("not PEM"))?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|_| unusable("a certificate that cannot be read"))?;
            self.authorities.push(anchor.to_owned());
        }
        check_number(before, self.authorities.len())
            .ok_or_else(|| unusable("the file holds no certificate, or too many"))
    }

    /// Believes certificates with this name: a subject alternative name (e-mail address, URI or DNS
    /// name), or the whole subject as RFC 4514 writes it (`CN=release,O=Example`).
    pub fn add_identity(&mut self, identity: &str) {
        self.identities.push(identity.to_owned());
    }

    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.authorities.is_empty()
    }

    /// Finds the key that made `signature` over `message`. A hint only chooses among the keys that
    /// are believed.
    pub(crate) fn by_key(
        &self,
        hint: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Signer, Error> {
        if self.keys.is_empty() {
            return Err(Error::OtherMaterial { found: "key" });
        }
        let named = |key: &&PublicKey| hint.is_empty() || key.fingerprint() == hint;
        let mut candidates = self.keys.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(Error::UnknownKey(format!(", sha256:{}", excerpt(hint))));
        }
        match candidates.find(|key| key.verify(message, signature).is_ok()) {
            Some(key) => Ok(Signer::Key(key.fingerprint().to_owned())),
            None if hint.is_empty() => Err(Error::UnknownKey(String::new())),
            None => Err(Error::Forged),
        }
    }

    /// Whether the holder of the chain's first certificate made `signature`, and is believed `now`.
    pub(crate) fn by_certificate(
        &self,
        chain: &[Vec<u8>],
        now: UnixTime,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Signer, Error> {
        if self.authorities.is_empty() {
            return Err(Error::OtherMaterial { found: "certificate" });
        }
        let (key, names) = certificate::verify(chain, &self.authorities, now)?;
        key.verify(message, signature)?;
        match names.iter().find(|name| self.identities.contains(name)) {
            Some(name) => Ok(Signer::Certificate(name.clone())),
            None => Err(Error::Identity { found: excerpt(&names.join(" or ")) }),
        }
    }
}

fn check_number(before: usize, now: usize) -> Option<()> {
    (now > before && now <= TRUSTED_MAX).then_some(())
}
