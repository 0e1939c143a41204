//! Compact JWS, as far as JSON Web Tokens need it: splitting, never trusting.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{AUTHORIZATION, HeaderMap};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Longest token read, in characters.
const TOKEN_CHARS_MAX: usize = 16 * 1024;

/// A token whose signature nobody has checked.
pub(crate) struct Unverified<'a> {
    /// The header's `alg`.
    pub(crate) alg: String,
    /// What is signed.
    pub(crate) message: &'a [u8],
    /// The signature.
    pub(crate) signature: Vec<u8>,
    payload: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    // RFC 7515: extensions that must be understood. We understand none.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

impl<'a> Unverified<'a> {
    /// Splits `header.payload.signature`.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        if token.len() > TOKEN_CHARS_MAX {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header = URL_SAFE_NO_PAD.decode(header).ok()?;
        // A derived reader takes a structure's members from an array, too.
        if !header.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let header: Header = serde_json::from_slice(&header).ok()?;
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            alg: header.alg,
            message: message.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            payload: URL_SAFE_NO_PAD.decode(payload).ok()?,
        })
    }

    /// The claims, for a caller that has checked [`Unverified::signature`].
    pub(crate) fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.payload).ok()
    }
}

/// `base64url(header).base64url(payload)`, to be signed.
pub(crate) fn message(header: &serde_json::Value, payload: &serde_json::Value) -> String {
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(payload))
}

/// The token of an `Authorization: Bearer …` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
