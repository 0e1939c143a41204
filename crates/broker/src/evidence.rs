//! Verifiers of evidence: one for each TEE, none by default.

mod sample;
mod tpm;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::error::Error;
use crate::protocol::{ReportData, Tee};

/// Verifies the evidence of one kind of TEE.
///
/// There is no fallback: a TEE without a verifier is refused.
pub trait Verifier: Send + Sync + std::fmt::Debug {
    /// The TEE whose evidence it reads.
    fn tee(&self) -> Tee;
    /// Checks that the evidence is genuine and carries `report_data` (padded or cut to the TEE's
    /// field), and says what it proves. An error is for the log, not for the client.
    fn appraise(&self, evidence: &Value, report_data: &ReportData) -> Result<Appraisal, String>;
}

/// What evidence proves, in the terms of EAR (draft-ietf-rats-ear) and AR4SI.
#[derive(Debug, Clone, Serialize)]
pub struct Appraisal {
    /// The overall verdict.
    pub status: Status,
    /// AR4SI's trustworthiness vector, by claim name.
    pub trustworthiness: BTreeMap<&'static str, i8>,
    /// The TEE's own claims, for policies.
    pub claims: Value,
}

/// EAR's trustworthiness tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Genuine and as expected.
    Affirming,
    /// Genuine, with known weaknesses.
    Warning,
    /// Proves nothing, or something bad.
    Contraindicated,
}

/// The verifiers of this broker.
#[derive(Debug, Default)]
pub(crate) struct Verifiers(Vec<Box<dyn Verifier>>);

impl Verifiers {
    /// Those that the configuration asks for.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let mut verifiers = Self::default();
        if config.insecure_dev {
            verifiers.0.push(Box::new(sample::Sample));
        }
        if !config.tpm_trusted_keys.is_empty() {
            verifiers.0.push(Box::new(tpm::Tpm::new(&config.tpm_trusted_keys)?));
        }
        Ok(verifiers)
    }

    /// The verifier of a TEE, if there is one.
    pub(crate) fn get(&self, tee: Tee) -> Option<&dyn Verifier> {
        self.0.iter().find(|verifier| verifier.tee() == tee).map(AsRef::as_ref)
    }
}
