//! The format's cryptography in the plainest form, with nothing that keeps the caller from mistakes:
//! vectors are made of mistakes. The keys here protect nothing.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap, KeyWrapPadded};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Bytes for the use that `label` names: fixed, different for each label.
pub(crate) fn fixed<const N: usize>(label: &str) -> [u8; N] {
    let blocks =
        (0..N.div_ceil(32)).flat_map(|block| sha256(format!("{label} {block}").as_bytes()));
    let bytes: Vec<u8> = blocks.take(N).collect();
    bytes.try_into().expect("as many blocks as N needs")
}

pub(crate) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, key), message).as_ref().to_vec()
}

/// RFC 5869 for one block of output, spelled out.
pub(crate) fn hkdf(key: &[u8], salt: &[u8], info: &[u8]) -> Vec<u8> {
    hmac(&hmac(salt, key), &[info, &[1]].concat())
}

/// Ciphertext, then tag; the key has 16 or 32 bytes.
pub(crate) fn gcm(key: &[u8], nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).expect("16 or 32 bytes"));
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed)
        .expect("no longer than GCM allows");
    sealed
}

/// RFC 3394 under a key of 32 bytes.
pub(crate) fn key_wrap(kek: &[u8], key: &[u8]) -> Vec<u8> {
    let mut wrapped = vec![0; key.len() + 8];
    let kek = AesKek::new(&AES_256, kek).expect("32 bytes");
    kek.wrap(key, &mut wrapped).expect("whole blocks");
    wrapped
}

/// RFC 5649 under a key of 32 bytes: what a careless library takes for RFC 3394.
pub(crate) fn key_wrap_padded(kek: &[u8], key: &[u8]) -> Vec<u8> {
    let mut wrapped = vec![0; key.len().next_multiple_of(8) + 8];
    let kek = AesKek::new(&AES_256, kek).expect("32 bytes");
    kek.wrap_with_padding(key, &mut wrapped).expect("not empty");
    wrapped
}
