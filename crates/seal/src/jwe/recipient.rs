//! What a JWE must look like to stand in `sealift.json`: exactly as [`super::encrypt`] writes it.
//!
//! Recipients for other keys are authenticated by nothing that this reader has, so everything about
//! them that can be checked is, and they can carry no bytes of anyone's choice but ciphertext.

use super::{A256GCM, Jwe, decode, encode};
use crate::json::is_canonical;
use crate::key::KEY_BYTES;

const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// RFC 3394 adds its check value.
const WRAPPED_BYTES: usize = KEY_BYTES + 8;

impl Jwe {
    /// Whether it is a recipient: for `kid`, bound to `aad`, over something as long as a data key.
    /// The error says what is wrong.
    pub(crate) fn check_recipient(&self, kid: &str, aad: &[u8]) -> Result<(), &'static str> {
        let header = &self.header;
        let (key_bytes, iv, tag) = match header.alg.as_str() {
            "A256KW" => (WRAPPED_BYTES, None, None),
            "A256GCMKW" => (KEY_BYTES, Some(IV_BYTES), Some(TAG_BYTES)),
            _ => return Err("its alg is neither A256KW nor A256GCMKW"),
        };
        let bytes = |member: &Option<String>| {
            member.as_deref().map(|text| decode(text).map_or(0, |bytes| bytes.len()))
        };
        let bare = header.apu.is_none() && header.apv.is_none() && header.epk.is_none();
        let canonical = || decode(&self.protected).is_ok_and(|json| is_canonical(header, &json));
        if header.enc != A256GCM || !bare || !canonical() {
            return Err("its protected header is not in the canonical spelling");
        }
        if header.kid.as_deref() != Some(kid) {
            return Err("its protected header is for another kid");
        }
        if self.aad.as_deref() != Some(&encode(aad)) {
            return Err("it belongs to another bundle");
        }
        let lengths =
            [self.encrypted_key.len(), self.iv.len(), self.ciphertext.len(), self.tag.len()];
        let expected = [key_bytes, IV_BYTES, KEY_BYTES, TAG_BYTES];
        if lengths != expected || (bytes(&header.iv), bytes(&header.tag)) != (iv, tag) {
            return Err("a member has the wrong length");
        }
        Ok(())
    }
}
