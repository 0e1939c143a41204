//! Sealed secrets, as Confidential Containers has them: `sealed.` and a compact JWS (RFC 7515), whose
//! payload says where the secret is, or carries it encrypted.
//!
//! ```text
//! sealed.<protected>.<payload>.<signature>     each base64url without padding
//!        {"alg":"ES256","kid":"kbs:///…"}      or the name of a key file
//!        {"version":"0.1.0","type":"vault","name":"kbs:///…","provider":"kbs",…}
//!        {"version":"0.1.0","type":"envelope","key_id":…,"encrypted_key":…,"encrypted_data":…,…}
//! ```
//!
//! Opening is four steps, none of which does I/O, so that whoever holds the key source decides how to
//! ask it and what to record: [`SealedSecret::parse`] says who must have signed it,
//! [`SealedSecret::verify`] that it was, [`Verified::admit`] that it is for this place, and which
//! resource it needs, [`Admitted::open`] what was sealed. [`seal()`] is the way back.
//!
//! Stricter than upstream on purpose: no unknown members, no `crit`, no settings, and no annotation
//! but our [audience](volumes::audience), since a restriction that this version does not know would
//! otherwise be ignored.
//!
//! Upstream's envelopes need a cloud's KMS, which this crate does not speak to. The provider `kbs` of
//! envelopes is ours: `key_id` names the key-encryption key (what [`seal::key::Kek`] reads), and
//! `encrypted_key` is the data key wrapped by AES-256-KW (RFC 3394).
//!
//! Source: guest-components, `confidential-data-hub/hub/src/secret`.

mod payload;
mod sealing;

use std::fmt;
use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use seal::key::Purpose;
use seal::name::ResourceUri;
use secret::Secret;
use serde::Deserialize;

pub use self::payload::{Admitted, Claims, Verified};
pub use self::sealing::{Content, SigningKey, seal};
use crate::error::printable;
use crate::{Error, file};

/// What every sealed secret begins with.
pub const PREFIX: &str = "sealed.";
/// Longest sealed secret, in bytes: what Kubernetes allows for a whole Secret.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest protected header, encoded.
const PROTECTED_BYTES_MAX: usize = 4 * 1024;
/// Longest name of a key file: what Linux file systems hold.
const FILE_NAME_BYTES_MAX: usize = 255;
/// `r` and `s`, base64url.
const SIGNATURE_CHARS: usize = 86;

/// Where the public key is with which a sealed secret says that it is signed (`kid`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A resource of the key source.
    Resource(ResourceUri),
    /// A file in the directory of keys: one clean component.
    File(String),
}

impl Signer {
    /// Reads `kbs:///<repository>/<type>/<tag>` or a file's name.
    pub fn parse(kid: &str) -> Result<Self, Error> {
        if kid.contains("://") {
            let resource = ResourceUri::parse(kid);
            return resource.map(Self::Resource).map_err(|error| malformed(error.to_string()));
        }
        let clean = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = !kid.is_empty()
            && kid.len() <= FILE_NAME_BYTES_MAX
            && !kid.starts_with('.')
            && kid.bytes().all(clean);
        match name {
            true => Ok(Self::File(kid.to_owned())),
            false => Err(malformed("kid is neither a resource nor the name of a key file")),
        }
    }

    /// The key in a file of `dir`.
    pub fn read(name: &str, dir: &Path) -> Result<Secret, Error> {
        // A name that was parsed has no separators and does not begin with a dot: it stays below.
        let path = dir.join(name);
        file::read_key(&path).map_err(|source| Error::File { path, source })
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(resource) => resource.fmt(f),
            Self::File(name) => f.write_str(name),
        }
    }
}

/// A sealed secret's parts; nothing in it was verified.
#[derive(Debug)]
pub struct SealedSecret<'a> {
    signer: Signer,
    /// `<protected>.<payload>`.
    signed: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected {
    alg: String,
    kid: String,
    #[serde(default, rename = "typ")]
    _typ: Option<String>,
}

impl<'a> SealedSecret<'a> {
    /// Splits it. The one algorithm is ES256.
    pub fn parse(text: &'a [u8]) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TooLarge { what: "a sealed secret".into(), limit: TEXT_BYTES_MAX });
        }
        let text = str::from_utf8(text).map_err(|_| malformed("not text"))?;
        let jws = text.strip_prefix(PREFIX).ok_or_else(|| malformed("no prefix `sealed.`"))?;
        if jws.ends_with(['\n', '\r']) {
            return Err(malformed("a line break at its end, which belongs to no sealed secret"));
        }
        let parts: Vec<&str> = jws.splitn(4, '.').collect();
        let [protected, payload, signature] = parts[..] else {
            return Err(malformed("not three parts after the prefix"));
        };
        if protected.len() > PROTECTED_BYTES_MAX || signature.len() != SIGNATURE_CHARS {
            return Err(malformed("a header or signature of an impossible length"));
        }
        let header: Protected = object(&decode(protected)?)?;
        if header.alg != "ES256" {
            return Err(malformed(format!("algorithm {}, not ES256", printable(&header.alg))));
        }
        let signer = Signer::parse(&header.kid)?;
        let signature = decode(signature)?;
        let signed = &jws[..protected.len() + 1 + payload.len()];
        Ok(Self { signer, signed, payload, signature })
    }

    /// Who says to have signed it.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What it says of itself, unverified: for people, not to decide by.
    pub fn claimed(&self) -> Result<Claims, Error> {
        Verified::parse(&decode(self.payload)?).map(Verified::claims)
    }

    /// Verifies the signature by the signer's key, a JWK of P-256 with or without its private part,
    /// and only then looks at the payload.
    pub fn verify(&self, jwk: &[u8]) -> Result<Verified, Error> {
        let unusable = || Error::SignerUnusable { signer: self.signer.to_string() };
        let point = point(jwk).ok_or_else(unusable)?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        // A point that is not on the curve is told apart from a wrong signature by nothing.
        key.verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| Error::Signature { signer: self.signer.to_string() })?;
        Verified::parse(&decode(self.payload)?)
    }
}

/// The public key of a JWK, uncompressed (SEC 1).
fn point(jwk: &[u8]) -> Option<[u8; 65]> {
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        crv: String,
        x: String,
        y: String,
        alg: Option<String>,
        #[serde(default, deserialize_with = "there")]
        sealift_purposes: Option<serde_json::Value>,
    }
    /// Null is not absent.
    fn there<'de, D: serde::Deserializer<'de>>(
        value: D,
    ) -> Result<Option<serde_json::Value>, D::Error> {
        Deserialize::deserialize(value).map(Some)
    }
    let jwk: Jwk = object(jwk).ok()?;
    Purpose::Sign.permitted_by(jwk.sealift_purposes.as_ref()).ok()?;
    if jwk.kty != "EC" || jwk.crv != "P-256" || jwk.alg.is_some_and(|alg| alg != "ES256") {
        return None;
    }
    let mut point = [4; 65];
    for (part, coordinate) in point[1..].chunks_exact_mut(32).zip([jwk.x, jwk.y]) {
        let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok().filter(|bytes| bytes.len() == 32)?;
        part.copy_from_slice(&bytes);
    }
    Some(point)
}

/// Canonical base64url: no second spelling of the same bytes.
fn decode(part: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part that is not base64url"))
}

/// A JSON object: derived readers take a structure's members from an array, too.
fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(malformed("a part that is not a JSON object"));
    }
    // Not why: the parser's message quotes what may be secret.
    serde_json::from_slice(bytes)
        .map_err(|_| malformed("a member that is missing or does not belong"))
}

fn malformed(why: impl Into<String>) -> Error {
    Error::Sealed(why.into())
}

#[cfg(test)]
mod tests;
