//! The signature file: a [Sigstore bundle] v0.3 with a DSSE envelope.
//!
//! [Sigstore bundle]: https://docs.sigstore.dev/about/bundle/

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::UnixTime;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::Error;
use crate::certificate::{CERTIFICATE_BYTES_MAX, CERTIFICATES_MAX};
use crate::error::{known, limit, malformed};
use crate::json;
use crate::key::SigningKey;
use crate::sigstore::Keyless;
use crate::sigstore::entry::Stored;
use crate::sigstore::timestamp::{TIMESTAMP_BYTES_MAX, TIMESTAMPS_MAX};
use crate::statement::Statement;
use crate::trust::{Signer, Trust};

/// Largest signature file: some 50 000 files with long names.
pub const SIGNATURE_BYTES_MAX: usize = 16 << 20;

const WHAT: &str = "signature file";
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A parsed signature file: well formed, and nothing verified.
#[derive(Debug)]
pub struct Signature {
    material: Material,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Debug)]
enum Material {
    Key { hint: String },
    Chain(Vec<Vec<u8>>),
    Keyless(Box<Keyless>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document<'a> {
    #[serde(borrow)]
    media_type: Cow<'a, str>,
    #[serde(borrow)]
    verification_material: VerificationMaterial<'a>,
    #[serde(borrow)]
    dsse_envelope: Envelope<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct VerificationMaterial<'a> {
    #[serde(borrow, default)]
    public_key: Option<KeyHint<'a>>,
    #[serde(borrow, default)]
    x509_certificate_chain: Option<Chain<'a>>,
    /// Of keyless signatures, which the rest is for.
    #[serde(borrow, default)]
    certificate: Option<RawCertificate<'a>>,
    #[serde(borrow, default)]
    tlog_entries: Vec<Stored<'a>>,
    #[serde(borrow, default)]
    timestamp_verification_data: Option<Timestamps<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Timestamps<'a> {
    #[serde(borrow, default, rename = "rfc3161Timestamps")]
    responses: Vec<RawTimestamp<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawTimestamp<'a> {
    #[serde(borrow)]
    signed_timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KeyHint<'a> {
    #[serde(borrow, default)]
    hint: Option<Cow<'a, str>>,
    /// Of earlier versions: no key is believed because the file holds it.
    #[serde(default, rename = "rawBytes")]
    _raw_bytes: IgnoredAny,
    #[serde(default, rename = "keyDetails")]
    _key_details: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chain<'a> {
    #[serde(borrow)]
    certificates: Vec<RawCertificate<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawCertificate<'a> {
    #[serde(borrow)]
    raw_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<EnvelopeSignature<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature<'a> {
    #[serde(borrow)]
    sig: Cow<'a, str>,
    /// Nothing that is signed.
    #[serde(default, rename = "keyid")]
    _keyid: IgnoredAny,
}

/// A statement, and who made it: only [`Signature::verify`] makes one.
#[derive(Debug)]
pub struct Signed {
    /// What was signed.
    pub statement: Statement,
    /// Who signed it.
    pub signer: Signer,
}

impl Signature {
    /// Strict: no unknown or duplicate members, canonical base64, exactly one signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        limit(WHAT, bytes.len(), SIGNATURE_BYTES_MAX)?;
        let document: Document<'_> = json::read(WHAT, bytes)?;
        known("media type", &document.media_type, MEDIA_TYPE)?;
        let envelope = &document.dsse_envelope;
        known("payload type", &envelope.payload_type, PAYLOAD_TYPE)?;
        let [signature] = &envelope.signatures[..] else {
            return Err(malformed(WHAT, "not exactly one signature"));
        };
        Ok(Self {
            material: document.verification_material.read()?,
            payload: decode(&envelope.payload)?,
            signature: decode(&signature.sig)?,
        })
    }

    /// Verifies the signature first, and reads the statement only then. `now` is what certificates
    /// are valid or expired at; a key has no end, and a keyless signature has its time with it.
    pub fn verify(&self, trust: &Trust, now: UnixTime) -> Result<Signed, Error> {
        let message = encoding(&self.payload);
        let signer = match &self.material {
            Material::Key { hint } => trust.by_key(hint, &message, &self.signature)?,
            Material::Chain(chain) => {
                trust.by_certificate(chain, now, &message, &self.signature)?
            }
            Material::Keyless(keyless) => {
                trust.by_sigstore(keyless, &self.payload, &message, &self.signature)?
            }
        };
        Ok(Signed { statement: Statement::parse(&self.payload)?, signer })
    }
}

/// Signs `statement`: the bytes of a signature file.
pub fn sign(statement: &Statement, key: &SigningKey) -> Vec<u8> {
    let payload = statement.to_json();
    let sig = STANDARD.encode(key.sign(&encoding(&payload)));
    let document = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": key.public().fingerprint()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": sig, "keyid": ""}],
        },
    });
    serde_json::to_vec(&document).expect("strings into memory")
}

impl VerificationMaterial<'_> {
    fn read(&self) -> Result<Material, Error> {
        match (&self.public_key, &self.x509_certificate_chain, &self.certificate) {
            (Some(key), None, None) => {
                Ok(Material::Key { hint: key.hint.clone().unwrap_or_default().into_owned() })
            }
            (None, Some(chain), None) => chain.read(),
            (None, None, Some(certificate)) => self.read_keyless(certificate),
            _ => Err(malformed(WHAT, "not exactly one of key, chain and certificate")),
        }
    }

    fn read_keyless(&self, certificate: &RawCertificate<'_>) -> Result<Material, Error> {
        let [entry] = &self.tlog_entries[..] else {
            return Err(malformed(WHAT, "not exactly one log entry"));
        };
        let timestamps = self.timestamp_verification_data.as_ref();
        let timestamps = timestamps.map_or(&[][..], |timestamps| &timestamps.responses);
        limit("number of timestamps", timestamps.len(), TIMESTAMPS_MAX)?;
        let timestamps = timestamps.iter().map(|timestamp| {
            let der = decode(&timestamp.signed_timestamp)?;
            limit("timestamp", der.len(), TIMESTAMP_BYTES_MAX)?;
            Ok(der)
        });
        Ok(Material::Keyless(Box::new(Keyless {
            certificate: certificate.read()?,
            entry: entry.read()?,
            timestamps: timestamps.collect::<Result<_, Error>>()?,
        })))
    }
}

impl RawCertificate<'_> {
    fn read(&self) -> Result<Vec<u8>, Error> {
        let der = decode(&self.raw_bytes)?;
        limit("certificate", der.len(), CERTIFICATE_BYTES_MAX)?;
        Ok(der)
    }
}

impl Chain<'_> {
    fn read(&self) -> Result<Material, Error> {
        limit("number of certificates", self.certificates.len(), CERTIFICATES_MAX)?;
        let certificates = self.certificates.iter().map(RawCertificate::read);
        Ok(Material::Chain(certificates.collect::<Result<_, _>>()?))
    }
}

/// DSSE's pre-authentication encoding.
fn encoding(payload: &[u8]) -> Vec<u8> {
    let (kind, length) = (PAYLOAD_TYPE, payload.len());
    [format!("DSSEv1 {} {kind} {length} ", kind.len()).as_bytes(), payload].concat()
}

fn decode(base64: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(base64).map_err(|_| malformed(WHAT, "not canonical base64"))
}
