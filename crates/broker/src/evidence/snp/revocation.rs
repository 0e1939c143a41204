//! AMD's revocation lists: which ASKs and ASVKs an ARK no longer stands for.
//!
//! AMD's key server has one for each line and kind of key (57230, `/vcek/v1/<line>/crl` and
//! `/vlek/v1/<line>/crl`), DER, signed by the ARK. The operator fetches them; nothing is fetched here.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use der::Decode;
use der::asn1::AnyRef;
use der::{Reader, SliceReader};
use x509_cert::crl::CertificateList;

use super::chain::{Certificate, RSASSA_PSS, whole};
use super::{Line, Refused, Rejection};
use crate::files;

/// Largest list, in bytes: AMD's have about 1 000.
const LIST_BYTES_MAX: usize = 64 * 1024;

/// The operator's folder of lists: `milan.crl` for VCEKs' chains, `milan-vlek.crl` for VLEKs'.
#[derive(Debug)]
pub(in crate::evidence) struct Revocations(pub(in crate::evidence) PathBuf);

impl Revocations {
    /// Whether `ark` still stands for an ASK or ASVK that it signed, at `now`. The file is read each
    /// time, so that a newer list is in force at once.
    pub(super) fn check(
        &self,
        line: Line,
        is_vcek: bool,
        ark: &Certificate,
        intermediate: &Certificate,
        now: u64,
    ) -> Result<(), Rejection> {
        let kind = if is_vcek { "" } else { "-vlek" };
        let path = self.0.join(format!("{}{kind}.crl", line.name().to_lowercase()));
        let bytes = files::read(&path, LIST_BYTES_MAX).map_err(|error| {
            Refused::SnpCrlMissing.because(format!("{}: {error}", path.display()))
        })?;
        check(&bytes, &path, ark, intermediate, now)
    }
}

fn check(
    bytes: &[u8],
    path: &Path,
    ark: &Certificate,
    intermediate: &Certificate,
    now: u64,
) -> Result<(), Rejection> {
    let refuse = |reason: Refused, why: &str| reason.because(format!("{}: {why}", path.display()));
    let unusable = |why: &str| refuse(Refused::SnpCrl, why);
    let malformed = |error: der::Error| unusable(&error.to_string());
    let list: CertificateList = CertificateList::from_der(bytes).map_err(malformed)?;
    let content = AnyRef::from_der(bytes).map_err(malformed)?.value();
    let signed =
        SliceReader::new(content).and_then(|mut reader| reader.tlv_bytes()).map_err(malformed)?;
    let tbs = &list.tbs_cert_list;
    if tbs.issuer != *ark.tbs().subject() {
        return Err(unusable(&format!("issued by {}", tbs.issuer)));
    }
    // The outer copy is not signed.
    if list.signature_algorithm.oid != RSASSA_PSS || list.signature_algorithm != tbs.signature {
        return Err(unusable("not signed with RSASSA-PSS"));
    }
    let key = whole(&ark.tbs().subject_public_key_info().subject_public_key)?;
    let signature = list.signature.as_bytes().ok_or_else(|| unusable("a part of a byte"))?;
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
        .verify(signed, signature)
        .map_err(|_| unusable("not signed by the ARK"))?;
    // What makes a list partial is critical (RFC 5280 section 5.2.4 and 5.2.5).
    if tbs.crl_extensions.iter().flatten().any(|extension| extension.critical) {
        return Err(unusable("a critical extension"));
    }
    let until = tbs.next_update.ok_or_else(|| unusable("no next update"))?;
    let [from, until] = [tbs.this_update, until].map(|time| time.to_unix_duration().as_secs());
    if !(from..=until).contains(&now) {
        return Err(refuse(Refused::SnpCrlStale, &format!("good from {from} to {until}")));
    }
    let serial = intermediate.tbs().serial_number();
    if tbs.revoked_certificates.iter().flatten().any(|revoked| revoked.serial_number == *serial) {
        let subject = intermediate.tbs().subject();
        return Err(Refused::CertificateRevoked.because(format!("{subject}, serial {serial}")));
    }
    Ok(())
}
