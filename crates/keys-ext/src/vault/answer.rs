//! What Vault answers: the few members that are read, and what its refusals mean. No I/O.
//!
//! Nothing here quotes a body of status 200 in an error: it holds a key or a token.

use keys::{Error, printable};
use reqwest::StatusCode;
use seal::bundle::WRAPPED_KEY_BYTES_MAX;
use seal::name::KeyUri;
use secret::Secret;
use serde::Deserialize;
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::decoded_key;

/// Longest answer with a key: the longest key, as a JSON string in which half of the characters are
/// escaped, and its metadata.
pub(super) const BYTES_MAX: usize = 2 * Secret::BYTES_MAX + 16 * 1024;
/// Longest answer to a login: a token with its policies and metadata.
pub(super) const LOGIN_BYTES_MAX: usize = 64 * 1024;

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8], endpoint: &str, what: &str) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|_| Error::protocol(endpoint, format!("it holds no {what}")))
}

/// `auth.client_token`.
pub(super) fn client_token(body: &[u8], endpoint: &str) -> Result<Zeroizing<String>, Error> {
    #[derive(Deserialize)]
    struct Login {
        auth: Auth,
    }
    #[derive(Deserialize)]
    struct Auth {
        client_token: String,
    }
    let login: Login = read(body, endpoint, "token")?;
    Ok(Zeroizing::new(login.auth.client_token))
}

/// `data.data.<field>`, a string.
pub(super) fn value(
    body: &[u8],
    field: &str,
    endpoint: &str,
    name: &KeyUri,
) -> Result<Secret, Error> {
    #[derive(Deserialize)]
    struct Version {
        data: serde_json::Map<String, Value>,
    }
    let mut answer: Answer<Version> = read(body, endpoint, "value of a KV version 2 engine")?;
    let found = answer.data.data.remove(field);
    for (_, mut other) in answer.data.data {
        if let Value::String(text) = &mut other {
            text.zeroize();
        }
    }
    match found {
        Some(Value::String(text)) if text.is_empty() => {
            Err(Error::Empty { resource: name.clone() })
        }
        Some(Value::String(text)) => {
            let mut bytes = Zeroizing::new(text.into_bytes());
            let what = || Error::TooLarge { what: name.to_string(), limit: Secret::BYTES_MAX };
            Secret::take(&mut bytes).map_err(|_| what())
        }
        Some(_) => Err(Error::protocol(endpoint, format!("the member {field} is no string"))),
        None => {
            let detail = format!("the value has no member {field}");
            Err(Error::NotFound { resource: name.clone(), detail })
        }
    }
}

/// `data.ciphertext`, to be stored.
pub(super) fn ciphertext(body: &[u8], endpoint: &str) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    struct Encrypted {
        ciphertext: String,
    }
    let answer: Answer<Encrypted> = read(body, endpoint, "ciphertext")?;
    let ciphertext = answer.data.ciphertext;
    let fits = ciphertext.len() <= WRAPPED_KEY_BYTES_MAX;
    if !fits || !ciphertext.starts_with("vault:v") || !ciphertext.is_ascii() {
        return Err(Error::protocol(endpoint, "the ciphertext is none of Transit's"));
    }
    Ok(ciphertext.into_bytes())
}

/// `data.plaintext`, which must be a key.
pub(super) fn plaintext(body: &[u8], endpoint: &str) -> Result<Secret, Error> {
    #[derive(Deserialize)]
    struct Decrypted {
        plaintext: String,
    }
    let answer: Answer<Decrypted> = read(body, endpoint, "plaintext")?;
    decoded_key(&Zeroizing::new(answer.data.plaintext), endpoint)
}

/// An answer other than 200.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    detail: String,
}

impl Refusal {
    /// `{"errors":["…"]}`, or whatever else stands in the server's place.
    pub(super) fn parse(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Wire {
            errors: Vec<String>,
        }
        let text = match serde_json::from_slice::<Wire>(body) {
            Ok(wire) => wire.errors.join("; "),
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        };
        let status = status.as_u16();
        Self { status, detail: printable(&format!("{status} {}", text.trim())) }
    }

    /// What it means where a wrapped key was to be unwrapped.
    pub(super) fn of_an_unwrapping(self, name: &KeyUri, endpoint: &str) -> Error {
        let is_about_the_ciphertext = self.status == 400;
        match self.about(name, endpoint) {
            Error::Protocol { why: detail, .. } if is_about_the_ciphertext => {
                Error::Unwrap { resource: name.clone(), detail }
            }
            other => other,
        }
    }

    /// What it means where a key was asked for, or asked to wrap.
    pub(super) fn about(self, name: &KeyUri, endpoint: &str) -> Error {
        let says = |part: &str| self.detail.to_ascii_lowercase().contains(part);
        let (resource, detail) = (name.clone(), self.detail.clone());
        match self.status {
            // A wrong token and a policy's refusal have the same status, and both say `permission
            // denied`; of tokens, newer servers say that too.
            403 if says("invalid token") || says("bad token") => self.of_a_login(endpoint),
            403 => Error::Denied { resource, detail },
            404 => Error::NotFound { resource, detail },
            400 if says("key not found") => Error::NotFound { resource, detail },
            _ => self.otherwise(endpoint),
        }
    }

    /// What it means where somebody tried to log in.
    pub(super) fn of_a_login(self, endpoint: &str) -> Error {
        match self.status {
            400 | 401 | 403 | 404 => {
                Error::Login { endpoint: endpoint.to_owned(), detail: self.detail }
            }
            _ => self.otherwise(endpoint),
        }
    }

    fn otherwise(self, endpoint: &str) -> Error {
        let now = match self.status {
            429 => "it has too many requests",
            // A standby node that does not forward; a load balancer leads elsewhere next time.
            301 | 302 | 307 | 308 | 472 | 473 => {
                "it is a standby, whose redirects are not followed"
            }
            503 => "it is sealed, or in maintenance",
            // 412: a replica that has not heard yet of what was just written.
            408 | 412 | 500.. => "it failed",
            _ => return Error::protocol(endpoint, self.detail),
        };
        let why = format!("{now}: {}", self.detail);
        Error::Unreachable { endpoint: endpoint.to_owned(), why, source: None }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const ENDPOINT: &str = "https://vault:8200";

    fn refusal(status: u16, error: &str) -> Refusal {
        let body = serde_json::json!({"errors": [error]}).to_string();
        Refusal::parse(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    fn about(status: u16, error: &str) -> Error {
        let name = KeyUri::parse("vault:///transit/keys/a").unwrap();
        refusal(status, error).of_an_unwrapping(&name, ENDPOINT)
    }

    #[test]
    fn a_refusal_is_told_by_status_and_by_what_it_says() {
        assert!(matches!(about(403, "permission denied"), Error::Denied { .. }));
        assert!(matches!(about(403, "permission denied; invalid token"), Error::Login { .. }));
        assert!(matches!(about(404, ""), Error::NotFound { .. }));
        assert!(matches!(about(400, "encryption key not found"), Error::NotFound { .. }));
        assert!(matches!(
            about(400, "cipher: message authentication failed"),
            Error::Unwrap { .. }
        ));
        for status in [307, 408, 412, 429, 472, 473, 500, 502, 503] {
            assert!(about(status, "").is_transient(), "{status}");
            assert!(refusal(status, "").of_a_login(ENDPOINT).is_transient(), "{status}");
        }
        for status in [400, 401, 403, 404] {
            let error = refusal(status, "").of_a_login(ENDPOINT);
            assert!(matches!(error, Error::Login { .. }), "{status}");
        }
        assert!(about(503, "Vault is sealed").to_string().contains("sealed"));
    }

    #[test]
    fn only_what_was_to_be_unwrapped_can_fail_to_be() {
        let name = KeyUri::parse("vault:///transit/keys/a").unwrap();
        let error = refusal(400, "unsupported").about(&name, ENDPOINT);
        assert!(matches!(error, Error::Protocol { .. }));
    }

    #[test]
    fn only_what_is_meant_is_read_from_an_answer() {
        let name = KeyUri::parse("vault:///secret/data/a#k").unwrap();
        let of = |body: &str| value(body.as_bytes(), "k", ENDPOINT, &name);
        assert_eq!(of(r#"{"data":{"data":{"k":"x","l":"y"}}}"#).unwrap().expose(), b"x");
        assert!(matches!(of(r#"{"data":{"data":{"l":"x"}}}"#), Err(Error::NotFound { .. })));
        assert!(matches!(of(r#"{"data":{"data":{"k":""}}}"#), Err(Error::Empty { .. })));
        let long = "x".repeat(Secret::BYTES_MAX + 1);
        let long = of(&format!(r#"{{"data":{{"data":{{"k":"{long}"}}}}}}"#));
        assert!(matches!(long, Err(Error::TooLarge { .. })));
        for body in ["", "{}", "[]", r#"{"data":{"k":"x"}}"#, r#"{"data":{"data":{"k":1}}}"#] {
            assert!(matches!(of(body), Err(Error::Protocol { .. })), "{body}");
        }
    }

    #[test]
    fn what_is_unwrapped_is_a_key_and_what_is_wrapped_is_of_transit() {
        let plain = |text: &str| {
            plaintext(format!(r#"{{"data":{{"plaintext":"{text}"}}}}"#).as_bytes(), ENDPOINT)
        };
        assert_eq!(plain(&STANDARD.encode([7; 32])).unwrap().expose(), [7; 32]);
        for bytes in [0, 31, 33, 64] {
            assert!(plain(&STANDARD.encode(vec![7; bytes])).is_err(), "{bytes}");
        }
        assert!(plain(&"?".repeat(44)).is_err());
        let cipher = |text: &str| {
            ciphertext(format!(r#"{{"data":{{"ciphertext":"{text}"}}}}"#).as_bytes(), ENDPOINT)
        };
        assert!(cipher("vault:v1:AAAA").is_ok());
        assert!(cipher("AAAA").is_err() && cipher("vault:v1:ü").is_err());
        assert!(cipher(&format!("vault:v1:{}", "A".repeat(WRAPPED_KEY_BYTES_MAX))).is_err());
    }

    #[test]
    fn every_truncated_answer_is_refused() {
        let body = format!(r#"{{"data":{{"plaintext":"{}"}}}}"#, STANDARD.encode([7; 32]));
        for length in 0..body.len() {
            assert!(plaintext(&body.as_bytes()[..length], ENDPOINT).is_err(), "{length}");
        }
        let body = r#"{"auth":{"client_token":"s.x"}}"#;
        assert_eq!(*client_token(body.as_bytes(), ENDPOINT).unwrap(), "s.x");
        for length in 0..body.len() {
            assert!(client_token(&body.as_bytes()[..length], ENDPOINT).is_err(), "{length}");
        }
    }
}
