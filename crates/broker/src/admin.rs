//! Administrators: whoever signs a short-lived JWT with a configured Ed25519 key.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use hyper::header::HeaderMap;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use crate::error::Error;
use crate::files;
use crate::jwt::{Unverified, bearer};

/// `aud` of an administrator's token; upstream's name.
pub const AUDIENCE: &str = "KBS";
/// `role` of an administrator's token.
pub const ROLE: &str = "admin";
/// How far ahead `exp` may be, in seconds.
pub const LIFETIME_SECONDS_MAX: u64 = 3600;

/// How far an administrator's clock may be ahead, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 60;
const NAME_CHARS_MAX: usize = 128;
const KEY_FILE_BYTES_MAX: usize = 16 * 1024;
/// RFC 8410: SubjectPublicKeyInfo of Ed25519, before the 32 bytes of the key.
pub(crate) const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Who may administrate. No keys: nobody.
#[derive(Debug, Default)]
pub(crate) struct Admins {
    keys: Vec<[u8; 32]>,
    issuers: Vec<String>,
}

/// An administrator's name, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admin(pub(crate) String);

/// Why a request is not an administrator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAdmin {
    #[error("an administrator's bearer token is required")]
    NoToken,
    #[error("not a token signed with EdDSA by a configured key")]
    Signature,
    #[error("the token's claims are missing or malformed")]
    Claims,
    #[error("the token is expired, or not yet good")]
    Time,
    #[error("the token is good for longer than an hour")]
    TooLong,
    #[error("the token's audience is not KBS")]
    Audience,
    #[error("the token's issuer is not known here")]
    Issuer,
    #[error("the token's role is not admin")]
    Role,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    nbf: u64,
    role: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Admins {
    /// Reads public keys (PEM, SubjectPublicKeyInfo). Without `issuers` any issuer will do: the key
    /// is what counts.
    pub(crate) fn load(keys: &[PathBuf], issuers: Vec<String>) -> Result<Self, Error> {
        let keys = keys.iter().map(|path| load_key(path)).collect::<Result<_, _>>()?;
        Ok(Self { keys, issuers })
    }

    /// The administrator who makes a request.
    pub(crate) fn authenticate(&self, headers: &HeaderMap, now: u64) -> Result<Admin, NotAdmin> {
        let token = bearer(headers).ok_or(NotAdmin::NoToken)?;
        let token = Unverified::parse(token).ok_or(NotAdmin::Signature)?;
        // The algorithm is ours to say, not the token's.
        let signed = |key: &[u8; 32]| {
            UnparsedPublicKey::new(&ED25519, key).verify(token.message, &token.signature).is_ok()
        };
        if token.alg != "EdDSA" || !self.keys.iter().any(signed) {
            return Err(NotAdmin::Signature);
        }
        self.check(token.claims().ok_or(NotAdmin::Claims)?, now)
    }

    fn check(&self, claims: Claims, now: u64) -> Result<Admin, NotAdmin> {
        let soon = now.saturating_add(CLOCK_SKEW_SECONDS);
        if now >= claims.exp || claims.nbf > soon || claims.iat > soon {
            return Err(NotAdmin::Time);
        }
        if claims.exp > soon.saturating_add(LIFETIME_SECONDS_MAX) {
            return Err(NotAdmin::TooLong);
        }
        let for_us = match &claims.aud {
            Audience::One(audience) => audience == AUDIENCE,
            Audience::Many(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
        };
        if !for_us {
            return Err(NotAdmin::Audience);
        }
        let known = self.issuers.is_empty() || self.issuers.contains(&claims.iss);
        if claims.iss.is_empty() || !known {
            return Err(NotAdmin::Issuer);
        }
        if claims.role != ROLE {
            return Err(NotAdmin::Role);
        }
        let name = if claims.sub.is_empty() { claims.iss } else { claims.sub };
        Ok(Admin(name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()))
    }
}

pub(crate) fn load_key(path: &Path) -> Result<[u8; 32], Error> {
    let pem = files::read(path, KEY_FILE_BYTES_MAX).map_err(|source| Error::file(path, source))?;
    SubjectPublicKeyInfoDer::from_pem_slice(&pem)
        .ok()
        .and_then(|der| der.strip_prefix(ED25519_SPKI)?.try_into().ok())
        .ok_or_else(|| Error::AdminKey { path: path.to_owned() })
}
