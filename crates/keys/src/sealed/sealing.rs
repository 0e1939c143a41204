//! Sealing: what [`super::SealedSecret`] opens, in the form that upstream's tools read.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use seal::key::{Kek, Purpose};
use seal::name::ResourceUri;
use secret::Secret;
use serde::Serialize;
use serde_json::{Value, json};
use volumes::audience::{Annotations, Audience};
use zeroize::Zeroizing;

use super::{PREFIX, SealedSecret, Signer, TEXT_BYTES_MAX, point};
use crate::Error;
use crate::pem::pem;

/// What is sealed.
#[derive(Debug)]
pub enum Content<'a> {
    /// The resource is the secret.
    Vault(&'a ResourceUri),
    /// The secret travels in the text, encrypted with a fresh data key.
    Envelope {
        /// The name under which the key source releases `kek`.
        key: &'a ResourceUri,
        /// Wraps the data key.
        kek: &'a Kek,
        /// The secret.
        plaintext: &'a [u8],
    },
}

/// A private key that signs sealed secrets: ECDSA on P-256.
pub struct SigningKey {
    pair: EcdsaKeyPair,
}

impl SigningKey {
    /// A new one.
    pub fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        pair.map(|pair| Self { pair }).map_err(|_| unusable("no key could be made"))
    }

    /// Reads PEM (PKCS#8, or `EC PRIVATE KEY`) or a JWK with its private part.
    pub fn parse(text: &Secret) -> Result<Self, Error> {
        let bytes = text.expose();
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Self::from_jwk(bytes);
        }
        let der = PrivateKeyDer::from_pem_slice(bytes)
            .map_err(|_| unusable("neither a private key in PEM nor a JWK"))?;
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der())
            .map(|pair| Self { pair })
            .map_err(|_| unusable("not a private key of P-256"))
    }

    fn from_jwk(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(serde::Deserialize)]
        struct Private {
            d: String,
        }
        // The parser's words quote what is secret.
        let wrong = |_| unusable("not a JWK of P-256 with its private part");
        let public = point(bytes).ok_or_else(|| wrong(()))?;
        let private: Private = serde_json::from_slice(bytes).map_err(|_| wrong(()))?;
        let d = Zeroizing::new(private.d);
        let d = URL_SAFE_NO_PAD.decode(&*d).map(Zeroizing::new).map_err(|_| wrong(()))?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &d, &public)
            .map_err(|_| unusable("a JWK whose public part is another key's"))?;
        Ok(Self { pair })
    }

    /// The public key, as the key source should release it (RFC 7517).
    pub fn public_jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "use": "sig"})
    }

    /// The private key, PKCS#8 in PEM (RFC 7468).
    pub fn to_pem(&self) -> Result<Secret, Error> {
        let failed = || unusable("it cannot be written");
        let pkcs8 = self.pair.to_pkcs8v1().map_err(|_| failed())?;
        Secret::copy(pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes()).map_err(|_| failed())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

/// Seals `content` for `audience`, signed by `key`, whose public part the one who opens it finds under
/// the name `signer`.
pub fn seal(
    content: &Content<'_>,
    audience: &Audience,
    signer: &Signer,
    key: &SigningKey,
) -> Result<String, Error> {
    let annotations = Annotations { audience: audience.clone() };
    let payload = match content {
        Content::Vault(name) => json!({
            "version": "0.1.0", "type": "vault", "name": name.to_string(),
            "provider": "kbs", "provider_settings": {}, "annotations": annotations,
        }),
        Content::Envelope { key, kek, plaintext } => envelope(key, kek, plaintext, annotations)?,
    };
    let header = json!({"alg": "ES256", "kid": signer.to_string()});
    let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{payload}");
    let signature = key.pair.sign(&SystemRandom::new(), signed.as_bytes());
    let signature = signature.map_err(|_| unusable("it does not sign"))?;
    let text = format!("{PREFIX}{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::TooLarge { what: "the sealed secret".into(), limit: TEXT_BYTES_MAX });
    }
    // Nobody has seen it yet: what would not open is refused here.
    SealedSecret::parse(text.as_bytes())?.verify(key.public_jwk().to_string().as_bytes())?;
    Ok(text)
}

fn envelope(
    name: &ResourceUri,
    kek: &Kek,
    plaintext: &[u8],
    annotations: impl Serialize,
) -> Result<Value, Error> {
    let failed = || Error::Usage("it cannot be encrypted".into());
    kek.permits(Purpose::Secret).map_err(Error::KeyUnusable)?;
    let key = Secret::random_key();
    let mut wrapped = [0; 40];
    let wrapping = AesKek::new(&AES_256, kek.expose()).map_err(|_| failed())?;
    wrapping.wrap(key.expose(), &mut wrapped).map_err(|_| failed())?;
    let mut iv = [0; 12];
    rand::fill(&mut iv).map_err(|_| failed())?;
    let cipher = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| failed())?;
    // In place, with room for the tag: no copy of the plaintext is left behind.
    let mut data = Zeroizing::new(Vec::with_capacity(plaintext.len() + 16));
    data.extend_from_slice(plaintext);
    LessSafeKey::new(cipher)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut *data)
        .map_err(|_| failed())?;
    Ok(json!({
        "version": "0.1.0", "type": "envelope", "key_id": name.to_string(),
        "encrypted_key": STANDARD.encode(wrapped), "encrypted_data": STANDARD.encode(&*data),
        "wrap_type": "A256GCM", "iv": STANDARD.encode(iv),
        "provider": "kbs", "provider_settings": {}, "annotations": annotations,
    }))
}

fn unusable(why: &str) -> Error {
    Error::Usage(format!("the signing key: {why}"))
}
