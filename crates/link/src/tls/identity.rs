//! Who this side is: a certificate chain and its private key, from files or from elsewhere.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{Error, unusable};

/// Longest file of certificates or a key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where this side's certificate and key come from. Asked for every connection, also by peers of
/// whom nothing is known yet: one that has to ask elsewhere keeps what it got.
/// It is shown in errors.
pub trait Identity: fmt::Debug + fmt::Display + Send + Sync {
    /// Both, as they are now. What is not a file's error is [`Error::Source`].
    fn pem(&self) -> Result<Pem, Error>;
}

/// A certificate chain and its private key, in PEM form (RFC 7468).
#[derive(Clone)]
pub struct Pem {
    /// The certificate, and then those between it and the CA.
    pub chain: Vec<u8>,
    /// PKCS #8, PKCS #1 or SEC1.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem([redacted])")
    }
}

/// Files, read each time.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, and then those between it and the CA.
    pub chain: PathBuf,
    /// The private key. A file that its group or others may read or write is refused: a warning
    /// would be read by nobody, and everything else rests on this key.
    pub key: PathBuf,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.chain.display(), self.key.display())
    }
}

impl Identity for Files {
    fn pem(&self) -> Result<Pem, Error> {
        Ok(Pem { chain: read(&self.chain, false)?, key: Zeroizing::new(read(&self.key, true)?) })
    }
}

fn read(path: &Path, private: bool) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.mode() & 0o7777;
    if private && mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.into(), mode });
    }
    let mut bytes = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    match bytes.len() as u64 > PEM_BYTES_MAX {
        true => Err(Error::TooLong(path.into())),
        false => Ok(bytes),
    }
}

/// Chain and key, each of them there and well-formed.
pub(super) fn parse(
    identity: &dyn Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    parts(&identity.pem()?, identity)
}

/// Whether `pem` can be used: chain and key are there, well-formed and belong together. `what` it
/// is, for the error.
pub fn check(pem: &Pem, what: &dyn fmt::Display) -> Result<(), Error> {
    let (chain, key) = parts(pem, what)?;
    CertifiedKey::from_der(chain, key, &super::provider()).map(drop).map_err(unusable(what))
}

fn parts(
    pem: &Pem,
    what: &(impl fmt::Display + ?Sized),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let what = || what.to_string();
    let chain = certificates(&pem.chain)
        .ok_or_else(|| Error::Pem { what: what(), wanted: "certificate" })?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|_| Error::Pem { what: what(), wanted: "private key" })?;
    Ok((chain, key))
}

/// The CAs in a file.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let wanted = || Error::Pem { what: path.display().to_string(), wanted: "certificate" };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&read(path, false)?).ok_or_else(wanted)? {
        roots.add(certificate).map_err(unusable(path.display()))?;
    }
    Ok(roots)
}

/// At least one, and none that is broken.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}
