//! Verifiers of evidence: one for each TEE. What they prove is judged by the attestation policy
//! (`appraisal`), not here.

mod azure;
mod refused;
mod roots;
mod sample;
mod snp;
mod tdx;
mod tpm;
#[cfg(test)]
#[path = "../tests/common/vectors.rs"]
mod vectors;

use std::sync::Arc;

use serde_json::Value;

pub use refused::{Refused, Rejection};
pub use roots::Roots;

use crate::config::Config;
use crate::error::Error;
use crate::protocol::{ReportData, Tee};

/// Verifies the evidence of one kind of TEE.
///
/// There is no fallback: a TEE without a verifier is refused.
pub trait Verifier: Send + Sync + std::fmt::Debug {
    /// The TEE whose evidence it reads.
    fn tee(&self) -> Tee;
    /// Checks that the evidence is genuine at `now` (seconds since 1970 UTC) and carries
    /// `report_data` (padded or cut to the TEE's field), and says what it proves.
    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        now: u64,
    ) -> Result<Verified, Rejection>;
}

impl<V: Verifier> Verifier for Arc<V> {
    fn tee(&self) -> Tee {
        V::tee(self)
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        now: u64,
    ) -> Result<Verified, Rejection> {
        V::appraise(self, evidence, report_data, now)
    }
}

/// What genuine evidence says.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The TEE's own claims, for policies.
    pub claims: Value,
    /// What is proved of the init-data, where a TEE proves any.
    pub init_data: Option<InitDataDigest>,
}

/// How evidence carries the digest of the init-data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitDataDigest {
    /// In a field that the host set before the start: padded or cut to it.
    Field(Vec<u8>),
    /// In a PCR of the SHA-256 bank that was zero and has been extended with it, and only it.
    Pcr([u8; 32]),
}

/// The verifiers of this broker.
#[derive(Debug, Default)]
pub(crate) struct Verifiers(Vec<Box<dyn Verifier>>);

impl Verifiers {
    /// Those that the settings allow; the development one only when asked for.
    pub(crate) fn configured(config: &Config, mut roots: Roots) -> Result<Self, Error> {
        let mut verifiers = Self::default();
        if let Some(path) = &config.amd_certificates {
            roots.add_amd_certificates(path)?;
        }
        if let Some(dir) = &config.snp_crl_dir {
            roots.amd.revoke(snp::Revocations(dir.clone()));
        }
        let snp = Arc::new(snp::Snp(roots.amd));
        verifiers.0.push(Box::new(azure::AzureSnp(snp.clone())));
        verifiers.0.push(Box::new(snp));
        if let Some(dir) = &config.tdx_collateral_dir {
            let tdx = Arc::new(tdx::Tdx::new(dir.clone(), roots.intel)?);
            verifiers.0.push(Box::new(azure::AzureTdx(tdx.clone())));
            verifiers.0.push(Box::new(tdx));
        }
        if !config.tpm_trusted_keys.is_empty() {
            verifiers.0.push(Box::new(tpm::Tpm::new(&config.tpm_trusted_keys)?));
        }
        if config.insecure_dev {
            verifiers.0.push(Box::new(sample::Sample));
        }
        Ok(verifiers)
    }

    /// The verifier of a TEE, if there is one.
    pub(crate) fn get(&self, tee: Tee) -> Option<&dyn Verifier> {
        self.0.iter().find(|verifier| verifier.tee() == tee).map(AsRef::as_ref)
    }
}
