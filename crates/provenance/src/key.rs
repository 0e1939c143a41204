//! ECDSA keys: P-256 with SHA-256, P-384 with SHA-384, P-521 with SHA-512, as Sigstore pairs them; and
//! Ed25519 for its logs.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_ASN1_SIGNING,
    ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::Error;

/// A curve with its hash, and what stands before an uncompressed point of it in a
/// SubjectPublicKeyInfo (RFC 5480).
struct Curve {
    verification: &'static EcdsaVerificationAlgorithm,
    signing: &'static EcdsaSigningAlgorithm,
    spki_prefix: &'static [u8],
    point_bytes: usize,
}

static CURVES: [Curve; 3] = [
    Curve {
        verification: &ECDSA_P256_SHA256_ASN1,
        signing: &ECDSA_P256_SHA256_ASN1_SIGNING,
        spki_prefix: b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
        point_bytes: 65,
    },
    Curve {
        verification: &ECDSA_P384_SHA384_ASN1,
        signing: &ECDSA_P384_SHA384_ASN1_SIGNING,
        spki_prefix: b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
        point_bytes: 97,
    },
    Curve {
        verification: &ECDSA_P521_SHA512_ASN1,
        signing: &ECDSA_P521_SHA512_ASN1_SIGNING,
        spki_prefix: b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00",
        point_bytes: 133,
    },
];

/// A public key.
#[derive(Debug, Clone)]
pub struct PublicKey {
    algorithm: &'static EcdsaVerificationAlgorithm,
    point: Vec<u8>,
    fingerprint: String,
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo with a named curve and an uncompressed point.
    pub fn from_spki(der: &[u8]) -> Result<Self, Error> {
        for curve in &CURVES {
            let Some(point) = der.strip_prefix(curve.spki_prefix) else { continue };
            if point.len() == curve.point_bytes && point[0] == 4 {
                return Ok(Self {
                    algorithm: curve.verification,
                    point: point.to_vec(),
                    fingerprint: fingerprint(der),
                });
            }
        }
        Err(Error::Unusable {
            what: "public key",
            why: "not ECDSA on P-256, P-384 or P-521 with an uncompressed point",
        })
    }

    /// The hint of Sigstore bundles: SHA-256 of the key's PEM text, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        let key = UnparsedPublicKey::new(self.algorithm, &self.point);
        key.verify(message, signature).map_err(|_| Error::Forged)
    }
}

/// The key of a log.
#[derive(Debug)]
pub(crate) enum LogKey {
    Ecdsa(PublicKey),
    /// RFC 8032.
    Ed25519(Vec<u8>),
}

impl LogKey {
    /// `None` for a key of another kind.
    pub(crate) fn from_spki(der: &[u8]) -> Option<Self> {
        match der.strip_prefix(b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00") {
            Some(key) => (key.len() == 32).then(|| Self::Ed25519(key.to_vec())),
            None => PublicKey::from_spki(der).ok().map(Self::Ecdsa),
        }
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        match self {
            Self::Ecdsa(key) => key.verify(message, signature),
            Self::Ed25519(key) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                key.verify(message, signature).map_err(|_| Error::Forged)
            }
        }
    }
}

/// A private key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// From PKCS#8 in PEM, unencrypted.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let unusable = |why| Error::Unusable { what: "signing key", why };
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| {
            unusable("no unencrypted PKCS#8 key in PEM; `openssl pkcs8 -topk8 -nocrypt` makes one")
        })?;
        let pair = CURVES.iter().find_map(|curve| {
            let pair = EcdsaKeyPair::from_pkcs8(curve.signing, pkcs8.secret_pkcs8_der());
            pair.ok().map(|pair| (pair, curve))
        });
        let (pair, curve) =
            pair.ok_or_else(|| unusable("not an ECDSA key on P-256, P-384 or P-521"))?;
        let spki = [curve.spki_prefix, pair.public_key().as_ref()].concat();
        Ok(Self { public: PublicKey::from_spki(&spki)?, pair })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature.expect("aws-lc signs with a key that it took").as_ref().to_vec()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public.fingerprint).finish()
    }
}

/// SHA-256 of the PEM text that Python's `cryptography` and OpenSSL write (RFC 7468).
fn fingerprint(spki: &[u8]) -> String {
    let body = STANDARD.encode(spki);
    let mut text = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.push_str("-----END PUBLIC KEY-----\n");
    hex::encode(digest(&SHA256, text.as_bytes()))
}
