//! The data key of one sealing, and the key that wraps it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use secret::Secret;
use zeroize::{Zeroize, Zeroizing};

use crate::Error;
use crate::jwe::KeyWrap;
use crate::name::{Digest, KeyUri, ModelName};
use crate::pin::{Pin, Pins};

mod jwk;
mod purpose;

pub(crate) use jwk::parse_pins;
pub use purpose::Purpose;

/// Bytes of a data key and of a key encryption key.
pub const KEY_BYTES: usize = 32;

/// The data encryption key of one sealing: 32 bytes, never stored unwrapped.
#[derive(Debug)]
pub struct Dek(Secret);

impl Dek {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Secret::random_key())
    }

    /// Exactly 32 bytes.
    pub fn from_secret(secret: Secret) -> Result<Self, Error> {
        if secret.len() != KEY_BYTES {
            return Err(Error::KeyUnusable("a data key has 32 bytes"));
        }
        Ok(Self(secret))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// The key as a cleartext Tink keyset (JSON), so that any Tink can open a file with its
    /// associated data.
    pub fn to_tink_keyset(&self) -> Secret {
        // AesGcmHkdfStreamingKey: version 0 is left out, params (2) = { ciphertext_segment_size (1)
        // 1 MiB, derived_key_size (2) 32, hkdf_hash_type (3) SHA256 }, key_value (3) = 32 bytes.
        const PREFIX: [u8; 12] = [0x12, 8, 8, 0x80, 0x80, 0x40, 0x10, 32, 0x18, 3, 0x1a, 32];
        let mut key = Zeroizing::new([0; PREFIX.len() + KEY_BYTES]);
        key[..PREFIX.len()].copy_from_slice(&PREFIX);
        key[PREFIX.len()..].copy_from_slice(self.expose());
        let mut value = Zeroizing::new(String::with_capacity(64));
        STANDARD.encode_string(*key, &mut value);
        let mut json = Zeroizing::new(String::with_capacity(512));
        for part in [
            r#"{"primaryKeyId":1,"key":[{"keyData":{"typeUrl":"type.googleapis.com/"#,
            r#"google.crypto.tink.AesGcmHkdfStreamingKey","value":""#,
            &value,
            r#"","keyMaterialType":"SYMMETRIC"},"status":"ENABLED","keyId":1,"#,
            r#""outputPrefixType":"RAW"}]}"#,
        ] {
            json.push_str(part);
        }
        Secret::copy(json.as_bytes()).expect("some 250 bytes")
    }
}

/// A key encryption key as released by a key source: 32 bytes, and what it may open.
#[derive(Debug)]
pub struct Kek {
    key: Secret,
    /// The JWK's `alg`, one of [`jwk::ALGS`].
    alg: Option<&'static str>,
    resource: Option<KeyUri>,
    pins: Option<Pins>,
    purposes: Option<Vec<Purpose>>,
}

impl Kek {
    /// A fresh one for `resource`, without pins.
    pub fn random(resource: impl Into<KeyUri>) -> Self {
        Self { resource: Some(resource.into()), ..Self::bare(Secret::random_key()) }
    }

    /// The key of one recipient, as its remote key unwrapped it: 32 bytes, without pins.
    pub fn unwrapped(key: Secret) -> Result<Self, Error> {
        if key.len() != KEY_BYTES {
            return Err(Error::KeyUnusable("what was unwrapped is not 32 bytes"));
        }
        Ok(Self::bare(key))
    }

    /// Reads what a key source released: a JWK, 32 raw bytes, or their base64/base64url text. Never
    /// guesses beyond that.
    pub fn parse(released: &Secret) -> Result<Self, Error> {
        let bytes = released.expose();
        if bytes.is_empty() {
            return Err(Error::KeyUnusable("empty"));
        }
        if let Ok(mut raw) = <[u8; KEY_BYTES]>::try_from(bytes) {
            return Ok(Self::bare(take_key(&mut raw)));
        }
        if bytes.trim_ascii_start().starts_with(b"{") {
            return jwk::parse(bytes);
        }
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        [STANDARD, URL_SAFE, STANDARD_NO_PAD, URL_SAFE_NO_PAD]
            .iter()
            .find_map(|engine| decode_key(engine, text))
            .map(Self::bare)
            .ok_or(Error::KeyUnusable("neither a JWK nor 32 bytes nor their base64"))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.key.expose()
    }

    /// Which models and generations it may open; `None` for keys that say nothing of it.
    pub fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }

    /// Replaces the pins.
    pub fn with_pins(self, pins: Pins) -> Self {
        Self { pins: Some(pins), ..self }
    }

    /// What it may be used for; `None` for keys that say nothing of it: anything.
    pub fn purposes(&self) -> Option<&[Purpose]> {
        self.purposes.as_deref()
    }

    /// Replaces the purposes; none at all are left out, which means any.
    pub fn with_purposes(self, purposes: Vec<Purpose>) -> Self {
        Self { purposes: (!purposes.is_empty()).then_some(purposes), ..self }
    }

    /// Whether the key may be used so: its JWK names the purpose, or none.
    ///
    /// # Errors
    ///
    /// [`Error::KeyUnusable`].
    pub fn permits(&self, purpose: Purpose) -> Result<(), Error> {
        purpose.within(self.purposes.as_deref())
    }

    /// The same key, which opens only newer generations of `name`: from `minimum` on, and of `digests`
    /// if the key names any. Nothing that it refused before is opened after that.
    ///
    /// # Errors
    ///
    /// [`Error::ModelNotAllowed`] for a model that the key does not list, [`Error::Stale`] if its minimum
    /// is higher already, [`Error::KeyUnusable`] if it names digests and no new ones are given.
    pub fn raised(
        self,
        name: &ModelName,
        minimum: u64,
        digests: Vec<Digest>,
    ) -> Result<Self, Error> {
        let not_listed = || Error::ModelNotAllowed { name: name.to_string() };
        let mut pins = self.pins.clone().ok_or_else(not_listed)?;
        let pin = pins.get_mut(name).ok_or_else(not_listed)?;
        if let Some(held) = pin.min_generation.filter(|held| *held > minimum) {
            return Err(Error::Stale { name: name.to_string(), found: minimum, minimum: held });
        }
        let is_raised = pin.min_generation.is_some_and(|held| held < minimum);
        let narrows = pin.digests.is_empty() || digests.iter().all(|new| pin.digests.contains(new));
        if !is_raised && !narrows {
            return Err(Error::KeyUnusable(
                "other manifests than it names now go with a higher generation only",
            ));
        }
        if !pin.digests.is_empty() && digests.is_empty() {
            return Err(Error::KeyUnusable(
                "it names the manifests that it opens: name the new one",
            ));
        }
        *pin = Pin { min_generation: Some(minimum), digests };
        Ok(self.with_pins(pins))
    }

    /// The JWK's `kid`, if it is a key's name.
    pub fn resource(&self) -> Option<&KeyUri> {
        self.resource.as_ref()
    }

    /// The JWK, compact JSON.
    ///
    /// # Errors
    ///
    /// If the pins make it longer than [`Secret::BYTES_MAX`]: several hundred models.
    pub fn to_jwk(&self) -> Result<Secret, Error> {
        jwk::to_json(self)
    }

    /// How it wraps a data key: `A256KW` unless its JWK asks for `A256GCMKW`.
    pub fn wrap(&self) -> KeyWrap {
        match self.alg {
            Some("A256GCMKW") => KeyWrap::A256GcmKw,
            _ => KeyWrap::A256Kw,
        }
    }

    fn bare(key: Secret) -> Self {
        Self { key, alg: None, resource: None, pins: None, purposes: None }
    }
}

/// 32 bytes, canonical in `engine`'s alphabet and padding.
fn decode_key(engine: &impl Engine, text: &[u8]) -> Option<Secret> {
    // As long as the decoder's estimate for 44 characters.
    let mut bytes = Zeroizing::new([0; 36]);
    if text.len() > 44 || engine.decode_slice(text, &mut *bytes).ok()? != KEY_BYTES {
        return None;
    }
    Some(take_key(&mut bytes[..KEY_BYTES]))
}

fn take_key(bytes: &mut [u8]) -> Secret {
    let key = Secret::copy(bytes).expect("32 bytes");
    bytes.zeroize();
    key
}
