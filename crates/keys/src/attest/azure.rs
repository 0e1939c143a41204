//! [`AzureVtpm`]: a confidential machine on Azure, whose paravisor keeps the hardware's report in the
//! vTPM that it gives to the machine.
//!
//! ```text
//! vTPM, NV index 0x01400001   the paravisor's report: names the AK, and has the hardware's inside
//! vTPM, handle 0x81000003     the AK, which quotes the PCRs for nonce and key
//! metadata service            SNP: the VCEK's certificate, GET /metadata/THIM/amd/certification
//!                             TDX: a quote for the report, POST /acc/tdquote
//! ```
//!
//! The evidence is upstream's, form 1: nonce and key are in the vTPM's quote alone, and the
//! hardware's report is that of the boot. Nothing of it is secret, and who answers as the metadata
//! service can do no more than fail: the verifier believes AMD's and Intel's signatures. **Not run on
//! Azure yet**: tested against a software TPM with that index and handle, and a stand-in for the
//! metadata service.

use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::Attester;
use super::tpm::{Tpm, TpmError, hex};
use crate::Error;
use crate::http::{Endpoint, HttpSettings};

/// NV index of the paravisor's report.
const REPORT_INDEX: u32 = 0x0140_0001;
/// Where the hardware's report begins in it.
const HARDWARE_AT: usize = 32;
/// TDREPORT.
const TDREPORT_BYTES: usize = 1024;
/// TPMT_SIGNATURE of an RSASSA signature with SHA-256, before its length.
const RSASSA_SHA256: &[u8] = &[0, 0x14, 0, 0x0b];
/// Limit on one request to the metadata service.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of the metadata service: certificates of some 6 KiB, a quote of some 10.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Which TEE a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureTee {
    /// AMD SEV-SNP: `az-snp-vtpm`.
    Snp,
    /// Intel TDX: `az-tdx-vtpm`.
    Tdx,
}

/// Attests with Azure's vTPM.
#[derive(Debug)]
pub struct AzureVtpm {
    tee: AzureTee,
    tpm: Tpm,
    metadata: Endpoint,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AzureVtpmError {
    /// The vTPM does not do its part.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The vTPM has no report of a paravisor.
    #[error(
        "the TPM has nothing at the NV index {REPORT_INDEX:#010x}: this is no confidential \
             machine of Azure, or one without a paravisor"
    )]
    NoReport,
    /// A report that is none of this TEE.
    #[error("the paravisor's report is unusable: {0}")]
    Report(&'static str),
    /// The AK signs otherwise than Azure's.
    #[error("the attestation key at {0:#010x} does not sign with RSASSA and SHA-256")]
    Signature(u32),
    /// The metadata service did not give what is needed.
    #[error("the metadata service gave no {what}")]
    Metadata {
        /// `VCEK certificate` or `TDX quote`.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<Error>,
    },
}

impl AzureVtpm {
    /// The metadata service, where every machine on Azure has it.
    pub const METADATA: &'static str = "http://169.254.169.254";
    /// The AK's persistent handle.
    pub const KEY_HANDLE: u32 = 0x8100_0003;

    /// Attests as a `tee` with the vTPM and the metadata service at `metadata` ([`Self::METADATA`]).
    ///
    /// # Errors
    /// [`Error::Usage`] if that is no address.
    pub fn new(tee: AzureTee, tpm: Tpm, metadata: &str) -> Result<Self, Error> {
        // A link-local address without TLS: what it says is checked by the verifier.
        let settings = HttpSettings { timeout: TIMEOUT, insecure_dev: true, ..Default::default() };
        Ok(Self { tee, tpm, metadata: Endpoint::new(metadata, &settings)? })
    }

    fn collect(&self, report_data: &[u8]) -> Result<Value, AzureVtpmError> {
        let report = self.tpm.read_index(REPORT_INDEX).map_err(|error| match error {
            TpmError::NoIndex(_) => AzureVtpmError::NoReport,
            other => other.into(),
        })?;
        let (name, endorsement) = match self.tee {
            AzureTee::Snp => ("vcek", self.vcek()?),
            AzureTee::Tdx => ("td_quote", self.td_quote(&report)?),
        };
        let (quote, _) = self.tpm.quote(report_data)?;
        let signature = quote
            .signature
            .strip_prefix(RSASSA_SHA256)
            .and_then(|sized| sized.split_first_chunk())
            .filter(|(length, bare)| usize::from(u16::from_be_bytes(**length)) == bare.len())
            .map(|(_, bare)| bare)
            .ok_or(AzureVtpmError::Signature(self.tpm.key_handle))?;
        Ok(json!({
            "version": 1,
            "tpm_quote": {
                "signature": hex(signature), "message": hex(&quote.message), "pcrs": quote.pcrs,
            },
            "hcl_report": URL_SAFE.encode(report),
            name: URL_SAFE.encode(endorsement),
        }))
    }

    /// DER.
    fn vcek(&self) -> Result<Vec<u8>, AzureVtpmError> {
        let request = self.metadata.get("/metadata/THIM/amd/certification");
        self.ask("VCEK certificate", request.header("Metadata", "true"), |answer| {
            let pem = answer["vcekCert"].as_str()?;
            let body = pem.trim().strip_prefix("-----BEGIN CERTIFICATE-----")?;
            let body = body.strip_suffix("-----END CERTIFICATE-----")?;
            STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
        })
    }

    /// By Intel's quoting enclave on the host.
    fn td_quote(&self, report: &[u8]) -> Result<Vec<u8>, AzureVtpmError> {
        let td_report = report
            .get(HARDWARE_AT..HARDWARE_AT + TDREPORT_BYTES)
            .ok_or(AzureVtpmError::Report("it is shorter than a TDREPORT"))?;
        let body = json!({ "report": URL_SAFE_NO_PAD.encode(td_report) });
        let request = self.metadata.post("/acc/tdquote").header("Content-Type", "application/json");
        self.ask("TDX quote", request.body(body.to_string()), |answer| {
            URL_SAFE_NO_PAD.decode(answer["quote"].as_str()?.trim_end_matches('=')).ok()
        })
    }

    /// Sends a request to the metadata service and picks from its JSON. Waits in a thread of its own,
    /// since whoever calls may or may not be in a runtime.
    fn ask(
        &self,
        what: &'static str,
        request: RequestBuilder,
        pick: impl Fn(&Value) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, AzureVtpmError> {
        let endpoint = self.metadata.name();
        let failed = |why: &str| Error::protocol(endpoint, why);
        let exchange = async {
            let response = self.metadata.send(request).await?;
            let status = response.status();
            if !status.is_success() {
                return Err(failed(&format!("status {status}")));
            }
            self.metadata.body(response, ANSWER_BYTES_MAX).await
        };
        let answered = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build();
                runtime.map_err(|_| failed("no runtime to wait in"))?.block_on(exchange)
            });
            waiting.join().unwrap_or_else(|_| Err(failed("waiting for it failed")))
        });
        answered
            .and_then(|body| {
                let answer = serde_json::from_slice(&body).ok();
                answer
                    .and_then(|answer| pick(&answer))
                    .ok_or_else(|| failed("not the JSON expected"))
            })
            .map_err(|source| AzureVtpmError::Metadata { what, source: source.into() })
    }
}

impl Attester for AzureVtpm {
    fn tee(&self) -> &'static str {
        match self.tee {
            AzureTee::Snp => "az-snp-vtpm",
            AzureTee::Tdx => "az-tdx-vtpm",
        }
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        let failed =
            |fault: AzureVtpmError| Error::Evidence { tee: self.tee(), source: fault.into() };
        self.collect(report_data).map_err(failed)
    }
}
