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

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::structures::{Quote, Signature};
use self::trust::TrustedKeys;
use super::{Refused, Rejection, Verified, Verifier};
use crate::error::Error;
use crate::protocol::{ReportData, Tee};
use crate::watched::Watched;

/// Bytes of report data that a quote carries: upstream cuts it to these.
const NONCE_BYTES: usize = 32;
const PCR_BYTES: usize = 32;
/// A PCR of the SHA-256 bank.
pub(super) type Pcr = [u8; PCR_BYTES];
/// PCRs of a bank.
pub(super) const PCRS_MAX: usize = 24;
/// The PCR that upstream's guests extend with the digest of their init data.
pub(super) const INIT_DATA_PCR: usize = 8;
/// Longest structure in evidence, in characters of base64.
const FIELD_CHARS_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Tpm {
    trusted: Vec<Watched<TrustedKeys>>,
}

impl Tpm {
    /// Trusts the keys in these files, whatever they hold when evidence comes. All must be usable
    /// now.
    pub(super) fn new(trusted: &[PathBuf]) -> Result<Self, Error> {
        let tpm = Self { trusted: trusted.iter().cloned().map(Watched::new).collect() };
        tpm.trusted()?;
        Ok(tpm)
    }

    fn trusted(&self) -> Result<Vec<Arc<TrustedKeys>>, Error> {
        self.trusted.iter().map(|file| file.current(TrustedKeys::read)).collect()
    }
}

impl Verifier for Tpm {
    fn tee(&self) -> Tee {
        Tee::TPM
    }

    fn appraise(
        &self,
        evidence: &Value,
        report_data: &ReportData,
        _now: u64,
    ) -> Result<Verified, Rejection> {
        let trusted = self.trusted().map_err(|error| Refused::TpmTrust.because(&error))?;
        Ok(Verified { claims: verify(evidence, report_data, &trusted)?, init_data: None })
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
    trusted: &[Arc<TrustedKeys>],
) -> Result<Value, Refused> {
    let Evidence { tpm_quote, ak_public } =
        Evidence::deserialize(evidence).map_err(|_| Refused::TpmFormat)?;
    let message = decode(&tpm_quote.message)?;
    let signature = decode(&tpm_quote.signature)?;
    let pcrs = decode_pcrs(&tpm_quote.pcrs)?;

    let ak = decode(&ak_public)?;
    let key = trusted.iter().find_map(|keys| keys.find(&ak)).ok_or(Refused::TpmAkUnknown)?;
    // Nothing of the message is believed, or even parsed, before that.
    Signature::parse(&signature)?.verify(key, &message)?;

    let (quote, pcrs) = quoted(&message, &report_data.0[..NONCE_BYTES], &pcrs)?;
    let mut claims = pcr_claims(&pcrs);
    if let Some(value) = pcrs.get(&INIT_DATA_PCR) {
        claims.insert("init_data".to_owned(), hex::encode(value).into());
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

/// Reads a quote whose signature was verified: it has to be for `nonce`, and of these PCRs, whose
/// numbers it gives.
pub(super) fn quoted<'a>(
    message: &'a [u8],
    nonce: &[u8],
    pcrs: &[Pcr],
) -> Result<(Quote<'a>, BTreeMap<usize, Pcr>), Refused> {
    let quote = Quote::parse(message)?;
    if quote.extra_data != nonce {
        return Err(Refused::TpmReportData);
    }
    let numbers: Vec<usize> = (0..PCRS_MAX).filter(|pcr| quote.pcrs & (1 << pcr) != 0).collect();
    if numbers.len() != pcrs.len() {
        return Err(Refused::TpmPcrCount);
    }
    let mut digest = Context::new(&SHA256);
    pcrs.iter().for_each(|pcr| digest.update(pcr));
    if digest.finish().as_ref() != quote.pcr_digest {
        return Err(Refused::TpmPcrDigest);
    }
    Ok((quote, numbers.into_iter().zip(pcrs.iter().copied()).collect()))
}

/// `pcr00` to `pcr23`, hex.
pub(super) fn pcr_claims(pcrs: &BTreeMap<usize, Pcr>) -> Map<String, Value> {
    let claim = |(number, value): (&usize, &Pcr)| {
        (format!("pcr{number:02}"), Value::String(hex::encode(value)))
    };
    pcrs.iter().map(claim).collect()
}

fn decode(text: &str) -> Result<Vec<u8>, Refused> {
    if text.len() > FIELD_CHARS_MAX {
        return Err(Refused::TpmFormat);
    }
    STANDARD.decode(text).map_err(|_| Refused::TpmFormat)
}

pub(super) fn decode_pcrs(texts: &[String]) -> Result<Vec<Pcr>, Refused> {
    if texts.len() > PCRS_MAX {
        return Err(Refused::TpmFormat);
    }
    let decode = |text: &String| {
        let mut pcr = [0; PCR_BYTES];
        hex::decode_to_slice(text, &mut pcr).map(|()| pcr).map_err(|_| Refused::TpmFormat)
    };
    texts.iter().map(decode).collect()
}

#[cfg(test)]
mod tests;
