//! Certificates of signers.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage as ExtendedUsage, VerifiedPath};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::{Certificate, TbsCertificate};

use crate::Error;
use crate::key::PublicKey;

/// Most certificates in a chain.
pub(crate) const CERTIFICATES_MAX: usize = 16;
/// Longest certificate.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 16 << 10;
/// `id-kp-codeSigning` (RFC 5280), without tag and length.
pub(crate) const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// Checks the chain, its leaf first, as of `now`, and returns the leaf's key and names.
///
/// The leaf must say that it is for signing: by its key usage (digitalSignature) or its extended key
/// usage (codeSigning), and by both if it has both.
pub(crate) fn verify(
    chain: &[Vec<u8>],
    roots: &[TrustAnchor<'_>],
    now: UnixTime,
) -> Result<(PublicKey, Vec<String>), Error> {
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| refused("there is none"))?;
    let entity = EndEntityCert::try_from(leaf).map_err(refused)?;
    path(&entity, intermediates, roots, now, CODE_SIGNING)?;
    let parsed = Certificate::from_der(leaf).map_err(refused)?;
    let tbs = parsed.tbs_certificate();
    match usages(tbs)? {
        (Some(usage), _) if !usage.digital_signature() => {
            return Err(refused("its key usage has no digitalSignature"));
        }
        (None, None) => return Err(refused("it does not say that it is for signing")),
        _ => {}
    }
    let mut names = vec![tbs.subject().to_string()];
    names.extend(alternatives(tbs)?.into_iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        other => address(other),
    }));
    names.retain(|name| !name.is_empty());
    Ok((key(&entity)?, names))
}

/// Checks that `roots` vouch for `entity` as of `now`, and that it is for `usage` if it says what it
/// is for.
pub(crate) fn path<'a>(
    entity: &'a EndEntityCert<'a>,
    intermediates: &'a [CertificateDer<'a>],
    roots: &'a [TrustAnchor<'a>],
    now: UnixTime,
    usage: &'static [u8],
) -> Result<VerifiedPath<'a>, Error> {
    let usage = ExtendedUsage::required_if_present(usage);
    entity
        .verify_for_usage(ALL_VERIFICATION_ALGS, roots, intermediates, now, usage, None, None)
        .map_err(refused)
}

/// What a certificate says that it is for.
pub(crate) fn usages(
    tbs: &TbsCertificate,
) -> Result<(Option<KeyUsage>, Option<ExtendedKeyUsage>), Error> {
    let key_usage = tbs.get_extension::<KeyUsage>().map_err(unreadable)?;
    let extended = tbs.get_extension::<ExtendedKeyUsage>().map_err(unreadable)?;
    Ok((key_usage.map(|(_, usage)| usage), extended.map(|(_, usage)| usage)))
}

/// A certificate's subject alternative names.
pub(crate) fn alternatives(tbs: &TbsCertificate) -> Result<Vec<GeneralName>, Error> {
    let names = tbs.get_extension::<SubjectAltName>().map_err(unreadable)?;
    Ok(names.map(|(_, names)| names.0).unwrap_or_default())
}

/// A name that is an e-mail address or URI.
pub(crate) fn address(name: GeneralName) -> Option<String> {
    match name {
        GeneralName::Rfc822Name(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(name) => Some(name.to_string()),
        _ => None,
    }
}

/// A certificate's key.
pub(crate) fn key(entity: &EndEntityCert<'_>) -> Result<PublicKey, Error> {
    PublicKey::from_spki(&entity.subject_public_key_info()).map_err(refused)
}

pub(crate) fn refused(why: impl ToString) -> Error {
    Error::Certificate(why.to_string())
}

fn unreadable(_: x509_cert::der::Error) -> Error {
    refused("an extension that cannot be read")
}
