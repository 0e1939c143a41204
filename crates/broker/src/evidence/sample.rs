//! `sample`: evidence that anyone can write. For laptops and tests, behind `--insecure-dev`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Appraisal, Status, Verifier};
use crate::protocol::{ReportData, Tee};

/// AR4SI "hardware": the verifier does not recognise it.
const UNRECOGNIZED_HARDWARE: i8 = 97;

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

    fn appraise(&self, evidence: &Value, report_data: &ReportData) -> Result<Appraisal, String> {
        let evidence = Evidence::deserialize(evidence).map_err(|error| error.to_string())?;
        let found = STANDARD.decode(&evidence.report_data).map_err(|error| error.to_string())?;
        if found != report_data.0 {
            return Err("the evidence is not for this nonce and key".to_owned());
        }
        if evidence.svn.len() > 16 {
            return Err("svn is too long".to_owned());
        }
        Ok(Appraisal {
            // Never better: upstream's `affirming` policy must refuse it.
            status: Status::Contraindicated,
            trustworthiness: [("hardware", UNRECOGNIZED_HARDWARE)].into(),
            claims: json!({ "svn": evidence.svn }),
        })
    }
}
