//! `tpm`: a TPM 2.0's quote, signed by an attestation key (AK) that the operator has listed.
//!
//! [`verify`] proves that a TPM whose AK is trusted quoted these PCRs for this nonce and key. What
//! the PCRs should be is for the policy to say. An AK must be listed byte for byte; certificates of
//! endorsement keys are not looked at.
//!
//! Evidence is upstream's: `{"tpm_quote":{"signature","message","pcrs"},"ak_public"}`; structures
//! are those of the TPM 2.0 Library, part 2.

mod structures;
mod trust;

use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::structures::{Quote, Signature};
use self::trust::TrustedKeys;
use super::{Appraisal, Status, Verifier};
use crate::error::Error;
use crate::protocol::{ReportData, Tee};

/// Bytes of report data that a quote carries: upstream cuts it to these.
const NONCE_BYTES: usize = 32;
const PCR_BYTES: usize = 32;
/// PCRs of a bank.
const PCRS_MAX: usize = 24;
/// The PCR that upstream's guests extend with the digest of their init data.
const INIT_DATA_PCR: usize = 8;
/// Longest structure in evidence, in characters of base64.
const FIELD_CHARS_MAX: usize = 4096;

/// AR4SI "hardware": recognised and not known to be bad.
const GENUINE_HARDWARE: i8 = 2;
/// AR4SI "executables": what booted is not recognised.
const UNRECOGNIZED_EXECUTABLES: i8 = 33;

/// Why TPM evidence is refused. The names are part of the log's and the documentation's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("tpm-format: not the JSON of TPM evidence")]
    Evidence,
    #[error("tpm-trust: the list of trusted attestation keys cannot be read")]
    Trust,
    #[error("tpm-ak-unknown: the attestation key is not listed by --tpm-trusted-key")]
    KeyUnknown,
    #[error("tpm-signature-format: not a TPMT_SIGNATURE")]
    SignatureMalformed,
    #[error("tpm-signature-algorithm: not ECDSA, RSASSA or RSAPSS, fit for the key, with SHA-256")]
    SignatureUnsupported,
    #[error("tpm-signature: not the attestation key's signature")]
    SignatureWrong,
    #[error("tpm-magic: not made by a TPM")]
    Magic,
    #[error("tpm-type: an attestation of something else than PCRs")]
    Type,
    #[error("tpm-quote-format: not a TPMS_ATTEST")]
    QuoteMalformed,
    #[error("tpm-report-data: the quote is not for this nonce and key")]
    Nonce,
    #[error("tpm-pcr-selection: not a selection of PCRs 0 to 23 of the SHA-256 bank")]
    Selection,
    #[error("tpm-pcr-count: more or fewer PCRs than were quoted")]
    PcrCount,
    #[error("tpm-pcr-digest: not the PCRs that were quoted")]
    PcrDigest,
}

#[derive(Debug)]
pub(super) struct Tpm {
    trusted: Vec<PathBuf>,
}

impl Tpm {
    /// Trusts the keys in these files, whatever they hold when evidence comes. All must be usable
    /// now.
    pub(super) fn new(trusted: &[PathBuf]) -> Result<Self, Error> {
        TrustedKeys::read(trusted)?;
        Ok(Self { trusted: trusted.to_owned() })
    }
}

impl Verifier for Tpm {
    fn tee(&self) -> Tee {
        Tee::TPM
    }

    fn appraise(&self, evidence: &Value, report_data: &ReportData) -> Result<Appraisal, String> {
        let trusted = TrustedKeys::read(&self.trusted).map_err(|error| {
            tracing::error!(%error, "the list of trusted attestation keys cannot be used");
            Reason::Trust.to_string()
        })?;
        let claims = verify(evidence, report_data, &trusted).map_err(|why| why.to_string())?;
        Ok(Appraisal {
            // Genuine; but whether what booted is good, this verifier cannot know.
            status: Status::Warning,
            trustworthiness: [
                ("hardware", GENUINE_HARDWARE),
                ("executables", UNRECOGNIZED_EXECUTABLES),
            ]
            .into(),
            claims,
        })
    }
}

#[derive(Deserialize)]
struct Evidence {
    tpm_quote: TpmQuote,
    ak_public: String,
}

#[derive(Deserialize)]
struct TpmQuote {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

/// The claims of genuine evidence: those of upstream's verifier (`report_data`, `init_data`,
/// `pcr00` to `pcr23`, as far as they were quoted, all hex, and `ak_public`), the TPM's clock and
/// its firmware's version.
pub(crate) fn verify(
    evidence: &Value,
    report_data: &ReportData,
    trusted: &TrustedKeys,
) -> Result<Value, Reason> {
    let Evidence { tpm_quote, ak_public } =
        Evidence::deserialize(evidence).map_err(|_| Reason::Evidence)?;
    let message = decode(&tpm_quote.message)?;
    let signature = decode(&tpm_quote.signature)?;
    let pcrs = decode_pcrs(&tpm_quote.pcrs)?;

    let key = trusted.find(&decode(&ak_public)?).ok_or(Reason::KeyUnknown)?;
    // Nothing of the message is believed, or even parsed, before that.
    Signature::parse(&signature)?.verify(key, &message)?;

    let quote = Quote::parse(&message)?;
    if quote.extra_data != &report_data.0[..NONCE_BYTES] {
        return Err(Reason::Nonce);
    }
    let quoted: Vec<usize> = (0..PCRS_MAX).filter(|pcr| quote.pcrs & (1 << pcr) != 0).collect();
    if quoted.len() != pcrs.len() {
        return Err(Reason::PcrCount);
    }
    let mut digest = Context::new(&SHA256);
    pcrs.iter().for_each(|pcr| digest.update(pcr));
    if digest.finish().as_ref() != quote.pcr_digest {
        return Err(Reason::PcrDigest);
    }

    let mut claims = Map::new();
    for (number, value) in quoted.into_iter().zip(&pcrs) {
        claims.insert(format!("pcr{number:02}"), hex::encode(value).into());
        if number == INIT_DATA_PCR {
            claims.insert("init_data".to_owned(), hex::encode(value).into());
        }
    }
    claims.insert("report_data".to_owned(), hex::encode(quote.extra_data).into());
    claims.insert("ak_public".to_owned(), ak_public.into());
    claims.insert(
        "clock_info".to_owned(),
        json!({
            "clock": quote.clock,
            "reset_count": quote.reset_count,
            "restart_count": quote.restart_count,
            "safe": quote.safe,
        }),
    );
    // A string: JSON's numbers lose its lower bits in many a reader.
    claims.insert("firmware_version".to_owned(), format!("{:016x}", quote.firmware_version).into());
    Ok(Value::Object(claims))
}

fn decode(text: &str) -> Result<Vec<u8>, Reason> {
    if text.len() > FIELD_CHARS_MAX {
        return Err(Reason::Evidence);
    }
    STANDARD.decode(text).map_err(|_| Reason::Evidence)
}

fn decode_pcrs(texts: &[String]) -> Result<Vec<[u8; PCR_BYTES]>, Reason> {
    if texts.len() > PCRS_MAX {
        return Err(Reason::Evidence);
    }
    let decode = |text: &String| {
        let mut pcr = [0; PCR_BYTES];
        hex::decode_to_slice(text, &mut pcr).map(|()| pcr).map_err(|_| Reason::Evidence)
    };
    texts.iter().map(decode).collect()
}

#[cfg(test)]
mod tests;
