//! Digests of files and shards.

use std::fmt;

use aws_lc_rs::digest as sha2;
use blake2::{Blake2b512, Digest as _};

/// How a file or shard is digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// FIPS 180-4.
    Sha256,
    /// RFC 7693, 64 bytes.
    Blake2b,
    /// 32 bytes.
    Blake3,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Blake2b, Self::Blake3];

    /// As statements spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2b",
            Self::Blake3 => "blake3",
        }
    }

    /// Reads [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Length of its digests.
    pub fn bytes(self) -> usize {
        match self {
            Self::Sha256 | Self::Blake3 => 32,
            Self::Blake2b => 64,
        }
    }
}

/// A digest in progress.
pub struct Hasher(State);

enum State {
    Sha256(sha2::Context),
    Blake2b(Box<Blake2b512>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// One that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Context::new(&sha2::SHA256)),
            Algorithm::Blake2b => State::Blake2b(Box::default()),
            Algorithm::Blake3 => State::Blake3(Box::default()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(context) => context.update(bytes),
            State::Blake2b(hasher) => hasher.update(bytes),
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// The digest, [`Algorithm::bytes`] long.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            State::Sha256(context) => context.finish().as_ref().to_vec(),
            State::Blake2b(hasher) => hasher.finalize().to_vec(),
            State::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4, RFC 7693 appendix A, and BLAKE3's published vector for the empty input.
    #[test]
    fn digests_are_the_published_ones() {
        let digest = |algorithm: Algorithm, parts: &[&[u8]]| {
            let mut hasher = Hasher::new(algorithm);
            parts.iter().for_each(|part| hasher.update(part));
            let digest = hasher.finish();
            assert_eq!(digest.len(), algorithm.bytes());
            hex::encode(digest)
        };
        assert_eq!(
            digest(Algorithm::Sha256, &[b"a", b"", b"bc"]),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            digest(Algorithm::Blake2b, &[b"ab", b"c"]),
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
             7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
        );
        assert_eq!(
            digest(Algorithm::Blake3, &[]),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
