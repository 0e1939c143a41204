//! What Cloud KMS answers: the few members that are read, and what its refusals mean. No I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::{Error, printable};
use seal::bundle::WRAPPED_KEY_BYTES_MAX;
use seal::name::{GcpKmsKey, KeyUri};
use secret::Secret;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::decoded_key;

/// Longest answer: the longest ciphertext in base64, the key's name and metadata.
pub(super) const BYTES_MAX: usize = WRAPPED_KEY_BYTES_MAX / 3 * 4 + 8 * 1024;

/// CRC-32C (RFC 3385's polynomial, reflected), of 32 bytes and a little more.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => (crc >> 1) ^ POLYNOMIAL,
            _ => crc >> 1,
        })
    })
}

/// Google: "discard the response in case of non-matching checksum values, and perform a limited
/// number of retries".
fn check_sum(bytes: &[u8], said: &Value, endpoint: &str) -> Result<(), Error> {
    // int64 in JSON is a string.
    let said = said.as_str().and_then(|text| text.parse().ok());
    match said == Some(crc32c(bytes)) {
        true => Ok(()),
        false => Err(garbled(endpoint)),
    }
}

fn garbled(endpoint: &str) -> Error {
    let why = "a checksum does not match: something changed on its way".to_owned();
    Error::Unreachable { endpoint: endpoint.to_owned(), why, source: None }
}

/// `ciphertext`, to be stored, if KMS has understood every byte of the request.
pub(super) fn ciphertext(body: &[u8], key: &GcpKmsKey, endpoint: &str) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Encrypted {
        name: String,
        ciphertext: String,
        #[serde(default)]
        ciphertext_crc32c: Value,
        #[serde(default)]
        verified_plaintext_crc32c: bool,
        #[serde(default)]
        verified_additional_authenticated_data_crc32c: bool,
    }
    let refuse = |why: &str| Error::protocol(endpoint, why);
    let answer: Encrypted =
        serde_json::from_slice(body).map_err(|_| refuse("it holds no ciphertext"))?;
    let of_key = answer.name.strip_prefix(key.resource());
    if !of_key.is_some_and(|version| version.starts_with("/cryptoKeyVersions/")) {
        return Err(refuse("another key has wrapped"));
    }
    let verified =
        answer.verified_plaintext_crc32c && answer.verified_additional_authenticated_data_crc32c;
    if !verified {
        return Err(garbled(endpoint));
    }
    let bytes = STANDARD.decode(answer.ciphertext).map_err(|_| refuse("it holds no ciphertext"))?;
    check_sum(&bytes, &answer.ciphertext_crc32c, endpoint)?;
    match bytes.len() {
        1..=WRAPPED_KEY_BYTES_MAX => Ok(bytes),
        _ => Err(refuse("its ciphertext is empty or too long")),
    }
}

/// `plaintext`, which must be a key. Errors quote nothing of it.
pub(super) fn plaintext(body: &[u8], endpoint: &str) -> Result<Secret, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Decrypted {
        plaintext: String,
        #[serde(default)]
        plaintext_crc32c: Value,
    }
    let answer: Result<Decrypted, _> = serde_json::from_slice(body);
    let answer = answer.map_err(|_| Error::protocol(endpoint, "it holds no plaintext"))?;
    let key = decoded_key(&Zeroizing::new(answer.plaintext), endpoint)?;
    check_sum(key.expose(), &answer.plaintext_crc32c, endpoint)?;
    Ok(key)
}

/// An answer other than 200.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    kind: String,
    detail: String,
}

impl Refusal {
    /// `{"error":{"code":404,"message":"…","status":"NOT_FOUND"}}`.
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Wire {
            error: Inner,
        }
        #[derive(Deserialize, Default)]
        struct Inner {
            #[serde(default)]
            message: String,
            #[serde(default)]
            status: String,
        }
        let Wire { error } = serde_json::from_slice(body).unwrap_or_default();
        let kind = printable(&error.status);
        let detail = printable(&format!("{status} {kind} {}", error.message));
        Self { status, kind, detail }
    }

    /// What it means. To decrypt, an argument is invalid because it is another key's or bundle's.
    pub(super) fn about(self, name: &KeyUri, endpoint: &str, unwrapping: bool) -> Error {
        let (resource, endpoint) = (name.clone(), endpoint.to_owned());
        let Self { status, kind, detail } = self;
        match (kind.as_str(), status) {
            ("INVALID_ARGUMENT", _) if detail.to_ascii_lowercase().contains("checksum") => {
                Error::Unreachable { endpoint, why: detail, source: None }
            }
            ("INVALID_ARGUMENT", _) if unwrapping => Error::Unwrap { resource, detail },
            ("UNAUTHENTICATED", _) | ("", 401) => Error::Login { endpoint, detail },
            // FAILED_PRECONDITION: disabled or destroyed, or a key that signs.
            ("PERMISSION_DENIED" | "FAILED_PRECONDITION", _) | ("", 403) => {
                Error::Denied { resource, detail }
            }
            ("NOT_FOUND", _) | ("", 404) => Error::NotFound { resource, detail },
            (
                "RESOURCE_EXHAUSTED" | "UNAVAILABLE" | "INTERNAL" | "DEADLINE_EXCEEDED" | "ABORTED"
                | "CANCELLED" | "UNKNOWN",
                _,
            )
            | (_, 408 | 429 | 500..) => Error::Unreachable { endpoint, why: detail, source: None },
            _ => Error::Protocol { endpoint, why: detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name() -> GcpKmsKey {
        let uri = "gcpkms:///projects/p/locations/l/keyRings/r/cryptoKeys/k";
        match KeyUri::parse(uri).unwrap() {
            KeyUri::GcpKms(key) => key,
            other => panic!("{other}"),
        }
    }

    fn about(status: u16, kind: &str, message: &str, unwrapping: bool) -> Error {
        let body = json!({"error": {"code": status, "status": kind, "message": message}});
        let refusal = Refusal::parse(status, body.to_string().as_bytes());
        refusal.about(&KeyUri::GcpKms(name()), "https://kms", unwrapping)
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720 B.4, and the check value of every catalogue.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn the_status_word_decides_and_then_the_status() {
        let of = |status, kind| about(status, kind, "so\nit is", true);
        assert!(matches!(of(400, "INVALID_ARGUMENT"), Error::Unwrap { .. }));
        let wrapping = about(400, "INVALID_ARGUMENT", "", false);
        assert!(matches!(wrapping, Error::Protocol { .. }));
        let garbled = about(400, "INVALID_ARGUMENT", "The checksum in field x", true);
        assert!(garbled.is_transient());
        assert!(matches!(of(401, "UNAUTHENTICATED"), Error::Login { .. }));
        assert!(matches!(of(403, "PERMISSION_DENIED"), Error::Denied { .. }));
        assert!(matches!(of(400, "FAILED_PRECONDITION"), Error::Denied { .. }));
        assert!(matches!(of(404, "NOT_FOUND"), Error::NotFound { .. }));
        assert!(of(429, "RESOURCE_EXHAUSTED").is_transient());
        assert!(of(503, "UNAVAILABLE").is_transient() && of(502, "").is_transient());
        assert!(matches!(of(418, "TEAPOT"), Error::Protocol { .. }));
        assert!(of(404, "NOT_FOUND").to_string().ends_with("so it is"));
    }

    fn edited(whole: &Value, member: &str, value: Value) -> Vec<u8> {
        let mut edited = whole.clone();
        edited[member] = value;
        edited.to_string().into_bytes()
    }

    #[test]
    fn only_a_whole_ciphertext_of_this_key_is_taken() {
        let (bytes, resource) = (vec![7; 100], name().resource().to_owned());
        let whole = json!({
            "name": format!("{resource}/cryptoKeyVersions/3"),
            "ciphertext": STANDARD.encode(&bytes),
            "ciphertextCrc32c": crc32c(&bytes).to_string(),
            "verifiedPlaintextCrc32c": true,
            "verifiedAdditionalAuthenticatedDataCrc32c": true,
        });
        let read = |body: &[u8]| ciphertext(body, &name(), "kms");
        assert_eq!(read(whole.to_string().as_bytes()).unwrap(), bytes);
        for length in 0..whole.to_string().len() {
            assert!(read(&whole.to_string().as_bytes()[..length]).is_err(), "{length}");
        }
        for (member, value) in [
            ("ciphertextCrc32c", json!("1")),
            ("ciphertextCrc32c", json!(null)),
            ("verifiedPlaintextCrc32c", json!(false)),
            ("verifiedAdditionalAuthenticatedDataCrc32c", json!(false)),
        ] {
            let refused = read(&edited(&whole, member, value)).unwrap_err();
            assert!(refused.is_transient(), "{member}: {refused}");
        }
        for (member, value) in [
            ("name", json!(format!("{resource}2/cryptoKeyVersions/3"))),
            ("name", json!(resource)),
            ("ciphertext", json!("?")),
        ] {
            let refused = read(&edited(&whole, member, value)).unwrap_err();
            assert!(matches!(refused, Error::Protocol { .. }), "{member}: {refused}");
        }
    }

    #[test]
    fn only_a_key_with_its_checksum_is_taken() {
        let key = [7; 32];
        let whole =
            json!({"plaintext": STANDARD.encode(key), "plaintextCrc32c": crc32c(&key).to_string()});
        assert_eq!(plaintext(whole.to_string().as_bytes(), "kms").unwrap().expose(), key);
        for length in 0..whole.to_string().len() {
            assert!(plaintext(&whole.to_string().as_bytes()[..length], "kms").is_err());
        }
        let wrong = plaintext(&edited(&whole, "plaintextCrc32c", json!("1")), "kms").unwrap_err();
        assert!(wrong.is_transient());
        let short = plaintext(&edited(&whole, "plaintext", json!("AAAA")), "kms").unwrap_err();
        assert!(matches!(short, Error::Protocol { .. }));
    }
}
