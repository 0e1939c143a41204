//! The guest's ephemeral key and what a key broker encrypts to it: `ECDH-ES+A256KW` (RFC 7518 §4.6)
//! over P-256 or P-521, and `RSA-OAEP-256` (§4.3).

use std::fmt;

use aws_lc_rs::agreement::{
    self, ECDH_P256, ECDH_P521, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree,
};
use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey, PublicKeyComponents,
};
use secret::Secret;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{A256GCM, Header, Jwe, aes, decode, encode, seal_content};
use crate::Error;
use crate::json::{excerpt, malformed};
use crate::name::random;

const ECDH_ES_A256KW: &str = "ECDH-ES+A256KW";
const RSA_OAEP_256: &str = "RSA-OAEP-256";
/// Bits of the RSA moduli that are accepted, and the one exponent (65537).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const RSA_EXPONENT: &str = "AQAB";
const WHAT: &str = "public key";

/// A guest's public key as sent to a key broker (`tee-pubkey`).
#[derive(Debug)]
pub struct TeePublicKey(Kind);

#[derive(Debug)]
enum Kind {
    Ec(EcPublicKey),
    Rsa(OaepPublicEncryptingKey),
}

impl TeePublicKey {
    /// From the JWK. `alg` must fit the key; a point off its curve, a short RSA modulus or RSA1_5 is
    /// refused. Members that we do not know are ignored (RFC 7517 §4).
    pub fn from_jwk(jwk: &Value) -> Result<Self, Error> {
        let alg = string(jwk, "alg")?;
        match (string(jwk, "kty")?, alg) {
            ("EC", ECDH_ES_A256KW) => EcPublicKey::read(jwk).map(Kind::Ec).map(Self),
            ("RSA", RSA_OAEP_256) => read_rsa(jwk).map(Kind::Rsa).map(Self),
            _ => Err(Error::Unsupported { what: "public key alg", found: excerpt(alg) }),
        }
    }

    /// A flattened JWE (`{"protected","encrypted_key","iv","ciphertext","tag"}`). For EC the
    /// protected header's members are in exactly the order alg, enc, epk{crv,kty,x,y}: upstream's
    /// client re-serialises them to recompute the AAD.
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<Value, Error> {
        let cek = Zeroizing::new(random::<32>());
        let mut header = Header { enc: A256GCM.into(), ..Header::default() };
        let encrypted_key = match &self.0 {
            Kind::Ec(public) => {
                header.alg = ECDH_ES_A256KW.into();
                let ephemeral = PrivateKey::generate(public.curve.algorithm())
                    .map_err(|_| Error::KeyUnusable("no ephemeral key"))?;
                header.epk = Some(EcPublicKey::of(&ephemeral, public.curve)?);
                let kek = agree_on_kek(&ephemeral, public, &[], &[])?;
                aes::kw_wrap(&*kek, &*cek)?
            }
            Kind::Rsa(public) => {
                header.alg = RSA_OAEP_256.into();
                let mut wrapped = vec![0; public.ciphertext_size()];
                let oaep = &OAEP_SHA256_MGF1SHA256;
                public
                    .encrypt(oaep, &*cek, &mut wrapped, None)
                    .map_err(|_| Error::KeyUnusable("RSA-OAEP refused it"))?;
                wrapped
            }
        };
        seal_content(plaintext, &*cek, &header, &encrypted_key, None).map(|jwe| jwe.to_value())
    }
}

/// The kinds of a guest's ephemeral key pair, as protocol 0.4.0 has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TeeKeyKind {
    /// EC P-256, `ECDH-ES+A256KW`: upstream's default.
    #[default]
    P256,
    /// EC P-521, `ECDH-ES+A256KW`.
    P521,
    /// RSA of 3072 bits, `RSA-OAEP-256`. Takes tenths of a second to make.
    Rsa,
}

/// The guest's ephemeral key pair. Its private half is wiped when it is dropped, by AWS-LC, which
/// frees no memory without.
pub struct TeeKeyPair(Pair);

enum Pair {
    Ec { private: PrivateKey, public: EcPublicKey },
    Rsa { private: OaepPrivateDecryptingKey, n: String },
}

impl TeeKeyPair {
    /// A fresh one.
    pub fn generate(kind: TeeKeyKind) -> Result<Self, Error> {
        let curve = match kind {
            TeeKeyKind::P256 => Curve::P256,
            TeeKeyKind::P521 => Curve::P521,
            TeeKeyKind::Rsa => return generate_rsa().ok_or_else(no_pair),
        };
        let private = PrivateKey::generate(curve.algorithm()).map_err(|_| no_pair())?;
        let public = EcPublicKey::of(&private, curve)?;
        Ok(Self(Pair::Ec { private, public }))
    }

    /// The public JWK with exactly the members `kty, crv, alg, x, y`, or `kty, alg, n, e`.
    pub fn public_jwk(&self) -> Value {
        match &self.0 {
            Pair::Ec { public: EcPublicKey { crv, x, y, .. }, .. } => {
                json!({ "kty": "EC", "crv": crv, "alg": ECDH_ES_A256KW, "x": x, "y": y })
            }
            Pair::Rsa { n, .. } => {
                json!({ "kty": "RSA", "alg": RSA_OAEP_256, "n": n, "e": RSA_EXPONENT })
            }
        }
    }

    /// Opens a broker's response: the received `protected` string is the AAD, whatever its member
    /// order. Only the one algorithm that [`TeeKeyPair::public_jwk`] names is accepted.
    pub fn decrypt(&self, response: &[u8]) -> Result<Secret, Error> {
        let jwe = Jwe::parse(response)?;
        let header = &jwe.header;
        let alg = match &self.0 {
            Pair::Ec { .. } => ECDH_ES_A256KW,
            Pair::Rsa { .. } => RSA_OAEP_256,
        };
        if header.alg != alg {
            return Err(Error::Unsupported { what: "JWE alg", found: excerpt(&header.alg) });
        }
        let cek = match &self.0 {
            Pair::Ec { private, public } => {
                let epk = header.epk.as_ref().ok_or_else(|| malformed("JWE header", "no `epk`"))?;
                if epk.curve != public.curve {
                    let found = epk.curve.name().into();
                    return Err(Error::Unsupported { what: "JWE epk", found });
                }
                let party = |member: &Option<String>| decode(member.as_deref().unwrap_or_default());
                let kek = agree_on_kek(private, epk, &party(&header.apu)?, &party(&header.apv)?)?;
                aes::kw_unwrap(&*kek, &jwe.encrypted_key)?
            }
            Pair::Rsa { private, .. } => {
                let mut output = Zeroizing::new(vec![0; private.min_output_size()]);
                let cek = private
                    .decrypt(&OAEP_SHA256_MGF1SHA256, &jwe.encrypted_key, &mut output, None)
                    .map_err(|_| Error::Unwrap)?;
                Zeroizing::new(cek.to_vec())
            }
        };
        let mut text = Zeroizing::new(jwe.open_content(&cek)?);
        let found = text.len() as u64;
        let limit = Secret::BYTES_MAX as u64;
        Secret::take(&mut text).map_err(|_| Error::Limit { what: "resource", found, limit })
    }
}

fn no_pair() -> Error {
    Error::KeyUnusable("no key pair could be made")
}

fn generate_rsa() -> Option<TeeKeyPair> {
    /// A SubjectPublicKeyInfo of RSA ends with the modulus, and INTEGER 65537 in five bytes.
    const MODULUS_BYTES: usize = 3072 / 8;
    const EXPONENT_DER: [u8; 5] = [2, 3, 1, 0, 1];
    let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).ok()?;
    let spki: PublicKeyX509Der<'_> = private.public_key().as_der().ok()?;
    let modulus = spki.as_ref().strip_suffix(&EXPONENT_DER)?.last_chunk::<MODULUS_BYTES>()?;
    let n = encode(modulus);
    Some(TeeKeyPair(Pair::Rsa { private: OaepPrivateDecryptingKey::new(private).ok()?, n }))
}

impl fmt::Debug for TeeKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TeeKeyPair");
        match &self.0 {
            Pair::Ec { public, .. } => shown.field("public", public),
            Pair::Rsa { n, .. } => shown.field("n", n),
        };
        shown.finish_non_exhaustive()
    }
}

/// The curves of the key broker protocol. (P-384 is in its text, in no implementation.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P521,
}

impl Curve {
    fn of(name: &str) -> Option<Self> {
        [Self::P256, Self::P521].into_iter().find(|curve| curve.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P521 => "P-521",
        }
    }

    fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::P256 => &ECDH_P256,
            Self::P521 => &ECDH_P521,
        }
    }

    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P521 => 66,
        }
    }
}

/// A point that is on its curve. Serialised in the order that upstream's client expects.
#[derive(Debug, Serialize)]
pub(super) struct EcPublicKey {
    #[serde(skip)]
    curve: Curve,
    crv: &'static str,
    kty: &'static str,
    x: String,
    y: String,
}

impl EcPublicKey {
    /// From a JWK: `kty`, `crv`, and coordinates of full length.
    pub(super) fn read(jwk: &Value) -> Result<Self, Error> {
        let crv = string(jwk, "crv")?;
        let curve = Curve::of(crv)
            .filter(|_| jwk["kty"] == "EC")
            .ok_or_else(|| Error::Unsupported { what: "curve", found: excerpt(crv) })?;
        let (x, y) = (string(jwk, "x")?, string(jwk, "y")?);
        let (x_bytes, y_bytes) = (decode(x)?, decode(y)?);
        if [x_bytes.len(), y_bytes.len()] != [curve.coordinate_bytes(); 2] {
            return Err(malformed(WHAT, "a coordinate of the wrong length"));
        }
        let public = Self { curve, crv: curve.name(), kty: "EC", x: x.into(), y: y.into() };
        ParsedPublicKey::try_from(public.unparsed()?)
            .map_err(|_| malformed(WHAT, "not a point of its curve"))?;
        Ok(public)
    }

    fn of(private: &PrivateKey, curve: Curve) -> Result<Self, Error> {
        let public = private
            .compute_public_key()
            .map_err(|_| Error::KeyUnusable("no public key could be computed"))?;
        // Uncompressed point: 4, x, y.
        let (x, y) = public.as_ref()[1..].split_at(curve.coordinate_bytes());
        Ok(Self { curve, crv: curve.name(), kty: "EC", x: encode(x), y: encode(y) })
    }

    fn unparsed(&self) -> Result<UnparsedPublicKey<Vec<u8>>, Error> {
        let point = [vec![4], decode(&self.x)?, decode(&self.y)?].concat();
        Ok(UnparsedPublicKey::new(self.curve.algorithm(), point))
    }
}

fn agree_on_kek(
    private: &PrivateKey,
    peer: &EcPublicKey,
    apu: &[u8],
    apv: &[u8],
) -> Result<Zeroizing<[u8; 32]>, Error> {
    agree(private, peer.unparsed()?, Error::Unwrap, |shared| {
        let mut kek = Zeroizing::new([0; 32]);
        concat_kdf(shared, ECDH_ES_A256KW, apu, apv, &mut *kek);
        Ok(kek)
    })
}

/// `Concat KDF` of RFC 7518 §4.6.2 with SHA-256, one round: at most 32 bytes.
fn concat_kdf(shared: &[u8], algorithm: &str, apu: &[u8], apv: &[u8], key: &mut [u8]) {
    let be32 =
        |number: usize| u32::try_from(number).expect("limited by Jwe::BYTES_MAX").to_be_bytes();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&be32(1));
    context.update(shared);
    for part in [algorithm.as_bytes(), apu, apv] {
        context.update(&be32(part.len()));
        context.update(part);
    }
    context.update(&be32(key.len() * 8));
    key.copy_from_slice(&context.finish().as_ref()[..key.len()]);
}

fn read_rsa(jwk: &Value) -> Result<OaepPublicEncryptingKey, Error> {
    let (n, e) = (decode(string(jwk, "n")?)?, string(jwk, "e")?);
    if e != RSA_EXPONENT {
        return Err(malformed(WHAT, "an RSA exponent other than 65537"));
    }
    let components = PublicKeyComponents { n, e: decode(e)? };
    let key: PublicEncryptingKey =
        components.try_into().map_err(|_| malformed(WHAT, "an unusable RSA modulus"))?;
    if !RSA_BITS.contains(&key.key_size_bits()) {
        return Err(malformed(WHAT, "an RSA modulus of fewer than 2048 or more than 4096 bits"));
    }
    OaepPublicEncryptingKey::new(key).map_err(|_| malformed(WHAT, "an unusable RSA key"))
}

fn string<'a>(jwk: &'a Value, name: &str) -> Result<&'a str, Error> {
    jwk.get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| malformed(WHAT, format!("`{name}` is not a string")))
}

#[cfg(test)]
mod tests;
