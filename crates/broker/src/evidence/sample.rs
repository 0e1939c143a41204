//! `sample`: evidence that anyone can write. For laptops and tests, behind `--insecure-dev`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Refused, Rejection, Verified, Verifier};
use crate::protocol::{ReportData, Tee};

const SVN_CHARS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Sample;

#[derive(Deserialize)]
struct Evidence {
    svn: String,
    report_data: String,
}

impl Verifier for Sample {
    fn tee(&self) -> Tee {
        Tee::SAMPLE
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        _now: u64,
    ) -> Result<Verified, Rejection> {
        let malformed = |error: &dyn std::fmt::Display| Refused::SampleFormat.because(error);
        let evidence = Evidence::deserialize(evidence).map_err(|error| malformed(&error))?;
        let found = STANDARD.decode(&evidence.report_data).map_err(|error| malformed(&error))?;
        if found != report_data.0 {
            return Err(Refused::SampleReportData.into());
        }
        if evidence.svn.len() > SVN_CHARS_MAX {
            return Err(malformed(&"svn is too long"));
        }
        Ok(Verified { claims: json!({ "svn": evidence.svn }), init_data: None })
    }
}
