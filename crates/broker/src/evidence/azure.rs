//! `az-snp-vtpm` and `az-tdx-vtpm`: confidential machines of Azure, whose paravisor gives them a
//! vTPM. Upstream's forms 0, 1 and 2.
//!
//! What is checked, in this order: the SNP report or TDX quote, exactly as [`super::snp`] and
//! [`super::tdx`] do, VMPL 0 and no debugging included; that it is for the paravisor's runtime data
//! ([`hcl`]); that the attestation key named there signed the vTPM's quote; that the quote is for
//! nonce and key, and of the PCRs that were sent. In form 2, nonce and key are in the runtime data,
//! too.
//!
//! The hardware's measurement is that of the paravisor: without a policy that knows it, whoever has
//! such a processor can write a paravisor that says anything. What the guest booted is in the PCRs.

mod forms;
mod hcl;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use self::forms::Evidence;
use self::hcl::{Hcl, Kind, Vouched};
use super::snp::{self, Snp};
use super::tdx::{self, Tdx};
use super::tpm::{self, INIT_DATA_PCR};
use super::{InitDataDigest, Refused, Rejection, Verified, Verifier};
use crate::protocol::{ReportData, Tee};

/// The claims that upstream makes of an SNP report, all of them texts.
const SNP_CLAIMS: [&str; 12] = [
    "policy_abi_major",
    "policy_abi_minor",
    "policy_smt_allowed",
    "policy_migrate_ma",
    "policy_debug_allowed",
    "policy_single_socket",
    "reported_tcb_bootloader",
    "reported_tcb_tee",
    "reported_tcb_snp",
    "reported_tcb_microcode",
    "platform_tsme_enabled",
    "platform_smt_enabled",
];

/// `az-snp-vtpm`, by the verifier of SNP reports.
#[derive(Debug)]
pub(super) struct AzureSnp(pub(super) Arc<Snp>);

/// `az-tdx-vtpm`, by the verifier of TDX quotes.
#[derive(Debug)]
pub(super) struct AzureTdx(pub(super) Arc<Tdx>);

impl Verifier for AzureSnp {
    fn tee(&self) -> Tee {
        Tee::AZ_SNP_VTPM
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        now: u64,
    ) -> Result<Verified, Rejection> {
        let evidence = Evidence::of_snp(evidence)?;
        let hcl = Hcl::parse(&evidence.hcl_report, Kind::Snp)?;
        let (report, line) =
            self.0.prove_binary(hcl.hardware, evidence.endorsement.clone(), now)?;
        snp::is_closed(&report)?;
        let vouched = hcl.vouched(&report.report_data.0)?;
        let all = report.claims(line);
        let text = |name: &str| match &all[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut claims: Map<String, Value> =
            SNP_CLAIMS.iter().map(|&name| (name.to_owned(), text(name).into())).collect();
        let measurement = STANDARD.encode(report.measurement.0);
        claims.insert("measurement".to_owned(), measurement.into());
        quoted(claims, &evidence, &vouched, report_data)
    }
}

impl Verifier for AzureTdx {
    fn tee(&self) -> Tee {
        Tee::AZ_TDX_VTPM
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        now: u64,
    ) -> Result<Verified, Rejection> {
        let evidence = Evidence::of_tdx(evidence)?;
        // The TDREPORT inside is not looked at: only the TD itself could check it.
        let hcl = Hcl::parse(&evidence.hcl_report, Kind::Tdx)?;
        let proven = self.0.prove(&evidence.endorsement, now)?;
        let vouched = hcl.vouched(&tdx::closed(&proven)?.report_data)?;
        let Value::Object(claims) = tdx::claims(&proven) else {
            return Err(Refused::TdxVersion.into());
        };
        quoted(claims, &evidence, &vouched, report_data)
    }
}

/// Adds what the vTPM quoted to the claims, as upstream does.
fn quoted(
    mut claims: Map<String, Value>,
    evidence: &Evidence,
    vouched: &Vouched,
    report_data: &ReportData,
) -> Result<Verified, Rejection> {
    // Nothing of the message is believed, or even parsed, before that.
    vouched.has_signed(&evidence.message, &evidence.signature)?;
    let (_, pcrs) = tpm::quoted(&evidence.message, &report_data.0, &evidence.pcrs)?;
    if evidence.binds_user_data && !vouched.is_for(&report_data.padded()) {
        return Err(Refused::AzureUserData.into());
    }
    claims.insert("tpm".to_owned(), tpm::pcr_claims(&pcrs).into());
    claims.insert("report_data".to_owned(), hex::encode(report_data.0).into());
    let init_data = pcrs.get(&INIT_DATA_PCR).copied();
    claims.insert("init_data".to_owned(), init_data.map(hex::encode).into());
    let init_data = init_data.map(InitDataDigest::Pcr);
    Ok(Verified { claims: claims.into(), init_data })
}

#[cfg(test)]
mod tests;
