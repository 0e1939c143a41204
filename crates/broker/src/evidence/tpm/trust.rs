//! The attestation keys that the operator trusts: PEM files, read again as soon as they change, so
//! that a key that was taken out of them is refused from then on.

use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::error::Error;
use crate::files;

/// Largest file: some thousand keys.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// SubjectPublicKeyInfo of P-256 with an uncompressed point (RFC 5480), before the point.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    P256,
    /// 2048 to 8192 bits.
    Rsa,
}

/// A listed key that signatures can be verified with.
#[derive(Debug)]
pub(super) struct TrustedKey {
    spki: Vec<u8>,
    pub(super) algorithm: Algorithm,
    /// In the form that the cryptographic library takes.
    pub(super) bytes: Vec<u8>,
}

/// The keys of a file.
#[derive(Debug)]
pub(crate) struct TrustedKeys(Vec<TrustedKey>);

impl TrustedKeys {
    /// The keys in a PEM file ("PUBLIC KEY"), at least one. Anything else in it makes all of them
    /// unusable: a list that is not understood must not be half obeyed.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let pem = files::read(path, FILE_BYTES_MAX).map_err(|e| Error::file(path, e))?;
        let mut keys = Vec::new();
        for spki in SubjectPublicKeyInfoDer::pem_slice_iter(&pem) {
            let spki = spki.map_err(|_| unusable(path))?;
            keys.push(TrustedKey::parse(&spki).ok_or_else(|| unusable(path))?);
        }
        if keys.is_empty() { Err(unusable(path)) } else { Ok(Self(keys)) }
    }

    /// The key with exactly this SubjectPublicKeyInfo.
    pub(super) fn find(&self, spki: &[u8]) -> Option<&TrustedKey> {
        self.0.iter().find(|key| key.spki == spki)
    }
}

impl TrustedKey {
    fn parse(spki: &[u8]) -> Option<Self> {
        let (algorithm, bytes, parsed) = match spki.strip_prefix(P256_SPKI) {
            Some(point) => {
                let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                (Algorithm::P256, point, parsed)
            }
            None => {
                let parsed = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, spki);
                (Algorithm::Rsa, spki, parsed)
            }
        };
        parsed.ok()?;
        Some(Self { spki: spki.to_vec(), algorithm, bytes: bytes.to_vec() })
    }
}

fn unusable(path: &Path) -> Error {
    Error::TpmKey { path: path.to_owned() }
}
