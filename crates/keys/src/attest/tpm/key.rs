//! [`AttestationKey`]: the public half of a key that signs quotes.

use aws_lc_rs::digest::{SHA256, digest};

use super::commands::{ALG_NULL, ALG_SHA256};
use super::reader::{Reader, Why};
use crate::pem::pem;

// TPM_ALG and TPM_ECC_CURVE.
const ALG_RSA: u16 = 0x0001;
const ALG_ECC: u16 = 0x0023;
const ALG_ECDSA: u16 = 0x0018;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const CURVE_P256: u16 = 0x0003;
// TPMA_OBJECT.
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTRIBUTES: u32 = 0x2 | 0x10 | 0x20 | 0x40 | 0x400 | RESTRICTED | SIGN;
/// RSA's exponent where TPMT_PUBLIC has 0.
const EXPONENT: u32 = 65537;

/// SubjectPublicKeyInfo of P-256 (RFC 5480), before the 64 bytes of the point.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0, 4,
];
/// AlgorithmIdentifier of RSA (RFC 3279).
const RSA_ALGORITHM: &[u8] = &[0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// The public half of an attestation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    spki: Vec<u8>,
}

impl AttestationKey {
    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`Self::spki`], hex.
    pub fn sha256(&self) -> String {
        super::hex(digest(&SHA256, &self.spki).as_ref())
    }

    /// [`Self::spki`] as PEM (RFC 7468), as verifiers' lists of trusted keys have it.
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki).to_string()
    }

    /// TPMT_PUBLIC of a key to be made: ECC P-256, ECDSA with SHA-256, restricted.
    pub(super) fn template() -> Vec<u8> {
        let mut public = Vec::new();
        public.extend(ALG_ECC.to_be_bytes());
        public.extend(ALG_SHA256.to_be_bytes()); // nameAlg
        public.extend(ATTRIBUTES.to_be_bytes());
        public.extend([0; 2]); // authPolicy
        public.extend(ALG_NULL.to_be_bytes()); // symmetric
        public.extend(ALG_ECDSA.to_be_bytes());
        public.extend(ALG_SHA256.to_be_bytes());
        public.extend(CURVE_P256.to_be_bytes());
        public.extend(ALG_NULL.to_be_bytes()); // kdf
        public.extend([0; 4]); // unique: x, y
        public
    }

    /// Reads a TPMT_PUBLIC. The inner error says why its key is no AK.
    pub(super) fn from_public(public: &[u8]) -> Result<Result<Self, Why>, Why> {
        let mut reader = Reader(public);
        let algorithm = reader.u16()?;
        reader.u16()?; // nameAlg
        let attributes = reader.u32()?;
        reader.sized(64)?; // authPolicy
        // Only a restricted key never signs what the TPM did not make itself.
        if attributes & (SIGN | RESTRICTED | DECRYPT) != SIGN | RESTRICTED {
            return Ok(Err("it is not a restricted signing key"));
        }
        if reader.u16()? != ALG_NULL {
            return Ok(Err("it has a symmetric algorithm"));
        }
        let scheme = reader.u16()?;
        let hash = if scheme == ALG_NULL { ALG_NULL } else { reader.u16()? };
        let spki = match (algorithm, scheme) {
            _ if hash != ALG_SHA256 => return Ok(Err("it does not sign SHA-256 digests")),
            (ALG_ECC, ALG_ECDSA) => {
                let curve = reader.u16()?;
                if reader.u16()? != ALG_NULL {
                    return Ok(Err("it has a key derivation scheme"));
                }
                if curve != CURVE_P256 {
                    return Ok(Err("its curve is not P-256"));
                }
                let (x, y) = (reader.sized(32)?, reader.sized(32)?);
                let mut spki = P256_SPKI.to_vec();
                for coordinate in [x, y] {
                    spki.resize(spki.len() + 32 - coordinate.len(), 0);
                    spki.extend(coordinate);
                }
                spki
            }
            (ALG_RSA, ALG_RSASSA | ALG_RSAPSS) => {
                reader.u16()?; // keyBits
                let exponent = match reader.u32()? {
                    0 => EXPONENT,
                    exponent => exponent,
                };
                rsa_spki(reader.sized(512)?, exponent)
            }
            _ => return Ok(Err("its scheme is none of ECDSA, RSASSA and RSAPSS")),
        };
        reader.end()?;
        Ok(Ok(Self { spki }))
    }
}

fn rsa_spki(modulus: &[u8], exponent: u32) -> Vec<u8> {
    let numbers = [integer(modulus), integer(&exponent.to_be_bytes())].concat();
    let key = [&[0][..], &tagged(0x30, &numbers)].concat();
    tagged(0x30, &[RSA_ALGORITHM, &tagged(0x03, &key)].concat())
}

/// A DER INTEGER that is not negative.
fn integer(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    tagged(0x02, &[sign, digits].concat())
}

/// A DER value under a tag, of less than 64 KiB.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).expect("keys are short").to_be_bytes();
    let header: &[u8] = match (high, low) {
        (0, 0..=0x7f) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [header, value].concat()
}
