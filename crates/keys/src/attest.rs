//! [`Attester`]: who this machine is, in a form that a verifier can check.
//!
//! Evidence has the JSON form of upstream's attesters, one per TEE, so that Trustee's verifiers and
//! our broker's read the same.

mod azure;
mod sample;
mod tpm;
mod tsm;

use serde_json::Value;

use crate::Error;

pub use azure::{AzureTee, AzureVtpm, AzureVtpmError};
pub use sample::SampleAttester;
pub use tpm::{AttestationKey, Pcrs, Tpm, TpmError};
pub use tsm::{Tsm, TsmError};

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
