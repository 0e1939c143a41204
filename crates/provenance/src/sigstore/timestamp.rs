//! Timestamps of an authority (RFC 3161), in CMS (RFC 5652).

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use jiff::Timestamp;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert};
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, GeneralizedTime, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{
    Decode, DecodeValue, Encode as _, ErrorKind, FixedTag, Reader as _, Result as DerResult,
    SliceReader, Tag, Tagged as _,
};

use super::root::Authority;
use super::{proof, seconds};
use crate::Error;
use crate::certificate::{self, refused};

/// Most timestamps of a signature.
pub(crate) const TIMESTAMPS_MAX: usize = 8;
/// Longest response, with the authority's certificates.
pub(crate) const TIMESTAMP_BYTES_MAX: usize = 64 << 10;
/// Most elements of any sequence or set of one.
const ELEMENTS_MAX: usize = 32;

const WHAT: &str = "timestamp";
/// `id-kp-timeStamping` (RFC 3161), without tag and length.
const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
const ID_KP_TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");

/// What is signed in a response, and how.
struct Token<'a> {
    /// TSTInfo, DER.
    content: &'a [u8],
    imprint: Digest<'a>,
    time: GeneralizedTime,
    /// Of the content, as the signed attributes have it.
    digest: Digest<'a>,
    /// The signed attributes, as a set.
    attributes: Vec<u8>,
    /// The contents of an AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

struct Digest<'a> {
    algorithm: &'static digest::Algorithm,
    value: &'a [u8],
}

/// The time that one of `authorities` says it saw `signature` at. A certificate in the token counts for
/// nothing: the root has the authority's.
pub(super) fn verify(
    response: &[u8],
    signature: &[u8],
    authorities: &[Authority],
) -> Result<Timestamp, Error> {
    let token = read(response).map_err(|_| proof(WHAT, "it is not of its form"))?;
    if !token.imprint.is_of(signature) {
        return Err(proof(WHAT, "it is for something else"));
    }
    if !token.digest.is_of(token.content) {
        return Err(proof(WHAT, "its content is not what was signed"));
    }
    let time = seconds(WHAT, token.time.to_unix_duration().as_secs())?;
    let mut refusal = proof(WHAT, "no authority of the trusted root made it");
    for authority in authorities.iter().filter(|authority| token.is_by(authority)) {
        match is_for_timestamps(authority)
            .and_then(|()| authority.verify_signer(time, TIME_STAMPING))
        {
            Ok(()) => return Ok(time),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

impl Token<'_> {
    fn is_by(&self, authority: &Authority) -> bool {
        let Ok(signer) = EndEntityCert::try_from(authority.signer()) else { return false };
        ALL_VERIFICATION_ALGS
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm)
            .any(|algorithm| {
                signer.verify_signature(*algorithm, &self.attributes, self.signature).is_ok()
            })
    }
}

impl Digest<'_> {
    fn is_of(&self, bytes: &[u8]) -> bool {
        digest::digest(self.algorithm, bytes).as_ref() == self.value
    }
}

/// RFC 3161, §2.3: for this, and nothing else.
fn is_for_timestamps(authority: &Authority) -> Result<(), Error> {
    let certificate = Certificate::from_der(authority.signer()).map_err(refused)?;
    let (_, extended) = certificate::usages(certificate.tbs_certificate())?;
    match extended {
        Some(usages) if usages.0 == [ID_KP_TIME_STAMPING] => Ok(()),
        _ => Err(proof(WHAT, "its maker's certificate is not for timestamps")),
    }
}

fn read(response: &[u8]) -> DerResult<Token<'_>> {
    let [status, token] = elements(AnyRef::from_der(response)?, Tag::Sequence)?[..] else {
        return malformed();
    };
    // 0: granted; 1: with modifications.
    let status = elements(status, Tag::Sequence)?;
    if !matches!(status.first().map(|status| decode::<u8>(*status)), Some(Ok(0 | 1))) {
        return malformed();
    }
    let [kind, data] = elements(token, Tag::Sequence)?[..] else { return malformed() };
    expect(kind, SIGNED_DATA)?;
    let data = elements(explicit(data)?, Tag::Sequence)?;
    let [_version, _digests, content, .., signers] = data[..] else { return malformed() };
    let [kind, content] = elements(content, Tag::Sequence)?[..] else { return malformed() };
    expect(kind, TST_INFO)?;
    let content = decode::<&OctetStringRef>(explicit(content)?)?.as_bytes();
    let [signer] = elements(signers, Tag::Set)?[..] else { return malformed() };
    let signer = elements(signer, Tag::Sequence)?;
    let [_version, _signer, algorithm, attributes, signing, signature, ..] = signer[..] else {
        return malformed();
    };
    if !is_context(attributes, 0) {
        return malformed();
    }
    let attributes = AnyRef::new(Tag::Set, attributes.value())?;
    expect(attribute(attributes, CONTENT_TYPE)?, TST_INFO)?;
    let message_digest = decode::<&OctetStringRef>(attribute(attributes, MESSAGE_DIGEST)?)?;
    signing.tag().assert_eq(Tag::Sequence)?;
    let (imprint, time) = info(content)?;
    Ok(Token {
        content,
        imprint,
        time,
        digest: Digest { algorithm: hash(algorithm)?, value: message_digest.as_bytes() },
        attributes: attributes.to_der()?,
        algorithm: signing.value(),
        signature: decode::<&OctetStringRef>(signature)?.as_bytes(),
    })
}

/// What was stamped, and when, of a TSTInfo.
fn info(content: &[u8]) -> DerResult<(Digest<'_>, GeneralizedTime)> {
    let info = elements(AnyRef::from_der(content)?, Tag::Sequence)?;
    let [version, _policy, imprint, _serial, time, ..] = info[..] else { return malformed() };
    if decode::<u8>(version)? != 1 {
        return malformed();
    }
    let [algorithm, value] = elements(imprint, Tag::Sequence)?[..] else { return malformed() };
    let value = decode::<&OctetStringRef>(value)?.as_bytes();
    Ok((Digest { algorithm: hash(algorithm)?, value }, decode(time)?))
}

/// The only value of the only attribute of this kind.
fn attribute<'a>(attributes: AnyRef<'a>, kind: ObjectIdentifier) -> DerResult<AnyRef<'a>> {
    let mut found = None;
    for attribute in elements(attributes, Tag::Set)? {
        let [this, values] = elements(attribute, Tag::Sequence)?[..] else { return malformed() };
        if decode::<ObjectIdentifier>(this)? == kind {
            let [value] = elements(values, Tag::Set)?[..] else { return malformed() };
            if found.replace(value).is_some() {
                return malformed();
            }
        }
    }
    found.ok_or_else(|| ErrorKind::Failed.into())
}

/// The hash that an AlgorithmIdentifier names.
fn hash(algorithm: AnyRef<'_>) -> DerResult<&'static digest::Algorithm> {
    let algorithm = elements(algorithm, Tag::Sequence)?;
    let kind: ObjectIdentifier = match algorithm.first() {
        Some(kind) => decode(*kind)?,
        None => return malformed(),
    };
    match kind.to_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => Ok(&SHA256),
        "2.16.840.1.101.3.4.2.2" => Ok(&SHA384),
        "2.16.840.1.101.3.4.2.3" => Ok(&SHA512),
        _ => malformed(),
    }
}

/// What a sequence or set has.
fn elements(any: AnyRef<'_>, tag: Tag) -> DerResult<Vec<AnyRef<'_>>> {
    any.tag().assert_eq(tag)?;
    let mut reader = SliceReader::new(any.value())?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        if elements.len() == ELEMENTS_MAX {
            return malformed();
        }
        elements.push(AnyRef::decode(&mut reader)?);
    }
    Ok(elements)
}

/// What is in a `[0] EXPLICIT`.
fn explicit(any: AnyRef<'_>) -> DerResult<AnyRef<'_>> {
    if !is_context(any, 0) {
        return malformed();
    }
    AnyRef::from_der(any.value())
}

fn is_context(any: AnyRef<'_>, expected: u32) -> bool {
    matches!(any.tag(), Tag::ContextSpecific { constructed: true, number } if number.value() == expected)
}

fn expect(any: AnyRef<'_>, kind: ObjectIdentifier) -> DerResult<()> {
    match decode::<ObjectIdentifier>(any)? == kind {
        true => Ok(()),
        false => malformed(),
    }
}

fn decode<'a, T>(any: AnyRef<'a>) -> DerResult<T>
where
    T: DecodeValue<'a, Error = x509_cert::der::Error> + FixedTag + 'a,
{
    any.decode_as()
}

fn malformed<T>() -> DerResult<T> {
    Err(ErrorKind::Failed.into())
}
