//! Who is believed.

use std::fmt;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};

use crate::Error;
use crate::certificate;
use crate::error::excerpt;
use crate::key::PublicKey;
use crate::sigstore::{Keyless, TrustedRoot};

/// Most keys, authorities and identities, each.
const TRUSTED_MAX: usize = 256;

/// Public keys, and authorities with the identities that they vouch for. Empty, it believes nobody.
#[derive(Debug, Default)]
pub struct Trust {
    keys: Vec<PublicKey>,
    authorities: Vec<TrustAnchor<'static>>,
    sigstore: Option<Sigstore>,
    identities: Vec<String>,
}

#[derive(Debug)]
struct Sigstore {
    root: TrustedRoot,
    provider: String,
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The holder of a key: its [fingerprint](PublicKey::fingerprint).
    Key(String),
    /// The holder of a certificate: the identity that was asked for.
    Certificate(String),
    /// Who proved to be this to an OpenID provider, and signed without a key of their own.
    Keyless {
        /// The identity that was asked for.
        identity: String,
        /// The provider that was asked for.
        provider: String,
    },
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(fingerprint) => write!(f, "key sha256:{fingerprint}"),
            Self::Certificate(identity) => write!(f, "certificate {identity}"),
            Self::Keyless { identity, provider } => write!(f, "keyless {identity} by {provider}"),
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

    /// Believes keyless signatures whose signer proved their identity to `provider`, an OpenID issuer
    /// (`https://accounts.google.com`), on the word of a Sigstore's `trusted_root.json`, or of the one
    /// in a client's trust configuration. There is one of them; a second call takes its place.
    pub fn set_sigstore(&mut self, trusted_root: &[u8], provider: &str) -> Result<(), Error> {
        let root = TrustedRoot::parse(trusted_root)?;
        self.sigstore = Some(Sigstore { root, provider: provider.to_owned() });
        Ok(())
    }

    /// Believes certificates with this name, of authorities and of Sigstore's: a subject
    /// alternative name (e-mail address or URI; of authorities also a DNS name, or the whole subject as
    /// RFC 4514 writes it, `CN=release,O=Example`).
    pub fn add_identity(&mut self, identity: &str) {
        self.identities.push(identity.to_owned());
    }

    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.authorities.is_empty() && self.sigstore.is_none()
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
        self.known(&names).map(Signer::Certificate)
    }

    /// Whether whom Sigstore identified made `signature` over `message`, which has `payload` in it, and
    /// is believed.
    pub(crate) fn by_sigstore(
        &self,
        keyless: &Keyless,
        payload: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Signer, Error> {
        let Some(Sigstore { root, provider }) = &self.sigstore else {
            return Err(Error::OtherMaterial { found: "keyless certificate" });
        };
        let identified = keyless.verify(root, payload, message, signature)?;
        // A name means something together with who vouches for it.
        if identified.provider != *provider {
            return Err(Error::Provider { found: excerpt(&identified.provider) });
        }
        let identity = self.known(&identified.names)?;
        Ok(Signer::Keyless { identity, provider: identified.provider })
    }

    fn known(&self, names: &[String]) -> Result<String, Error> {
        match names.iter().find(|name| self.identities.contains(name)) {
            Some(name) => Ok(name.clone()),
            None => Err(Error::Identity { found: excerpt(&names.join(" or ")) }),
        }
    }
}

fn check_number(before: usize, now: usize) -> Option<()> {
    (now > before && now <= TRUSTED_MAX).then_some(())
}
