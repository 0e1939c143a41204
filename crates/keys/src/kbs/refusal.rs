//! What a broker's errors mean.
//!
//! Trustee answers 401 to nearly everything, a missing key and a denied one included; what happened
//! is only in the body: `{"type":"https://…/errors/<Variant>","detail":"…"}`. The variant decides
//! here, and the status only where there is no variant, or one with two meanings.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use seal::name::KeyUri;
use serde::Deserialize;

use crate::Error;
use crate::error::printable;

/// A broker's answer other than 200.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    variant: String,
    detail: String,
    /// When to ask again, if it says.
    after: Option<Duration>,
}

impl Refusal {
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default)]
            detail: String,
        }
        match serde_json::from_slice::<Wire>(body) {
            Ok(Wire { kind, detail }) => {
                let variant = kind.rsplit('/').next().unwrap_or_default();
                let (variant, detail) = (printable(variant), printable(&detail));
                Self { status, variant, detail, after: None }
            }
            Err(_) => {
                let detail = printable(&String::from_utf8_lossy(body));
                Self { status, variant: String::new(), detail, after: None }
            }
        }
    }

    /// With what its headers say of when to ask again: in seconds (RFC 9110 §10.2.3), not as a date,
    /// which would need two clocks to agree.
    pub(super) fn with_headers(self, headers: &HeaderMap) -> Self {
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|seconds| seconds.parse::<u32>().ok());
        Self { after: after.map(|seconds| Duration::from_secs(seconds.into())), ..self }
    }

    /// Whether a new attestation may help. Trustee's own client takes every 401 for that, and so
    /// attests four times over for a key that does not exist.
    pub(super) fn is_about_the_session(&self) -> bool {
        match self.variant.as_str() {
            "TokenNotFound" | "TokenVerifierError" => true,
            "" => self.status == 401,
            _ => false,
        }
    }

    pub(super) fn into_error(self, endpoint: &str, about: &KeyUri) -> Error {
        let (endpoint, resource) = (endpoint.to_owned(), about.clone());
        let detail = format!("{} {} {}", self.status, self.variant, self.detail);
        match (self.variant.as_str(), self.status) {
            ("AttestationError" | "TokenNotFound" | "TokenVerifierError", _) => {
                Error::Attestation { endpoint, detail }
            }
            ("PolicyDeny" | "PolicyEngineError", _) => Error::Denied { resource, detail },
            // Trustee's answer, with 401, for a key that is not there. With 500 it is what it says.
            ("PluginInternalError", ..500) => Error::NotFound { resource, detail },
            ("PluginNotFound", _) if matches!(resource, KeyUri::KbsPlugin(_)) => {
                Error::NotFound { resource, detail }
            }
            // A broker that holds no keys, or cannot encrypt them for our kind of key pair.
            ("PluginNotFound" | "JweError", _) => Error::Protocol { endpoint, why: detail },
            (variant, _) if variant.ends_with("NotFound") => Error::NotFound { resource, detail },
            (_, 401) => Error::Attestation { endpoint, detail },
            (_, 403) => Error::Denied { resource, detail },
            (_, 404) => Error::NotFound { resource, detail },
            (_, 429 | 503) if self.after.is_some() => {
                let after = self.after.unwrap_or_default();
                Error::Busy { endpoint, why: detail, after }
            }
            (_, 408 | 429 | 500..) => Error::Unreachable { endpoint, why: detail, source: None },
            _ => Error::Protocol { endpoint, why: detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, variant: &str) -> Refusal {
        let body = format!(r#"{{"type":"https://x/errors/{variant}","detail":"so\nit is"}}"#);
        Refusal::parse(status, body.as_bytes())
    }

    fn error(refusal: Refusal) -> Error {
        refusal.into_error("https://kbs", &KeyUri::parse("kbs:///a/b/c").unwrap())
    }

    #[test]
    fn the_variant_decides_not_the_status() {
        for status in [401, 403, 404] {
            let of = |variant| error(refusal(status, variant));
            assert!(matches!(of("AttestationError"), Error::Attestation { .. }));
            assert!(matches!(of("TokenVerifierError"), Error::Attestation { .. }));
            assert!(matches!(of("PolicyDeny"), Error::Denied { .. }));
            assert!(matches!(of("PolicyEngineError"), Error::Denied { .. }));
            assert!(matches!(of("PluginInternalError"), Error::NotFound { .. }));
            assert!(matches!(of("ResourceNotFound"), Error::NotFound { .. }));
            assert!(matches!(of("PluginNotFound"), Error::Protocol { .. }));
        }
    }

    #[test]
    fn the_status_decides_where_there_is_no_clear_variant() {
        let of = |status| error(Refusal::parse(status, b"<html>"));
        assert!(matches!(of(401), Error::Attestation { .. }));
        assert!(matches!(of(403), Error::Denied { .. }));
        assert!(matches!(of(404), Error::NotFound { .. }));
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(of(status).is_transient(), "{status}");
        }
        assert!(error(refusal(500, "PluginInternalError")).is_transient());
        assert!(matches!(of(400), Error::Protocol { .. }));
        assert!(matches!(error(refusal(418, "Teapot")), Error::Protocol { .. }));
    }

    #[test]
    fn a_busy_brokers_wish_is_kept_if_it_is_a_number_of_seconds() {
        let of = |status, after: &str| {
            let headers = [(RETRY_AFTER, after.parse().unwrap())].into_iter().collect();
            error(refusal(status, "TooManyRequests").with_headers(&headers))
        };
        for status in [429, 503] {
            let asked = of(status, "7");
            let kept = Duration::from_secs(7);
            assert!(matches!(asked, Error::Busy { after, .. } if after == kept), "{asked}");
            for other in ["Fri, 31 Dec 1999 23:59:59 GMT", "-1", "", "99999999999"] {
                assert!(matches!(of(status, other), Error::Unreachable { .. }), "{other}");
            }
        }
        assert!(matches!(of(403, "7"), Error::Denied { .. }));
    }

    #[test]
    fn only_a_lost_session_is_worth_another_attestation() {
        assert!(refusal(401, "TokenNotFound").is_about_the_session());
        assert!(refusal(401, "TokenVerifierError").is_about_the_session());
        assert!(Refusal::parse(401, b"").is_about_the_session());
        for variant in ["PolicyDeny", "PluginInternalError", "AttestationError", "JweError"] {
            assert!(!refusal(401, variant).is_about_the_session(), "{variant}");
        }
        assert!(!Refusal::parse(403, b"").is_about_the_session());
    }

    #[test]
    fn the_detail_is_one_printable_line() {
        let text = error(refusal(401, "PolicyDeny")).to_string();
        assert_eq!(text, "kbs:///a/b/c is denied by policy: 401 PolicyDeny so it is");
    }
}
