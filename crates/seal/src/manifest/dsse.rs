//! The envelope around the manifest: DSSE v1, with one signature by whoever holds the data key.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::Error;
use crate::json::{excerpt, malformed};
use crate::key::Dek;
use crate::name::BundleId;
use crate::segment::hkdf_sha256;

/// Most signatures beside the key holder's; we carry them, and do not verify them.
pub(crate) const OTHER_SIGNATURES_MAX: usize = 16;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const KEYID: &str = "sealift-dek";

/// As it stands in `sealift.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
}

impl Envelope {
    /// Signs `payload` as a holder of the data key.
    pub(crate) fn sign(payload: &[u8], dek: &Dek, id: &BundleId) -> Self {
        let sig = STANDARD.encode(code(payload, dek, id));
        Self {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![Signature { keyid: KEYID.to_owned(), sig }],
        }
    }

    /// The payload, once everything that needs no key was checked.
    pub(crate) fn payload(&self) -> Result<Vec<u8>, Error> {
        if self.payload_type != PAYLOAD_TYPE {
            let found = excerpt(&self.payload_type);
            return Err(Error::Unsupported { what: "payload type", found });
        }
        let ours = self.signatures.iter().filter(|signature| signature.keyid == KEYID).count();
        if ours != 1 {
            return Err(malformed("envelope", "not exactly one signature by `sealift-dek`"));
        }
        if self.signatures.len() - ours > OTHER_SIGNATURES_MAX {
            return Err(malformed("envelope", "more than 16 other signatures"));
        }
        for signature in &self.signatures {
            decode(&signature.sig)?;
        }
        decode(&self.payload)
    }

    /// Whether a holder of the data key made it.
    pub(crate) fn verify(&self, payload: &[u8], dek: &Dek, id: &BundleId) -> Result<(), Error> {
        let code = code(payload, dek, id);
        let signature = self.signatures.iter().find(|signature| signature.keyid == KEYID);
        let sig = signature.and_then(|signature| decode(&signature.sig).ok());
        constant_time::verify_slices_are_equal(code.as_ref(), &sig.unwrap_or_default())
            .map_err(|_| Error::ManifestForged)
    }
}

/// HMAC-SHA256 over DSSE's pre-authentication encoding, under a key that serves nothing else.
fn code(payload: &[u8], dek: &Dek, id: &BundleId) -> hmac::Tag {
    let info = format!("sealift/v1 manifest\n{id}");
    let mut key_bytes = hkdf_sha256(&[], dek.expose(), info.as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key_bytes);
    key_bytes.zeroize();
    let mut context = hmac::Context::with_key(&key);
    let (kind, length) = (PAYLOAD_TYPE, payload.len());
    context.update(format!("DSSEv1 {} {kind} {length} ", kind.len()).as_bytes());
    context.update(payload);
    context.sign()
}

fn decode(base64: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(base64).map_err(|_| malformed("envelope", "not canonical base64"))
}
