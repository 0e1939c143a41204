//! From VCEK or VLEK over ASK or ASVK to AMD's root key, the ARK.
//!
//! AMD's "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
//! (57230) has the names, the extensions and the algorithms: RSASSA-PSS with SHA-384 for all
//! signatures, P-384 for the certified key.

use std::fmt;

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use der::asn1::{AnyRef, BitString, Ia5StringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Reader, SliceReader};
use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::BasicConstraints;

use super::report::Tcb;
use super::revocation::Revocations;
use super::{Entry, Line, Refused, Rejection};

/// Largest certificate, in bytes: AMD's have less than 1 700.
const CERTIFICATE_BYTES_MAX: usize = 4096;
/// Most entries of a certificate table.
const ENTRIES_MAX: usize = 16;
/// Longest chip id, in bytes: 64 up to Genoa, 8 from Turin on.
const CHIP_ID_BYTES: usize = 64;

pub(super) const RSASSA_PSS: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const SPL_BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const SPL_TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SPL_SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const SPL_MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const SPL_FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const PROVIDER_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

const EMBEDDED: [(Line, &str, &str); 3] = [
    (Line::Milan, include_str!("amd/ark-milan.pem"), include_str!("amd/ask-milan.pem")),
    (Line::Genoa, include_str!("amd/ark-genoa.pem"), include_str!("amd/ask-genoa.pem")),
    (Line::Turin, include_str!("amd/ark-turin.pem"), include_str!("amd/ask-turin.pem")),
];

/// The roots that reports must lead to, and AMD's keys between them and the chips.
pub(in crate::evidence) struct AmdRoots {
    roots: Vec<Root>,
    /// None: revocation is not looked at.
    revocations: Option<Revocations>,
}

struct Root {
    line: Line,
    ark: Certificate,
    /// ASK and ASVK that guests need not send.
    intermediates: Vec<Certificate>,
}

/// A certificate, nothing of it verified, and the bytes that its issuer signed: as they came, not
/// as they would be encoded again.
#[derive(Debug, PartialEq)]
pub(super) struct Certificate {
    parsed: x509_cert::Certificate,
    signed: Vec<u8>,
}

/// A key that AMD certified, for now.
#[derive(Debug)]
pub(super) struct Endorsement {
    pub(super) line: Line,
    pub(super) kind: Kind,
    pub(super) tcb: Tcb,
    /// An uncompressed P-384 point.
    pub(super) public_key: Vec<u8>,
}

/// Whose key it is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A chip's.
    Vcek { chip_id: [u8; CHIP_ID_BYTES] },
    /// A cloud provider's.
    Vlek,
}

impl Certificate {
    pub(super) fn tbs(&self) -> &TbsCertificate {
        self.parsed.tbs_certificate()
    }
}

impl AmdRoots {
    /// AMD's own.
    pub(in crate::evidence) fn embedded() -> Self {
        let read = |pem: &str| {
            let (_, der) = der::pem::decode_vec(pem.as_bytes()).expect("embedded files are PEM");
            read(&der).expect("embedded certificates can be read")
        };
        let root = |(line, ark, ask)| Root { line, ark: read(ark), intermediates: vec![read(ask)] };
        Self { roots: EMBEDDED.map(root).into(), revocations: None }
    }

    /// Another root for a line, instead of AMD's: for tests with keys of their own.
    pub(in crate::evidence) fn replace(&mut self, line: Line, ark: &[u8]) -> Result<(), Rejection> {
        self.roots.retain(|root| root.line != line);
        self.roots.push(Root { line, ark: read(ark)?, intermediates: Vec::new() });
        Ok(())
    }

    /// Has the lists of a folder asked for each chain.
    pub(in crate::evidence) fn revoke(&mut self, revocations: Revocations) {
        self.revocations = Some(revocations);
    }

    /// Adds an ASK or ASVK. It becomes no root: one of the ARKs has to have signed it.
    pub(in crate::evidence) fn add_intermediate(&mut self, der: &[u8]) -> Result<(), Rejection> {
        let certificate = read(der)?;
        let of = |root: &&mut Root| is_issued(&certificate, &root.ark).is_ok();
        let root = self.roots.iter_mut().find(of).ok_or(Refused::SnpChainRoot)?;
        root.intermediates.push(certificate);
        Ok(())
    }

    /// The lines whose embedded certificates belong together.
    #[cfg(test)]
    pub(super) fn check_embedded(&self) -> Vec<Line> {
        let signed_by = |certificate: &Certificate, root: &Root| {
            is_issued(certificate, &root.ark).expect("the ARK signed it");
        };
        for root in &self.roots {
            signed_by(&root.ark, root);
            root.intermediates.iter().for_each(|ask| signed_by(ask, root));
        }
        self.roots.iter().map(|root| root.line).collect()
    }

    /// Verifies the chain of a guest's certificates at `now`, seconds since 1970 UTC.
    pub(super) fn endorse(&self, entries: &[Entry], now: u64) -> Result<Endorsement, Rejection> {
        if entries.len() > ENTRIES_MAX {
            return Err(Refused::SnpCertificate.because(format!("{} entries", entries.len())));
        }
        let of = |kind: &str| entries.iter().filter(|entry| entry.cert_type == *kind).collect();
        let (vceks, vleks): (Vec<_>, Vec<_>) = (of("VCEK"), of("VLEK"));
        let (leaf, is_vcek) = match (&vceks[..], &vleks[..]) {
            ([vcek], []) => (read(&vcek.data)?, true),
            ([], [vlek]) => (read(&vlek.data)?, false),
            _ => return Err(Refused::SnpChainMissing.because("not exactly one VCEK or VLEK")),
        };
        let (subject, prefix) =
            if is_vcek { ("SEV-VCEK", "SEV-") } else { ("SEV-VLEK", "SEV-VLEK-") };
        if common_name(leaf.tbs().subject()).as_deref() != Some(subject) {
            return Err(Refused::SnpChain.because(format!("the leaf is no {subject}")));
        }
        let issuer = common_name(leaf.tbs().issuer()).unwrap_or_default();
        let line = issuer.strip_prefix(prefix).and_then(Line::named);
        let root = self.roots.iter().find(|root| Some(root.line) == line);
        let root = root.ok_or_else(|| Refused::SnpProduct.because(format!("issuer {issuer:?}")))?;

        // What a guest brings may confirm the root, never be one.
        for entry in of("ARK").iter().map(|entry: &&Entry| &entry.data) {
            if read(entry)? != root.ark {
                return Err(Refused::SnpChainRoot.because(format!("not ARK-{}", root.line.name())));
            }
        }
        let brought: Vec<_> =
            of("ASK").iter().map(|entry: &&Entry| read(&entry.data)).collect::<Result<_, _>>()?;
        let named = |certificate: &&Certificate| certificate.tbs().subject() == leaf.tbs().issuer();
        let intermediate =
            brought.iter().chain(&root.intermediates).find(named).ok_or_else(|| {
                Refused::SnpChainMissing.because(format!("no certificate of {issuer:?}"))
            })?;

        is_issued(intermediate, &root.ark)?;
        is_issued(&leaf, intermediate)?;
        for certificate in [&root.ark, intermediate, &leaf] {
            is_valid(certificate, now)?;
        }
        if let Some(revocations) = &self.revocations {
            revocations.check(root.line, is_vcek, &root.ark, intermediate, now)?;
        }
        endorsement(&leaf, root.line, is_vcek)
    }
}

impl fmt::Debug for AmdRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roots.iter().map(|root| root.line)).finish()
    }
}

fn read(der: &[u8]) -> Result<Certificate, Rejection> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(Refused::SnpCertificate.because(format!("{} bytes", der.len())));
    }
    let parsed = x509_cert::Certificate::from_der(der).map_err(malformed)?;
    let content = AnyRef::from_der(der).map_err(malformed)?.value();
    let signed = SliceReader::new(content).and_then(|mut reader| reader.tlv_bytes());
    Ok(Certificate { parsed, signed: signed.map_err(malformed)?.to_vec() })
}

/// Whether `issuer` is a certificate authority of that name, and signed the certificate.
fn is_issued(certificate: &Certificate, issuer: &Certificate) -> Result<(), Rejection> {
    let (tbs, authority) = (certificate.tbs(), issuer.tbs());
    let subject = || authority.subject().to_string();
    if tbs.issuer() != authority.subject() {
        return Err(Refused::SnpChain.because(format!("not issued by {}", subject())));
    }
    let may_issue = authority
        .get_extension::<BasicConstraints>()
        .is_ok_and(|found| found.is_some_and(|(_, constraints)| constraints.ca));
    if !may_issue {
        return Err(Refused::SnpChain.because(format!("{} is no authority", subject())));
    }
    let algorithm = certificate.parsed.signature_algorithm();
    // The outer copy is not signed.
    if algorithm.oid != RSASSA_PSS || algorithm != tbs.signature() {
        return Err(Refused::SnpChain.because("not signed with RSASSA-PSS"));
    }
    let key = whole(&authority.subject_public_key_info().subject_public_key)?;
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
        .verify(&certificate.signed, whole(certificate.parsed.signature())?)
        .map_err(|_| Refused::SnpChain.because(format!("not signed by {}", subject())))
}

fn is_valid(certificate: &Certificate, now: u64) -> Result<(), Rejection> {
    let validity = certificate.tbs().validity();
    let [from, until] =
        [validity.not_before, validity.not_after].map(|time| time.to_unix_duration().as_secs());
    if (from..=until).contains(&now) {
        return Ok(());
    }
    let subject = certificate.tbs().subject();
    Err(Refused::SnpChainExpired.because(format!("{subject} is good from {from} to {until}")))
}

/// Reads a leaf that was verified.
fn endorsement(leaf: &Certificate, line: Line, is_vcek: bool) -> Result<Endorsement, Rejection> {
    let product = required(leaf, PRODUCT_NAME)?;
    let product = Ia5StringRef::from_der(product).map_err(malformed)?.as_str();
    if !line.has_product(product) {
        return Err(Refused::SnpProduct.because(format!("{product} under {line:?}")));
    }
    let level = |oid| u8::from_der(required(leaf, oid)?).map_err(malformed);
    let tcb = Tcb {
        fmc: if line == Line::Turin { Some(level(SPL_FMC)?) } else { None },
        bootloader: level(SPL_BOOTLOADER)?,
        tee: level(SPL_TEE)?,
        snp: level(SPL_SNP)?,
        microcode: level(SPL_MICROCODE)?,
    };
    let kind = if is_vcek {
        Kind::Vcek { chip_id: chip_id(required(leaf, HARDWARE_ID)?, line)? }
    } else {
        required(leaf, PROVIDER_ID)?;
        Kind::Vlek
    };
    let key = leaf.tbs().subject_public_key_info();
    if key.algorithm.oid != EC_PUBLIC_KEY {
        return Err(Refused::SnpCertificate.because("not a key for ECDSA"));
    }
    Ok(Endorsement { line, kind, tcb, public_key: whole(&key.subject_public_key)?.to_vec() })
}

/// The chip's id as reports have it. Certificates hold it bare, or as an OCTET STRING.
fn chip_id(value: &[u8], line: Line) -> Result<[u8; CHIP_ID_BYTES], Rejection> {
    let length = if line == Line::Turin { 8 } else { CHIP_ID_BYTES };
    let bare = if value.len() == length {
        value
    } else {
        <&OctetStringRef>::from_der(value).map_err(malformed)?.as_bytes()
    };
    let mut id = [0; CHIP_ID_BYTES];
    if bare.len() != length {
        return Err(Refused::SnpCertificate.because("a chip id of another length"));
    }
    id[..length].copy_from_slice(bare);
    Ok(id)
}

/// The value of an extension that must be there once.
fn required(certificate: &Certificate, oid: ObjectIdentifier) -> Result<&[u8], Rejection> {
    let mut found = certificate
        .tbs()
        .extensions()
        .into_iter()
        .flatten()
        .filter(|extension| extension.extn_id == oid);
    match (found.next(), found.next()) {
        (Some(extension), None) => Ok(extension.extn_value.as_bytes()),
        _ => Err(Refused::SnpCertificate.because(format!("not one extension {oid}"))),
    }
}

/// A BIT STRING of whole bytes: how many bits of the last one count is not signed.
pub(super) fn whole(bits: &BitString) -> Result<&[u8], Rejection> {
    bits.as_bytes().ok_or_else(|| Refused::SnpCertificate.because("a part of a byte"))
}

fn common_name(name: &x509_cert::name::Name) -> Option<String> {
    Some(name.common_name().ok()??.value().into_owned())
}

fn malformed(error: der::Error) -> Rejection {
    Refused::SnpCertificate.because(error)
}
