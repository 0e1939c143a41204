//! When a service-account token expires, read from the token itself (RFC 7519). Nothing is verified:
//! this is for an alarm, not for a decision.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Longest file that can be a token.
pub const BYTES_MAX: u64 = 16 << 10;

/// A token's lifetime, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Lifetime {
    /// When it was issued.
    #[serde(rename = "iat")]
    pub issued: u64,
    /// When it ends.
    #[serde(rename = "exp")]
    pub expires: u64,
}

impl Lifetime {
    /// Of a file's content; `None` if that is no token.
    pub fn of(content: &[u8]) -> Option<Self> {
        let text = str::from_utf8(content).ok()?.trim_end();
        let mut parts = text.split('.');
        let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let lifetime: Self = serde_json::from_slice(&claims).ok()?;
        (lifetime.issued < lifetime.expires).then_some(lifetime)
    }

    /// From when on its end is an alarm. Kubelet asks for a new token after 80 % of the lifetime
    /// (and after 24 hours at the latest): one that is 90 % over was not renewed.
    pub fn alarm_at(&self) -> u64 {
        self.expires - (self.expires - self.issued) / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_tokens_lifetime_is_read() {
        let lifetime = Lifetime::of(token(r#"{"iat":1000,"exp":4600,"sub":"x"}"#).as_bytes());
        assert_eq!(lifetime, Some(Lifetime { issued: 1000, expires: 4600 }));
        assert_eq!(lifetime.map(|lifetime| lifetime.alarm_at()), Some(4240));
    }

    #[test]
    fn what_is_no_token_has_none() {
        for other in [
            String::new(),
            "a.b.c".into(),
            "a.b".into(),
            token("{}"),
            token(r#"{"iat":5,"exp":5}"#),
            token(r#"{"iat":-1,"exp":5}"#),
            format!("{}.x", token(r#"{"iat":1,"exp":5}"#)),
        ] {
            assert_eq!(Lifetime::of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Lifetime::of(&[0xff, b'.', b'.']), None);
    }
}
