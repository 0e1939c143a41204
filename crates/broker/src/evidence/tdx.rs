//! `tdx`: Intel TDX quotes, versions 4 and 5, by collateral from a directory.
//!
//! The chain of trust is verified by `dcap-qvl`, computing with aws-lc-rs: Intel's root, the
//! platform's PCK certificate, revocation lists, the quoting enclave, the quote, and the platform's
//! and TDX module's TCB. Around it, here: where collateral comes from, the broker's time, nonce and
//! key, debugging. Event logs (`cc_eventlog`) are not read, so no claim comes from them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::quote::{AuthData, Quote, TDReport10};
use dcap_qvl::signature::DerSigEncoder;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::x509::X509CertBackend;
use dcap_qvl::{Policy, QeIdentity, QuoteClaims, QuoteCollateralV3, TcbInfo, intel};
use der::Decode;
use jiff::Timestamp;
use rustls_pki_types::SignatureVerificationAlgorithm;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use x509_cert::crl::CertificateList;

use super::{InitDataDigest, Refused, Rejection, Verified, Verifier};
use crate::error::Error;
use crate::files;
use crate::protocol::{ReportData, Tee};

/// Longest quote, in bytes: real ones have about 5 000.
const QUOTE_BYTES_MAX: usize = 16 * 1024;
/// Largest collateral file, in bytes: real ones have about 25 000.
const COLLATERAL_BYTES_MAX: usize = 512 * 1024;

const TEE_TYPE_TDX: u32 = 0x81;
/// The only kind of certification data that quotes of TDs have.
const QE_REPORT_CERTIFICATION: u16 = 6;
/// Bits 0 to 7 of a TD's attributes: any of them opens the TD to its host.
const UNDER_DEBUG: usize = 0;

/// The verifier.
#[derive(Debug)]
pub(super) struct Tdx {
    collateral_dir: PathBuf,
    /// DER.
    root: Vec<u8>,
}

/// Upstream's `TdxEvidence`, less the event log.
#[derive(Deserialize)]
struct Evidence {
    quote: String,
}

/// `dcap-qvl` with this workspace's one provider of cryptography.
struct AwsLc;

impl Config for AwsLc {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        digest(&SHA256, data).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        digest(&SHA384, data).as_ref().try_into().expect("SHA-384 has 48 bytes")
    }
}

/// Judging the TCB is the attestation policy's.
struct Unjudged;

impl Policy for Unjudged {
    fn validate(&self, _: &QuoteClaims) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Intel's SGX root, which TDX shares.
pub(super) fn intel_root() -> Vec<u8> {
    include_bytes!("intel/root.der").to_vec()
}

impl Tdx {
    /// Reads collateral from `collateral_dir`: `<fmspc>.json`, the platform's FMSPC in lower-case
    /// hex.
    pub(super) fn new(collateral_dir: PathBuf, root: Vec<u8>) -> Result<Self, Error> {
        std::fs::read_dir(&collateral_dir)
            .map_err(|source| Error::file(&collateral_dir, source))?;
        Ok(Self { collateral_dir, root })
    }

    /// What is on the disk now: it is small, and rarely asked for.
    fn collateral(&self, fmspc: &str) -> Result<QuoteCollateralV3, Rejection> {
        let path = self.collateral_dir.join(format!("{fmspc}.json"));
        let bytes = files::read(&path, COLLATERAL_BYTES_MAX).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => Refused::TdxCollateralMissing,
                _ => Refused::TdxCollateral,
            };
            reason.because(format!("{}: {error}", path.display()))
        })?;
        let mut collateral: QuoteCollateralV3 = serde_json::from_slice(&bytes)
            .map_err(|error| Refused::TdxCollateral.because(error))?;
        // The platform's own certificates come with its quote.
        collateral.pck_certificate_chain = None;
        Ok(collateral)
    }
}

impl Verifier for Tdx {
    fn tee(&self) -> Tee {
        Tee::TDX
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        now: u64,
    ) -> Result<Verified, Rejection> {
        let proven = self.genuine(evidence, now)?;
        let report = closed(&proven)?;
        if report.report_data != report_data.padded::<64>() {
            return Err(Refused::TdxReportData.into());
        }
        let init_data = Some(InitDataDigest::Field(report.mr_config_id.to_vec()));
        Ok(Verified { claims: claims(&proven), init_data })
    }
}

impl Tdx {
    /// A quote that Intel's enclave signed on a platform that Intel certified.
    fn genuine(&self, evidence: &Value, now: u64) -> Result<QuoteClaims, Rejection> {
        let malformed = |error: &dyn fmt::Display| Refused::TdxFormat.because(error);
        let Evidence { quote } =
            Evidence::deserialize(evidence).map_err(|error| malformed(&error))?;
        if quote.len() > QUOTE_BYTES_MAX / 3 * 4 {
            return Err(malformed(&"longer than any quote"));
        }
        self.prove(&STANDARD.decode(quote).map_err(|error| malformed(&error))?, now)
    }

    /// The same of a quote's bytes.
    pub(super) fn prove(&self, bytes: &[u8], now: u64) -> Result<QuoteClaims, Rejection> {
        if bytes.len() > QUOTE_BYTES_MAX {
            return Err(Refused::TdxFormat.because("longer than any quote"));
        }
        let quote = parse(bytes)?;
        let fmspc = intel::quote_fmspc_with::<AwsLc>(&quote)
            .map_err(|error| Refused::TdxCertificate.because(format!("{error:#}")))?;
        let collateral = self.collateral(&hex::encode(fmspc))?;
        is_current(&collateral, now)?;
        QuoteVerifier::<AwsLc>::new_with_config(self.root.clone())
            // Refused below, under a name of its own.
            .allow_debug(true)
            .verify_with_policy(bytes, collateral, now, &Unjudged)
            .map_err(|error| reason(&format!("{error:#}")))
    }
}

/// The report of a TD that its host cannot look into.
pub(super) fn closed(proven: &QuoteClaims) -> Result<&TDReport10, Rejection> {
    let report = proven.report.as_td10().ok_or(Refused::TdxVersion)?;
    if report.td_attributes[UNDER_DEBUG] != 0 {
        return Err(Refused::TdxDebug.into());
    }
    Ok(report)
}

fn parse(bytes: &[u8]) -> Result<Quote, Rejection> {
    let quote =
        Quote::parse(bytes).map_err(|error| Refused::TdxFormat.because(format!("{error:#}")))?;
    if quote.header.tee_type != TEE_TYPE_TDX || !matches!(quote.header.version, 4 | 5) {
        let found = (quote.header.tee_type, quote.header.version);
        return Err(Refused::TdxVersion.because(format!("TEE type and version {found:?}")));
    }
    match &quote.auth_data {
        AuthData::V4(data) if data.certification_data.cert_type == QE_REPORT_CERTIFICATION => {}
        _ => return Err(Refused::TdxFormat.because("not certified by a quoting enclave's report")),
    }
    // Drivers hand out a buffer that is longer than the quote, filled with zeroes.
    let length = bytes.get(quote.signed_length()..).and_then(|rest| rest.first_chunk());
    let end = length.and_then(|&length: &[u8; 4]| {
        quote.signed_length().checked_add(4)?.checked_add(u32::from_le_bytes(length) as usize)
    });
    match end.and_then(|end| bytes.get(end..)) {
        Some(rest) if rest.iter().all(|&byte| byte == 0) => Ok(quote),
        _ => Err(Refused::TdxFormat.because("more than a quote")),
    }
}

/// Whether all parts of the collateral are in their time. `dcap-qvl` looks, too; this is for the
/// name of the refusal.
fn is_current(collateral: &QuoteCollateralV3, now: u64) -> Result<(), Rejection> {
    let unreadable = |error: &dyn fmt::Display| Refused::TdxCollateral.because(error);
    let tcb: TcbInfo =
        serde_json::from_str(&collateral.tcb_info).map_err(|error| unreadable(&error))?;
    let enclave: QeIdentity =
        serde_json::from_str(&collateral.qe_identity).map_err(|error| unreadable(&error))?;
    let seconds = |text: &str| {
        let time: Timestamp = text.parse().map_err(|error| unreadable(&error))?;
        u64::try_from(time.as_second()).map_err(|error| unreadable(&error))
    };
    let mut windows = vec![
        ("TCB info", seconds(&tcb.issue_date)?, seconds(&tcb.next_update)?),
        ("QE identity", seconds(&enclave.issue_date)?, seconds(&enclave.next_update)?),
    ];
    for (what, crl) in [("root CRL", &collateral.root_ca_crl), ("PCK CRL", &collateral.pck_crl)] {
        let crl: CertificateList =
            CertificateList::from_der(crl).map_err(|error| unreadable(&error))?;
        let until =
            crl.tbs_cert_list.next_update.ok_or_else(|| unreadable(&"a CRL without end"))?;
        let [from, until] =
            [crl.tbs_cert_list.this_update, until].map(|time| time.to_unix_duration().as_secs());
        windows.push((what, from, until));
    }
    match windows.iter().find(|(_, from, until)| !(*from..=*until).contains(&now)) {
        None => Ok(()),
        Some((what, from, until)) => {
            let cause = format!("{what} is good from {from} to {until}");
            Err(Refused::TdxCollateralStale.because(cause))
        }
    }
}

/// Names a refusal of `dcap-qvl`, which has texts only. That it is refused does not depend on the
/// text, nor on this table.
fn reason(text: &str) -> Rejection {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let reason = if has(&["TCB status is invalid", "No matching TCB level", "below minimum"]) {
        Refused::TdxTcb
    } else if has(&[
        "TD attributes",
        "TD migration",
        "TD profiling",
        "SERVTD",
        "SEPT_VE",
        "service TD",
        "SEAMATTRIBUTES",
        "MRSIGNER mismatch",
    ]) {
        Refused::TdxAttributes
    } else if has(&[
        "report signature is invalid",
        "Signature is invalid for qe_report",
        "QE report hash",
        "QE auth data",
    ]) {
        Refused::TdxSignature
    } else {
        Refused::TdxChain
    };
    reason.because(text)
}

/// What upstream's verifier makes of a quote, by its names.
pub(super) fn claims(proven: &QuoteClaims) -> Value {
    let Some(report) = proven.report.as_td10() else { return Value::Null };
    let header = &proven.header;
    let mut body = Map::new();
    let mut put = |name: &str, field: &[u8]| {
        body.insert(name.to_owned(), hex::encode(field).into());
    };
    put("tcb_svn", &report.tee_tcb_svn);
    put("mr_seam", &report.mr_seam);
    put("mrsigner_seam", &report.mr_signer_seam);
    put("seam_attributes", &report.seam_attributes);
    put("td_attributes", &report.td_attributes);
    put("xfam", &report.xfam);
    put("mr_td", &report.mr_td);
    put("mr_config_id", &report.mr_config_id);
    put("mr_owner", &report.mr_owner);
    put("mr_owner_config", &report.mr_owner_config);
    put("rtmr_0", &report.rt_mr0);
    put("rtmr_1", &report.rt_mr1);
    put("rtmr_2", &report.rt_mr2);
    put("rtmr_3", &report.rt_mr3);
    put("report_data", &report.report_data);
    if let Some(later) = proven.report.as_td15() {
        put("tee_tcb_svn2", &later.tee_tcb_svn2);
        put("mr_servicetd", &later.mr_service_td);
    }
    let attributes = u64::from_le_bytes(report.td_attributes);
    let attribute = |at: u32| attributes >> at & 1 != 0;
    json!({
        "quote": {
            "header": {
                "version": hex::encode(header.version.to_le_bytes()),
                "att_key_type": hex::encode(header.attestation_key_type.to_le_bytes()),
                "tee_type": hex::encode(header.tee_type.to_le_bytes()),
                "vendor_id": hex::encode(header.qe_vendor_id),
                "user_data": hex::encode(header.user_data),
            },
            "body": body,
        },
        "td_attributes": {
            "debug": attribute(0), "septve_disable": attribute(28),
            "protection_keys": attribute(30), "key_locker": attribute(31), "perfmon": attribute(63),
        },
        "report_data": hex::encode(report.report_data),
        "init_data": hex::encode(report.mr_config_id),
        "tcb_status": proven.tcb.status.to_string(),
        "tcb_date": proven.platform.tcb_level.tcb_date,
        "tcb_eval_num": proven.tcb.eval_data_number,
        "advisory_ids": proven.tcb.advisory_ids,
        // Stale collateral is refused.
        "collateral_expiration_status": "0",
        "fmspc": hex::encode(proven.platform.pck.fmspc),
    })
}

#[cfg(test)]
mod tests;
