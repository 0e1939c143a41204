//! Upstream's JSON of evidence from an Azure vTPM.
//!
//! Form 0, without `version`, has lists of numbers, and the VCEK as PEM; forms 1 and 2 have hex and
//! padded base64url, and the VCEK as DER. Form 2 differs from 1 in what the runtime data must say.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde::Deserialize;
use serde_json::Value;

use super::super::tpm::{PCRS_MAX, Pcr, decode_pcrs};
use super::super::{Refused, Rejection};

/// Longest text of evidence, in characters: a TDX quote of 16 KiB in base64.
const FIELD_CHARS_MAX: usize = 22 * 1024;

/// Evidence, whichever the form.
#[derive(Debug)]
pub(super) struct Evidence {
    /// TPMS_ATTEST.
    pub(super) message: Vec<u8>,
    /// RSASSA, bare.
    pub(super) signature: Vec<u8>,
    pub(super) pcrs: Vec<Pcr>,
    pub(super) hcl_report: Vec<u8>,
    /// What the hardware's word hangs on: the VCEK (DER), or the whole TDX quote.
    pub(super) endorsement: Vec<u8>,
    /// Whether nonce and key have to be in the runtime data.
    pub(super) binds_user_data: bool,
}

#[derive(Deserialize)]
struct NumbersOfSnp {
    quote: Numbers,
    report: Vec<u8>,
    vcek: String,
}

#[derive(Deserialize)]
struct NumbersOfTdx {
    tpm_quote: Numbers,
    hcl_report: Vec<u8>,
    td_quote: Vec<u8>,
}

#[derive(Deserialize)]
struct Numbers {
    signature: Vec<u8>,
    message: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Texts {
    tpm_quote: TextsOfQuote,
    hcl_report: String,
}

#[derive(Deserialize)]
struct TextsOfQuote {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

impl Evidence {
    pub(super) fn of_snp(evidence: &Value) -> Result<Self, Rejection> {
        if let Some(found) = Self::of_texts(evidence, "vcek")? {
            return Ok(found);
        }
        let NumbersOfSnp { quote, report, vcek } =
            NumbersOfSnp::deserialize(evidence).map_err(malformed)?;
        let (label, vcek) = der::pem::decode_vec(vcek.as_bytes()).map_err(malformed)?;
        if label != "CERTIFICATE" {
            return Err(malformed("the VCEK is no certificate"));
        }
        Self::of_numbers(quote, report, vcek)
    }

    pub(super) fn of_tdx(evidence: &Value) -> Result<Self, Rejection> {
        if let Some(found) = Self::of_texts(evidence, "td_quote")? {
            return Ok(found);
        }
        let NumbersOfTdx { tpm_quote, hcl_report, td_quote } =
            NumbersOfTdx::deserialize(evidence).map_err(malformed)?;
        Self::of_numbers(tpm_quote, hcl_report, td_quote)
    }

    fn of_numbers(
        quote: Numbers,
        hcl_report: Vec<u8>,
        endorsement: Vec<u8>,
    ) -> Result<Self, Rejection> {
        let Numbers { signature, message, pcrs } = quote;
        if pcrs.len() > PCRS_MAX {
            return Err(malformed("too many PCRs"));
        }
        let pcr = |pcr: Vec<u8>| Pcr::try_from(pcr).map_err(|_| malformed("not a SHA-256 PCR"));
        let pcrs = pcrs.into_iter().map(pcr).collect::<Result<_, _>>()?;
        Ok(Self { message, signature, pcrs, hcl_report, endorsement, binds_user_data: false })
    }

    /// Forms 1 and 2; `None` if it is of neither.
    fn of_texts(evidence: &Value, endorsement: &str) -> Result<Option<Self>, Rejection> {
        let binds_user_data = match evidence.get("version") {
            None => return Ok(None),
            Some(version) if *version == 1 => false,
            Some(version) if *version == 2 => true,
            Some(version) => return Err(malformed(format!("version {version:.20}"))),
        };
        let texts = Texts::deserialize(evidence).map_err(malformed)?;
        let endorsement =
            evidence[endorsement].as_str().ok_or_else(|| malformed(format!("no {endorsement}")))?;
        let bounded = |text: &str| match text.len() {
            0..=FIELD_CHARS_MAX => Ok(()),
            _ => Err(malformed("a field is too long")),
        };
        let hex = |text: &str| {
            bounded(text)?;
            hex::decode(text).map_err(malformed)
        };
        let base64 = |text: &str| {
            bounded(text)?;
            URL_SAFE.decode(text).map_err(malformed)
        };
        Ok(Some(Self {
            message: hex(&texts.tpm_quote.message)?,
            signature: hex(&texts.tpm_quote.signature)?,
            pcrs: decode_pcrs(&texts.tpm_quote.pcrs).map_err(malformed)?,
            hcl_report: base64(&texts.hcl_report)?,
            endorsement: base64(endorsement)?,
            binds_user_data,
        }))
    }
}

fn malformed(why: impl std::fmt::Display) -> Rejection {
    Refused::AzureFormat.because(why)
}
