//! The `sample` TEE.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Attester;
use crate::Error;

/// The `sample` TEE: evidence that anybody can write. For development, against a broker that was
/// told to accept it.
#[derive(Debug, Clone, Copy)]
pub struct SampleAttester;

impl Attester for SampleAttester {
    fn tee(&self) -> &'static str {
        "sample"
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        tracing::warn!("attesting as the sample TEE, which proves nothing");
        Ok(json!({"svn": "1", "report_data": STANDARD.encode(report_data)}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_evidence_carries_the_report_data_unpadded() {
        let evidence = SampleAttester.evidence(&[0xff; 48]).unwrap();
        assert_eq!(evidence, json!({"svn": "1", "report_data": "/".repeat(64)}));
    }
}
