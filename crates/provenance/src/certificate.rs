//! Certificates of signers.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage as ExtendedUsage};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, SubjectAltName};

use crate::Error;
use crate::key::PublicKey;

/// Most certificates in a chain.
pub(crate) const CERTIFICATES_MAX: usize = 16;
/// `id-kp-codeSigning` (RFC 5280), without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// Checks the chain, its leaf first, as of `now`, and returns the leaf's key and names.
///
/// The leaf must say that it is for signing: by its key usage (digitalSignature) or its extended key
/// usage (codeSigning), and by both if it has both.
pub(crate) fn verify(
    chain: &[Vec<u8>],
    roots: &[TrustAnchor<'_>],
    now: UnixTime,
) -> Result<(PublicKey, Vec<String>), Error> {
    let refused = |why: String| Error::Certificate(why);
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, intermediates) =
        chain.split_first().ok_or_else(|| refused("there is none".into()))?;
    let entity = EndEntityCert::try_from(leaf).map_err(|error| refused(error.to_string()))?;
    let usage = ExtendedUsage::required_if_present(CODE_SIGNING);
    entity
        .verify_for_usage(ALL_VERIFICATION_ALGS, roots, intermediates, now, usage, None, None)
        .map_err(|error| refused(error.to_string()))?;
    let parsed = Certificate::from_der(leaf).map_err(|error| refused(error.to_string()))?;
    let tbs = parsed.tbs_certificate();
    let unreadable = |_| Error::Certificate("an extension that cannot be read".into());
    let key_usage = tbs.get_extension::<KeyUsage>().map_err(unreadable)?;
    let extended = tbs.get_extension::<ExtendedKeyUsage>().map_err(unreadable)?;
    match (key_usage, extended) {
        (Some((_, usage)), _) if !usage.digital_signature() => {
            return Err(refused("its key usage has no digitalSignature".into()));
        }
        (None, None) => return Err(refused("it does not say that it is for signing".into())),
        _ => {}
    }
    let mut names = vec![tbs.subject().to_string()];
    if let Some((_, alternatives)) = tbs.get_extension::<SubjectAltName>().map_err(unreadable)? {
        names.extend(alternatives.0.iter().filter_map(|name| match name {
            GeneralName::Rfc822Name(name) => Some(name.to_string()),
            GeneralName::DnsName(name) => Some(name.to_string()),
            GeneralName::UniformResourceIdentifier(name) => Some(name.to_string()),
            _ => None,
        }));
    }
    names.retain(|name| !name.is_empty());
    let key = PublicKey::from_spki(&entity.subject_public_key_info());
    Ok((key.map_err(|error| refused(error.to_string()))?, names))
}
