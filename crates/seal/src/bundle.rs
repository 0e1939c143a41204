//! `sealift.json`: parse, open, seal, rewrap.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use secret::Secret;

use crate::Error;
use crate::json::{excerpt, format_of, is_canonical, malformed, refused};
use crate::jwe::{self, Flattened, Jwe};
use crate::key::{Dek, Kek, Purpose};
use crate::manifest::dsse::Envelope;
use crate::manifest::statement::{self, FORMAT};
use crate::manifest::{FileEntry, Manifest};
use crate::name::{BundleId, BundlePath, Digest, KeyUri, ModelName};
use crate::pin::Demand;
use crate::segment::{FileKey, Header, associated_data};

/// The object's name below the bundle's prefix.
pub const MANIFEST_OBJECT: &str = "sealift.json";
/// Largest `sealift.json`.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// Most recipients.
pub const RECIPIENTS_MAX: usize = 16;
/// Longest key that a remote key wrapped, in bytes: AWS KMS returns at most 6144.
pub const WRAPPED_KEY_BYTES_MAX: usize = 6144;

/// A parsed `sealift.json`: well formed, limits kept, nothing verified.
#[derive(Debug)]
pub struct Bundle {
    recipients: Vec<Parsed>,
    envelope: Envelope,
    payload: Vec<u8>,
    claimed: Manifest,
}

#[derive(Debug)]
struct Parsed {
    key: KeyUri,
    wrapped_key: Option<Vec<u8>>,
    jwe: Jwe,
}

/// Whom a data key is wrapped for.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The key's name.
    pub key: &'a KeyUri,
    /// The key that wraps the data key: the named one, or a fresh one if the holder of that only
    /// [`unwraps`](KeyUri::unwraps).
    pub kek: &'a Kek,
    /// There: `kek`, as the named key wrapped it.
    pub wrapped_key: Option<&'a [u8]>,
}

impl<'a> Recipient<'a> {
    /// A recipient whose key is released.
    pub fn released(key: &'a KeyUri, kek: &'a Kek) -> Self {
        Self { key, kek, wrapped_key: None }
    }
}

/// As stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    recipients: Vec<StoredRecipient>,
    envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRecipient {
    kid: String,
    /// A `null` would be read as absence; the canonical spelling refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapped_key: Option<String>,
    jwe: Flattened,
}

impl Bundle {
    /// Strict: canonical base64, no unknown or duplicate members, every rule of the format that
    /// needs no key.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let document = Document::parse(json)?;
        let payload = document.envelope.payload()?;
        let claimed = statement::read(&payload)?;
        let recipients = document.recipients(&claimed.id)?;
        Ok(Self { recipients, envelope: document.envelope, payload, claimed })
    }

    /// What the manifest claims. For `inspect`, `verify` and mirrors; nothing secret may depend on
    /// it.
    pub fn claimed(&self) -> &Manifest {
        &self.claimed
    }

    /// SHA-256 of the DSSE payload: the digest that pins name; `rewrap` keeps it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// The keys that it says it is sealed for.
    pub fn recipients(&self) -> impl Iterator<Item = &KeyUri> {
        self.recipients.iter().map(|recipient| &recipient.key)
    }

    /// The key of the recipient `key`, as the key of that name wrapped it; `None` if that one is
    /// released and wraps the data key itself.
    pub fn wrapped_key(&self, key: &KeyUri) -> Result<Option<&[u8]>, Error> {
        self.recipient(key).map(|recipient| recipient.wrapped_key.as_deref())
    }

    /// Unwraps the data key with `kek` (for the recipient whose kid is `key`), verifies the manifest
    /// with it, checks freshness.
    pub fn open(self, key: &KeyUri, kek: &Kek, demand: &Demand) -> Result<Opened, Error> {
        kek.permits(Purpose::Open)?;
        let dek = self.unwrap(key, kek)?;
        let digest = self.digest();
        let manifest = self.claimed;
        // Its own name and generation are only as good as whoever sealed it.
        if !key.vouches() && demand.pin.digests.is_empty() {
            return Err(Error::Unvouched { resource: key.clone() });
        }
        demand.check(kek.pins(), &manifest.name, manifest.generation, &digest)?;
        Ok(Opened { manifest, digest, dek })
    }

    /// The same bundle with other recipients, as the bytes of a new `sealift.json`: needs one key
    /// that opens it, touches neither data nor manifest. Pins are not asked: an old bundle may be
    /// rewrapped, and stays old. A key that does not [vouch](KeyUri::vouches) is refused: what anybody
    /// may have sealed would come to be under keys that do.
    pub fn rewrap(
        &self,
        key: &KeyUri,
        kek: &Kek,
        recipients: &[Recipient<'_>],
    ) -> Result<Vec<u8>, Error> {
        kek.permits(Purpose::Open)?;
        if !key.vouches() {
            return Err(Error::Unvouched { resource: key.clone() });
        }
        let dek = self.unwrap(key, kek)?;
        Document::seal(&dek, &self.claimed.id, recipients, self.envelope.clone())
    }

    /// Whether `kek` unwraps the data key that authenticates the manifest. For whoever has just
    /// wrapped it: neither pins nor purposes are asked, and nothing is opened.
    pub fn check_wrapped(&self, key: &KeyUri, kek: &Kek) -> Result<(), Error> {
        self.unwrap(key, kek).map(drop)
    }

    /// The data key, proven to be the one that authenticated the manifest.
    fn unwrap(&self, key: &KeyUri, kek: &Kek) -> Result<Dek, Error> {
        let recipient = self.recipient(key)?;
        let aad = recipient_aad(&self.claimed.id);
        let mut bytes = Zeroizing::new(recipient.jwe.decrypt(kek.expose(), Some(&aad))?);
        let secret = Secret::take(&mut bytes).map_err(|_| Error::Unwrap)?;
        let dek = Dek::from_secret(secret).map_err(|_| Error::Unwrap)?;
        self.envelope.verify(&self.payload, &dek, &self.claimed.id)?;
        Ok(dek)
    }

    fn recipient(&self, key: &KeyUri) -> Result<&Parsed, Error> {
        self.recipients
            .iter()
            .find(|recipient| recipient.key == *key)
            .ok_or_else(|| Error::NoRecipient { resource: key.clone() })
    }
}

/// A bundle whose manifest was verified and is fresh: only [`Bundle::open`] makes one.
#[derive(Debug)]
pub struct Opened {
    manifest: Manifest,
    digest: Digest,
    dek: Dek,
}

impl Opened {
    /// The verified manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the DSSE payload.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The key of one of the manifest's files.
    pub fn file_key(&self, file: &FileEntry) -> FileKey {
        let aad = associated_data(&self.manifest.id, &file.path);
        FileKey::derive(&self.dek, &file.header, &aad)
    }

    /// The data key, for export as a Tink keyset.
    pub fn dek(&self) -> &Dek {
        &self.dek
    }
}

/// One sealing in progress: a fresh bundle id and data key.
#[derive(Debug)]
pub struct Sealing {
    manifest: Manifest,
    dek: Dek,
}

impl Sealing {
    /// Starts one. `created` is an RFC 3339 time in UTC (`2026-01-31T12:00:00Z`).
    pub fn new(name: ModelName, generation: u64, created: String) -> Result<Self, Error> {
        let manifest =
            Manifest { id: BundleId::random(), name, generation, created, files: Vec::new() };
        manifest.check_head()?;
        Ok(Self { manifest, dek: Dek::random() })
    }

    /// The id.
    pub fn id(&self) -> BundleId {
        self.manifest.id
    }

    /// A fresh header and the key for one file's segments.
    pub fn file(&self, path: &BundlePath) -> (Header, FileKey) {
        let header = Header::random();
        let aad = associated_data(&self.manifest.id, path);
        (header, FileKey::derive(&self.dek, &header, &aad))
    }

    /// Signs the manifest over `files` (any order) and wraps the data key for each recipient: the
    /// bytes of `sealift.json`, and the manifest digest.
    pub fn finish(
        self,
        mut files: Vec<FileEntry>,
        recipients: &[Recipient<'_>],
    ) -> Result<(Vec<u8>, Digest), Error> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest { files, ..self.manifest };
        manifest.check()?;
        let payload = statement::write(&manifest);
        let envelope = Envelope::sign(&payload, &self.dek, &manifest.id);
        let json = Document::seal(&self.dek, &manifest.id, recipients, envelope)?;
        Ok((json, Digest::of(&payload)))
    }
}

impl Document {
    fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MANIFEST_BYTES_MAX {
            let limit = MANIFEST_BYTES_MAX as u64;
            return Err(Error::Limit { what: MANIFEST_OBJECT, found: json.len() as u64, limit });
        }
        // A truncated or damaged bundle begins like one; a plain model's file does not.
        if !json.starts_with(br#"{"format":"sealift/v1""#) {
            return Err(match format_of(json) {
                None => Error::NotSealed("no JSON object with a `format`"),
                Some(format) if format == FORMAT => {
                    malformed(MANIFEST_OBJECT, "not in its canonical spelling")
                }
                Some(format) => Error::Unsupported { what: "format", found: excerpt(&format) },
            });
        }
        let body = json
            .strip_suffix(b"\n")
            .ok_or_else(|| malformed(MANIFEST_OBJECT, "it does not end with a newline"))?;
        let document: Self =
            serde_json::from_slice(body).map_err(|error| refused(MANIFEST_OBJECT, &error))?;
        if !is_canonical(&document, body) {
            return Err(malformed(MANIFEST_OBJECT, "not in its canonical spelling"));
        }
        Ok(document)
    }

    /// The recipients, each bound to this bundle's id, with a key id of its own.
    fn recipients(&self, id: &BundleId) -> Result<Vec<Parsed>, Error> {
        let refuse = |why| Err(malformed("recipient", why));
        if self.recipients.is_empty() {
            refuse("there is none")?;
        }
        if self.recipients.len() > RECIPIENTS_MAX {
            let (found, limit) = (self.recipients.len() as u64, RECIPIENTS_MAX as u64);
            return Err(Error::Limit { what: "number of recipients", found, limit });
        }
        let aad = recipient_aad(id);
        let mut recipients: Vec<Parsed> = Vec::new();
        for StoredRecipient { kid, wrapped_key, jwe } in &self.recipients {
            let (key, jwe) = (KeyUri::parse(kid)?, Jwe::from_flattened(jwe)?);
            if recipients.iter().any(|other| other.key == key) {
                refuse("two with the same kid")?;
            }
            let wrapped_key = wrapped_key.as_deref().map(parse_wrapped_key).transpose()?;
            if wrapped_key.is_some() != key.unwraps() {
                refuse("`wrapped_key` belongs to keys that are not released, and only to those")?;
            }
            jwe.check_recipient(kid, &aad).or_else(refuse)?;
            recipients.push(Parsed { key, wrapped_key, jwe });
        }
        Ok(recipients)
    }

    /// The bytes of `sealift.json`, held against the reader's own rules before anyone gets them.
    fn seal(
        dek: &Dek,
        id: &BundleId,
        recipients: &[Recipient<'_>],
        envelope: Envelope,
    ) -> Result<Vec<u8>, Error> {
        let aad = recipient_aad(id);
        let recipients = recipients
            .iter()
            .map(|Recipient { key, kek, wrapped_key }| {
                kek.permits(Purpose::Seal)?;
                let kid = key.to_string();
                let (key, wrap) = (kek.expose(), kek.wrap());
                let jwe = jwe::encrypt_flattened(dek.expose(), key, wrap, &kid, Some(&aad))?;
                let wrapped_key = wrapped_key.map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
                Ok(StoredRecipient { kid, wrapped_key, jwe })
            })
            .collect::<Result<_, Error>>()?;
        let document = Self { format: FORMAT.to_owned(), recipients, envelope };
        let mut json = serde_json::to_vec(&document).expect("strings into memory");
        json.push(b'\n');
        Bundle::parse(&json)?;
        Ok(json)
    }
}

fn parse_wrapped_key(text: &str) -> Result<Vec<u8>, Error> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| malformed("recipient", "`wrapped_key` is not canonical base64url"))?;
    match bytes.len() {
        0 => Err(malformed("recipient", "`wrapped_key` is empty")),
        1..=WRAPPED_KEY_BYTES_MAX => Ok(bytes),
        found => Err(Error::Limit {
            what: "length of a wrapped key",
            found: found as u64,
            limit: WRAPPED_KEY_BYTES_MAX as u64,
        }),
    }
}

/// What a recipient's JWE authenticates beside the data key, and the holder of a key that unwraps
/// beside the wrapped key: that it belongs to this bundle.
pub fn recipient_aad(id: &BundleId) -> Vec<u8> {
    format!("{FORMAT}\n{id}").into_bytes()
}
