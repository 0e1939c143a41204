//! `snp`: AMD SEV-SNP reports, versions 2 to 5, by VCEK or VLEK.
//!
//! What is checked, in this order: the certificates up to AMD's root of the processor line
//! ([`chain`]), at the broker's time; that the certified key is this chip's, at this TCB; its
//! signature over the report; then what the report says: nonce and key, VMPL 0, no debugging.
//! AMD's revocation lists are consulted where the operator has given them ([`revocation`]).

mod chain;
mod report;
mod revocation;

use serde::Deserialize;
use serde_json::Value;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

pub(super) use chain::AmdRoots;
use chain::{Endorsement, Kind};
pub(super) use report::Report;
pub(super) use revocation::Revocations;

use super::{InitDataDigest, Refused, Rejection, Verified, Verifier};
use crate::protocol::{ReportData, Tee};

/// ECDSA P-384 with SHA-384.
const SIG_ALGO: u32 = 1;

/// A line of processors: each has its own root and its own layout of the TCB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Line {
    const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|line| line.name() == name)
    }

    /// Whether a certificate's productName (`Milan-B0`, `Turin`) belongs to the line.
    fn has_product(self, product: &str) -> bool {
        let family = product.split('-').next().unwrap_or(product);
        family == self.name() || self == Self::Genoa && matches!(family, "Bergamo" | "Siena")
    }
}

/// The verifier.
#[derive(Debug)]
pub(super) struct Snp(pub(super) AmdRoots);

/// Upstream's `SnpEvidence`.
#[derive(Deserialize)]
struct Evidence {
    attestation_report: Report,
    cert_chain: Option<Vec<Entry>>,
}

/// Upstream's `CertTableEntry`.
#[derive(Debug, Deserialize)]
struct Entry {
    /// `"VCEK"`, or an object for kinds that we ignore.
    cert_type: Value,
    /// DER.
    data: Vec<u8>,
}

impl Verifier for Snp {
    fn tee(&self) -> Tee {
        Tee::SNP
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        now: u64,
    ) -> Result<Verified, Rejection> {
        let (report, line) = self.genuine(evidence, now)?;
        if report.report_data.0 != report_data.padded::<64>() {
            return Err(Refused::SnpReportData.into());
        }
        is_closed(&report)?;
        let init_data = Some(InitDataDigest::Field(report.host_data.0.to_vec()));
        Ok(Verified { claims: report.claims(line), init_data })
    }
}

impl Snp {
    /// A report that AMD's firmware signed on a processor of this line.
    fn genuine(&self, evidence: &Value, now: u64) -> Result<(Report, Line), Rejection> {
        let Evidence { attestation_report: report, cert_chain } =
            Evidence::deserialize(evidence).map_err(|error| Refused::SnpFormat.because(error))?;
        self.prove(report, &cert_chain.unwrap_or_default(), now)
    }

    /// The same of a report as AMD's firmware writes it, and the VCEK that goes with it (DER).
    pub(super) fn prove_binary(
        &self,
        report: &[u8],
        vcek: Vec<u8>,
        now: u64,
    ) -> Result<(Report, Line), Rejection> {
        let report = Report::parse(report).ok_or(Refused::SnpFormat)?;
        let vcek = Entry { cert_type: "VCEK".into(), data: vcek };
        self.prove(report, &[vcek], now)
    }

    fn prove(
        &self,
        report: Report,
        certificates: &[Entry],
        now: u64,
    ) -> Result<(Report, Line), Rejection> {
        if !(2..=5).contains(&report.version) {
            return Err(Refused::SnpVersion.because(report.version));
        }
        let named = report.line().map_err(|why| Refused::SnpProduct.because(why))?;
        let key = self.0.endorse(certificates, now)?;
        if named.is_some_and(|line| line != key.line) {
            return Err(Refused::SnpProduct.because(format!("{named:?} by {:?}", key.line)));
        }
        if !report.has_only_signed_fields(key.line) {
            return Err(Refused::SnpFormat.because("a field that reports of its version lack"));
        }
        is_of_this_chip(&report, &key)?;
        is_signed(&report, &key)?;
        Ok((report, key.line))
    }
}

/// Whether neither another level of the guest nor the host can speak for it or look into it.
pub(super) fn is_closed(report: &Report) -> Result<(), Rejection> {
    if report.vmpl != 0 {
        return Err(Refused::SnpVmpl.because(report.vmpl));
    }
    if report.debug_allowed() {
        return Err(Refused::SnpDebug.into());
    }
    Ok(())
}

/// Firmware of another version, or another chip, has another key.
fn is_of_this_chip(report: &Report, key: &Endorsement) -> Result<(), Rejection> {
    let reported = report.reported_tcb;
    if reported != key.tcb {
        let cause = format!("report {reported:?}, certificate {:?}", key.tcb);
        return Err(Refused::SnpTcb.because(cause));
    }
    match &key.kind {
        Kind::Vcek { chip_id } if *chip_id != report.chip_id.0 => {
            Err(Refused::SnpChipId.because("the VCEK is another chip's, or the id is masked"))
        }
        // A VLEK is a provider's, for all of its chips.
        Kind::Vcek { .. } | Kind::Vlek => Ok(()),
    }
}

fn is_signed(report: &Report, key: &Endorsement) -> Result<(), Rejection> {
    let signing_key = match key.kind {
        Kind::Vcek { .. } => 0,
        Kind::Vlek => 1,
    };
    if report.sig_algo != SIG_ALGO || report.signing_key() != signing_key {
        let found = (report.sig_algo, report.signing_key());
        return Err(Refused::SnpSignature.because(format!("algorithm and key {found:?}")));
    }
    let verified = report.signature().is_some_and(|signature| {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &key.public_key)
            .verify(&report.signed(key.line), &signature)
            .is_ok()
    });
    if verified { Ok(()) } else { Err(Refused::SnpSignature.into()) }
}

#[cfg(test)]
mod tests;
