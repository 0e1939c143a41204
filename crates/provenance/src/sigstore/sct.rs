//! The promise, embedded in a certificate, that it is in a certificate transparency log (RFC 6962,
//! §3.2 and §3.3).

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{
    Decode, Encode as _, Reader as _, Result as DerResult, SliceReader, Tag, Tagged as _,
};

use super::proof;
use super::root::Log;
use crate::Error;
use crate::certificate::refused;

const EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.4.2");
/// Most promises in a certificate; Fulcio's have one.
const PROMISES_MAX: usize = 8;
const WHAT: &str = "certificate's proof of being logged (SCT)";
/// Of X.509: version 1, a certificate's timestamp, an entry of a precertificate.
const V1: u8 = 0;
const CERTIFICATE_TIMESTAMP: u8 = 0;
const PRECERT_ENTRY: [u8; 2] = [0, 1];
/// Of TLS 1.2: SHA-256 and ECDSA.
const SHA256_ECDSA: [u8; 2] = [4, 3];

/// Checks that there is at least one promise, and that each is by one of `logs`. `issuer` is a
/// SubjectPublicKeyInfo.
pub(super) fn verify(certificate: &[u8], issuer: &[u8], logs: &[Log]) -> Result<(), Error> {
    let (tbs, list) = split(certificate)
        .map_err(|_| refused("it cannot be read"))?
        .ok_or_else(|| proof(WHAT, "there is none, or more than one"))?;
    let malformed = || proof(WHAT, "it is not of its form");
    let mut rest = Input(&list);
    let mut list = Input(rest.vector().ok_or_else(malformed)?);
    if !rest.0.is_empty() || list.0.is_empty() {
        return Err(malformed());
    }
    let issuer_hash = digest(&SHA256, issuer);
    let tbs_length = u32::try_from(tbs.len()).map_err(|_| malformed())?.to_be_bytes();
    for number in 0.. {
        if list.0.is_empty() {
            return Ok(());
        }
        let promise = list.vector().filter(|_| number < PROMISES_MAX).ok_or_else(malformed)?;
        let Promise { log, time, extensions, signature } =
            Promise::read(promise).ok_or_else(malformed)?;
        let at = i64::try_from(u64::from_be_bytes(time)).map_err(|_| malformed())?;
        let at = Timestamp::from_millisecond(at).map_err(|_| malformed())?;
        let log = Log::find(logs, log, &[at])
            .ok_or_else(|| proof(WHAT, "no log of the trusted root made it when it counted"))?;
        let extensions_length = u16::try_from(extensions.len()).map_err(|_| malformed())?;
        let signed = [
            &[V1, CERTIFICATE_TIMESTAMP],
            &time[..],
            &PRECERT_ENTRY,
            issuer_hash.as_ref(),
            &tbs_length[1..],
            &tbs,
            &extensions_length.to_be_bytes(),
            extensions,
        ];
        let verified = log.key.verify(&signed.concat(), signature);
        verified.map_err(|_| proof(WHAT, "its signature does not hold"))?;
    }
    Ok(())
}

struct Promise<'a> {
    log: &'a [u8],
    /// Milliseconds since 1970.
    time: [u8; 8],
    extensions: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Promise<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let version = input.take(1)?;
        let log = input.take(32)?;
        let time = input.take(8)?.try_into().ok()?;
        let extensions = input.vector()?;
        let algorithm = input.take(2)?;
        let signature = input.vector()?;
        let known = version == [V1] && algorithm == SHA256_ECDSA && input.0.is_empty();
        known.then_some(Self { log, time, extensions, signature })
    }
}

/// What is left of bytes in TLS's presentation.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A vector with a length of two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(length.into())
    }
}

/// What a log signed of a certificate, its TBSCertificate without the promises; and the promises.
/// `None` unless exactly one extension has them. Everything else stays as it is, byte for byte.
fn split(certificate: &[u8]) -> DerResult<Option<(Vec<u8>, Vec<u8>)>> {
    let whole = AnyRef::from_der(certificate)?;
    whole.tag().assert_eq(Tag::Sequence)?;
    let tbs: AnyRef<'_> = AnyRef::decode(&mut SliceReader::new(whole.value())?)?;
    let (mut kept, mut list) = (Vec::new(), None);
    let mut fields = SliceReader::new(tbs.value())?;
    while !fields.is_finished() {
        let field = fields.tlv_bytes()?;
        let parsed = AnyRef::from_der(field)?;
        if !matches!(parsed.tag(), Tag::ContextSpecific { constructed: true, number } if number.value() == 3)
        {
            kept.extend_from_slice(field);
            continue;
        }
        let mut others = Vec::new();
        let extensions = AnyRef::from_der(parsed.value())?;
        let mut extensions = SliceReader::new(extensions.value())?;
        while !extensions.is_finished() {
            let extension = extensions.tlv_bytes()?;
            let mut inner = SliceReader::new(AnyRef::from_der(extension)?.value())?;
            if ObjectIdentifier::decode(&mut inner)? != EXTENSION {
                others.extend_from_slice(extension);
                continue;
            }
            let value = <&OctetStringRef>::decode(&mut inner)?;
            let value = <&OctetStringRef>::from_der(value.as_bytes())?;
            if list.replace(value.as_bytes().to_vec()).is_some() {
                return Ok(None);
            }
        }
        let others = AnyRef::new(Tag::Sequence, &others)?.to_der()?;
        AnyRef::new(parsed.tag(), &others)?.encode_to_vec(&mut kept)?;
    }
    let Some(list) = list else { return Ok(None) };
    Ok(Some((AnyRef::new(tbs.tag(), &kept)?.to_der()?, list)))
}
