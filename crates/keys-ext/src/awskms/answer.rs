//! What KMS answers: the few members that are read, and what its refusals mean. No I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::{Error, printable};
use seal::bundle::WRAPPED_KEY_BYTES_MAX;
use seal::name::KeyUri;
use secret::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::decoded_key;

/// Longest answer: the longest ciphertext in base64, the key's name and metadata.
pub(super) const BYTES_MAX: usize = WRAPPED_KEY_BYTES_MAX / 3 * 4 + 8 * 1024;

/// `CiphertextBlob`, to be stored.
pub(super) fn ciphertext(body: &[u8], endpoint: &str) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Encrypted {
        ciphertext_blob: String,
    }
    let refuse = || Error::protocol(endpoint, "it holds no ciphertext");
    let answer: Encrypted = serde_json::from_slice(body).map_err(|_| refuse())?;
    let bytes = STANDARD.decode(answer.ciphertext_blob).map_err(|_| refuse())?;
    match bytes.len() {
        1..=WRAPPED_KEY_BYTES_MAX => Ok(bytes),
        _ => Err(refuse()),
    }
}

/// `Plaintext`, which must be a key. Errors quote nothing of it.
pub(super) fn plaintext(body: &[u8], endpoint: &str) -> Result<Secret, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Decrypted {
        plaintext: String,
    }
    let answer: Result<Decrypted, _> = serde_json::from_slice(body);
    let answer = answer.map_err(|_| Error::protocol(endpoint, "it holds no plaintext"))?;
    decoded_key(&Zeroizing::new(answer.plaintext), endpoint)
}

/// An answer other than 200.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    kind: String,
    detail: String,
}

impl Refusal {
    /// `{"__type":"com.amazonaws.kms#NotFoundException","message":"…"}`.
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Wire {
            #[serde(rename = "__type", default)]
            kind: String,
            #[serde(default, alias = "Message")]
            message: String,
        }
        let wire: Wire = serde_json::from_slice(body).unwrap_or_default();
        let kind = printable(wire.kind.rsplit('#').next().unwrap_or_default());
        let detail = printable(&format!("{status} {kind} {}", wire.message));
        Self { status, kind, detail }
    }

    /// What it means.
    pub(super) fn about(self, name: &KeyUri, endpoint: &str) -> Error {
        let (resource, endpoint) = (name.clone(), endpoint.to_owned());
        let Self { status, kind, detail } = self;
        match (kind.trim_end_matches("Exception").trim_end_matches("Error"), status) {
            ("InvalidCiphertext" | "IncorrectKey", _) => Error::Unwrap { resource, detail },
            ("NotFound", _) => Error::NotFound { resource, detail },
            // Disabled, or about to be deleted: an administrator's no.
            ("AccessDenied" | "Disabled" | "KMSInvalidState" | "InvalidKeyUsage", _) => {
                Error::Denied { resource, detail }
            }
            (
                "UnrecognizedClient"
                | "InvalidSignature"
                | "SignatureDoesNotMatch"
                | "IncompleteSignature"
                | "ExpiredToken"
                | "InvalidClientTokenId"
                | "MissingAuthenticationToken"
                | "OptInRequired"
                | "NotAuthorized",
                _,
            ) => Error::Login { endpoint, detail },
            (
                "Throttling"
                | "RequestLimitExceeded"
                | "LimitExceeded"
                | "DependencyTimeout"
                | "KMSInternal"
                | "KeyUnavailable"
                | "ServiceUnavailable"
                | "InternalFailure"
                | "RequestExpired",
                _,
            )
            | (_, 408 | 429 | 500..) => Error::Unreachable { endpoint, why: detail, source: None },
            (_, 403) => Error::Denied { resource, detail },
            _ => Error::Protocol { endpoint, why: detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(status: u16, kind: &str) -> Error {
        let body = format!(r#"{{"__type":"com.amazonaws.kms#{kind}","message":"so\nit is"}}"#);
        let name = KeyUri::parse("awskms:///eu-central-1/k").unwrap();
        Refusal::parse(status, body.as_bytes()).about(&name, "https://kms")
    }

    #[test]
    fn the_exception_decides_and_then_the_status() {
        for kind in ["InvalidCiphertextException", "IncorrectKeyException"] {
            assert!(matches!(about(400, kind), Error::Unwrap { .. }), "{kind}");
        }
        for kind in ["AccessDeniedException", "DisabledException", "KMSInvalidStateException"] {
            assert!(matches!(about(400, kind), Error::Denied { .. }), "{kind}");
        }
        for kind in
            ["UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"]
        {
            assert!(matches!(about(400, kind), Error::Login { .. }), "{kind}");
        }
        for kind in ["ThrottlingException", "KMSInternalException", "DependencyTimeoutException"] {
            assert!(about(400, kind).is_transient(), "{kind}");
        }
        assert!(matches!(about(400, "NotFoundException"), Error::NotFound { .. }));
        assert!(matches!(about(400, "ValidationException"), Error::Protocol { .. }));
        assert!(about(503, "").is_transient() && about(429, "").is_transient());
        assert!(matches!(about(403, ""), Error::Denied { .. }));
        assert!(about(400, "AccessDeniedException").to_string().ends_with("so it is"));
    }

    #[test]
    fn only_a_key_and_only_a_ciphertext_are_read() {
        let key = format!(r#"{{"KeyId":"a","Plaintext":"{}"}}"#, STANDARD.encode([7; 32]));
        assert_eq!(plaintext(key.as_bytes(), "kms").unwrap().expose(), [7; 32]);
        for length in 0..key.len() {
            assert!(plaintext(&key.as_bytes()[..length], "kms").is_err(), "{length}");
        }
        for bytes in [0, 31, 33] {
            let body = format!(r#"{{"Plaintext":"{}"}}"#, STANDARD.encode(vec![7; bytes]));
            assert!(plaintext(body.as_bytes(), "kms").is_err(), "{bytes}");
        }
        let cipher = |bytes: usize| {
            let body = format!(r#"{{"CiphertextBlob":"{}"}}"#, STANDARD.encode(vec![7; bytes]));
            ciphertext(body.as_bytes(), "kms")
        };
        assert!(cipher(0).is_err() && cipher(WRAPPED_KEY_BYTES_MAX + 1).is_err());
        assert!(cipher(1).is_ok() && cipher(WRAPPED_KEY_BYTES_MAX).is_ok());
    }
}
