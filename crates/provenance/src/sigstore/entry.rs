//! An entry of a transparency log ([Rekor]): what is in it, and what the log says about it.
//!
//! [Rekor]: https://docs.sigstore.dev/logging/overview/

use std::borrow::Cow;

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::root::Log;
use super::tree::{self, CHECKPOINT_BYTES_MAX, Hash, PATH_MAX};
use super::{proof, seconds};
use crate::Error;
use crate::error::{excerpt, limit};
use crate::json;

/// Longest body: digests, a signature and its certificate, in base64 of base64.
const BODY_BYTES_MAX: usize = 128 << 10;

const WHAT: &str = "log entry";
const PROMISE: &str = "log's promise (SET)";
const PROOF: &str = "log's proof of inclusion";

/// An entry, and nothing verified.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Vec<u8>,
    index: u64,
    kind: String,
    version: String,
    /// Nothing but with a promise.
    integrated: Option<u64>,
    promise: Option<Vec<u8>>,
    proof: Option<Proof>,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Proof {
    index: u64,
    size: u64,
    root: Hash,
    path: Vec<Hash>,
    checkpoint: String,
}

/// How signature files spell it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Stored<'a> {
    log_index: Number<'a>,
    #[serde(borrow)]
    log_id: StoredLog<'a>,
    #[serde(borrow)]
    kind_version: KindVersion<'a>,
    #[serde(borrow, default)]
    integrated_time: Option<Number<'a>>,
    #[serde(borrow, default)]
    inclusion_promise: Option<StoredPromise<'a>>,
    #[serde(borrow, default)]
    inclusion_proof: Option<StoredProof<'a>>,
    #[serde(borrow)]
    canonicalized_body: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredLog<'a> {
    #[serde(borrow)]
    key_id: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KindVersion<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    version: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredPromise<'a> {
    #[serde(borrow)]
    signed_entry_timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredProof<'a> {
    #[serde(borrow)]
    log_index: Number<'a>,
    #[serde(borrow)]
    root_hash: Cow<'a, str>,
    #[serde(borrow)]
    tree_size: Number<'a>,
    #[serde(borrow, default)]
    hashes: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    checkpoint: StoredCheckpoint<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCheckpoint<'a> {
    #[serde(borrow)]
    envelope: Cow<'a, str>,
}

/// A 64-bit number, as protocol buffers have it in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Number(u64),
}

/// What is in an entry, of any kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Body<S> {
    #[serde(rename = "apiVersion")]
    version: String,
    kind: String,
    spec: S,
}

/// Rekor 1, `dsse` 0.0.1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Dsse {
    /// Of an envelope in somebody's JSON, which nobody can make again.
    #[serde(rename = "envelopeHash")]
    _envelope_hash: IgnoredAny,
    payload_hash: StoredDigest,
    signatures: Vec<DsseSignature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DsseSignature {
    signature: String,
    /// PEM.
    verifier: String,
}

/// Rekor 1, `intoto` 0.0.2.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Intoto {
    content: IntotoContent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IntotoContent {
    envelope: IntotoEnvelope,
    /// As [`Dsse`]'s.
    #[serde(rename = "hash")]
    _hash: IgnoredAny,
    payload_hash: StoredDigest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IntotoEnvelope {
    #[serde(rename = "payloadType")]
    _payload_type: IgnoredAny,
    signatures: Vec<IntotoSignature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IntotoSignature {
    /// Base64 twice.
    sig: String,
    /// PEM.
    public_key: String,
}

/// Rekor 2, `hashedrekord` 0.0.2: the digest is that of what was signed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashedRekord {
    #[serde(rename = "hashedRekordV002")]
    content: HashedRekordContent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashedRekordContent {
    data: HashedRekordData,
    signature: HashedRekordSignature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashedRekordData {
    algorithm: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HashedRekordSignature {
    content: String,
    verifier: Verifier,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Verifier {
    #[serde(rename = "keyDetails")]
    _key_details: IgnoredAny,
    x509_certificate: VerifierCertificate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct VerifierCertificate {
    raw_bytes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDigest {
    algorithm: String,
    /// Hexadecimal.
    value: String,
}

impl Stored<'_> {
    pub(crate) fn read(&self) -> Result<Entry, Error> {
        let body = decode(&self.canonicalized_body)?;
        limit(WHAT, body.len(), BODY_BYTES_MAX)?;
        let promise = self.inclusion_promise.as_ref();
        let promise = promise.map(|promise| decode(&promise.signed_entry_timestamp)).transpose()?;
        Ok(Entry {
            log: decode(&self.log_id.key_id)?,
            index: self.log_index.read()?,
            kind: self.kind_version.kind.to_string(),
            version: self.kind_version.version.to_string(),
            integrated: self.integrated_time.as_ref().map(Number::read).transpose()?,
            promise,
            proof: self.inclusion_proof.as_ref().map(StoredProof::read).transpose()?,
            body,
        })
    }
}

impl StoredProof<'_> {
    fn read(&self) -> Result<Proof, Error> {
        limit("number of hashes", self.hashes.len(), PATH_MAX)?;
        limit("checkpoint", self.checkpoint.envelope.len(), CHECKPOINT_BYTES_MAX)?;
        let hash = |base64: &str| -> Result<Hash, Error> {
            decode(base64)?.try_into().map_err(|_| proof(PROOF, "a hash of another length"))
        };
        Ok(Proof {
            index: self.log_index.read()?,
            size: self.tree_size.read()?,
            root: hash(&self.root_hash)?,
            path: self.hashes.iter().map(|base64| hash(base64)).collect::<Result<_, _>>()?,
            checkpoint: self.checkpoint.envelope.to_string(),
        })
    }
}

impl Number<'_> {
    fn read(&self) -> Result<u64, Error> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => {
                text.parse().ok().filter(|number: &u64| number.to_string() == **text)
            }
        }
        .ok_or_else(|| proof(WHAT, "a number that is none"))
    }
}

impl Entry {
    /// When it was taken up, if the log promised so, which [`Self::verify`] checks.
    pub(super) fn promised_at(&self) -> Result<Option<Timestamp>, Error> {
        match (&self.promise, self.integrated) {
            (None, _) => Ok(None),
            (Some(_), Some(time)) => seconds(PROMISE, time).map(Some),
            (Some(_), None) => Err(proof(PROMISE, "it has no time")),
        }
    }

    /// Checks that one of `logs`, which counted at all of `times`, promised or proved that it has the
    /// entry; both, if both are there.
    pub(super) fn verify(&self, logs: &[Log], times: &[Timestamp]) -> Result<(), Error> {
        if self.promise.is_none() && self.proof.is_none() {
            return Err(proof(WHAT, "the log neither promises nor proves that it has it"));
        }
        let log = Log::find(logs, &self.log, times)
            .ok_or_else(|| proof(WHAT, "no log of the trusted root that counted then has it"))?;
        if let Some(promise) = &self.promise {
            let signed = self.promised(self.integrated.unwrap_or_default());
            let verified = log.key.verify(signed.as_bytes(), promise);
            verified.map_err(|_| proof(PROMISE, "its signature does not hold"))?;
        }
        if let Some(Proof { index, size, root, path, checkpoint }) = &self.proof {
            if tree::root(tree::leaf(&self.body), *index, *size, path) != Some(*root) {
                return Err(proof(PROOF, "it leads to another root"));
            }
            tree::checkpoint(checkpoint, log, *size, root)?;
        }
        Ok(())
    }

    /// What a promise signs: canonical JSON (RFC 8785).
    fn promised(&self, time: u64) -> String {
        let (body, log, index) = (STANDARD.encode(&self.body), hex::encode(&self.log), self.index);
        format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{log}","logIndex":{index}}}"#)
    }

    /// Checks that the entry is about this payload, this signature and this certificate: a log takes up
    /// what anybody sends, and its word is about the body alone.
    pub(super) fn is_about(
        &self,
        certificate: &[u8],
        payload: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        let signature_text = STANDARD.encode(signature);
        let same = match (&*self.kind, &*self.version) {
            ("dsse", "0.0.1") => {
                let spec: Dsse = self.spec()?;
                let [signed] = &spec.signatures[..] else { return Err(other()) };
                spec.payload_hash.is_of(payload)
                    && signed.signature == signature_text
                    && is_pem_of(&signed.verifier, certificate)
            }
            ("intoto", "0.0.2") => {
                let IntotoContent { envelope, payload_hash, .. } = self.spec::<Intoto>()?.content;
                let [signed] = &envelope.signatures[..] else { return Err(other()) };
                payload_hash.is_of(payload)
                    && signed.sig == STANDARD.encode(signature_text)
                    && is_pem_of(&signed.public_key, certificate)
            }
            ("hashedrekord", "0.0.2") => {
                let HashedRekordContent { data, signature: signed } =
                    self.spec::<HashedRekord>()?.content;
                let algorithm = match &*data.algorithm {
                    "SHA2_256" => &SHA256,
                    "SHA2_384" => &SHA384,
                    "SHA2_512" => &SHA512,
                    _ => return Err(other()),
                };
                data.digest == STANDARD.encode(digest(algorithm, message))
                    && signed.content == signature_text
                    && signed.verifier.x509_certificate.raw_bytes == STANDARD.encode(certificate)
            }
            (kind, version) => {
                let found = excerpt(&format!("{kind} {version}"));
                return Err(Error::Unsupported { what: "kind of log entry", found });
            }
        };
        if same { Ok(()) } else { Err(other()) }
    }

    fn spec<S: for<'a> Deserialize<'a>>(&self) -> Result<S, Error> {
        let body: Body<S> = json::read(WHAT, &self.body)?;
        if body.kind != self.kind || body.version != self.version {
            return Err(proof(WHAT, "it is of another kind than it says"));
        }
        Ok(body.spec)
    }
}

impl StoredDigest {
    fn is_of(&self, bytes: &[u8]) -> bool {
        let algorithm: &Algorithm = &SHA256;
        self.algorithm == "sha256" && self.value == hex::encode(digest(algorithm, bytes))
    }
}

fn is_pem_of(base64: &str, certificate: &[u8]) -> bool {
    let Ok(pem) = STANDARD.decode(base64) else { return false };
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    matches!((certificates.next(), certificates.next()), (Some(Ok(der)), None) if *der == *certificate)
}

fn other() -> Error {
    proof(WHAT, "it is about another signature")
}

fn decode(base64: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(base64).map_err(|_| proof(WHAT, "not canonical base64"))
}
