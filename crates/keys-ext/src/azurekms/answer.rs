//! What a Managed HSM answers, what we store of it, and what its refusals mean. No I/O.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::{Error, printable};
use seal::key::KEY_BYTES;
use seal::name::{AzureKmsKey, KeyUri};
use secret::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Longest answer: a key's description, with tags, attributes and a release policy.
pub(super) const BYTES_MAX: usize = 64 * 1024;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// RFC 3394: eight bytes more than the key.
const KW_BYTES: usize = KEY_BYTES + 8;

/// By what a key wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// AES-GCM, with the bundle as associated data.
    Gcm,
    /// AES key wrap.
    Kw,
}

impl Means {
    /// The service's name for it.
    pub(super) fn alg(self) -> &'static str {
        match self {
            Self::Gcm => "A256GCM",
            Self::Kw => "A256KW",
        }
    }
}

/// A stored wrap: the version of the key, 32 hex digits; then the IV, what was encrypted and its tag,
/// or what AES key wrap gave.
pub(super) struct Wrapped<'a> {
    pub(super) version: &'a str,
    pub(super) value: &'a [u8],
    /// IV and tag.
    pub(super) gcm: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> Wrapped<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        const GCM_BYTES: usize = IV_BYTES + KEY_BYTES + TAG_BYTES;
        let (version, rest) = bytes.split_at_checked(AzureKmsKey::VERSION_BYTES)?;
        let version = str::from_utf8(version).ok().filter(|text| AzureKmsKey::is_version(text))?;
        match rest.len() {
            KW_BYTES => Some(Self { version, value: rest, gcm: None }),
            GCM_BYTES => {
                let (iv, rest) = rest.split_at(IV_BYTES);
                let (value, tag) = rest.split_at(KEY_BYTES);
                Some(Self { version, value, gcm: Some((iv, tag)) })
            }
            _ => None,
        }
    }
}

/// The version of a `kid` that is one of this key's: `https://<host>/keys/<key>/<version>`.
fn version_of<'a>(kid: &'a str, key: &AzureKmsKey) -> Option<&'a str> {
    let version = kid
        .strip_prefix("https://")?
        .strip_prefix(key.host())?
        .strip_prefix("/keys/")?
        .strip_prefix(key.key())?
        .strip_prefix('/')?;
    let is_named = key.version().is_none_or(|named| named == version);
    (AzureKmsKey::is_version(version) && is_named).then_some(version)
}

/// `{"key":{"kid","kty","key_ops"}}`: the version, and what it wraps by.
pub(super) fn described(
    body: &[u8],
    key: &AzureKmsKey,
    endpoint: &str,
) -> Result<(String, Means), Error> {
    #[derive(Deserialize)]
    struct Described {
        key: Jwk,
    }
    #[derive(Deserialize)]
    struct Jwk {
        kid: String,
        kty: String,
        #[serde(default)]
        key_ops: Vec<String>,
    }
    let answer: Described = serde_json::from_slice(body)
        .map_err(|_| Error::protocol(endpoint, "it describes no key"))?;
    let version = version_of(&answer.key.kid, key)
        .ok_or_else(|| Error::protocol(endpoint, "it describes another key"))?;
    let name = KeyUri::AzureKms(key.clone());
    if !matches!(answer.key.kty.as_str(), "oct-HSM" | "oct") {
        let kty = printable(&answer.key.kty);
        let why = format!("{name} is a key pair ({kty}), and anybody may wrap for one: use AES");
        return Err(Error::Usage(why));
    }
    let may = |operations: [&str; 2]| {
        operations.iter().all(|operation| answer.key.key_ops.iter().any(|may| may == operation))
    };
    let means = match (may(["encrypt", "decrypt"]), may(["wrapKey", "unwrapKey"])) {
        (true, _) => Means::Gcm,
        (false, true) => Means::Kw,
        _ => {
            let why = format!("{name} may neither encrypt and decrypt, nor wrap and unwrap");
            return Err(Error::Usage(why));
        }
    };
    Ok((version.to_owned(), means))
}

#[derive(Deserialize)]
struct Operated {
    kid: String,
    value: String,
    #[serde(default)]
    iv: String,
    #[serde(default)]
    tag: String,
}

impl Operated {
    fn read(body: &[u8], key: &AzureKmsKey, version: &str, endpoint: &str) -> Result<Self, Error> {
        let answer: Self = serde_json::from_slice(body)
            .map_err(|_| Error::protocol(endpoint, "it holds no result"))?;
        match version_of(&answer.kid, key) == Some(version) {
            true => Ok(answer),
            false => Err(Error::protocol(endpoint, "another key was used")),
        }
    }
}

/// What is stored of a wrap.
pub(super) fn wrapped(
    body: &[u8],
    key: &AzureKmsKey,
    version: &str,
    means: Means,
    endpoint: &str,
) -> Result<Vec<u8>, Error> {
    let answer = Operated::read(body, key, version, endpoint)?;
    let refuse = || Error::protocol(endpoint, "what it wrapped has not the algorithm's form");
    let decode = |text: &str| {
        // Padded or not: the reference has examples of both.
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| refuse())
    };
    let mut stored = version.as_bytes().to_vec();
    match means {
        Means::Kw => stored.extend(decode(&answer.value)?),
        Means::Gcm => {
            let parts = [decode(&answer.iv)?, decode(&answer.value)?, decode(&answer.tag)?];
            if parts.each_ref().map(Vec::len) != [IV_BYTES, KEY_BYTES, TAG_BYTES] {
                return Err(refuse());
            }
            stored.extend(parts.concat());
        }
    }
    let is_as_meant = Wrapped::parse(&stored)
        .is_some_and(|wrapped| wrapped.gcm.is_some() == (means == Means::Gcm));
    if is_as_meant { Ok(stored) } else { Err(refuse()) }
}

/// `value`, which must be a key. Errors quote nothing of it.
pub(super) fn unwrapped(
    body: &[u8],
    key: &AzureKmsKey,
    version: &str,
    endpoint: &str,
) -> Result<Secret, Error> {
    let answer = Operated::read(body, key, version, endpoint)?;
    let text = Zeroizing::new(answer.value);
    let text = text.trim_end_matches('=');
    // As long as the decoder's estimate for 43 characters.
    let mut bytes = Zeroizing::new([0; 36]);
    let decoded = match text.len() {
        43 => URL_SAFE_NO_PAD.decode_slice(text, &mut *bytes).ok(),
        _ => None,
    };
    if decoded != Some(KEY_BYTES) {
        return Err(Error::protocol(endpoint, "what it unwrapped is no key of 32 bytes"));
    }
    Secret::copy(&bytes[..KEY_BYTES]).map_err(|error| Error::protocol(endpoint, error.to_string()))
}

/// An answer other than 200.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    detail: String,
}

impl Refusal {
    /// `{"error":{"code":"KeyNotFound","message":"…"}}`.
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Wire {
            error: Inner,
        }
        #[derive(Deserialize, Default)]
        struct Inner {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let Wire { error } = serde_json::from_slice(body).unwrap_or_default();
        Self { status, detail: printable(&format!("{status} {} {}", error.code, error.message)) }
    }

    /// What it means. The service's codes are not listed anywhere as a closed set; its statuses are.
    pub(super) fn about(self, name: &KeyUri, endpoint: &str, unwrapping: bool) -> Error {
        let (resource, endpoint) = (name.clone(), endpoint.to_owned());
        let Self { status, detail } = self;
        match status {
            400 if unwrapping => Error::Unwrap { resource, detail },
            401 => Error::Login { endpoint, detail },
            403 => Error::Denied { resource, detail },
            404 => Error::NotFound { resource, detail },
            // 409: the key is being changed.
            408 | 409 | 429 | 500.. => Error::Unreachable { endpoint, why: detail, source: None },
            _ => Error::Protocol { endpoint, why: detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const VERSION: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "00000000000000000000000000000000";

    fn key(version: &str) -> AzureKmsKey {
        let uri = format!("azurekms:///models.managedhsm.azure.net/keys/llama{version}");
        match KeyUri::parse(&uri).unwrap() {
            KeyUri::AzureKms(key) => key,
            other => panic!("{other}"),
        }
    }

    fn kid(version: &str) -> String {
        format!("https://models.managedhsm.azure.net/keys/llama/{version}")
    }

    fn bytes(value: &Value) -> Vec<u8> {
        value.to_string().into_bytes()
    }

    #[test]
    fn the_key_must_be_aes_and_the_one_that_was_named() {
        let of = |kid: &str, kty: &str, ops: &[&str]| {
            let body = json!({"key": {"kid": kid, "kty": kty, "key_ops": ops}});
            described(&bytes(&body), &key(""), "hsm")
        };
        let (all, own) = (["encrypt", "decrypt", "wrapKey", "unwrapKey"], kid(VERSION));
        assert_eq!(of(&own, "oct-HSM", &all).unwrap(), (VERSION.to_owned(), Means::Gcm));
        assert_eq!(of(&own, "oct-HSM", &all[2..]).unwrap().1, Means::Kw);
        for refused in [
            of(&own, "RSA-HSM", &all),
            of(&own, "EC", &all),
            of(&own, "oct-HSM", &all[1..3]),
            of(&own, "oct-HSM", &[]),
        ] {
            assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
        }
        for other in [
            own.replace("llama", "other"),
            own.replace("models", "others"),
            own.replace("https", "http"),
            own.replace(VERSION, "../../x"),
        ] {
            let refused = of(&other, "oct-HSM", &all);
            assert!(matches!(refused, Err(Error::Protocol { .. })), "{refused:?}");
        }
        let body = bytes(&json!({"key": {"kid": own, "kty": "oct-HSM", "key_ops": all}}));
        assert!(described(&body, &key(&format!("/{VERSION}")), "hsm").is_ok());
        assert!(described(&body, &key(&format!("/{OTHER}")), "hsm").is_err());
        for length in 0..body.len() {
            assert!(described(&body[..length], &key(""), "hsm").is_err(), "{length}");
        }
    }

    #[test]
    fn a_wrap_is_stored_with_its_version_and_read_again() {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let gcm = json!({
            "kid": kid(VERSION), "value": encode(&[1; 32]), "iv": encode(&[2; 12]),
            "tag": encode(&[3; 16]),
        });
        let of = |body: &Value, means| wrapped(&bytes(body), &key(""), VERSION, means, "hsm");
        let stored = of(&gcm, Means::Gcm).unwrap();
        let read = Wrapped::parse(&stored).unwrap();
        assert_eq!((read.version, read.value), (VERSION, &[1; 32][..]));
        assert_eq!(read.gcm, Some((&[2; 12][..], &[3; 16][..])));
        let kw = json!({"kid": kid(VERSION), "value": encode(&[4; 40])});
        let stored_kw = of(&kw, Means::Kw).unwrap();
        assert!(Wrapped::parse(&stored_kw).unwrap().gcm.is_none());
        for length in (0..stored.len()).filter(|length| *length != stored_kw.len()) {
            assert!(Wrapped::parse(&stored[..length]).is_none(), "{length}");
        }
        let mut upper = stored.clone();
        upper[10] = b'A';
        assert!(Wrapped::parse(&upper).is_none());
        for (member, value) in [
            ("kid", json!(kid(OTHER))),
            ("iv", json!(encode(&[2; 16]))),
            ("tag", json!("")),
            ("value", json!(encode(&[1; 33]))),
            ("value", json!("?")),
        ] {
            let mut edited = gcm.clone();
            edited[member] = value;
            assert!(of(&edited, Means::Gcm).is_err(), "{member}");
        }
        assert!(of(&gcm, Means::Kw).is_err() && of(&kw, Means::Gcm).is_err());
    }

    #[test]
    fn only_a_key_of_the_version_that_was_asked_is_taken() {
        let body = bytes(&json!({"kid": kid(VERSION), "value": URL_SAFE_NO_PAD.encode([7; 32])}));
        let of = |body: &[u8], version| unwrapped(body, &key(""), version, "hsm");
        assert_eq!(of(&body, VERSION).unwrap().expose(), [7; 32]);
        assert!(of(&body, OTHER).is_err());
        for length in 0..body.len() {
            assert!(of(&body[..length], VERSION).is_err(), "{length}");
        }
        let short = json!({"kid": kid(VERSION), "value": URL_SAFE_NO_PAD.encode([7; 31])});
        assert!(of(&bytes(&short), VERSION).is_err());
    }

    #[test]
    fn the_status_decides() {
        let about = |status, unwrapping| {
            let body = br#"{"error":{"code":"BadParameter","message":"so\nit is"}}"#;
            let name = KeyUri::AzureKms(key(""));
            Refusal::parse(status, body).about(&name, "https://hsm", unwrapping)
        };
        assert!(matches!(about(400, true), Error::Unwrap { .. }));
        assert!(matches!(about(400, false), Error::Protocol { .. }));
        assert!(matches!(about(401, true), Error::Login { .. }));
        assert!(matches!(about(403, true), Error::Denied { .. }));
        assert!(matches!(about(404, true), Error::NotFound { .. }));
        for status in [408, 409, 429, 500, 503] {
            assert!(about(status, true).is_transient(), "{status}");
        }
        assert!(about(403, true).to_string().ends_with("403 BadParameter so it is"));
    }
}
