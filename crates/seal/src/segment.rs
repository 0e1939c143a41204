//! Tink streaming AEAD, `AES256_GCM_HKDF_1MB`, byte for byte: any segment opens alone, in any order,
//! on any thread.
//!
//! | part | bytes |
//! |---|---|
//! | header | 1 byte 40, 32 bytes salt, 7 bytes nonce prefix |
//! | file key | HKDF-SHA256(DEK, salt, info = associated data), 32 bytes |
//! | segment *i* of the object | bytes *i*·2²⁰ to (*i*+1)·2²⁰, segment 0 beginning after the header: ciphertext, 16-byte tag |
//! | its nonce | prefix, *i* as u32 big-endian, 1 for the last segment and 0 for others |
//!
//! GCM's own associated data is empty: the file key is bound to it already.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroize;

use crate::Error;
use crate::json::malformed;
use crate::key::Dek;
use crate::name::{BundleId, BundlePath, random};

/// Ciphertext bytes of a full segment, the header included in the first.
pub const SEGMENT_BYTES: usize = 1 << 20;
/// The header: its own length, a 32-byte salt, a 7-byte nonce prefix.
pub const HEADER_BYTES: usize = HEADER_LENGTH as usize;
/// Authentication tag at the end of each segment.
pub const TAG_BYTES: usize = 16;

/// The header's first byte.
const HEADER_LENGTH: u8 = 40;
/// Plaintext bytes of a full segment, and of a full first segment.
const PLAIN_BYTES: u64 = (SEGMENT_BYTES - TAG_BYTES) as u64;
const PLAIN_BYTES_FIRST: u64 = PLAIN_BYTES - HEADER_BYTES as u64;
const SALT: Range<usize> = 1..33;
const NONCE_PREFIX_BYTES: usize = 7;

/// A file's Tink header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header([u8; HEADER_BYTES]);

impl Header {
    /// A fresh salt and nonce prefix.
    pub fn random() -> Self {
        let mut bytes = random();
        bytes[0] = HEADER_LENGTH;
        Self(bytes)
    }

    /// Checks the length byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        match <[u8; HEADER_BYTES]>::try_from(bytes) {
            Ok(header) if header[0] == HEADER_LENGTH => Ok(Self(header)),
            _ => Err(malformed("header", "not 40 bytes of which the first is 40")),
        }
    }

    /// The bytes as stored.
    pub fn as_bytes(&self) -> &[u8; HEADER_BYTES] {
        &self.0
    }
}

/// Where a file's segments lie, from its plaintext length alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    plaintext_bytes: u64,
}

/// One segment's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// Bytes of the object, the header of segment 0 left out.
    pub ciphertext: Range<u64>,
    /// Bytes of the file.
    pub plaintext: Range<u64>,
    /// Whether it is the last.
    pub last: bool,
}

impl Layout {
    /// Most segments of a file: 2^32 − 1, one less than the nonce could count, so that the number
    /// fits a `u32`.
    pub const SEGMENTS_MAX: u32 = u32::MAX;
    /// Longest file, in bytes: just below 4 PiB.
    pub const PLAINTEXT_BYTES_MAX: u64 =
        Self::SEGMENTS_MAX as u64 * PLAIN_BYTES - HEADER_BYTES as u64;

    /// Refuses files of more than [`Layout::SEGMENTS_MAX`] segments.
    pub fn of_plaintext(bytes: u64) -> Result<Self, Error> {
        if bytes > Self::PLAINTEXT_BYTES_MAX {
            let limit = Self::PLAINTEXT_BYTES_MAX;
            return Err(Error::Limit { what: "file size", found: bytes, limit });
        }
        Ok(Self { plaintext_bytes: bytes })
    }

    /// Refuses lengths that no file has (shorter than header and tag, or a last segment shorter
    /// than a tag, or of nothing but a tag behind other segments).
    pub fn of_ciphertext(bytes: u64) -> Result<Self, Error> {
        let overhead = HEADER_BYTES as u64
            + bytes.div_ceil(SEGMENT_BYTES as u64).saturating_mul(TAG_BYTES as u64);
        let layout = bytes
            .checked_sub(overhead)
            .ok_or_else(|| malformed("object", format!("{bytes} bytes is too short")))
            .and_then(Self::of_plaintext)?;
        if layout.ciphertext_bytes() != bytes {
            return Err(malformed("object", format!("no file is {bytes} bytes when sealed")));
        }
        Ok(layout)
    }

    /// Length of the file.
    pub fn plaintext_bytes(&self) -> u64 {
        self.plaintext_bytes
    }

    /// Length of the object.
    pub fn ciphertext_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.plaintext_bytes + u64::from(self.segments()) * TAG_BYTES as u64
    }

    /// Number of segments, at least 1.
    pub fn segments(&self) -> u32 {
        let later = self.plaintext_bytes.saturating_sub(PLAIN_BYTES_FIRST).div_ceil(PLAIN_BYTES);
        u32::try_from(1 + later).expect("the constructors keep SEGMENTS_MAX")
    }

    /// The place of segment `index`; `index` must be below [`Layout::segments`].
    pub fn span(&self, index: u32) -> Span {
        assert!(index < self.segments(), "segment {index} of {}", self.segments());
        let last = index + 1 == self.segments();
        let segment = u64::from(index) * SEGMENT_BYTES as u64;
        let end = segment + SEGMENT_BYTES as u64;
        let end = if last { self.ciphertext_bytes() } else { end };
        let start = if index == 0 { HEADER_BYTES as u64 } else { segment };
        // Before this segment lie the header and one tag for each earlier segment.
        let plaintext_start = start - HEADER_BYTES as u64 - u64::from(index) * TAG_BYTES as u64;
        let plaintext_end = plaintext_start + (end - start) - TAG_BYTES as u64;
        Span { ciphertext: start..end, plaintext: plaintext_start..plaintext_end, last }
    }
}

/// The associated data of one file in one bundle.
pub fn associated_data(id: &BundleId, path: &BundlePath) -> Vec<u8> {
    format!("sealift/v1\n{id}\n{path}").into_bytes()
}

/// One file's AES key and nonce prefix. Shared freely between threads.
pub struct FileKey {
    key: LessSafeKey,
    nonce_prefix: [u8; NONCE_PREFIX_BYTES],
}

impl FileKey {
    /// HKDF-SHA256(dek, salt from the header, info = associated data).
    pub fn derive(dek: &Dek, header: &Header, associated_data: &[u8]) -> Self {
        let mut key = hkdf_sha256(&header.0[SALT], dek.expose(), associated_data);
        let unbound = UnboundKey::new(&AES_256_GCM, &key).expect("a key of 32 bytes");
        key.zeroize();
        let mut nonce_prefix = [0; NONCE_PREFIX_BYTES];
        nonce_prefix.copy_from_slice(&header.0[SALT.end..]);
        Self { key: LessSafeKey::new(unbound), nonce_prefix }
    }

    /// Opens one segment in place: `segment` is ciphertext and tag (without the header for index 0);
    /// the plaintext is its prefix, returned. On failure the buffer's content is unspecified but
    /// holds no plaintext.
    pub fn open<'a>(
        &self,
        index: u32,
        last: bool,
        segment: &'a mut [u8],
    ) -> Result<&'a mut [u8], Error> {
        let Some((text, tag)) = split_tag(segment) else {
            return Err(Error::Segment { segment: index });
        };
        let nonce = self.nonce(index, last);
        if self.key.open_in_place_separate_tag(nonce, Aad::empty(), tag, text).is_err() {
            // aws-lc wipes it today; its documentation promises nothing.
            text.fill(0);
            return Err(Error::Segment { segment: index });
        }
        Ok(text)
    }

    /// As [`FileKey::open`], from `segment` (ciphertext and tag) into `plaintext`, which must be
    /// [`TAG_BYTES`] shorter.
    pub fn open_into(
        &self,
        index: u32,
        last: bool,
        segment: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), Error> {
        let refused = Error::Segment { segment: index };
        let Some(text_bytes) = segment.len().checked_sub(TAG_BYTES) else { return Err(refused) };
        let (text, tag) = segment.split_at(text_bytes);
        let nonce = self.nonce(index, last);
        if self.key.open_separate_gather(nonce, Aad::empty(), text, tag, plaintext).is_err() {
            plaintext.fill(0);
            return Err(refused);
        }
        Ok(())
    }

    /// Seals one segment in place: `segment` is plaintext and `TAG_BYTES` of room for the tag.
    pub fn seal(&self, index: u32, last: bool, segment: &mut [u8]) -> Result<(), Error> {
        let Some((text, room)) = split_tag(segment) else {
            return Err(Error::Segment { segment: index });
        };
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(index, last), Aad::empty(), text)
            .map_err(|_| Error::Segment { segment: index })?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn nonce(&self, index: u32, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..NONCE_PREFIX_BYTES].copy_from_slice(&self.nonce_prefix);
        nonce[NONCE_PREFIX_BYTES..11].copy_from_slice(&index.to_be_bytes());
        nonce[11] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey([redacted])")
    }
}

/// RFC 5869 with SHA-256, 32 bytes; the caller wipes them.
pub(crate) fn hkdf_sha256(salt: &[u8], key: &[u8], info: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(key)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes is one block of SHA-256");
    out
}

/// A segment longer than [`SEGMENT_BYTES`] is nobody's: it would leave the format.
fn split_tag(segment: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let text_bytes = segment.len().checked_sub(TAG_BYTES)?;
    (segment.len() <= SEGMENT_BYTES).then(|| segment.split_at_mut(text_bytes))
}
