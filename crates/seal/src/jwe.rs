//! RFC 7516 (JWE), as far as recipients, key brokers and upstream's encrypted files need it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::Error;
use crate::json::{self, excerpt, malformed, refused};
use crate::name::random;

mod aes;
mod recipient;
mod tee;

pub use tee::{TeeKeyKind, TeeKeyPair, TeePublicKey};

const WHAT: &str = "JWE";
/// The one content cipher that we write.
const A256GCM: &str = "A256GCM";

/// A parsed JWE in compact, flattened or (one-recipient) general form. `protected` is kept as
/// received, since it is the associated data.
#[derive(Debug)]
pub struct Jwe {
    protected: String,
    header: Header,
    encrypted_key: Vec<u8>,
    aad: Option<String>,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

/// The flattened JSON form, in the order of RFC 7516 §7.2.2.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flattened {
    protected: String,
    encrypted_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    aad: Option<String>,
    iv: String,
    ciphertext: String,
    tag: String,
}

/// The protected header. Its members are written in this order.
#[derive(Debug, Default, Serialize)]
struct Header {
    alg: String,
    enc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epk: Option<tee::EcPublicKey>,
}

impl Jwe {
    /// Largest token read, in bytes: keys and small resources. Upstream's model files have their own
    /// limit.
    pub const BYTES_MAX: usize = 256 * 1024;

    /// Parses either serialisation, of no more than [`Jwe::BYTES_MAX`]. Refuses `zip`, `crit`,
    /// duplicate members, non-canonical base64url, and headers that nothing authenticates
    /// (`unprotected`, `header`).
    pub fn parse(token: &[u8]) -> Result<Self, Error> {
        Self::parse_up_to(token, Self::BYTES_MAX)
    }

    /// As [`Jwe::parse`] with a limit of the caller's. Takes three quarters of the token's size once
    /// more for itself, and [`Jwe::decrypt`] as much again.
    pub fn parse_up_to(token: &[u8], bytes_max: usize) -> Result<Self, Error> {
        if token.len() > bytes_max {
            let (found, limit) = (token.len() as u64, bytes_max as u64);
            return Err(Error::Limit { what: WHAT, found, limit });
        }
        let token = token.trim_ascii();
        if token.starts_with(b"{") {
            let tree = json::parse(token).map_err(|error| refused(WHAT, &error))?;
            return Self::from_flattened(&flatten(tree)?);
        }
        let text = std::str::from_utf8(token).map_err(|_| malformed(WHAT, "not text"))?;
        let parts: Vec<&str> = text.splitn(6, '.').collect();
        let parts = parts.try_into().map_err(|_| malformed(WHAT, "neither JSON nor five parts"))?;
        Self::from_parts(parts, None)
    }

    /// The protected header's `kid`.
    pub fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Opens with a symmetric key: `dir`, `A128KW|A192KW|A256KW`,
    /// `A128GCMKW|A192GCMKW|A256GCMKW` × `A128GCM|A192GCM|A256GCM`; other algorithms are
    /// [`Error::Unsupported`]. `aad` is the expected content of the `aad` member (`None`: the
    /// member must be absent).
    pub fn decrypt(&self, key: &[u8], aad: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        if self.aad != aad.map(encode) {
            return Err(malformed(WHAT, "its `aad` is not the expected one"));
        }
        let alg = self.header.alg.as_str();
        let key_bytes = match alg {
            "dir" => key.len(),
            "A128KW" | "A128GCMKW" => 16,
            "A192KW" | "A192GCMKW" => 24,
            "A256KW" | "A256GCMKW" => 32,
            _ => return Err(Error::Unsupported { what: "JWE alg", found: excerpt(alg) }),
        };
        if key.len() != key_bytes {
            return Err(Error::KeyUnusable("its length does not fit the JWE's alg"));
        }
        let cek = if alg == "dir" {
            if !self.encrypted_key.is_empty() {
                return Err(malformed(WHAT, "an encrypted key where `dir` has none"));
            }
            Zeroizing::new(key.to_vec())
        } else if alg.ends_with("GCMKW") {
            let decode_member = |member: &Option<String>| {
                member.as_deref().map_or(Err(malformed(WHAT, "no `iv` or no `tag`")), decode)
            };
            let (iv, tag) = (decode_member(&self.header.iv)?, decode_member(&self.header.tag)?);
            aes::gcm_open(key, &iv, b"", &self.encrypted_key, &tag)?
        } else {
            aes::kw_unwrap(key, &self.encrypted_key)?
        };
        self.open_content(&cek)
    }

    pub(crate) fn from_flattened(token: &Flattened) -> Result<Self, Error> {
        let Flattened { protected, encrypted_key, aad, iv, ciphertext, tag } = token;
        Self::from_parts([protected, encrypted_key, iv, ciphertext, tag], aad.as_deref())
    }

    /// From the parts of a compact token, in its order.
    fn from_parts(parts: [&str; 5], aad: Option<&str>) -> Result<Self, Error> {
        let [protected, encrypted_key, iv, ciphertext, tag] = parts;
        let header =
            json::parse(&decode(protected)?).map_err(|error| refused("JWE header", &error))?;
        let Value::Object(header) = header else {
            return Err(malformed("JWE header", "not an object"));
        };
        Ok(Self {
            protected: protected.to_owned(),
            header: Header::read(&header)?,
            encrypted_key: decode(encrypted_key)?,
            aad: aad.map(str::to_owned),
            iv: decode(iv)?,
            ciphertext: decode(ciphertext)?,
            tag: decode(tag)?,
        })
    }

    fn open_content(&self, cek: &[u8]) -> Result<Vec<u8>, Error> {
        let key_bytes = match self.header.enc.as_str() {
            "A128GCM" => 16,
            "A192GCM" => 24,
            A256GCM => 32,
            enc => return Err(Error::Unsupported { what: "JWE enc", found: excerpt(enc) }),
        };
        if cek.len() != key_bytes {
            return Err(Error::Unwrap);
        }
        let aad = associated_data(&self.protected, self.aad.as_deref());
        let mut text = aes::gcm_open(cek, &self.iv, &aad, &self.ciphertext, &self.tag)?;
        Ok(std::mem::take(&mut *text))
    }
}

/// How a data key is wrapped under a 32-byte key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyWrap {
    /// RFC 3394.
    #[default]
    A256Kw,
    /// AES-GCM with a random 96-bit IV.
    A256GcmKw,
}

/// A flattened JWE over `plaintext` under `key`, with `kid` in the protected header and `aad` as its
/// associated data.
pub fn encrypt(
    plaintext: &[u8],
    key: &[u8],
    wrap: KeyWrap,
    kid: &str,
    aad: Option<&[u8]>,
) -> Result<Value, Error> {
    encrypt_flattened(plaintext, key, wrap, kid, aad).map(|jwe| jwe.to_value())
}

pub(crate) fn encrypt_flattened(
    plaintext: &[u8],
    key: &[u8],
    wrap: KeyWrap,
    kid: &str,
    aad: Option<&[u8]>,
) -> Result<Flattened, Error> {
    if key.len() != 32 {
        return Err(Error::KeyUnusable("a wrapping key has 32 bytes"));
    }
    let cek = Zeroizing::new(random::<32>());
    let mut header = Header { enc: A256GCM.into(), kid: Some(kid.into()), ..Header::default() };
    let encrypted_key = match wrap {
        KeyWrap::A256Kw => {
            header.alg = "A256KW".into();
            aes::kw_wrap(key, &*cek)?
        }
        KeyWrap::A256GcmKw => {
            header.alg = "A256GCMKW".into();
            let iv = random();
            let (wrapped, tag) = aes::gcm_seal(key, iv, b"", &*cek)?;
            header.iv = Some(encode(&iv));
            header.tag = Some(encode(&tag));
            wrapped
        }
    };
    seal_content(plaintext, &*cek, &header, &encrypted_key, aad)
}

/// The token, once its content key is wrapped.
fn seal_content(
    plaintext: &[u8],
    cek: &[u8],
    header: &Header,
    encrypted_key: &[u8],
    aad: Option<&[u8]>,
) -> Result<Flattened, Error> {
    let header = serde_json::to_vec(header).expect("strings into memory");
    let protected = encode(&header);
    let aad = aad.map(encode);
    let iv = random();
    let associated = associated_data(&protected, aad.as_deref());
    let (ciphertext, tag) = aes::gcm_seal(cek, iv, &associated, plaintext)?;
    Ok(Flattened {
        protected,
        encrypted_key: encode(encrypted_key),
        aad,
        iv: encode(&iv),
        ciphertext: encode(&ciphertext),
        tag: encode(&tag),
    })
}

impl Flattened {
    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("strings into memory")
    }
}

impl Header {
    fn read(members: &Map<String, Value>) -> Result<Self, Error> {
        // `crit` would demand extensions that we do not have; `zip` tells lengths, and bombs.
        for name in ["crit", "zip"] {
            if members.contains_key(name) {
                return Err(Error::Unsupported { what: "JWE header member", found: name.into() });
            }
        }
        let optional = |name| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(malformed("JWE header", format!("`{name}` is not a string"))),
        };
        let required =
            |name| optional(name)?.ok_or_else(|| malformed("JWE header", format!("no `{name}`")));
        Ok(Self {
            alg: required("alg")?,
            enc: required("enc")?,
            kid: optional("kid")?,
            iv: optional("iv")?,
            tag: optional("tag")?,
            apu: optional("apu")?,
            apv: optional("apv")?,
            epk: members.get("epk").map(tee::EcPublicKey::read).transpose()?,
        })
    }
}

/// The members of a flattened token, or of a general one with one recipient.
fn flatten(tree: Value) -> Result<Flattened, Error> {
    let Value::Object(mut token) = tree else { return Err(malformed(WHAT, "not an object")) };
    if let Some(recipients) = token.remove("recipients") {
        let Value::Array(mut recipients) = recipients else {
            return Err(malformed(WHAT, "`recipients` is not an array"));
        };
        let (Some(Value::Object(recipient)), true) = (recipients.pop(), recipients.is_empty())
        else {
            return Err(malformed(WHAT, "not exactly one recipient"));
        };
        for (name, value) in recipient {
            if token.insert(name, value).is_some() {
                return Err(malformed(WHAT, "a member given twice"));
            }
        }
    }
    // RFC 7516 lets a producer write an empty key either way.
    token.entry("encrypted_key").or_insert_with(|| "".into());
    if token.values().any(Value::is_null) {
        return Err(malformed(WHAT, "a member is null"));
    }
    serde_json::from_value(Value::Object(token)).map_err(|error| refused(WHAT, &error))
}

/// RFC 7516 §5.1, step 14.
fn associated_data(protected: &str, aad: Option<&str>) -> Vec<u8> {
    match aad {
        Some(aad) => format!("{protected}.{aad}").into_bytes(),
        None => protected.as_bytes().to_vec(),
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(WHAT, "not canonical base64url"))
}

#[cfg(test)]
mod tests;
