//! [`Attester`]: who this machine is, in a form that a verifier can check.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Error;

/// Produces evidence of one kind of trusted execution environment.
///
/// Which attester runs is configuration. There is no detection and no fallback: upstream's falls
/// back to `sample` when it finds no hardware, and a guest that attests as nothing in particular
/// should fail instead.
pub trait Attester: Send + Sync {
    /// The TEE's name in the KBS protocol: `snp`, `tdx`, `tpm`, `sample`, …
    fn tee(&self) -> &'static str;

    /// Evidence over `report_data` (48 bytes, SHA-384; padded or cut to the hardware's field by the
    /// implementation) in the JSON form that verifiers of this TEE read. May block.
    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error>;
}

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
