//! The messages of the handshake: what is sent, what is accepted, and what the evidence is over.
//! No I/O.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The protocol's version. Trustee accepts exactly this one.
const VERSION: &str = "0.4.0";

/// The one hash that every TEE but IBM's Secure Execution is verified with.
const HASH: &str = "sha384";

/// Longest answer to `/auth`.
pub(super) const CHALLENGE_BYTES_MAX: usize = 8 * 1024;
/// Longest nonce, decoded. Trustee's has 32 bytes; a broker without session state seals its state
/// into the nonce.
const NONCE_BYTES_MAX: usize = 1024;
/// Shortest nonce that can be unpredictable.
const NONCE_BYTES_MIN: usize = 16;
/// Longest session cookie, name included: our broker's carries the claims.
const COOKIE_BYTES_MAX: usize = 8 * 1024;
/// Longest answer to `/attest`: a token repeats the evidence's claims, an event log among them.
pub(super) const TOKEN_ANSWER_BYTES_MAX: usize = 512 * 1024;
/// Longest token that is sent as a header, which servers and proxies limit. Longer ones are left
/// out: the cookie does the same.
const BEARER_BYTES_MAX: usize = 8 * 1024;
/// Longest answer that carries a key: base64 of a `Secret::BYTES_MAX` key, and its envelope.
pub(super) const JWE_BYTES_MAX: usize = secret::Secret::BYTES_MAX / 3 * 4 + 8 * 1024;

/// Longest receipt of a release: a signature, hashes, and the resource's name.
pub const RECEIPT_BYTES_MAX: usize = 4 * 1024;

/// The body of `/auth`.
pub(super) fn request(tee: &str) -> String {
    let parameters = json!({"supported-hash-algorithms": [HASH]});
    json!({"version": VERSION, "tee": tee, "extra-params": parameters}).to_string()
}

/// What the evidence must cover.
#[derive(Debug)]
pub(super) struct Challenge {
    /// As received: it goes back, and into the hash, letter by letter.
    nonce: String,
}

impl Challenge {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Wire {
            nonce: String,
            #[serde(rename = "extra-params", default)]
            parameters: Value,
        }
        let wire: Wire = serde_json::from_slice(body).map_err(|_| "challenge does not parse")?;
        let nonce = STANDARD.decode(&wire.nonce).map_err(|_| "nonce is not base64")?;
        if !(NONCE_BYTES_MIN..=NONCE_BYTES_MAX).contains(&nonce.len()) {
            return Err(format!("nonce of {} bytes", nonce.len()));
        }
        match wire.parameters.get("selected-hash-algorithm") {
            None => Ok(Self { nonce: wire.nonce }),
            Some(Value::String(hash)) if hash == HASH => Ok(Self { nonce: wire.nonce }),
            Some(_) => Err("the broker chose a hash that was not offered".to_owned()),
        }
    }
}

/// What the evidence is over: `SHA-384(JCS({"additional-evidence","nonce","tee-pubkey"}))`.
///
/// The canonical form (RFC 8785) of ASCII strings without escapes is compact JSON with sorted
/// members. The order is fixed here by types, since `serde_json`'s own map changes its order when
/// any crate in the program asks for `preserve_order`.
pub(super) fn report_data(challenge: &Challenge, public_key: &Value) -> Result<[u8; 48], String> {
    #[derive(Serialize)]
    struct Bound<'a> {
        #[serde(rename = "additional-evidence")]
        additional_evidence: &'a str,
        nonce: &'a str,
        #[serde(rename = "tee-pubkey")]
        public_key: BTreeMap<String, String>,
    }
    let bound = Bound {
        additional_evidence: "",
        nonce: &challenge.nonce,
        public_key: BTreeMap::deserialize(public_key).map_err(|error| error.to_string())?,
    };
    let canonical = serde_json::to_vec(&bound).map_err(|error| error.to_string())?;
    let hash = digest::digest(&digest::SHA384, &canonical);
    hash.as_ref().try_into().map_err(|_| "a SHA-384 digest of another length".to_owned())
}

/// The body of `/attest`.
pub(super) fn attestation(challenge: &Challenge, public_key: &Value, evidence: &Value) -> String {
    json!({
        "runtime-data": {"nonce": challenge.nonce, "tee-pubkey": public_key},
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
    })
    .to_string()
}

/// The token in the answer to `/attest`, if it can serve as a header.
pub(super) fn parse_token(body: &[u8]) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Wire {
        token: String,
    }
    let wire: Wire =
        serde_json::from_slice(body).map_err(|_| "no token in the answer to /attest")?;
    let fits = wire.token.len() <= BEARER_BYTES_MAX && wire.token.bytes().all(is_token_byte);
    Ok(fits.then_some(wire.token).filter(|token| !token.is_empty()))
}

/// `kbs-session-id=<value>` from a `Set-Cookie` header, without its attributes.
pub(super) fn session_cookie(header: &str) -> Option<String> {
    let pair = header.split(';').next()?.trim();
    let value = pair.strip_prefix("kbs-session-id=")?;
    let usable =
        !value.is_empty() && pair.len() <= COOKIE_BYTES_MAX && value.bytes().all(is_token_byte);
    usable.then(|| pair.to_owned())
}

/// A receipt, if it has the form of a compact JWS (RFC 7515 section 7.1). Anything else is left out:
/// that it is missing is found where it is wanted, and is no reason to be without the key.
pub(super) fn receipt(header: &str) -> Option<String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let fits = header.len() <= RECEIPT_BYTES_MAX
        && header.split('.').count() == 3
        && header.split('.').all(is_part);
    fits.then(|| header.to_owned())
}

/// RFC 6750's `b64token`, which a session id fits too.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(nonce: &str, parameters: Value) -> Result<Challenge, String> {
        let body = json!({"nonce": nonce, "extra-params": parameters});
        Challenge::parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_receipt_has_a_form_and_a_size() {
        let fits = format!("a.{}.c_-", "b".repeat(RECEIPT_BYTES_MAX - 6));
        for good in ["a.b.c", &fits] {
            assert_eq!(receipt(good).as_deref(), Some(good));
        }
        for bad in ["", "a.b", "a.b.c.d", "a..c", "a.b.", "a.b.c=", "a b.c.d", &format!("{fits}x")]
        {
            assert_eq!(receipt(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_evidence_is_over_the_canonical_runtime_data() {
        // Computed with another implementation (Python's json and hashlib) from the protocol text.
        let expected = "dfa65d498315212bdaf8857231cf0482172933db271f15856bf30db447227eb5b1dd9e29fcc1fb9076fb00792c3bb7e7";
        let nonce = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let public_key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        let data = report_data(&challenge(nonce, json!("")).unwrap(), &public_key).unwrap();
        assert_eq!(hex::encode(data), expected);
    }

    #[test]
    fn the_request_names_version_tee_and_hash() {
        let request: Value = serde_json::from_str(&request("snp")).unwrap();
        let expected = json!({
            "version": "0.4.0", "tee": "snp",
            "extra-params": {"supported-hash-algorithms": ["sha384"]},
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn a_nonce_is_base64_of_16_to_1024_bytes() {
        let of = |bytes: usize| challenge(&STANDARD.encode(vec![7; bytes]), json!(""));
        assert!(of(15).is_err() && of(1025).is_err());
        assert!(of(16).is_ok() && of(32).is_ok() && of(1024).is_ok());
        assert!(challenge("\"},{\u{1F511}", json!("")).is_err());
    }

    #[test]
    fn only_the_offered_hash_may_be_chosen() {
        let nonce = STANDARD.encode([7; 32]);
        let chosen = |hash: Value| challenge(&nonce, json!({"selected-hash-algorithm": hash}));
        assert!(chosen(json!("sha384")).is_ok());
        assert!(chosen(json!("sha512")).is_err());
        assert!(chosen(json!(null)).is_err());
    }

    #[test]
    fn a_session_cookie_has_its_name_a_clean_value_and_a_limit() {
        let taken = |header: &str| session_cookie(header);
        assert_eq!(
            taken("kbs-session-id=0af3; Expires=Thu; Path=/").as_deref(),
            Some("kbs-session-id=0af3")
        );
        assert_eq!(taken("theme=dark"), None);
        assert_eq!(taken("kbs-session-id="), None);
        assert_eq!(taken("kbs-session-id=a b"), None);
        assert_eq!(taken(&format!("kbs-session-id={}", "a".repeat(COOKIE_BYTES_MAX))), None);
    }

    #[test]
    fn a_token_that_is_no_header_is_left_out() {
        let taken = |token: &str| parse_token(json!({"token": token}).to_string().as_bytes());
        assert_eq!(taken("a.b.c").unwrap().as_deref(), Some("a.b.c"));
        assert_eq!(taken("a\r\nx: y").unwrap(), None);
        assert_eq!(taken("").unwrap(), None);
        assert_eq!(taken(&"a".repeat(BEARER_BYTES_MAX + 1)).unwrap(), None);
        assert!(parse_token(b"{}").is_err());
    }
}
