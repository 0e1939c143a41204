//! Verifiers of evidence: one for each TEE. What they prove is judged by the attestation policy
//! (`appraisal`), not here.

mod refused;
mod roots;
mod sample;
mod snp;
mod tdx;
mod tpm;
#[cfg(test)]
#[path = "../tests/common/vectors.rs"]
mod vectors;

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

/// What genuine evidence says.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The TEE's own claims, for policies.
    pub claims: Value,
    /// The field that the host set before the start, where a TEE has one: the padded or cut digest
    /// of the init-data.
    pub init_data: Option<Vec<u8>>,
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
        verifiers.0.push(Box::new(snp::Snp(roots.amd)));
        if let Some(dir) = &config.tdx_collateral_dir {
            verifiers.0.push(Box::new(tdx::Tdx::new(dir.clone(), roots.intel)?));
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
