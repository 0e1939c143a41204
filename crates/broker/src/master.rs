//! The master key, and what is encrypted under it.
//!
//! Everything that the broker keeps or hands out sealed is AES-256-GCM under a key derived for one
//! purpose: HKDF-SHA256(ikm = master key, salt = empty, info = `sealift-broker/v1 <purpose>`). The
//! associated data is `sealift-broker/v1 <purpose>\n<context>`, so that a ciphertext is good for
//! one purpose and one place. Sealed bytes are `nonce (12) ‖ ciphertext ‖ tag (16)`.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use aws_lc_rs::rand;
use secret::Secret;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::files;

/// The 32 bytes that all other keys come from. Kept outside the data directory, so that a copy of
/// the directory is worth nothing.
#[derive(Debug)]
pub struct MasterKey(Secret);

impl MasterKey {
    /// Length of the key and of its file, in bytes.
    pub const BYTES: usize = 32;

    /// Reads the key from a file of exactly 32 raw bytes.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = files::read(path, Self::BYTES).map_err(|source| Error::file(path, source))?;
        if bytes.len() != Self::BYTES {
            return Err(Error::MasterKey("the file must hold exactly 32 bytes"));
        }
        Ok(Self(Secret::copy(&bytes).map_err(|_| Error::MasterKey("too long"))?))
    }

    /// The cipher for one purpose.
    pub(crate) fn cipher(&self, purpose: Purpose) -> Cipher {
        let info = format!("sealift-broker/v1 {}", purpose.name());
        let key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(self.0.expose())
            .expand(&[info.as_bytes()], &AES_256_GCM)
            .map(UnboundKey::from)
            .expect("32 bytes are within HKDF-SHA256's reach");
        Cipher { key: LessSafeKey::new(key), info }
    }
}

/// What a derived key is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Resources on disk.
    Resource,
    /// The resource policy on disk.
    Policy,
    /// The key that signs attestation tokens, on disk.
    TokenKey,
    /// Session cookies, at the client.
    Session,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Policy => "policy",
            Self::TokenKey => "token-key",
            Self::Session => "session",
        }
    }
}

/// Seals and opens bytes for one purpose.
pub(crate) struct Cipher {
    key: LessSafeKey,
    info: String,
}

/// The bytes were not sealed by this broker for this place, or were changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

impl Cipher {
    /// Seals under a random nonce: 2^32 of them per purpose is the bound of SP 800-38D, far above
    /// what a broker writes or hands out between two master keys.
    pub(crate) fn seal(&self, plaintext: &[u8], context: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).expect("aws-lc's generator aborts rather than fail after start");
        // Room for all of it, so that growing leaves no copy of the plaintext behind.
        let mut sealed = Vec::with_capacity(NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.associated_data(context)),
                &mut sealed[NONCE_LEN..],
            )
            .expect("the plaintext is far below AES-GCM's limit");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what [`Cipher::seal`] made with the same context.
    pub(crate) fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Forged> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(Forged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Forged)?;
        let mut opened = Zeroizing::new(ciphertext.to_vec());
        let aad = Aad::from(self.associated_data(context));
        let len = self.key.open_in_place(nonce, aad, &mut opened).map_err(|_| Forged)?.len();
        opened.truncate(len);
        Ok(opened)
    }

    fn associated_data(&self, context: &[u8]) -> Vec<u8> {
        [self.info.as_bytes(), b"\n", context].concat()
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(byte: u8) -> MasterKey {
        MasterKey(Secret::copy(&[byte; 32]).unwrap())
    }

    #[test]
    fn sealed_bytes_open_only_for_their_key_purpose_and_context() {
        let sealed = master(1).cipher(Purpose::Resource).seal(b"value", b"a/b/c");
        let open = |master: MasterKey, purpose, context: &[u8]| {
            master.cipher(purpose).open(&sealed, context).map(|opened| opened.to_vec())
        };
        assert_eq!(open(master(1), Purpose::Resource, b"a/b/c"), Ok(b"value".to_vec()));
        assert_eq!(open(master(2), Purpose::Resource, b"a/b/c"), Err(Forged));
        assert_eq!(open(master(1), Purpose::Session, b"a/b/c"), Err(Forged));
        assert_eq!(open(master(1), Purpose::Resource, b"a/b/d"), Err(Forged));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let cipher = master(1).cipher(Purpose::Resource);
        let sealed = cipher.seal(b"value", b"");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.open(&changed, b"").err(), Some(Forged), "byte {at}");
            assert_eq!(cipher.open(&sealed[..at], b"").err(), Some(Forged), "cut at {at}");
        }
    }

    #[test]
    fn a_master_key_file_holds_exactly_32_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        for (len, good) in [(0, false), (31, false), (32, true), (33, false)] {
            std::fs::write(&path, vec![7; len]).unwrap();
            assert_eq!(MasterKey::load(&path).is_ok(), good, "{len} bytes");
        }
    }
}
