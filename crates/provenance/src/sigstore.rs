//! Keyless signatures: a certificate of [Fulcio]'s for some minutes, and an entry of a transparency log
//! that proves when it was used. Verified offline, with no more than a trusted root.
//!
//! What must hold, all of it:
//!
//! 1. A time: of the log's promise ([`entry`]), or of a timestamp authority's token ([`timestamp`]).
//! 2. The certificate: vouched for by one of the root's authorities, for signing, and valid at each of
//!    these times; logged before it was handed out ([`sct`]).
//! 3. The entry: promised or proven ([`tree`]) by a log of the root, and about this very signature.
//! 4. Each proof that is there, also those that are more than needed.
//!
//! [Fulcio]: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md

pub(crate) mod entry;
mod root;
mod sct;
pub(crate) mod timestamp;
mod tree;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_cert::der::asn1::Utf8StringRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, Error as DerError};
use x509_cert::{Certificate, TbsCertificate};

use crate::Error;
use crate::certificate::{self, refused};
use crate::key::PublicKey;
use entry::Entry;
pub(crate) use root::TrustedRoot;

/// The identity provider, as a DER string; Fulcio's own OIDs.
const ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");
/// The same, as bare bytes; deprecated.
const ISSUER_V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
/// RFC 5280.
const ID_KP_CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");

/// What a signature file has besides the envelope.
#[derive(Debug)]
pub(crate) struct Keyless {
    /// The signer's, DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) entry: Entry,
    /// RFC 3161 responses, DER.
    pub(crate) timestamps: Vec<Vec<u8>>,
}

/// The holder of a certificate that holds: who it is, and who says so.
pub(crate) struct Identified {
    /// E-mail addresses and URIs.
    pub(crate) names: Vec<String>,
    /// The OpenID provider that the names were proven to.
    pub(crate) provider: String,
}

impl Keyless {
    /// Checks everything but who it is. `message` is what was signed, `payload` the part of it that the
    /// log knows.
    pub(crate) fn verify(
        &self,
        root: &TrustedRoot,
        payload: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Identified, Error> {
        let mut times = Vec::new();
        times.extend(self.entry.promised_at()?);
        for token in &self.timestamps {
            times.push(timestamp::verify(token, signature, &root.timestamp_authorities)?);
        }
        if times.is_empty() {
            return Err(proof("time of signing", "neither a log's promise nor a timestamp has it"));
        }
        let der = CertificateDer::from(self.certificate.as_slice());
        let entity = EndEntityCert::try_from(&der).map_err(refused)?;
        let parsed = Certificate::from_der(&der).map_err(refused)?;
        let issuer = root.issuer(&entity, &times)?;
        let (key, identified) = read(&entity, parsed.tbs_certificate())?;
        sct::verify(&der, &issuer, &root.certificate_logs)?;
        self.entry.verify(&root.logs, &times)?;
        self.entry.is_about(&der, payload, message, signature)?;
        key.verify(message, signature)?;
        Ok(identified)
    }
}

/// A leaf's key, names and provider, if it is for signing.
fn read(
    entity: &EndEntityCert<'_>,
    tbs: &TbsCertificate,
) -> Result<(PublicKey, Identified), Error> {
    let (usage, extended) = certificate::usages(tbs)?;
    if !usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(refused("its key usage has no digitalSignature"));
    }
    if !extended.is_some_and(|extended| extended.0.contains(&ID_KP_CODE_SIGNING)) {
        return Err(refused("its extended key usage has no codeSigning"));
    }
    let names = certificate::alternatives(tbs)?;
    let names = names.into_iter().filter_map(certificate::address).collect();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let current = extension(tbs, ISSUER)?
        .map(|der| Utf8StringRef::from_der(der).map(|issuer| issuer.as_str().to_owned()))
        .transpose()
        .map_err(|_: DerError| refused("its identity provider cannot be read"))?;
    let old = extension(tbs, ISSUER_V1)?.and_then(text);
    let provider = match (current, old) {
        (Some(current), Some(old)) if current != old => {
            return Err(refused("it names two identity providers"));
        }
        (current, old) => current.or(old),
    };
    let provider = provider.ok_or_else(|| refused("it names no identity provider"))?;
    Ok((certificate::key(entity)?, Identified { names, provider }))
}

/// The value of the only extension with this identifier.
fn extension(tbs: &TbsCertificate, id: ObjectIdentifier) -> Result<Option<&[u8]>, Error> {
    let mut found =
        tbs.extensions().into_iter().flatten().filter(|extension| extension.extn_id == id);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(refused("an extension that stands twice")),
        (first, None) => Ok(first.map(|extension| extension.extn_value.as_bytes())),
    }
}

fn proof(what: &'static str, why: &'static str) -> Error {
    Error::Proof { what, why }
}

/// Seconds of a Unix time.
fn seconds(what: &'static str, seconds: u64) -> Result<Timestamp, Error> {
    let time = i64::try_from(seconds).ok().and_then(|time| Timestamp::from_second(time).ok());
    time.ok_or_else(|| proof(what, "its time is out of range"))
}
