//! [`Verified`]: a payload whose signature was verified, and what it takes to open it.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::key_wrap::{AES_256 as AES_256_KW, AesKek, KeyWrap};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use seal::key::{Kek, Purpose};
use seal::name::ResourceUri;
use secret::Secret;
use serde::Deserialize;
use serde::de::IgnoredAny;
use volumes::audience::{Annotations, Audience, Place};
use zeroize::Zeroizing;

use super::{malformed, object};
use crate::Error;
use crate::error::printable;

/// The one version of the format.
const VERSION: &str = "0.1.0";
/// The key source, as providers are called.
const PROVIDER: &str = "kbs";
/// Bytes of a data key.
const KEY_BYTES: usize = 32;
/// Bytes of a data key, wrapped.
const WRAPPED_BYTES: usize = KEY_BYTES + 8;

/// A secret whose signature was verified. It opens where it is [admitted](Verified::admit).
#[derive(Debug)]
pub struct Verified {
    resource: ResourceUri,
    content: Content,
    audience: Audience,
}

/// A secret that may be opened here. Fetch [`Admitted::resource`], then [`Admitted::open`] it.
#[derive(Debug)]
pub struct Admitted {
    resource: ResourceUri,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The resource is the secret.
    Vault,
    /// The resource is a key that unwraps the key of the secret.
    Envelope { wrapped_key: Vec<u8>, data: Vec<u8>, cipher: Cipher },
}

#[derive(Debug)]
enum Cipher {
    Gcm([u8; 12]),
    Ctr([u8; 16]),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: String,
    #[serde(rename = "type")]
    kind: String,
    provider: String,
    provider_settings: BTreeMap<String, IgnoredAny>,
    annotations: Annotations,
    name: Option<String>,
    key_id: Option<String>,
    encrypted_key: Option<String>,
    encrypted_data: Option<String>,
    wrap_type: Option<String>,
    iv: Option<String>,
}

impl Verified {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let wire: Wire = object(payload)?;
        if wire.version != VERSION {
            return Err(malformed(format!("version {}, not {VERSION}", printable(&wire.version))));
        }
        if wire.provider != PROVIDER {
            let provider = printable(&wire.provider);
            return Err(malformed(format!("provider {provider}: only kbs is known here")));
        }
        if !wire.provider_settings.is_empty() {
            return Err(malformed("settings, of which this version knows none"));
        }
        let audience = wire.annotations.audience;
        let Wire { kind, name, key_id, encrypted_key, encrypted_data, wrap_type, iv, .. } = wire;
        match (&kind[..], name, key_id, encrypted_key, encrypted_data, wrap_type, iv) {
            ("vault", Some(name), None, None, None, None, None) => {
                Ok(Self { resource: resource(&name)?, content: Content::Vault, audience })
            }
            ("envelope", None, Some(key), Some(wrapped), Some(data), Some(cipher), Some(iv)) => {
                let content = Content::Envelope {
                    wrapped_key: decode(&wrapped)?,
                    data: decode(&data)?,
                    cipher: Cipher::parse(&cipher, &decode(&iv)?)?,
                };
                Ok(Self { resource: resource(&key)?, content, audience })
            }
            _ => Err(malformed("neither a vault's nor an envelope's members")),
        }
    }

    /// What its signer says of it.
    pub fn claims(self) -> Claims {
        let Self { resource, content, audience } = self;
        let (kind, cipher) = match content {
            Content::Vault => ("vault", None),
            Content::Envelope { cipher: Cipher::Gcm(_), .. } => ("envelope", Some("A256GCM")),
            Content::Envelope { cipher: Cipher::Ctr(_), .. } => ("envelope", Some("A256CTR")),
        };
        Claims { kind, resource, cipher, audience }
    }

    /// Whom it is for.
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Whether it is for `place`.
    pub fn admit(self, place: &Place<'_>) -> Result<Admitted, Error> {
        self.audience.admits(place).map_err(Error::Audience)?;
        Ok(Admitted { resource: self.resource, content: self.content })
    }
}

/// What a sealed secret says of itself.
#[derive(Debug)]
pub struct Claims {
    /// `vault` or `envelope`.
    pub kind: &'static str,
    /// The secret itself, or the key that its data key is wrapped with.
    pub resource: ResourceUri,
    /// An envelope's, as JOSE calls it.
    pub cipher: Option<&'static str>,
    /// Whom it is for.
    pub audience: Audience,
}

impl Admitted {
    /// What has to be fetched: the secret itself, or the key that its data key is wrapped with.
    pub fn resource(&self) -> &ResourceUri {
        &self.resource
    }

    /// What was sealed, given the bytes of [`Admitted::resource`].
    pub fn open(self, released: &Secret) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Content::Envelope { wrapped_key, mut data, cipher } = self.content else {
            return Ok(Zeroizing::new(released.expose().to_vec()));
        };
        let kek = Kek::parse(released).map_err(|error| malformed(format!("its key: {error}")))?;
        kek.permits(Purpose::Secret).map_err(Error::KeyUnusable)?;
        let unwrapped = || malformed("its data key is wrapped with another key, or was changed");
        let wrapped: [u8; WRAPPED_BYTES] = wrapped_key.try_into().map_err(|_| unwrapped())?;
        let mut key = Zeroizing::new([0; WRAPPED_BYTES]);
        let kek = AesKek::new(&AES_256_KW, kek.expose()).map_err(|_| unwrapped())?;
        let key = kek.unwrap(&wrapped, &mut key[..]).map_err(|_| unwrapped())?;
        let length = cipher.decrypt(key, &mut data).ok_or_else(|| malformed("it was changed"))?;
        data.truncate(length);
        Ok(Zeroizing::new(data))
    }
}

impl Cipher {
    fn parse(name: &str, iv: &[u8]) -> Result<Self, Error> {
        let length = |_| malformed("an iv of another length than its cipher's");
        match name {
            "A256GCM" => iv.try_into().map(Self::Gcm).map_err(length),
            "A256CTR" => iv.try_into().map(Self::Ctr).map_err(length),
            _ => Err(malformed("a wrap_type that is neither A256GCM nor A256CTR")),
        }
    }

    /// Decrypts in place; how many bytes the plaintext has. The tag of GCM is at the end of `data`.
    /// CTR has none: the signature is over the ciphertext.
    fn decrypt(&self, key: &[u8], data: &mut [u8]) -> Option<usize> {
        match *self {
            Self::Gcm(nonce) => {
                let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::empty(), data).ok().map(|plaintext| plaintext.len())
            }
            Self::Ctr(iv) => {
                let key = DecryptingKey::ctr(UnboundCipherKey::new(&AES_256, key).ok()?).ok()?;
                let context = DecryptionContext::Iv128(FixedLength::from(iv));
                key.decrypt(data, context).ok().map(|plaintext| plaintext.len())
            }
        }
    }
}

fn resource(name: &str) -> Result<ResourceUri, Error> {
    ResourceUri::parse(name).map_err(|error| malformed(error.to_string()))
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(text).map_err(|_| malformed("a member that is not base64"))
}
