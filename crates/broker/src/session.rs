//! Sessions without a store: the cookie *is* the session, sealed and expiring.
//!
//! A replica with the same master key can carry on where another began, and a million calls of
//! `/auth` cost no memory. The price: a session cannot be revoked, only run out, so it is short;
//! and what was attested stays attested until then even if a later attempt fails.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{COOKIE, HeaderMap};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::master::{Cipher, MasterKey, Purpose};
use crate::protocol::Tee;

/// How long a session lives from its `/auth` on, in seconds; attesting does not prolong it.
pub const SESSION_SECONDS: u64 = 300;
/// Longest cookie value, in characters: the claims of a TD and an RSA key fit, and so does the
/// header into the 8 KiB that proxies allow for one. Browsers keep less; no guest is one.
pub const COOKIE_CHARS_MAX: usize = 8000;

const COOKIE_NAME: &str = "kbs-session-id";

/// What is sealed in the cookie.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The TEE named in `/auth`.
    pub(crate) tee: Tee,
    /// The challenge.
    pub(crate) nonce: String,
    /// Seconds since 1970 UTC.
    pub(crate) expires: u64,
    /// The token's claims, once attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) claims: Option<Value>,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSession {
    #[error("no session cookie")]
    Missing,
    #[error("the session cookie is not of this broker")]
    Forged,
    #[error("the session has expired")]
    Expired,
}

/// Seals and opens sessions.
#[derive(Debug)]
pub(crate) struct Sessions(Cipher);

impl Sessions {
    pub(crate) fn new(master: &MasterKey) -> Self {
        Self(master.cipher(Purpose::Session))
    }

    /// The `Set-Cookie` value; `None` if the claims are too large to travel in a cookie. The
    /// lifetime is relative, since the guest's clock is its host's.
    pub(crate) fn cookie(&self, session: &Session, now: u64) -> Option<String> {
        let plaintext = serde_json::to_vec(session).ok()?;
        let value = URL_SAFE_NO_PAD.encode(self.0.seal(&plaintext, b""));
        let seconds = session.expires.saturating_sub(now);
        (value.len() <= COOKIE_CHARS_MAX)
            .then(|| format!("{COOKIE_NAME}={value}; Max-Age={seconds}; HttpOnly"))
    }

    /// The session that a request carries.
    pub(crate) fn open(&self, headers: &HeaderMap, now: u64) -> Result<Session, NoSession> {
        let value = cookie_value(headers).ok_or(NoSession::Missing)?;
        let session = self.parse(value).ok_or(NoSession::Forged)?;
        // One that ends later than any that begins now is of a clock that was set back since.
        if now >= session.expires || session.expires > now.saturating_add(SESSION_SECONDS) {
            return Err(NoSession::Expired);
        }
        Ok(session)
    }

    fn parse(&self, value: &str) -> Option<Session> {
        if value.len() > COOKIE_CHARS_MAX {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        serde_json::from_slice(&self.0.open(&sealed, b"").ok()?).ok()
    }
}

fn cookie_value(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE_NAME).then_some(value))
}
