//! [`Sealer`]: sealed secrets as upstream's tools make them, written from the format's description and
//! not from our opener's code.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::key_wrap::{AES_256 as AES_256_KW, AesKek, KeyWrap};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Somebody who seals and signs.
#[derive(Debug)]
pub struct Sealer {
    pair: EcdsaKeyPair,
    kid: String,
}

impl Sealer {
    /// With a new key, which is named by `kid`.
    pub fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self { pair: pair.expect("a P-256 key"), kid: kid.to_owned() }
    }

    /// The public key, as the key source should release it.
    pub fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    }

    /// A vault secret: the resource `name` is the secret.
    pub fn vault(&self, name: &str) -> String {
        self.sign(&Self::vault_payload(name))
    }

    /// Its payload.
    pub fn vault_payload(name: &str) -> Value {
        json!({
            "version": "0.1.0", "type": "vault", "name": name,
            "provider": "kbs", "provider_settings": {}, "annotations": {},
        })
    }

    /// An envelope by `A256GCM` or `A256CTR`, whose data key is wrapped with `kek`, which the key
    /// source has as `key_id`.
    pub fn envelope(&self, key_id: &str, kek: &[u8; 32], cipher: &str, secret: &[u8]) -> String {
        self.sign(&Self::envelope_payload(key_id, kek, cipher, secret))
    }

    /// Its payload.
    pub fn envelope_payload(key_id: &str, kek: &[u8; 32], cipher: &str, secret: &[u8]) -> Value {
        let key = [0x5e; 32];
        let mut wrapped = [0; 40];
        let wrapping = AesKek::new(&AES_256_KW, kek).expect("32 bytes");
        wrapping.wrap(&key, &mut wrapped).expect("40 bytes");
        let mut data = secret.to_vec();
        let iv = match cipher {
            "A256GCM" => {
                let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes"));
                let nonce = Nonce::assume_unique_for_key([7; 12]);
                key.seal_in_place_append_tag(nonce, Aad::empty(), &mut data).expect("it is short");
                vec![7; 12]
            }
            _ => {
                let key = UnboundCipherKey::new(&AES_256, &key).expect("32 bytes");
                let context = EncryptionContext::Iv128(FixedLength::from([7; 16]));
                let key = EncryptingKey::ctr(key).expect("AES has CTR");
                key.less_safe_encrypt(&mut data, context).expect("it is short");
                vec![7; 16]
            }
        };
        json!({
            "version": "0.1.0", "type": "envelope", "key_id": key_id,
            "encrypted_key": STANDARD.encode(wrapped), "encrypted_data": STANDARD.encode(data),
            "wrap_type": cipher, "iv": STANDARD.encode(iv),
            "provider": "kbs", "provider_settings": {}, "annotations": {},
        })
    }

    /// Signs any payload.
    pub fn sign(&self, payload: &Value) -> String {
        self.sign_with(&json!({"alg": "ES256", "kid": self.kid}), payload)
    }

    /// Signs any payload under any header.
    pub fn sign_with(&self, header: &Value, payload: &Value) -> String {
        let [header, payload] =
            [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("it signs"));
        format!("sealed.{signed}.{signature}")
    }
}
