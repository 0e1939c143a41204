//! Layers of container images as ocicrypt encrypts them, for the key provider of Confidential
//! Containers (`attestation-agent`).
//!
//! A layer's descriptor carries two kinds of annotations, each base64 of JSON (containers/ocicrypt,
//! `spec` and `blockcipher`; confidential-containers/guest-components,
//! `confidential-data-hub/hub/src/image/annotation_packet`):
//!
//! | annotation | content |
//! |---|---|
//! | `…enc.pubopts` | `{"cipher", "cipheroptions", "hmac"}`: AES-256-CTR, HMAC-SHA-256 of the ciphertext |
//! | `…enc.keys.provider.<name>` | packets, comma-separated: `{"kid", "wrapped_data", "iv", "wrap_type"}` |
//!
//! What a packet wraps are the private options, `{"symkey", "cipheroptions": {"nonce"}, "digest"}`.
//! They alone decide: the cipher's HMAC does not cover the nonce, so the one that upstream would
//! take from the public options is refused if it is another; and the digest must hold as well as
//! the HMAC. Packets wrapped without authentication (`A256CTR`) are refused, since whoever serves
//! them could write some of what is in them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secret::Secret;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::Error;
use crate::json::{self, excerpt, malformed};
use crate::key::KEY_BYTES;
use crate::name::{KeyUri, ResourceUri};

/// The annotation with the public options.
const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";
/// What annotations with wrapped keys begin with; the rest says by whom they are wrapped.
const KEYS: &str = "org.opencontainers.image.enc.keys.";
/// The one that is read.
const PROVIDER: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";
const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";
/// The longest annotation that is read, in bytes: packets have some 500.
const ANNOTATION_BYTES_MAX: usize = 64 * 1024;
/// Most packets of a layer, one for each key.
const PACKETS_MAX: usize = 64;
const NONCE_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;
const WHAT: &str = "encrypted layer";

/// How a layer is encrypted, as its annotations say.
#[derive(Debug, Clone)]
pub struct Encryption {
    packets: Vec<Packet>,
    nonce: Option<[u8; NONCE_BYTES]>,
    hmac: [u8; 32],
}

/// The layer's key, wrapped for one other.
#[derive(Debug, Clone)]
struct Packet {
    kid: ResourceUri,
    iv: [u8; 12],
    wrapped: Vec<u8>,
}

impl Encryption {
    /// Reads a descriptor's annotations.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for other key providers, ciphers and ways to wrap, [`Error::Malformed`].
    pub fn parse<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let (mut public, mut packets, mut others) = (None, None, Vec::new());
        for (name, value) in annotations {
            match name {
                _ if value.len() > ANNOTATION_BYTES_MAX => {
                    return Err(malformed(WHAT, "an annotation is too long"));
                }
                PUBLIC => public = Some(value),
                PROVIDER => packets = Some(value),
                _ => others.extend(name.strip_prefix(KEYS)),
            }
        }
        let Some(packets) = packets else {
            let found = match others.is_empty() {
                true => "no wrapped key".to_owned(),
                false => excerpt(&others.join(", ")),
            };
            return Err(Error::Unsupported { what: "key provider of an encrypted layer", found });
        };
        let public = public.ok_or_else(|| malformed(WHAT, "it has no public options"))?;
        let public = object(&decode(public)?)?;
        match text(&public, "cipher")? {
            CIPHER => {}
            other => {
                let found = excerpt(other);
                return Err(Error::Unsupported { what: "cipher of an encrypted layer", found });
            }
        }
        let packets: Vec<_> = packets.split(',').collect();
        if packets.len() > PACKETS_MAX {
            return Err(malformed(WHAT, "it has too many packets"));
        }
        Ok(Self {
            packets: packets.into_iter().map(Packet::parse).collect::<Result<_, _>>()?,
            nonce: nonce(&public)?,
            hmac: array(&decode(text(&public, "hmac")?)?, "`hmac`")?,
        })
    }

    /// The keys that any of them opens the layer.
    pub fn keys(&self) -> impl Iterator<Item = KeyUri> {
        self.packets.iter().map(|packet| KeyUri::Kbs(packet.kid.clone()))
    }

    /// Unwraps the layer's key with `kek`, which is `key`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecipient`] if no packet is for it, [`Error::Unwrap`] if none opens,
    /// [`Error::Malformed`].
    pub fn unwrap(&self, key: &KeyUri, kek: &[u8]) -> Result<LayerKey, Error> {
        let fitting =
            || self.packets.iter().filter(|packet| KeyUri::Kbs(packet.kid.clone()) == *key);
        if fitting().next().is_none() {
            return Err(Error::NoRecipient { resource: key.clone() });
        }
        let options = fitting().find_map(|packet| packet.open(kek)).ok_or(Error::Unwrap)?;
        let options = Private::parse(&options)?;
        if self.nonce.is_some_and(|nonce| nonce != options.nonce) {
            return Err(malformed(WHAT, "its public nonce is not the one that was wrapped"));
        }
        Ok(LayerKey { options, hmac: self.hmac })
    }
}

impl Packet {
    /// The second version of packets is the first one with more members.
    fn parse(packet: &str) -> Result<Self, Error> {
        let packet = object(&decode(packet)?)?;
        let unsupported =
            |what, found: &str| Err(Error::Unsupported { what, found: excerpt(found) });
        for (name, what, known) in [
            ("version", "packet version of an encrypted layer", "0.1.0"),
            ("provider", "key holder of an encrypted layer", "kbs"),
            ("wrap_type", "way to wrap an encrypted layer's key", "A256GCM"),
        ] {
            match packet.get(name).map(|found| found.as_str().unwrap_or_default()) {
                None if name != "wrap_type" => {}
                Some(found) if found == known => {}
                found => return unsupported(what, found.unwrap_or_default()),
            }
        }
        Ok(Self {
            kid: resource(text(&packet, "kid")?)?,
            iv: array(&decode(text(&packet, "iv")?)?, "a packet's `iv`")?,
            wrapped: decode(text(&packet, "wrapped_data")?)?.to_vec(),
        })
    }

    fn open(&self, kek: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, kek).ok()?);
        let mut options = Zeroizing::new(self.wrapped.clone());
        let nonce = Nonce::assume_unique_for_key(self.iv);
        let opened = key.open_in_place(nonce, Aad::empty(), &mut options).ok()?.len();
        options.truncate(opened);
        Some(options)
    }
}

/// Upstream ignores the address in a key's name, as it asks the one broker that it knows.
fn resource(kid: &str) -> Result<ResourceUri, Error> {
    match kid.strip_prefix("kbs://").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => ResourceUri::from_path(path),
        None => ResourceUri::parse(kid),
    }
}

/// What is wrapped.
#[derive(Debug)]
struct Private {
    key: Secret,
    nonce: [u8; NONCE_BYTES],
    digest: [u8; 32],
}

impl Private {
    fn parse(options: &[u8]) -> Result<Self, Error> {
        let mut options = object(options)?;
        // Taken out first so that it is wiped whatever else is wrong.
        let key = match options.remove("symkey") {
            Some(Value::String(key)) => decode(&Zeroizing::new(key))?,
            _ => return Err(malformed(WHAT, "its options hold no `symkey`")),
        };
        if key.len() != KEY_BYTES {
            return Err(malformed(WHAT, "its key does not have 32 bytes"));
        }
        let digest = text(&options, "digest")?.strip_prefix("sha256:");
        let digest = digest.and_then(|digest| hex::decode(digest).ok());
        Ok(Self {
            key: Secret::copy(&key).expect("32 bytes"),
            nonce: nonce(&options)?.ok_or_else(|| malformed(WHAT, "its options hold no nonce"))?,
            digest: digest
                .and_then(|digest| digest.try_into().ok())
                .ok_or_else(|| malformed(WHAT, "its options hold no SHA-256 of the content"))?,
        })
    }
}

/// The key of one layer, and what the layer must be.
#[derive(Debug)]
pub struct LayerKey {
    options: Private,
    hmac: [u8; 32],
}

impl LayerKey {
    /// Begins to decrypt the layer.
    pub fn opening(&self) -> Opening {
        let Private { key, nonce, digest } = &self.options;
        let unbound = UnboundCipherKey::new(&AES_256, key.expose()).expect("32 bytes");
        let context = DecryptionContext::Iv128(FixedLength::from(nonce));
        Opening {
            cipher: StreamingDecryptingKey::ctr(unbound, context).expect("AES-256 has CTR"),
            mac: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose())),
            plaintext: digest::Context::new(&digest::SHA256),
            hmac: self.hmac,
            digest: *digest,
        }
    }
}

/// A layer while it is decrypted. Nothing that comes out is authentic before [`Opening::finish`] has
/// said so.
pub struct Opening {
    cipher: StreamingDecryptingKey,
    mac: hmac::Context,
    plaintext: digest::Context,
    hmac: [u8; 32],
    digest: [u8; 32],
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").finish_non_exhaustive()
    }
}

impl Opening {
    /// How many bytes longer than the ciphertext the buffer for the plaintext must be.
    pub const ROOM_BYTES: usize = BLOCK_BYTES;

    /// The plaintext of the next bytes, as many as they are.
    pub fn update<'a>(&mut self, ciphertext: &[u8], plaintext: &'a mut [u8]) -> &'a [u8] {
        self.mac.update(ciphertext);
        let opened = self.cipher.update(ciphertext, plaintext).expect("the buffer has room");
        let length = opened.written().len();
        debug_assert_eq!(length, ciphertext.len(), "CTR mode holds nothing back");
        self.plaintext.update(&plaintext[..length]);
        &plaintext[..length]
    }

    /// Whether the layer is the one that was encrypted. `unpacked` is the SHA-256 of what it unpacks
    /// to: tools that compress and encrypt at once note the digest from before both.
    ///
    /// # Errors
    ///
    /// [`Error::LayerForged`].
    pub fn finish(self, unpacked: &[u8; 32]) -> Result<(), Error> {
        let Self { mac, plaintext, hmac, digest, .. } = self;
        let authentic =
            aws_lc_rs::constant_time::verify_slices_are_equal(mac.sign().as_ref(), &hmac).is_ok();
        let noted = plaintext.finish().as_ref() == digest || *unpacked == digest;
        if authentic && noted { Ok(()) } else { Err(Error::LayerForged) }
    }
}

/// Base64 with padding, as both upstreams write it. It may be of a key.
fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = STANDARD.decode(text).map_err(|_| malformed(WHAT, "something is not base64"))?;
    Ok(Zeroizing::new(bytes))
}

/// The parser's own message could quote a key.
fn object(json: &[u8]) -> Result<Map<String, Value>, Error> {
    match json::parse(json) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(malformed(WHAT, "something is no strict JSON object")),
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, Error> {
    let text = object.get(name).and_then(Value::as_str);
    text.ok_or_else(|| malformed(WHAT, format!("it has no `{name}`")))
}

fn array<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| malformed(WHAT, format!("{what} does not have {N} bytes")))
}

/// Of the cipher's options, the only one that there is.
fn nonce(options: &Map<String, Value>) -> Result<Option<[u8; NONCE_BYTES]>, Error> {
    match options.get("cipheroptions") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(cipher)) => match cipher.get("nonce") {
            None => Ok(None),
            Some(Value::String(nonce)) => array(&decode(nonce)?, "the nonce").map(Some),
            Some(_) => Err(malformed(WHAT, "its nonce is no text")),
        },
        Some(_) => Err(malformed(WHAT, "its `cipheroptions` are no object")),
    }
}
