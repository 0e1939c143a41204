//! AES-GCM (SP 800-38D) and AES key wrap (RFC 3394) in the shapes that JOSE gives them.

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time;
use aws_lc_rs::key_wrap::{AES_128, AES_256, AesKek, KeyWrap};
use zeroize::Zeroizing;

use crate::Error;

/// RFC 3394 §2.2.3.1.
const KW_IV: [u8; 8] = [0xa6; 8];
const KW_BLOCK: usize = 8;

/// The plaintext; a wrong key, IV, tag or length is [`Error::Unwrap`].
pub(super) fn gcm_open(
    key: &[u8],
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let nonce = Nonce::try_assume_unique_for_key(iv).map_err(|_| Error::Unwrap)?;
    let mut text = Zeroizing::new(ciphertext.to_vec());
    gcm(key)?
        .open_in_place_separate_tag(nonce, Aad::from(aad), tag, &mut text)
        .map_err(|_| Error::Unwrap)?;
    Ok(text)
}

/// Ciphertext and tag. `iv` must be fresh for `key`.
pub(super) fn gcm_seal(
    key: &[u8],
    iv: [u8; 12],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut text = plaintext.to_vec();
    let nonce = Nonce::assume_unique_for_key(iv);
    let tag = gcm(key)?
        .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut text)
        .map_err(|_| Error::KeyUnusable("AES-GCM refused it"))?;
    Ok((text, tag.as_ref().to_vec()))
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, Error> {
    let algorithm = match key.len() {
        16 => &AES_128_GCM,
        24 => &AES_192_GCM,
        _ => &AES_256_GCM,
    };
    let key = UnboundKey::new(algorithm, key).map_err(|_| Error::KeyUnusable("not an AES key"))?;
    Ok(LessSafeKey::new(key))
}

/// A 256-bit content key under a 256-bit key.
pub(super) fn kw_wrap(key: &[u8], cek: &[u8]) -> Result<Vec<u8>, Error> {
    let mut wrapped = vec![0; cek.len() + KW_BLOCK];
    AesKek::new(&AES_256, key)
        .and_then(|kek| kek.wrap(cek, &mut wrapped).map(drop))
        .map_err(|_| Error::KeyUnusable("AES key wrap refused it"))?;
    Ok(wrapped)
}

/// The content key; a wrong key or length is [`Error::Unwrap`].
pub(super) fn kw_unwrap(key: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => return kw_unwrap_192(key, wrapped),
        _ => &AES_256,
    };
    let mut cek = Zeroizing::new(vec![0; wrapped.len().saturating_sub(KW_BLOCK)]);
    AesKek::new(algorithm, key)
        .and_then(|kek| kek.unwrap(wrapped, &mut cek).map(drop))
        .map_err(|_| Error::Unwrap)?;
    Ok(cek)
}

/// RFC 3394 §2.2.2 over single blocks, since aws-lc-rs wraps with 128 and 256 bits only.
fn kw_unwrap_192(key: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let blocks = wrapped.len() / KW_BLOCK;
    if !wrapped.len().is_multiple_of(KW_BLOCK) || !(3..=64).contains(&blocks) {
        return Err(Error::Unwrap);
    }
    let decrypting = UnboundCipherKey::new(&cipher::AES_192, key)
        .and_then(DecryptingKey::ecb)
        .map_err(|_| Error::KeyUnusable("not an AES key"))?;
    // `block` is A | R[i]: A carries the check value from step to step.
    let mut block = Zeroizing::new([0; 2 * KW_BLOCK]);
    block[..KW_BLOCK].copy_from_slice(&wrapped[..KW_BLOCK]);
    let mut cek = Zeroizing::new(wrapped[KW_BLOCK..].to_vec());
    let registers = blocks - 1;
    for step in (1..=6 * registers).rev() {
        let register = &mut cek[(step - 1) % registers * KW_BLOCK..][..KW_BLOCK];
        for (a, t) in block.iter_mut().zip((step as u64).to_be_bytes()) {
            *a ^= t;
        }
        block[KW_BLOCK..].copy_from_slice(register);
        decrypting
            .decrypt(&mut *block, DecryptionContext::None)
            .map_err(|_| Error::KeyUnusable("AES refused it"))?;
        register.copy_from_slice(&block[KW_BLOCK..]);
    }
    constant_time::verify_slices_are_equal(&block[..KW_BLOCK], &KW_IV)
        .map_err(|_| Error::Unwrap)?;
    Ok(cek)
}
