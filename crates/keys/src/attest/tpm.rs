//! [`Tpm`]: a TPM 2.0's quote over its PCRs, signed with an attestation key (AK) that lives in it.
//!
//! A quote proves which TPM spoke, and what the machine measured while it booted. It proves nothing
//! of encrypted memory: whether the TPM is worth anything depends on who runs it (a cloud's vTPM is
//! its hypervisor's word). The verifier has to know the AK beforehand; [`Tpm::create_key`] makes
//! it.
//!
//! The evidence is upstream's: `{"tpm_quote":{"signature","message","pcrs"},"ak_public"}`, with a
//! TPMT_SIGNATURE, a TPMS_ATTEST and a SubjectPublicKeyInfo in base64 and the quoted PCRs in hex,
//! ascending. [`commands`] has the commands, [`device`] how they travel.

mod commands;
mod device;
mod key;
mod nv;
mod pcrs;
mod reader;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use self::commands::Quote;
use self::device::Device;
use super::Attester;
use crate::Error;

pub use key::AttestationKey;
pub use pcrs::Pcrs;

/// Bytes of report data that a quote carries (`qualifyingData`): upstream cuts it to these.
const NONCE_BYTES: usize = 32;
/// How often a quote is made anew because a PCR was extended between it and the reading of PCRs.
const QUOTES_MAX: usize = 5;

/// The TPM to attest with.
#[derive(Debug, Clone)]
pub struct Tpm {
    /// `/dev/tpmrm0`, the kernel's resource manager; or the unix socket of a software TPM.
    pub device: PathBuf,
    /// The AK's persistent handle.
    pub key_handle: u32,
    /// What is quoted, in the SHA-256 bank.
    pub pcrs: Pcrs,
    /// Longest wait for the answer to one command.
    pub timeout: Duration,
}

impl Default for Tpm {
    /// The kernel's first TPM, and the handle and PCRs that upstream's attester uses.
    fn default() -> Self {
        Self {
            device: "/dev/tpmrm0".into(),
            key_handle: 0x8101_0002,
            pcrs: Pcrs::ALL,
            timeout: Duration::from_secs(30),
        }
    }
}

/// What went wrong with a TPM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// No such device, no permission, or the connection broke.
    #[error("{} cannot be used", device.display())]
    Device {
        /// Where the TPM should be.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TPM does not answer in time.
    #[error("the TPM did not answer {command} within {} ms", after.as_millis())]
    Timeout {
        /// The command, by the specification's name.
        command: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// An answer that breaks the specification.
    #[error("the TPM's answer to {command} is malformed: {why}")]
    Malformed {
        /// The command.
        command: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A response code that is not success.
    #[error("the TPM refuses {command}: response code {code:#05x}{}", commands::meaning(*code))]
    Refused {
        /// The command.
        command: &'static str,
        /// TPM_RC.
        code: u32,
    },
    /// No key at the handle.
    #[error("the TPM has no key at {0:#010x}: make one with `sealift attest tpm-key`")]
    NoKey(u32),
    /// No such NV index.
    #[error("the TPM has nothing at the NV index {0:#010x}")]
    NoIndex(u32),
    /// The handle for a new key has something already.
    #[error("the TPM has an object at {0:#010x} already, which is not replaced")]
    Occupied(u32),
    /// A key that cannot, or should not, sign quotes.
    #[error("the key at {handle:#010x} is no attestation key: {why}")]
    NotAttestationKey {
        /// Its handle.
        handle: u32,
        /// What it lacks.
        why: &'static str,
    },
    /// The PCRs do not hold still.
    #[error("a PCR was extended during each of {QUOTES_MAX} quotes: quote fewer PCRs")]
    Unstable,
}

impl Attester for Tpm {
    fn tee(&self) -> &'static str {
        "tpm"
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        let mut nonce = report_data.to_vec();
        nonce.resize(NONCE_BYTES, 0);
        let (quote, key) = self
            .quote(&nonce)
            .map_err(|fault| Error::Evidence { tee: "tpm", source: fault.into() })?;
        Ok(json!({
            "tpm_quote": {
                "signature": STANDARD.encode(quote.signature),
                "message": STANDARD.encode(quote.message),
                "pcrs": quote.pcrs,
            },
            "ak_public": STANDARD.encode(key.spki()),
        }))
    }
}

impl Tpm {
    /// The AK's public half.
    pub fn key(&self) -> Result<AttestationKey, TpmError> {
        self.open().attestation_key(self.key_handle)
    }

    /// Makes an AK and keeps it at the handle: a restricted signing key, ECC P-256 with ECDSA and
    /// SHA-256, a primary key of the owner hierarchy, whose authorisation must be empty. Nothing is
    /// overwritten, and nothing else is left in the TPM. The key follows from the TPM's owner seed:
    /// it is the same each time until the TPM is cleared.
    pub fn create_key(&self) -> Result<AttestationKey, TpmError> {
        let mut tpm = self.open();
        if tpm.is_occupied(self.key_handle)? {
            return Err(TpmError::Occupied(self.key_handle));
        }
        tpm.create_attestation_key(self.key_handle)?;
        tpm.attestation_key(self.key_handle)
    }

    fn open(&self) -> Device {
        Device::new(self.device.clone(), self.timeout)
    }

    /// A quote and the AK that signed it.
    pub(super) fn quote(&self, nonce: &[u8]) -> Result<(Quoted, AttestationKey), TpmError> {
        let mut tpm = self.open();
        let key = tpm.attestation_key(self.key_handle)?;
        for _ in 0..QUOTES_MAX {
            let Quote { message, signature } = tpm.quote(self.key_handle, nonce, self.pcrs)?;
            let values = tpm.read_pcrs(self.pcrs)?;
            // TPMS_ATTEST ends with the digest of the quoted PCRs. If it is not that of what was
            // read since, a PCR was extended in between (the kernel's IMA does, any time).
            let mut digest = Context::new(&SHA256);
            values.iter().for_each(|value| digest.update(value));
            if message.ends_with(digest.finish().as_ref()) {
                let pcrs = values.iter().map(|value| hex(value)).collect();
                return Ok((Quoted { message, signature, pcrs }, key));
            }
        }
        Err(TpmError::Unstable)
    }

    /// All of an NV index, which the owner may read with the empty password.
    pub(super) fn read_index(&self, index: u32) -> Result<Vec<u8>, TpmError> {
        self.open().read_index(index)
    }
}

/// PCRs that did not change while they were quoted.
pub(super) struct Quoted {
    /// TPMS_ATTEST.
    pub(super) message: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub(super) signature: Vec<u8>,
    /// In hex, ascending.
    pub(super) pcrs: Vec<String>,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
